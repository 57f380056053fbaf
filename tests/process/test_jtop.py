# SPDX-License-Identifier: Apache-2.0
"""jtop is read in a process of its own: its absence is an error with a reason, and its habits stay over there."""

from __future__ import annotations

import ast
import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from governor.jtop_child import record
from governor.jtop_reader import JtopReader, JtopUnavailable, jtop_mode

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
"""Bounds a failure and promises nothing."""


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `jtop` that child processes find before the real one."""
    (folder / "jtop.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_the_real_package_without_its_service_says_so() -> None:
    """jetson-stats is installed and no service runs: the error says that, and how to get one."""
    with JtopReader() as reader, pytest.raises(JtopUnavailable, match=r"service is not active.*--install-service"):
        reader.read(PATIENCE_S)
    assert jtop_mode(PATIENCE_S) is None


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """jetson-stats is optional: where it is missing the error names the extra that brings it."""
    stand_in(tmp_path, "raise ImportError('no such package')", monkeypatch)
    with JtopReader() as reader, pytest.raises(JtopUnavailable, match=r"not installed.*\[jtop\]"):
        reader.read(PATIENCE_S)


def test_our_process_stays_as_it_was() -> None:
    """After reading, jtop is not imported here and multiprocessing's start method is as before."""
    before = multiprocessing.get_start_method(allow_none=True)
    with JtopReader() as reader, pytest.raises(JtopUnavailable):
        reader.read(PATIENCE_S)
    assert "jtop" not in sys.modules
    assert multiprocessing.get_start_method(allow_none=True) == before


def test_one_file_imports_jtop() -> None:
    """No file of ours but the child names the module in an import; nothing ships jetson-stats."""
    users = set()
    for path in ROOT.glob("[a-z]*/**/*.py"):
        if ".venv" in path.parts or path.is_relative_to(ROOT / "tests"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [node.value] if isinstance(node, ast.Constant) and node.value == "jtop" else []
            if any(name.split(".")[0] == "jtop" for name in names):
                users.add(str(path.relative_to(ROOT)))
    assert users == {"governor/jtop_child.py"}


def test_a_service_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample in time is an error; the child is gone when the block ends."""
    stand_in(tmp_path, "import time; time.sleep(60)", monkeypatch)
    with JtopReader() as reader:
        with pytest.raises(JtopUnavailable, match=r"no sample within 0\.3 s"):
            reader.read(timeout_s=0.3)
        child = reader._child
    assert child is not None
    assert child.returncode is not None


def test_what_jtop_prints_is_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """jetson-stats writes to standard output: samples come through all the same, until it ends."""
    stand_in(
        tmp_path,
        """
__version__ = "7.2.2"
class JtopException(Exception): pass
class jtop:
    power, temperature, gpu, cpu, memory, nvpmodel = {}, {}, {}, {"cpu": []}, {}, None
    left = 2
    def __init__(self, interval): print("[WARN] noise")
    def __enter__(self): return self
    def __exit__(self, *_): print("more noise")
    def ok(self):
        self.left -= 1
        return self.left >= 0
""",
        monkeypatch,
    )
    with JtopReader() as reader:
        assert reader.read(PATIENCE_S).version == "7.2.2"
        assert reader.read(PATIENCE_S).mode is None
        with pytest.raises(JtopUnavailable, match="stopped answering"):
            reader.read(PATIENCE_S)


def test_a_reader_that_goes_takes_the_child_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child ends by itself when nobody reads any more, as after a SIGKILL of the reader."""
    stand_in(
        tmp_path,
        """
import time
__version__ = "7"
class JtopException(Exception): pass
class jtop:
    power, temperature, gpu, cpu, memory, nvpmodel = {}, {}, {}, {"cpu": []}, {}, None
    def __init__(self, interval): pass
    def __enter__(self): return self
    def __exit__(self, *_): return None
    def ok(self):
        time.sleep(0.01)
        return True
""",
        monkeypatch,
    )
    child = subprocess.Popen([sys.executable, "-m", "governor.jtop_child"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline()
    child.stdout.close()
    assert child.wait(PATIENCE_S) == 0


def test_samples_are_in_si_units() -> None:
    """jtop's milliwatts, kilohertz and offline zones become watts, hertz and nothing."""
    jetson = SimpleNamespace(
        power={"rail": {"VDD_IN": {"power": 5120}, "odd": {}}, "tot": {"name": "VDD_IN", "power": 5120}},
        temperature={"cpu": {"temp": 48.5, "online": True}, "cv0": {"temp": -256, "online": False}},
        gpu={"ga10b": {"freq": {"cur": 306_000}}},
        cpu={"cpu": [{"online": True, "freq": {"cur": 729_600}}, {"online": True, "freq": {"cur": 1_190_400}}, {}]},
        memory={"EMC": {"cur": 2_133_000}},
        nvpmodel=SimpleNamespace(id=2, name="15W"),
    )
    assert record(jetson, "7") == {
        "version": "7",
        "power_w": 5.12,
        "rails_w": {"VDD_IN": 5.12},
        "zones_celsius": {"cpu": 48.5},
        "gpu_hz": 306_000_000,
        "cpu_hz": 1_190_400_000,
        "emc_hz": 2_133_000_000,
        "mode": 2,
        "mode_name": "15W",
    }
