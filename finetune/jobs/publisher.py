# SPDX-License-Identifier: Apache-2.0
"""Where a job's weights come from and go to: a Protocol, for this package knows no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from model_repository.architectures import Architecture


class NotServed(Exception):
    """A model cannot be trained or published now; `waiting`: it may be later."""

    def __init__(self, why: str, *, waiting: bool) -> None:
        self.waiting = waiting
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Serving:
    """The version of a model that serves: its architecture, and its weights as safetensors beside their digest."""

    architecture: Architecture
    weights: Path
    version: int


@dataclass(frozen=True, slots=True)
class Published:
    """What became of trained weights: the new version, or None and why it was taken back."""

    version: int | None
    reason: str = ""


class Publisher(Protocol):
    """Where weights come from and go to."""

    def serving(self, model: str) -> Serving:
        """The version that serves; raises `NotServed`."""
        ...

    def publish(self, model: str, job: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        """Have weights served as the next version, once for each job; raises `NotServed`."""
        ...
