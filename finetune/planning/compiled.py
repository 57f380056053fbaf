# SPDX-License-Identifier: Apache-2.0
"""Functions compiled to machine code by numba, once per machine; raises `SolverMissing` without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from ..errors import SolverMissing

try:
    import numba
except ImportError as error:
    raise SolverMissing("numba") from error

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The same function, compiled when it is first called; kept on disk where that is possible."""
    try:
        found = numba.njit(cache=True)(function)
    except RuntimeError:
        # no folder to keep it in: compile once per process
        found = numba.njit(function)
    return cast(Function, found)
