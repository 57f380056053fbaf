# SPDX-License-Identifier: Apache-2.0
"""Paper and pens of the plots.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; shapes say the same again. Needs
matplotlib (the extra `report`); no display.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from .report import Report

DPI = 150


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of ink, paper and lines, of trials that kept the SLO or violated it, of surfaces and the chosen point."""

    ink: str
    paper: str
    line: str
    kept: str
    violated: str
    surface: str
    chosen: str


LIGHT = Theme("#1b1f24", "#ffffff", "#c9ced6", "#0072b2", "#d55e00", "#56616f", "#009e73")
DARK = Theme("#e6e8eb", "#15181c", "#3a4048", "#56b4e9", "#f0883e", "#a7b0bb", "#2ec699")


def plot(theme: Theme, rows: int, columns: int, width: float, height: float, **kind: Any) -> tuple[Figure, Any]:
    """A figure in the theme's colours and its axes, `rows x columns`."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    with mpl.rc_context({"font.size": 9.5}):
        grid = figure.subplots(rows, columns, squeeze=False, **kind)
    for axes in grid.flat:
        axes.set_facecolor(theme.paper)
        axes.tick_params(which="both", colors=theme.ink, labelsize=8.5)
        axes.grid(visible=True, color=theme.line, linewidth=0.5, alpha=0.7)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(theme.line)
    return figure, grid


def finish(figure: Figure, axes: Any, theme: Theme, report: Report, title: str, *, outside: bool = False) -> None:
    """Title, legend and label colours; a virtual board is stamped on every plot."""
    shown: dict[str, Any] = {}
    for each in figure.axes if outside else [axes]:
        handles, labels = each.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True)) | shown
    style = {"frameon": False, "fontsize": 8.5, "labelcolor": theme.ink}
    if outside:
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=min(4, len(shown)), **style)
    elif shown:
        axes.legend(shown.values(), shown.keys(), **style)
    for each in figure.axes:
        for label in (each.xaxis.label, each.yaxis.label):
            label.set_color(theme.ink)
            label.set_fontsize(9.5)
    subject = report.log.subject
    board = f"{subject.board}, VIRTUAL" if report.virtual else subject.board
    figure.suptitle(f"{title}\n{' + '.join(subject.models)} on {board}", color=theme.ink, fontsize=10.5)


def plain_log(axis: Any) -> None:
    """A logarithmic axis labelled with plain numbers, few enough to be read."""
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter())


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
