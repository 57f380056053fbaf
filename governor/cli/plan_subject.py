# SPDX-License-Identifier: Apache-2.0
"""What `teg plan` is asked to plan: a graph file on a platform, or a model on a profile or a platform."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.planning.limits import ROOMY, limits_of
from finetune.poet.graph_file import load_graph
from finetune.poet.platforms import load_platform, platform_names
from finetune.problem import Limits, Problem

if TYPE_CHECKING:
    from finetune.capture import Captured
    from finetune.graph import Graph
    from finetune.profile import Profile
    from telemetry.board_page import BoardPage


@dataclass(frozen=True, slots=True)
class Subject:
    """The problem with its limits, the platform's name, and what the costs rest on."""

    problem: Problem
    platform: str
    costs_from: str


def subject_of(args: argparse.Namespace) -> Subject:
    """Raises `FinetuneError` for what is not sound, `ValueError` for a flag that cannot be used, `OSError`."""
    subject = _of_graph(args) if args.graph else _of_model(args)
    problem = subject.problem
    deadline = args.deadline or ("2x" if problem.semantics == "poet" else None)
    return replace(subject, problem=replace(problem, limits=limits_of(problem, args.budget, deadline, args.quota)))


def _of_graph(args: argparse.Namespace) -> Subject:
    found = load_graph(args.graph)
    if not args.platform:
        raise ValueError(f"--graph needs --platform; the file knows {', '.join(found.costs) or 'none'}")
    problem = found.problem(args.platform, ROOMY, semantics=args.semantics or "poet")
    return Subject(problem, args.platform, "counted operations x platform rates, nothing timed")


def _of_model(args: argparse.Namespace) -> Subject:
    from finetune.capture import capture
    from finetune.capturing.models import load
    from finetune.capturing.optimizer import with_optimizer

    if args.semantics == "poet":
        raise ValueError("--semantics poet is for --graph: POET knows neither weights nor ops of several outputs")
    _say(args, f"capturing {args.model}")
    model, loss, batch = load(args.model, args.batch)
    captured = capture(model, loss, batch, args.model)
    graph = captured.graph if args.optimizer == "none" else with_optimizer(captured.graph, args.optimizer)
    if args.platform in platform_names():
        return _on_platform(captured, graph, args.platform)
    return _on_profile(graph, args, _profile(captured, args))


def _on_platform(captured: Captured, graph: Graph, name: str) -> Subject:
    from finetune.profiling.flops import flops_of

    platform = load_platform(name)
    sizes = [storage.size_bytes for storage in graph.storages]
    problem = Problem(graph, platform.costs(flops_of(captured, graph), sizes), Limits(ROOMY))
    return Subject(problem, name, f"counted operations x {platform.origin} rates, nothing timed")


def _on_profile(graph: Graph, args: argparse.Namespace, profile: Profile) -> Subject:
    from finetune.profile import problem_of

    problem = problem_of(graph, profile, Limits(ROOMY))
    return Subject(problem, args.platform or profile.machine, f"measured times; joules: {profile.energy_source}")


def _profile(captured: Captured, args: argparse.Namespace) -> Profile:
    """The profile that `--platform` names, else one measured here and, if asked for, kept."""
    from finetune.profile import profile
    from finetune.profiling.profile_file import read_profile, write_profile

    if args.platform:
        return read_profile(Path(args.platform))
    import torch

    torch.set_num_threads(1)  # as the step will run; the models being served need the cores more
    counter = _counter()
    try:
        found = profile(
            captured,
            args.page_dir,
            counter=counter,
            progress=lambda stage: _say(args, f"profiling {args.model}: {stage}"),
        )
    finally:
        if counter:
            counter.close()
    if args.save_profile:
        write_profile(args.save_profile, found)
    return found


def _counter() -> BoardPage | None:
    """The page with the board's joule counter, None where no clockd publishes one."""
    from telemetry.board_page import BoardPage
    from telemetry.errors import PageError
    from telemetry.rundir import RunDir, default_run_dir

    try:
        return BoardPage.open(RunDir(default_run_dir()).board_page)
    except PageError:
        return None


def _say(args: argparse.Namespace, text: str) -> None:
    if sys.stderr.isatty() and not args.json:
        print(f"{text} ...", file=sys.stderr)
