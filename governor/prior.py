# SPDX-License-Identifier: Apache-2.0
"""What other workloads teach the search before its first trial."""

from __future__ import annotations

from collections.abc import Sequence

from .calibration import Belief
from .points import Table
from .roofline import PRIOR_DEVIATION, PRIOR_MEAN


def belief_of(tables: Sequence[Table]) -> Belief:
    """The prior of the physics' parameters."""
    return Belief(PRIOR_MEAN, PRIOR_DEVIATION)
