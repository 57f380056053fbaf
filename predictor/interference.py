# SPDX-License-Identifier: Apache-2.0
"""What training costs the requests beside it: a few terms, each with what is believed of it before anything was seen.

The replay knows queues. What it cannot know is how much of a stretch in progress a batch really waits for, how cold
training leaves the caches, and whether service times follow the clocks as told. These terms are linear in features of
the load (resource mix of training, logarithm of the slow-down by clocks), so that few windows fit them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Belief(NamedTuple):
    """A term's prior mean and standard deviation, and the bounds that physics sets it."""

    mean: float
    sd: float
    low: float = -1.0
    high: float = 1.0


TERMS = {
    "bias": Belief(0.0, 0.15),
    "beside": Belief(0.0, 0.1),
    "clock": Belief(0.0, 0.1, -0.5, 0.5),
    "block": Belief(0.7, 0.4, 0.0, 1.0),
    "block_mix": Belief(0.0, 0.2),
    "cold": Belief(0.05, 0.2, -0.6, 2.0),
    "cold_mix": Belief(0.0, 0.1),
    "cold_clock": Belief(0.0, 0.1),
}
"""bias, beside: logarithm of the factor missed always, and with training. clock: what the slow-down's exponent lacks
of 1. block, cold: see `vacations`, at an even mix; their `_mix` by half a mix more, `_clock` by e-fold slow-down."""


@dataclass(frozen=True, slots=True)
class Interference:
    """The terms as they stand, in the order of `TERMS`."""

    terms: tuple[float, ...]

    def __getitem__(self, name: str) -> float:
        return self.terms[_PLACE[name]]

    def stretch(self, slowdown: float) -> float:
        """How many times as long a batch takes at clocks that are said to slow it down so many times."""
        return float(slowdown ** (1 + self["clock"]))

    def block(self, mix: float) -> float:
        """Share of the device that a stretch in progress withholds from a batch, 0 to 1."""
        return min(1.0, max(0.0, self["block"] + self["block_mix"] * centred(mix)))

    def cold(self, mix: float, log_slowdown: float) -> float:
        """By which share the first batch after training takes longer; below 0 if it finds the device awake."""
        return max(
            TERMS["cold"].low, self["cold"] + self["cold_mix"] * centred(mix) + self["cold_clock"] * log_slowdown
        )


_PLACE = {name: place for place, name in enumerate(TERMS)}
PRIOR = Interference(tuple(term.mean for term in TERMS.values()))


def centred(mix: float) -> float:
    """The resource mix as a feature: -1 bound by arithmetic alone, 1 by memory alone."""
    return 2 * mix - 1


def bounded(terms: Sequence[float]) -> tuple[float, ...]:
    """The terms, each brought back into its bounds."""
    return tuple(
        min(belief.high, max(belief.low, float(term))) for term, belief in zip(terms, TERMS.values(), strict=True)
    )
