# SPDX-License-Identifier: Apache-2.0
"""The order of writes: whatever is asked for after whatever, no kernel ever sees an inverted range."""

from __future__ import annotations

import random

from boards.clocks import KNOBS, ClockPoint, ClockTable
from boards.errors import BoardError
from boards.virtual import NAMES, VirtualBoard
from governor.errors import GovernorError

from .record import Tally
from .stage import stage
from .writes import counted_faults, refused
from .zygote import Zygote

POINTS = 40


def inverted(tally: Tally) -> None:
    """Row 4: no EINVAL without a fault on any kernel; where one is injected, the knobs go back."""
    for number in range(tally.few(60)):
        spec = sorted(NAMES)[number % len(NAMES)]
        _in_memory(tally, spec, random.Random(number))
    _in_processes(tally)
    refused(tally)


def _in_memory(tally: Tally, spec: str, draw: random.Random) -> None:
    """A random walk through a board's table, under that kernel's manners; then everything back."""
    now_s = [0.0]
    board = VirtualBoard(spec, lambda: now_s[0], lambda seconds: now_s.__setitem__(0, now_s[0] + seconds))
    originals = board.read_knobs()
    tally.inject(real=False, kind="walk")
    for _ in range(POINTS):
        point = _anywhere(board.table, draw)
        try:
            applied = board.request(point)
            tally.expect(applied.honoured, f"{spec}: {point} reads {applied.observed}")
        except BoardError as error:
            tally.expect(False, f"{spec}: {point}: {error}")
    try:
        board.restore(originals)
        tally.same(board.read_knobs(), originals, f"{spec}: after a walk")
    except BoardError as error:
        tally.expect(False, f"{spec}: restore: {error}")


def _in_processes(tally: Tally) -> None:
    """The same through clockd: every kind of virtual board, none of whose faults may be counted."""
    with Zygote() as zygote:
        for number, spec in enumerate(tally.thin(sorted(NAMES))):
            draw = random.Random(number)
            with stage(zygote, tally) as made, made.client() as client:
                made.clockd("--board", spec)
                tally.inject(real=True, kind="walk through clockd")
                try:
                    table = client.table()
                    for _ in range(4):
                        tally.expect(client.lease(_anywhere(table, draw), 5.0).honoured, f"{spec}: not honoured")
                    client.release()
                except GovernorError as error:
                    tally.expect(False, f"{spec}: {error}")
                tally.same(counted_faults(client.status()), 0, f"{spec}: faults counted without one")


def _anywhere(table: ClockTable, draw: random.Random) -> ClockPoint:
    """A random point of the table, some knobs left alone, the range not inverted."""
    while True:
        asked = [knob for knob in KNOBS if getattr(table, knob) and draw.random() < 0.8]
        point = ClockPoint(**{knob: draw.choice(getattr(table, knob)) for knob in asked})
        if asked and table.offers(point):
            return point
