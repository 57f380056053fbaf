# SPDX-License-Identifier: Apache-2.0
"""A report for the terminal."""

from __future__ import annotations

import textwrap

from ..history import Subject
from . import words
from .report import Report
from .sections import Grid, sections, wordy
from .summary import figures, headline, notes, subject_line

WIDTH = 110


def render(report: Report) -> str:
    """The report as plain text."""
    subject = report.log.subject
    knobs = "; ".join(words.knob_range(knob, subject.knobs[knob]) for knob in words.in_order(subject.knobs))
    lines = [subject_line(report), *_wrapped(f"subject {report.log.digest}; {knobs or 'no knob'}")]
    for note in notes(report):
        lines += _wrapped(note)
    lines += ["", headline(report)]
    width = max((len(figure.name) for figure in figures(report)), default=0)
    lines += [f"  {figure.name:<{width}}  {figure.value}  ({figure.note})" for figure in figures(report)]
    for section in sections(report):
        lines += ["", section.title]
        for sentence in section.sentences:
            lines += _wrapped(sentence)
        if section.grid:
            lines += ["", *table(section.grid)]
    if report.others:
        lines += ["", "Other subjects of this history (--subject DIGEST)"]
    for other in report.others:
        lines.append(f"  {other.digest}  {words.count(len(other.trials), 'trial')}  {_about(other.subject)}")
    return "\n".join(lines)


def table(grid: Grid) -> list[str]:
    """A table in columns, numbers to the right and words to the left."""
    rows = [grid.header, *(row.cells for row in grid.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(grid.header))]
    signs = ["<" if wordy(grid, column) else ">" for column in range(len(widths))]
    return [
        "  " + "  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)).rstrip()
        for row in rows
    ]


def _about(subject: Subject) -> str:
    return f"{' + '.join(subject.models)} on {subject.board}, {', '.join(map(words.promise, subject.slos))}"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
