# SPDX-License-Identifier: Apache-2.0
"""The wall clock steps by an hour, or slews: nothing may notice, for durations come from the monotonic clock alone."""

from __future__ import annotations

import ast
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from governor.errors import LeaseLost

from .record import Tally
from .stage import DEADLINE_S, HOST_S, Stage, due, points, stage, until
from .zygote import ROOT, Zygote

STEPS_S = (3600.0, -3600.0, 86_400.0, -1e9, 0.5)
SLEWS = (500e-6, -500e-6, 1.0)
"""Drifts; 500 ppm is the most that NTP slews a clock by."""
PACKAGES = ("boards", "finetune", "governor", "predictor", "telemetry", "triton_backend")
WALL_CLOCKS = {
    "time": ("time", "time_ns", "localtime", "gmtime", "clock_settime"), "datetime": ("now", "utcnow", "today"),
}  # fmt: skip
TIME_OF_DAY = {Path("governor/surroundings.py")}
"""Where a time of day is what is asked for: the hours in which a job may train."""
PAUSE_S, TTL_S = 0.2, 3.5 if HOST_S else 0.6
"""Renewed in time even by a host that stalls for three seconds, where it may."""
SLACK_S = 0.35


def stepped(tally: Tally) -> None:
    """Row 26: leases live as long, joules are as many, samples come as often, whatever the wall clock does."""
    for use in wall_clock_uses(ROOT):
        tally.expect(False, f"{use}: the wall clock is not for durations")
    cases = [(step_s, 0.0) for step_s in STEPS_S for _ in range(4)] + [(0.0, slew) for slew in SLEWS for _ in range(4)]
    with Zygote() as zygote, stage(zygote, tally) as made:
        for step_s, slew in tally.thin(cases):
            made.reset()
            _lives(tally, made, step_s, slew)
            made.close(tally)


def wall_clock_uses(root: Path) -> list[str]:
    """Every call by which the product reads the wall clock, as `file:line`."""
    return [
        f"{path.relative_to(root)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if path.relative_to(root) not in TIME_OF_DAY
        for node in _calls(ast.parse(path.read_text()))
    ]


def _calls(tree: ast.AST) -> Iterator[ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if node.attr in WALL_CLOCKS.get(owner, ()):
                yield node


def shift() -> None:
    """In a fresh process: let its wall clock run as TEG_FAULT_STEP_S and TEG_FAULT_SLEW say, from SIGUSR1 on."""
    step_s, slew = float(os.environ["TEG_FAULT_STEP_S"]), float(os.environ["TEG_FAULT_SLEW"])
    real_s, began_s, stepped_now = time.time, time.monotonic(), [False]

    def wall_s() -> float:
        drift_s = slew * (time.monotonic() - began_s)
        return real_s() + drift_s + (step_s if stepped_now[0] else 0.0)

    time.time = wall_s
    time.time_ns = lambda: int(1e9 * wall_s())
    signal.signal(signal.SIGUSR1, lambda *_: stepped_now.__setitem__(0, True))


def _lives(tally: Tally, made: Stage, step_s: float, slew: float) -> None:
    """A lease across the step: renewed it lives, left alone it ends when it should."""
    what = f"step {step_s:g} s, slew {slew:g}"
    environ = {"TEG_FAULT_STEP_S": str(step_s), "TEG_FAULT_SLEW": str(slew)}
    clockd = made.clockd("--rate-hz", "50", before="tests.faults.wallclock:shift", **environ)
    with made.client() as client:
        low, _ = points(client.table())
        client.lease(low, TTL_S)
        joules = client.status()["energy_j"]
        clockd.send(signal.SIGUSR1)
        tally.inject(real=True, kind="step" if step_s else "slew")
        try:
            for _ in range(3):
                _pause(made, PAUSE_S)
                renewed_s = time.monotonic()
                client.renew(TTL_S)
        except LeaseLost:
            tally.expect(False, f"{what}: a renewed lease was lost")
        sampled_ns = _sampled_ns(made)
        watts, spent_j = client.status()["power_w"], client.status()["energy_j"] - joules
        tally.expect(0 <= spent_j < watts * due(5.0), f"{what}: {spent_j:.1f} J at {watts:.1f} W")
        until(lambda: not made.changed(), "the lease expires")
        lived_s = time.monotonic() - renewed_s
        tally.expect(TTL_S <= lived_s < due(TTL_S + SLACK_S), f"{what}: lived {lived_s:.2f} s in place of {TTL_S} s")
        tally.expect(_sampled_ns(made) > sampled_ns, f"{what}: samples do not go on")
    clockd.send(signal.SIGTERM)
    tally.same(clockd.wait(DEADLINE_S), 0, f"{what}: exit code")


def _pause(made: Stage, for_s: float) -> None:
    due_ns = _sampled_ns(made) + int(1e9 * for_s)
    until(lambda: _sampled_ns(made) >= due_ns, "samples go on")


def _sampled_ns(made: Stage) -> int:
    reading = made.reading()
    return reading.sampled_ns if reading else 0
