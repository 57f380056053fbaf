# SPDX-License-Identifier: Apache-2.0
"""The load that the trials of a history were judged at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..history import positive


def offered_hz(rows: Iterable[Mapping[str, Any]], digest: str) -> float | None:
    """Requests per second offered to all models of a subject by its last trial that says so; None if none does."""
    loads = [row.get("load_hz") for row in rows if row["kind"] == "trial" and row["subject"] == digest]
    rates = [rate for load in loads if (rate := _rate_hz(load)) is not None]
    return rates[-1] if rates else None


def _rate_hz(load: object) -> float | None:
    if not isinstance(load, Mapping) or not load:
        return None
    try:
        return sum(positive(rate) for rate in load.values())
    except (ValueError, OverflowError):
        return None
