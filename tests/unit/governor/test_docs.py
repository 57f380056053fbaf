# SPDX-License-Identifier: Apache-2.0
"""The pages of documentation that state what the code states."""

from __future__ import annotations

import re
from pathlib import Path

from governor.hand import KNOBS_TTL_S
from telemetry.metrics import BACKEND, GOVERNOR

DOCS = Path(__file__).resolve().parents[3] / "docs"
ROW = re.compile(r"^\| `(teg_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)


def test_the_page_of_metrics_is_the_list_of_metrics() -> None:
    """Every metric has its row, in order, with kind, labels and help text; and no row is without a metric."""
    rows = ROW.findall((DOCS / "metrics.md").read_text())
    assert rows == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels) or "-", metric.help)
        for metric in (*BACKEND, *GOVERNOR)
    ]


def test_expressions_use_metrics_that_exist() -> None:
    """A name in a query of the page is one of the list, or a histogram's series."""
    queries = re.findall(r"`([^`]*\(teg_[^`]*)`", (DOCS / "metrics.md").read_text())
    named = set(re.findall(r"teg_\w+", " ".join(queries)))
    listed = {metric.name for metric in (*BACKEND, *GOVERNOR)}
    assert len(named) >= 6
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= listed


def test_the_page_of_safety_states_the_times_to_live() -> None:
    """Of the lease and of the knobs, as they are set."""
    page = (DOCS / "safety.md").read_text()
    assert "3 s (`lease_ttl_s`, at most 5)" in page
    assert f"expire within {KNOBS_TTL_S:g} s" in page
