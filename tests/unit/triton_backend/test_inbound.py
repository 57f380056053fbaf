# SPDX-License-Identifier: Apache-2.0
"""A request becomes tensors, or is refused with one reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backend_fakes import FakeRequest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triton_backend.errors import BadRequest
from triton_backend.inbound import Gatekeeper
from triton_backend.parameters import BackendConfig

Make = Callable[..., BackendConfig]
Given = list[tuple[str, Any]]
A, B = np.ones((2, 4), np.float32), np.zeros((2, 3, 2), np.int64)
TEXT = {"name": "T", "data_type": "TYPE_STRING", "dims": ["-1"]}


def test_good(make_config: Make, good: Given) -> None:
    """A good request keeps its arrays, whatever the order of its inputs, and says what it may share a batch with."""
    gatekeeper = Gatekeeper(make_config())
    inbound = gatekeeper.read(FakeRequest(good, '{"teg_priority": 2, "other": 1}', timeout_us=1500))
    assert inbound.tensors["A"] is good[0][1]
    assert (inbound.samples, inbound.priority, inbound.timeout_ns) == (2, 2, 1_500_000)
    assert gatekeeper.read(FakeRequest(good[::-1])).shapes == inbound.shapes
    longer = gatekeeper.read(FakeRequest([("A", A), ("B", np.zeros((2, 5, 2), np.int64))]))
    assert longer.shapes != inbound.shapes


def test_kept(make_config: Make, good: Given) -> None:
    """What is kept beyond `execute` is copied out of Triton's memory."""
    inbound = Gatekeeper(make_config()).read(FakeRequest(good))
    kept = inbound.kept()
    good[0][1][:] = 7
    assert np.array_equal(kept.tensors["A"], A)
    assert kept.shapes == inbound.shapes


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([("A", A)], "input 'B' is missing"),
        ([("A", A), ("A", A), ("B", B)], "'A' is given twice"),
        ([("A", A), ("B", B), ("C", A)], "'C' is unknown"),
        ([("A", A[:, :3]), ("B", B)], "'A' has shape"),
        ([("A", np.float32(1)), ("B", B)], "outside 1 to 8"),
        ([("A", A.astype(np.float64)), ("B", B)], "holds float64, expected TYPE_FP32"),
        ([("A", A[:1]), ("B", B)], "disagree on the batch size"),
        ([("A", A[:0]), ("B", B[:0])], "batch size 0 is outside 1 to 8"),
        ([("A", np.ones((9, 4), np.float32)), ("B", B)], "batch size 9 is outside 1 to 8"),
        ([("A", np.full((2, 4), np.nan, np.float32)), ("B", B)], "holds NaN"),
        ([("A", ValueError("torn")), ("B", B)], "cannot be decoded: torn"),
    ],
)
def test_bad(tensors: Given, words: str, make_config: Make) -> None:
    """Each fault has its own words, with the input's name."""
    with pytest.raises(BadRequest, match=words):
        Gatekeeper(make_config()).read(FakeRequest(tensors))


@pytest.mark.parametrize("parameters", ['{"teg_priority": "high"}', '{"teg_priority": -1}', '{"teg_priority": true}'])
def test_bad_priority(parameters: str, make_config: Make, good: Given) -> None:
    """A priority that is no level is the request's fault."""
    with pytest.raises(BadRequest, match="teg_priority"):
        Gatekeeper(make_config()).read(FakeRequest(good, parameters))


def test_text(make_config: Make) -> None:
    """Text must be UTF-8, unless the model takes bytes of any kind."""
    config = make_config(input=[TEXT], output=[TEXT])
    words = np.array([["čau".encode(), b""]], np.object_)
    broken = np.array([[b"ok", b"\xff\xfe"]], np.object_)
    assert Gatekeeper(config).read(FakeRequest([("T", words)])).samples == 1
    with pytest.raises(BadRequest, match=r"not UTF-8 \(byte 0\)"):
        Gatekeeper(config).read(FakeRequest([("T", broken)]))
    lenient = make_config(input=[TEXT], output=[TEXT], parameters={"forbid_bad_utf8": "false"})
    assert Gatekeeper(lenient).read(FakeRequest([("T", broken)])).samples == 1


@given(
    hnp.arrays(np.float32, (2, 4), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.booleans(),
)
def test_nan(array: Any, forbid: bool) -> None:
    """NaN is refused unless the model allows it; infinities pass, even where they would cancel."""
    from backend_fakes import model_config

    from triton_backend.parameters import parse

    config = parse(model_config(parameters={"forbid_nan": str(forbid).lower()}))
    request = FakeRequest([("A", array), ("B", B)])
    if forbid and np.isnan(array).any():
        with pytest.raises(BadRequest, match="NaN"):
            Gatekeeper(config).read(request)
    else:
        assert Gatekeeper(config).read(request).samples == 2


def test_without_a_batch_dimension(make_config: Make) -> None:
    """max_batch_size 0 means that shapes are whole, and a request is one sample."""
    config = make_config(max_batch_size=0)
    assert Gatekeeper(config).read(FakeRequest([("A", A[0]), ("B", B[0])])).samples == 1
    with pytest.raises(BadRequest, match="has shape"):
        Gatekeeper(config).read(FakeRequest([("A", A), ("B", B)]))


def test_optional_inputs(make_config: Make) -> None:
    """An optional input may be left out, and then shares no batch with those that have it."""
    optional = [
        {"name": "A", "data_type": "TYPE_FP32", "dims": ["4"]},
        {"name": "C", "data_type": "TYPE_FP32", "dims": ["4"], "optional": True},
    ]
    gatekeeper = Gatekeeper(make_config(input=optional, output=optional))
    without, with_it = gatekeeper.read(FakeRequest([("A", A)])), gatekeeper.read(FakeRequest([("A", A), ("C", A)]))
    assert without.shapes != with_it.shapes
