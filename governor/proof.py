# SPDX-License-Identifier: Apache-2.0
"""A canary with a known answer: what trained weights compute for one sample, asked of the server that serves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from model_repository.architectures import UnknownArchitecture, architecture

from .canary import CanaryFailed
from .errors import CannotPublish

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
SEED = 0
TOLERANCE = 0.01
"""Of the largest logit: another device or another kernel sums in another order."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One sample, and the logits that belong to it."""

    inputs: Mapping[str, Array]
    output: str
    logits: Array

    def check(self, client: Any, model: str, version: int, timeout_s: float) -> None:
        """Ask a version of a served model; raises `CanaryFailed` if it does not answer, or otherwise than it should."""
        try:
            given = [_as_input(name, array) for name, array in self.inputs.items()]
            answer = client.infer(model, given, model_version=str(version), client_timeout=timeout_s)
            logits = answer.as_numpy(self.output)
        except InferenceServerException as error:
            raise CanaryFailed(error.message()) from error
        if logits is None or logits.shape != self.logits.shape:
            raise CanaryFailed(f"{self.output} is {getattr(logits, 'shape', None)}, expected {self.logits.shape}")
        apart = float(np.abs(logits - self.logits).max())
        if not apart <= TOLERANCE * (1.0 + float(np.abs(self.logits).max())):
            raise CanaryFailed(f"it answers otherwise than its weights: {self.output} is {apart:.3g} apart")


def prove(name: str, weights: Mapping[str, Tensor]) -> Proof:
    """What the weights answer to a sample that is drawn once and for all.

    Raises `CannotPublish` if they do not fit the architecture, or answer with anything but finite numbers.
    """
    import torch

    try:
        known = architecture(name)
        with torch.random.fork_rng(devices=[]):
            module = known.build()
        module.load_state_dict(dict(weights), strict=True)
    except (UnknownArchitecture, RuntimeError) as error:
        raise CannotPublish(name, str(error)) from error
    rng = np.random.default_rng(SEED)
    inputs: dict[str, Array] = {
        # 0 and 1 are in range whether they are tokens or a mask
        spec.name: rng.random((1, *spec.dims), np.float32)
        if spec.dtype == "FP32"
        else rng.integers(0, 2, (1, *spec.dims))
        for spec in known.inputs
    }
    with torch.inference_mode():
        logits = module.eval()(*(torch.from_numpy(array) for array in inputs.values())).numpy()
    if not np.isfinite(logits).all():
        raise CannotPublish(name, "the trained weights answer with NaN or infinity")
    return Proof(inputs, known.outputs[0].name, logits)


def _as_input(name: str, array: Array) -> Any:
    given = triton.InferInput(name, list(array.shape), "FP32" if array.dtype == np.float32 else "INT64")
    given.set_data_from_numpy(array)
    return given
