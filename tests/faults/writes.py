# SPDX-License-Identifier: Apache-2.0
"""Knob writes that the kernel denies, finds busy, refuses or takes in part, at every place where a knob is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from governor.clockd.protocol import Json
from governor.errors import GovernorError, LeaseRefused

from .crash import calls_in
from .kills import QUIET
from .record import Tally
from .stage import Stage, due, points, stage, until
from .strace import Injection, attached, both_names, injected
from .zygote import Child, Zygote, until_stopped

MENDED_WITHIN_S = 4.0
"""A restore that failed is tried again every second."""
TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """The `number`-th write to one knob file in a walk."""

    path: Path
    number: int
    length: int
    """Bytes that are written."""


@dataclass(slots=True)
class Walked:
    """What became of a walk: the first refusal of a lease, and of the release."""

    lease: LeaseRefused | None = None
    release: GovernorError | None = None


def denied(tally: Tally) -> None:
    """Row 1: `denied`, every touched knob back, clockd goes on; only `teg restore` may say that it could not."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd(*QUIET)
        for place in tally.thin(places(made, clockd)):
            for error in ("EPERM", "EACCES"):
                strike(tally, made, clockd, place, f"error={error}", "denied")
        for path in tally.thin(knobs(made, clockd)):
            for error in ("EPERM", "EACCES"):
                lasting(tally, made, clockd, path, f"error={error}", "denied")
                not_restored(tally, made, path, f"error={error}")
                clockd = made.clockd(*QUIET)


def busy(tally: Tally) -> None:
    """Row 2: once is waited out, lasting is `busy` after three tries within 200 ms."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd(*QUIET)
        for place in tally.thin(places(made, clockd)):
            for error in ("EBUSY", "EAGAIN"):
                strike(tally, made, clockd, place, f"error={error}", "")
        for path in tally.thin(knobs(made, clockd)):
            for error in ("EBUSY", "EAGAIN"):
                lasting(tally, made, clockd, path, f"error={error}", "busy")


def short(tally: Tally) -> None:
    """Row 5: a write that took two bytes is not a write."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd(*QUIET)
        for place in tally.thin(places(made, clockd)):
            for taken in range(min(3, place.length)):
                strike(tally, made, clockd, place, f"retval={taken}", "refused")


def refused(tally: Tally) -> None:
    """Row 4, its injected part: EINVAL and ERANGE are `refused`, and everything goes back."""
    with Zygote() as zygote, stage(zygote, tally) as made:
        clockd = made.clockd(*QUIET)
        for place in tally.thin(places(made, clockd)):
            for error in ("EINVAL", "ERANGE"):
                strike(tally, made, clockd, place, f"error={error}", "refused")


def places(made: Stage, clockd: Child) -> list[Place]:
    """Every place at which a walk writes a knob file."""
    with attached(
        clockd.pid, (), both_names(made.originals), ("openat", "write"), log := made.folder / "log", whole=True
    ):
        walk(made)
    seen: Counter[Path] = Counter()
    found = []
    for call in calls_in(log):
        if call.name == "write" and call.path in made.originals:
            seen[call.path] += 1
            found.append(Place(call.path, seen[call.path], len(call.content)))
    return found


def knobs(made: Stage, clockd: Child) -> list[Path]:
    """The knob files that a walk writes."""
    return list(dict.fromkeys(place.path for place in places(made, clockd)))


def walk(made: Stage) -> Walked:
    """Lease a low point, move up and down again, give back; what was refused on the way."""
    walked = Walked()
    with made.client() as client:
        low, middle = points(client.table())
        try:
            client.lease(low, TTL_S)
            client.lease(middle, TTL_S)
            client.lease(low, TTL_S)
        except LeaseRefused as error:
            walked.lease = error
            return walked
        try:
            client.release()
        except GovernorError as error:
            walked.release = error
    return walked


def strike(tally: Tally, made: Stage, clockd: Child, place: Place, action: str, cause: str) -> None:
    """One failing write: the answer names it, and all is back. Without a cause the fault is to be waited out."""
    what = f"{place.path.relative_to(made.root)} write {place.number} {action}"
    with Faults(made, clockd) as faults:
        injection = Injection("write", action, str(place.number))
        with attached(clockd.pid, [injection], [place.path], log=made.folder / "log"):
            walked = walk(made)
        if not injected(made.folder / "log"):
            return
        tally.inject(real=True, kind=action.partition("=")[2])
        _answered(tally, made, walked, place.path, cause, what)
        mended(tally, made, clockd, what)
        if cause:
            faults.rose(tally, place.path.name, what)


