# SPDX-License-Identifier: Apache-2.0
"""What `teg doctor` looks at, gathered once; the machine's file system is reached below `root` only."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from boards.discover import open_board
from boards.errors import BoardError
from boards.nvml import open_nvml

PACKAGES = ("numpy", "torch", "nvidia-pytriton", "tritonclient", "onnxruntime")
_BUNDLED_SERVER = {"0.7": (2, 51, 0)}
"""nvidia-pytriton release -> version of the server inside it."""

RIVALS = {
    "tuned": "tuned",
    "tlp": "tlp",
    "jetson_clocks": "jetson_clocks",
    "power-profiles-": "power-profiles-daemon",  # the kernel keeps 15 characters of a name
    "nvpmodel": "nvpmodel",
}
"""Process name -> the systemd unit behind it, of programs that change clocks."""

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at a machine. None means: not there, or it could not be told."""

    python: Version
    libpython: str
    """File name of the shared library that Triton's stub loads."""
    libpython_path: Path | None
    packages: Mapping[str, str]
    """Installed distributions among `PACKAGES`, with their versions."""
    stubs: tuple[str, ...]
    """Python versions for which the packaged server has a stub."""
    server: Path | None
    """The server that `teg serve` would start."""
    server_version: Version | None
    shm_bytes: int | None
    """Free space in /dev/shm."""
    board: str | None
    board_message: str
    board_notes: tuple[str, ...]
    """What is missing, unknown or assumed about it."""
    nvml: str | None
    """The discrete GPU that NVML offers."""
    nvml_message: str
    """Why NVML offers none."""
    root_user: bool
    emc_debugfs: bool | None
    """Whether the EMC clock can be read through debugfs; None where this user cannot tell."""
    rivals: tuple[str, ...]
    """Units of other programs that change clocks, running or started at boot."""
    run_dir: Path
    run_dir_writable: bool
    repository: Path
    models_without_weights: tuple[str, ...]
    compiler: str | None


def look(root: Path, run_dir: Path, repository: Path, server: Path | None = None) -> Machine:
    """Gather everything; nothing is changed and nothing is started."""
    libpython = str(sysconfig.get_config_var("INSTSONAME") or f"libpython{_minor()}.so.1.0")
    if not libpython.startswith("libpython") or ".so" not in libpython:
        libpython = f"libpython{_minor()}.so.1.0"  # a static build names its archive instead
    packages = {name: version for name in PACKAGES if (version := _installed(name))}
    board, message, notes = _board(root)
    nvml, nvml_message = _nvml() if root == Path("/") else (None, "asked of this machine only")
    found = server or _server()
    return Machine(
        python=sys.version_info[:3],
        libpython=libpython,
        libpython_path=find_libpython(root, libpython),
        packages=packages,
        stubs=_stubs(),
        server=found,
        server_version=server_version(found, packages.get("nvidia-pytriton")),
        shm_bytes=_free_bytes(root / "dev/shm"),
        board=board,
        board_message=message,
        board_notes=notes,
        nvml=nvml,
        nvml_message=nvml_message,
        root_user=os.geteuid() == 0,
        emc_debugfs=find_emc(root),
        rivals=find_rivals(root),
        run_dir=run_dir,
        run_dir_writable=is_writable(run_dir),
        repository=repository,
        models_without_weights=find_models_without_weights(repository),
        compiler=shutil.which("cc") or shutil.which("gcc"),
    )


def find_libpython(root: Path, name: str) -> Path | None:
    """The shared library of this interpreter, where the interpreter or Debian keeps it."""
    own = Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
    triplet = str(sysconfig.get_config_var("MULTIARCH") or "")
    for folder in (own, own / triplet, Path("/usr/lib") / triplet, Path("/usr/local/lib")):
        path = root / folder.relative_to("/") / name
        if path.is_file():
            return path
    return None


def find_emc(root: Path) -> bool | None:
    """Whether the memory clock's debugfs folder is there; None if debugfs is closed to this user."""
    debugfs = root / "sys/kernel/debug"
    if debugfs.is_dir() and not os.access(debugfs, os.R_OK | os.X_OK):
        return None
    return (debugfs / "bpmp/debug/clk/emc/rate").exists()


def find_rivals(root: Path) -> tuple[str, ...]:
    """Units of programs that change clocks: those that run, and those that systemd starts at boot."""
    running = {RIVALS[name] for path in root.glob("proc/[0-9]*/comm") if (name := _read(path)) in RIVALS}
    wanted = {path.name.removesuffix(".service") for path in root.glob("etc/systemd/system/*.wants/*.service")}
    return tuple(sorted(running | wanted & set(RIVALS.values())))


def find_models_without_weights(repository: Path) -> tuple[str, ...]:
    """Models whose configuration names a model file that no version folder holds."""
    missing = []
    for config in sorted(repository.glob("*/config.pbtxt")):
        named = re.search(r'key:\s*"model_file"\s*,?\s*value\s*:?\s*{\s*string_value:\s*"([^"]+)"', _read(config))
        if named and not any(path.parent.name.isdecimal() for path in config.parent.glob(f"*/{named[1]}")):
            missing.append(config.parent.name)
    return tuple(missing)


def server_version(server: Path | None, pytriton: str | None) -> Version | None:
    """The server's version, from the file that containers put beside it or from the package it came in."""
    if server is None:
        return None
    stated = _read(server.parent.parent / "TRITON_VERSION")
    if re.fullmatch(r"\d+(\.\d+)+", stated):
        return tuple(int(part) for part in stated.split("."))
    packaged = pytriton and "pytriton" in server.parts
    return _BUNDLED_SERVER.get(".".join(str(pytriton).split(".")[:2])) if packaged else None


def is_writable(folder: Path) -> bool:
    """Whether this user may write into `folder`, or make it if it is not there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _board(root: Path) -> tuple[str | None, str, tuple[str, ...]]:
    try:
        board = open_board("auto", root)
    except BoardError as error:
        return None, str(error), ()
    return board.name, "", board.notes


def _nvml() -> tuple[str | None, str]:
    try:
        return open_nvml(0).name, ""
    except BoardError as error:
        return None, str(error)


def _packaged_server() -> Path:
    return Path(sysconfig.get_path("purelib")) / "pytriton" / "tritonserver"


def _server() -> Path | None:
    packaged = _packaged_server() / "bin" / "tritonserver"
    return packaged if packaged.is_file() else None


def _stubs() -> tuple[str, ...]:
    folder = _packaged_server() / "python_backend_stubs"
    return tuple(sorted(path.parent.name for path in folder.glob("*/triton_python_backend_stub")))


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _free_bytes(folder: Path) -> int | None:
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def _read(path: Path) -> str:
    """The file's text without white space at its ends, empty if it cannot be read (a process that has just ended)."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
