# SPDX-License-Identifier: Apache-2.0
"""The order of the data: every sample once an epoch, the same for a seed, taken up anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from finetune.data_order import DataOrder
from finetune.errors import CheckpointInvalid

SAMPLES, BATCHES = st.integers(1, 30), st.integers(1, 40)


@given(SAMPLES, BATCHES, st.integers(-(2**70), 2**70), st.integers(1, 5))
def test_every_sample_once_an_epoch(samples: int, batch: int, seed: int, epochs: int) -> None:
    """Batches are full, and laid end to end they hold each sample once in each epoch."""
    count = -(-samples * epochs // batch)
    batches = list(islice(DataOrder(samples, batch, seed), count))
    assert {len(found) for found in batches} == {batch}
    numbers = list(chain.from_iterable(batches))
    for epoch in range(epochs):
        assert Counter(numbers[epoch * samples : (epoch + 1) * samples]) == Counter(range(samples))


@given(SAMPLES, BATCHES, st.integers(), st.integers(0, 40))
def test_taken_up_anywhere(samples: int, batch: int, seed: int, before: int) -> None:
    """From its state on, a new order gives the batches that the old one gives."""
    order = DataOrder(samples, batch, seed)
    list(islice(order, before))
    state = order.state_dict()
    expected = list(islice(order, 10))
    resumed = DataOrder(samples, batch, seed)
    resumed.load_state_dict(state)
    assert list(islice(resumed, 10)) == expected
    assert list(islice(DataOrder(**state), 10)) == expected


def test_epochs_and_seeds_differ() -> None:
    """Each epoch has an order of its own, and so has each seed."""
    first, second = islice(DataOrder(100, 100, 1), 2)
    assert first != second
    assert first == next(DataOrder(100, 100, 1))
    assert first != next(DataOrder(100, 100, 2))
    assert second != next(DataOrder(100, 100, 2))


def test_the_random_state_is_not_touched() -> None:
    """Shuffling draws nothing from torch's own generator, which dropout uses."""
    before = torch.get_rng_state()
    list(islice(DataOrder(10, 3, 0), 20))
    assert torch.equal(torch.get_rng_state(), before)


def test_in_a_data_loader() -> None:
    """It serves as torch's batch sampler."""
    data = [torch.tensor(float(number)) for number in range(7)]
    loader = DataLoader(data, batch_sampler=DataOrder(7, 3, 5))  # type: ignore[arg-type]
    found = [batch.tolist() for batch in islice(loader, 5)]
    assert found == [[float(number) for number in batch] for batch in islice(DataOrder(7, 3, 5), 5)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 1, 0), "samples"), ((1, 0, 0), "batch"), ((1, 1, 0, -1), "epoch"), ((3, 1, 0, 0, 3), "position")],
)
def test_impossible_orders(arguments: tuple[int, ...], named: str) -> None:
    """No samples, no batch, or a place outside the epoch are refused by name."""
    with pytest.raises(ValueError, match=named):
        DataOrder(*arguments)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"samples": 11}, "data.samples"),
        ({"batch": 4}, "data.batch"),
        ({"seed": 1}, "data.seed"),
        ({"position": 10}, "data.position"),
        ({"epoch": -1}, "data.position"),
        ({"epoch": 1.0}, "data"),
        ({"epoch": True}, "data"),
        ({"more": 1}, "data"),
    ],
)
def test_the_state_of_another(changed: dict[str, int], field: str) -> None:
    """The state of an order of other samples, or of none, is refused by name and changes nothing."""
    order = DataOrder(10, 3, 0)
    next(order)
    before = order.state_dict()
    with pytest.raises(CheckpointInvalid) as refused:
        order.load_state_dict(before | changed)
    assert refused.value.field == field
    assert order.state_dict() == before
