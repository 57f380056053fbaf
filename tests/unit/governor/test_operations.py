# SPDX-License-Identifier: Apache-2.0
"""What the governor knows of a job's operations: their lengths, and what binds them."""

from __future__ import annotations

from governor.operations import EVEN, FEW, Operations
from governor.reader import TrainerView
from telemetry.trainer_page import JobNotice


def test_the_mix_of_a_job_is_what_it_told_last() -> None:
    """An even one until then, kept while it says nothing new, within 0 and 1, and not the next job's."""
    operations = Operations()
    for told, known in ((None, EVEN), (0.2, 0.2), (None, 0.2), (1.7, 1.0)):
        operations.see(TrainerView(JobNotice("job", mix=told), 0, stretches_s=(0.001,) * FEW))
        assert operations.slices(0.5).mix == known
        assert operations.at_worst((0.01,), 1.0).mix == known
    operations.forget()
    assert operations.slices().mix == EVEN


def test_one_known_to_be_hopeless_keeps_its_mix() -> None:
    """Nothing was measured yet but how long its longest operation is."""
    operations = Operations()
    operations.see(TrainerView(JobNotice("job", longest_s=9.0, mix=0.9), 0))
    worst = operations.at_worst((0.01,), 1.0)
    assert (set(worst.stretches_s), worst.mix) == ({9.0}, 0.9)
