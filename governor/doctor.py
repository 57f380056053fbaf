# SPDX-License-Identifier: Apache-2.0
"""What is missing on a machine and how to mend it: pure checks over one look at it.

A fault keeps something from working; a notice limits it or asks for a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .machine import Machine

Level = Literal["ok", "notice", "fault"]

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
FIXED_SERVER = (2, 59, 1)
"""Release 25.07, which closes remote holes in the Python backend and the HTTP front end."""
SHM_NEEDED_BYTES = 16 << 20
SHM_ADVISED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `mend` says what to do, empty if nothing is to be done."""

    check: str
    level: Level
    what: str
    mend: str = ""


def diagnose(machine: Machine) -> list[Finding]:
    """Every check's finding, in the order in which one would mend them; then what is not known about the board."""
    return [check(machine) for check in CHECKS] + [_note(note) for note in machine.board_notes]


def check_python(machine: Machine) -> Finding:
    """The interpreter's version."""
    version = ".".join(map(str, machine.python))
    if OLDEST_PYTHON <= machine.python[:2] <= NEWEST_PYTHON:
        return Finding("python", "ok", version)
    return Finding("python", "fault", f"{version} is not supported", "use Python 3.11 to 3.13 (Debian 12: python3.11)")


def check_libpython(machine: Machine) -> Finding:
    """The shared libpython that Triton's stub is linked against."""
    if machine.libpython_path:
        return Finding("shared libpython", "ok", str(machine.libpython_path))
    package = f"libpython{machine.python[0]}.{machine.python[1]}"
    mend = f"Debian: apt install {package}; pyenv or source: build with --enable-shared"
    return Finding("shared libpython", "fault", f"{machine.libpython} not found; Triton cannot run Python", mend)


def check_numpy(machine: Machine) -> Finding:
    """numpy 1: the binding in servers older than 25 corrupts tensors of numpy 2 in silence."""
    version = machine.packages.get("numpy")
    if version and int(version.split(".")[0]) < 2:
        return Finding("numpy", "ok", version)
    what = f"{version} corrupts tensors in this Triton's Python backend" if version else "not installed"
    return Finding("numpy", "fault", what, "pip install 'numpy<2'")


def check_server(machine: Machine) -> Finding:
    """A Triton server, with a stub for this interpreter if it is the packaged one."""
    python = f"{machine.python[0]}.{machine.python[1]}"
    if machine.server is None:
        mend = "pip install 'triton-energy-governor[server]', or teg serve --tritonserver PATH"
        return Finding("triton server", "fault", "none packaged", mend)
    if not machine.server.is_file():
        return Finding("triton server", "fault", f"{machine.server} is not a file", "give the path of tritonserver")
    if "pytriton" in machine.server.parts and python not in machine.stubs:
        mend = f"use one of Python {', '.join(machine.stubs) or '(none)'}"
        return Finding("triton server", "fault", f"the packaged server has no stub for Python {python}", mend)
    return Finding("triton server", "ok", str(machine.server))


def check_server_version(machine: Machine) -> Finding:
    """Whether the server has the fixes of release 25.07."""
    version = machine.server_version
    if machine.server is None:
        return Finding("triton version", "ok", "no server, nothing to date")
    loopback = "keep it on loopback, behind a proxy that authenticates; teg serve needs --i-know for anything else"
    if version is None:
        return Finding("triton version", "notice", "cannot be told", f"if it is older than 25.07 (2.59.1): {loopback}")
    text = ".".join(map(str, version))
    if version < FIXED_SERVER:
        return Finding("triton version", "notice", f"{text} is older than the security fixes of 25.07", loopback)
    return Finding("triton version", "ok", text)


def check_shm(machine: Machine) -> Finding:
    """Room in /dev/shm, through which Triton hands tensors to its Python stubs."""
    free = machine.shm_bytes
    mend = "containers: docker run --shm-size=1g; else: mount -o remount,size=1g /dev/shm"
    if free is None:
        return Finding("shared memory", "fault", "no /dev/shm; Triton cannot talk to its stubs", mend)
    size = f"{free >> 20} MiB free in /dev/shm"
    if free < SHM_NEEDED_BYTES:
        return Finding("shared memory", "fault", f"{size}, too little for one model", mend)
    if free < SHM_ADVISED_BYTES:
        return Finding("shared memory", "notice", f"{size}; large batches of images may fail", mend)
    return Finding("shared memory", "ok", size)


