# SPDX-License-Identifier: Apache-2.0
"""A process that holds one trainer of one model and runs steps when it is told to.

Commands come over a pipe as `(name, mode)`, answers go back as dictionaries, with `error` if that is what came of it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..execute_report import ALL_SHARES, modes
from . import meter
from .exact import differences, outcome
from .ours import Ours, prepare
from .paging_hooks import PagingHooks
from .peers import Checkpointed, Eager, MemoryBudget, Selective
from .setting import Setting, Trainer, open_setting
from .yields import Asked, waits

Answer = dict[str, Any]
TRAINERS: Mapping[str, Callable[[Setting], Trainer]] = {
    "eager": Eager,
    "checkpoint": Checkpointed,
    "selective": Selective,
    "hooks": PagingHooks,
    "memory_budget": MemoryBudget,
    "ours": partial(Ours, budget=None),
    **{f"ours_{share}": partial(Ours, budget=f"{share}%", modes=modes(f"ours_{share}")) for share in ALL_SHARES},
}


def serve(pipe: Connection, model: str, trainer: str, folder: Path) -> None:
    """Make the trainer, say so, and answer until told to stop; `prepare` instead of a trainer profiles the model."""
    torch.set_num_threads(1)
    try:
        began_s = time.perf_counter()
        setting = open_setting(model, folder)
        if trainer == "prepare":
            prepare(setting)
            pipe.send({"prepared": True})
            return
        at_work = AtWork(setting, TRAINERS[trainer](setting))
        pipe.send({"startup_s": time.perf_counter() - began_s, "preloaded": meter.preloaded()})
        while (command := pipe.recv()) is not None:
            pipe.send(at_work.told(*command))
        at_work.trainer.close()
    except EOFError:
        return  # nobody waits for an answer any more
    except Exception as error:  # noqa: BLE001 - the border: whatever a trainer meets is its row's figure
        pipe.send(_failure(error))


def _failure(error: Exception) -> Answer:
    return {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()}


class AtWork:
    """A trainer and what is measured of it; a mode is `whole` or `pieces` for ours, empty for the others."""

    def __init__(self, setting: Setting, trainer: Trainer) -> None:
        self.setting, self.trainer = setting, trainer
        self._buffers = {name: buffer.clone() for name, buffer in setting.model.named_buffers()}

    def told(self, name: str, mode: str) -> Answer:
        """What a command found, or what it met: one mode may fail where the other does not."""
        try:
            return self.answer(name, mode)
        except Exception as error:  # noqa: BLE001 - the border, as above
            return _failure(error)

    def answer(self, name: str, mode: str) -> Answer:
        """What a command found."""
        if isinstance(self.trainer, Ours):
            self.trainer.turn(mode)
        commands: Mapping[str, Callable[[], Answer]] = {
            "step": self._step,
            "peak": self._peak,
            "reference": self._reference,
            "exact": self._exact,
            "yields": self._yields,
            "figures": lambda: dict(self.trainer.figures()),
        }
        return commands[name]()

    def _step(self) -> Answer:
        """Seconds of a step, of the wall and of all threads' processors, and its peak if that costs no time."""
        pacer = self.trainer.pacer if isinstance(self.trainer, Ours) else Asked()
        pacer.begin(requests=False)
        start_s, own_s = time.perf_counter(), time.process_time()
        peak_bytes = None
        if meter.preloaded():
            _, peak_bytes = meter.counting(self.trainer.step)
        else:
            self.trainer.step()
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - own_s
        pacer.end()
        return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak_bytes}

    def _peak(self) -> Answer:
        """The peak alone."""
        return {"peak_bytes": meter.peak_bytes(self.trainer.step)[1]}

    def _reference(self) -> Answer:
        """Leave what all others are compared with; only eager is asked."""
        save_file({key: value.clone() for key, value in self._outcome().items()}, self._reference_path)
        return {}

    def _exact(self) -> Answer:
        """How far a step is from eager's."""
        found = self._outcome()
        return differences(load_file(self._reference_path), found)

    def _yields(self) -> Answer:
        """How soon training yields: by the timed steps so far, and by requests in one step more."""
        if not isinstance(self.trainer, Ours):
            return {}
        pacer = self.trainer.pacer
        by_spans = {"wall": waits(pacer.spans_s), "own": waits(pacer.busy_s)}
        pacer.begin(requests=True)
        self.trainer.step()
        pacer.end()
        return by_spans | {"observed": pacer.observed()}

    def _outcome(self) -> dict[str, Tensor]:
        return outcome(self.setting, self.trainer, self._buffers)

    @property
    def _reference_path(self) -> Path:
        return self.setting.folder / f"{self.setting.name}.reference.safetensors"
