# SPDX-License-Identifier: Apache-2.0
"""`teg doctor`: what is missing on this machine, and the package that mends it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import DONE, NO, REFUSED

if TYPE_CHECKING:
    from governor.doctor import Finding

_SIGNS = {"ok": "  ok  ", "notice": "NOTICE", "fault": "FAULT "}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    doctor = subparsers.add_parser(
        "doctor",
        help="say what is missing on this machine and how to mend it",
        epilog="exit codes: 0 no fault, 1 faults found (or a rate does not hold), 3 clockd does not lend the clocks",
    )
    doctor.add_argument("--run-dir", type=Path, metavar="DIR", help="run directory (default: as for every verb)")
    doctor.add_argument("--repository", type=Path, metavar="DIR", help="model repository (default: the packaged one)")
    doctor.add_argument("--tritonserver", type=Path, metavar="PATH", help="a server other than the packaged one")
    doctor.add_argument("--root", type=Path, default=Path("/"), help="look at another root (default: %(default)s)")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument(
        "--probe-emc",
        action="store_true",
        help="ask the running clockd for every memory rate in turn, a second each, and say which ones hold",
    )
    doctor.set_defaults(handler=handle)


def handle(args: argparse.Namespace) -> int:
    """Look, check, print; 1 if there are faults."""
    from governor.doctor import diagnose
    from governor.machine import look
    from governor.models import packaged_repository
    from telemetry.rundir import default_run_dir

    run_dir = args.run_dir or default_run_dir()
    if args.probe_emc:
        return _probe_emc(run_dir, as_json=args.json)
    findings = diagnose(look(args.root, run_dir, args.repository or packaged_repository(), args.tritonserver))
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(render(findings))
    return NO if any(finding.level == "fault" for finding in findings) else DONE


def _probe_emc(run_dir: Path, *, as_json: bool) -> int:
    """Print each memory rate and whether it holds; 1 if one does not, 3 if clockd does not lend the clocks."""
    from governor.client import ClockClient
    from governor.emc_probe import probe_emc
    from governor.errors import GovernorError
    from telemetry.rundir import RunDir

    try:
        with ClockClient(RunDir(run_dir).socket) as clocks:
            probed = probe_emc(clocks, time.sleep)
    except GovernorError as error:
        print(f"teg doctor: {error}", file=sys.stderr)
        return REFUSED
    if as_json:
        print(json.dumps([dataclasses.asdict(rate) | {"holds": rate.holds} for rate in probed], indent=2))
    for rate in [] if as_json else probed:
        held = "nothing" if rate.held_hz is None else f"{rate.held_hz / 1e6:g} MHz"
        print(f"{rate.asked_hz / 1e6:8g} MHz  {'holds' if rate.holds else f'does not hold: reads {held}'}")
    return DONE if all(rate.holds for rate in probed) else NO


def render(findings: list[Finding]) -> str:
    """One line per finding, and one below it where something is to be done."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_SIGNS[finding.level]}  {finding.check:<{width}}  {finding.what}")
        if finding.mend:
            lines.append(f"{'':<{8 + width}}  -> {finding.mend}")
    return "\n".join(lines)
