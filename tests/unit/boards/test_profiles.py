# SPDX-License-Identifier: Apache-2.0
"""The profiles: complete, consistent with each other, and honest about where each fact comes from."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from boards.profile import JETPACKS, Profile, read_profile
from boards.virtual import NAMES

FOLDER = resources.files("boards").joinpath("profiles")
SECTIONS = {"identity", "power", "cpu", "gpu", "emc", "rails", "thermal", "nvpmodel"}


@pytest.fixture(params=JETPACKS)
def profile(request: pytest.FixtureRequest) -> Profile:
    return read_profile(request.param)


@pytest.fixture
def record(profile: Profile) -> dict[str, Any]:
    return json.loads(FOLDER.joinpath(f"{profile.key}.json").read_text())


def test_every_file_is_known() -> None:
    """The files that are shipped and the table of JetPacks name the same boards."""
    assert {file.name.removesuffix(".json") for file in FOLDER.iterdir()} == set(JETPACKS)


def test_every_fact_names_its_source(record: dict[str, Any]) -> None:
    """Each section says where it comes from and how far it is to be trusted; what is unproven is listed as assumed."""
    assert set(record) == SECTIONS
    for name, section in record.items():
        level = section["confidence"].split()[0].strip(",:;")
        assert section["source"], name
        assert level in {"high", "medium", "low"}, name
        assert level != "low" or section["assumed"], name


def test_jetpacks_are_stated_once(profile: Profile) -> None:
    """The table of JetPacks, the layouts, the caps and the zones speak of the same releases."""
    assert profile.jetpacks == tuple(JETPACKS[profile.key])
    assert set(profile.gpu.layouts) == set(profile.emc.caps) == set(profile.thermal.zones) == set(profile.jetpacks)


def test_tables_ascend_and_hold_their_limits(profile: Profile) -> None:
    """Steps ascend; limits at rest and lockable rates are among them."""
    table = profile.table()
    assert min(map(len, (table.gpu_hz, table.emc_hz, table.cpu_hz, table.cores))) >= 2
    assert profile.gpu.min_hz in table.gpu_hz
    assert set(profile.emc.lockable_hz) <= set(profile.emc.listed_hz)
    assert table.cpu_hz[0] <= profile.cpu.min_hz < table.cpu_hz[-1]


def test_clusters_hold_every_core_once(profile: Profile) -> None:
    """Core numbers run from 0 without gaps, each in one policy, cpu0 in the first."""
    cpus = [cpu for policy in profile.cpu.policies for cpu in policy]
    assert sorted(cpus) == list(range(len(cpus)))
    assert profile.cpu.policies[0][0] == 0


def test_the_rails_of_the_module_carry_all_of_its_power_once(profile: Profile) -> None:
    """The rails that make up the total add up to every part's whole power, and not to more."""
    channels = [channel for chip in profile.rails.chips for channel in chip.channels]
    total = [channel for channel in channels if channel.label in profile.rails.total]
    assert len(total) == len(profile.rails.total)
    for part in ("cpu", "gpu", "memory", "rest"):
        assert sum(getattr(channel, part) for channel in total) == pytest.approx(1), part


def test_bus_voltages_lie_between_two_steps(profile: Profile) -> None:
    """A sound monitor never stands still: its supply lies half-way between two steps of 8 mV."""
    for chip in profile.rails.chips:
        assert all(channel.millivolts % 8 == 4 for channel in chip.channels if channel.label)


def test_power_modes_stay_within_the_board(profile: Profile) -> None:
    """Modes have distinct numbers, keep cpu0, and cap nothing above the tables but by -1."""
    assert len({mode.number for mode in profile.modes}) == len(profile.modes) > 0
    for mode in profile.modes:
        assert 0 in mode.cores
        assert set(mode.cores) <= {cpu for policy in profile.cpu.policies for cpu in policy}
        assert mode.gpu_max_hz <= profile.gpu.hz[-1]
        assert mode.cpu_max_hz <= profile.cpu.hz[-1]
        assert mode.emc_cap_hz <= profile.emc.lockable_hz[-1]


def test_boards_are_told_apart_by_their_device_tree() -> None:
    """No two boards have the same compatible strings; the last one is the chip's."""
    strings = [read_profile(key).compatible for key in JETPACKS]
    assert len(set(strings)) == len(strings)
    assert all(names[-1].startswith("nvidia,tegra") for names in strings)


def test_names_of_virtual_boards() -> None:
    """Every profile has a name, and one for each JetPack; without it stands the newest but one."""
    assert {key for key, _ in NAMES.values()} == set(JETPACKS)
    assert NAMES["virtual:agx-orin"] == ("agx_orin_64gb", "6")
    assert NAMES["virtual:orin-nano"] == ("orin_nano_8gb", "6")
    assert NAMES["virtual:tx2"] == ("tx2", "4")
    assert NAMES["virtual:agx-thor@7"] == ("agx_thor", "7")
    assert len(NAMES) == len(JETPACKS) + sum(map(len, JETPACKS.values()))
