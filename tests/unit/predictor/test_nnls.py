# SPDX-License-Identifier: Apache-2.0
"""PolyThrottle's predictor, on samples made by its own formula and by others."""

from __future__ import annotations

import random

import pytest

from predictor.nnls import CoRun, NnlsPredictor, Work


def settings() -> list[CoRun]:
    rng = random.Random(1)
    return [
        CoRun(
            Work(batch * rng.choice((4e8, 2e9)), rng.uniform(5, 30)),
            Work(rng.choice((0.0, 1e9, 8e9, 6e10)), rng.uniform(5, 60)),
            batch,
        )
        for batch in (1, 2, 4, 8) * 6
    ]


def test_coefficients_of_the_formula_are_found_across_magnitudes() -> None:
    """FLOPs in billions beside a constant in milliseconds."""
    truth = NnlsPredictor([0.004, 2e-11, 1e-5, 3e-12, 2e-5, 0.0007])
    found = NnlsPredictor.fitted([(setting, truth.predict_s(setting)) for setting in settings()])
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


def test_no_coefficient_is_negative() -> None:
    """Where larger batches take less, the batch is left out."""
    found = NnlsPredictor.fitted([(setting, 0.02 - 0.001 * setting.batch) for setting in settings()])
    assert min(found.coefficients) >= 0
    assert found.coefficients[5] == 0


def test_it_knows_no_queue() -> None:
    """Two loads with the same work have one prediction, however unlike their latencies."""
    setting = CoRun(Work(4e8, 20.0), Work(), 1)
    found = NnlsPredictor.fitted([(setting, 0.01), (setting, 0.03)])
    assert found.predict_s(setting) == pytest.approx(0.02)


def test_no_samples_are_refused() -> None:
    """Nothing fits nothing."""
    with pytest.raises(ValueError, match="no samples"):
        NnlsPredictor.fitted([])
