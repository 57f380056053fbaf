# SPDX-License-Identifier: Apache-2.0
"""The load generator against a gRPC server that stalls, refuses and vanishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from governor.load import Answer, LoadPlan, ServerUnreachable, draw_arrivals, read_answers, run_load
from governor.load_inputs import InputsUnfit

DEADLINE_S = 60.0
"""Bounds a failure and promises nothing."""


class InferenceServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves the model `pixels`, which takes FP32 IMAGE [1, 2]; `seen` holds the raw inputs in order of arrival."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.refuse_every = 0
        self._counted = threading.Lock()
        self.let_pass = threading.Event()
        self.let_pass.set()
        self.url = ""

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the protocol's name
        if request.name != "pixels":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        config = model_config_pb2.ModelConfig(name="pixels", max_batch_size=8)
        config.input.add(name="IMAGE", data_type=model_config_pb2.TYPE_FP32, dims=[1, 2])
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the protocol's name
        with self._counted:
            self.seen.append(request.raw_input_contents[0])
            refused = self.refuse_every and len(self.seen) % self.refuse_every == 0
        if refused:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        self.let_pass.wait(DEADLINE_S)
        return service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")


@contextmanager
def serving(at_once: int) -> Iterator[InferenceServer]:
    """A server on a free loopback port that works on so many requests at once, stopped at the end."""
    service = InferenceServer()
    server = grpc.server(ThreadPoolExecutor(at_once))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    service.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        service.let_pass.set()
        server.stop(0).wait(10)


@pytest.fixture
def server() -> Iterator[InferenceServer]:
    with serving(at_once=16) as service:
        yield service


def plan(server: InferenceServer, *arrivals_s: float, **rest: Any) -> LoadPlan:
    return LoadPlan(server.url, "pixels", arrivals_s, **{"warmup": 0, **rest})


def teg_load(*options: str) -> subprocess.Popen[str]:
    code = "import argparse, sys; from governor.cli import load; p = argparse.ArgumentParser(prog='teg');"
    code += "load.add_parser(p.add_subparsers()); a = p.parse_args(); sys.exit(a.handler(a))"
    command = [sys.executable, "-c", code, "load", "--model", "pixels", "--warmup", "0", *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=DEADLINE_S)
    return child.returncode, out, err


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in time"
        time.sleep(0.01)


def test_every_request_is_sent_and_reported(server: InferenceServer, tmp_path: Path) -> None:
    """Each arrival becomes one request, one row of the record, and one in the report."""
    record = tmp_path / "answers.csv"
    report = run_load(plan(server, *draw_arrivals(200, 1, requests=40), record=record))
    rows = read_answers(record)
    assert (report.requests, report.failed, len(server.seen)) == (40, 0, 40)
    assert sorted(row.number for row in rows) == list(range(40))
    assert all(row.intended_ns <= row.sent_ns <= row.done_ns for row in rows)
    assert report.p50_s is not None
    assert 0 < report.p50_s < DEADLINE_S


def test_a_stall_is_counted_from_the_intended_arrival(server: InferenceServer) -> None:
    """Requests due while the server stalls are sent all the same, and their wait is in their latency."""
    server.let_pass.clear()
    answers: list[Answer] = []
    arrivals = [n * 0.01 for n in range(12)]

    def release_once_all_came() -> None:
        # a generator that waits for replies would never get so far
        until(lambda: len(server.seen) == 12, "twelfth request")
        time.sleep(0.5)
        server.let_pass.set()

    releaser = threading.Thread(target=release_once_all_came)
    releaser.start()
    report = run_load(plan(server, *arrivals), on_answer=answers.append)
    releaser.join()
    assert report.failed == 0
    assert len(answers) == 12
    assert min(answer.latency_s for answer in answers) >= 0.5


def test_refused_requests_fail_and_miss_the_objective(server: InferenceServer) -> None:
    """A refused request is a failure by its status, and outside every objective."""
    server.refuse_every = 4
    report = run_load(plan(server, *(0.005 * n for n in range(20)), slo_s=10.0, quantile=0.9))
    assert (report.failed, report.errors) == (5, {"UNAVAILABLE": 5})
    assert report.within_slo == pytest.approx(0.75)
    assert report.slo_met is False
    assert report.first_error == "UNAVAILABLE: Exceeds maximum queue size"


def test_a_reply_that_never_comes_is_a_failure(server: InferenceServer) -> None:
    """Past the deadline a request is given up, not waited for."""
    server.let_pass.clear()
    # the deadline is also that of the question for the model's inputs, which has an answer
    report = run_load(plan(server, 0.0, 0.001, timeout_s=4.0))
    assert report.errors == {"DEADLINE_EXCEEDED": 2}
    assert report.p50_s is None


def test_real_inputs_are_sent_in_turn(tmp_path: Path) -> None:
    """The samples of the input file go out one after the other, and again from the first."""
    images = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    np.savez(tmp_path / "in.npz", IMAGE=images)
    with serving(at_once=1) as server:
        run_load(plan(server, *(0.05 * n for n in range(5)), input_file=tmp_path / "in.npz"))
    assert server.seen == [images[n % 3].tobytes() for n in range(5)]


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"OTHER": np.zeros((2, 1, 2))}, "not in"),
        ({"IMAGE": np.zeros((2, 2))}, "wanted"),
        ({"IMAGE": np.zeros((0, 1, 2))}, "at least one"),
        ({"IMAGE": np.full((2, 1, 2), None)}, "plain arrays"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    server: InferenceServer, tmp_path: Path, arrays: dict[str, np.ndarray], names: str
) -> None:
    """Nothing is sent when the inputs do not fit the model; the message says what does not."""
    np.savez(tmp_path / "in.npz", **arrays)
    with pytest.raises(InputsUnfit, match=names):
        run_load(plan(server, 0.0, input_file=tmp_path / "in.npz"))
    assert server.seen == []


def test_the_model_must_be_served(server: InferenceServer) -> None:
    """A server without the model is as unreachable as none; the message is the server's."""
    with pytest.raises(ServerUnreachable, match="no model other"):
        run_load(LoadPlan(server.url, "other", (0.0,)))


