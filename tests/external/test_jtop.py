# SPDX-License-Identifier: Apache-2.0
"""The real jetson-stats service, on the exported tree of a virtual board, read by our child process.

It runs in namespaces of its own (user, mount, process), where the exported tree stands in for /sys, /run is empty, the
group jtop exists and `nvpmodel` is a script. Nothing outside is written, and nothing survives the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boards.archive import export
from boards.discover import open_board

pytestmark = [pytest.mark.external, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
NVPMODEL = """#!/bin/sh
case "$1" in
-q) printf 'NV Power Mode: MODE_30W\\n2\\n' ;;
-p) printf 'PM_CONFIG: DEFAULT=MAXN(0)\\nPOWER_MODEL: ID=0 NAME=MAXN\\nPOWER_MODEL: ID=1 NAME=MODE_15W\\n'
    printf 'POWER_MODEL: ID=2 NAME=MODE_30W\\n' ;;
esac
"""
SERVICE = """
import os, runpy, sys
sys.base_prefix = os.environ["STAGE"] + "/prefix"  # where jetson-stats keeps its configuration
os.environ["JTOP_SERVICE"] = "1"
sys.argv = ["jtop"]
runpy.run_module("jtop", run_name="__main__", alter_sys=True)
"""
READ = """
import json, sys
from dataclasses import asdict
from governor.jtop_reader import JtopReader, jtop_mode
with JtopReader(0.2) as reader:
    samples = [asdict(reader.read(60)), asdict(reader.read(60))]
print(json.dumps({"samples": samples, "mode": jtop_mode(60), "imported": "jtop" in sys.modules}))
"""
INSIDE = """
set -e
mount -t tmpfs tmpfs /run
mount --bind "$STAGE/group" /etc/group
mount --rbind "$STAGE/tree/sys" /sys
export PATH="$STAGE/bin:$PATH"
"$PYTHON" "$STAGE/service.py" > "$STAGE/service.log" 2>&1 &
tries=0
until [ -S /run/jtop.sock ]; do
    tries=$((tries + 1)); [ $tries -lt 600 ] || { cat "$STAGE/service.log" >&2; exit 1; }
    sleep 0.1
done
exec "$PYTHON" "$STAGE/read.py"
"""
NAMESPACES = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What our reader got from the service."""
    stage = tmp_path_factory.mktemp("jtop")
    board = open_board("virtual:agx-orin")
    export(board.tree, stage / "tree")
    sysfs = stage / "tree" / "sys"
    # jetson-stats asks a PC for its maker, and looks for zones where the class links of a real tree lead.
    (sysfs / "devices/virtual/dmi/id").mkdir(parents=True)
    (sysfs / "devices/virtual/thermal").symlink_to("../../class/thermal")
    (stage / "group").write_text("root:x:0:\njtop:x:0:\n")
    (stage / "bin").mkdir()
    (stage / "bin" / "nvpmodel").write_text(NVPMODEL)
    (stage / "bin" / "nvpmodel").chmod(0o755)
    (stage / "service.py").write_text(SERVICE)
    (stage / "read.py").write_text(READ)
    done = subprocess.run(
        ["unshare", *NAMESPACES, "sh", "-c", INSIDE],
        env=os.environ | {"STAGE": str(stage), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_samples_of_the_real_service(answer: dict[str, Any]) -> None:
    """Clocks, temperatures and the power mode come from the exported tree, in SI units."""
    for sample in answer["samples"]:
        assert sample["version"].startswith("7.")
        assert sample["gpu_hz"] == 306_000_000
        assert 20 < sample["zones_celsius"]["tj"] < 100
        assert (sample["mode"], sample["mode_name"]) == (2, "MODE_30W")
    assert answer["mode"] == "MODE_30W (2)"


def test_power_is_what_the_board_layer_reads(answer: dict[str, Any]) -> None:
    """jtop finds the same rails as `boards`; its total adds them all up and so counts the memory rail twice."""
    board = open_board("virtual:agx-orin")
    sample = answer["samples"][-1]
    for rail, watts in board.rails().items():
        assert sample["rails_w"][rail] == pytest.approx(watts, abs=0.05)
    assert sample["power_w"] == pytest.approx(sum(sample["rails_w"].values()), abs=0.05)
    assert sample["power_w"] == pytest.approx(board.power_w() + board.rails()["VDDQ_VDD2_1V8AO"], abs=0.1)


def test_the_reader_does_not_import_jtop(answer: dict[str, Any]) -> None:
    """Beside a service that runs, too, jetson-stats stays in the child."""
    assert answer["imported"] is False


def test_nothing_is_left_behind(answer: dict[str, Any]) -> None:
    """No socket, no group, no configuration folder outside the namespaces."""
    assert not Path("/run/jtop.sock").exists()
    assert not (Path(sys.base_prefix) / "local" / "jtop").exists()
    assert "jtop" not in Path("/etc/group").read_text()
