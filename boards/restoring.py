# SPDX-License-Identifier: Apache-2.0
"""Putting knobs back: what every knob is to read, in which order it is written, and what did not follow.

Nothing is remembered here. An original that is missing, or that the board cannot have, gives way to the board's own
range, so that a damaged record still ends with every clock free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from .errors import BoardError, KnobNotRestored, NodeError
from .parts import NAMES, Name, Parts

Knobs = dict[str, int]
_CLUSTER = re.compile(r"policy(\d+)\.")
"""A policy bears the number of its first core."""
_RATE, _LOCKED, _STATE, _HALT = "emc.rate", "emc.mrq_rate_locked", "emc.state", "emc.bwmgr_halt"


def part_of(knob: str) -> Name | None:
    """The part to which a knob file belongs."""
    head = knob.partition(".")[0]
    if head in ("gpu", "emc"):
        return NAMES[0] if head == "gpu" else NAMES[1]
    return "cpus" if head.startswith(("policy", "cpu")) else None


def complete(parts: Parts, originals: Knobs, keep: frozenset[str], now: Knobs) -> Knobs:
    """Every knob's value to put back, those in `keep` left out; `now` is what the knobs read."""
    # A cluster that stays dark, for its cores are somebody else's by now, takes no clock.
    kept = {name: now[name] for name in keep if name.endswith(".online") and name in now}
    values = _gpu(parts, originals) | _emc(parts, originals) | _cpus(parts, originals | kept)
    for lower, upper in _ranges(values):
        # A limit that stays somebody else's must not be crossed by the other one.
        if lower in keep and lower in now:
            values[upper] = max(values[upper], now[lower])
        if upper in keep and upper in now:
            values[lower] = min(values[lower], now[upper])
    return {name: value for name, value in values.items() if name not in keep}


def put_back(parts: Parts, wanted: Knobs) -> Iterator[NodeError]:
    """Restore part by part, cores first on and last off, one that fails not hindering the next; what failed."""
    cpus, gpu, emc = parts.cpus, parts.gpu, parts.emc
    switches = {cpu: wanted[name] for cpu in cpus.all_cpus() if (name := f"cpu{cpu}.online") in wanted}
    steps: list[Callable[[], None]] = [
        partial(cpus.request_online, cpu, online=True) for cpu, on in switches.items() if on
    ]
    for policy in cpus.policies:
        limits = [wanted.get(f"policy{policy.number}.scaling_{end}_freq") for end in ("min", "max")]
        if limits != [None, None]:
            steps.append(partial(cpus.request_policy, policy, *limits))
    if gpu:
        steps.append(partial(gpu.range.request, wanted.get("gpu.min_freq"), wanted.get("gpu.max_freq")))
    if emc:
        steps.append(partial(emc.restore, wanted))
    steps += [partial(cpus.request_online, cpu, online=False) for cpu, on in switches.items() if not on]
    for step in steps:
        try:
            step()
        except NodeError as error:
            yield error


def absent(parts: Parts, originals: Knobs, keep: frozenset[str], now: Knobs) -> Iterator[BoardError]:
    """Originals whose files are not there to be written: of a part that has gone, or of one cluster's clock.

    The clock of a cluster whose first core is off is nobody's to write, and not waited for.
    """
    missing = parts.missing()
    clocked = {policy.number for policy in parts.cpus.policies}
    for name in sorted(originals.keys() - keep):
        cluster = _CLUSTER.match(name)
        gone = cluster and int(cluster[1]) not in clocked and now.get(f"cpu{cluster[1]}.online") == 1
        if gone or part_of(name) in missing:
            yield KnobNotRestored(name, originals[name], None)


def differences(wanted: Knobs, now: Knobs) -> Iterator[BoardError]:
    """Knob files that do not read as wanted; the rate of an unlocked EMC is the firmware's own affair."""
    ignored = set() if wanted.get(_LOCKED, now.get(_LOCKED)) else {_RATE}
    for name, value in wanted.items():
        if name not in ignored and now.get(name) != value:
            yield KnobNotRestored(name, value, now.get(name))


def _gpu(parts: Parts, originals: Knobs) -> Knobs:
    if parts.gpu is None:
        return {}
    steps = parts.gpu.frequencies()
    return _range(originals, "gpu.min_freq", "gpu.max_freq", steps[0], steps[-1])


def _emc(parts: Parts, originals: Knobs) -> Knobs:
    """Without a lock of somebody else's the rate goes to the top before the firmware gets it back: never left low."""
    if parts.emc is None:
        return {}
    top, rate = parts.emc.top_hz, originals.get(_RATE, 0)
    locked = originals.get(_LOCKED) == 1 and 0 < rate <= top
    values = {_RATE: rate if locked else top, _LOCKED: int(locked), _STATE: int(originals.get(_STATE) != 0)}
    values[_HALT] = int(originals.get(_HALT) == 1)
    return {name: value for name, value in values.items() if name == _RATE or name in parts.emc.flags}


def _cpus(parts: Parts, originals: Knobs) -> Knobs:
    cpus = parts.cpus
    values = {f"cpu{cpu}.online": int(cpu == 0 or originals.get(f"cpu{cpu}.online") != 0) for cpu in cpus.all_cpus()}
    for policy in cpus.policies if cpus.frequencies() else ():
        if any(values[f"cpu{cpu}.online"] for cpu in policy.cpus):
            names = (f"policy{policy.number}.scaling_min_freq", f"policy{policy.number}.scaling_max_freq")
            values |= _range(originals, *names, policy.steps_hz[0] // 1000, policy.steps_hz[-1] // 1000)
    return values


def _range(originals: Knobs, lower: str, upper: str, bottom: int, top: int) -> Knobs:
    lowest, highest = originals.get(lower, bottom), originals.get(upper, top)
    sound = 0 <= lowest <= highest and bottom <= highest <= top
    return {lower: lowest, upper: highest} if sound else {lower: bottom, upper: top}


def _ranges(values: Knobs) -> list[tuple[str, str]]:
    uppers = [name for name in values if name.endswith("max_freq")]
    return [(name.replace("max_freq", "min_freq"), name) for name in uppers]
