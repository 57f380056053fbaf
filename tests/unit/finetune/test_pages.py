# SPDX-License-Identifier: Apache-2.0
"""What holds for pages wherever they lie: in memory, in a file, in a sealed file."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.errors import PageCorrupted, PageFailed, PageStoreFull
from finetune.pages import MemoryPages, Pages, open_pages
from finetune.paging.page_file import PIECE_BYTES

SIZES = {0: 17, 3: PIECE_BYTES, 4: PIECE_BYTES + 1, 7: 0, 9: 4096, 12: 100_001}
DEADLINE_S = 30.0


@pytest.fixture(params=["memory", "file", "sealed"])
def pages(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pages]:
    """Each kind with room for `SIZES`; what begun transfers met is of no concern at the end."""
    sealed = request.param == "sealed"
    made = MemoryPages(SIZES) if request.param == "memory" else open_pages(tmp_path, SIZES, sealed=sealed)
    yield made
    made.close()


def content(size: int, seed: int = 0) -> torch.UntypedStorage:
    """So many random bytes."""
    made = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return made.untyped_storage()


def same(left: torch.UntypedStorage, right: torch.UntypedStorage) -> bool:
    return torch.equal(tensor_of(left), tensor_of(right))


def tensor_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def until(condition: Callable[[], bool]) -> None:
    """Returns when it holds, fails after a while."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


@pytest.mark.parametrize("number", SIZES)
def test_what_is_written_comes_back(pages: Pages, number: int) -> None:
    """Bit for bit, whatever the size, into memory that was given back meanwhile."""
    written = content(SIZES[number])
    pages.write(number, written)
    assert pages.wait(number)
    landing = torch.UntypedStorage(0)
    pages.read(number, landing)
    assert pages.wait(number)
    assert pages.done(number)
    assert landing.nbytes() == SIZES[number]
    assert same(landing, written)


