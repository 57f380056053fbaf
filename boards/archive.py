# SPDX-License-Identifier: Apache-2.0
"""The kernel files of a board, to send with a report, to keep as a test's board, or to show to other tools.

As a text: one line a file, the path, a space, its content as a JSON string; or `path -> target` for a link.
`python -m boards.archive` prints this machine's. As a folder (`teg board export`): plain files and links below it, as a
root for `open_board` and for the discovery of other tools. The files hold clocks, rails and temperatures; nothing in
them names a person or a network.
"""

from __future__ import annotations

import errno
import json
import posixpath
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import NodeError
from .tree import SysfsTree, Tree
from .virtual_tree import VirtualTree

_CPU = "/sys/devices/system/cpu"
_GPU = "/sys/class/devfreq/*/device"
_DEBUG = "/sys/kernel/debug"
PATTERNS = (
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/sys/class/devfreq/*/*",
    *(f"{_GPU}/of_node/{name}" for name in ("name", "compatible")),
    *(f"{_GPU}/{name}" for name in ("load", "railgate_enable", "enable_3d_scaling", "*_pg_mask", "power/control")),
    f"{_GPU}/devfreq_dev",
    f"{_GPU}/devfreq/devfreq0",
    # Other names of the GPU, by which nvpmodel and jetson_clocks go.
    "/sys/devices/gpu.0",
    "/sys/devices/platform/gpu.0",
    "/sys/devices/platform/17000000.*",
    "/sys/bus/pci/devices/0000:01:00.0",
    f"{_DEBUG}/bpmp/debug/clk/emc/*",
    f"{_DEBUG}/bpmp/debug/bwmgr/bwmgr_halt",
    f"{_DEBUG}/clk/emc/clk_rate",
    f"{_DEBUG}/cactmon/mc_all",
    "/sys/kernel/actmon_avg_activity/mc_all",
    "/sys/kernel/nvpmodel_emc_cap/*",
    "/sys/kernel/nvpmodel_clk_cap/*",
    f"{_CPU}/cpufreq/policy*/*",
    f"{_CPU}/cpu*/online",
    *(f"{_CPU}/{name}" for name in ("online", "present", "possible")),
    "/sys/bus/i2c/devices/*/name",
    "/sys/bus/i2c/devices/*/iio:device*/*",
    "/sys/bus/i2c/devices/*/hwmon/hwmon*/*",
    "/sys/bus/i2c/drivers/ina*/*-*",
    "/sys/bus/iio/devices/iio:device*",
    "/sys/class/hwmon/hwmon*/*",
    "/sys/devices/pwm-fan/*",
    "/sys/class/thermal/*/type",
    "/sys/class/thermal/*/temp",
    "/sys/class/thermal/*/cur_state",
)
"""Every file that this package may read, and what other tools look for."""


@dataclass(slots=True)
class Archive:
    """The files of a board by their real paths, the links that lead to them, and what could not be read."""

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Targets relative to the link's folder."""
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, tree: Tree) -> Archive:
        """Read everything that `PATTERNS` finds."""
        archive = cls()
        for path in sorted({path for pattern in PATTERNS for path in tree.glob(pattern)}):
            real = _follow(tree, path, archive.links)
            if real not in archive.files and real not in archive.unreadable:
                archive._add(tree, path, real)
        return archive

    def _add(self, tree: Tree, path: str, real: str) -> None:
        # Strings of the device tree end in NUL, everything else in a new line.
        end = "\0" if "/of_node/" in real or "device-tree" in path else "\n"
        try:
            self.files[real] = tree.read(path) + end
        except NodeError as error:
            if error.code != errno.EISDIR:
                self.unreadable.append(real)


def pack(tree: Tree) -> Iterator[str]:
    """The lines of an archive; files that cannot be read now (write-only, power-gated) are left out."""
    archive = Archive.of(tree)
    yield from (f"{path} {json.dumps(text)}" for path, text in archive.files.items())
    yield from (f"{path} -> {target}" for path, target in archive.links.items())


def unpack(archive: str, folder: Path) -> Path:
    """Lay the files of an archive out below `folder`, which is returned: a root for `open_board`.

    Raises `ValueError` for a line that would lead out of the folder.
    """
    for number, line in enumerate(archive.splitlines(), start=1):
        path, _, text = line.partition(" ")
        if not line or line.startswith("#"):
            continue
        if not path.startswith("/") or ".." in Path(path).parts:
            raise ValueError(f"line {number}: not an absolute path: {path!r}")
        file = folder / path.lstrip("/")
        target = text.removeprefix("-> ") if text.startswith("-> ") else None
        end = file if target is None else file.parent / target
        if not end.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"line {number}: leads out of the folder: {line[:80]!r}")
        file.parent.mkdir(parents=True, exist_ok=True)
        if target is None:
            file.write_text(json.loads(text))
        else:
            file.symlink_to(target)
    return folder


def export(tree: Tree, folder: Path) -> list[str]:
    """Write the files and links of a board below an empty or new folder; the paths that could not be read.

    Raises `FileExistsError` if the folder holds anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(errno.EEXIST, "not an empty folder", str(folder))
    archive = Archive.of(tree)
    for path, text in archive.files.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for path, target in archive.links.items():
        link = folder / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return archive.unreadable


def _follow(tree: Tree, path: str, links: dict[str, str]) -> str:
    """The real path, noting every link on the way."""
    real = ""
    for name in path.split("/")[1:]:
        here = f"{real}/{name}"
        target = _target(tree, here)
        if target is None:
            real = here
        else:
            links[here] = posixpath.relpath(target, real or "/")
            real = _follow(tree, target, links)
    return real


def _target(tree: Tree, path: str) -> str | None:
    """Where a link leads, as an absolute path within the tree; None for anything else."""
    if isinstance(tree, VirtualTree):
        return tree.links.get(path)
    if isinstance(tree, SysfsTree):
        here = tree.root / path.lstrip("/")
        if here.is_symlink():
            return posixpath.normpath(posixpath.join(posixpath.dirname(path), here.readlink()))
    return None


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in pack(SysfsTree(Path("/"))))
