# SPDX-License-Identifier: Apache-2.0
"""What the rows of `make bench-execute` come to: a figure line each, and the targets with where they are missed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .targets import Target, count

Row = Mapping[str, Any]
Found = Callable[[str], Row | None]
"""The row of a key (`resnet18-ours_50-whole`), if there is one."""

MODELS = ("resnet18", "efficientnet_b0", "bert_base")
SHARES = (70, 50, 40, 30)
EXTRA = {"bert_base": (23,), "efficientnet_b0": (20,), "resnet18": (54,)}
"""Whole operations only: as little as a peer gets by with, or as one op alone needs (BERT-base, ResNet-18)."""
ALL_SHARES = sorted({*SHARES, *(share for shares in EXTRA.values() for share in shares)})
EVEN = 0.01
"""Ratios no farther apart than that count as equal."""
PEERS = ("checkpoint", "selective", "hooks", "memory_budget")
MODES = ("whole", "pieces")
TIMED = ("ours", "ours_50")
"""Judged by `KEEP` and `HALF`."""
KEEP, HALF = {"whole": 1.02, "pieces": 1.10}, {"whole": 1.10, "pieces": 1.20}
YIELD_S = 0.010
YIELDING = LITTLE = ("bert_base", "efficientnet_b0")
PEAK_SHARE, PEAK_BYTES = 0.03, 8e6
TIME_SHARE = 0.15


def trainers(model: str) -> list[str]:
    """Everybody who is measured on a model, what the targets need first."""
    shares = (*SHARES, *EXTRA.get(model, ()))
    return ["eager", "ours", *(f"ours_{share}" for share in shares), *PEERS]


def modes(trainer: str) -> tuple[str, ...]:
    """What is measured apart: ours with whole operations, and with operations in pieces."""
    if not trainer.startswith("ours"):
        return ("",)
    extra = {f"ours_{share}" for shares in EXTRA.values() for share in shares}
    return MODES[:1] if trainer in extra else MODES


def key_of(model: str, trainer: str, mode: str = "") -> str:
    """The name of a row."""
    return f"{model}-{trainer}{mode and '-'}{mode}"


def figures(row: Row, eager: Row | None) -> dict[str, Any]:
    """A row's medians and ranges; `peak` is its ratio to eager's, bytes above what eager holds between steps."""
    if "why" in row:
        return {"why": row["why"]}
    found: dict[str, Any] = {"exact": row["exact"], "peak_bytes": row["peak_bytes"], "startup": row["startup"]}
    for clock in ("wall", "cpu"):
        ratios = [one["own"][f"{clock}_s"] / one["eager"][f"{clock}_s"] for one in row["rounds"]]
        found[clock] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        found[f"{clock}_s"] = statistics.median(one["own"][f"{clock}_s"] for one in row["rounds"])
    found["peak"] = row["peak_bytes"] / eager["peak_bytes"] if eager and "why" not in eager else None
    found["yields"] = row.get("yields") or {}
    told = row.get("figures") or {}
    found["told"] = told
    if "predicted_peak_bytes" in told:
        found["peak_error_bytes"] = row["peak_bytes"] - told["predicted_peak_bytes"]
        found["time_error"] = found["wall_s"] / told["predicted_step_s"] - 1
        ratio = told["predicted_step_s"] / told["plain_step_s"]
        found["predicted_ratio"], found["ratio_error"] = ratio, found["wall"]["median"] / ratio - 1
    return found


def table(found: Found) -> dict[str, dict[str, Any]]:
    """The figures of every row there is."""
    rows: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        eager = found(key_of(model, "eager"))
        for trainer, mode in ((name, mode) for name in trainers(model) for mode in modes(name)):
            row = found(key_of(model, trainer, mode))
            if row is not None:
                who = {"model": model, "trainer": trainer, "mode": mode}
                rows[key_of(model, trainer, mode)] = who | figures(row, eager)
    return rows


Figures = Mapping[str, Mapping[str, Any]]


def targets(rows: Figures) -> list[Target]:
    """All targets, on the rows there are."""
    return [
        *(_ratio(rows, "ours", mode, KEEP[mode], "no budget") for mode in MODES),
        *(_ratio(rows, "ours_50", mode, HALF[mode], "half of the peak") for mode in MODES),
        _exact(rows),
        _feasible(rows),
        _peaks(rows),
        _times(rows),
        _yields(rows),
        _ahead(rows),
    ]


def _ours(rows: Figures) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((key, row) for key, row in rows.items() if row["trainer"].startswith("ours") and "why" not in row)


def _ratio(rows: Figures, trainer: str, mode: str, most: float, what: str) -> Target:
    pairs = []
    for model in MODELS:
        row = rows.get(key_of(model, trainer, mode))
        if row is not None and "why" in row:
            pairs.append((f"{model}: {row['why']}", False))
        elif row is not None:
            ratio = row["wall"]["median"]
            pairs.append((f"{model}: {ratio:.3f}, CPU {row['cpu']['median']:.3f}", ratio <= most))
    return count(f"{what}, operations {LABELS[mode]}: at most {most:g} x eager", pairs)


LABELS = {"whole": "whole", "pieces": "in pieces"}


def _exact(rows: Figures) -> Target:
    pairs = [(key, bool(row["exact"]["bitwise"])) for key, row in _ours(rows)]
    return count("loss, gradients, buffers and random state are eager's bit for bit", pairs)


def _feasible(rows: Figures) -> Target:
    pairs = []
    for model in LITTLE:
        row = rows.get(key_of(model, "ours_30", "whole"))
        if row is not None:
            pairs.append((f"{model}: {row.get('why', '')}", "why" not in row))
    return count("30 % of the peak is enough", pairs)


def _peaks(rows: Figures) -> Target:
    pairs = []
    for key, row in _ours(rows):
        apart = row["peak_error_bytes"]
        allowed = max(PEAK_BYTES, PEAK_SHARE * row["told"]["predicted_peak_bytes"])
        pairs.append((f"{key}: {apart / 1e6:+.1f} MB", abs(apart) <= allowed))
    return count(f"the peak is the plan's within {PEAK_SHARE:.0%} or {PEAK_BYTES / 1e6:g} MB", pairs)


def _times(rows: Figures) -> Target:
    pairs = [
        (f"{key}: {row['time_error']:+.0%}", abs(row["time_error"]) <= TIME_SHARE)
        for key, row in _ours(rows)
        if row["mode"] == "whole"
    ]
    return count(f"a step takes what the plan says within {TIME_SHARE:.0%}", pairs)


def _yields(rows: Figures) -> Target:
    pairs = []
    for key, row in _ours(rows):
        if row["mode"] == "pieces" and row["model"] in YIELDING:
            p99_s = row["yields"]["wall"]["p99_s"]
            pairs.append((f"{key}: {1e3 * p99_s:.1f} ms", p99_s <= YIELD_S))
    return count(f"99 of 100 requests wait at most {1e3 * YIELD_S:g} ms, operations in pieces", pairs)


def _ahead(rows: Figures) -> Target:
    """A peer is ahead if nothing of ours needs neither more time nor more memory."""
    pairs = []
    for model in MODELS:
        mine = [row for _, row in _ours(rows) if row["model"] == model and row["mode"] == "whole"]
        for peer in PEERS:
            row = rows.get(key_of(model, peer))
            if row is None or "why" in row or not mine:
                continue
            behind = any(
                one["peak"] <= row["peak"] + EVEN and one["wall"]["median"] <= row["wall"]["median"] + EVEN
                for one in mine
            )
            exact = "" if row["exact"]["bitwise"] else ", not eager's step"
            name = f"{model} {peer}: {row['wall']['median']:.2f} x at {row['peak']:.2f}{exact}"
            pairs.append((name, behind))
    return count(f"no peer is ahead in both time and peak (by more than {EVEN:g})", pairs)