def test_a_storage_leaves_its_memory_and_returns_to_it(pages: Pages) -> None:
    """A weight keeps its tensor object; emptied as soon as it is written, filled in place."""
    weight = torch.nn.Parameter(torch.randn(PIECE_BYTES // 4))
    before, storage = weight.detach().clone(), weight.untyped_storage()
    pages.hold()
    pages.write(3, storage)
    pages.empty(3, storage)
    assert storage.nbytes() == PIECE_BYTES  # not written yet
    pages.go()
    pages.wait(3)
    assert storage.nbytes() == 0
    pages.read(3, storage)
    pages.wait(3)
    assert torch.equal(weight, before)
    pages.empty(3, storage)  # nothing is under way: at once
    assert storage.nbytes() == 0


def test_written_twice_the_last_one_counts(pages: Pages) -> None:
    """A transfer sees what was begun before it and nothing else."""
    first, second = content(17, 1), content(17, 2)
    pages.hold()
    pages.write(0, first)
    one, two = torch.UntypedStorage(0), torch.UntypedStorage(0)
    pages.read(0, one)
    pages.write(0, second)
    pages.read(0, two)
    pages.go()
    pages.wait(0)
    assert same(one, first)
    assert same(two, second)


def test_memory_is_held_until_it_is_written(pages: Pages) -> None:
    """And no longer: when `wait` returns it is free, which is what a budget counts on."""
    array = np.arange(4096, dtype=np.uint8)
    freed = weakref.ref(array)
    pages.hold()
    pages.write(9, torch.from_numpy(array).untyped_storage())
    expected = array.copy()
    del array
    assert freed() is not None
    pages.go()
    pages.wait(9)
    assert freed() is None
    landing = torch.UntypedStorage(0)
    pages.read(9, landing)
    pages.wait(9)
    assert np.array_equal(tensor_of(landing).numpy(), expected)


def test_a_read_takes_memory_when_it_starts(pages: Pages) -> None:
    """One that only waits for its turn has none yet."""
    pages.write(9, content(4096))
    pages.wait(9)
    landing = torch.UntypedStorage(0)
    pages.hold()
    pages.read(9, landing)
    assert not pages.wait(9, 0.05)
    assert not pages.done(9)
    assert landing.nbytes() == 0
    pages.go()
    assert pages.wait(9, DEADLINE_S)
    assert landing.nbytes() == 4096


def test_memory_of_another_library_is_refused_at_once(pages: Pages) -> None:
    """It cannot be resized; the thread that would find out has nobody to tell."""
    foreign = torch.from_numpy(np.arange(4096, dtype=np.uint8)).untyped_storage()
    pages.write(9, foreign)
    with pytest.raises(ValueError, match="copy it"):
        pages.empty(9, foreign)
    with pytest.raises(ValueError, match="copy it"):
        pages.read(9, foreign)
    pages.wait(9)


def test_what_was_never_written_cannot_be_read(pages: Pages) -> None:
    """The error names the storage and does not hand out what lies there by chance."""
    pages.read(9, torch.UntypedStorage(0))
    with pytest.raises(PageFailed, match="storage 9 could not be read") as failed:
        pages.wait(9)
    assert failed.value.number == 9


def test_only_what_was_announced_has_a_place(pages: Pages) -> None:
    """Another storage, or one of another size, is refused before a byte is moved."""
    pages.write(99, content(1))
    pages.write(9, content(4097))
    for number in (99, 9):
        with pytest.raises(PageFailed, match=f"storage {number} could not be written"):
            pages.wait(number)


def test_only_the_memory_of_the_cpu_goes_to_a_file(pages: Pages) -> None:
    """An address of another device is never followed."""
    elsewhere = torch.empty(4096, dtype=torch.uint8, device="meta").untyped_storage()
    pages.write(9, elsewhere)
    with pytest.raises(PageFailed, match="its memory is on meta"):
        pages.wait(9)


def test_a_storage_without_transfers_needs_no_waiting(pages: Pages) -> None:
    """Nothing is under way, so nothing is waited for."""
    assert pages.done(9)
    assert pages.wait(9)


def test_close_ends_the_thread_and_fails_what_has_not_ended(pages: Pages) -> None:
    """Nobody hangs on pages that are closed, held or not, and nothing can be begun any more."""
    before = threading.active_count()
    memory = content(4096)
    pages.write(0, content(17))
    pages.wait(0)
    assert threading.active_count() == before + 1
    pages.hold()
    pages.write(9, memory)
    pages.empty(9, memory)
    pages.close()
    assert threading.active_count() == before
    with pytest.raises(PageFailed, match="closed"):
        pages.wait(9)
    assert memory.nbytes() == 4096  # nowhere else
    with pytest.raises(PageFailed, match="closed"):
        pages.read(0, torch.UntypedStorage(0))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["write", "read", "hold", "go", "wait", "empty"]), st.sampled_from([0, 4, 7, 9])),
        max_size=30,
    )
)
def test_transfers_end_in_the_order_in_which_they_were_begun(pages: Pages, acts: list[tuple[str, int]]) -> None:
    """Any sequence leaves in every read what the last write before it put there; seeds tell writes apart."""
    stored: dict[int, int] = {}
    reads: list[tuple[int, torch.UntypedStorage, int]] = []
    held = False
    for seed, (act, number) in enumerate(acts):
        if act == "write":
            pages.write(number, memory := content(SIZES[number], seed))
            stored[number] = seed
            if seed % 3 == 0:
                pages.empty(number, memory)
        elif act == "read" and number in stored:
            reads.append((number, torch.UntypedStorage(0), stored[number]))
            pages.read(number, reads[-1][1])
        elif act in ("hold", "go"):
            held = act == "hold"
            (pages.hold if held else pages.go)()
        elif act == "wait" and not held:
            assert pages.wait(number, DEADLINE_S)
    pages.go()
    for number, landing, seed in reads:
        assert pages.wait(number, DEADLINE_S)
        assert same(landing, content(SIZES[number], seed))


@pytest.mark.parametrize("act", ["write", "read"])
def test_a_held_channel_stops_between_pieces(act: str) -> None:
    """Nothing more is moved than the piece under way, and all of it once it may go on."""
    pages = MemoryPages({0: 10 * PIECE_BYTES})
    memory = content(10 * PIECE_BYTES)
    pages.write(0, memory)
    pages.wait(0)
    pages.disk.calls.clear()
    pages.disk.slow_s = 0.01
    getattr(pages, act)(0, memory)
    until(lambda: len(pages.disk.calls) > 2)
    pages.hold()
    moved = len(pages.disk.calls)
    assert not pages.wait(0, 0.1)
    assert len(pages.disk.calls) <= moved + 1
    assert moved < 10
    pages.disk.slow_s = 0.0
    pages.go()
    pages.wait(0)
    assert len(pages.disk.calls) == 10
    pages.close()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_reaches_whoever_waits_and_keeps_what_was_not_written(at: int) -> None:
    """`PageStoreFull`, each time it is asked for; memory that was to be given back stays; reading it meets the same."""
    size = 3 * PIECE_BYTES
    pages = MemoryPages({0: size, 1: 17})
    memory = content(size)
    pages.disk.full_at_write = at
    pages.write(0, memory)
    pages.empty(0, memory)
    for _ in range(2):
        with pytest.raises(PageStoreFull, match="No space left") as full:
            pages.wait(0)
    assert full.value.where == "memory"
    assert same(memory, content(size))
    pages.empty(0, memory)
    assert memory.nbytes() == size
    pages.read(0, torch.UntypedStorage(0))
    with pytest.raises(PageStoreFull):
        pages.wait(0)
    pages.disk.full_at_write = None
    pages.write(0, memory)
    pages.empty(0, memory)
    pages.read(0, memory)
    pages.wait(0)
    assert same(memory, content(size))
    pages.close()


