# SPDX-License-Identifier: Apache-2.0
"""A predictor that is wrong by half: windows keep training from breaking what is served beside it; virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from governor.guard import Slo, late_over_allowed
from predictor.admission import KNOWN, PROBE, Decision, Job, Objective, Refuse, decide
from predictor.corun import Band, CoRunModel, Serving, TrainingSlices
from predictor.pacing import Duty, Window
from predictor.queueing import quantile
from predictor.vacations import SLICE_S

from .beside import Seen, Truth, happens, poisson
from .promises import IN_A_ROW, SHARE
from .record import Tally

CASES = 104
WRONG = (0.5, 1.5)
SERVICE_S, RATE_HZ, WINDOW_S = 0.017, 15.0, 10.0
RUN = 720
"""Windows of a case: two hours."""
AGAIN = 30
"""Windows between two decisions."""
REFUSED_AT = 3
"""Windows that training broke, after which it is refused."""
JOB = Job(step_s=0.2, steps_left=10**6)
NEVER = Duty(0.0, SLICE_S, 0.0)
"""Before the first decision that admits."""


class Wrong(CoRunModel):
    """Predicts the latency beside training wrong by a factor, whatever it learns; alone it is right."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def predict(
        self, serving: Serving, training: TrainingSlices | None, quantile: float, requests: int | None = None
    ) -> Band:
        band = super().predict(serving, training, quantile, requests)
        if training is None:
            return band
        off = self._factor
        return replace(band, latency_s=off * band.latency_s, low_s=off * band.low_s, high_s=off * band.high_s)


@dataclass(slots=True)
class Case:
    """A device, a load, a promise, and a predictor that is told wrong things by a factor `fed`, or is wrong itself."""

    truth: Truth
    slo: Slo
    serving: Serving
    model: CoRunModel
    fed: float
    rng: random.Random

    def window(self, duty: float) -> Seen:
        """One window of requests."""
        arrivals_s = poisson(RATE_HZ, int(RATE_HZ * WINDOW_S), self.rng)
        return happens(self.truth, arrivals_s, self.rng, duty=duty)

    def training(self, duty: float) -> TrainingSlices:
        """What the predictor is told of training."""
        return TrainingSlices(tuple(self.fed * op_s for op_s in self.truth.ops_s) * KNOWN, duty)


def wrong(tally: Tally) -> None:
    """Row 25: windows in breach as in row 11, and training refused after three of them, as long as they go on."""
    trained = 0
    for number in tally.thin(range(CASES)):
        case = _case(number)
        tally.inject(real=False, kind=f"{WRONG[number % 2]} {'fed' if number % 4 < 2 else 'stubborn'}")
        trained += _lived(tally, case, f"case {number}")
    tally.note("cases in which training ran at the end", trained)


def _case(number: int) -> Case:
    """A device whose operations last up to ten times a request, and a promise that it keeps alone."""
    rng = random.Random(number)
    factor, stubborn = WRONG[number % 2], number % 4 >= 2
    longest_s = rng.uniform(1, 10) * SERVICE_S
    ops_s = tuple(longest_s * rng.uniform(0.05, 1) for _ in range(20))
    truth = Truth(SERVICE_S, shared=rng.choice((0.02, 0.3)), spells=0.05, ops_s=ops_s)
    alone = happens(truth, poisson(RATE_HZ, 600, rng), rng)
    slo = Slo(0.95, rng.uniform(1.2, 1.8) * quantile(alone.latencies_s, 0.95), WINDOW_S)
    fed, model = (1.0, Wrong(factor)) if stubborn else (factor, CoRunModel())
    serving = Serving(alone.arrivals_s[:400], alone.services.stretched(fed), truth.batch_limit)
    return Case(truth, slo, serving, model, fed, rng)


def _lived(tally: Tally, case: Case, what: str) -> bool:
    """Two hours of one case; whether training ran at their end."""
    broken: list[bool] = []
    duty, admitted, blamed, now = NEVER, False, 0, 0.0
    while len(broken) < RUN:
        if duty.refused:
            # nothing trains, and alone the device keeps its promise: only time passes
            rest = int((duty.refused_until_s - len(broken) * WINDOW_S) / WINDOW_S)
            broken += [False] * min(rest, RUN - len(broken) - 1)
        elif len(broken) % AGAIN == 0:
            decision = _decided(case)
            admitted = not isinstance(decision, Refuse)
            if not isinstance(decision, Refuse):
                duty = Duty.granted(decision) if duty is NEVER else duty.regranted(decision)
        now = duty.limits.duty if admitted else 0.0
        window = _seen(case, now)
        broken.append(window.late > 1)
        if admitted:
            blamed += broken[-1] and now > PROBE and window.alone <= 1
            before, duty = duty, duty.after(window, len(broken) * WINDOW_S)
            blamed -= broken[-1] and not now and duty.broken < before.broken  # the device's own slow moment
            tally.expect(
                blamed < REFUSED_AT or duty.refused, f"{what}: {blamed} windows broke the objective, no refusal"
            )
            blamed = 0 if duty.refused else blamed
    runs = "".join("x" if window else "." for window in broken)
    tally.expect("x" * IN_A_ROW not in runs, f"{what}: {IN_A_ROW} windows in a row in breach")
    tally.worst("most_windows_in_breach", sum(broken))
    tally.expect(sum(broken) <= SHARE * len(broken), f"{what}: {sum(broken)} of {len(broken)} in breach")
    return now > 0


def _decided(case: Case) -> Decision:
    objective = Objective(case.slo.quantile, case.slo.limit_s)
    return decide(case.model, [(case.serving, objective)], case.training(1.0), JOB)


def _seen(case: Case, duty: float) -> Window:
    """One window at this duty, which teaches the predictor."""
    seen, slo = case.window(duty), case.slo
    serving = replace(case.serving, arrivals_s=seen.arrivals_s)
    found_s = quantile(seen.latencies_s, slo.quantile)
    case.model.observe(serving, case.training(duty), slo.quantile, found_s, len(seen.latencies_s))
    alone = case.model.late_alone(serving, slo.limit_s) / (1 - slo.quantile) if duty else 0.0
    return Window(late_over_allowed(seen.latencies_s, 0, slo), alone)
