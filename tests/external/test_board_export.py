# SPDX-License-Identifier: Apache-2.0
"""The discovery of the real jetson-stats finds its parts in an exported board.

In a process of its own, for importing jtop changes how the whole process starts others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boards.archive import export
from boards.profile import JETPACKS, read_profile
from boards.virtual_kernel import VirtualKernel

pytestmark = pytest.mark.external

DISCOVER = """
import json, sys
from jtop.core.gpu import find_igpu, igpu_read_freq
from jtop.core.power import find_all_i2c_power_monitor, read_power_status
found = {}
for root in sys.argv[1:]:
    gpus = find_igpu(root + "/sys/class/devfreq")
    rails = find_all_i2c_power_monitor(root + "/sys/bus/i2c/devices")
    found[root] = {
        "gpu_khz": {name: igpu_read_freq(gpu["frq_path"])["max"] for name, gpu in gpus.items()},
        "rails": {name: read_power_status(sensor) for name, sensor in rails.items()},
    }
print(json.dumps(found))
"""


def test_jetson_stats_finds_every_board(tmp_path: Path) -> None:
    """GPU by name and clock, every rail with a voltage; Thor's GPU has no node, and it looks elsewhere."""
    kernels = {}
    for key, jetpacks in JETPACKS.items():
        for jetpack in jetpacks:
            root = tmp_path / f"{key}@{jetpack}"
            kernels[str(root)] = VirtualKernel(read_profile(key), jetpack, time.monotonic)
            export(kernels[str(root)].tree, root)
    done = subprocess.run([sys.executable, "-c", DISCOVER, *kernels], capture_output=True, text=True, check=True)
    for root, found in json.loads(done.stdout).items():
        profile, jetpack = kernels[root].profile, kernels[root].jetpack
        node = profile.gpu.layouts[jetpack].of_node
        assert found["gpu_khz"] == ({node: profile.gpu.hz[-1] // 1000} if node else {}), root
        labels = {channel.label for chip in profile.rails.chips for channel in chip.channels if channel.label}
        assert set(found["rails"]) == labels, root
        assert all(rail["volt"] > 0 for rail in found["rails"].values()), root
