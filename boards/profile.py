# SPDX-License-Identifier: Apache-2.0
"""What the kernel of each Jetson lays out, as frozen records: one JSON file a board, in `profiles/`.

Every section of a file names its source and how far it is to be trusted, and lists what is assumed. The virtual boards
are built from these records alone. The code that controls real boards never reads them: it discovers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .clocks import ClockPoint, ClockTable

JETPACKS = {
    "tx2": "4",
    "xavier_nx": "45",
    "agx_xavier": "45",
    "orin_nano_8gb": "567",
    "orin_nano_8gb_super": "67",
    "orin_nx_16gb": "567",
    "orin_nx_16gb_super": "67",
    "agx_orin_64gb": "567",
    "agx_orin_32gb": "567",
    "agx_thor": "7",
}
"""Every profile, and the JetPacks that its board is known under, oldest first."""


@dataclass(frozen=True, slots=True)
class CpuProfile:
    """Clusters of cores that share a clock; `listed` is whether the kernel lists the steps."""

    policies: tuple[tuple[int, ...], ...]
    hz: tuple[int, ...]
    listed: bool
    min_hz: int
    """The lower limit as nvpmodel leaves it."""


@dataclass(frozen=True, slots=True)
class GpuLayout:
    """Where one JetPack shows the GPU: its name under /sys/class/devfreq, its device, further links to that."""

    name: str
    device: str
    of_node: str | None
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """The GPU's devfreq device; `gated_when_idle` is one that loses its power, and then reads 0 Hz."""

    compatible: str | None
    hz: tuple[int, ...]
    min_hz: int
    governor: str
    gated_when_idle: bool
    layouts: Mapping[str, GpuLayout]
    second_domain: tuple[str, tuple[int, ...]] | None
    """Another devfreq device of the same GPU (the video engines'), with its steps."""


@dataclass(frozen=True, slots=True)
class EmcProfile:
    """The memory controller's clock in BPMP debugfs; `listed_hz` also has voltage points that cannot be locked."""

    lockable_hz: tuple[int, ...]
    listed_hz: tuple[int, ...]
    table_file: str | None
    bwmgr_halt: str | None
    needs_halt: bool
    """Whether the bandwidth manager must be halted for a locked rate to hold."""
    devfreq: str | None
    caps: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a power monitor: its supply, and its share of each part's power; no label where unwired."""

    number: int
    label: str | None
    millivolts: int = 0
    cpu: float = 0.0
    gpu: float = 0.0
    memory: float = 0.0
    rest: float = 0.0


@dataclass(frozen=True, slots=True)
class Chip:
    """One power monitor on I2C (`bus-address`)."""

    address: str
    kind: str
    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True)
class RailsProfile:
    """Every power monitor; `total` are the rails that add up to the module."""

    total: tuple[str, ...]
    averaging_s: float
    current_step_ma: int
    chips: tuple[Chip, ...]


@dataclass(frozen=True, slots=True)
class ThermalProfile:
    """Thermal zones by JetPack, those without power, throttle alerts and over-current counters."""

    zones: Mapping[str, tuple[str, ...]]
    gated: frozenset[str]
    alerts: tuple[str, ...]
    over_current: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PowerMode:
    """A mode of nvpmodel; -1 is no limit, a cap of 0 none."""

    number: int
    name: str
    cores: tuple[int, ...]
    cpu_min_hz: int
    cpu_max_hz: int
    gpu_max_hz: int
    emc_cap_hz: int


@dataclass(frozen=True, slots=True)
class Profile:
    """One board."""

    key: str
    name: str
    model: str
    compatible: tuple[str, ...]
    jetpacks: tuple[str, ...]
    class_w: float
    """The module's largest power class."""
    cpu: CpuProfile
    gpu: GpuProfile
    emc: EmcProfile
    rails: RailsProfile
    thermal: ThermalProfile
    modes: tuple[PowerMode, ...]

    def table(self) -> ClockTable:
        """Every value of every knob, in no power mode; cores by whole clusters."""
        cores, counts = 0, []
        for policy in self.cpu.policies:
            cores += len(policy)
            counts.append(cores)
        return ClockTable(self.gpu.hz, self.gpu.hz, self.emc.lockable_hz, self.cpu.hz, tuple(counts))

    def maximum(self) -> ClockPoint:
        """Every clock at its top, every core online."""
        return self.table().maximum()


def read_profile(key: str) -> Profile:
    """The profile of one of `JETPACKS`."""
    text = resources.files("boards").joinpath(f"profiles/{key}.json").read_text()
    return parse_profile(key, json.loads(text))


def parse_profile(key: str, record: Mapping[str, Any]) -> Profile:
    """A profile from a file's content."""
    identity, cpu, rails = record["identity"], record["cpu"], record["rails"]
    return Profile(
        key=key,
        name=identity["name"],
        model=identity["model"],
        compatible=tuple(identity["compatible"]),
        jetpacks=tuple(identity["jetpacks"]),
        class_w=float(record["power"]["class_w"]),
        cpu=CpuProfile(tuple(map(tuple, cpu["policies"])), _steps(cpu["hz"]), cpu["listed"], cpu["min_hz"]),
        gpu=_gpu(record["gpu"]),
        emc=_emc(record["emc"]),
        rails=RailsProfile(
            tuple(rails["total"]), rails["averaging_s"], rails["current_step_ma"], tuple(map(_chip, rails["chips"]))
        ),
        thermal=_thermal(record["thermal"]),
        modes=tuple(map(_mode, record["nvpmodel"]["modes"])),
    )


def _gpu(record: Mapping[str, Any]) -> GpuProfile:
    layouts = {
        jetpack: GpuLayout(layout["name"], layout["device"], layout["of_node"], layout["links"])
        for jetpack, layout in record["layouts"].items()
    }
    second = record.get("second_domain")
    return GpuProfile(
        record["compatible"],
        _steps(record["hz"]),
        record["min_hz"],
        record["governor"],
        record["gated_when_idle"],
        layouts,
        (second["name"], _steps(second["hz"])) if second else None,
    )


def _emc(record: Mapping[str, Any]) -> EmcProfile:
    return EmcProfile(
        tuple(record["lockable_hz"]),
        tuple(record["listed_hz"]),
        record["table_file"],
        record["bwmgr_halt"],
        record["needs_halt"],
        record["devfreq"],
        record["caps"],
    )


def _chip(record: Mapping[str, Any]) -> Chip:
    channels = [
        Channel(channel["channel"], channel["label"], channel.get("millivolts", 0), **channel.get("carries", {}))
        for channel in record["channels"]
    ]
    return Chip(record["address"], record["chip"], tuple(channels))


def _thermal(record: Mapping[str, Any]) -> ThermalProfile:
    zones = {jetpack: tuple(names) for jetpack, names in record["zones"].items()}
    return ThermalProfile(zones, frozenset(record["gated"]), tuple(record["alerts"]), tuple(record["over_current"]))


def _mode(record: Mapping[str, Any]) -> PowerMode:
    return PowerMode(
        record["id"],
        record["name"],
        tuple(record["cores"]),
        record["cpu_min_hz"],
        record["cpu_max_hz"],
        record["gpu_max_hz"],
        record["emc_cap_hz"],
    )


def _steps(record: list[int] | Mapping[str, int]) -> tuple[int, ...]:
    """Clock steps in Hz: a list, or first, last and step."""
    if isinstance(record, Mapping):
        return tuple(range(record["first"], record["last"] + 1, record["step"]))
    return tuple(record)
