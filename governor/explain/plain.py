# SPDX-License-Identifier: Apache-2.0
"""A report as a JSON object: SI units, null where nothing is known. `docs/explain.md` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..points import Predicted
from ..subjects import SubjectLog
from ..trial import Invalid
from .advice import advice
from .forecast import Choice, Tried
from .opinions import Expected, likely_s
from .report import Report
from .summary import headline, notes

FORMAT = 1


def to_json(report: Report) -> dict[str, Any]:
    """The report."""
    return {
        "format": FORMAT,
        "answer": report.answer.value,
        "headline": headline(report),
        "advice": advice(report),
        "notes": notes(report),
        "subject": subject_json(report.log),
        "slo_s": report.slo_s,
        "rate_hz": report.log.rate_hz,
        "held": report.held_now,
        "chosen": _choice(report.chosen),
        "best": _choice(report.best),
        "maximum_clocks": _choice(report.top),
        "saving": report.saving and asdict(report.saving),
        "probability_feasible": report.chance,
        "trials": [_tried(tried) for tried in report.trials],
        "knobs": [
            {"knob": worth.knob, "value": worth.value, "top": worth.top, "expected_at_top": _predicted(worth.there)}
            for worth in report.worths
        ],
        "slices": {knob: [_expected(one) for one in along] for knob, along in report.slices.items()},
        "frontier": [_expected(one) for one in report.frontier],
        "slo_prices": [
            {"factor": price.factor, "slo_s": price.limit_s, "cheapest": _expected(price.cheapest)}
            for price in report.prices
        ],
        "without_slo": _expected(report.free),
        "promise": report.promise and {"share": report.promise.share, **_of(report.promise.expected)},
        "lowest_latency": report.fastest
        and {"point": report.fastest.point, "latency_s": report.fastest.latency_s, "energy_j": report.fastest.energy_j},
        "reachable": report.reachable and {"slo_s": likely_s(report.reachable.figures), **_of(report.reachable)},
        "damaged_records": report.damaged,
        "other_subjects": [subject_json(other) for other in report.others],
    }


def subject_json(log: SubjectLog) -> dict[str, Any]:
    """What was tuned, and how many trials there are of it."""
    return {"digest": log.digest, "trials": len(log.trials), **_listed(asdict(log.subject))}


def _tried(tried: Tried) -> dict[str, Any]:
    record = tried.record
    return {
        "number": tried.number,
        "point": record.point,
        "outcome": type(record.outcome).__name__.lower(),
        "reason": record.outcome.reason if isinstance(record.outcome, Invalid) else None,
        "energy_j": record.energy_j,
        "latency_s": record.latency_s,
        "energy_half_width": record.energy_half_width,
        "latency_half_width": record.latency_half_width,
        "window_s": record.window_s,
        "requests": record.requests,
        "expected_before": _predicted(tried.before),
        "expected_now": _predicted(tried.now),
    }


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    measured = {"trials": choice.trials, "energy_j": choice.energy_j, "latency_s": choice.latency_s}
    return {"point": choice.point, **measured, "expected": _predicted(choice.expected)}


def _expected(one: Expected | None) -> dict[str, Any] | None:
    return _of(one) if one else None


def _of(one: Expected) -> dict[str, Any]:
    return {"point": one.point, "expected": _predicted(one.figures)}


def _predicted(figures: Predicted | None) -> dict[str, Any] | None:
    return asdict(figures) if figures else None


def _listed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as they come back from JSON text."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
