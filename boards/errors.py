# SPDX-License-Identifier: Apache-2.0
"""Errors of this package.

BoardError
  NoBoard             nothing here that this layer knows how to control
  NodeError           one kernel file, `path` says which
    NodeMissing       it is not there
    KnobDenied        it may not be read or written by this user
    KnobRefused       the kernel refused what was written
    SensorUnavailable there is no value now (power-gated, disabled channel)
    SensorImplausible the value read cannot be true
  NotOffered          a clock point outside the board's table
  NotRestored         knobs that could not be put back
  KnobNotRestored     one of them: it reads something else
  WorkloadUnreadable  a coefficients file of a virtual board
"""

from __future__ import annotations

import errno

from .clocks import ClockPoint


class BoardError(Exception):
    """Base of this package's errors."""


class NoBoard(BoardError):
    """Nothing here that this layer knows how to control."""


class NodeError(BoardError):
    """Something about one kernel file; `path` says which, `code` is the errno (0 if there was none).

    `knob` is the knob of a clock point that the file belongs to, where a request was at fault.
    """

    def __init__(self, path: str, message: str, code: int = 0) -> None:
        self.path = path
        self.code = code
        self.knob = ""
        super().__init__(f"{path}: {message}")


class NodeMissing(NodeError):
    """The file is not there, or its device went away."""


class KnobDenied(NodeError):
    """The file may not be read or written by this user."""


class KnobRefused(NodeError):
    """The kernel refused what was written."""


class SensorUnavailable(NodeError):
    """There is no value now: the engine is power-gated, or the channel disabled."""


class SensorImplausible(NodeError):
    """The value read cannot be true (negative power, not a number)."""


class NotOffered(BoardError):
    """A point outside the board's table."""

    def __init__(self, point: ClockPoint) -> None:
        self.point = point
        super().__init__(f"the board does not offer {point}")


class KnobNotRestored(BoardError):
    """A knob file that does not read as it did, in the kernel's own unit; `found` is None if it has gone."""

    def __init__(self, knob: str, wanted: int, found: int | None) -> None:
        self.knob = knob
        self.wanted = wanted
        self.found = found
        super().__init__(f"{knob}: was {wanted}, reads {found}")


class NotRestored(BoardError):
    """Knobs that could not be put back; `failures` says which and why."""

    def __init__(self, failures: tuple[BoardError, ...]) -> None:
        self.failures = failures
        super().__init__("; ".join(str(failure) for failure in failures))


class WorkloadUnreadable(BoardError):
    """A coefficients file that cannot be used."""

    def __init__(self, source: str, message: str) -> None:
        self.source = source
        super().__init__(f"{source}: {message}")


_KINDS: dict[int, type[NodeError]] = {
    errno.ENOENT: NodeMissing,
    errno.ENODEV: NodeMissing,
    errno.ENXIO: NodeMissing,
    errno.EACCES: KnobDenied,
    errno.EPERM: KnobDenied,
    errno.EROFS: KnobDenied,
    errno.ELOOP: KnobDenied,
    errno.EAGAIN: SensorUnavailable,
    errno.ENODATA: SensorUnavailable,
}


def node_error(path: str, error: OSError, *, writing: bool = False) -> NodeError:
    """The typed error for a failed system call on a kernel file; anything not known is a refusal or no value."""
    code = error.errno or 0
    unknown = KnobRefused if writing else SensorUnavailable
    kind = _KINDS.get(code, unknown)
    if writing and kind is SensorUnavailable:
        kind = KnobRefused
    return kind(path, error.strerror or str(error), code)
