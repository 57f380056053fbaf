# SPDX-License-Identifier: Apache-2.0
"""What a model declares about one tensor, and how Triton's type names map to numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "TYPE_BOOL": np.dtype(np.bool_),
    "TYPE_UINT8": np.dtype(np.uint8),
    "TYPE_UINT16": np.dtype(np.uint16),
    "TYPE_UINT32": np.dtype(np.uint32),
    "TYPE_UINT64": np.dtype(np.uint64),
    "TYPE_INT8": np.dtype(np.int8),
    "TYPE_INT16": np.dtype(np.int16),
    "TYPE_INT32": np.dtype(np.int32),
    "TYPE_INT64": np.dtype(np.int64),
    "TYPE_FP16": np.dtype(np.float16),
    "TYPE_FP32": np.dtype(np.float32),
    "TYPE_FP64": np.dtype(np.float64),
    "TYPE_STRING": np.dtype(np.object_),
}
"""Triton's data types; BF16 is missing because numpy has none."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output; `dims` leave the batch dimension out where the model has one, -1 stands for any size."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy type of its elements; text is held as objects."""
        return DTYPES[self.dtype]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape`, without its batch dimension, is one of those declared."""
        if shape == self.dims:
            return True
        sizes = zip(self.dims, shape, strict=False)
        return len(shape) == len(self.dims) and all(dim in (-1, size) for dim, size in sizes)
