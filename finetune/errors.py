# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a module and a plan that runs."""

from __future__ import annotations


class FinetuneError(Exception):
    """Everything this package raises on purpose."""


class UnsupportedTorch(FinetuneError):
    """The torch found is not one whose capture is known to work; `found`, and the `known` versions."""

    def __init__(self, found: str, known: tuple[str, ...]) -> None:
        self.found, self.known = found, known
        super().__init__(f"torch {found} cannot be captured; known to work: {', '.join(known)}")


class CaptureRefused(FinetuneError):
    """The module's training step holds something that no plan can run; `op` names it."""

    def __init__(self, op: str, why: str) -> None:
        self.op, self.why = op, why
        super().__init__(f"{op}: {why}")


class GraphInvalid(FinetuneError):
    """A graph, its costs or a file of either is not sound; `where` names the place."""

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = where, why
        super().__init__(f"{where}: {why}")


class ScheduleInvalid(FinetuneError):
    """A schedule breaks a rule at `position`; `why` says which."""

    def __init__(self, position: int, entry: str, why: str) -> None:
        self.position, self.entry, self.why = position, entry, why
        super().__init__(f"entry {position} ({entry}): {why}")


class PlanMismatch(FinetuneError):
    """A plan was made for another graph; the two digests."""

    def __init__(self, planned: str, found: str) -> None:
        self.planned, self.found = planned, found
        super().__init__(f"the plan is for graph {planned[:12]}, this one is {found[:12]}")


class PlanInvalid(FinetuneError):
    """A plan file is not one."""


class SolverMissing(FinetuneError):
    """Planning needs the extra `solver`; `module` is what could not be imported."""

    def __init__(self, module: str) -> None:
        self.module = module
        super().__init__(f"planning needs {module}: pip install 'triton-energy-governor[solver]'")
