# SPDX-License-Identifier: Apache-2.0
"""The fault suite, thinned: every seventh or so point of the kill rows, a few of each of the others."""

from __future__ import annotations

import shutil

import pytest

from tests.faults.runner import run_row
from tests.faults.stage import is_root
from tests.faults.table import ROWS

pytestmark = [pytest.mark.external, pytest.mark.timeout(300)]


def test_strace_and_root_are_there() -> None:
    """Without them no fault can be injected; a suite that injects nothing proves nothing."""
    assert is_root()
    assert shutil.which("strace")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_fault_table(name: str) -> None:
    """Every injected fault has the outcome that docs/faults.md promises."""
    row = ROWS[name]
    result = run_row(row, row.thin)
    assert result["failures"] == []
    assert result["injected"] > 0
