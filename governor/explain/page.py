# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML file that needs nothing else: no script, no network, plots inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from . import words
from .report import Answer, Report
from .sections import Grid, Section, sections, wordy
from .summary import figures, headline, notes, subject_line

Plots = Mapping[str, tuple[bytes, bytes]]
"""PNG files by name, each for light and for dark paper."""

ALT = {
    "pareto": "Energy per request against latency: every trial, the expected frontier, the SLO and the chosen point",
    "convergence": "Energy and latency of each trial in order, and the best so far that kept the SLO",
    "slices": "Expected energy and latency along each knob through the chosen point, with uncertainty bands",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #56616f; --paper: #fff; --box: #f3f5f8; --line: #dde1e7;
  --good: #006b4f; --bad: #a84400; --mark: #e2f3ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a7b0bb; --paper: #15181c; --box: #1f242a;
  --line: #3a4048; --good: #2ec699; --bad: #f0883e; --mark: #17352c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .3rem 0 1rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); font-size: .88rem; }
.badge { background: var(--bad); color: var(--paper); border-radius: .3rem; padding: .1rem .45rem; font-size: .8rem;
  font-weight: 700; letter-spacing: .04em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .7rem; margin: 0; }
.figures div { background: var(--box); border-radius: .6rem; padding: .7rem .9rem; }
.figures dt { color: var(--soft); font-size: .85rem; } .figures dd { margin: 0; }
.figures .value { font-size: 1.35rem; font-weight: 650; }
.yes h1 { color: var(--good); } .no h1 { color: var(--bad); }
.wide { overflow-x: auto; margin: .7rem 0; } .wide img { display: block; width: 100%; max-width: 46rem; height: auto; }
.wide.slices img { min-width: 44rem; max-width: none; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } .word { text-align: left; }
tr.chosen td { background: var(--mark); font-weight: 650; } tr.violated td:last-child { color: var(--bad); }
tr.invalid td { color: var(--soft); }
""".strip()


def page(report: Report, plots: Plots) -> str:
    """The HTML of a report, with the plots that there are."""
    kind = "yes" if report.answer is Answer.KEPT else "no"
    subject = report.log.subject
    knobs = "; ".join(words.knob_range(knob, subject.knobs[knob]) for knob in words.in_order(subject.knobs))
    badge = '<p><span class="badge">VIRTUAL</span> every figure here is that of a virtual board</p>'
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(subject_line(report))}</title><style>{STYLE}</style></head>",
        f'<body class="{kind}"><header><p class="soft">{escape(subject_line(report))}</p>',
        badge if report.virtual else "",
        f"<h1>{escape(headline(report))}</h1></header>",
        _figures(report),
        *(f'<p class="soft">{escape(note)}</p>' for note in notes(report)),
        *(_section(section, plots) for section in sections(report)),
        "" if plots or not report.trials else '<p class="soft">The plots need matplotlib: the extra `report`.</p>',
        f'<footer><p class="soft">Subject {escape(report.log.digest)}. {escape(knobs)}.</p></footer></body></html>',
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _figures(report: Report) -> str:
    boxes = [
        f'<div><dt>{escape(figure.name)}</dt><dd class="value">{escape(figure.value)}</dd>'
        f'<dd class="soft">{escape(figure.note)}</dd></div>'
        for figure in figures(report)
    ]
    return f'<dl class="figures">{"".join(boxes)}</dl>' if boxes else ""


def _section(section: Section, plots: Plots) -> str:
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
    grid = _table(section.grid) if section.grid else ""
    return f"<section><h2>{escape(section.title)}</h2>{paragraphs}{_plot(section.figure, plots)}{grid}</section>"


def _plot(name: str, plots: Plots) -> str:
    if name not in plots:
        return ""
    light, dark = (f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in plots[name])
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    image = f'<img alt="{ALT[name]}" src="{light}">'
    return f'<div class="wide {name}"><picture>{source}{image}</picture></div>'


def _table(grid: Grid) -> str:
    classes = [' class="word"' if wordy(grid, column) else "" for column in range(len(grid.header))]
    head = "".join(f'<th scope="col"{cls}>{escape(cell)}</th>' for cell, cls in zip(grid.header, classes, strict=True))
    rows = [
        f'<tr class="{row.kind}">'
        + "".join(f"<td{cls}>{escape(cell)}</td>" for cell, cls in zip(row.cells, classes, strict=True))
        + "</tr>"
        for row in grid.rows
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
