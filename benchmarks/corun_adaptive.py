# SPDX-License-Identifier: Apache-2.0
"""PolyThrottle's scheduler of fine-tuning, as published: whole iterations, while its predictor sees room.

Before each iteration its linear predictor tells how long a batch of inference would take beside it. If some batch limit
is predicted to serve all that waits, and one request more, within the objective, the largest such limit is set and the
iteration runs, which nothing can interrupt any more; else the iteration waits. The predictor is fitted to a few
settings that vary both batch sizes. Requests are not dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from finetune.capturing.models import load
from governor.latency import service_times
from predictor.nnls import CoRun, NnlsPredictor, Work
from telemetry.instance_page import Knobs
from telemetry.rundir import RunDir

from .corun_stage import Stage
from .corun_trainers import BATCHES, NONE, Arm, Eager

SIZES = (1, 2, 4)
"""Batch sizes of inference that are measured; limits up to twice the last are considered."""
HALF, WHOLE = Arm("half"), Arm("whole")
BURSTS, FILL_S = 6, 0.03
LOOK_S = 0.001
KNOBS_S = 5.0


@dataclass(frozen=True, slots=True)
class Predicted:
    """Seconds of a batch of inference beside an iteration, by batch limit, and the objective within the server."""

    batch_s: dict[int, float]
    slo_s: float

    def limit_for(self, waiting: int) -> int | None:
        """The largest limit that serves those who wait, and one more, in time; None if there is none."""
        fit = [
            limit for limit, seconds in self.batch_s.items() if math.ceil((waiting + 1) / limit) * seconds <= self.slo_s
        ]
        return max(fit, default=None)


class Adaptive(Eager):
    """Iterations as a whole, each once the predictor sees room for it."""

    def __init__(self, model: str, run_dir: RunDir, predicted: Predicted) -> None:
        super().__init__(model)
        self._predicted = predicted
        self._pages = list(run_dir.open_instances(writable=True))

    def due(self) -> bool:
        """Whether some batch limit leaves room; it is set."""
        limit = self._predicted.limit_for(sum(page.in_flight for page in self._pages))
        if limit is None:
            time.sleep(LOOK_S)
            return False
        for page in self._pages:
            page.write_knobs(Knobs(limit, 0), KNOBS_S)
        return True

    def close(self) -> None:
        """Let go of the pages."""
        for page in self._pages:
            page.close()


def fitted(stage: Stage, slo_s: float) -> Predicted:
    """Measure inference of a few batch sizes alone, beside half an iteration's batch and beside a whole one; fit."""
    full = BATCHES[stage.model]
    sizes = Sizes.of(stage.model)
    samples: list[tuple[CoRun, float]] = []
    for arm, batch in ((NONE, 0), (HALF, full // 2), (WHOLE, full)):
        if batch:
            stage.start(arm, partial(Eager, stage.model, batch))
        for size, seconds in _batches(stage, arm).items():
            samples.append((CoRun(sizes.inference(size), sizes.training(batch), size), seconds))
        stage.stop(arm)
    predictor = NnlsPredictor.fitted(samples)
    limits = [limit for limit in (*SIZES, 2 * SIZES[-1]) if limit <= stage.batch_limit]
    batch_s = {
        limit: predictor.predict_s(CoRun(sizes.inference(limit), sizes.training(full), limit)) for limit in limits
    }
    return Predicted(batch_s, slo_s)


def _batches(stage: Stage, arm: Arm) -> dict[int, float]:
    """Mean seconds of a batch of each size beside an arm, from bursts of so many requests."""
    found: dict[int, float] = {}
    gap_s = 0.1
    for size in SIZES:
        stage.request_knobs(Knobs(size, int(FILL_S * 1e9)))
        played = stage.play([number * gap_s for number in range(BURSTS) for _ in range(size)], arm)
        times_s: Sequence[float] = service_times(played.samples, FILL_S).seconds.get(size, ())
        if times_s:
            found[size] = sum(times_s) / len(times_s)
            gap_s = FILL_S + 3 * found[size]
    stage.request_knobs(Knobs(stage.batch_limit, 0))
    return found


@dataclass(frozen=True, slots=True)
class Sizes:
    """FLOPs of one sample, bytes of the weights, and bytes of what the layers hand on for one sample."""

    flops: float
    weights_bytes: int
    handed_bytes: int

    @classmethod
    def of(cls, name: str) -> Sizes:
        """Those of a model of the repository."""
        model, _, batch = load(name, 1)
        handed_bytes = 0

        def count(_module: nn.Module, _inputs: object, output: object) -> None:
            nonlocal handed_bytes
            if isinstance(output, Tensor):
                handed_bytes += output.nbytes

        for module in model.modules():
            module.register_forward_hook(count)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            model.eval()(*batch[:-1])
        weights_bytes = sum(parameter.nbytes for parameter in model.parameters())
        return cls(counter.get_total_flops(), weights_bytes, handed_bytes)

    def inference(self, batch: int) -> Work:
        """A batch of inference."""
        flops = batch * self.flops
        return Work(flops, flops / (self.weights_bytes + batch * self.handed_bytes))

    def training(self, batch: int) -> Work:
        """An iteration: three times the work of inference, and the bytes; nothing for an empty batch."""
        found = self.inference(batch)
        return Work(3 * found.flops, found.intensity) if batch else Work()
