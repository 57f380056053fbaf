# SPDX-License-Identifier: Apache-2.0
"""Whether external power is there (Linux power_supply class, Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NodeError
from .tree import Tree

_CLASS = "/sys/class/power_supply"
_EXTERNAL = ("Mains", "USB", "Wireless")
_DRAINING = "Discharging"
_UNKNOWN = ("", "Unknown")


@dataclass(frozen=True, slots=True)
class PowerSupply:
    """One supply; `online` and `status` are None where it does not tell."""

    name: str
    kind: str
    """`Battery`, `UPS`, `Mains`, `USB`, `Wireless`."""
    online: bool | None
    status: str | None
    """Of a battery: `Charging`, `Discharging`, `Not charging`, `Full`."""
    device: bool
    """It feeds some device (a mouse), not this machine."""


def read_supplies(tree: Tree) -> list[PowerSupply]:
    """Every supply that can be read; one broken driver does not lose the others."""
    found = []
    for path in tree.glob(f"{_CLASS}/*/type"):
        folder = path.rpartition("/")[0]
        kind, online = _text(tree, path), _text(tree, f"{folder}/online")
        # 2: online and programmable (USB power delivery)
        told = None if online in _UNKNOWN else online != "0"
        status = _text(tree, f"{folder}/status")
        scope = _text(tree, f"{folder}/scope")
        name = folder.rpartition("/")[2]
        found.append(PowerSupply(name, kind, told, None if status in _UNKNOWN else status, scope == "Device"))
    return found


def external_power(supplies: list[PowerSupply]) -> bool | None:
    """Whether the machine runs on external power; None if nothing tells.

    A charger that is online says so, and so does a battery that does not drain. A board without a battery, whose plug
    the kernel does not see, tells nothing.
    """
    ours = [supply for supply in supplies if not supply.device]
    chargers = [supply.online for supply in ours if supply.kind in _EXTERNAL and supply.online is not None]
    if any(chargers):
        return True
    batteries = [supply.status for supply in ours if supply.kind == "Battery" and supply.status is not None]
    if batteries:
        return _DRAINING not in batteries
    return False if chargers else None


def _text(tree: Tree, path: str) -> str:
    try:
        return tree.read(path)
    except NodeError:
        return ""
