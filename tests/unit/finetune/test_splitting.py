# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Node

from finetune.capture import Captured, capture
from finetune.capturing.operations import Operations
from finetune.splitting import RULES, Pieces, make_interruptible
from finetune.splitting_rules.cuts import Pause, Piecewise, Sample, spans
from tests.unit.finetune.captured_steps import Attention, Residual, eager, flat_cross_entropy, planned

pytestmark = pytest.mark.usefixtures("one_thread")
AT_ALL_S = 1e-7
"""Every operation is longer than this."""


class InPieces(Operations):
    """Runs a captured step with what was split in pieces; counts the pauses."""

    def __init__(self, captured: Captured, functions: Mapping[str, Piecewise]) -> None:
        super().__init__(captured)
        self.functions, self.pauses = functions, 0

    def call(self, node: Node) -> Any:
        if node.name not in self.functions:
            return super().call(node)
        args = torch.fx.node.map_arg(node.args, self.look)
        kwargs = torch.fx.node.map_arg(node.kwargs, self.look)
        return self.functions[node.name](self.pause, *args, **kwargs)

    def pause(self) -> None:
        self.pauses += 1


@pytest.fixture(scope="module")
def residual() -> Captured:
    torch.manual_seed(3)
    return capture(Residual(), nn.functional.cross_entropy, (torch.randn(8, 3, 32, 32), torch.arange(8) % 5))


def test_a_step_in_pieces_is_eagers_bit_for_bit() -> None:
    """Loss, gradients, buffers and random state are those of plain torch, with every op split that can be."""
    torch.manual_seed(3)
    tokens = torch.randint(0, 11, (4, 6))
    for model, loss, batch in (
        (Residual(), nn.functional.cross_entropy, (torch.randn(8, 3, 32, 32), torch.arange(8) % 5)),
        (Attention(), flat_cross_entropy, (tokens, tokens)),
    ):
        captured = capture(model, loss, batch)
        pieces = make_interruptible(captured, AT_ALL_S)
        running = InPieces(captured, pieces.functions)
        found = planned(captured, 7, running)
        expected = eager(model, loss, batch, 7)
        assert running.pauses >= len(pieces.split) >= 10
        assert {name: tensor for name, tensor in found.items() if not torch.equal(tensor, expected[name])} == {}
        assert found.keys() == expected.keys()


def test_what_is_split_and_what_is_not(residual: Captured) -> None:
    """Every operation that is long is in pieces or listed with its seconds; the random state stays as it was."""
    state = torch.get_rng_state()
    pieces = make_interruptible(residual, AT_ALL_S)
    assert torch.equal(torch.get_rng_state(), state)
    calls = {op.name for op in residual.graph.ops if op.target not in {"accumulate", "assign"}}
    whole = dict(pieces.whole)
    assert pieces.functions.keys() | whole.keys() == calls
    assert not pieces.functions.keys() & whole.keys()
    assert all(seconds > AT_ALL_S for seconds in whole.values())
    assert {found.op for found in pieces.split} == pieces.functions.keys()
    assert make_interruptible(residual, 60.0) == Pieces({}, (), ())


def test_a_rule_that_changes_one_bit_is_not_used(residual: Captured) -> None:
    """A way into pieces that gives -0.0 for 0.0, another layout or one wrong number is found out: the op is whole."""

    def rule(spoil: Callable[[Tensor], Tensor]) -> Callable[[Sample, int], Iterator[Piecewise]]:
        def found(sample: Sample, parts: int) -> Iterator[Piecewise]:
            def run(pause: Pause, values: Tensor) -> Tensor:
                pause()
                found = spoil(torch.relu(values))
                pause()
                return found

            yield run

        return found

    def last(values: Tensor) -> Tensor:
        values.view(-1)[-1] += 1e-3
        return values

    relu = torch.ops.aten.relu.default
    names = {op.name for op in residual.graph.ops if op.target == str(relu)}
    spoiled: list[Callable[[Tensor], Tensor]] = [
        lambda v: torch.where(v == 0, -0.0, v),
        lambda v: v.mT.contiguous().mT,
        last,
    ]
    for spoil in spoiled:
        pieces = make_interruptible(residual, AT_ALL_S, {**RULES, relu: rule(spoil)})
        assert names <= {name for name, _ in pieces.whole}
    assert names <= make_interruptible(residual, AT_ALL_S, {**RULES, relu: rule(lambda v: v)}).functions.keys()


def test_arguments_in_another_layout_go_whole(residual: Captured) -> None:
    """Pieces are for the strides that were tried; any others are computed whole, without a pause."""
    pieces = make_interruptible(residual, AT_ALL_S)
    name = next(found.op for found in pieces.split if found.target == "aten.relu.default")
    node = residual.actions[name].node  # type: ignore[union-attr]
    size = residual.memory.geometries[node].size
    pauses: list[int] = []
    for values, stops in ((torch.randn(size), True), (torch.randn(size).mT, False)):
        pauses.clear()
        assert torch.equal(pieces.functions[name](lambda: pauses.append(1), values), values.relu())
        assert bool(pauses) == stops


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 32))
def test_shares_cover_everything_once(extent: int, parts: int, grain: int) -> None:
    """Shares follow one another from 0 to the end, none is empty, and all but the last are multiples of the grain."""
    grain = min(grain, extent)
    found = spans(extent, parts, grain)
    assert [start for start, _ in found] == [0, *(start + length for start, length in found)][:-1]
    assert sum(length for _, length in found) == extent
    assert len(found) <= parts
    assert all(length > 0 for _, length in found)
    assert all(length % grain == 0 for _, length in found[:-1])
