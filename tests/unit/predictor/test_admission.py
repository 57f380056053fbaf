# SPDX-License-Identifier: Apache-2.0
"""Admission: more room never makes for less training."""

from __future__ import annotations

import math
import random

import pytest

from predictor.admission import DUTIES, KNOWN, Admit, Decision, Job, Load, Objective, Pace, Refuse, decide
from predictor.corun import CoRunModel, Serving, TrainingSlices
from predictor.queueing import ServiceTimes

HOURS = Job(step_s=0.1, steps_left=100)


def load(
    limit_s: float, *, rate_hz: float = 5.0, service_s: float = 0.02, quantile: float = 0.95, name: str = ""
) -> Load:
    rng, now_s, times = random.Random(3), 0.0, []
    for _ in range(1000):
        now_s += rng.expovariate(rate_hz)
        times.append(now_s)
    return Serving(times, ServiceTimes({1: (service_s,) * 200}), 4, name=name), Objective(quantile, limit_s)


def asked(loads: list[Load], stretch_s: float, job: Job = HOURS, slowdown: float = 1.0) -> Decision:
    return decide(CoRunModel(), loads, TrainingSlices((stretch_s,) * KNOWN, slowdown=slowdown), job)


def duty(decision: Decision) -> float:
    """The share of idle time granted."""
    match decision:
        case Admit():
            return 1.0
        case Pace(share):
            return share
        case Refuse():
            return 0.0


def test_room_to_spare_is_admitted() -> None:
    """Stretches far shorter than the slack may use every idle moment; the predictions come with it."""
    decision = asked([load(0.2)], 0.005)
    assert isinstance(decision, Admit)
    assert 0.02 <= decision.latency_s <= 0.2
    assert decision.finish_s == pytest.approx(10 / 0.9, rel=0.05)


def test_some_room_is_paced() -> None:
    """Where every idle moment would be too much, a share of it is granted, in slices no shorter than a stretch."""
    decision = asked([load(0.07)], 0.1)
    assert isinstance(decision, Pace)
    assert 0 < decision.duty < 1
    assert decision.latency_s <= 0.07
    assert decision.slice_s == 0.1


def test_no_room_is_refused_in_words() -> None:
    """Stretches longer than the slack break the objective even now and then; the refusal names the one they keep."""
    decision = asked([load(0.05, rate_hz=0.5, quantile=0.99)], 5.0)
    assert isinstance(decision, Refuse)
    assert "50 ms" in decision.reason
    assert decision.limit_s is not None
    assert duty(asked([load(1.05 * decision.limit_s, rate_hz=0.5, quantile=0.99)], 5.0)) > 0


def test_an_objective_missed_without_training_is_refused() -> None:
    """Then training is not the culprit, and the reason says so and names the model."""
    decision = asked([load(0.5), load(0.1, rate_hz=40.0, service_s=0.2, name="bert")], 0.001)
    assert isinstance(decision, Refuse)
    assert decision.reason.startswith("bert: the objective is missed without training")


def test_where_luck_keeps_the_promise_windows_tell() -> None:
    """A limit that requests may or may not miss alone: what costs them next to nothing is let in, nothing else is."""
    serving, objective = load(1.0, rate_hz=15.0)
    alone = CoRunModel().predict(serving, None, objective.quantile)
    at_limit = [(serving, Objective(objective.quantile, 0.98 * alone.latency_s))]
    assert alone.low_s < 0.98 * alone.latency_s
    let_in = asked(at_limit, 0.0005)
    assert duty(let_in) > 0
    assert isinstance(let_in, Admit | Pace)
    assert let_in.sure_duty == 0.0
    assert isinstance(asked(at_limit, 0.1), Refuse)


def test_what_is_only_believed_to_break_a_promise_that_is_surely_kept_alone_is_let_in() -> None:
    """At the least share, for windows to judge; not operations of four limits, nor what windows taught otherwise."""
    tight = [load(0.05, rate_hz=0.5, quantile=0.99)]
    asked_for = asked(tight, 0.1)
    assert isinstance(asked_for, Pace)
    assert (asked_for.duty, asked_for.sure_duty) == (DUTIES[-1], 0.0)
    assert asked_for.latency_s > 0.05
    assert isinstance(asked(tight, 0.21), Refuse)
    model, stretches = CoRunModel(), TrainingSlices((0.1,) * KNOWN, DUTIES[-1])
    for _ in range(20):
        model.observe(tight[0][0], stretches, 0.99, 0.1, 500)
    assert isinstance(decide(model, tight, stretches, HOURS), Refuse)


