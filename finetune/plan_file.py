# SPDX-License-Identifier: Apache-2.0
"""Plans as JSON files that may be made on one machine and carried to another; `docs/plan.md` lists the fields."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from telemetry.durable import replace

from .errors import PlanInvalid, PlanMismatch
from .graph import Graph
from .plan import Plan, Status
from .poet.matrices import Matrices
from .problem import Semantics
from .schedule import schedule_of

FORMAT = 1
MATRICES = ("R", "SRam", "SSd", "Min", "Mout")


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as a JSON object; under `poet` with the five matrices as keys of their own."""
    found: dict[str, Any] = {"format": FORMAT}
    found |= {column.name: getattr(plan, column.name) for column in fields(Plan) if column.name != "matrices"}
    found["schedule"] = [[entry.act, entry.number] for entry in plan.schedule]
    return found if plan.matrices is None else found | plan.matrices.rows()


def write_plan(path: Path, plan: Plan) -> None:
    """Put the plan at `path`, whole or not at all; raises `OSError`."""
    replace(path, json.dumps(to_json(plan), separators=(",", ":"), allow_nan=False).encode() + b"\n")


def read_plan(path: Path, graph: Graph | None = None) -> Plan:
    """The plan in a file; raises `PlanInvalid`, `PlanMismatch` if it is not one for `graph`, `OSError`."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PlanInvalid(f"{path} is not JSON: {error}") from error
    plan = parse_plan(found)
    if graph is not None and plan.graph_digest != graph.digest:
        raise PlanMismatch(plan.graph_digest, graph.digest)
    return plan


def parse_plan(found: object) -> Plan:
    """The plan of a file's content; raises `PlanInvalid` naming the field."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise PlanInvalid(f"format must be {FORMAT}")
    try:
        schedule = schedule_of(found["schedule"])
    except (KeyError, TypeError, ValueError) as error:
        raise PlanInvalid(f"schedule: {error}") from error
    plan = Plan(
        status=_one_of(found, "status", get_args(Status)),
        semantics=_one_of(found, "semantics", get_args(Semantics)),
        graph_digest=_text(found, "graph_digest"),
        platform=_text(found, "platform"),
        costs_from=_text(found, "costs_from"),
        budget_bytes=int(_number(found, "budget_bytes")),
        bound_j=_number(found, "bound_j"),
        schedule=schedule,
        energy_j=_number_or_none(found, "energy_j"),
        overhead_j=_number_or_none(found, "overhead_j"),
        overhead_gap=_number_or_none(found, "overhead_gap"),
        peak_bytes=_bytes_or_none(found, "peak_bytes"),
        activation_peak_bytes=_bytes_or_none(found, "activation_peak_bytes"),
        step_time_s=_number_or_none(found, "step_time_s"),
        solve_s=_number(found, "solve_s"),
        cut_off=bool(found.get("cut_off")),
        why=_text(found, "why"),
        smallest_budget_bytes=_bytes_or_none(found, "smallest_budget_bytes"),
        workspace_bytes=_workspaces(found),
        in_pieces=_names(found),
        matrices=_matrices(found),
    )
    if bool(plan.schedule) != (plan.energy_j is not None):
        raise PlanInvalid("energy_j: a plan has it if and only if it has a schedule")
    return plan


def _one_of(found: dict[str, Any], name: str, values: tuple[Any, ...]) -> Any:
    if found.get(name) not in values:
        raise PlanInvalid(f"{name} must be one of {', '.join(values)}, got {found.get(name)!r}")
    return found[name]


def _text(found: dict[str, Any], name: str) -> str:
    if not isinstance(found.get(name), str):
        raise PlanInvalid(f"{name} must be text, got {found.get(name)!r}")
    return str(found[name])


def _number(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise PlanInvalid(f"{name} must be a number that is not negative, got {value!r}")
    return value


def _number_or_none(found: dict[str, Any], name: str) -> float | None:
    return None if found.get(name) is None else _number(found, name)


def _bytes_or_none(found: dict[str, Any], name: str) -> int | None:
    value = _number_or_none(found, name)
    return None if value is None else int(value)


def _workspaces(found: dict[str, Any]) -> tuple[int, ...]:
    values = found.get("workspace_bytes", [])
    if not isinstance(values, list):
        raise PlanInvalid(f"workspace_bytes must be a list, got {values!r}")
    return tuple(int(_number({"workspace_bytes": value}, "workspace_bytes")) for value in values)


def _names(found: dict[str, Any]) -> tuple[str, ...]:
    values = found.get("in_pieces", [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise PlanInvalid(f"in_pieces must be a list of names, got {values!r}")
    return tuple(values)


def _matrices(found: dict[str, Any]) -> Matrices | None:
    if "R" not in found:
        return None
    try:
        named = [np.array(found[name], dtype=np.int8) for name in MATRICES]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlanInvalid(f"matrices: {error}") from error
    for name, bits in zip(MATRICES, named, strict=True):
        if bits.shape != named[0].shape or bits.ndim != 2 or not np.isin(bits, (0, 1)).all():
            raise PlanInvalid(f"{name} must be as many rows of 0 and 1 as R")
    return Matrices(*(bits.astype(bool) for bits in named))
