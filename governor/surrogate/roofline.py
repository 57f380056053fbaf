# SPDX-License-Identifier: Apache-2.0
"""Time and energy of a batch over clocks, as physics has them: the mean of the search's models.

A batch needs GPU, memory and CPU work, each a constant and a part per sample, each over its clock; they overlap as a
p-norm does, between a roofline (p large) and a sum (p = 1) [Williams, Waterman, Patterson, CACM 52(4), 2009, for the
roofline]. Power is static power that grows with each clock, and joules per piece of work that grow with a power of
its clock, which is voltage squared under another name. Clocks and cores are relative to their highest values, times to
the latency of the first trial and powers to its power, so that one prior serves boards of 5 and of 500 W.

Under an offered load a request also waits, and idle power is drawn between batches: see `Offered`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NAMES = (
    "gpu_batch", "gpu_sample", "memory_batch", "memory_sample", "cpu_batch", "cpu_sample",  # work, relative seconds
    "constant", "overlap", "parallel", "loader_sample",
    "static_w", "memory_w", "cpu_w", "gpu_w",  # relative watts at the highest clocks
    "gpu_j", "memory_j", "cpu_j", "gpu_exponent", "cpu_exponent", "loader_j",  # joules per relative second of work
    "waiting",
)  # fmt: skip
"""The parameters; all are logs. `overlap` is p - 1; the data loader's work is shared by `cores ** parallel`."""

_PRIOR = {
    "gpu_batch": (-2.0, 1.5), "gpu_sample": (-1.0, 1.0), "memory_batch": (-2.0, 1.5), "memory_sample": (-1.0, 1.0),
    "cpu_batch": (-1.0, 1.2), "cpu_sample": (-2.0, 1.5), "constant": (-3.0, 1.0), "overlap": (0.4, 0.4),
    "parallel": (-1.0, 1.0), "loader_sample": (-3.0, 1.5), "static_w": (-1.4, 1.0), "memory_w": (-2.5, 1.0),
    "cpu_w": (-2.5, 1.0), "gpu_w": (-2.5, 1.0), "gpu_j": (-1.4, 1.0), "memory_j": (-2.1, 1.0), "cpu_j": (-2.5, 1.5),
    "gpu_exponent": (0.0, 0.4), "cpu_exponent": (0.0, 0.4), "loader_j": (-2.5, 1.5), "waiting": (-0.7, 0.7),
}  # fmt: skip
"""Mean and deviation of each: some of everything. What they are of a workload is left to its trials."""

PRIOR_MEAN = torch.tensor([_PRIOR[name][0] for name in NAMES], dtype=torch.float64)
PRIOR_DEVIATION = torch.tensor([_PRIOR[name][1] for name in NAMES], dtype=torch.float64)
STEP = 1e-5
FULLEST = 0.95
"""Beyond this share of busy time a queue is taken to grow no further."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Points as physics sees them: relative cores and clocks, and samples per batch, each `n`."""

    cores: torch.Tensor
    cpu: torch.Tensor
    gpu: torch.Tensor
    emc: torch.Tensor
    batch: torch.Tensor

    def __getitem__(self, rows: list[int]) -> Settings:
        return Settings(self.cores[rows], self.cpu[rows], self.gpu[rows], self.emc[rows], self.batch[rows])


@dataclass(frozen=True, slots=True)
class Offered:
    """A load: the seconds from one request to the next, relative to the first trial's latency."""

    period: float


def log_surfaces(theta: torch.Tensor, at: Settings, offered: Offered | None = None) -> torch.Tensor:
    """Logs of relative latency and of energy per request, `... x 2n`, for parameters `... x 21`.

    Batches follow one another without a pause, or, with `offered`, as requests come.
    """
    value = dict(zip(NAMES, theta.exp().unsqueeze(-1).unbind(-2), strict=True))
    if offered is None:
        seconds, work = _batch(value, at, at.batch)
        static_w, work_j = _power(value, at, *work)
        return torch.cat([seconds.log(), ((static_w * seconds + work_j) / at.batch).log()], dim=-1)
    # As many share a batch as arrive while one is served, within the limit.
    alone, _ = _batch(value, at, torch.ones_like(at.batch))
    size = torch.minimum(at.batch.expand_as(alone), (alone / offered.period).clamp(min=1.0))
    seconds, work = _batch(value, at, size)
    static_w, work_j = _power(value, at, *work)
    busy = (seconds / size / offered.period).clamp(max=FULLEST)
    latency = seconds * (1 + value["waiting"] * busy / (1 - busy))
    period = torch.maximum(seconds / size, torch.full_like(seconds, offered.period))
    return torch.cat([latency.log(), (static_w * period + work_j / size).log()], dim=-1)


def linearized(theta: torch.Tensor, at: Settings, offered: Offered | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`log_surfaces` at `theta` (`2n`) and its Jacobian (`2n x 21`), by finite differences in one sweep."""
    steps = torch.cat([torch.zeros(1, len(theta), dtype=theta.dtype), STEP * torch.eye(len(theta), dtype=theta.dtype)])
    values = log_surfaces(theta + steps, at, offered)
    return values[0], ((values[1:] - values[0]) / STEP).T


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _batch(value: dict[str, torch.Tensor], at: Settings, size: torch.Tensor) -> tuple[torch.Tensor, Parts]:
    """Relative seconds of a batch; the work of GPU, memory, CPU and data loader in it."""
    gpu = value["gpu_batch"] + value["gpu_sample"] * size
    memory = value["memory_batch"] + value["memory_sample"] * size
    cpu = value["cpu_batch"] + value["cpu_sample"] * size
    loader = value["loader_sample"] * size * at.cores ** -value["parallel"]
    p = 1 + value["overlap"]
    norm = (gpu / at.gpu) ** p + (memory / at.emc) ** p + (cpu / at.cpu) ** p + (loader / at.cpu) ** p
    return norm ** (1 / p) + value["constant"], (gpu, memory, cpu, loader)


def _power(
    value: dict[str, torch.Tensor],
    at: Settings,
    gpu: torch.Tensor,
    memory: torch.Tensor,
    cpu: torch.Tensor,
    loader: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Static watts and the joules of this work, both relative."""
    gpu_square, cpu_square = at.gpu ** value["gpu_exponent"], at.cpu ** value["cpu_exponent"]
    static_w = (
        value["static_w"]
        + value["memory_w"] * at.emc
        + value["cpu_w"] * at.cores * at.cpu * cpu_square
        + value["gpu_w"] * at.gpu * gpu_square
    )
    on_cpu_j = value["cpu_j"] * cpu + value["loader_j"] * loader
    return static_w, value["gpu_j"] * gpu * gpu_square + value["memory_j"] * memory + on_cpu_j * cpu_square
