# SPDX-License-Identifier: Apache-2.0
"""Boards as a few rates: what operations and transfers cost where nothing was timed.

Seconds = flop / (flop/s), joules = flop / (flop/J); a transfer takes latency + bytes / bandwidth, at the storage's
power [POET]. A profile measured on the board is better in every way; a plan says which of the two it rests on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..errors import GraphInvalid
from ..problem import Costs

FOLDER = Path(__file__).parent / "platforms"
Origin = Literal["published", "derived"]


@dataclass(frozen=True, slots=True)
class Platform:
    """One board; `origin` and `source` say where its figures are from, `note` what to know before trusting them."""

    name: str
    board: str
    origin: Origin
    source: str
    note: str
    flop_per_s: float
    flop_per_j: float
    read_latency_s: float
    read_bytes_per_s: float
    write_latency_s: float
    write_bytes_per_s: float
    transfer_w: float
    idle_w: float

    def costs(self, flops: Sequence[float], sizes_bytes: Sequence[int]) -> Costs:
        """What ops of so many operations and storages of so many bytes cost here; no workspace is known."""
        write_s = tuple(self.write_latency_s + size / self.write_bytes_per_s for size in sizes_bytes)
        read_s = tuple(self.read_latency_s + size / self.read_bytes_per_s for size in sizes_bytes)
        return Costs(
            time_s=tuple(flop / self.flop_per_s for flop in flops),
            energy_j=tuple(flop / self.flop_per_j for flop in flops),
            workspace_bytes=(0,) * len(flops),
            write_s=write_s,
            write_j=tuple(seconds * self.transfer_w for seconds in write_s),
            read_s=read_s,
            read_j=tuple(seconds * self.transfer_w for seconds in read_s),
            idle_w=self.idle_w,
        )


def platform_names() -> list[str]:
    """The shipped platforms, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_platform(name: str) -> Platform:
    """A shipped platform by name, or one from a file; raises `GraphInvalid` for a figure that cannot be."""
    path = FOLDER / f"{name}.json" if name in platform_names() else Path(name)
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise GraphInvalid(name, f"is neither a file nor one of {', '.join(platform_names())}") from error
    except ValueError as error:
        raise GraphInvalid(name, f"is not JSON: {error}") from error
    expected = {column.name for column in fields(Platform)}
    if not isinstance(found, dict) or set(found) != expected:
        raise GraphInvalid(name, f"must have exactly {', '.join(sorted(expected))}")
    for key in sorted(expected - {"name", "board", "origin", "source", "note"}):
        _check(f"{name}: {key}", found[key], zero_too=key.endswith("latency_s") or key in ("transfer_w", "idle_w"))
    return Platform(**found)


def _check(where: str, value: object, *, zero_too: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or float(str(value)) < 0 or (not zero_too and not value):
        raise GraphInvalid(where, f"must be finite and {'not negative' if zero_too else 'above zero'}, got {value!r}")
