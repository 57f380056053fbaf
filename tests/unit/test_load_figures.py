# SPDX-License-Identifier: Apache-2.0
"""The pure half of the load generator: arrivals, figures, options."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from governor.cli import load as cli
from governor.load import FIELDS, Answer, draw_arrivals, read_answers, read_arrivals, summarise
from governor.load_inputs import InputsUnfit, random_requests

MS = 1_000_000


def answer(number: int, latency_ms: float, error: str = "", lag_ms: float = 0.0) -> Answer:
    intended_ns = 10 * MS * number
    return Answer(number, intended_ns, intended_ns + round(lag_ms * MS), intended_ns + round(latency_ms * MS), error)


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["load", "--model", "m", *words])


@given(st.floats(0.1, 500), st.integers(0, 2**32), st.integers(0, 200))
def test_arrivals_repeat(rate_hz: float, seed: int, requests: int) -> None:
    """The same rate, seed and length give the same arrivals; a longer run begins with a shorter one."""
    arrivals = draw_arrivals(rate_hz, seed, requests=requests)
    assert len(arrivals) == requests
    assert list(arrivals) == sorted(arrivals)
    assert draw_arrivals(rate_hz, seed, requests=requests + 5)[:requests] == arrivals


def test_arrivals_are_poisson() -> None:
    """Gaps are exponential (mean and standard deviation are 1/rate) and independent of one another."""
    gaps = np.diff(draw_arrivals(40.0, 3, requests=20_000))
    assert gaps.mean() == pytest.approx(1 / 40, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_arrivals_end_at_the_first_bound() -> None:
    """With both bounds given the nearer one holds."""
    assert max(draw_arrivals(100.0, 1, seconds=2.0)) <= 2.0
    assert len(draw_arrivals(100.0, 1, seconds=2.0, requests=7)) == 7
    assert draw_arrivals(100.0, 1, seconds=1.0, requests=10**6) == draw_arrivals(100.0, 1, seconds=1.0)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(rate_hz: float) -> None:
    """A rate is a positive number."""
    with pytest.raises(ValueError, match="rate must be a positive number"):
        draw_arrivals(rate_hz, 1, seconds=1.0)


def test_unbounded_arrivals_are_refused() -> None:
    """Something must end the run."""
    with pytest.raises(ValueError, match="seconds or requests"):
        draw_arrivals(1.0, 1)


def test_arrivals_from_a_file(tmp_path: Path) -> None:
    """One number per line in any order; anything before the start is refused."""
    path = tmp_path / "trace.txt"
    path.write_text("2.5\n\n0\n1e-1\n")
    assert read_arrivals(path) == (0.0, 0.1, 2.5)
    path.write_text("-1\n")
    with pytest.raises(ValueError, match="not before 0"):
        read_arrivals(path)


def test_figures_are_of_the_answered_and_counts_of_all() -> None:
    """Latency quantiles leave failures out; the share within the objective counts them as missed."""
    answers = [answer(n, latency_ms=n + 1, lag_ms=0.5) for n in range(100)]
    answers += [answer(100, 1.0, "UNAVAILABLE: full"), answer(101, 1.0, "UNAVAILABLE: very full")]
    report = summarise(answers, model="m", slo_s=0.102, quantile=0.98)
    assert (report.requests, report.failed, report.errors) == (102, 2, {"UNAVAILABLE": 2})
    assert report.p50_s == pytest.approx(0.0505)
    assert report.p99_s == pytest.approx(0.09901)
    assert report.max_s == pytest.approx(0.1)
    assert report.lag_p99_s is not None
    assert report.lag_p99_s <= 0.0005
    assert report.within_slo == pytest.approx(100 / 102)
    assert report.slo_met is True
    assert summarise(answers, model="m", slo_s=0.102, quantile=0.99).slo_met is False


def test_figures_of_nothing() -> None:
    """No request, no figure: None and never 0."""
    report = summarise([], model="m", slo_s=1.0)
    assert (report.p50_s, report.p99_s, report.lag_p99_s, report.within_slo, report.slo_met) == (None,) * 5


def test_a_growing_record_reads_at_every_byte(tmp_path: Path) -> None:
    """Whoever reads a record while it is written sees whole rows only."""
    rows = [answer(1, 5.0), answer(0, 7.5, 'UNAVAILABLE: a "quoted", message')]
    quoted = '"UNAVAILABLE: a ""quoted"", message"'
    lines = [",".join(FIELDS)]
    lines += [f"{r.number},{r.intended_ns},{r.sent_ns},{r.done_ns},{quoted if r.error else ''}" for r in rows]
    whole = "\n".join(lines) + "\n"
    for length in range(len(whole) + 1):
        (tmp_path / "r.csv").write_text(whole[:length])
        complete = whole[:length].count("\n") - 1
        assert read_answers(tmp_path / "r.csv") == rows[: max(0, complete)]


def model_config(**dims: list[int]) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(max_batch_size=4)
    kinds = {"F": "TYPE_FP32", "I": "TYPE_INT64", "B": "TYPE_BOOL", "S": "TYPE_STRING"}
    for name, sizes in dims.items():
        config.input.add(name=name, data_type=kinds[name], dims=sizes)
    return config


def test_random_inputs_fit_the_configuration() -> None:
    """Random requests have the model's types and shapes, carry one sample, and repeat with their seed."""
    config = model_config(F=[3, 2], I=[5], B=[1], S=[2])
    requests = random_requests(config, seed=1)
    kinds = [(tensor.name(), tensor.datatype(), tuple(tensor.shape())) for tensor in requests[0]]
    assert kinds == [("F", "FP32", (1, 3, 2)), ("I", "INT64", (1, 5)), ("B", "BOOL", (1, 1)), ("S", "BYTES", (1, 2))]
    again = random_requests(config, seed=1)
    assert [t._get_content() for t in requests[0]] == [t._get_content() for t in again[0]]
    assert requests[0][0]._get_content() != requests[1][0]._get_content()


