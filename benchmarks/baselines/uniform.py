# SPDX-License-Identifier: Apache-2.0
"""Random search: every point equally likely, none twice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from governor.points import Point

from .seen import Peer


class Uniform(Peer):
    """Points in an order drawn at the start."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> None:
        super().__init__(knobs, slo_s, seed, prior)
        order = list(range(len(self.seen.points)))
        random.Random(seed).shuffle(order)
        self._order = iter(order)

    def ask(self) -> Point | None:
        """The next point; None after all of them."""
        number = next(self._order, None)
        return None if number is None else self.point(number)
