# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from boards.power_supply import external_power, read_supplies
from boards.tree import SysfsTree


def supplies(root: Path, found: Mapping[str, Mapping[str, str]]) -> SysfsTree:
    """A tree with these supplies, their attributes as the kernel writes them."""
    for name, attributes in found.items():
        folder = root / "sys/class/power_supply" / name
        folder.mkdir(parents=True)
        for attribute, value in attributes.items():
            (folder / attribute).write_text(f"{value}\n")
    return SysfsTree(root)


LAPTOP = {"AC": {"type": "Mains", "online": "1"}, "BAT0": {"type": "Battery", "status": "Charging"}}


@pytest.mark.parametrize(
    ("found", "external"),
    [
        (LAPTOP, True),
        (
            LAPTOP | {"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}},
            False,
        ),
        ({"usb": {"type": "USB", "online": "2"}}, True),
        ({"usb": {"type": "USB", "online": "0"}}, False),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Not charging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        ({"BAT0": {"type": "Battery", "status": "Unknown"}}, None),
        ({"AC": {"type": "Mains"}}, None),
        ({"mouse": {"type": "Battery", "status": "Discharging", "scope": "Device"}}, None),
        ({}, None),
    ],
)
def test_external_power(tmp_path: Path, found: Mapping[str, Mapping[str, str]], external: bool | None) -> None:
    """A charger online, or a battery that does not drain, is external power; where nothing tells nothing is known."""
    assert external_power(read_supplies(supplies(tmp_path, found))) is external


def test_one_broken_driver_does_not_lose_the_others(tmp_path: Path) -> None:
    """A supply whose attribute cannot be read tells nothing, and the others still do."""
    tree = supplies(tmp_path, LAPTOP)
    (tmp_path / "sys/class/power_supply/BAT0/status").unlink()
    (tmp_path / "sys/class/power_supply/BAT0/status").mkdir()
    found = {supply.name: supply for supply in read_supplies(tree)}
    assert found["BAT0"].status is None
    assert found["AC"].online is True
    assert external_power(list(found.values())) is True
