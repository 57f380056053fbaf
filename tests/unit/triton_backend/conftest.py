# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by the backend's unit tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backend_fakes import model_config

from triton_backend.parameters import BackendConfig, parse


@pytest.fixture
def make_config() -> Callable[..., BackendConfig]:
    return lambda **changes: parse(model_config(**changes))


@pytest.fixture
def good() -> list[tuple[str, Any]]:
    return [("A", np.ones((2, 4), np.float32)), ("B", np.zeros((2, 3, 2), np.int64))]