def test_random_inputs_need_fixed_sizes() -> None:
    """An input of open size cannot be guessed."""
    with pytest.raises(InputsUnfit, match="open"):
        random_requests(model_config(F=[-1]), seed=0)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--rate", "0"), "rate"),
        (("--rate", "1", "--seconds", "-1"), "--seconds"),
        (("--rate", "1", "--requests", "0"), "--requests"),
        (("--rate", "1", "--quantile", "1.5"), "--quantile"),
        (("--rate", "1", "--slo-ms", "nan"), "--slo-ms"),
        (("--rate", "0.001", "--seconds", "0.001"), "no request arrives"),
    ],
)
def test_options_out_of_range_are_named(words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad option ends in usage (2) and is named, before anything is sent."""
    args = options(*words)
    assert args.handler(args) == 2
    assert name in capsys.readouterr().err


def test_options_become_a_plan() -> None:
    """Milliseconds become seconds once, at the edge."""
    plan = cli.read_plan(options("--rate", "50", "--requests", "9", "--slo-ms", "25", "--quantile", "0.95"))
    assert (len(plan.arrivals_s), plan.slo_s, plan.quantile) == (9, 0.025, 0.95)


def test_the_running_server_is_found(tmp_path: Path) -> None:
    """Without an address the load goes to the server of the run directory, else to Triton's usual port."""
    words = ("--rate", "50", "--run-dir", str(tmp_path))
    assert cli.read_plan(options(*words)).url == "127.0.0.1:8001"
    (tmp_path / "serve.json").write_text('{"address": "127.0.0.1", "grpc": 4711, "http": 1}')
    assert cli.read_plan(options(*words)).url == "127.0.0.1:4711"
    assert cli.read_plan(options(*words, "--url", "127.0.0.1:5")).url == "127.0.0.1:5"


def test_a_missed_objective_is_shouted() -> None:
    """The text for a person names the verdict, the share and the failures."""
    answers = [answer(0, 9.0), answer(1, 30.0, lag_ms=20.0), answer(2, 1.0, "UNAVAILABLE: full")]
    text = cli.render(summarise(answers, model="m", slo_s=0.01))
    assert "MISSED: 33.33% within 10.00 ms, 99% wanted" in text
    assert "1 x UNAVAILABLE" in text
    assert "too busy" in text
