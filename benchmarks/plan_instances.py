# SPDX-License-Identifier: Apache-2.0
"""What `make bench-plan` plans: POET's own graphs from a folder of data, made-up steps, and captured models."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.poet.graph_file import load_graph
from finetune.problem import Problem, Semantics

from . import plan_captured
from .plan_steps import made_up

Suite = Literal["poet", "made", "captured"]

GRAPHS = ("linear", "vgg16_cifar", "resnet18_cifar", "resnet18")
SHARES = (0.7, 0.5, 0.45, 0.4)
PLATFORMS = ("a72", "m4")
MORE_PLATFORMS = ("m0", "a72nocache")
DEADLINE = 2.0
DEADLINES = (1.0, 1.1, 1.3, 2.0)
SMALL = (("chain", 40), ("chain", 56), ("residual", 24), ("residual", 45), ("transformer", 30))
"""Kind and number of ops of the made-up steps that are to be proven."""
LARGE = (
    ("chain", 150),
    ("residual", 60),
    ("residual", 112),
    ("residual", 210),
    ("transformer", 60),
    ("transformer", 420),
)
SIZES = (60, 125, 250, 500, 1000, 2000)


@dataclass(frozen=True, slots=True)
class Instance:
    """One problem; `share`: budget over the keep-everything peak (of activations), `deadline` in base times."""

    suite: Suite
    name: str
    platform: str
    share: float
    deadline: float | None = DEADLINE
    semantics: Semantics = "poet"
    ops: int = 0
    """Of made-up steps: about how many."""

    @property
    def key(self) -> str:
        """A file name."""
        deadline = "none" if self.deadline is None else f"{self.deadline:g}x"
        size = f"{self.ops}" if self.ops else ""
        return f"{self.suite}-{self.name}{size}-{self.platform}-{self.share:g}-{deadline}-{self.semantics}"

    def problem(self, data: Path) -> Problem:
        """The problem itself."""
        if self.suite == "made":
            return made_up(self.name, self.ops, self.share, deadline=self.deadline, semantics=self.semantics)
        if self.suite == "captured":
            return plan_captured.problem(self.name, self.share)
        graph = load_graph(self.file(data))
        budget = int(self.share * graph.activation_peak_bytes)
        if self.semantics == "real":
            budget += 2 * graph.weights_bytes
        base_s = math.fsum(graph.costs_on(self.platform).time_s)
        deadline_s = None if self.deadline is None else self.deadline * base_s
        return graph.problem(self.platform, budget, deadline_s, semantics=self.semantics)

    def file(self, data: Path) -> Path:
        """The file of one of POET's graphs."""
        return data / "poet-graphs" / f"{self.name}.json"

    def digest(self, data: Path) -> str:
        """Of what the problem is made from."""
        here = Path(__file__).parent
        source = {"poet": self.file(data), "made": here / "plan_steps.py", "captured": here / "plan_captured.py"}
        return hashlib.sha256(source[self.suite].read_bytes()).hexdigest()[:8]


def grid(*, full: bool) -> list[Instance]:
    """POET's graphs at every share and platform."""
    platforms = (*PLATFORMS, *MORE_PLATFORMS) if full else PLATFORMS
    return [Instance("poet", name, board, share) for share in SHARES for board in platforms for name in GRAPHS]


def halves(*, full: bool) -> list[Instance]:
    """The rows on which POET's own program is run."""
    return [instance for instance in grid(full=full) if full or instance.share == 0.5]


def small() -> list[Instance]:
    """Made-up steps of at most sixty ops."""
    return [Instance("made", kind, "mixed", share, 1.3, ops=ops) for kind, ops in SMALL for share in (0.7, 0.5)]


def large() -> list[Instance]:
    """Larger made-up steps."""
    return [Instance("made", kind, "mixed", share, 1.3, ops=ops) for kind, ops in LARGE for share in (0.6, 0.4)]


def growing() -> list[Instance]:
    """Made-up steps of ever more ops."""
    kinds = ("chain", "residual", "transformer")
    return [Instance("made", kind, "mixed", 0.6, 1.3, ops=ops) for ops in SIZES for kind in kinds]


def by_deadline() -> list[Instance]:
    """The same step under tighter and looser deadlines, with transfers that take time."""
    names = ("resnet18_cifar", "resnet18", "vgg16_cifar")
    return [Instance("poet", name, "a72", 0.5, deadline, "real") for deadline in DEADLINES for name in names]


def timed() -> list[Instance]:
    """ResNet-18 on a Cortex-A72 with transfers that take time."""
    return [Instance("poet", "resnet18", "a72", share, None, "real") for share in SHARES]


def on_tx2() -> list[Instance]:
    """ResNet-18 on a Jetson TX2, whose rates are derived."""
    return [Instance("poet", "resnet18", "jetsontx2", share, None, "real") for share in (0.7, 0.5)]


def captured() -> list[Instance]:
    """Models captured from PyTorch, profiled on this machine."""
    return [Instance("captured", "bert_base", "host", 0.5, None, "real")]
