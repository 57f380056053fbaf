# SPDX-License-Identifier: Apache-2.0
"""The rows that are automated, in the order in which they run: the short ones first."""

from __future__ import annotations

from .record import Row

ROWS = {
    row.number: row
    for row in (
        Row("15", "clockd killed at any instant", 236, "kills:clockd_killed", real=236, thin=11),
    )
}