def check_board(machine: Machine) -> Finding:
    """Whether there is a board whose clocks can be tuned."""
    if machine.board:
        return Finding("board", "ok", machine.board)
    mend = "run on a Jetson, or try a virtual board: teg clockd --board virtual:agx-orin"
    if machine.nvml:
        mend = f"this machine has {machine.nvml}: teg clockd --board nvml:0"
    return Finding("board", "notice", f"observe only: {machine.board_message}", mend)


def check_emc(machine: Machine) -> Finding:
    """Access to the memory clock, which Jetsons offer through debugfs to root alone."""
    if machine.board is None:
        return Finding("memory clock", "ok", "no board, not needed")
    if machine.emc_debugfs:
        return Finding("memory clock", "ok", "/sys/kernel/debug/bpmp/debug/clk/emc")
    if machine.emc_debugfs is None or not machine.root_user:
        return Finding("memory clock", "notice", "only root can see debugfs", "run teg clockd as root")
    mend = "mount -t debugfs none /sys/kernel/debug"
    return Finding("memory clock", "notice", "no EMC clock in debugfs; it will not be tuned", mend)


def check_nvml(machine: Machine) -> Finding:
    """NVML, which a discrete GPU is read and clocked through; that of most Jetsons starts and reports nothing."""
    if machine.nvml:
        return Finding("NVML", "ok", machine.nvml)
    if machine.board is None:
        return Finding("NVML", "ok", f"not used: {machine.nvml_message}")
    mend = "nothing for us: clocks and power of this board are kernel files; other tools that ask NVML will see none"
    if "reports nothing" in machine.nvml_message or "reports neither" in machine.nvml_message:
        return Finding("NVML", "notice", machine.nvml_message, mend)
    return Finding("NVML", "ok", "not needed on a Jetson")


def check_rivals(machine: Machine) -> Finding:
    """Other programs that change clocks; ours are watched and the change is reported, but the trial is lost."""
    if not machine.rivals:
        return Finding("other tuners", "ok", "none")
    names = ", ".join(machine.rivals)
    stop = " ".join(name for name in machine.rivals if name != "nvpmodel")
    steps = [f"systemctl disable --now {stop}"] if stop else []
    if "nvpmodel" in machine.rivals:
        steps.append("nvpmodel: add RemainAfterExit=yes to its unit, or a change of target re-applies its mode")
    return Finding("other tuners", "notice", f"{names} also change clocks", "; ".join(steps))


def check_models(machine: Machine) -> Finding:
    """Weights of every model in the repository."""
    missing = machine.models_without_weights
    if not missing:
        return Finding("models", "ok", f"{machine.repository}: all have their weights")
    return Finding("models", "notice", f"no weights: {', '.join(missing)}", f"teg models build {' '.join(missing)}")


def check_run_dir(machine: Machine) -> Finding:
    """The run directory, where the processes meet."""
    if machine.run_dir_writable:
        return Finding("run directory", "ok", str(machine.run_dir))
    mend = "set TEG_RUN_DIR or --run-dir to a folder of yours, or RuntimeDirectory=teg in the unit"
    return Finding("run directory", "fault", f"{machine.run_dir} is not writable", mend)


def check_compiler(machine: Machine) -> Finding:
    """A C compiler, which only some tests want."""
    if machine.compiler:
        return Finding("C compiler", "ok", machine.compiler)
    return Finding("C compiler", "notice", "none; some tests need one", "Debian: apt install build-essential")


def _note(note: str) -> Finding:
    """Something unknown or assumed; those that a trial on the board would settle say how."""
    settling = {
        "unproven": "teg doctor --probe-emc, while clockd runs and nobody uses the board, tries each rate",
        "is assumed": "compare with the monitor's data sheet or its samples and update_interval files",
        "not found": "look for the board's power monitors: ls -d /sys/bus/i2c/drivers/ina3*/*",
    }
    mend = next((advice for words, advice in settling.items() if words in note), "")
    return Finding("board note", "notice", note, mend)


CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    check_python,
    check_libpython,
    check_numpy,
    check_server,
    check_server_version,
    check_shm,
    check_run_dir,
    check_models,
    check_board,
    check_emc,
    check_nvml,
    check_rivals,
    check_compiler,
)
