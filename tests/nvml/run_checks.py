# SPDX-License-Identifier: Apache-2.0
"""Run the checks in this process, over the library that nvidia-ml-py finds; prints each check's traceback as JSON."""

from __future__ import annotations

import ctypes
import json
import os
import time
import traceback

import pynvml

from boards.nvml import NvmlBoard, open_nvml

from .checks import CHECKS


class StubLab:
    """The stub library, told what to do through the environment that it reads."""

    def __init__(self) -> None:
        for name in [name for name in os.environ if name.startswith("NVML_")]:
            del os.environ[name]
        pynvml.nvmlInit()
        self.refused: dict[str, int] = {}
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
        pynvml.nvmlDeviceResetMemoryLockedClocks(handle)
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 300_000)

    def board(self) -> NvmlBoard:
        return open_nvml(0, time.monotonic, time.sleep)

    def busy(self, *, busy: bool) -> None:
        os.environ["NVML_BUSY"] = str(int(busy))

    def reasons(self, bits: int) -> None:
        os.environ["NVML_REASONS"] = str(bits)

    def held_at(self, graphics_mhz: int) -> None:
        os.environ["NVML_HELD_MHZ"] = str(graphics_mhz)

    def refuse(self, code: int, *names: str) -> None:
        self.refused |= dict.fromkeys(names, code)
        os.environ["NVML_REFUSE"] = ",".join(f"{name}:{code}" for name, code in self.refused.items())

    def not_root(self) -> None:
        os.environ["NVML_NOT_ROOT"] = "1"

    def as_orin(self) -> None:
        os.environ["NVML_ORIN"] = "1"

    def locks_mhz(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        locks = (ctypes.c_uint * 4)()
        ctypes.CDLL("libnvidia-ml.so.1").stub_locks(locks)
        graphics, memory = (locks[0], locks[1]), (locks[2], locks[3])
        return graphics if any(graphics) else None, memory if any(memory) else None

    def live(self) -> None:
        """The stub's counter grows with every call."""


def main() -> None:
    """Every check, each on a card at rest."""
    results = {}
    for check in CHECKS:
        try:
            check(StubLab())
            results[check.__name__] = ""
        except BaseException:  # noqa: BLE001 - pytest's own failures are no Exceptions
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
