# SPDX-License-Identifier: Apache-2.0
"""Pages: what is read was written, or nothing is read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import PageLayoutMismatch, PageUnreadable
from telemetry.instance_page import RING, InstancePage
from telemetry.pages import HEARTBEAT, STALE_NS, WORD, Page, Record
from telemetry.trainer_page import TrainerPage

RECORD = Record(4 * WORD, "16Q")


class Small(Page):
    """A page with one record, for these tests."""

    magic = b"TEGSMALL"
    version = 3
    size = RECORD.offset + RECORD.size


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Small]:
    made = Small.create(tmp_path / "a.page")
    yield made
    made.close()


def test_a_page_is_born_alive_and_ours(page: Small) -> None:
    """A new page carries our pid, a fresh heartbeat and no record; group members may write it, others nothing."""
    assert page.pid == os.getpid()
    assert page.alive(int(page.words[HEARTBEAT]))
    assert RECORD.read(page.memory) is None
    assert page.path.stat().st_mode & 0o007 == 0


def test_a_heartbeat_grows_stale(page: Small) -> None:
    """A page lives for one second past its last beat, by the monotonic clock."""
    page.beat()
    beat_ns = int(page.words[HEARTBEAT])
    assert page.alive(beat_ns + STALE_NS)
    assert not page.alive(beat_ns + STALE_NS + 1)


def test_readers_see_the_writers_memory(page: Small) -> None:
    """A second mapping sees each record as it is written; without leave it cannot write."""
    reader = Small.open(page.path)
    RECORD.write(page.memory, tuple(range(16)))
    assert RECORD.read(reader.memory) == tuple(range(16))
    with pytest.raises(TypeError):
        reader.words[5] = 1
    reader.close()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=16, max_size=16), st.data())
def test_a_torn_record_is_never_taken_for_whole(values: list[int], data: st.DataObject) -> None:
    """Whatever byte a writer was stopped after, the reader gets the old record, the new one, or None."""
    memory = bytearray(RECORD.offset + RECORD.size)
    old = tuple(range(16))
    RECORD.write(memory, old)  # type: ignore[arg-type]
    before = bytes(memory)
    RECORD.write(memory, tuple(values))  # type: ignore[arg-type]
    cut = data.draw(st.integers(0, len(memory)))
    torn = bytes(memory[:cut]) + before[cut:]
    assert RECORD.read(torn) in (old, tuple(values), None)  # type: ignore[arg-type]


def test_every_single_tear_of_a_record(page: Small) -> None:
    """Stopped anywhere inside the record, a write that changes every byte leaves nothing to be read."""
    RECORD.write(page.memory, (0,) * 16)
    before = bytes(page.memory)
    RECORD.write(page.memory, (2**64 - 1,) * 16)
    after = bytes(page.memory)
    begin, end = RECORD.offset, RECORD.offset + 16 * WORD + 4
    for cut in range(begin + 1, end):
        page.memory[:] = after[:cut] + before[cut:]
        seen = RECORD.read(page.memory)
        # within the checksum some leading bytes may agree by chance; then the record is whole all the same
        assert seen is None or (cut > end - 4 and seen == (2**64 - 1,) * 16)


def test_a_reader_beside_a_writer_sees_only_whole_records(page: Small) -> None:
    """While another thread writes as fast as it can, every record read is one that was written."""
    reader = Small.open(page.path)
    done = threading.Event()

    def write() -> None:
        for number in range(20_000):
            RECORD.write(page.memory, (number,) * 16)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        if (values := RECORD.read(reader.memory)) is not None:
            assert len(set(values)) == 1
            seen.append(values[0])
    writer.join()
    assert seen == sorted(seen)
    assert RECORD.read(reader.memory) == (19_999,) * 16
    reader.close()


def test_a_missing_page_is_unreadable(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(PageUnreadable, match=r"none\.page"):
        Small.open(tmp_path / "none.page")


def test_a_link_is_not_followed(page: Small, tmp_path: Path) -> None:
    """A link where a page should be is refused."""
    (tmp_path / "link.page").symlink_to(page.path)
    with pytest.raises(PageUnreadable):
        Small.open(tmp_path / "link.page")


@pytest.mark.parametrize("size", [0, 1, Small.size - 1, Small.size + 1])
def test_a_page_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    """A file cut short or grown is no page; nothing of it is used."""
    (tmp_path / "odd.page").write_bytes(b"\0" * size)
    with pytest.raises(PageLayoutMismatch, match=f"{size} bytes"):
        Small.open(tmp_path / "odd.page")


@pytest.mark.parametrize("word", [0, 1])
def test_another_kind_or_version_is_refused(page: Small, word: int) -> None:
    """Magic and layout version must both be this page's."""
    page.words[word] += 1
    with pytest.raises(PageLayoutMismatch):
        Small.open(page.path)


def test_kinds_differ() -> None:
    """No kind of page opens as another: magics are distinct."""
    assert len({Small.magic, InstancePage.magic, TrainerPage.magic}) == 3
    assert all(len(kind.magic) == 8 for kind in (Small, InstancePage, TrainerPage))


def test_a_new_page_replaces_the_old_for_new_readers(tmp_path: Path) -> None:
    """Who mapped the page of an owner that restarted keeps it, and removing it does not remove the new one."""
    first = Small.create(tmp_path / "a.page")
    RECORD.write(first.memory, (1,) * 16)
    second = Small.create(tmp_path / "a.page")
    assert RECORD.read(second.memory) is None
    assert RECORD.read(first.memory) == (1,) * 16
    first.remove()
    Small.open(tmp_path / "a.page").close()
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_ring_of_records_does_not_overlap(tmp_path: Path) -> None:
    """Records of a run lie one after the other, each word-aligned."""
    ring = Record(32, "QI")
    memory = bytearray(32 + 3 * ring.size)
    for number in range(3):
        ring.write(memory, (number, number), number)  # type: ignore[arg-type]
    assert [ring.read(memory, number) for number in range(3)] == [(0, 0), (1, 1), (2, 2)]  # type: ignore[arg-type]
    assert ring.size % WORD == 0
    assert RING > 0
