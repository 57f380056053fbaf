# SPDX-License-Identifier: Apache-2.0
"""What the governed backend costs: the same models under it and under a bare Python-based backend, in turns.

Both serve in one real Triton server, with the same weights and one compute thread. Rounds alternate between the two,
and a ratio is the median of the rounds' ratios, so that what the host does meanwhile hits both. With one client the
bare model runs without any batching; with four, under Triton's dynamic batcher, and each side at the best of the same
batch limits. `FULL=1` takes more and longer rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from governor.models import packaged_repository
from governor.server import TritonServer
from telemetry.instance_page import InstancePage, Knobs

WORKLOADS = ("identity", "digits_cnn", "bert_mini")
LIMITS = (1, 2, 4)
WINDOWS_S = {"identity": 0.6, "digits_cnn": 0.6, "bert_mini": 2.0}
WINDOWS_FULL_S = {"identity": 2.0, "digits_cnn": 2.0, "bert_mini": 5.0}
CLIENTS = 4
OUT = Path("out/bench/backend.json")
TARGETS = {
    ("bert_mini", "p50_ratio", 1): (0.0, 1.05),
    ("identity", "p50_ratio", 1): (0.0, 1.15),
    ("bert_mini", "throughput_ratio", CLIENTS): (1.0, float("inf")),
}
BARE = Path(__file__).parent / "bare_backend"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int
    window_s: dict[str, float]


@dataclass(slots=True)
class Side:
    """What one backend did over the rounds, by concurrency; latencies in seconds, throughput in requests per second."""

    p50_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    throughput: dict[int, list[float]] = field(default_factory=dict)

    def add(self, limit: int, latencies_s: list[float], window_s: float) -> None:
        self.throughput.setdefault(limit, []).append(len(latencies_s) / window_s)

    def best(self) -> tuple[int, float]:
        """The batch limit with the highest median throughput, and that."""
        medians = {limit: statistics.median(values) for limit, values in self.throughput.items()}
        limit = max(medians, key=medians.__getitem__)
        return limit, medians[limit]


def main(argv: list[str]) -> int:
    """Measure, print, write; 1 if a target is missed."""
    full = os.environ.get("FULL") == "1"
    workloads = argv or WORKLOADS
    effort = Effort(25, WINDOWS_FULL_S) if full else Effort(9, WINDOWS_S)
    begun_s = time.monotonic()
    results = {}
    with tempfile.TemporaryDirectory(prefix="teg-bench-") as folder:
        for workload in workloads:
            results[workload] = _measure(workload, effort, Path(folder) / workload)
            _show(workload, results[workload])
    missed = _missed(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{time.monotonic() - begun_s:.0f} s, {effort.rounds} rounds of {effort.window_s} s -> {OUT}")
    if not full:
        print("left out: longer windows and more rounds (FULL=1); HTTP, shared memory, more than 4 clients")
    for line in missed:
        print(f"target missed: {line}")
    return 1 if missed else 0


def _measure(workload: str, effort: Effort, folder: Path) -> dict[str, Any]:
    repository, inputs = folder / "repository", _inputs(workload)
    repository.mkdir(parents=True)
    _write_models(workload, repository)
    with TritonServer(repository, run_dir=folder / "run", log_path=folder / "log", extra_backends=[BARE]) as server:
        page = InstancePage.open(server.run_dir.instance_page("governed_0_0"), writable=True)
        try:
            return _rounds(server.grpc_url, inputs, page, effort.rounds, effort.window_s[workload])
        finally:
            page.close()


def _rounds(url: str, inputs: list[Any], page: InstancePage, rounds: int, window_s: float) -> dict[str, Any]:
    alone, crowd = {"governed": Side(), "bare": Side()}, {"governed": Side(), "bare": Side()}
    for number in range(-1, rounds):
        order = ("governed", "bare") if number % 2 else ("bare", "governed")
        for name in order:
            page.write_knobs(Knobs(max(LIMITS), 0), ttl_s=60)
            latencies_s = _load(url, "governed" if name == "governed" else "bare_plain", inputs, 1, window_s)
            if number >= 0:  # the first round only warms up
                alone[name].p50_s.append(statistics.median(latencies_s))
                alone[name].latencies_s += latencies_s
                alone[name].add(1, latencies_s, window_s)
        for limit in LIMITS:
            for name in order:
                page.write_knobs(Knobs(limit, 0), ttl_s=60)
                model = "governed" if name == "governed" else f"bare_{limit}"
                latencies_s = _load(url, model, inputs, CLIENTS, window_s)
                if number >= 0:
                    crowd[name].add(limit, latencies_s, window_s)
                    crowd[name].p50_s.append(statistics.median(latencies_s))
                    crowd[name].latencies_s += latencies_s
    return {"1": _compare(**alone), str(CLIENTS): _compare(**crowd)}


def _compare(governed: Side, bare: Side) -> dict[str, Any]:
    (our_limit, _), (their_limit, _) = governed.best(), bare.best()
    ours, theirs = governed.throughput[our_limit], bare.throughput[their_limit]
    return {
        "p50_ratio": _median_ratio(governed.p50_s, bare.p50_s),
        "p99_ratio": float(np.quantile(governed.latencies_s, 0.99) / np.quantile(bare.latencies_s, 0.99)),
        "throughput_ratio": _median_ratio(ours, theirs),
        "governed": {"p50_ms": _p50_ms(governed), "requests_per_s": statistics.median(ours), "batch_limit": our_limit},
        "bare": {"p50_ms": _p50_ms(bare), "requests_per_s": statistics.median(theirs), "batch_limit": their_limit},
    }


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _p50_ms(side: Side) -> float:
    return statistics.median(side.latencies_s) * 1e3


def _load(url: str, model: str, inputs: list[Any], clients: int, window_s: float) -> list[float]:
    """Latencies in seconds of a closed loop of `clients`, each with its own connection, for `window_s`."""
    latencies_s: list[float] = []
    barrier = threading.Barrier(clients)

    def ask() -> None:
        own = []
        # a channel of its own: gRPC otherwise shares one connection between equal clients
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.InferenceServerClient(url, channel_args=options) as client:
            client.infer(model, inputs)
            barrier.wait()
            end_s = time.perf_counter() + window_s
            while (now_s := time.perf_counter()) < end_s:
                client.infer(model, inputs)
                own.append(time.perf_counter() - now_s)
        latencies_s.extend(own)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies_s


def _inputs(workload: str) -> list[Any]:
    generator = np.random.default_rng(1)
    makers: dict[str, Callable[[], list[tuple[str, str, Any]]]] = {
        "identity": lambda: [("INPUT0", "FP32", generator.random((1, 1024), np.float32))],
        "digits_cnn": lambda: [("IMAGE", "FP32", generator.random((1, 1, 8, 8), np.float32))],
        "bert_mini": lambda: [
            ("INPUT_IDS", "INT64", generator.integers(0, 1000, (1, 64))),
            ("ATTENTION_MASK", "INT64", np.ones((1, 64), np.int64)),
        ],
    }
    tensors = []
    for name, dtype, array in makers[workload]():
        tensor = grpc.InferInput(name, array.shape, dtype)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _write_models(workload: str, repository: Path) -> None:
    """The governed model as it ships, and bare ones: without batching, and one per batch limit."""
    source = packaged_repository() / workload
    config = (source / "config.pbtxt").read_text()
    # the model has another name here than its architecture
    named = f', {{ key: "architecture", value: {{ string_value: "{workload}" }} }} ]'
    config = config.rstrip().removesuffix("]").rstrip() + named + "\n"
    _write_model(repository / "governed", config, source)
    bare = config.replace('backend: "governed"', 'backend: "bare_backend"')
    _write_model(repository / "bare_plain", bare.replace("dynamic_batching { }\n", ""), source)
    for limit in LIMITS:
        lines = [f"max_batch_size: {limit}" if line.startswith("max_batch") else line for line in bare.splitlines()]
        _write_model(repository / f"bare_{limit}", "\n".join(lines), source)


def _write_model(folder: Path, config: str, source: Path) -> None:
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config)
    for entry in source.iterdir():
        if entry.name != "config.pbtxt":
            (folder / entry.name).symlink_to(entry)


def _show(workload: str, result: dict[str, Any]) -> None:
    for clients, row in result.items():
        ours, theirs = row["governed"], row["bare"]
        rates = f"{ours['requests_per_s']:7.1f} : {theirs['requests_per_s']:7.1f} requests/s"
        print(
            f"{workload:12} {clients} client(s)  p50 {ours['p50_ms']:6.2f} : {theirs['p50_ms']:6.2f} ms"
            f" ({row['p50_ratio']:.3f})  p99 ({row['p99_ratio']:.3f})"
            f"  {rates} ({row['throughput_ratio']:.3f})  batch limits {ours['batch_limit']} : {theirs['batch_limit']}",
            flush=True,
        )


def _missed(results: dict[str, Any]) -> list[str]:
    lines = []
    for (model, figure, clients), (low, high) in TARGETS.items():
        value = results[model][str(clients)][figure] if model in results else low
        if not low <= value <= high:
            lines.append(f"{model} {figure} at {clients}: {value:.3f} is outside {low} to {high}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
