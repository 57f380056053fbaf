# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark that can be resumed, each a file of its own: there whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_row(path: Path) -> dict[str, Any] | None:
    """The row in a file; None without one, and for one that cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def keep_row(path: Path, row: dict[str, Any]) -> None:
    """Keep a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(row))
    whole.replace(path)
