# SPDX-License-Identifier: Apache-2.0
"""What engine `finetune` takes into the spool, and what it refuses before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telemetry.spool import JobState, Spool, read_samples
from triton_backend.engine import Engine, open_engine
from triton_backend.errors import BadParameter, BadRequest, EngineUnusable, Unavailable
from triton_backend.parameters import BackendConfig
from triton_backend.placement import Placement
from triton_backend.tensors import Tensors

Make = Callable[..., BackendConfig]
TENSORS = {
    "input": [
        {"name": "MODEL", "data_type": "TYPE_STRING", "dims": ["1"], "optional": True},
        {"name": "LABEL", "data_type": "TYPE_INT64", "dims": ["1"], "optional": True},
        {"name": "IMAGE", "data_type": "TYPE_FP32", "dims": ["-1", "-1", "-1"], "optional": True},
        {"name": "INPUT_IDS", "data_type": "TYPE_INT64", "dims": ["-1"], "optional": True},
        {"name": "ATTENTION_MASK", "data_type": "TYPE_INT64", "dims": ["-1"], "optional": True},
        {"name": "COMMAND", "data_type": "TYPE_STRING", "dims": ["1"], "optional": True},
    ],
    "output": [{"name": "REPLY", "data_type": "TYPE_STRING", "dims": ["1"]}],
}
OURS = {"engine": "finetune", "train": "digits_cnn, texts=bert_mini", "max_jobs": "2"}


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("TEG_SPOOL_DIR", str(tmp_path / "spool"))
    return Spool(tmp_path / "spool")


@pytest.fixture
def open_one(spool: Spool, make_config: Make) -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def start(**parameters: str) -> Engine:
        config = make_config(**TENSORS, parameters=OURS | parameters)
        opened.append(open_engine(config, Path(), Placement(), None))
        return opened[-1]

    yield start
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_one: Callable[..., Engine]) -> Engine:
    return open_one()


def texts(*rows: str) -> Any:
    return np.array([[row.encode()] for row in rows], dtype=np.object_)


def digits(*labels: int, value: float = 0.5, **changes: Any) -> Tensors:
    count = len(labels)
    image = np.full((count, 1, 8, 8), value, np.float32)
    given = {
        "MODEL": texts(*["digits_cnn"] * count),
        "LABEL": np.array(labels, np.int64).reshape(-1, 1),
        "IMAGE": image,
    }
    return {name: array for name, array in (given | changes).items() if array is not None}


def tokens(ids: int = 7, mask: int = 1) -> Tensors:
    row = (np.full((1, 64), value, np.int64) for value in (ids, mask))
    return {
        "MODEL": texts("texts"),
        "LABEL": np.array([[1]]),
        **dict(zip(("INPUT_IDS", "ATTENTION_MASK"), row, strict=True)),
    }


def reply(engine: Engine, inputs: Tensors) -> dict[str, Any]:
    rows = engine.run(inputs)["REPLY"]
    assert rows.shape == (len(next(iter(inputs.values()))), 1)
    assert len({row[0] for row in rows}) == 1
    answer: dict[str, Any] = json.loads(rows[0, 0])
    return answer


def command(engine: Engine, about: object) -> dict[str, Any]:
    return reply(engine, {"COMMAND": texts(json.dumps(about))})


def test_samples_are_stored_as_they_came(engine: Engine, spool: Spool) -> None:
    """Every sample of a request is in its model's store, tensors byte for byte, before the reply."""
    assert reply(engine, digits(3, 9, value=0.25)) == {"stored": 2, "samples": 2}
    assert reply(engine, digits(0)) == {"stored": 1, "samples": 3}
    assert reply(engine, tokens()) == {"stored": 1, "samples": 1}
    found = list(read_samples(spool.samples("digits_cnn")))
    assert [label for _, label in found] == [3, 9, 0]
    assert found[1][0] == {"IMAGE": np.full((1, 8, 8), 0.25, np.float32).tobytes()}
    (texts_found,) = read_samples(spool.samples("texts"))
    assert np.frombuffer(texts_found[0]["INPUT_IDS"], np.int64).tolist() == [7] * 64
    assert command(engine, {"samples": "digits_cnn"}) == {"samples": 3}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (digits(10), "LABEL' must be one of 0 to 9"),
        (digits(1, -1), "LABEL' must be one of 0 to 9"),
        (digits(1, LABEL=np.array([[[1]]])), "LABEL"),
        (digits(1, LABEL=None), "'LABEL' is missing"),
        (digits(1, IMAGE=None), "'IMAGE' is missing"),
        (digits(1, MODEL=None), "'MODEL' is missing"),
        (digits(1, IMAGE=np.zeros((1, 8, 8, 1), np.float32)), r"IMAGE' is float32 \[8, 8, 1\], not FP32 \[1, 8, 8\]"),
        (digits(1, value=float("inf")), "NaN or infinity"),
        (digits(1, value=float("nan")), "NaN or infinity"),
        (digits(1, INPUT_IDS=np.zeros((1, 64), np.int64)), "INPUT_IDS' is none of this model"),
        (digits(1, 2, MODEL=texts("digits_cnn", "texts")), "of one model"),
        (digits(1, MODEL=texts("resnet18")), "'resnet18' is not trained here; trained are digits_cnn, texts"),
        (digits(1, MODEL=texts("../digits_cnn")), "not trained here"),
        (tokens(ids=30_522), "INPUT_IDS' must lie from 0 to 30521"),
        (tokens(ids=-1), "INPUT_IDS' must lie from 0"),
        (tokens(mask=2), "ATTENTION_MASK' must lie from 0 to 1"),
    ],
)
def test_what_is_no_sample_is_refused(engine: Engine, spool: Spool, inputs: Tensors, words: str) -> None:
    """A request with anything wrong in any of its rows stores none of them and says what is wrong."""
    with pytest.raises(BadRequest, match=words):
        engine.run(inputs)
    assert not list(spool.samples("digits_cnn").glob("*.samples"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "at most 16384 bytes"),
        ("[" * 9_000, "is no JSON"),
        ("[]", "an object with one of"),
        ("{}", "an object with one of"),
        ('{"job": "a", "cancel": "a"}', "an object with one of"),
        ('{"train": "digits_cnn"}', "an object with one of"),
        ('{"job": "../../etc"}', "no job has the id"),
        ('{"job": null}', "no job has the id"),
        ('{"cancel": "AAAAAAAAAAAAAAAAAAAAAA"}', "no job has the id"),
        ('{"start": {"model": "resnet18"}}', "not trained here"),
        ('{"start": {"model": "digits_cnn", "epochs": 0}}', "epochs must be a whole number"),
        ('{"start": {"model": "digits_cnn", "learning_rate": NaN}}', "learning_rate"),
        ('{"start": "digits_cnn"}', "must be a JSON object"),
        ('{"samples": ["digits_cnn"]}', "not trained here"),
    ],
)
def test_what_is_no_command_is_refused(engine: Engine, text: str, words: str) -> None:
    """An order that cannot be followed says why."""
    with pytest.raises(BadRequest, match=words):
        engine.run({"COMMAND": texts(text)})


