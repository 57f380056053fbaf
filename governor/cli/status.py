# SPDX-License-Identifier: Apache-2.0
"""`teg status`: what the pages of a run directory say now."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..reader import InstanceView, Snapshot


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "status", help="show the board, the lease and the models being served", description=__doc__
    )
    parser.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(handler=handler)


def handler(args: argparse.Namespace) -> int:
    """Print the status; 1 if neither a board nor an instance is alive."""
    from ..published import read_standing
    from ..reader import PageReader
    from ..serving import read_served
    from . import DONE, NO
    from .progress import run_dir_of

    run_dir = run_dir_of(args)
    reader = PageReader(run_dir)
    try:
        snapshot = reader.read()
    finally:
        reader.close()
    about = about_board(run_dir.socket) if snapshot.board else {}
    status = status_json(snapshot, about, read_standing(run_dir.root))
    if served := read_served(run_dir.root):
        status["server"] = {"pid": served.server_pid, "down": dict(served.down), "faults": dict(served.faults)}
    print(json.dumps(status) if args.json else status_text(status))
    return DONE if status["board"] or status["instances"] else NO


def about_board(socket: Path) -> dict[str, Any]:
    """What clockd tells about its board beyond the page; empty if it does not talk to us."""
    from ..client import ClockClient
    from ..errors import ClockdUnavailable, LeaseRefused

    try:
        with ClockClient(socket) as client:
            return client.hello()
    except (ClockdUnavailable, LeaseRefused):
        return {}


def status_json(
    now: Snapshot, about: Mapping[str, Any] | None = None, governor: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The snapshot as a JSON object, with what clockd and the governor say of themselves.

    SI units, null where nothing is known.
    """
    from boards.clocks import KNOBS

    board, about = now.board, about or {}
    return {
        "governor": governor and dict(governor),
        "board": board
        and {
            "name": board.board,
            "virtual": board.virtual,
            "observe_only": board.observe_only,
            "requested": dict(zip(KNOBS, board.requested, strict=True)),
            "observed": dict(zip(KNOBS, board.observed, strict=True)),
            "power_w": board.power_w,
            "energy_j": board.energy_j,
            "energy_error_j": board.energy_error_j,
            "rails_w": board.rails_w,
            "zones_celsius": board.zones_celsius,
            "lease_pid": board.lease_pid or None,
            "throttle_events": board.throttle_events,
            "foreign_changes": board.foreign_changes,
            "brief_throttles": board.brief_throttles,
            "power_missing_s": board.power_missing_s,
            "zones_age_s": board.zones_age_s,
            "physics": about.get("physics") or None,
            "notes": list(about.get("notes", ())),
            "reason": about.get("reason") or None,
        },
        "instances": [_instance_json(view) for view in now.instances],
    }


def _instance_json(view: InstanceView) -> dict[str, Any]:
    info, applied = view.info, view.applied
    return {
        "model": info.model,
        "version": info.version,
        "instance": info.instance,
        "slo_s": info.slo_s or None,
        "slo_quantile": info.slo_quantile,
        "virtual_workload": info.virtual_workload,
        "batch_limit": applied.batch_limit if applied else None,
        "max_batch": info.max_batch,
        "in_flight": view.in_flight,
        "requests": view.requests,
        "busy_s": view.busy_ns / 1e9,
    }


def status_text(status: dict[str, Any]) -> str:
    """The status for people."""
    board = status["board"]
    lines = _board_text(board) if board else ["no clockd is running here"]
    for entry in status["instances"]:
        slo = f"p{entry['slo_quantile'] * 100:g} <= {entry['slo_s'] * 1e3:g} ms" if entry["slo_s"] else "no SLO"
        batch = f"batch limit {entry['batch_limit']} of {entry['max_batch']}"
        lines.append(
            f"{entry['instance']}: {entry['requests']} requests, {entry['in_flight']} in flight, {batch}, {slo}"
        )
    if not status["instances"]:
        lines.append("no governed model is being served here")
    lines += [f"  DOWN {model}: {why}" for model, why in status.get("server", {}).get("down", {}).items()]
    if governor := status["governor"]:
        lines += _governor_text(governor)
    return "\n".join(lines)


def _board_text(board: dict[str, Any]) -> list[str]:
    kind = "virtual" if board["virtual"] else "observe-only" if board["observe_only"] else "real"
    kind += f", physics {board['physics']}" if board["physics"] else ""
    clocks = ", ".join(
        f"{name.removesuffix('_hz')} {value / 1e6:g} MHz" if name.endswith("_hz") else f"{name} {value}"
        for name, value in board["observed"].items()
        if value is not None
    )
    lease = f"leased to pid {board['lease_pid']}" if board["lease_pid"] else "no lease"
    lines = [f"{board['name']} ({kind}): {board['power_w']:.2f} W, {lease}", f"  {clocks}"]
    if board["reason"]:
        lines.append(f"  observe-only: {board['reason']}")
    return lines + [f"  note: {note}" for note in board["notes"]]


def _governor_text(governor: dict[str, Any]) -> list[str]:
    standing = f"{governor['phase']} {governor['detail']}".strip()
    lines = [f"governor (pid {governor['pid']}): {standing}, {governor['trials']} trials"]
    lines += [f"  {governor['verdict']}"] if governor.get("verdict") else []
    lines += _training_text(governor["training"]) if governor.get("training") else []
    lines += [f"  without {knob}: {why}" for knob, why in governor["left_out"].items()]
    return lines + [f"  ALARM {kind}: {text}" for kind, text in governor["alarms"].items()]


def _training_text(training: dict[str, Any]) -> list[str]:
    job = f"job {training['job']} of {training['model']}" if training["job"] else "no job"
    share = f", {training['duty']:.0%} of the idle time" if training["duty"] else ""
    done = f"{training['steps']} steps, {training['busy_s']:.1f} s"
    return [f"  training: {job}, {training['phase']}{share} ({training['reason']}); {done} so far"]
