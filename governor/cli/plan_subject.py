# SPDX-License-Identifier: Apache-2.0
"""What `teg plan` is asked to plan: a graph file on a platform, or a model on a profile."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from finetune.limits import ROOMY, limits_of
from finetune.poet import load_graph
from finetune.problem import Problem


@dataclass(frozen=True, slots=True)
class Subject:
    """The problem with its limits, the platform's name, and where its costs are from."""

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
    return Subject(problem, args.platform, "flop counts, nothing timed")


def _of_model(args: argparse.Namespace) -> Subject:
    raise ValueError("--model is not there yet")