def test_commands_come_alone(engine: Engine) -> None:
    """Neither two commands, nor a command beside a sample."""
    for inputs in ({"COMMAND": texts("{}", "{}")}, digits(1, COMMAND=texts('{"samples": "digits_cnn"}'))):
        with pytest.raises(BadRequest, match="comes alone"):
            engine.run(inputs)


def test_the_canary_is_answered(engine: Engine, spool: Spool) -> None:
    """Empty texts ask for nothing and leave nothing behind."""
    assert reply(engine, {"MODEL": texts(""), "COMMAND": texts("")}) == {"trained": ["digits_cnn", "texts"]}
    assert spool.jobs() == []


def test_a_job_is_queued_asked_after_and_cancelled(engine: Engine, spool: Spool) -> None:
    """A start is one durable job, whose state is the spool's; a cancel reaches it."""
    job = command(engine, {"start": {"model": "digits_cnn", "epochs": 2}})["job"]
    assert [status.id for status in spool.jobs()] == [job]
    said = command(engine, {"job": job})
    assert (said["state"], said["request"]["epochs"]) == ("queued", 2)
    assert command(engine, {"cancel": job}) == {"cancelled": True}
    assert spool.status(job).state is JobState.CANCELLED
    assert command(engine, {"cancel": job}) == {"cancelled": False}


