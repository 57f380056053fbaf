# SPDX-License-Identifier: Apache-2.0
"""A planner asked for what cannot be, out of time, or given a wrong answer; plans of random networks, carried out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import finetune
from finetune.capture import Captured, capture
from finetune.capturing.optimizer import with_optimizer
from finetune.errors import NoPlan, ScheduleInvalid
from finetune.execute import Execution
from finetune.executing.lower import lower
from finetune.graph import Graph
from finetune.pacer import Free
from finetune.pages import MemoryPages
from finetune.plan import Plan, plan
from finetune.planning.limits import ROOMY, plain_step
from finetune.planning.paging import working_set
from finetune.planning.smallest import smallest_budget
from finetune.problem import Costs, Limits, Only, Problem
from finetune.replay import replay
from finetune.schedule import Schedule

from .jobs import Noting
from .nets import Net, batch
from .record import Tally
from .spoilt import spoilt

GRAPHS, MUTATED = 300, 4
"""Networks, and spoilt schedules of each."""
STEPS = 2
SEARCH = 150
"""Steps of search: the judge's word is what is tried here, not how good plans are."""
ONLY: tuple[Only, ...] = ("both", "both", "page", "recompute")
CALLED = 15
"""One in so many refusals is also met where users meet it."""
cross_entropy = nn.functional.cross_entropy


def asked(tally: Tally) -> None:
    """Row 24: no plan is above its budget, nothing wrong is carried out, and training is plain torch's, bit for bit."""
    torch.set_num_threads(1)
    for seed in tally.thin(range(GRAPHS)):
        try:
            _network(tally, seed)
        except Exception as error:  # noqa: BLE001 - any error at all is what this row looks for
            tally.expect(False, f"network {seed}: {error!r}")


def _network(tally: Tally, seed: int) -> None:
    chance = random.Random(seed)
    model = Net(seed)
    optimizer = _optimizer(model, seed)
    captured = capture(model, cross_entropy, batch(seed))
    sink = Noting(optimizer)
    graph = with_optimizer(captured.graph, sink.rule or "sgd")
    problem = _problem(graph, chance)
    only = chance.choice(ONLY)
    most = plain_step(problem).peak_bytes
    least = smallest_budget(problem, seed, only) or most
    budget_bytes = least + int(chance.choice((0.0, 0.0, 0.2, 0.5)) * (most - least))
    tight = replace(problem, limits=Limits(budget_bytes))
    found = plan(tight, seed=seed, steps=SEARCH, effort=0, only=only)
    if not _sound(tally, tight, found, f"network {seed}"):
        return
    _too_little(tally, problem, seed, chance)
    _out_of_time(tally, tight, only, seed)
    wrong = list(_refused(tally, captured, graph, tight, found, chance, f"network {seed}"))
    _wrong_answer(tally, tight, only, seed, wrong)
    _trained(tally, captured, graph, found, model, optimizer, sink, seed)


def _optimizer(model: nn.Module, seed: int) -> Optimizer:
    if seed % 3 == 0:
        return SGD(model.parameters(), lr=0.1)
    return SGD(model.parameters(), lr=0.1, momentum=0.9) if seed % 3 == 1 else AdamW(model.parameters(), lr=0.01)


def _problem(graph: Graph, chance: random.Random) -> Problem:
    """The graph at random costs, so that plans mix paging and computing again in all ways."""

    def column(count: int) -> tuple[float, ...]:
        return tuple(chance.random() for _ in range(count))

    ops, storages = len(graph.ops), len(graph.storages)
    workspace = tuple(chance.choice((0, 0, 64)) for _ in range(ops))
    writes, reads = (column(storages), column(storages)), (column(storages), column(storages))
    return Problem(graph, Costs(column(ops), column(ops), workspace, *writes, *reads, 0.1), Limits(ROOMY))


def _sound(tally: Tally, problem: Problem, found: Plan, what: str) -> bool:
    """Expect a schedule that the judge accepts, with the peak that the plan says, within the budget."""
    if not tally.expect(found.schedule, f"{what}: no plan: {found.why}"):
        return False
    try:
        peak_bytes = replay(problem, found.schedule).peak_bytes
    except ScheduleInvalid as error:
        return tally.expect(False, f"{what}: {error}")
    tally.same(found.peak_bytes, peak_bytes, f"{what}: the peak")
    return tally.expect(peak_bytes <= problem.limits.budget_bytes, f"{what}: {peak_bytes} bytes, above the budget")


