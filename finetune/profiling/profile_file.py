# SPDX-License-Identifier: Apache-2.0
"""Profiles as JSON files, to plan on one machine for another.

`format: 1`, then the fields of `Profile`; `ops` is a list of objects with `name` first, in the graph's order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from telemetry.durable import replace

from ..capturing.optimizer import STATES
from ..capturing.updates import UpdateCost
from ..errors import GraphInvalid
from ..profile import OpCost, Profile
from .channel import Speeds
from .energy import Power

FORMAT = 1
_SCALARS = {"graph_digest": str, "machine": str, "torch": str, "threads": int, "repeats": int}
Record = TypeVar("Record", OpCost, UpdateCost, Power, Speeds)


def write_profile(path: Path, profile: Profile) -> None:
    """Put a profile at `path`, whole or not at all; raises `OSError`."""
    content = {
        "format": FORMAT,
        **{name: getattr(profile, name) for name in _SCALARS},
        "ops": [{"name": name, **asdict(cost)} for name, cost in profile.ops.items()],
        "updates": {rule: asdict(cost) for rule, cost in profile.updates.items()},
        "power": asdict(profile.power),
        "speeds": asdict(profile.speeds),
    }
    replace(path, json.dumps(content, indent=1).encode())


def read_profile(path: Path) -> Profile:
    """The profile in a file; raises `GraphInvalid` that names the place for one that is not sound, and `OSError`."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise GraphInvalid(str(path), f"is not JSON: {error}") from error
    _fields(str(path), content, {"format", *_SCALARS, "ops", "updates", "power", "speeds"})
    if content["format"] != FORMAT:
        raise GraphInvalid(f"{path}: format", f"is {content['format']!r}, not {FORMAT}")
    for name, kind in _SCALARS.items():
        if type(content[name]) is not kind:
            raise GraphInvalid(f"{path}: {name}", f"is {content[name]!r}, not {kind.__name__}")
    ops: dict[str, OpCost] = {}
    for number, row in enumerate(_sequence(f"{path}: ops", content["ops"])):
        where = f"{path}: ops[{number}]"
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or row["name"] in ops:
            raise GraphInvalid(where, "has no name of its own")
        name = row.pop("name")
        ops[name] = _record(f"{where} ({name})", row, OpCost)
    _fields(f"{path}: updates", content["updates"], set(STATES))
    return Profile(
        **{name: content[name] for name in _SCALARS},
        ops=ops,
        updates={rule: _record(f"{path}: {rule}", content["updates"][rule], UpdateCost) for rule in STATES},
        power=_record(f"{path}: power", content["power"], Power),
        speeds=_record(f"{path}: speeds", content["speeds"], Speeds),
    )


def _record(where: str, found: object, kind: type[Record]) -> Record:
    """A record of numbers, texts and truths, each of the type that its field declares."""
    wanted = {field.name: str(field.type) for field in fields(kind)}
    values = _fields(where, found, set(wanted))
    for name, value in values.items():
        match wanted[name], value:
            case ("str", str()) | ("bool", bool()):
                continue
            case (("float" | "int"), bool()):
                pass
            case ("int", int()) | ("float", int() | float()) if math.isfinite(value) and value >= 0:
                continue
        raise GraphInvalid(f"{where}: {name}", f"must be a {wanted[name]}, finite and not negative, got {value!r}")
    return kind(**values)


def _fields(where: str, found: object, wanted: set[str]) -> Mapping[str, Any]:
    if not isinstance(found, dict) or set(found) != wanted:
        raise GraphInvalid(where, f"must have exactly {', '.join(sorted(wanted))}")
    return found


def _sequence(where: str, found: object) -> list[Any]:
    if not isinstance(found, list):
        raise GraphInvalid(where, "is not a list")
    return found
