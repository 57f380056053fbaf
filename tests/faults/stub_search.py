# SPDX-License-Identifier: Apache-2.0
"""A search that proposes at once, in place of the one that needs torch, and short waits: for governors of this suite.

`install` is called in a fresh process before `teg run` begins; everything else there is the product. Signals make such
a governor hang: SIGUSR1 as in a deadlock of its main thread, SIGUSR2 as in a storm of garbage collections.
"""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import types
from collections.abc import Mapping, Sequence

from governor.points import Best, Point

SETTLE_S, RETRY_S = 0.02, 0.1


class StubSearch:
    """Walks through the values of every knob, the fastest first; the best is the fastest."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int = 0, *_: object) -> None:
        self.knobs = {name: tuple(values) for name, values in knobs.items()}
        self._slo_s = slo_s
        self._numbers = itertools.count(seed)

    def ask(self) -> Point | None:
        """The next point."""
        number = next(self._numbers)
        return {name: values[-1 - number % len(values)] for name, values in self.knobs.items()}

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Learns nothing."""

    def forget(self) -> None:
        """Has nothing to forget."""

    def best(self) -> Best | None:
        """The middle point, once and for all."""
        point = {name: values[len(values) // 2] for name, values in self.knobs.items()}
        return Best(point, 1.0, self._slo_s / 2, 1.0)


def install() -> None:
    """Put the stub where the product looks for its search, shorten waits, and obey the signals that hang."""
    from governor import loop, measurement

    search, torch = types.ModuleType("governor.search"), types.ModuleType("torch")
    search.Search = StubSearch  # type: ignore[attr-defined]
    torch.set_num_threads = lambda count: None  # type: ignore[attr-defined]
    sys.modules |= {"governor.search": search, "torch": torch}
    loop.RETRY_S, measurement.SETTLE_S = RETRY_S, SETTLE_S
    signal.signal(signal.SIGUSR1, lambda *_: _deadlock())
    signal.signal(signal.SIGUSR2, lambda *_: _storm())


def _deadlock() -> None:
    with (lock := threading.Lock()):
        lock.acquire()


def _storm() -> None:
    while True:
        gc.collect()
