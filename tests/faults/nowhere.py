# SPDX-License-Identifier: Apache-2.0
"""Machines that are no known board: clockd observes, refuses leases, and ends with 0."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

from boards.discover import open_board
from boards.errors import NoBoard
from governor.errors import LeaseRefused

from .record import Tally
from .stage import DEADLINE_S, FIXTURE, Stage, points, stage, until
from .zygote import Zygote

STRANGERS = ("nvidia,p9999-0000+p9999-0000", "raspberrypi,5-model-b", "", "\0", "xxp3701-0005yy")


def no_board(tally: Tally) -> None:
    """Row 35: `NoBoard` means observe-only for clockd, nothing to do for `teg restore`, and exit code 0 for both."""
    with Zygote() as zygote:
        for number in range(tally.few(24)):
            archive = _archives()[number % len(_archives())]
            with stage(zygote, tally, archive) as made:
                _observes(tally, made, str(made.root), f"machine {number % len(_archives())}")
        if _this_is_none():
            with stage(zygote, tally, "") as made:
                _observes(tally, made, "/", "this machine")


def _archives() -> list[str]:
    """A plain PC, and the AGX Orin's files under names that nobody knows."""
    lines = FIXTURE.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("/proc/device-tree/compatible")]
    named = ["\n".join([*kept, f"/proc/device-tree/compatible {json.dumps(name)}"]) for name in STRANGERS]
    return ["", *named]


def _observes(tally: Tally, made: Stage, root: str, what: str) -> None:
    made.root = Path(root)
    clockd = made.clockd("--rate-hz", "20")
    tally.inject(real=True, kind="clockd")
    with made.client() as client:
        hello = client.hello()
        tally.same((hello["observe_only"], hello["name"]), (True, "none"), f"{what}: hello")
        tally.expect(hello["reason"], f"{what}: hello gives no reason")
        try:
            client.lease(next(_some_point()), 1.0)
            tally.expect(False, f"{what}: a lease was granted")
        except LeaseRefused as error:
            tally.same(error.reason, "observe_only", f"{what}: a lease")
    until(lambda: (page := made.reading()) is not None and page.observe_only, "the page says observe-only")
    clockd.send(signal.SIGTERM)
    tally.same(clockd.wait(DEADLINE_S), 0, f"{what}: exit code of clockd")
    tally.expect("observe-only" in clockd.said, f"{what}: no log line says observe-only: {clockd.said[-200:]}")
    helper = made.restore()
    tally.inject(real=True, kind="restore")
    tally.same(helper.code, 0, f"{what}: exit code of teg restore ({helper.said[-200:]})")
    if root != "/":
        tally.same(made.changed(), {}, f"{what}: written")


def _some_point() -> Iterator[object]:
    from boards.virtual import VirtualBoard

    yield points(VirtualBoard().table)[0]


def _this_is_none() -> bool:
    try:
        open_board("auto")
    except NoBoard:
        return True
    return False
