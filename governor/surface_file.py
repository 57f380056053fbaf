# SPDX-License-Identifier: Apache-2.0
"""One measured surface as JSON: a table of trials, and whose it is. Nothing in it is believed before it is checked."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boards.clocks import KNOBS

from .errors import SurfaceInvalid
from .points import Table, is_batch

FORMAT = 1
MAX_ROWS = 1024
MAX_MODELS = 16
LEVEL = 1.25
"""Loads that differ by less than about this factor are one level."""

_NAME = re.compile(r"[ -.0-~]{1,128}")
"""Printable, and no part of a path."""
_MOST = 1e15
FIGURES = ("latency_s", "energy_j")


@dataclass(frozen=True, slots=True)
class Surface:
    """What was measured of some models on a board: equally long `columns` under the knobs' names and `FIGURES`."""

    board: str
    virtual: bool
    models: tuple[str, ...]
    slo_s: float
    rate_hz: float
    columns: Mapping[str, tuple[float, ...]]

    @property
    def key(self) -> str:
        """A file's name: equal for surfaces of the same board, models, knobs, objective and level of load."""
        level = round(math.log(self.rate_hz) / math.log(LEVEL))
        identity = [self.board, self.virtual, self.models, self.knobs, self.slo_s, level]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @property
    def knobs(self) -> tuple[str, ...]:
        """The knobs, sorted."""
        return tuple(sorted(set(self.columns) - set(FIGURES)))

    @property
    def name(self) -> str:
        """For people."""
        return f"{' + '.join(self.models)} at {self.rate_hz:.3g}/s on {self.board}"

    @property
    def table(self) -> Table:
        """As a search takes it for its prior: the load belongs to it, since idle energy does."""
        columns = {name: list(values) for name, values in self.columns.items()}
        return {**columns, "name": self.name, "rate_hz": self.rate_hz}

    def merged(self, earlier: Surface) -> Surface:
        """With the rows of an earlier surface at points that this one lacks; the newest `MAX_ROWS` of them."""
        if set(earlier.columns) != set(self.columns):
            return self
        have = set(zip(*(self.columns[knob] for knob in self.knobs), strict=True))
        points = list(zip(*(earlier.columns[knob] for knob in self.knobs), strict=True))
        extra = [number for number, point in enumerate(points) if point not in have]
        columns = {
            name: (*(earlier.columns[name][number] for number in extra), *values)[-MAX_ROWS:]
            for name, values in self.columns.items()
        }
        return Surface(self.board, self.virtual, self.models, self.slo_s, self.rate_hz, columns)

    def encode(self) -> bytes:
        """The file's content."""
        about = {"format": FORMAT, "board": self.board, "virtual": self.virtual, "models": self.models}
        figures = {"slo_s": self.slo_s, "rate_hz": self.rate_hz, "name": self.name}
        return json.dumps({**about, **figures, **self.columns}, indent=1).encode()


def parse(value: Any) -> Surface:
    """The surface in a JSON value; raises `SurfaceInvalid` naming what is wrong with it."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise SurfaceInvalid(f"not a surface of format {FORMAT}")
    models = value.get("models")
    if not isinstance(models, list) or not 0 < len(models) <= MAX_MODELS:
        raise SurfaceInvalid(f"models: 1 to {MAX_MODELS} names")
    if not isinstance(value.get("virtual"), bool):
        raise SurfaceInvalid("virtual: true or false")
    columns = {name: _column(name, entry) for name, entry in value.items() if name in FIGURES or _is_knob(name)}
    lengths = {len(column) for column in columns.values()}
    if not set(FIGURES) < set(columns) or len(lengths) != 1:
        raise SurfaceInvalid("some knob, latency_s and energy_j, all of one length")
    surface = Surface(
        _name("board", value.get("board")),
        value["virtual"],
        tuple(_name("models", model) for model in models),
        _positive("slo_s", value.get("slo_s")),
        _positive("rate_hz", value.get("rate_hz")),
        columns,
    )
    if surface.virtual != surface.board.startswith("virtual:"):
        raise SurfaceInvalid("a virtual board says so in its name, and no other does")
    return surface


def of_table(
    table: Table, board: str, models: Sequence[str], slo_s: float, rate_hz: float, *, virtual: bool
) -> Surface:
    """The surface of a table of trials; raises `SurfaceInvalid` if it is none, for example without rows."""
    columns = {name: column for name, column in table.items() if name not in ("name", "rate_hz")}
    about = {"format": FORMAT, "board": board, "virtual": virtual, "models": list(models)}
    return parse({**about, "slo_s": slo_s, "rate_hz": rate_hz, **columns})


def _is_knob(name: str) -> bool:
    return name in KNOBS or (is_batch(name) and _NAME.fullmatch(name) is not None)


def _column(name: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_ROWS:
        raise SurfaceInvalid(f"{name}: 1 to {MAX_ROWS} numbers")
    return tuple(_positive(name, number) for number in value)


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
        raise SurfaceInvalid(f"{name}: not a positive number: {str(value)[:40]}")
    return float(value)


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SurfaceInvalid(f"{key}: not a name: {str(value)[:40]!r}")
    return value
