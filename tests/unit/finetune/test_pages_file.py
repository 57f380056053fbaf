# SPDX-License-Identifier: Apache-2.0
"""Pages in a real file: private, reserved, past the page cache, and nothing that was damaged comes back."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from finetune.errors import CryptographyMissing, PageCorrupted, PageFailed, PageStoreFailed, PageStoreFull
from finetune.pages import open_pages
from finetune.paging import nameless
from finetune.paging.disk import FileDisk, move_all, open_disk
from finetune.paging.page_file import PIECE_BYTES, layout

MB = 1 << 20


def content(size: int, seed: int = 0) -> torch.UntypedStorage:
    made = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return made.untyped_storage()


def same(left: torch.UntypedStorage, right: torch.UntypedStorage) -> bool:
    one, two = (torch.empty(0, dtype=torch.uint8).set_(storage) for storage in (left, right))
    return torch.equal(one, two)


def open_files(folder: Path) -> list[Path]:
    """The descriptors of this process that are open on files of a folder, named or not."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).startswith(f"{folder}/"):
                found.append(link)
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sealed", [False, True])
def test_every_flipped_bit_is_found(tmp_path: Path, sealed: bool) -> None:
    """500 single bits anywhere in what is stored, each reported by storage and piece, and none afterwards."""
    sizes = {2: 9000, 5: 4096, 8: 4096 * 3 + 1}
    offsets, _ = layout(sizes)
    pages = open_pages(tmp_path, sizes, sealed=sealed)
    for number, size in sizes.items():
        pages.write(number, content(size, number))
        pages.wait(number)
    (link,) = open_files(tmp_path)
    descriptor = os.open(link, os.O_RDWR)
    choose = random.Random(1)
    landing = torch.UntypedStorage(0)
    for _ in range(500):
        number = choose.choice(list(sizes))
        place = offsets[number] + choose.randrange(sizes[number])
        (byte,) = os.pread(descriptor, 1, place)
        os.pwrite(descriptor, bytes([byte ^ 1 << choose.randrange(8)]), place)
        pages.read(number, landing)
        with pytest.raises(PageCorrupted) as corrupted:
            pages.wait(number)
        assert corrupted.value.number == number
        os.pwrite(descriptor, bytes([byte]), place)
        pages.read(number, landing)
        pages.wait(number)
        assert same(landing, content(sizes[number], number))
    os.close(descriptor)
    pages.close()


@pytest.mark.parametrize("sealed", [False, True])
def test_pieces_that_changed_places_are_found(tmp_path: Path, sealed: bool) -> None:
    """Whole pieces, each intact, in each other's place; the error says where the first one lies."""
    pages = open_pages(tmp_path, {0: 3 * PIECE_BYTES}, sealed=sealed)
    pages.write(0, content(3 * PIECE_BYTES))
    pages.wait(0)
    (link,) = open_files(tmp_path)
    descriptor = os.open(link, os.O_RDWR)
    second, third = (os.pread(descriptor, PIECE_BYTES, place * PIECE_BYTES) for place in (1, 2))
    os.pwrite(descriptor, third + second, PIECE_BYTES)
    pages.read(0, torch.UntypedStorage(0))
    with pytest.raises(PageCorrupted) as corrupted:
        pages.wait(0)
    assert corrupted.value.offset == PIECE_BYTES
    os.close(descriptor)
    pages.close()


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_sealed_cannot_be_read_on_storage(tmp_path: Path, sealed: bool) -> None:
    """No 16 bytes of the content are in the file, and the same content never looks the same twice."""
    memory = content(64 * 1024)
    plain = bytes(memory)
    pages = open_pages(tmp_path, {0: len(plain)}, sealed=sealed)
    (link,) = open_files(tmp_path)
    seen = []
    for _ in range(2):
        pages.write(0, memory)
        pages.wait(0)
        seen.append(link.read_bytes())
    pages.close()
    found = any(plain[place : place + 16] in stored for stored in seen for place in range(0, len(plain), 4096))
    assert found is not sealed
    assert (seen[0] == seen[1]) is not sealed


def test_the_file_is_nameless_private_and_has_its_room(tmp_path: Path) -> None:
    """Nobody else can open it, its blocks are taken before the first step, and closing gives them back."""
    pages = open_pages(tmp_path, {0: 3 * MB, 1: 5})
    (link,) = open_files(tmp_path)
    state = link.stat()
    assert list(tmp_path.iterdir()) == []
    assert state.st_nlink == 0
    assert state.st_mode & 0o777 == 0o600
    assert state.st_size == 3 * MB + 4096
    assert state.st_blocks * 512 >= state.st_size
    pages.close()
    assert open_files(tmp_path) == []