def lasting(tally: Tally, made: Stage, clockd: Child, path: Path, action: str, cause: str) -> None:
    """Every write to one knob fails for as long as the fault lasts: the others are back at once, it is when it ends."""
    what = f"{path.relative_to(made.root)} lasting {action}"
    with Faults(made, clockd) as faults:
        with attached(clockd.pid, [Injection("write", action, "1+")], [path], log=made.folder / "log"):
            walked = walk(made)
            tries = injected(made.folder / "log")
            # limits of one domain never cross, so the other one of a pair waits with it
            others = {name: value for name, value in made.changed().items() if (made.root / name).parent != path.parent}
            tally.same(others, {}, f"{what}: other knobs left changed")
        tally.inject(real=True, kind=f"lasting {action.partition('=')[2]}")
        _answered(tally, made, walked, path, cause, what)
        if cause == "busy":
            tally.expect(tries <= 6, f"{what}: {tries} tries by one request and one restore")
        mended(tally, made, clockd, what)
        faults.rose(tally, path.name, what)


def not_restored(tally: Tally, made: Stage, path: Path, action: str) -> None:
    """`teg restore` exits with 4 while the fault lasts, with 0 after it; the clockd before was killed under a lease."""
    what = f"teg restore, {path.relative_to(made.root)} {action}"
    clockd = made.children[-1]
    with made.client() as client:
        low, _ = points(client.table())
        client.lease(low, TTL_S)
        clockd.end()
    if path.read_bytes().split(b"\n")[0] == made.originals[path].split(b"\n")[0]:
        made.restore()
        return
    helper = made.start("restore", stopped=True)
    until_stopped(helper.pid)
    with attached(helper.pid, [Injection("write", action, "1+")], [path]):
        tally.same(helper.go_on(20), 4, f"{what}: exit code while it lasts")
    tally.expect(path.name in helper.said, f"{what}: no log line names the knob: {helper.said[-200:]}")
    tally.inject(real=True, kind="teg restore")
    tally.same(made.restore().code, 0, f"{what}: exit code after it")
    tally.same(made.changed(), {}, f"{what}: left changed")


class Faults:
    """clockd's counters and its log, before and after a fault."""

    def __init__(self, made: Stage, clockd: Child) -> None:
        self._made = made
        self._clockd = clockd

    def __enter__(self) -> Faults:
        self._counted = self._count()
        self._said = len(self._clockd.said)
        return self

    def __exit__(self, *_: object) -> None:
        return

    def rose(self, tally: Tally, name: str, what: str) -> None:
        """Expect that a counter has risen, and that a new line of the log says `name`."""
        tally.expect(self._count() > self._counted, f"{what}: no fault was counted")
        said = self._clockd.said[self._said :]
        tally.expect(name in said, f"{what}: no log line names the fault: {said[-300:]}")

    def _count(self) -> int:
        with self._made.client() as client:
            status = client.status()
        return counted_faults(status)


def counted_faults(status: Json) -> int:
    """All the faults that clockd has counted, of whatever kind."""
    counts = [value for key, value in status.items() if key.endswith("_faults")]
    return sum(sum(count.values()) if isinstance(count, dict) else count for count in counts)


def _answered(tally: Tally, made: Stage, walked: Walked, path: Path, cause: str, what: str) -> None:
    if not cause:
        tally.same((walked.lease, walked.release), (None, None), f"{what}: a fault that passes is waited out")
    elif walked.lease is not None:
        error = walked.lease
        tally.same((error.reason, error.cause), ("board", cause), f"{what}: the answer's kind and cause ({error})")
        tally.expect(error.knob, f"{what}: the answer names no knob ({error})")
    else:
        tally.expect(walked.release is not None, f"{what}: nobody was told")


def mended(tally: Tally, made: Stage, clockd: Child, what: str, free: str = "") -> None:
    def whole() -> bool:
        with made.client() as client:
            return not made.changed().keys() - {free} and not client.status()["restore_pending"]

    try:
        tally.worst("slowest_mend_s", until(whole, "the knobs go back", due(MENDED_WITHIN_S)))
    except TimeoutError:
        tally.expect(False, f"{what}: left changed: {made.changed()}")
    made.put_back()
    tally.expect(clockd.running, f"{what}: clockd ended with {clockd.code}")
