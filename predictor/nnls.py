# SPDX-License-Identifier: Apache-2.0
"""PolyThrottle's predictor of inference latency beside fine-tuning, the baseline to beat.

latency = t0 + t1 FLOPs_inf + t2 AI_inf + t3 FLOPs_ft + t4 AI_ft + t5 batch, no coefficient below zero [Yan, Wang,
Venkataraman, arXiv 2310.19991, section 4]; AI is arithmetic intensity, FLOPs per byte moved. It knows no clocks, no
arrival rate and no quantile: it holds for the clocks and the load of its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Work:
    """What one batch of inference, or one iteration of fine-tuning, computes; nothing by default."""

    flops: float = 0.0
    intensity: float = 0.0
    """FLOPs per byte moved."""


@dataclass(frozen=True, slots=True)
class CoRun:
    """One setting: inference and fine-tuning side by side, and inference's batch size."""

    inference: Work
    training: Work
    batch: int

    @property
    def features(self) -> tuple[float, ...]:
        """The six features in the paper's order, a constant first."""
        work = (self.inference.flops, self.inference.intensity, self.training.flops, self.training.intensity)
        return (1.0, *work, float(self.batch))


class NnlsPredictor:
    """Fitted coefficients t0 to t5, in seconds per unit of their feature."""

    def __init__(self, coefficients: Sequence[float]) -> None:
        self.coefficients = tuple(coefficients)

    @classmethod
    def fitted(cls, samples: Sequence[tuple[CoRun, float]]) -> NnlsPredictor:
        """Non-negative least squares over measured latencies in seconds; `ValueError` without samples."""
        if not samples:
            raise ValueError("no samples to fit")
        features = np.array([setting.features for setting, _ in samples])  # n x 6
        # FLOPs are 1e9 times a batch size; scaling columns changes nothing but the conditioning
        scale = np.maximum(np.abs(features).max(axis=0), 1e-300)
        found, _ = nnls(features / scale, np.array([latency_s for _, latency_s in samples]))
        return cls([float(value) for value in found / scale])

    def predict_s(self, setting: CoRun) -> float:
        """Latency in seconds."""
        return sum(value * feature for value, feature in zip(self.coefficients, setting.features, strict=True))
