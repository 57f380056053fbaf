# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import resource
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telemetry.errors import FieldsMismatch, SpoolDamaged, StoreBusy, StoreFull
from telemetry.sample_store import SampleStore
from telemetry.samples import Field, Samples, count_samples, erase, read_fields, read_samples, snapshot

FIELDS = (Field("IMAGE", "FP32", (2, 2)), Field("IDS", "INT64", (3,)))
RECORD = 12 + 16 + 24


def inputs(number: int) -> dict[str, bytes]:
    return {"IMAGE": struct.pack("<4f", *[number] * 4), "IDS": struct.pack("<3q", number, 1, -1)}


def fill(store: SampleStore, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        store.add(inputs(number), number)


def labels(folder: Path) -> list[int]:
    return [label for _, label in read_samples(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "samples" / "digits"


@contextmanager
def no_file_beyond(size_bytes: int) -> Iterator[None]:
    """A disk that is full: writes beyond so many bytes of a file are short, then EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_added_is_read_back(folder: Path) -> None:
    """Samples come back in order: the bytes of every field, and the label, negative ones included."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 3)
        store.add(inputs(7), -5)
    found = list(read_samples(folder))
    assert [label for _, label in found] == [0, 1, 2, -5]
    assert {name: bytes(value) for name, value in found[3][0].items()} == inputs(7)
    assert read_fields(folder) == FIELDS


def test_a_view_is_as_good_as_bytes(folder: Path) -> None:
    """An array's memory is stored without a copy of it being made first, whatever its item size."""
    view = memoryview(struct.pack("<4f", 1, 2, 3, 4)).cast("f")
    with SampleStore(folder, FIELDS) as store:
        store.add({"IMAGE": view, "IDS": inputs(0)["IDS"]}, 1)
    assert next(read_samples(folder))[0]["IMAGE"] == struct.pack("<4f", 1, 2, 3, 4)


def test_the_store_is_private(folder: Path) -> None:
    """Folders are 0700 and files 0600, snapshots included."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 1)
        store.snapshot(folder.parent / "taken")
    for path in folder.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_oldest_go_first(folder: Path) -> None:
    """Beyond its limit a store drops its oldest samples, is never larger, and keeps at least half of what fits."""
    limit = 40 * RECORD
    with SampleStore(folder, FIELDS, limit_bytes=limit) as store:
        for number in range(200):
            store.add(inputs(number), number)
            assert store.size_bytes <= limit
        kept = labels(folder)
    assert kept == list(range(200 - len(kept), 200))
    assert 20 <= len(kept) <= 40


def test_a_full_store_refuses(folder: Path) -> None:
    """Under `refuse` what does not fit is refused, and all that was stored stays."""
    with SampleStore(folder, FIELDS, limit_bytes=5 * RECORD, policy="refuse") as store:
        fill(store, 5)
        with pytest.raises(StoreFull, match="limit"):
            store.add(inputs(5), 5)
        assert store.count == 5
    with SampleStore(folder, FIELDS, limit_bytes=5 * RECORD, policy="refuse") as store, pytest.raises(StoreFull):
        store.add(inputs(5), 5)
    assert labels(folder) == [0, 1, 2, 3, 4]


def test_a_limit_below_one_sample_is_refused(folder: Path) -> None:
    """A store that could hold nothing is a mistake."""
    with pytest.raises(ValueError, match="limit_bytes"):
        SampleStore(folder, FIELDS, limit_bytes=RECORD - 1)


def test_a_full_disk_takes_no_half_sample(folder: Path) -> None:
    """Without room on the disk the sample is refused as a whole, and with room again the store goes on."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 2)
        with no_file_beyond(2 * RECORD + 5), pytest.raises(StoreFull):
            store.add(inputs(2), 2)
        assert (store.count, store.size_bytes) == (2, 2 * RECORD)
        store.add(inputs(3), 3)
    assert labels(folder) == [0, 1, 3]


@pytest.mark.parametrize("kept", range(RECORD))
def test_a_torn_tail_costs_itself_alone(folder: Path, kept: int) -> None:
    """Whatever is left of the last record after a crash, earlier samples are there and later ones are added."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 3)
    segment = next(folder.glob("*.samples"))
    segment.write_bytes(segment.read_bytes()[: 2 * RECORD + kept])
    assert labels(folder) == [0, 1]
    with SampleStore(folder, FIELDS) as store:
        store.add(inputs(9), 9)
    assert labels(folder) == [0, 1, 9]


@pytest.mark.parametrize("place", range(RECORD))
def test_a_flipped_byte_costs_its_sample_alone(folder: Path, place: int) -> None:
    """A damaged record is passed over and counted; it is never read as a sample."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 3)
    segment = next(folder.glob("*.samples"))
    content = bytearray(segment.read_bytes())
    content[RECORD + place] ^= 0x10
    segment.write_bytes(content)
    with Samples(folder) as samples:
        assert list(samples.labels) == [0, 2]
        assert samples.damaged == 1


def test_zeros_are_no_samples(folder: Path) -> None:
    """What a crash leaves of a file whose size was on the disk before its bytes is not read as samples."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 1)
    segment = next(folder.glob("*.samples"))
    segment.write_bytes(segment.read_bytes() + bytes(3 * RECORD))
    assert labels(folder) == [0]


def test_a_sample_damaged_while_in_use_is_noticed(folder: Path) -> None:
    """Every read is checked again: what changed since the store was opened raises, and is never trained on."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 2)
    with Samples(folder) as samples:
        segment = next(folder.glob("*.samples"))
        content = bytearray(segment.read_bytes())
        content[20] ^= 1
        segment.write_bytes(content)
        with pytest.raises(SpoolDamaged, match="sample 0"):
            samples[0]
        assert samples[1][1] == 1


def test_one_writer(folder: Path) -> None:
    """A second writer is refused until the first one has closed."""
    with SampleStore(folder, FIELDS), pytest.raises(StoreBusy):
        SampleStore(folder, FIELDS)
    SampleStore(folder, FIELDS).close()


def test_samples_of_other_fields_are_refused(folder: Path) -> None:
    """A store keeps to its fields; other ones are refused and change nothing, nor keep the store locked."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 1)
    with pytest.raises(FieldsMismatch, match=r"IMAGE FP32 \[2, 2\]"):
        SampleStore(folder, FIELDS[:1])
    with SampleStore(folder, FIELDS) as store:
        assert store.count == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"IMAGE": bytes(16)}, "IDS"),
        ({**inputs(0), "IMAGE": bytes(15)}, "IMAGE must have 16 bytes, got 15"),
        ({**inputs(0), "OTHER": b""}, "OTHER"),
    ],
)
def test_a_sample_must_fit(folder: Path, given: dict[str, bytes], said: str) -> None:
    """A sample with other tensors than the store's, or of other sizes, is refused by name."""
    with SampleStore(folder, FIELDS) as store, pytest.raises(ValueError, match=said):
        store.add(given, 0)
    assert labels(folder) == []


@pytest.mark.parametrize(("name", "dtype", "dims"), [("", "FP32", (1,)), ("X", "FP64", (1,)), ("X", "FP32", (0,))])
def test_a_field_must_be_one(name: str, dtype: str, dims: tuple[int, ...]) -> None:
    """A field has a name, a type that can be stored, and no empty axis."""
    with pytest.raises(ValueError, match="no field"):
        Field(name, dtype, dims)


def test_a_snapshot_keeps_what_it_has(folder: Path) -> None:
    """A snapshot neither loses what the store drops or erases, nor gains what is added later."""
    taken = folder.parent / "taken"
    with SampleStore(folder, FIELDS, limit_bytes=40 * RECORD) as store:
        fill(store, 35)
        store.snapshot(taken)
        before = labels(taken)
        fill(store, 100, first=35)
        store.erase()
        assert store.count == 0
        fill(store, 2)
    assert before == labels(taken) == list(range(35))
    assert labels(folder) == [0, 1]


def test_a_snapshot_takes_no_second_copy(folder: Path) -> None:
    """All segments but the newest are linked, not copied."""
    taken = folder.parent / "taken"
    with SampleStore(folder, FIELDS, limit_bytes=40 * RECORD) as store:
        fill(store, 35)
        store.snapshot(taken)
    shared = [path.stat().st_nlink == 2 for path in sorted(taken.glob("*.samples"))]
    assert shared == [True] * (len(shared) - 1) + [False]
    assert len(shared) > 2


def test_a_snapshot_is_whole_or_not_there(folder: Path) -> None:
    """What a killed snapshot left is no snapshot, and the next one begins anew."""
    taken = folder.parent / "taken"
    (folder.parent / ".taken.new").mkdir(parents=True)
    (folder.parent / ".taken.new" / "000000000001.samples").write_bytes(b"half")
    with SampleStore(folder, FIELDS) as store:
        fill(store, 2)
        store.snapshot(taken)
    assert labels(taken) == [0, 1]
    assert not (folder.parent / ".taken.new").exists()


def test_a_snapshot_of_nothing_is_refused(tmp_path: Path) -> None:
    """Where no samples were ever stored there is nothing to take."""
    with pytest.raises(SpoolDamaged):
        snapshot(tmp_path / "none", tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_erased_by_somebody_else(folder: Path) -> None:
    """A store erased by another process is empty for its writer too, which goes on adding where readers find it."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 3)
        erase(folder)
        assert store.count == 0
        store.add(inputs(8), 8)
        assert labels(folder) == [8]
    erase(folder)
    assert not folder.exists()
    erase(folder)


def test_samples_are_added_while_others_are_flushed(folder: Path) -> None:
    """`flush` from another thread loses and doubles nothing, also where segments end meanwhile."""
    with SampleStore(folder, FIELDS, limit_bytes=4000 * RECORD) as store:
        stop = threading.Event()

        def flush() -> None:
            while not stop.is_set():
                store.flush()

        thread = threading.Thread(target=flush)
        thread.start()
        try:
            fill(store, 2000)
        finally:
            stop.set()
            thread.join()
    assert labels(folder) == list(range(2000))


def test_counting_reads_no_samples(folder: Path) -> None:
    """How many samples there are follows from sizes; a folder that is no store has none."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 4)
    assert count_samples(folder) == 4
    assert count_samples(folder / "nowhere") == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 2, "fields": []}', b'{"format": 1, "fields": [{}]}']
)
def test_damaged_fields_are_said(folder: Path, content: bytes) -> None:
    """A store whose description is damaged is not read as if it were sound."""
    with SampleStore(folder, FIELDS) as store:
        fill(store, 1)
    (folder / "fields.json").write_bytes(content)
    with pytest.raises(SpoolDamaged, match=r"fields\.json"):
        Samples(folder)