def test_a_deadline_out_of_reach_is_refused_with_the_smallest_one_within() -> None:
    """Asked again with that deadline, the job is taken."""
    job = Job(step_s=0.1, steps_left=600, deadline_s=30.0)
    refused = asked([load(0.2)], 0.005, job)
    assert isinstance(refused, Refuse)
    assert refused.deadline_s == pytest.approx(60 / 0.9, rel=0.05)
    assert "30.0 s" in refused.reason
    assert isinstance(asked([load(0.2)], 0.005, Job(0.1, 600, refused.deadline_s)), Admit)


def test_what_the_interval_leaves_open_is_not_sure() -> None:
    """A share that is predicted to fit is granted; how much of it surely fits is said beside it."""
    open_, sure = asked([load(0.04)], 0.012), asked([load(0.2)], 0.005)
    assert isinstance(open_, Admit)
    assert isinstance(sure, Admit)
    assert open_.sure_duty < sure.sure_duty == 1.0
    assert (open_.sure, sure.sure) == (False, True)


def test_nobody_served_is_nobody_disturbed() -> None:
    """No loads, or loads without arrivals, admit whatever comes."""
    idle = Serving([], ServiceTimes({1: (0.02,)}), 4), Objective(0.95, 0.01)
    assert asked([], 10.0) == asked([idle], 10.0) == Admit(0.0, HOURS.step_s * HOURS.steps_left)


@pytest.mark.parametrize("may_be_late", [0.05, 0.01])
def test_training_that_was_never_seen_may_show_itself(may_be_late: float) -> None:
    """Too seldom to break a promise, however long its stretches; not at all if it could not be done in time alone."""
    unknown = TrainingSlices(())
    loads = [load(0.2), load(0.2, quantile=1 - may_be_late)]
    decision = decide(CoRunModel(), loads, unknown, Job(0.0, 0, 60.0))
    assert isinstance(decision, Pace)
    assert decision.duty == pytest.approx(may_be_late / 2)
    assert isinstance(decide(CoRunModel(), [load(0.01)], unknown, Job(0.0, 0, 60.0)), Refuse)
    late = decide(CoRunModel(), loads, unknown, Job(0.1, 700, 60.0))
    assert isinstance(late, Refuse)
    assert late.deadline_s == pytest.approx(70.0)


def test_a_few_long_stretches_refuse_nobody() -> None:
    """A first step's are longer than all that follow: it is only probed on."""
    loads = [load(0.05, rate_hz=0.5, quantile=0.99)]
    few, known = (TrainingSlices((5.0,) * count) for count in (KNOWN - 1, KNOWN))
    assert duty(decide(CoRunModel(), loads, few, HOURS)) == pytest.approx(0.005)
    assert isinstance(decide(CoRunModel(), loads, known, HOURS), Refuse)


def test_training_between_two_models_needs_both_idle() -> None:
    """The job takes longer than beside either, and as long again where clocks slow its steps down."""
    one, other = load(1.0, name="a"), load(1.0, rate_hz=20.0, name="b")
    finishes = []
    for loads in ([one], [other], [one, other]):
        decision = asked(loads, 0.001)
        assert isinstance(decision, Admit)
        finishes.append(decision.finish_s)
    assert finishes[2] > max(finishes[:2])
    slow = asked([one], 0.001, slowdown=2.0)
    assert isinstance(slow, Admit)
    assert slow.finish_s == pytest.approx(2 * finishes[0], rel=0.05)


@pytest.mark.parametrize("stretch_s", [0.01, 0.04, 0.2])
def test_a_looser_objective_never_grants_less(stretch_s: float) -> None:
    """Monotone in the limit, from refusal to admission."""
    shares = [duty(asked([load(limit_s)], stretch_s)) for limit_s in (0.01, 0.03, 0.06, 0.1, 1.0)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert set(shares) <= {0.0, *DUTIES}


def test_longer_stretches_never_get_more() -> None:
    """Monotone in the stretch."""
    shares = [duty(asked([load(0.06)], stretch_s)) for stretch_s in (0.005, 0.05, 0.1, 0.4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    assert not math.isinf(shares[0])
