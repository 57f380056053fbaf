# SPDX-License-Identifier: Apache-2.0
"""Plots, the HTML page and the verb."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from explaining import (
    CHEAP,
    SLOW,
    SUBJECT,
    TOP,
    Formula,
    energy_j,
    held,
    latency_s,
    log_of,
    point,
    trial,
    written,
)

from governor.cli import DONE, NO, USAGE, main
from governor.explain.canvas import DARK, LIGHT, png
from governor.explain.page import Plots, page
from governor.explain.plots import drawings
from governor.explain.report import Report, make_report
from governor.history import FILE
from governor.trial import Invalid

USUAL = (trial(TOP), trial(point(600, 1)), trial(SLOW), trial(TOP, Invalid("load")), trial(CHEAP), held(CHEAP))
MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(log_of(tmp_path_factory.mktemp("history"), *USUAL), Formula)


@pytest.fixture(scope="module")
def plots(report: Report) -> Plots:
    """Drawn once: that is what takes long."""
    return {name: (png(draw(report, LIGHT)), png(draw(report, DARK))) for name, draw in drawings(report).items()}


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb expects what the formulas say; no fit is needed to see what it prints and writes."""
    monkeypatch.setattr("governor.cli.explain._search", Formula)


def colours(image: bytes) -> int:
    """How many different bytes the pixels of a PNG file have; checks its size and every checksum."""
    assert image.startswith(MAGIC)
    offset, pixels = len(MAGIC), b""
    while offset < len(image):
        (length,) = struct.unpack(">I", image[offset : offset + 4])
        kind, body = image[offset + 4 : offset + 8], image[offset + 8 : offset + 8 + length]
        assert struct.unpack(">I", image[offset + 8 + length : offset + 12 + length]) == (zlib.crc32(kind + body),)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
            assert width >= 500
            assert height >= 500
        pixels += body if kind == b"IDAT" else b""
        offset += 12 + length
    return len(set(zlib.decompress(pixels)))


class Page(HTMLParser):
    """What a browser would see: whether tags nest, and everything that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        fetching = ("src", "srcset", "href", "data", "action", "poster")
        self.fetched += [value or "" for name, value in attrs if name in fetching]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_plots_are_pictures_of_the_report(plots: Plots) -> None:
    """Three PNG files on light and dark paper, each with something on it."""
    assert list(plots) == ["pareto", "convergence", "slices"]
    for light, dark in plots.values():
        assert colours(light) > 100
        assert colours(dark) > 100
        assert light != dark


def test_a_plot_says_what_it_shows(report: Report) -> None:
    """Units, the SLO, every verdict, and that the board is virtual."""
    for name, draw in drawings(report).items():
        figure = draw(report, LIGHT)
        title = figure.get_suptitle()
        assert "VIRTUAL" in title
        labels = {axes.get_ylabel() for axes in figure.axes} - {""}
        assert labels == ({"energy, J/request (virtual)", "p95 latency, ms"} if name != "pareto" else labels)
        legend = {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}
        assert any("kept the SLO" in label for label in legend), name
        assert any("violated" in label for label in legend), name
    assert "SLO 50 ms" in drawings(report)["pareto"](report, LIGHT).axes[0].get_legend_handles_labels()[1]


def test_plots_show_what_there_is(tmp_path: Path) -> None:
    """Nothing of no trial; no slices before there are surfaces."""
    nothing = make_report(log_of(tmp_path / "none", trial(TOP, Invalid("load"))), Formula)
    assert drawings(nothing) == {}
    one = make_report(log_of(tmp_path / "one", trial(TOP)), Formula)
    assert list(drawings(one)) == ["pareto", "convergence"]
    broken = make_report(log_of(tmp_path / "slow", *[trial(SLOW)] * 3), Formula)
    for name, draw in {**drawings(one), **drawings(broken)}.items():
        assert colours(png(draw(broken, LIGHT))) > 50, name


def test_a_page_needs_nothing_else(report: Report, plots: Plots) -> None:
    """Tags nest, images are in it for both kinds of paper, no script, nothing to fetch, phones and `virtual` told."""
    text = page(report, plots)
    seen = Page(text)
    assert seen.open == []
    assert "script" not in seen.tags
    assert "link" not in seen.tags
    assert len(seen.fetched) == 6
    assert all(url.startswith("data:image/png;base64,") for url in seen.fetched)
    assert "url(" not in text
    assert "@import" not in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    for word in (
        "VIRTUAL",
        "Held: GPU 600 MHz, batch 2",
        "What the SLO costs",
        "invalid (load)",
        "J/request (virtual)",
    ):
        assert word in seen.words


def test_a_page_shows_names_as_they_are(tmp_path: Path) -> None:
    """A model's name is text, whatever is in it; without plots the page says how to get them."""
    subject = dataclasses.replace(SUBJECT, models=("<script>alert(1)</script>",), board="a&b", virtual=False)
    log = log_of(tmp_path, *USUAL)
    text = page(make_report(dataclasses.replace(log, subject=subject), Formula), {})
    seen = Page(text)
    assert "script" not in seen.tags
    assert "<script>alert(1)</script> on a&b" in seen.words
    assert "extra `report`" in seen.words
    assert "irtual" not in seen.words


