# SPDX-License-Identifier: Apache-2.0
"""The kernel files of a board as one text, to send with a report or to keep as a test's board.

One line a file: the path, a space, its text as a JSON string; or `path -> target` for a link.
`python -m boards.archive` prints this machine's. The files hold clocks, rails and temperatures; nothing in them names a
person or a network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import NodeError
from .layout import LAYOUTS
from .tree import SysfsTree, Tree

_CPU = "/sys/devices/system/cpu"
PATTERNS = (
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/sys/class/devfreq/*/*",
    "/sys/class/devfreq/*/device/of_node/name",
    "/sys/class/devfreq/*/device/of_node/compatible",
    *(f"{layout.emc_folder}/*" for layout in LAYOUTS),
    *(layout.emc_cap for layout in LAYOUTS),
    f"{_CPU}/cpufreq/policy*/*",
    f"{_CPU}/cpu*/online",
    "/sys/class/hwmon/hwmon*/*",
    "/sys/class/thermal/*/type",
    "/sys/class/thermal/*/temp",
    "/sys/class/thermal/*/cur_state",
)
"""Every file that this package may read."""


def pack(tree: Tree) -> Iterator[str]:
    """The lines of an archive; files that cannot be read now (write-only, power-gated) are left out."""
    for path in sorted({path for pattern in PATTERNS for path in tree.glob(pattern)}):
        try:
            yield f"{path} {json.dumps(tree.read(path))}"
        except NodeError:
            continue


def unpack(archive: str, folder: Path) -> Path:
    """Lay the files of an archive out below `folder`, which is returned: a root for `open_board`."""
    for number, line in enumerate(archive.splitlines(), start=1):
        path, _, text = line.partition(" ")
        if not line or line.startswith("#"):
            continue
        if not path.startswith("/") or ".." in Path(path).parts:
            raise ValueError(f"line {number}: not an absolute path: {path!r}")
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            file.symlink_to(text.removeprefix("-> "))
        else:
            file.write_text(json.loads(text))
    return folder


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in pack(SysfsTree(Path("/"))))
