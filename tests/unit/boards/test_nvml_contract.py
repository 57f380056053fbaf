# SPDX-License-Identifier: Apache-2.0
"""The checks of every NVML GPU, over the virtual driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from boards.nvml import NvmlBoard
from boards.virtual_nvml_driver import VirtualNvml
from tests.nvml.checks import CHECKS, Lab


class VirtualLab:
    """A virtual driver and virtual time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.driver = VirtualNvml()
        self.driver.power_w = 40.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def board(self) -> NvmlBoard:
        return NvmlBoard(0, lambda: self.now_s, self.sleep, nvml=self.driver)

    def busy(self, *, busy: bool) -> None:
        self.driver.busy = busy

    def reasons(self, bits: int) -> None:
        self.driver.more_reasons = bits

    def held_at(self, graphics_mhz: int) -> None:
        self.driver.held_mhz = graphics_mhz or None

    def refuse(self, code: int, *names: str) -> None:
        for name in names:
            if code:
                self.driver.refusals[name] = code
            else:
                self.driver.refusals.pop(name, None)

    def not_root(self) -> None:
        self.driver.not_root()

    def as_orin(self) -> None:
        self.driver.as_orin()

    def locks_mhz(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        return self.driver.gpu_lock_mhz, self.driver.memory_lock_mhz

    def live(self) -> None:
        self.driver.energy_j += 1.0


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check: Callable[[Lab], None]) -> None:
    """The virtual driver keeps what every NVML GPU keeps (each check's docstring is the rule)."""
    check(VirtualLab())
