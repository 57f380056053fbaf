# SPDX-License-Identifier: Apache-2.0
"""Tables of a benchmark in Markdown, and their place in a document: between two marks, for what stands there."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def target_cells(aim: Mapping[str, Any]) -> list[str]:
    """The cells of a target, as its fields are in a summary: verdict, rows, what and where not."""
    met = "met" if aim["of"] and aim["met"] == aim["of"] else "**missed**" if aim["of"] else "not run"
    where = f"; not: {', '.join(aim['missed'])}" if aim["missed"] else ""
    return [met, f"{aim['met']} of {aim['of']}", aim["what"] + where]


def marks(name: str) -> tuple[str, str]:
    """The lines between which a benchmark's tables stand."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put(document: str, tables: str, name: str) -> str:
    """A document with these tables between a benchmark's marks; raises `ValueError` if it has none."""
    begin, end = marks(name)
    before, _, rest = document.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"there are no lines {begin} and {end}")
    return f"{before}{begin}\n{tables}{end}{after}"


def publish(tables: str, name: str, documents: Sequence[str]) -> None:
    """Put a benchmark's tables into the documents named, or print them if there are none."""
    for document in map(Path, documents):
        document.write_text(put(document.read_text(), tables, name))
    if not documents:
        sys.stdout.write(tables)
