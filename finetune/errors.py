# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a module and a plan that runs."""

from __future__ import annotations

from pathlib import Path


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


class PagesError(FinetuneError):
    """A storage could not leave RAM or come back."""


class PageStoreFull(PagesError):
    """There is no room for so many bytes of pages; `where` is the folder, and what it said."""

    def __init__(self, where: str, wanted_bytes: int, why: str) -> None:
        self.where, self.wanted_bytes, self.why = where, wanted_bytes, why
        super().__init__(f"{where} has no room for {wanted_bytes} bytes of pages: {why}")


class PageStoreFailed(PagesError):
    """The storage under `where` failed when room for so many bytes of pages was to be kept; `why` is what it said."""

    def __init__(self, where: str, wanted_bytes: int, why: str) -> None:
        self.where, self.wanted_bytes, self.why = where, wanted_bytes, why
        super().__init__(f"{where} could not keep room for {wanted_bytes} bytes of pages: {why}")


class PageCorrupted(PagesError):
    """What was read back of storage `number` is not what was written; `offset` is the piece's first byte in it."""

    def __init__(self, number: int, offset: int) -> None:
        self.number, self.offset = number, offset
        super().__init__(f"storage {number} came back other than it was written, in the piece from byte {offset} on")


class PageFailed(PagesError):
    """A transfer of storage `number` did not end; `act` is "write" or "read"."""

    def __init__(self, number: int, act: str, why: str) -> None:
        self.number, self.act, self.why = number, act, why
        super().__init__(f"storage {number} could not be {'written' if act == 'write' else 'read'}: {why}")


class OptimizerRefused(FinetuneError):
    """An optimizer that a plan cannot step on one weight at a time; `optimizer` names its class."""

    def __init__(self, optimizer: object, why: str) -> None:
        self.optimizer, self.why = type(optimizer).__name__, why
        super().__init__(f"{self.optimizer} {why}")


class NoPlan(FinetuneError):
    """No schedule keeps the step within its limits; `smallest_budget_bytes` is one that does, None if none is known."""

    def __init__(self, why: str, budget_bytes: int, smallest_budget_bytes: int | None) -> None:
        self.budget_bytes, self.smallest_budget_bytes = budget_bytes, smallest_budget_bytes
        hint = "" if smallest_budget_bytes is None else f"; {smallest_budget_bytes} bytes are enough"
        super().__init__(f"no plan within {budget_bytes} bytes: {why}{hint}")


class BatchMismatch(FinetuneError):
    """A batch is not of the shapes that the step was compiled for."""

    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(f"compiled for {expected}, got {found}; compile a step of its own for another shape")


class ModelChanged(FinetuneError):
    """The model is not as it was compiled; `what` says which part."""

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        super().__init__(f"{what} {why}")


class LossNotFinite(FinetuneError):
    """The loss is not a number or infinite; the step changed nothing."""

    def __init__(self, value: float) -> None:
        self.value = value
        super().__init__(f"the loss is {value}; the step was given up and has changed nothing")


class StepTorn(FinetuneError):
    """A step failed while weights were being updated; only a state loaded anew is sound."""

    def __init__(self) -> None:
        super().__init__("an earlier step failed among its updates: load the last checkpoint")


class CryptographyMissing(FinetuneError):
    """Sealed pages need the extra `sealed`."""

    def __init__(self) -> None:
        super().__init__("sealed pages need cryptography: pip install 'triton-energy-governor[sealed]'")


class CheckpointInvalid(FinetuneError):
    """A training state that cannot be saved, or a checkpoint that is damaged or another's; `field` says where."""

    def __init__(self, field: str, why: str) -> None:
        self.field, self.why = field, why
        super().__init__(f"{field} {why}")


class JobError(FinetuneError):
    """A job cannot be done as it stands."""


class TooFewSamples(JobError):
    """There are `found` samples where the job needs `needed`."""

    def __init__(self, found: int, needed: int) -> None:
        self.found, self.needed = found, needed
        super().__init__(
            f"{found} samples are stored, {needed} are needed for a batch to train on and some to validate"
        )


class WeightsRefused(JobError):
    """Weights that cannot be read, or are not what they should be; `file` says which."""

    def __init__(self, file: Path, why: str) -> None:
        self.file, self.why = file, why
        super().__init__(f"{file} {why}")


class NotBetter(JobError):
    """What was trained is worse on the samples held out than the version that serves, by more than the margin."""

    def __init__(self, before: float, after: float, margin: float) -> None:
        self.before, self.after, self.margin = before, after, margin
        super().__init__(f"accuracy {after:.4f} is below the serving version's {before:.4f} by more than {margin:g}")


class DeadlineMissed(JobError):
    """The job cannot end by its deadline; `needed_s` from submission on would have done, None if nobody knows."""

    def __init__(self, deadline_s: float, needed_s: float | None) -> None:
        self.deadline_s, self.needed_s = deadline_s, needed_s
        why = "has passed before it could train" if needed_s is None else f"cannot be met: {needed_s:.0f} s are needed"
        super().__init__(f"the deadline of {deadline_s:g} s {why}")


class Diverged(JobError):
    """The loss was not finite so many times in a row."""

    def __init__(self, times: int, step: int) -> None:
        self.times, self.step = times, step
        super().__init__(f"the loss was not finite {times} times in a row before step {step}: lower the learning rate")
