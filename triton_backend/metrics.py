# SPDX-License-Identifier: Apache-2.0
"""Our metrics on Triton's own endpoint.

A metric operation that Triton refuses can abort the whole server, although Python sees an exception. So every operation
is judged here first, against what the family was declared as; one that would be refused is counted and held back.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from telemetry.instance_page import Status
from telemetry.metrics import BACKEND, Metric

from .tally import Tally

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
logger = logging.getLogger(__name__)


def acceptable(metric: Metric) -> bool:
    """Whether Triton takes this declaration."""
    buckets = metric.buckets
    ascending = all(low < high for low, high in pairwise(buckets))
    finite = all(math.isfinite(bucket) for bucket in buckets)
    fits_kind = bool(buckets) == (metric.kind == "histogram")
    named = bool(_NAME.fullmatch(metric.name)) and all(_LABEL.fullmatch(label) for label in metric.labels)
    return named and ascending and finite and fits_kind


class Family:
    """One metric family and its series; `drops` counts the operations held back."""

    def __init__(self, metric: Metric, create: Callable[..., Any]) -> None:
        if not acceptable(metric):
            raise ValueError(f"metric {metric.name!r}: Triton would refuse this declaration")
        self._metric = metric
        self.drops = 0
        kind = {"counter": create.COUNTER, "gauge": create.GAUGE, "histogram": create.HISTOGRAM}[metric.kind]  # type: ignore[attr-defined]
        # every operation fails once the family is collected, so it lives as long as its series
        self._family = create(name=metric.name, description=metric.help, kind=kind)
        self._series: dict[tuple[str, ...], Any] = {}

    def increment(self, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter."""
        if self._takes("counter", value, labels) and value >= 0:
            series = self._one(labels)
            if value:
                series.increment(value)
        else:
            self.drops += 1

    def set(self, value: float, labels: Mapping[str, str]) -> None:
        """Set a gauge."""
        if self._takes("gauge", value, labels):
            self._one(labels).set(value)
        else:
            self.drops += 1

    def observe(self, value: float, labels: Mapping[str, str]) -> None:
        """Put one value into a histogram."""
        if self._takes("histogram", value, labels):
            self._one(labels).observe(value)
        else:
            self.drops += 1

    def _takes(self, kind: str, value: float, labels: Mapping[str, str]) -> bool:
        return kind == self._metric.kind and math.isfinite(value) and tuple(labels) == self._metric.labels

    def _one(self, labels: Mapping[str, str]) -> Any:
        key = tuple(labels.values())
        if key not in self._series:
            buckets = {"buckets": list(self._metric.buckets)} if self._metric.buckets else {}
            self._series[key] = self._family.Metric(labels=dict(labels), **buckets)
        return self._series[key]


class Exporter:
    """Pushes one instance's tallies; silent after one log line where the server keeps no metrics."""

    def __init__(self, create: Callable[..., Any], labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._families: dict[str, Family] = {}
        try:
            self._families = {metric.name: Family(metric, create) for metric in BACKEND}
        except Exception as error:  # noqa: BLE001 - Triton's exception type exists only inside its stub
            logger.warning("this server takes no metrics: %s", error)

    def push(self, tally: Tally) -> None:
        """Add one tally to the server's metrics."""
        if not self._families:
            return
        try:
            self._push(tally)
        except Exception:
            # after a refusal the server may be about to abort: never try again
            logger.exception("metrics are given up")
            self._families = {}

    def _push(self, tally: Tally) -> None:
        families, labels = self._families, self._labels
        for status in Status:
            families["teg_requests_total"].increment(tally.requests[status], {**labels, "status": status.name.lower()})
        families["teg_batches_total"].increment(tally.batches, labels)
        families["teg_busy_seconds_total"].increment(tally.busy_ns / 1e9, labels)
        families["teg_knobs_ignored_total"].increment(tally.knobs_ignored, labels)
        families["teg_queue_depth"].set(tally.queue_depth, labels)
        families["teg_batch_limit"].set(tally.batch_limit, labels)
        observed = (
            ("teg_queue_seconds", tally.queue_s),
            ("teg_request_seconds", tally.request_s),
            ("teg_batch_size", tally.batch_sizes),
        )
        for name, reservoir in observed:
            for value in reservoir.values:
                families[name].observe(value, labels)
        self._report_drops()

    def _report_drops(self) -> None:
        drops = sum(family.drops for family in self._families.values())
        for family in self._families.values():
            family.drops = 0
        self._families["teg_metric_drops_total"].increment(drops, self._labels)