@pytest.mark.usefixtures("formula")
def test_the_verb_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, JSON, a page and the plots; the history is not touched."""
    history = written(tmp_path / "run" / "state", USUAL)
    before = history.read_bytes(), history.stat().st_mtime_ns
    folder, html = tmp_path / "out" / "plots", tmp_path / "page.html"
    assert main(["explain", "--run-dir", str(tmp_path / "run"), "--plots", str(folder), "--html", str(html)]) == DONE
    text = capsys.readouterr().out
    assert text.startswith("resnet18 on virtual:agx-orin, p95 <= 50 ms at 20 requests/s")
    assert "Held: GPU 600 MHz, batch 2" in text
    assert sorted(path.name for path in folder.iterdir()) == ["convergence.png", "pareto.png", "slices.png"]
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert main(["explain", "--state", str(tmp_path / "run" / "state"), "--json"]) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert (shown["chosen"]["point"], shown["rate_hz"]) == (CHEAP, 20.0)
    assert (history.read_bytes(), history.stat().st_mtime_ns) == before
    assert [path.name for path in history.parent.iterdir()] == [FILE]


@pytest.mark.usefixtures("formula")
def test_without_matplotlib_there_is_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page without plots; which extra brings them is said."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("canvas", "plots"):
        monkeypatch.delitem(sys.modules, f"governor.explain.{module}")
        monkeypatch.delattr(f"governor.explain.{module}")
    written(tmp_path, USUAL)
    state, html = ["explain", "--state", str(tmp_path)], tmp_path / "page.html"
    assert main([*state, "--html", str(html)]) == DONE
    assert Page(html.read_text()).fetched == []
    assert main([*state, "--plots", str(tmp_path / "plots")]) == USAGE
    said = capsys.readouterr()
    assert said.out.count("Held: GPU 600 MHz, batch 2") == 2
    assert "triton-energy-governor[report]" in said.err
    assert not (tmp_path / "plots").exists()


@pytest.mark.usefixtures("formula")
def test_the_answer_no_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No history, no trial, none that measured, none that kept the SLO."""
    for number, rows in enumerate([(), (trial(TOP, Invalid("load")),), (trial(SLOW),)]):
        written(tmp_path / str(number), rows)
        assert main(["explain", "--state", str(tmp_path / str(number))]) == NO
    assert main(["explain", "--state", str(tmp_path / "nowhere")]) == NO
    capsys.readouterr()
    assert main(["explain", "--state", str(tmp_path / "nowhere"), "--json"]) == NO
    assert json.loads(capsys.readouterr().out)["subject"] is None
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("formula")
def test_of_two_subjects_the_last_or_the_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By how its digest begins; a digest of none, or of both, is wrong usage."""
    other = dataclasses.replace(SUBJECT, models=("bert_mini",))
    written(tmp_path, USUAL, other)
    written(tmp_path, [trial(TOP)])
    assert main(["explain", "--state", str(tmp_path), "--json"]) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["subject"]["models"] == ["resnet18"]
    (hidden,) = shown["other_subjects"]
    assert (hidden["models"], hidden["trials"]) == (["bert_mini"], 5)
    assert main(["explain", "--state", str(tmp_path), "--subject", hidden["digest"][:9]]) == DONE
    text = capsys.readouterr().out
    assert text.startswith("bert_mini on virtual:agx-orin")
    assert f"{shown['subject']['digest']}  1 trial  resnet18" in text
    for wrong in ("x", ""):
        assert main(["explain", "--state", str(tmp_path), "--subject", wrong]) == USAGE


@pytest.mark.usefixtures("formula")
def test_damaged_records_are_counted_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a torn last line, which a governor may just be writing; and a file of nothing else."""
    history = written(tmp_path, USUAL)
    lines = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(b"".join([*lines[:3], b"00000000 {}\n", *lines[3:], lines[-1][:20]]))
    assert main(["explain", "--state", str(tmp_path)]) == DONE
    assert "1 damaged record of this history passed over" in capsys.readouterr().out
    history.write_bytes(b"nonsense\n")
    assert main(["explain", "--state", str(tmp_path)]) == NO
    assert "1 damaged record" in capsys.readouterr().out


@pytest.mark.usefixtures("formula")
def test_files_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not read, or not written: exit code 2 and the path."""
    history = written(tmp_path, [trial(TOP, Invalid("load"))])
    for flag in ("--html", "--plots"):
        assert main(["explain", "--state", str(tmp_path), flag, str(history / "x")]) == USAGE
        assert str(history) in capsys.readouterr().err
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    assert main(["explain", "--state", str(tmp_path / "folder")]) == USAGE
    assert str(tmp_path / "folder") in capsys.readouterr().err


def test_the_products_search_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its surfaces pass near what was measured, and the same history gives the same report."""
    written(tmp_path, [*USUAL[:3], trial(point(900, 2)), *USUAL[3:]])
    reports = []
    for _ in range(2):
        assert main(["explain", "--state", str(tmp_path), "--json"]) == DONE
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    (report, _) = reports
    assert report["chosen"]["point"] == CHEAP
    assert report["chosen"]["expected"]["energy_j"] == pytest.approx(energy_j(CHEAP), rel=0.1)
    assert report["chosen"]["expected"]["latency_s"] == pytest.approx(latency_s(CHEAP), rel=0.2)
    assert report["trials"][-1]["expected_before"] is not None
    assert report["slices"].keys() == {"gpu_hz", "batch"}