def test_a_folder_without_room_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """With how much was wanted and why; the file is closed again. So is one over the quota, and a missing folder."""
    with largest_file(MB), pytest.raises(PageStoreFull, match="File too large") as full:
        open_pages(tmp_path, {0: MB, 1: 1})
    assert full.value.where == str(tmp_path)
    assert full.value.wanted_bytes == MB + 4096
    with largest_file(0), pytest.raises(PageStoreFull):  # not even the first block
        open_pages(tmp_path, {0: 1})
    with pytest.raises(PageStoreFull, match="bytes are free"):
        open_pages(tmp_path, {0: 1 << 60})
    with pytest.raises(PageStoreFull, match="the quota is 9999 bytes"):
        open_pages(tmp_path, {0: 5000, 1: 5000}, quota_bytes=9999)
    assert open_files(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        open_pages(tmp_path / "none", {0: 1})
    open_pages(tmp_path, {0: 5000, 1: 5000}, quota_bytes=10_000).close()
    open_pages(tmp_path, {}).close()


def test_room_that_is_withdrawn_in_the_middle_reaches_the_waiter(tmp_path: Path) -> None:
    """A limit set after the room was taken, as a user's quota may be: that storage fails, others go on."""
    pages = open_pages(tmp_path, {0: MB, 1: MB})
    memory = content(MB)
    with largest_file(MB):
        pages.write(1, memory)
        with pytest.raises(PageStoreFull, match="File too large"):
            pages.wait(1)
        pages.write(0, memory)
        pages.wait(0)
    landing = torch.UntypedStorage(0)
    pages.read(0, landing)
    pages.wait(0)
    assert same(landing, memory)
    pages.close()


def test_a_file_cut_short_by_somebody_is_an_error(tmp_path: Path) -> None:
    """Less than a storage comes back: no loop without end, no zeros."""
    pages = open_pages(tmp_path, {0: MB})
    pages.write(0, content(MB))
    pages.wait(0)
    (link,) = open_files(tmp_path)
    os.truncate(link, MB // 2)
    pages.read(0, torch.UntypedStorage(0))
    with pytest.raises(PageFailed, match="524288 of 1048576 bytes were moved, and then no more"):
        pages.wait(0)
    pages.close()


@pytest.mark.parametrize("direct", [True, False])
def test_pages_do_not_stay_in_the_page_cache(direct: bool) -> None:
    """That cache is the memory that was to be freed; with O_DIRECT and without. /var/tmp lies on a disk everywhere."""
    descriptor = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR | (os.O_DIRECT if direct else 0), 0o600)  # noqa: S108
    disk = FileDisk(descriptor, direct)
    with mmap.mmap(-1, MB) as buffer:
        buffer.write(random.Random(2).randbytes(MB))
        for call in (disk.write, disk.read):
            with memoryview(buffer) as piece:
                move_all(call, piece, 0)
            assert cached_pages(descriptor, MB) == 0
    disk.close()


def cached_pages(descriptor: int, size_bytes: int) -> int:
    """How many pages of a file are in RAM (mincore(2))."""
    with mmap.mmap(descriptor, size_bytes) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        states = (ctypes.c_ubyte * (size_bytes // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size_bytes), states) == 0
        del start
        return sum(state & 1 for state in states)


def test_the_meter_of_cached_pages_sees_them(tmp_path: Path) -> None:
    """A file written the usual way is in the cache."""
    path = tmp_path / "usual"
    path.write_bytes(bytes(MB))
    with path.open("r+b") as file:
        assert cached_pages(file.fileno(), MB) == MB // mmap.PAGESIZE


def test_a_file_system_that_refuses_direct_transfers_still_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at opening or with the first block (both happen): a usual file is taken, and said so."""
    real_open, real_pwrite = os.open, os.pwrite

    def no_direct(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *rest)  # type: ignore[call-overload, no-any-return]

    def no_blocks(descriptor: int, content: bytes, offset: int) -> int:
        if len(content) == nameless.BLOCK_BYTES:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_pwrite(descriptor, content, offset)

    for name, refusing in (("open", no_direct), ("pwrite", no_blocks)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refusing)
            descriptor, direct = nameless.open_nameless(tmp_path)
        assert not direct
        os.close(descriptor)
    assert open_files(tmp_path) == []


def test_a_file_system_that_cannot_reserve_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is written once, so that its room is really there."""

    def cannot(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    disk = open_disk(tmp_path, 3 * MB + 4096)
    state = os.fstat(disk.descriptor)
    assert (state.st_size, state.st_blocks * 512 >= state.st_size) == (3 * MB + 4096, True)
    disk.close()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_storage_that_fails_when_room_is_kept_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An error of pages, that says where; no file stays open."""

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(PageStoreFailed, match=r"could not keep room for \d+ bytes of pages: Input") as failed:
            open_pages(tmp_path, {0: MB})
    assert (failed.value.where, failed.value.wanted_bytes >= MB) == (str(tmp_path), True)
    assert open_files(tmp_path) == []


def test_names_left_by_the_dead_are_swept(tmp_path: Path) -> None:
    """And no others: a live process may be just about to unlink its own."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f"{nameless.PREFIX}{dead.pid}-0123456789abcdef"
    alive = tmp_path / f"{nameless.PREFIX}{os.getpid()}-0123456789abcdef"
    foreign = tmp_path / f"{nameless.PREFIX}notes"
    for path in (left, alive, foreign):
        path.touch()
    open_pages(tmp_path, {0: 1}).close()
    assert sorted(tmp_path.iterdir()) == sorted([alive, foreign])


def test_without_nameless_files_the_name_is_gone_at_once(tmp_path: Path) -> None:
    """Private from the start, never written under a name, and no link of somebody else is followed."""
    path = tmp_path / "page"
    descriptor = nameless.open_and_unlink(path, os.O_RDWR | os.O_EXCL)
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    os.close(descriptor)


def test_sealing_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error names what to install, no file is opened, and checked pages work."""
    monkeypatch.delitem(sys.modules, "finetune.paging.sealed", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(CryptographyMissing, match=r"\[sealed\]"):
        open_pages(tmp_path, {0: 1}, sealed=True)
    assert open_files(tmp_path) == []
    open_pages(tmp_path, {0: 1}).close()
