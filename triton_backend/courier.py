# SPDX-License-Identifier: Apache-2.0
"""Sends answers from threads of their own while the worker executes the next batch.

Triton takes an answer in a round trip between two processes: about a millisecond on a host with two cores. An engine
that waits for it is idle, and the last of a batch of eight would wait for seven others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Courier:
    """Runs deliveries; with one thread in the order given. A delivery must not raise."""

    def __init__(self, threads: int) -> None:
        self._deliveries: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"governed-courier-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def give(self, delivery: Callable[[], None]) -> None:
        """Deliver it soon."""
        self._deliveries.put(delivery)

    def close(self) -> None:
        """Deliver what is left, then stop."""
        for _ in self._threads:
            self._deliveries.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while (delivery := self._deliveries.get()) is not None:
            delivery()
