# SPDX-License-Identifier: Apache-2.0
"""The process that talks to jtop: prints one JSON line per sample, or one line with an error, and ends.

The only file that imports jetson-stats (AGPL-3.0, optional): importing it forces multiprocessing to fork, for the
whole process, so no other process of ours may. Run as `python -m governor.jtop_child [seconds between samples]`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO


def record(jetson: Any, version: str) -> dict[str, Any]:
    """What a `jtop` object says now, in SI units; None or nothing for what it does not know."""
    power = jetson.power or {}
    mode = jetson.nvpmodel
    return {
        "version": version,
        "power_w": _watts(power.get("tot", {})),
        "rails_w": {name: watts for name, rail in power.get("rail", {}).items() if (watts := _watts(rail)) is not None},
        "zones_celsius": {name: zone["temp"] for name, zone in jetson.temperature.items() if zone.get("online")},
        "gpu_hz": _highest_hz(gpu.get("freq", {}) for gpu in jetson.gpu.values()),
        "cpu_hz": _highest_hz(cpu.get("freq", {}) for cpu in jetson.cpu["cpu"] if cpu.get("online")),
        "emc_hz": _highest_hz([jetson.memory.get("EMC") or {}]),
        "mode": mode.id if mode else None,
        "mode_name": mode.name if mode else None,
    }


def _watts(rail: Mapping[str, Any]) -> float | None:
    """jtop counts in milliwatts."""
    return rail["power"] / 1000 if "power" in rail else None


def _highest_hz(frequencies: Any) -> int | None:
    """jtop counts in kilohertz."""
    return max((1000 * int(frequency["cur"]) for frequency in frequencies if "cur" in frequency), default=None)


def follow(out: TextIO, interval_s: float) -> str:
    """Print samples until jtop stops answering; returns why."""
    try:
        # By name, since its types are known only where the extra is installed.
        jtop = importlib.import_module("jtop")
    except ImportError as error:
        return f"jetson-stats is not installed ({error}): pip install 'triton-energy-governor[jtop]'"
    try:
        with jtop.jtop(interval=interval_s) as jetson:
            while jetson.ok():
                print(json.dumps(record(jetson, jtop.__version__)), file=out, flush=True)
    except jtop.JtopException as error:
        return " ".join(str(error).split())
    return "jtop.service stopped answering"


def main() -> int:
    """Exit code 0 when nobody listens any more, 1 when jtop ended."""
    # jtop prints; what is read as samples must be ours alone.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    interval_s = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    try:
        print(json.dumps({"error": follow(out, interval_s)}), file=out, flush=True)
    except BrokenPipeError:
        # jtop's threads would keep the process; there is nothing to put in order.
        os._exit(0)
    return 1


if __name__ == "__main__":
    sys.exit(main())
