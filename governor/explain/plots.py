# SPDX-License-Identifier: Apache-2.0
"""A report in three plots: energy against latency, energy over trials, and the surfaces along each knob."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..latency import HOPELESS
from ..trial import Feasible, Invalid, TrialRecord
from . import words
from .canvas import LIGHT, Theme, finish, plain_log, plot
from .forecast import Choice, Tried
from .report import Report

FEW = 5
"""A knob of so many values has each of them on its axis."""

Draw = Callable[[Report, Theme], Figure]


def drawings(report: Report) -> dict[str, Draw]:
    """The plots that have something to show, by name."""
    found: dict[str, Draw] = {}
    if any(tried.record.energy_j for tried in report.trials):
        found = {"pareto": pareto, "convergence": convergence}
    if any(report.slices.values()):
        found["slices"] = slices
    return found


def pareto(report: Report, theme: Theme = LIGHT) -> Figure:
    """Energy against latency: every trial, the frontier expected, the SLO, maximum clocks and the chosen point."""
    figure, ((axes,),) = plot(theme, 1, 1, 6.8, 4.8)
    front = [(one.figures.latency_s * 1e3, one.figures.energy_j) for one in report.frontier]
    front = [(latency_ms, energy_j) for latency_ms, energy_j in front if latency_ms <= _end_ms(report)]
    if front:
        style = {"color": theme.surface, "linewidth": 1.6, "drawstyle": "steps-post"}
        axes.plot(*zip(*front, strict=True), **style, label="frontier expected by the surfaces", zorder=1)
    _slo(axes.axvline, report, theme)
    _trials(axes, report, theme, lambda tried: (tried.record.latency_s or 0) * 1e3)
    for choice, marker, color, label in (
        (report.top, "D", theme.ink, "maximum clocks"),
        (report.chosen, "*", theme.chosen, _chosen_label(report)),
    ):
        if choice and (there := _place(choice)):
            size = 330 if marker == "*" else 60
            edge = {"edgecolors": theme.ink, "linewidths": 1.0}
            face = color if marker == "*" else "none"
            axes.scatter(*there, marker=marker, s=size, color=face, **edge, label=label, zorder=4)
    axes.set(xlabel=f"{report.quantile} latency, ms", ylabel=_energy_label(report), xscale="log")
    plain_log(axes.xaxis)
    axes.set_xlim(right=_end_ms(report))
    finish(figure, axes, theme, report, "Energy against latency")
    return figure


def convergence(report: Report, theme: Theme = LIGHT) -> Figure:
    """Energy and latency over trials, with the best so far that kept the SLO; invalid trials as ticks at the bottom."""
    figure, rows = plot(theme, 2, 1, 6.8, 5.2, sharex=True, height_ratios=(3, 2))
    energy, latency = rows[0][0], rows[1][0]
    best = _best_so_far(report.trials)
    if best:
        label = "best so far that kept the SLO"
        energy.step(*zip(*best, strict=True), where="post", color=theme.chosen, linewidth=1.6, label=label, zorder=1)
    _trials(energy, report, theme, lambda tried: tried.number, by_energy=True)
    _trials(latency, report, theme, lambda tried: tried.number, by_energy=False)
    _slo(latency.axhline, report, theme)
    lost = [tried.number for tried in report.trials if isinstance(tried.record.outcome, Invalid)]
    if lost:
        style = {"marker": "|", "s": 80, "color": theme.surface, "clip_on": False, "label": "invalid: nothing measured"}
        energy.scatter(lost, [0.015] * len(lost), transform=energy.get_xaxis_transform(), **style)
    energy.set_ylabel(_energy_label(report))
    latency.set(xlabel="trial", ylabel=f"{report.quantile} latency, ms", yscale="log")
    plain_log(latency.yaxis)
    latency.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, energy, theme, report, "Trial by trial")
    return figure


def slices(report: Report, theme: Theme = LIGHT) -> Figure:
    """What is expected along each knob through the chosen point, with bands of two deviations and the trials near."""
    knobs = [knob for knob in words.in_order(report.slices) if report.slices[knob]]
    figure, rows = plot(theme, 2, len(knobs), max(5.0, 2.5 * len(knobs)), 5.2, sharex="col", sharey="row")
    for energy, latency, knob in zip(*rows, knobs, strict=True):
        along, scale = report.slices[knob], _scale(knob)
        xs = [one.point[knob] / scale for one in along]
        _band(energy, xs, [(one.figures.energy_j, one.figures.energy_deviation) for one in along], theme)
        _band(latency, xs, [(one.figures.latency_s * 1e3, one.figures.latency_deviation) for one in along], theme)
        _slo(latency.axhline, report, theme)
        _near(energy, latency, report, knob, theme)
        latency.set(xlabel=words.knob_name(knob) + (", MHz" if scale > 1 else ""), yscale="log")
        plain_log(latency.yaxis)
        if len(xs) <= FEW:
            latency.set_xticks(xs, [words.value(knob, one.point[knob]) for one in along])
    rows[0][0].set(ylabel=_energy_label(report), ylim=_energies_j(report))
    rows[1][0].set(ylabel=f"{report.quantile} latency, ms")
    rows[1][0].set_ylim(top=_end_ms(report))
    chosen = words.settings(report.chosen.point) if report.chosen else ""
    finish(figure, rows[0][0], theme, report, f"One knob at a time, through {chosen}", outside=True)
    return figure


def _trials(axes: Any, report: Report, theme: Theme, x: Callable[[Tried], float], *, by_energy: bool = True) -> None:
    """The trials that measured something: discs that kept the SLO, crosses that violated it; with their intervals."""
    for kept, marker, color, label in (
        (True, "o", theme.kept, "trial that kept the SLO"),
        (False, "X", theme.violated, "trial that violated it"),
    ):
        chosen = [tried for tried in report.trials if _measured(tried) and _kept(tried.record) is kept]
        heights = [(t.record.energy_j or 0) if by_energy else (t.record.latency_s or 0) * 1e3 for t in chosen]
        if chosen:
            widths = [(t.record.energy_half_width if by_energy else t.record.latency_half_width) or 0 for t in chosen]
            doubts = [height * width for height, width in zip(heights, widths, strict=True)]
            places = [x(tried) for tried in chosen]
            axes.errorbar(places, heights, doubts, fmt="none", ecolor=color, elinewidth=0.9, alpha=0.6, zorder=2)
            style = {"marker": marker, "s": 42, "color": color, "edgecolors": theme.paper, "linewidths": 0.6}
            axes.scatter(places, heights, **style, label=label, zorder=3)


def _band(axes: Any, xs: Sequence[float], curve: Sequence[tuple[float, float]], theme: Theme) -> None:
    lows = [value * math.exp(-2 * deviation) for value, deviation in curve]
    highs = [value * math.exp(2 * deviation) for value, deviation in curve]
    axes.fill_between(xs, lows, highs, color=theme.surface, alpha=0.22, linewidth=0, label="± two deviations")
    style = {"color": theme.surface, "linewidth": 1.6, "marker": ".", "markersize": 4}
    axes.plot(xs, [value for value, _ in curve], **style, label="expected")


def _near(energy: Any, latency: Any, report: Report, knob: str, theme: Theme) -> None:
    """Trials at points that differ from the chosen one in this knob alone are full, in one other knob too: hollow."""
    if report.chosen is None:
        return
    chosen, scale = report.chosen.point, _scale(knob)
    for others, label in ((0, "trial on this line"), (1, "trial one knob away")):
        for kept, marker, color, verdict in (
            (True, "o", theme.kept, "kept the SLO"),
            (False, "X", theme.violated, "violated it"),
        ):
            near = [t.record for t in report.trials if _measured(t) and _kept(t.record) is kept]
            near = [record for record in near if record.point.keys() == chosen.keys()]
            near = [
                r for r in near if sum(r.point.get(name) != chosen[name] for name in chosen if name != knob) == others
            ]
            if not near:
                continue
            xs = [record.point[knob] / scale for record in near]
            style = {"marker": marker, "s": 34, "zorder": 3, "edgecolors": color, "linewidths": 1.0}
            style |= {"facecolors": color if others == 0 else "none"}
            energy.scatter(xs, [record.energy_j for record in near], **style, label=f"{label}, {verdict}")
            latency.scatter(xs, [(record.latency_s or 0) * 1e3 for record in near], **style)
    for axes in (energy, latency):
        axes.axvline(
            chosen[knob] / scale, color=theme.chosen, linewidth=1.2, linestyle=":", label=_chosen_label(report)
        )


def _slo(line: Callable[..., Any], report: Report, theme: Theme) -> None:
    """The line of the SLO."""
    slo_ms = report.slo_s * 1e3
    line(slo_ms, color=theme.violated, linewidth=1.2, linestyle="--", label=f"SLO {slo_ms:g} ms")


def _best_so_far(trials: Sequence[Tried]) -> list[tuple[float, float]]:
    best, steps = math.inf, []
    for tried in trials:
        if _kept(tried.record) and tried.record.energy_j:
            best = min(best, tried.record.energy_j)
        if best < math.inf:
            steps.append((float(tried.number), best))
    return steps


def _end_ms(report: Report) -> float:
    """Where the axes of latency end: how far beyond a hopeless latency a point lies says nothing."""
    seen = [tried.record.latency_s or 0.0 for tried in report.trials]
    return 1.1e3 * max(HOPELESS * report.slo_s, *seen)


def _energies_j(report: Report) -> tuple[float, float]:
    """Where the slices' axis of energy begins and ends: around trials, and points that are not hopeless."""
    end_s = _end_ms(report) / 1e3
    figures = [one.figures for along in report.slices.values() for one in along]
    energies = [each.energy_j for each in figures if each.latency_s <= end_s]
    energies += [tried.record.energy_j for tried in report.trials if tried.record.energy_j]
    return 0.92 * min(energies), 1.08 * max(energies)


def _place(choice: Choice) -> tuple[float, float] | None:
    """Where a point lies, in ms and J: as expected, else as measured."""
    if choice.expected:
        return choice.expected.latency_s * 1e3, choice.expected.energy_j
    return (choice.latency_s * 1e3, choice.energy_j) if choice.energy_j and choice.latency_s else None


def _measured(tried: Tried) -> bool:
    return tried.record.energy_j is not None and tried.record.latency_s is not None


def _kept(record: TrialRecord) -> bool:
    return isinstance(record.outcome, Feasible)


def _chosen_label(report: Report) -> str:
    return "the point held" if report.held_now else "the best so far"


def _scale(knob: str) -> float:
    """Clocks are drawn in MHz."""
    return 1e6 if knob.endswith("_hz") else 1.0


def _energy_label(report: Report) -> str:
    return "energy, J/request (virtual)" if report.virtual else "energy, J/request"
