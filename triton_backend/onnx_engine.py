# SPDX-License-Identifier: Apache-2.0
"""The engine for ONNX graphs, run by onnxruntime: TensorRT first where it is present, then CUDA, then the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from .errors import BadRequest, EngineUnusable
from .parameters import BackendConfig
from .placement import Placement
from .signature import mismatch
from .tensors import DTYPES, Tensors, TensorSpec
from .trust import read_model_file

_PREFERRED = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_CPU = "CPUExecutionProvider"
_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
    **{f"tensor({kind}{bits})": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


class OnnxEngine:
    """One inference session."""

    def __init__(self, config: BackendConfig, session: Any) -> None:
        self._session = session
        self._outputs = [spec.name for spec in config.outputs]
        self.in_thread = session.get_providers() == [_CPU] and config.threads == 1

    def run(self, inputs: Tensors) -> Tensors:
        """One run of the graph."""
        try:
            answers = self._session.run(self._outputs, inputs)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise BadRequest(f"the graph does not take these inputs: {error}") from error
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._session


def open_onnx(config: BackendConfig, version_folder: Path, placement: Placement) -> OnnxEngine:
    """Open the graph with `threads` compute threads; raises `EngineUnusable`, `ModelFileRefused`."""
    available = onnxruntime.get_available_providers()
    wanted = [name for name in _PREFERRED if name in available] if placement.kind != "CPU" else []
    session = _open(read_model_file(version_folder, config.model_file, config.digest), [*wanted, _CPU], config.threads)
    inputs, outputs = _signature(session, batched=config.batched)
    wrong = mismatch(_sorted(config.inputs), _sorted(inputs))
    known = {spec.name: spec for spec in outputs}
    asked = [known[spec.name] for spec in config.outputs if spec.name in known]
    wrong = wrong or mismatch(config.outputs, asked)
    if wrong:
        raise EngineUnusable(f"{config.model_file}: {wrong}")
    return OnnxEngine(config, session)


def signature_of(config: BackendConfig, version_folder: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The graph's inputs and outputs, without the batch dimension if the model has one."""
    content = read_model_file(version_folder, config.model_file, config.digest)
    return _signature(_open(content, [_CPU], 1), batched=config.batched)


def _open(content: bytes, providers: list[str], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads would spin for the next run and take the cores from everybody else
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen types of its own for a graph that it cannot open
        raise EngineUnusable(f"onnxruntime cannot open the graph: {error}") from error


def _signature(session: Any, *, batched: bool) -> tuple[list[TensorSpec], list[TensorSpec]]:
    skip = 1 if batched else 0
    return (
        [_spec(tensor, skip) for tensor in session.get_inputs()],
        [_spec(tensor, skip) for tensor in session.get_outputs()],
    )


def _spec(tensor: Any, skip: int) -> TensorSpec:
    dtype = _TYPES.get(tensor.type, tensor.type)
    if dtype not in DTYPES:
        raise EngineUnusable(f"tensor '{tensor.name}' holds {tensor.type}, which Triton cannot carry")
    # a named dimension is open
    dims = tuple(size if isinstance(size, int) else -1 for size in tensor.shape[skip:])
    return TensorSpec(tensor.name, dtype, dims)


def _sorted(specs: Any) -> list[TensorSpec]:
    """By name: a graph is fed by name, so the order does not count."""
    return sorted(specs, key=lambda spec: str(spec.name))
