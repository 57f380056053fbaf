# SPDX-License-Identifier: Apache-2.0
"""What peers with a model share: random points first, then the untried one that the model scores highest."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from governor.points import Point

from .seen import FIRST, Peer


class Modelling(Peer):
    """Five random points, then the untried one with the largest score."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> None:
        super().__init__(knobs, slo_s, seed, prior)
        self.features = torch.from_numpy(self.seen.features())
        """Log knobs scaled to [0, 1], `n x d`."""
        count = len(self.seen.points)
        self._first = iter(random.Random(seed).sample(range(count), min(FIRST, count)))

    def ask(self) -> Point | None:
        """The next point; None after all of them."""
        number = next(self._first, None)
        if number is not None:
            return self.point(number)
        open_points = self.seen.untried()
        if not open_points:
            return None
        return self.point(open_points[int(self.scores(open_points).argmax())])

    def scores(self, open_points: list[int]) -> torch.Tensor:
        """What each of these points is worth trying."""
        raise NotImplementedError
