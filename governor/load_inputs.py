# SPDX-License-Identifier: Apache-2.0
"""Inputs for the load generator: random ones after the model's configuration, or real ones from an .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.utils import triton_to_np_dtype

Requests = list[list[Any]]
"""Requests to send in turn, each a list of `InferInput`."""

_RANDOM_REQUESTS = 8


class InputsUnfit(ValueError):
    """The inputs do not fit what the model takes; `tensor` names the input."""

    def __init__(self, tensor: str, message: str) -> None:
        self.tensor = tensor
        super().__init__(f"input {tensor}: {message}")


def random_requests(config: Any, seed: int) -> Requests:
    """Eight requests of one sample each for the model that `config` (a `ModelConfig` message) describes.

    Floats lie between 0 and 1; integers are 0 or 1, which is in range whether they are tokens, masks or classes.
    """
    rng = np.random.default_rng(seed)
    arrays = {tensor.name: _draw(rng, tensor) for tensor in config.input}
    return _cut(config, arrays)


def requests_from(path: Path, config: Any) -> Requests:
    """One request per sample of an .npz file that holds, under each input's name, an array of n samples.

    Raises `InputsUnfit` if an input is missing or of a wrong shape, and `OSError` if the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        raise InputsUnfit(str(path), f"not an .npz file of plain arrays: {error}") from error
    for tensor in config.input:
        if tensor.name not in arrays:
            raise InputsUnfit(tensor.name, f"not in {path}, which holds {', '.join(sorted(arrays)) or 'nothing'}")
        shape = arrays[tensor.name].shape
        if not _fits(shape[1:], tuple(tensor.dims)):
            raise InputsUnfit(tensor.name, f"{path} holds {shape}; n samples of {tuple(tensor.dims)} are wanted")
    counts = {tensor.name: len(arrays[tensor.name]) for tensor in config.input}
    if min(counts.values()) != max(counts.values()) or not min(counts.values()):
        raise InputsUnfit(", ".join(counts), f"{path} holds {counts} samples; it takes as many of each, at least one")
    return _cut(config, arrays)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def _draw(rng: np.random.Generator, tensor: Any) -> npt.NDArray[Any]:
    if any(size < 0 for size in tensor.dims):
        raise InputsUnfit(tensor.name, f"its size {tuple(tensor.dims)} is open; give real inputs from a file")
    shape = (_RANDOM_REQUESTS, *tensor.dims)
    dtype = _dtype(tensor)
    if dtype.kind == "O":
        return np.full(shape, b"x", dtype=object)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _dtype(tensor: Any) -> np.dtype[Any]:
    return np.dtype(triton_to_np_dtype(_datatype(tensor)))


def _datatype(tensor: Any) -> str:
    name: str = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")


def _cut(config: Any, arrays: dict[str, npt.NDArray[Any]]) -> Requests:
    """One request per sample; a model that batches gets its leading axis."""
    samples = len(arrays[config.input[0].name])
    return [[_tensor(config, tensor, arrays[tensor.name], at) for tensor in config.input] for at in range(samples)]


def _tensor(config: Any, tensor: Any, array: npt.NDArray[Any], at: int) -> Any:
    data = array[at : at + 1] if config.max_batch_size > 0 else array[at]
    data = np.ascontiguousarray(data, dtype=_dtype(tensor))
    filled = triton.InferInput(tensor.name, data.shape, _datatype(tensor))
    filled.set_data_from_numpy(data)
    return filled