def _too_little(tally: Tally, problem: Problem, seed: int, chance: random.Random) -> None:
    """Less than one op needs, or less time than computing takes: refused, with why, and with what would be enough."""
    needed = working_set(problem).bytes
    limits = Limits(chance.randrange(needed)) if seed % 2 else Limits(ROOMY, 0.99 * problem.base_time_s)
    what = f"network {seed}, {limits}"
    tally.inject(real=False, kind="what cannot be")
    found = plan(replace(problem, limits=limits), seed=seed, steps=SEARCH, effort=0)
    tally.same((found.status, found.schedule), ("infeasible", ()), f"{what}: the plan")
    tally.expect(found.why, f"{what}: refused without a reason")
    enough = found.smallest_budget_bytes
    tally.expect(enough is None if limits.deadline_s else enough and enough >= needed, f"{what}: {enough} would do")
    if seed % CALLED < 2:
        model = Net(seed)
        try:
            finetune.compile(model, cross_entropy, batch(seed), plan=found, optimizer=_optimizer(model, seed))
        except NoPlan as error:
            tally.expect(found.why in str(error), f"{what}: {error}")
        else:
            tally.expect(False, f"{what}: compiled without a plan")


def _out_of_time(tally: Tally, problem: Problem, only: Only, seed: int) -> None:
    """Cut at once: a sound plan, or none and that it was not proven that there is none."""
    tally.inject(real=False, kind="out of time")
    found = plan(problem, seed=seed, only=only, wall_s=0.0)
    what = f"network {seed}, out of time"
    if found.schedule:
        _sound(tally, problem, found, what)
        tally.kinds["a plan all the same"] += 1
    else:
        tally.same((found.status, found.cut_off), ("unknown", True), f"{what}: the plan")
        tally.expect(found.why, f"{what}: refused without a reason")


def _refused(
    tally: Tally, captured: Captured, graph: Graph, problem: Problem, found: Plan, chance: random.Random, what: str
) -> Iterator[Schedule]:
    """Spoilt schedules of every kind that there is: refused by the judge, and never made into code."""
    spoils = list(spoilt(problem, found.schedule, replay(problem, found.schedule)))
    kinds = sorted({kind for kind, _, _ in spoils})
    for kind in chance.sample(kinds, MUTATED):
        _, asked_of, schedule = chance.choice([one for one in spoils if one[0] == kind])
        tally.inject(real=False, kind=kind)
        try:
            replay(asked_of, schedule)
        except ScheduleInvalid:
            yield schedule
        else:
            tally.expect(False, f"{what}, {kind}: accepted")
        if asked_of is problem:
            try:
                lower(captured, graph, replace(found, schedule=schedule))
            except ScheduleInvalid:
                continue
            tally.expect(False, f"{what}, {kind}: made into code")


def _wrong_answer(tally: Tally, problem: Problem, only: Only, seed: int, wrong: list[Schedule]) -> None:
    """A solver's answer is a schedule to start from: what is wrong with it does not get into the plan."""
    for schedule in wrong[:1]:
        tally.inject(real=False, kind="a wrong answer")
        found = plan(problem, seed=seed, steps=SEARCH, effort=0, only=only, start=schedule)
        _sound(tally, problem, found, f"network {seed}, a wrong answer")


def _trained(
    tally: Tally,
    captured: Captured,
    graph: Graph,
    found: Plan,
    model: nn.Module,
    optimizer: Optimizer,
    sink: Noting,
    seed: int,
) -> None:
    """Two steps of the plan beside plain torch's: loss, every gradient, weight and statistic, and the random state."""
    lowered = lower(captured, graph, found)
    pages = MemoryPages({number: graph.storages[number].size_bytes for number in lowered.paged})
    execution = Execution(captured, graph, lowered, found.budget_bytes, sink, pages, Free(), {})
    data = [batch(seed + number) for number in range(STEPS)]
    torch.manual_seed(seed)
    losses = [execution.step(one) for one in data]
    after = torch.get_rng_state()
    execution.close()
    plainly, gradients = Net(seed), []
    own = _optimizer(plainly, seed)
    torch.manual_seed(seed)
    for number, one in enumerate(data):
        loss = cross_entropy(plainly(one[0]), one[1])
        loss.backward()  # type: ignore[no-untyped-call]
        tally.expect(torch.equal(losses[number], loss.detach()), f"network {seed}: another loss in step {number}")
        gradients.append(_gradients(plainly))
        own.step()
        own.zero_grad()
    tally.expect(torch.equal(after, torch.get_rng_state()), f"network {seed}: another random state")
    trained = len(sink.taken) // STEPS
    for number, (name, gradient) in enumerate(sink.taken):
        wanted = gradients[number // trained][name.removeprefix("model.")]
        tally.expect(torch.equal(gradient, wanted), f"network {seed}: another gradient of {name}")
    ours, theirs = model.state_dict(), plainly.state_dict()
    wrong = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    tally.same(wrong, [], f"network {seed}: what training came to")
    tally.kinds["trained"] += 1


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
