# SPDX-License-Identifier: Apache-2.0
"""Models captured from PyTorch for `make bench-plan`: profiled once on this machine, the profile kept."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch

from finetune.capture import Captured, capture
from finetune.capturing.models import load
from finetune.errors import GraphInvalid
from finetune.planning.limits import ROOMY, limits_of
from finetune.problem import Limits, Problem
from finetune.profile import Profile, problem_of, profile
from finetune.profiling.profile_file import read_profile, write_profile

FOLDER = Path("out/bench/plan/profiles")
BATCHES = {"bert_base": 4, "resnet18": 8}
REPEATS = 2


def problem(name: str, share: float) -> Problem:
    """The step within a share of its activations' peak, on top of what is fixed; without a deadline."""
    found = _plain(name)
    return dataclasses.replace(found, limits=limits_of(found, f"{100 * share:g}%"))


def prepare(name: str) -> None:
    """Capture and profile a model unless that was done before."""
    _profiled(name)


@functools.cache
def _plain(name: str) -> Problem:
    captured, found = _profiled(name)
    return problem_of(captured.graph, found, Limits(ROOMY))


def _profiled(name: str) -> tuple[Captured, Profile]:
    torch.set_num_threads(1)
    captured = capture(*load(name, BATCHES[name]), name)
    path = FOLDER / f"{name}.json"
    try:
        found = read_profile(path)
        if found.graph_digest == captured.graph.digest:
            return captured, found
    except (OSError, GraphInvalid):
        FOLDER.mkdir(parents=True, exist_ok=True)
    found = profile(captured, FOLDER, repeats=REPEATS)
    write_profile(path, found)
    return captured, found
