# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus, with the configuration that we ship, scrapes a real governed server and governor."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.stack import TEG, Stack, child, running
from governor.load import LoadPlan, draw_arrivals, run_load
from telemetry.metrics import BACKEND, GOVERNOR

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.external, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[dict[str, object]]]]:
    """Asks a Prometheus that has scraped a governed `digits_cnn` under load."""
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        served = stack.enter_context(running(folder, "digits_cnn"))
        log = stack.enter_context((folder / "governor.log").open("w"))
        arguments = [*TEG, "run", "--run-dir", str(served.run_dir.root), "--metrics-port", str(free_port())]
        arguments += ["--trials", "2", "--trial-s", "1", "--slo-s", "1.0"]
        stack.enter_context(child(subprocess.Popen(arguments, stderr=log)))
        port = start_prometheus(stack, folder, served, arguments[arguments.index("--metrics-port") + 1])
        stack.enter_context(loaded(served))
        for text in ('teg_requests_total{status="ok"} > 100', "teg_trials_total"):
            assert ask(port, text)
        yield lambda text: ask(port, text)


@contextmanager
def loaded(served: Stack) -> Iterator[None]:
    """Open-loop load for as long as the block lasts: rates are of what happens while they are asked for."""
    stop = threading.Event()
    plan = LoadPlan(served.grpc_url, "digits_cnn", draw_arrivals(40.0, 1, seconds=900.0))
    thread = threading.Thread(target=lambda: run_load(plan, stopped=stop.is_set))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def start_prometheus(stack: ExitStack, folder: Path, served: Stack, governor_port: str) -> int:
    """Prometheus on a free port with our configuration, its targets replaced by this test's ports."""
    ports = json.loads((served.run_dir.root / "serve.json").read_text())
    text = (ROOT / "deploy" / "prometheus.yml").read_text()
    text = text.replace(":8002", f":{ports['metrics']}").replace(":9402", f":{governor_port}")
    config = folder / "prometheus.yml"
    config.write_text(text.replace("scrape_interval: 5s", "scrape_interval: 1s"))
    binary, port = shutil.which("prometheus"), free_port()
    assert binary, "prometheus is missing: apt-get install prometheus"
    log = stack.enter_context((folder / "prometheus.log").open("w"))
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    stack.enter_context(child(subprocess.Popen([binary, *options], stderr=log)))
    return port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, text: str) -> list[dict[str, object]]:
    """The result of an instant query, asked again until there is one, for two minutes at most."""
    deadline_s = time.monotonic() + 120.0
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(text)}"
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                result: list[dict[str, object]] = json.load(answer)["data"]["result"]
        except OSError:
            result = []
        if result or time.monotonic() > deadline_s:
            return result
        time.sleep(0.5)


@pytest.mark.parametrize("job", ["triton", "teg"])
def test_both_targets_are_up(query: Callable[[str], list[dict[str, object]]], job: str) -> None:
    """The configuration in deploy/ reaches Triton's endpoint and the governor's."""
    assert query(f'up{{job="{job}"}} == 1')


def test_requests_and_joules_arrive(query: Callable[[str], list[dict[str, object]]]) -> None:
    """The two figures that people plot: joules of the board, and requests answered by the model."""
    assert query("teg_board_energy_joules_total > 0")
    assert query('teg_requests_total{model="digits_cnn", status="ok"} > 100')
    assert query("sum(rate(teg_board_energy_joules_total[10s])) / sum(rate(teg_requests_total[10s])) > 0")


def test_every_name_that_arrives_is_in_the_list(query: Callable[[str], list[dict[str, object]]]) -> None:
    """No metric of ours leaves without a line in `telemetry.metrics`."""
    known = {metric.name for metric in (*BACKEND, *GOVERNOR)}
    suffixes = ("_bucket", "_sum", "_count", "_created")
    names = {str(row["metric"]["__name__"]) for row in query('{__name__=~"teg_.+"}')}  # type: ignore[index]
    stems = {next((name.removesuffix(end) for end in suffixes if name.endswith(end)), name) for name in names}
    assert len(names) > 10
    assert {stem for stem in stems if stem not in known} == set()


def test_promtool_accepts_the_configuration() -> None:
    """`promtool check config` has nothing to say against the file that we ship."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus"
    done = subprocess.run([promtool, "check", "config", str(ROOT / "deploy" / "prometheus.yml")], capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
