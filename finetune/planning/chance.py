# SPDX-License-Identifier: Apache-2.0
"""Random numbers for compiled code, from a state that its caller owns (splitmix64, Steele et al. 2014)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

State = NDArray[np.uint64]


def chance_of(seed: int) -> State:
    """A fresh state."""
    return np.array([seed % 2**64], dtype=np.uint64)


@compiled
def uniform(state: State) -> float:
    """A number in [0, 1)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    mixed = state[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return float(mixed >> np.uint64(11)) / 2.0**53


@compiled
def below(state: State, count: int) -> int:
    """A number of 0 .. count - 1."""
    return int(uniform(state) * count)
