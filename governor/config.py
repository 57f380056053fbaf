# SPDX-License-Identifier: Apache-2.0
"""The governor's settings: one TOML file becomes one frozen record; an unknown key is an error."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
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
    regret: float = 0.01
    """The search ends once no point is expected to be cheaper than the best by more than this share."""
    slo_s: float | None = None
    """Replaces the objective that each model's config.pbtxt states."""
    slo_quantile: float | None = None
    slo_window_s: float = 10.0
    cooldown_s: float = 30.0
    """How long the fastest point is kept after the objective was broken."""
    breach_share: float = 0.01
    """Share of the windows that trials may break; beyond it the best point is held until that is so again."""
    reopen_s: float = 600.0
    """After the search was opened again, because something changed, it is not for so long, and longer each time."""
    lease_ttl_s: float = 3.0
    tick_s: float = 0.05
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9402
    fresh: bool = field(default=False)
    """Forget the trials of earlier runs."""

    def __post_init__(self) -> None:
        if not self.knobs or set(self.knobs) - set(TUNABLE):
            raise ConfigInvalid("knobs", f"must be some of {', '.join(TUNABLE)}; got {', '.join(self.knobs) or 'none'}")
        for key in ("trials", "trial_s", "slo_window_s", "tick_s", "reopen_s", "breach_share"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigInvalid(key, f"must be positive and finite, got {getattr(self, key)}")
        if not 0 <= self.regret < 1:
            raise ConfigInvalid("regret", f"must lie in [0, 1), got {self.regret}")
        if not 0 <= self.metrics_port <= 65535:
            raise ConfigInvalid("metrics_port", f"must lie between 0 and 65535, got {self.metrics_port}")
        if not 0 < self.lease_ttl_s <= 5:
            raise ConfigInvalid("lease_ttl_s", f"must lie in (0, 5], got {self.lease_ttl_s}")
        if self.tick_s > self.lease_ttl_s / 4:
            raise ConfigInvalid("tick_s", f"must be at most a quarter of lease_ttl_s, got {self.tick_s}")
        if self.slo_s is not None and not self.slo_s > 0:
            raise ConfigInvalid("slo_s", f"must be positive, got {self.slo_s}")
        if self.slo_quantile is not None and not 0 < self.slo_quantile < 1:
            raise ConfigInvalid("slo_quantile", f"must lie between 0 and 1, got {self.slo_quantile}")


_FIELDS = {entry.name for entry in fields(Config)}
_WHOLE = {"trials", "seed", "metrics_port"}
_WORDS = {"run_dir", "state_dir", "metrics_host"}


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
    return replace(base, **{key: _typed(key, value) for key, value in settings.items()})


def _typed(key: str, value: Any) -> Any:
    """A setting as its field wants it; raises `ConfigInvalid` for a value of another type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match value:
        case [*names] if key == "knobs" and all(isinstance(name, str) for name in names):
            return tuple(names)
        case str() if key in _WORDS:
            return value if key == "metrics_host" else Path(value)
        case Path() if key in _WORDS - {"metrics_host"}:
            return value
        case bool() if key == "fresh":
            return value
        case _ if number and key in _WHOLE and float(value).is_integer():
            return int(value)
        case _ if number and key not in _WHOLE | _WORDS | {"knobs", "fresh"}:
            return float(value)
    raise ConfigInvalid(key, f"not a value for this setting: {value!r}")
