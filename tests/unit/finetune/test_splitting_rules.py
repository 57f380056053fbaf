# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.capturing.storages import Geometry
from finetune.capturing.torch_private import recording_memory
from finetune.splitting import RULES
from finetune.splitting_rules.cuts import InCuts, Sample, as_list, into
from finetune.splitting_rules.elementwise import pointwise
from finetune.splitting_rules.trial import same_bits

aten = torch.ops.aten
PARTS = 3


def rand(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def image(channels: int = 48, side: int = 9) -> Tensor:
    return rand(4, channels, side, side)


def _normalised() -> tuple[Tensor, ...]:
    """What batch normalisation of `image()` gives."""
    found: tuple[Tensor, ...] = aten._native_batch_norm_legit_functional(
        image(), None, None, rand(48), rand(48).exp(), True, 0.1, 1e-5
    )
    return found


ONE, NONE, TWO = [1, 1], [0, 0], [2, 2]
BACKWARD = (ONE, ONE, ONE, False, NONE)
ATTENTION = (rand(4, 2, 16, 8), rand(4, 2, 16, 8) + 1, rand(4, 2, 16, 8) - 1)
ATTENDED = aten._scaled_dot_product_flash_attention_for_cpu(*ATTENTION)
CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "mm": (aten.mm.default, (rand(64, 24), rand(24, 96)), {}),
    "mm of transposed": (aten.mm.default, (rand(24, 64).t(), rand(96, 24).t()), {}),
    "addmm": (aten.addmm.default, (rand(96), rand(64, 24), rand(96, 24).t()), {}),
    "addmm of a matrix": (aten.addmm.default, (rand(64, 96), rand(64, 24), rand(24, 96)), {"beta": 0.5, "alpha": 2.0}),
    "addmm of a column": (aten.addmm.default, (rand(64, 1), rand(64, 24), rand(24, 96)), {}),
    "bmm": (aten.bmm.default, (rand(6, 8, 9), rand(6, 9, 7)), {}),
    "baddbmm": (aten.baddbmm.default, (rand(6, 8, 7), rand(6, 8, 9), rand(6, 9, 7)), {}),
    "convolution": (
        aten.convolution.default,
        (image(), rand(64, 48, 3, 3), rand(64), TWO, ONE, ONE, False, NONE, 1),
        {},
    ),
    "depthwise": (
        aten.convolution.default,
        (image(), rand(48, 1, 3, 3), None, ONE, ONE, ONE, False, NONE, 48),
        {},
    ),
    "grouped": (
        aten.convolution.default,
        (image(), rand(96, 3, 3, 3), rand(96), ONE, ONE, ONE, False, NONE, 16),
        {},
    ),
    "transposed": (
        aten.convolution.default,
        (image(), rand(48, 8, 3, 3), rand(8), ONE, ONE, ONE, True, NONE, 1),
        {},
    ),
    "convolution backward": (
        aten.convolution_backward.default,
        (image(64), image(), rand(64, 48, 3, 3), [64], *BACKWARD, 1, [True, True, True]),
        {},
    ),
    "weight alone": (
        aten.convolution_backward.default,
        (image(64), image(), rand(64, 48, 3, 3), [64], *BACKWARD, 1, [False, True, False]),
        {},
    ),
    "frozen weight": (
        aten.convolution_backward.default,
        (image(64), image(), rand(64, 48, 3, 3), [64], *BACKWARD, 1, [True, False, False]),
        {},
    ),
    "depthwise backward": (
        aten.convolution_backward.default,
        (image(), image(), rand(48, 1, 3, 3), [48], *BACKWARD, 48, [True, True, False]),
        {},
    ),
    "batch norm": (
        aten._native_batch_norm_legit_functional.default,
        (image(), rand(48), rand(48), rand(48), rand(48).exp(), True, 0.1, 1e-5),
        {},
    ),
    "batch norm without weights": (
        aten._native_batch_norm_legit_functional.default,
        (image(), None, None, rand(48), rand(48).exp(), True, 0.3, 1e-3),
        {},
    ),
    "batch norm backward": (
        aten.native_batch_norm_backward.default,
        (
            image(),
            image().exp(),
            rand(48),
            rand(48),
            rand(48).exp(),
            *_normalised()[1:3],
            True,
            1e-5,
            [True, True, True],
        ),
        {},
    ),
    "layer norm": (aten.native_layer_norm.default, (rand(6, 5, 32), [32], rand(32), rand(32), 1e-5), {}),
    "layer norm backward": (
        aten.native_layer_norm_backward.default,
        (
            rand(6, 5, 32),
            rand(6, 5, 32).exp(),
            [32],
            rand(6, 5, 1),
            rand(6, 5, 1).exp(),
            rand(32),
            rand(32),
            [True, True, True],
        ),
        {},
    ),
    "softmax": (aten._softmax.default, (rand(4, 3, 16, 16), -1, False), {}),
    "softmax of the outermost": (aten._softmax.default, (rand(16, 48), 0, False), {}),
    "softmax backward": (
        aten._softmax_backward_data.default,
        (rand(6, 32), rand(6, 32).softmax(-1), -1, torch.float32),
        {},
    ),
    "sum": (aten.sum.dim_IntList, (rand(64, 96), [0], True), {}),
    "mean": (aten.mean.dim, (image(), [-1, -2]), {}),
    "pooling": (aten.max_pool2d_with_indices.default, (image(), [3, 3], TWO, ONE), {}),
    "attention": (aten._scaled_dot_product_flash_attention_for_cpu.default, ATTENTION, {}),
    "attention backward": (
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
        (rand(4, 2, 16, 8), *ATTENTION, *ATTENDED, 0.0, False),
        {},
    ),
    "padding": (aten.constant_pad_nd.default, (image(), [1, 2, 0, 1], 0.5), {}),
    "padding and cropping": (aten.constant_pad_nd.default, (image(), [-1, 2, 0, -2], 0.5), {}),
    "cropping": (aten.constant_pad_nd.default, (image(), [0, -1, -1, 0]), {}),
    "cat": (aten.cat.default, ([image(), image(3), torch.empty(0), image(8)], 1), {}),
    "to half": (aten._to_copy.default, (image(),), {"dtype": torch.bfloat16}),
    "to channels last": (aten.clone.default, (image(),), {"memory_format": torch.channels_last}),
    "table": (
        aten.embedding_dense_backward.default,
        (rand(2, 12, 8), torch.arange(24).view(2, 12) % 7, 50, 3, False),
        {},
    ),
    "multiplied": (aten.mul.Tensor, (image(), rand(4, 48, 1, 1)), {}),
    "added": (aten.add.Tensor, (rand(6, 1, 7), rand(5, 1)), {"alpha": 2}),
    "rectified": (aten.relu.default, (image(),), {}),
    "activation": (aten.silu_backward.default, (image(), image().exp()), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_pieces_compute_what_the_whole_does(case: str) -> None:
    """Every way of every rule gives the whole's numbers in its layout; at least one has several pieces."""
    target, args, kwargs = CASES[case]
    rule = RULES.get(target, pointwise)
    sample = Sample(target, args, kwargs, target(*args, **kwargs))
    ways = list(rule(sample, PARTS))
    assert ways
    for way in ways:
        pauses = []
        found = way(lambda pauses=pauses: pauses.append(1), *args, **kwargs)  # type: ignore[misc]
        for one, other in zip(as_list(found), sample.results, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert Geometry.of(one) == Geometry.of(other)
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert len(pauses) <= 3 * PARTS
    assert any(_stops(way, args, kwargs) > 1 for way in ways)


def test_rectifying_needs_no_second_copy() -> None:
    """Torch's own variant of `relu` that writes into given memory computes a result and copies it."""
    values, out = image(), torch.empty_like(image())
    out[0, 0, 0, 0] = torch.nan
    values[0, 0, 0, :2] = torch.tensor([torch.nan, -0.0])
    with recording_memory() as events:
        into(aten.relu.default, (values,), {}, [out])
    assert same_bits(out, aten.relu.default(values))
    assert all(size_bytes < values.nbytes for name, _, _, size_bytes in events if name == "[memory]")


def test_pieces_become_even() -> None:
    """A cut whose pieces take longer gets more of them; the result stays."""
    target, args, _ = CASES["convolution backward"]
    sample = Sample(target, args, {}, target(*args))
    way = next(RULES[target](sample, 4))
    assert isinstance(way, InCuts)
    assert _stops(way, args, {}) == 4
    evened = way.evened([0.001, 0.001, 0.008, 0.004], 0.004)
    assert _stops(evened, args, {}) == 4
    assert [len(shares) for _, shares in evened._spans] == [1, 3]
    torch.testing.assert_close(evened(lambda: None, *args), sample.result, rtol=1e-4, atol=1e-4)


def test_bits_tell_what_equality_does_not() -> None:
    """0.0 and -0.0 differ, a NaN is itself, and layout counts."""
    zero, nan = torch.zeros(2, 3), torch.full((2, 3), torch.nan)
    assert not same_bits(zero, -zero)
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, torch.zeros(3, 2).t())
    assert same_bits((zero, None), [zero.clone(), None])
    assert not same_bits((zero, None), (zero, zero))


def _stops(way: Any, args: Any, kwargs: Any) -> int:
    pauses: list[int] = []
    way(lambda: pauses.append(1), *args, **kwargs)
    return len(pauses)