def test_a_failed_write_lets_go_of_its_memory() -> None:
    """The error that is kept for the waiter keeps no storage alive."""
    pages = MemoryPages({0: 4096})
    array = np.arange(4096, dtype=np.uint8)
    freed = weakref.ref(array)
    pages.disk.full_at_write = 0
    pages.write(0, torch.from_numpy(array).untyped_storage())
    del array
    until(lambda: pages.done(0))
    assert freed() is None
    with pytest.raises(PageStoreFull):
        pages.wait(0)
    pages.close()


def test_a_broken_disk_fails_one_read_and_not_the_next_write() -> None:
    """EIO names storage and act; the thread goes on with what comes after."""
    pages = MemoryPages({0: 4096, 1: 4096})
    for number in (0, 1):
        pages.write(number, content(4096, number))
        pages.wait(number)
    pages.disk.broken = 5
    pages.read(0, torch.UntypedStorage(0))
    with pytest.raises(PageFailed, match="storage 0 could not be read: Input/output error") as failed:
        pages.wait(0)
    assert failed.value.act == "read"
    pages.disk.broken = None
    landing = torch.UntypedStorage(0)
    pages.read(0, landing)
    pages.wait(0)
    assert same(landing, content(4096, 0))
    pages.close()


def test_a_read_that_failed_leaves_nothing_that_looks_like_the_storage() -> None:
    """Half of it, or a damaged one, is given back; the memory of a lost storage, its only copy, is left alone."""
    pages = MemoryPages({0: 2 * PIECE_BYTES})
    pages.write(0, content(2 * PIECE_BYTES))
    pages.wait(0)
    landing = torch.UntypedStorage(0)
    pages.disk.flip_bit(pages.offsets[0] + PIECE_BYTES)
    pages.read(0, landing)
    with pytest.raises(PageCorrupted):
        pages.wait(0)
    assert landing.nbytes() == 0
    pages.disk.broken = 5
    pages.read(0, landing)
    with pytest.raises(PageFailed):
        pages.wait(0)
    assert landing.nbytes() == 0
    memory = content(2 * PIECE_BYTES)
    pages.disk.full_at_write = 0
    pages.write(0, memory)
    pages.read(0, memory)
    with pytest.raises(PageStoreFull):
        pages.wait(0)
    assert same(memory, content(2 * PIECE_BYTES))
    pages.close()


@pytest.mark.parametrize("short_bytes", [4096, 12_288 + 100, 1 << 20])
def test_short_transfers_are_gone_on_with(short_bytes: int) -> None:
    """Each from a block's edge, as direct transfers must be."""
    pages = MemoryPages({0: 200_001})
    pages.disk.short_bytes = short_bytes
    pages.write(0, content(200_001))
    landing = torch.UntypedStorage(0)
    pages.read(0, landing)
    pages.wait(0)
    assert same(landing, content(200_001))
    assert all(offset % 4096 == 0 for offset in pages.disk.calls)
    pages.close()


def test_a_disk_that_moves_no_whole_block_is_an_error_and_no_endless_loop() -> None:
    """It cannot be gone on with."""
    pages = MemoryPages({0: 200_001})
    pages.disk.short_bytes = 4095
    pages.write(0, content(200_001))
    with pytest.raises(PageFailed, match="could not be written: 0 of 200704 bytes were moved, and then no more"):
        pages.wait(0)
    pages.close()


def test_stale_pieces_are_refused_like_damaged_ones() -> None:
    """A write that the disk swallowed leaves the old bytes there, whole and wrong."""
    pages = MemoryPages({0: 4096})
    pages.write(0, content(4096, 1))
    pages.wait(0)
    pages.disk.forgets = True
    pages.write(0, content(4096, 2))
    pages.wait(0)
    pages.read(0, torch.UntypedStorage(0))
    with pytest.raises(PageCorrupted):
        pages.wait(0)
    pages.close()
