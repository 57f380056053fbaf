# SPDX-License-Identifier: Apache-2.0
"""Whether one version of a model serves worse than the one before it: decided on the requests that each has answered.

A share counts as worse only when luck would show so many bad requests less often than a given doubt, at the share that
is forgiven: what the objective allows, or what the version before showed if that was more (an overloaded device is not
the new version's doing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.instance_page import Sample, Status

from .guard import DOUBT, Slo, chance_of_late
from .watch import PLAIN

FORGIVEN = 1e-3
"""Failed requests that are no news: one in a thousand."""
ENOUGH = 10
"""Of fewer requests nothing is said."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Requests of one version; an invalid or a cancelled one is the client's doing and is left out."""

    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Answered:
        """Those that count."""
        return cls(tuple(sample for sample in samples if sample.status not in (Status.INVALID, Status.CANCELLED)))

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.samples)

    @property
    def failed(self) -> int:
        """Those whose engine failed."""
        return sum(sample.status is Status.FAILED for sample in self.samples)

    def late(self, limit_s: float) -> int:
        """Those that were not answered well within `limit_s`."""
        return sum(sample.status is not Status.OK or sample.latency_s > limit_s for sample in self.samples)


def worse(before: Answered, after: Answered, slo: Slo | None, *, final: bool = True) -> str:
    """How the version `after` serves worse than the one `before`, empty if it does not or nobody can tell.

    With `final` at the doubt of a window's verdict; without, at that of a plain breach, as it is asked of every window.
    """
    doubt = DOUBT if final else PLAIN
    if _more(before.failed, before.total, after.failed, after.total, FORGIVEN, doubt):
        return (
            f"{after.failed} of {after.total} requests failed, of the version before {before.failed} of {before.total}"
        )
    if slo is None:
        return ""
    late, usual = after.late(slo.limit_s), before.late(slo.limit_s)
    if _more(usual, before.total, late, after.total, 1 - slo.quantile, doubt):
        limit = f"{slo.limit_s * 1e3:g} ms"
        return f"{late} of {after.total} requests took over {limit}, of the version before {usual} of {before.total}"
    return ""


def _more(bad_before: int, before: int, bad: int, total: int, forgiven: float, doubt: float) -> bool:
    if total < ENOUGH:
        return False
    return chance_of_late(bad, total, max(forgiven, _at_most(bad_before, before))) < doubt


def _at_most(bad: int, total: int) -> float:
    """The share that the version before may well have had: what it showed, and two deviations of its luck."""
    if not bad:
        return 0.0
    share = bad / total
    return min(1.0, share + 2 * math.sqrt(share * (1 - share) / total))
