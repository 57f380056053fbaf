# SPDX-License-Identifier: Apache-2.0
"""Settings: one TOML file, one frozen record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from governor.config import Config, load, override
from governor.errors import ConfigInvalid

BASE = Config(run_dir=Path("/run/teg"), state_dir=Path("/var/lib/teg"))


def test_a_file_becomes_a_record(tmp_path: Path) -> None:
    """Every kind of value: a list, whole numbers, numbers, words, truth."""
    path = tmp_path / "teg.toml"
    path.write_text(
        'knobs = ["gpu_hz", "batch"]\ntrials = 30\ntrial_s = 4\nslo_s = 0.05\nslo_quantile = 0.99\n'
        'state_dir = "/srv/teg"\nmetrics_host = "::1"\nmetrics_port = 0\nfresh = true\n'
    )
    config = load(path, BASE)
    assert (config.knobs, config.trials, config.trial_s) == (("gpu_hz", "batch"), 30, 4.0)
    assert (config.slo_s, config.slo_quantile, config.fresh) == (0.05, 0.99, True)
    assert (config.state_dir, config.metrics_host, config.metrics_port) == (Path("/srv/teg"), "::1", 0)
    assert config.run_dir == BASE.run_dir


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    """A mistyped setting is an error that names it and the known ones, never ignored."""
    path = tmp_path / "teg.toml"
    path.write_text("trails = 3\n")
    with pytest.raises(ConfigInvalid, match=r"trails: unknown setting; known: .*trials") as caught:
        load(path, BASE)
    assert caught.value.key == "trails"


@pytest.mark.parametrize("content", ["trials = ", None])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: str | None) -> None:
    """So is one that is not there."""
    path = tmp_path / "teg.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigInvalid) as caught:
        load(path, BASE)
    assert caught.value.key == str(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trials", 0), ("trials", 2.5), ("trials", "many"), ("trials", True), ("trials", float("nan")),
        ("trial_s", -1.0), ("trial_s", float("inf")), ("trial_s", float("nan")), ("trial_s", [1]), ("seed", "a"),
        ("slo_s", 0.0), ("slo_s", "fast"), ("slo_quantile", 1.0), ("slo_quantile", 95), ("slo_window_s", 0),
        ("lease_ttl_s", 6), ("lease_ttl_s", 0), ("tick_s", 0), ("tick_s", 1.0), ("metrics_port", 70000),
        ("metrics_port", -1), ("metrics_host", 5), ("knobs", []), ("knobs", "gpu_hz"), ("knobs", ["volts"]),
        ("knobs", 3), ("knobs", [1]), ("regret", 1), ("regret", -0.1),
        ("regret", "low"), ("run_dir", 5), ("state_dir", []), ("fresh", 1), ("fresh", "yes"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_or_of_another_type_names_its_key(key: str, value: Any) -> None:
    """Nothing else than `ConfigInvalid` comes out, whatever a file may hold."""
    with pytest.raises(ConfigInvalid) as caught:
        override(BASE, {key: value})
    assert caught.value.key == key


def test_what_is_on_top_wins() -> None:
    """`override` changes what it is given and nothing else."""
    assert override(BASE, {}) == BASE
    assert override(override(BASE, {"trials": 3}), {"trials": 5, "seed": 7}).trials == 5
