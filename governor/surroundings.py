# SPDX-License-Identifier: Apache-2.0
"""What a fine-tuning job's conditions ask about: how long nobody asked, external power, temperature, time of day."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from boards.power_supply import external_power, read_supplies
from boards.tree import Tree
from finetune.jobs.conditions import Surroundings
from telemetry.board_page import BoardPage
from telemetry.errors import PageError
from telemetry.instance_page import Counter
from telemetry.rundir import RunDir

FRESH_S = 1.0
"""A look is good for so long."""
OLDEST_ZONES_S = 10.0


class Look:
    """Looks at the pages of a run directory and at the kernel's power supplies, once a second at most."""

    def __init__(
        self,
        run_dir: RunDir,
        tree: Tree,
        clock: Callable[[], float] = time.monotonic,
        local: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self._run_dir, self._tree, self._clock, self._local = run_dir, tree, clock, local
        self._looked_s = -math.inf
        self._busy_s = clock()
        self._seen: dict[str, int] = {}
        self._last = Surroundings(0.0, None, None, 0)

    def __call__(self) -> Surroundings:
        """The device as it is now."""
        now_s = self._clock()
        if now_s - self._looked_s >= FRESH_S:
            self._looked_s = now_s
            if self._asked():
                self._busy_s = now_s
            moment = self._local()
            charging = external_power(read_supplies(self._tree))
            self._last = Surroundings(
                now_s - self._busy_s, charging, self._celsius(), 60 * moment.tm_hour + moment.tm_min
            )
        return self._last

    def _asked(self) -> bool:
        """Whether anybody has asked a served model since the last look; the first look cannot tell, so it says so."""
        seen, waiting = {}, False
        for page in self._run_dir.open_instances():
            try:
                if (info := page.info) is not None and info.served:
                    seen[str(page.path)] = page.counter(Counter.REQUESTS)
                    waiting |= page.in_flight > 0
            finally:
                page.close()
        changed = any(count != self._seen.get(path, 0) for path, count in seen.items())
        self._seen = seen
        return changed or waiting

    def _celsius(self) -> float | None:
        """Of the hottest zone; None without a clockd that has lately read one."""
        try:
            page = BoardPage.open(self._run_dir.board_page)
        except PageError:
            return None
        try:
            reading = page.read() if page.alive() else None
        finally:
            page.close()
        if reading is None or not reading.zones_celsius or reading.zones_age_s > OLDEST_ZONES_S:
            return None
        return max(reading.zones_celsius.values())
