# SPDX-License-Identifier: Apache-2.0
"""The fault suite, thinned: some tenth of the kill rows, a few of each of the others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.runner import Json, run_row
from tests.faults.stage import is_root
from tests.faults.table import ROWS

pytestmark = [pytest.mark.external, pytest.mark.timeout(300)]


def test_strace_and_root_are_there() -> None:
    """Without them no fault can be injected; a suite that injects nothing proves nothing."""
    assert is_root()
    assert shutil.which("strace")


WAITING = ("3", "26", "29")
"""Rows that spend half a minute waiting for the product to look again, or a lease to end, while the others work."""


@pytest.fixture(scope="module")
def waiting() -> Iterator[dict[str, Future[Json]]]:
    with ThreadPoolExecutor(len(WAITING)) as pool:
        yield {name: pool.submit(run_row, ROWS[name], ROWS[name].thin) for name in WAITING}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_fault_table(name: str, waiting: dict[str, Future[Json]]) -> None:
    """Every injected fault has the outcome that docs/faults.md promises."""
    row = ROWS[name]
    result = waiting[name].result() if name in waiting else run_row(row, row.thin)
    assert result["failures"] == []
    assert result["injected"] > 0
