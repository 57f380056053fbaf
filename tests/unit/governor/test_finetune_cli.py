# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from governor.cli import DONE, NO, USAGE, main
from governor.cli.finetune import follow, status_text
from telemetry.jobs import Conditions, JobRequest, JobState, JobStatus
from telemetry.spool import Field, Spool

REQUEST = JobRequest("digits_cnn")


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("TEG_SPOOL_DIR", str(tmp_path / "spool"))
    return Spool(tmp_path / "spool")


def test_a_job_as_flags_describe_it(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag reaches the job; its id is all that is printed."""
    flags = "--epochs 9 --batch 4 --learning-rate 0.1 --optimizer sgd --budget 50% --deadline-s 60 --patience 0"
    more = "--validation-share 0.3 --margin 0.1 --seed 5 --no-publish --only-idle-s 7 --charging --below-celsius 60"
    window = "--window 22:00-06:00"
    assert main(["finetune", "submit", "--model", "digits_cnn", *f"{flags} {more} {window}".split()]) == DONE
    (status,) = spool.jobs()
    assert capsys.readouterr().out.strip() == status.id
    assert status.request == JobRequest(
        "digits_cnn", 9, 4, 0.1, "sgd", "50%", 60.0, 0.3, 0, 0.1, 5, False, Conditions(7.0, True, 60.0, "22:00-06:00")
    )


def test_what_no_flag_says_is_left_to_the_defaults(spool: Spool) -> None:
    """A model is enough; a budget in bytes is a number."""
    assert main(["finetune", "submit", "--model", "digits_cnn"]) == DONE
    assert main(["finetune", "submit", "--model", "digits_cnn", "--budget", "5000"]) == DONE
    assert [status.request for status in spool.jobs()] == [REQUEST, replace(REQUEST, budget=5000)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--epochs", "0"], "epochs"), (["--window", "8-9"], "conditions.window"), (["--budget", "fifty"], "budget")],
)
def test_a_wrong_request_is_usage(
    spool: Spool, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    """Exit code 2, the field named, and nothing queued."""
    assert main(["finetune", "submit", "--model", "digits_cnn", *flags]) == USAGE
    assert said in capsys.readouterr().err
    assert spool.jobs() == []


def test_a_full_queue_is_no(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 once as many jobs wait as may."""
    codes = [main(["finetune", "submit", "--model", "digits_cnn"]) for _ in range(17)]
    assert codes == [DONE] * 16 + [NO]
    assert "16 jobs" in capsys.readouterr().err


def test_status_of_one_and_of_all(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """All jobs in their order, or one; an id that no job has is usage."""
    assert main(["finetune", "status"]) == DONE
    assert capsys.readouterr().out == "no jobs\n"
    jobs = [spool.submit(REQUEST), spool.submit(REQUEST)]
    main(["finetune", "status", "--json"])
    assert [status["id"] for status in json.loads(capsys.readouterr().out)["jobs"]] == jobs
    main(["finetune", "status", jobs[1], "--json"])
    assert json.loads(capsys.readouterr().out)["request"]["model"] == "digits_cnn"
    assert main(["finetune", "status", "nothing"]) == USAGE


def test_the_text_of_a_status() -> None:
    """What a person wants to know: state and reason, progress, accuracies, memory, stretches, version."""
    status = JobStatus(
        "x" * 22, REQUEST, JobState.PAUSED, "tuning", 5, 40, 1, 60, 0.25, 0.5, 0.75, 3, 2_000_000, 1_500_000,
        0.004, 0.0005, 3.0, 9.0, 30.0,
    )  # fmt: skip
    text = status_text(status)
    for part in ("paused (tuning)", "step 5 of 40", "0.500 -> 0.750", "version 3", "60 samples", "2.0 MB of 1.5 MB",
                 "4.0 ms a step", "0.50 ms without", "30 s until"):  # fmt: skip
        assert part in text, part


def test_cancelling(spool: Spool) -> None:
    """0 the first time, 1 when it has ended already, 2 for nobody's id."""
    job = spool.submit(REQUEST)
    assert [main(["finetune", "cancel", job]) for _ in range(2)] == [DONE, NO]
    assert main(["finetune", "cancel", "nothing"]) == USAGE


def test_forgetting(spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples and jobs of a model go; 1 if there was nothing, 2 for what is no model's name."""
    with spool.store("digits_cnn", [Field("IMAGE", "FP32", (1,))]) as store:
        store.add({"IMAGE": bytes(4)}, 1)
    spool.submit(REQUEST)
    assert main(["finetune", "forget", "--model", "digits_cnn"]) == DONE
    assert "1 samples erased, 1 jobs ended" in capsys.readouterr().out
    assert main(["finetune", "forget", "--model", "digits_cnn"]) == NO
    assert main(["finetune", "forget", "--model", "../x"]) == USAGE


@pytest.mark.parametrize(("end", "code"), [(JobState.DONE, DONE), (JobState.FAILED, NO)])
def test_following_a_job_to_its_end(spool: Spool, capsys: pytest.CaptureFixture[str], end: JobState, code: int) -> None:
    """`--wait` shows every change and ends with the job: 0 if it is done, else 1."""
    job = spool.submit(REQUEST)
    states = iter([JobState.RUNNING, end])
    lock = threading.Lock()

    def sleep(_: float) -> None:
        with lock:
            spool.update(replace(spool.status(job), state=next(states)))

    assert follow(spool, job, as_json=False, sleep=sleep) == code
    said = capsys.readouterr().err
    assert said.index("queued") < said.index("running") < said.index(end.value)
