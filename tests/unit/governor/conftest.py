# SPDX-License-Identifier: Apache-2.0
"""Fits of a few points: one thread is faster than several, and gives the same numbers on every host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
