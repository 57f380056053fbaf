# SPDX-License-Identifier: Apache-2.0
"""Windows of requests beside training, what requests take alone, and a predictor that fails."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from device import info

from governor.beside import Beside, Heard
from governor.foresight import Foresight
from governor.guard import Slo
from governor.quiet import CLOCKS, ENOUGH, Quiet
from governor.reader import InstanceView
from governor.simulation import Inline
from predictor.admission import Job, Refuse
from predictor.corun import Serving
from predictor.queueing import ServiceTimes
from telemetry.instance_page import Knobs, Sample, Status

NAME = "resnet18_0_0"
SLOS = {NAME: Slo(0.95, 0.05, 10.0)}


def view(
    ends_s: Sequence[float], took_s: float = 0.02, status: Status = Status.OK, waits_since_s: float = 0.0
) -> InstanceView:
    samples = tuple(
        Sample(round(1e9 * (end_s - took_s)), round(1e9 * (end_s - took_s / 2)), round(1e9 * end_s), 1, status)
        for end_s in ends_s
    )
    gate = int(waits_since_s > 0), round(1e9 * waits_since_s)
    return InstanceView(info(slo_s=0.05), samples, 0, *gate, 0, 0, Knobs(4, 0))


def heard(*steps: tuple[float, InstanceView], trained: bool = True) -> list[Heard | None]:
    beside = Beside()
    beside.add([], SLOS, 100_000_000_000, trained=trained)
    return [beside.add([seen], SLOS, round(1e9 * at_s), trained=trained) for at_s, seen in steps]


MANY_S = [101.0 + 0.1 * number for number in range(60)]


def test_a_window_says_its_quantile_once_it_is_over() -> None:
    """And when its requests came, and how many were late; with nothing asked it is zero."""
    (nothing, window) = heard((107.0, view(MANY_S)), (110.0, view([])))
    assert nothing is None
    arrivals_s = tuple(end_s - 0.02 for end_s in MANY_S)
    assert window == Heard({NAME: 0.0}, {NAME: pytest.approx(0.02)}, {NAME: pytest.approx(arrivals_s)})
    assert heard((110.0, view([]))) == [Heard({NAME: 0.0}, {}, {})]


def test_a_few_late_requests_are_no_breach() -> None:
    """Luck shows as many now and then: the share ends at the limit, so that nothing more is granted."""
    for late, expected in ((1, 1 / 61 / 0.05), (4, 1.0)):
        samples = view(MANY_S).samples + view(MANY_S[:late], 0.1).samples
        (window,) = heard((110.0, replace(view(MANY_S), samples=samples)))
        assert window is not None
        assert window.worst == pytest.approx(expected)


def test_a_plain_breach_is_heard_at_once() -> None:
    """Late or failed requests, or one that waits hopelessly; what arrived before the window is not its doing."""
    (late, *_) = heard((102.0, view([101.0 + 0.1 * number for number in range(10)], 0.06)))
    assert late is not None
    assert late.worst == pytest.approx(1 / 0.05)
    (failed,) = heard((102.0, view(MANY_S[:10], status=Status.FAILED)))
    assert failed is not None
    assert failed.worst > 1
    (hopeless,) = heard((105.0, view([], waits_since_s=101.0)))
    assert hopeless is not None
    assert hopeless.worst > 1
    assert heard((102.0, view([100.01 + 0.001 * number for number in range(20)], 0.06))) == [None]


def test_a_window_is_lost_once_no_other_request_could_save_it() -> None:
    """Late requests come in rows: with as many as the whole window may have, and luck ruled out, not sooner."""
    rows = [
        (101.0 + 0.1 * number, view([100.9 + 0.1 * number + 0.001 * n for n in range(4)], 0.06)) for number in (0, 1)
    ]
    on_time = view([100.2 + 0.004 * number for number in range(200)])
    assert heard((101.0, on_time), *rows)[-1] is None, "8 of some 1700"
    late = view([101.15 + 0.0005 * number for number in range(150)], 0.06)
    window = heard((101.0, on_time), *rows, (101.3, late))[-1]
    assert window is not None
    assert window.worst > 1


def test_a_wait_from_before_a_breach_is_not_the_next_windows_doing() -> None:
    """It was said already."""
    breach, still = heard((105.0, view([], waits_since_s=101.0)), (105.1, view([], waits_since_s=101.0)))
    assert breach is not None
    assert still is None


def test_without_training_a_window_is_heard_whole() -> None:
    """Nothing could stop at once: its worst second says less than all of it, and taking one costs."""
    burst, rest = view(MANY_S[:10], 0.06), view(MANY_S[10:])
    assert heard((102.0, burst), (105.0, view([], waits_since_s=101.0)), trained=False) == [None, None]
    (nothing, window) = heard((102.0, burst), (110.0, rest), trained=False)
    assert nothing is None
    assert window is not None
    assert window.worst == pytest.approx(10 / 60 / 0.05)


def test_after_a_breach_the_next_window_tells_of_its_own_requests() -> None:
    """Those that arrived before are late because of what is over."""
    breach, nothing, window = heard(
        (102.0, view(MANY_S[:10], 0.06)),
        (103.0, view([102.02 + 0.001 * n for n in range(20)], 0.06)),
        (112.0, view([])),
    )
    assert breach is not None
    assert nothing is None
    assert window == Heard({NAME: 0.0}, {}, {})


def test_batches_are_timed_by_the_clocks_they_ran_at() -> None:
    """Once each, from the moment that nothing trained beside them; arrivals count in any case."""
    quiet = Quiet()
    quiet.add([view(MANY_S)], "slow", 104.0)
    assert quiet.batches(NAME, "slow") == sum(end_s - 0.02 >= 104.0 for end_s in MANY_S)
    assert quiet.batches(NAME, "fast") == 0
    assert quiet.serving(NAME, "fast") is None
    served = quiet.serving(NAME, "slow")
    assert served is not None
    assert (len(served.arrivals_s), served.batch_limit, served.name) == (60, 4, "resnet18")
    assert served.services.mean_s(1) == pytest.approx(0.02)
    limited = quiet.serving(NAME, "slow", 2)
    assert limited is not None
    assert limited.batch_limit == 2
    quiet.add([view([110.0, 110.1], 0.01)], "fast", 0.0)
    assert quiet.slowdown([NAME], "slow", "fast") == pytest.approx(2.0)
    assert quiet.slowdown([NAME], "slow", "unknown") == 1.0
    one_batch = view([120.0])
    quiet.add([replace(one_batch, samples=one_batch.samples * 4)], "fast", 0.0)
    assert quiet.batches(NAME, "fast") == 3


def test_what_is_kept_of_instances_and_clocks_is_bounded() -> None:
    """Of more clocks the oldest go; of instances that have gone nothing is left."""
    quiet = Quiet()
    for number in range(CLOCKS + 1):
        quiet.add([view([10.0 * number + end_s for end_s in MANY_S])], number, 0.0)
    assert quiet.batches(NAME, 0) == 0
    assert quiet.batches(NAME, CLOCKS) >= ENOUGH
    quiet.forget([])
    assert quiet.batches(NAME, CLOCKS) == 0


def test_a_predictor_that_fails_refuses_and_is_counted() -> None:
    """It never ends a tick; a question that was dropped has no answer."""
    faults: list[str] = []
    foresight = Foresight(Inline(), lambda kind, text: faults.append(f"{kind}: {text}"))
    assert foresight.take() is None
    foresight.ask([], Job(0.1, 10))
    assert foresight.busy
    assert foresight.take() == Refuse("the predictor failed")
    foresight.learn(Serving((1.0, 2.0), ServiceTimes({1: (0.01,)}), 1), None, 0.95, -1.0, 20)
    assert foresight.take() is None
    assert [fault.split(":")[0] for fault in faults] == ["predictor", "predictor"]
    foresight.ask([], Job(0.1, 10))
    foresight.drop()
    assert not foresight.busy
    with ThreadPoolExecutor(1) as executor:
        assert not Foresight(executor, lambda kind, text: None).busy