def test_command_reports_json_and_exit_codes(server: InferenceServer) -> None:
    """`teg load` exits 0 if all went well, 1 if requests failed or the objective was missed, 2 if nobody is there."""
    common = ("--url", server.url, "--rate", "200", "--requests", "10", "--json")
    code, out, err = finish(teg_load(*common, "--slo-ms", "20000"))
    assert (code, json.loads(out)["requests"], json.loads(out)["slo_met"]) == (0, 10, True), err
    assert finish(teg_load(*common, "--slo-ms", "0.000001"))[0] == 1
    server.refuse_every = 5
    assert finish(teg_load(*common))[0] == 1
    code, _, err = finish(teg_load("--url", "127.0.0.1:1", "--rate", "9", "--requests", "1"))
    assert code == 2
    assert "127.0.0.1:1" in err


def test_a_terminated_child_reports_what_it_sent(server: InferenceServer, tmp_path: Path) -> None:
    """SIGTERM ends the sending; the replies so far are on disk row by row and in the report."""
    record = tmp_path / "answers.csv"
    child = teg_load("--url", server.url, "--rate", "100", "--seconds", "600", "--json", "--csv", str(record))
    try:
        until(lambda: record.exists() and len(read_answers(record)) >= 5, "rows")
        before_ns = time.monotonic_ns()
        assert read_answers(record)[0].done_ns < before_ns, "stamps are of this machine's monotonic clock"
    finally:
        os.kill(child.pid, signal.SIGTERM)
        code, out, err = finish(child)
    assert code == 0, err
    assert json.loads(out)["requests"] == len(read_answers(record)) >= 5
