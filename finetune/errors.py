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


class PageStoreFull(FinetuneError):
    """There is no room for so many bytes of pages; `where` is the folder, and what it said."""

    def __init__(self, where: str, wanted_bytes: int, why: str) -> None:
        self.where, self.wanted_bytes, self.why = where, wanted_bytes, why
        super().__init__(f"{where} has no room for {wanted_bytes} bytes of pages: {why}")


class PageCorrupted(FinetuneError):
    """What was read back of storage `number` is not what was written; `offset` is the piece's first byte in it."""

    def __init__(self, number: int, offset: int) -> None:
        self.number, self.offset = number, offset
        super().__init__(f"storage {number} came back other than it was written, in the piece from byte {offset} on")


class PageFailed(FinetuneError):
    """A transfer of storage `number` did not end; `act` is "write" or "read"."""

    def __init__(self, number: int, act: str, why: str) -> None:
        self.number, self.act, self.why = number, act, why
        super().__init__(f"storage {number} could not be {'written' if act == 'write' else 'read'}: {why}")


class OptimizerRefused(FinetuneError):
    """An optimizer that a plan cannot step on one weight at a time; `optimizer` names its class."""

    def __init__(self, optimizer: object, why: str) -> None:
        self.optimizer, self.why = type(optimizer).__name__, why
        super().__init__(f"{self.optimizer} {why}")
