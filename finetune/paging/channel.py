# SPDX-License-Identifier: Apache-2.0
"""The one thread that transfers storages, in the order in which that was begun.

What a transfer meets is kept for whoever waits for its storage; a storage whose write failed stays lost, and reading it
meets the same, until it is written again.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from torch import UntypedStorage

from ..errors import PageFailed

Between = Callable[[], None]
"""Called between two pieces of a transfer: returns when the next may be moved."""


class Store(Protocol):
    """Where storages go; only ever called by one thread at a time."""

    def write(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Returns when it is written."""
        ...

    def read(self, number: int, memory: UntypedStorage, between: Between) -> None:
        """Resizes the memory and fills it."""
        ...

    def close(self) -> None:
        """Nothing of it stays."""
        ...


class Transfer:
    """One storage on its way; `memory` is held until it has ended."""

    __slots__ = ("act", "empties", "ended", "error", "memory", "number")

    def __init__(self, act: Literal["write", "read"], number: int, memory: UntypedStorage) -> None:
        self.act, self.number, self.memory = act, number, memory
        self.empties = self.ended = False
        self.error: Exception | None = None


class _Closed(Exception):
    """The pages were closed between two pieces."""


class Channel:
    """`Pages` over a store; its thread starts with the first transfer and ends with `close`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._queue: deque[Transfer] = deque()
        self._last: dict[int, Transfer] = {}
        self._lost: dict[int, Exception] = {}
        self._held = self._closing = False
        self._thread: threading.Thread | None = None

    def write(self, number: int, memory: UntypedStorage) -> None:
        """Begin to write a storage out of `memory`, which is held until that has ended."""
        self._begin(Transfer("write", number, memory))

    def read(self, number: int, memory: UntypedStorage) -> None:
        """Begin to read a storage into `memory`, which takes its size when the transfer starts."""
        _check_resizable(memory)
        self._begin(Transfer("read", number, memory))

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        """Whether the last transfer of a storage ended in time; raises what it met."""
        transfer = self._last.get(number)
        if transfer is None:
            return True
        with self._changed:
            if not self._changed.wait_for(lambda: transfer.ended, timeout_s):
                return False
        if transfer.error is not None:
            raise transfer.error
        return True

    def done(self, number: int) -> bool:
        """Whether the last transfer of a storage has ended."""
        transfer = self._last.get(number)
        return transfer is None or transfer.ended

    def empty(self, number: int, memory: UntypedStorage) -> None:
        """Give `memory` back once the last transfer of the storage has ended; it stays when that failed."""
        _check_resizable(memory)
        with self._changed:
            transfer = self._last.get(number)
            if transfer is not None and not transfer.ended:
                transfer.empties = True
            elif number not in self._lost:
                memory.resize_(0)

    def hold(self) -> None:
        """No more transfers until `go`; the piece under way ends."""
        self._held = True

    def go(self) -> None:
        """On with them."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def close(self) -> None:
        """Once: end the thread between two pieces, and the store; what was begun and has not ended fails."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._store.close()

    def _begin(self, transfer: Transfer) -> None:
        with self._changed:
            if self._closing:
                raise PageFailed(transfer.number, transfer.act, "the pages are closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="finetune pages", daemon=True)
                self._thread.start()
            self._last[transfer.number] = transfer
            self._queue.append(transfer)
            self._changed.notify_all()

    def _run(self) -> None:
        while (transfer := self._next()) is not None:
            self._end(transfer, self._carry_out(transfer))

    def _next(self) -> Transfer | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _carry_out(self, transfer: Transfer) -> Exception | None:
        number = transfer.number
        try:
            if transfer.act == "read" and number in self._lost:
                return self._lost[number]
            self._between()
            move = self._store.write if transfer.act == "write" else self._store.read
            move(number, transfer.memory, self._between)
        except _Closed:
            error: Exception = PageFailed(number, transfer.act, "the pages were closed")
        except Exception as met:  # noqa: BLE001 - whoever waits for the storage raises it
            traceback.clear_frames(met.__traceback__)  # they hold the memory
            error = met
        else:
            return None
        if transfer.act == "read":
            transfer.memory.resize_(0)  # nobody shall take what it holds for the storage
        return error

    def _end(self, transfer: Transfer, error: Exception | None) -> None:
        with self._changed:
            if transfer.act == "write":
                self._lost.pop(transfer.number, None)
                if error is not None:
                    self._lost[transfer.number] = error
            if transfer.empties and error is None:
                transfer.memory.resize_(0)
            del transfer.memory
            transfer.error, transfer.ended = error, True
            self._changed.notify_all()

    def _between(self) -> None:
        if self._held or self._closing:
            with self._changed:
                self._changed.wait_for(lambda: not self._held or self._closing)
                if self._closing:
                    raise _Closed


def _check_resizable(memory: UntypedStorage) -> None:
    if not memory.resizable():
        raise ValueError("memory shared with numpy (.numpy() does so for good) or a file cannot be freed: copy it")
