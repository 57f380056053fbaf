# SPDX-License-Identifier: Apache-2.0
"""The governor's settings: one TOML file becomes one frozen record; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import ConfigInvalid

TUNABLE = ("cores", "cpu_hz", "gpu_hz", "emc_hz", "batch")
"""Knobs that `knobs` may name. The GPU's lower limit is always pinned to its upper one, as `jetson_clocks` does."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of `teg run`, in the order of its `--help`; times in seconds."""

    run_dir: Path
    state_dir: Path
    knobs: tuple[str, ...] = ("cpu_hz", "gpu_hz", "emc_hz", "batch")
    trials: int = 24
    trial_s: float = 6.0
    seed: int = 0
    slo_s: float | None = None
    """Replaces the objective that each model's config.pbtxt states."""
    slo_quantile: float | None = None
    slo_window_s: float = 10.0
    cooldown_s: float = 30.0
    """How long the fastest point is kept after the objective was broken."""
    lease_ttl_s: float = 3.0
    tick_s: float = 0.05
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9402
    fresh: bool = field(default=False)
    """Forget the trials of earlier runs."""

    def __post_init__(self) -> None:
        if not self.knobs or set(self.knobs) - set(TUNABLE):
            raise ConfigInvalid("knobs", f"must be some of {', '.join(TUNABLE)}; got {', '.join(self.knobs) or 'none'}")
        for key in ("trials", "trial_s", "slo_window_s", "tick_s"):
            if not getattr(self, key) > 0:
                raise ConfigInvalid(key, f"must be positive, got {getattr(self, key)}")
        if not 0 < self.lease_ttl_s <= 5:
            raise ConfigInvalid("lease_ttl_s", f"must lie in (0, 5], got {self.lease_ttl_s}")
        if self.slo_s is not None and not self.slo_s > 0:
            raise ConfigInvalid("slo_s", f"must be positive, got {self.slo_s}")
        if self.slo_quantile is not None and not 0 < self.slo_quantile < 1:
            raise ConfigInvalid("slo_quantile", f"must lie between 0 and 1, got {self.slo_quantile}")


_FIELDS = {entry.name for entry in fields(Config)}
_TYPES: dict[str, Callable[[Any], Any]] = {"run_dir": Path, "state_dir": Path, "knobs": tuple}


def load(path: Path, base: Config) -> Config:
    """`base` with the settings of a TOML file; raises `ConfigInvalid` naming the key, or the file if it is not TOML."""
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(str(path), str(error)) from error
    return override(base, settings)


def override(base: Config, settings: Mapping[str, Any]) -> Config:
    """`base` with `settings` on top; raises `ConfigInvalid` for an unknown key or a value out of range."""
    for key in settings:
        if key not in _FIELDS:
            raise ConfigInvalid(key, f"unknown setting; known: {', '.join(sorted(_FIELDS))}")
    typed: dict[str, Any] = {key: _TYPES.get(key, lambda given: given)(value) for key, value in settings.items()}
    try:
        return replace(base, **typed)
    except TypeError as error:
        raise ConfigInvalid("settings", str(error)) from error
