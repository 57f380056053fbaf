# SPDX-License-Identifier: Apache-2.0
"""Accuracy on samples held out, measured without being in inference's way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ..pacer import Pacer
from .dataset import Dataset


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """How good a model is; the greater, the better, and of two equally accurate ones that of less loss."""

    accuracy: float
    less_loss: float
    """Mean cross-entropy, negative."""


class Looks:
    """Looks up between pieces of work that no plan runs, as the executor does between operations of one that does.

    A context around that work, to be called between its pieces.
    """

    def __init__(self, pacer: Pacer, clock: Callable[[], float] = time.monotonic) -> None:
        self._pacer, self._clock = pacer, clock
        self._since_s = 0.0
        self.waited_s = 0.0

    def __enter__(self) -> Looks:
        self._since_s = self._clock()
        return self

    def __exit__(self, *raised: object) -> None:
        self._account()

    def __call__(self, *_: object) -> None:
        """Wait if somebody else should compute."""
        if not self._pacer.clear():
            self._account()
            self.waited_s += self._pacer.wait()
            self._since_s = self._clock()

    def _account(self) -> None:
        self._pacer.slice_done(self._clock() - self._since_s)


def score(model: nn.Module, data: Dataset, pacer: Pacer) -> Score:
    """How good the model is on the samples held out; its mode is put back.

    One sample at a time, as a request would come, with a look up after every module: inference waits for one module.
    """
    looks, right, loss = Looks(pacer), 0, 0.0
    with looks, _evaluating(model, looks), torch.inference_mode():
        for number in data.held_out:
            looks()
            *inputs, label = data.batch([number])
            logits = model(*inputs)
            loss += float(functional.cross_entropy(logits, label))
            right += int(logits.argmax(1).eq(label))
    return Score(right / len(data.held_out), -loss / len(data.held_out))


@contextlib.contextmanager
def _evaluating(model: nn.Module, looks: Looks) -> Iterator[None]:
    training = model.training
    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(looks) for module in leaves]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