def fill(engine: Engine) -> None:
    while True:
        reply(engine, digits(*[1] * 64))


def test_a_full_queue_or_store_is_no_fault_of_the_request(open_one: Callable[..., Engine]) -> None:
    """It may come again later: unavailable, and nothing of it is kept but what the reply says."""
    engine = open_one(store_mib="1", policy="refuse")
    for _ in range(2):
        command(engine, {"start": {"model": "digits_cnn"}})
    with pytest.raises(Unavailable, match="2 jobs are waiting"):
        command(engine, {"start": {"model": "digits_cnn"}})
    with pytest.raises(Unavailable, match=r"of 64 samples stored: .* no room"):
        fill(engine)
    assert 3_000 < command(engine, {"samples": "digits_cnn"})["samples"] < 5_000


def test_old_samples_make_room(open_one: Callable[..., Engine], spool: Spool) -> None:
    """Without `policy: refuse` the oldest go, and the store stays within its limit."""
    engine = open_one(store_mib="1")
    for label in range(9):
        for _ in range(16):
            reply(engine, digits(*[label] * 64))
    files = spool.samples("digits_cnn").glob("*.samples")
    assert sum(path.stat().st_size for path in files) <= 1 << 20
    labels = [label for _, label in read_samples(spool.samples("digits_cnn"))]
    assert labels == sorted(labels)
    assert labels[0] > 0
    assert labels[-1] == 8


def test_two_writers_take_turns(engine: Engine, open_one: Callable[..., Engine]) -> None:
    """While one instance has a store open another one says so; when it has closed the other stores on."""
    reply(engine, digits(1))
    other = open_one()
    with pytest.raises(Unavailable, match="another process adds samples"):
        other.run(digits(2))
    engine.close()
    assert reply(other, digits(2)) == {"stored": 1, "samples": 2}


@pytest.mark.parametrize(
    ("changes", "parameters", "words"),
    [
        ({}, {"train": "nobody"}, "no architecture is named 'nobody'"),
        ({"input": TENSORS["input"][:-1]}, {}, "must state the input COMMAND"),
        ({"output": [{"name": "R", "data_type": "TYPE_STRING", "dims": ["1"]}]}, {}, "the one output REPLY"),
        ({"max_batch_size": 0}, {}, "a max_batch_size"),
    ],
)
def test_a_configuration_that_does_not_fit(
    spool: Spool, make_config: Make, changes: dict[str, Any], parameters: dict[str, str], words: str
) -> None:
    """The load is refused with what config.pbtxt must say."""
    with pytest.raises(EngineUnusable, match=words):
        open_engine(make_config(**TENSORS | changes, parameters=OURS | parameters), Path(), Placement(), None)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"train": ""}, "train"),
        ({"train": "a,a"}, "train"),
        ({"train": "a,../b"}, "train"),
        ({"train": "a=b=c"}, "train"),
        ({"policy": "keep"}, "policy"),
        ({"store_mib": "0"}, "store_mib"),
        ({"max_jobs": "many"}, "max_jobs"),
        ({"engine": "identity"}, "train"),
        ({"model_file": "a.onnx"}, "model_file"),
    ],
)
def test_parameters_are_understood_or_refused(make_config: Make, parameters: dict[str, str], name: str) -> None:
    """Each is refused by its name, and none is taken by another engine."""
    with pytest.raises(BadParameter, match=f"'{name}'"):
        make_config(**TENSORS, parameters=OURS | parameters)


def test_train_is_needed(make_config: Make) -> None:
    """Nothing is trained by default."""
    with pytest.raises(BadParameter, match="'train'"):
        make_config(**TENSORS, parameters={"engine": "finetune"})


def test_a_spool_that_cannot_be_used_refuses_the_load(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that others may look into holds no samples."""
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("TEG_SPOOL_DIR", str(tmp_path / "open"))
    with pytest.raises(EngineUnusable, match="open to others"):
        open_engine(make_config(**TENSORS, parameters=OURS), Path(), Placement(), None)
