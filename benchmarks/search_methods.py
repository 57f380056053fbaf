# SPDX-License-Identifier: Apache-2.0
"""The searches compared, by name, and what identifies the code of each."""

from __future__ import annotations

import ast
import hashlib
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .search_replay import Method

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "botorch", "gpytorch", "optuna", "numpy")
TYPES_ONLY = {"governor.points", "governor.errors"}
"""A search has records and names from here, which do not change what it proposes; nor does what these import."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A search: where its code is, whether it is given other workloads' tables, whether a run takes a minute."""

    label: str
    where: str
    uses_prior: bool = False
    slow: bool = False

    def make(self) -> Method:
        """The method itself, imported only now."""
        module, _, name = self.where.partition(":")
        method: Method = getattr(importlib.import_module(module), name)
        return method


METHODS = {
    "ours": Entry("ours", "governor.search:Search", uses_prior=True),
    "ours_no_prior": Entry("ours, no prior", "governor.search:Search"),
    "random": Entry("random", "benchmarks.baselines.uniform:Uniform"),
    "tpe": Entry("Optuna TPE", "benchmarks.baselines.optuna_samplers:tpe"),
    "two_phase": Entry("PolyThrottle's two phases", "benchmarks.baselines.two_phase:TwoPhase"),
    "gp": Entry("constrained GP", "benchmarks.baselines.gp:ConstrainedGp"),
    "botorch": Entry("stock BoTorch", "benchmarks.baselines.stock_botorch:StockBotorch", slow=True),
    "optuna_gp": Entry("Optuna GP", "benchmarks.baselines.optuna_samplers:gaussian_process"),
}


@cache
def code(entry: Entry) -> str:
    """A digest of the method's sources, of what of ours they import, of the protocol and of the packages' versions."""
    found = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in PACKAGES).encode())
    for name in sorted(sources(entry.where.partition(":")[0]) | sources("benchmarks.search_replay")):
        found.update(name.encode() + _path(name).read_bytes())
    return found.hexdigest()


def sources(module: str) -> set[str]:
    """The module, and every module of this repository that it imports, at any depth."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found | TYPES_ONLY and _path(name).is_file():
            found.add(name)
            waiting += _imported(name)
    return found


def _imported(module: str) -> list[str]:
    """What the module's source imports, as absolute names; of `from a import b` both `a` and `a.b`."""
    package = module.split(".")[:-1]
    names = []
    for node in ast.walk(ast.parse(_path(module).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return names


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")
