# SPDX-License-Identifier: Apache-2.0
"""A model repository for the tests: governed models in every shape, and one plain Python model to delegate to."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"

HELD: Final = -1.0
"""What a request asks of `sleeper` to occupy it until the test lets go, whatever the host does meanwhile."""

SLEEPER = '''
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sleeps for the longest X[:, 0] of its batch, in milliseconds; refuses 13 and answers rubbish for 14.

    With -1 in it a batch waits as long as the run directory has a file `hold`, a minute at most, and says so by `held`.
    """

    def initialize(self, args):
        run_dir = Path(os.environ["TEG_RUN_DIR"])
        self.hold, self.held = run_dir / "hold", run_dir / "held"

    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()) for request in requests]

    def answer(self, x):
        if (x[:, 0] == 13).any():
            error = pb_utils.TritonError("unlucky", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        if (x[:, 0] == -1).any():
            self.wait()
        time.sleep(max(0.0, float(x[:, 0].max())) / 1e3)
        batch = np.full((len(x), 1), len(x), np.int32)
        wrong = 1 if (x[:, 0] == 14).any() else 0
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", x), pb_utils.Tensor("BATCH", batch + wrong)])

    def wait(self):
        end_s = time.monotonic() + 60
        self.held.touch()
        while self.hold.exists() and time.monotonic() < end_s:
            time.sleep(0.005)
        self.held.unlink()
'''


class Hold:
    """Whether a request for `HELD` stays in the `sleeper` of one server."""

    def __init__(self, run_dir: Path) -> None:
        self._wanted, self._reached = run_dir / "hold", run_dir / "held"

    def begin(self) -> None:
        """The next one stays."""
        self._wanted.touch()

    def reached(self) -> bool:
        """Whether one is there now."""
        return self._reached.exists()

    def end(self) -> None:
        """Let it go."""
        self._wanted.unlink(missing_ok=True)


X_TO_Y = """
    input [ { name: "X", data_type: TYPE_FP32, dims: [-1] } ]
    output [ { name: "Y", data_type: TYPE_FP32, dims: [-1] }, { name: "BATCH", data_type: TYPE_INT32, dims: [1] } ]
"""

WARM = (
    'model_warmup [ { name: "zeros", batch_size: 3, inputs { key: "IN" value '
    "{ data_type: TYPE_FP32 dims: 4 zero_data: true } } } ]\n"
)


def parameters(**values: str) -> str:
    entries = ", ".join(f'{{ key: "{key}", value: {{ string_value: "{value}" }} }}' for key, value in values.items())
    return f"parameters [ {entries} ]\n"


def add(repository: Path, name: str, config: str, version_files: dict[str, str] | None = None) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(textwrap.dedent(config))
    for file, content in (version_files or {}).items():
        (version / file).write_text(content)


def delegated(repository: Path, name: str, batching: str = "", max_batch_size: int = 8, **extra: str) -> None:
    """A governed model that passes on to `sleeper`."""
    head = f'backend: "governed"\nmax_batch_size: {max_batch_size}\ninstance_group [ {{ kind: KIND_CPU }} ]\n'
    block = f"dynamic_batching {{ {batching} }}\n"
    add(repository, name, head + block + X_TO_Y + parameters(engine="delegate", delegate_to="sleeper", **extra))


def identity(repository: Path, name: str, tensors: str, max_batch_size: int = 8, more: str = "", **extra: str) -> None:
    head = f'backend: "governed"\nmax_batch_size: {max_batch_size}\ninstance_group [ {{ kind: KIND_CPU }} ]\n'
    add(repository, name, head + tensors + more + parameters(engine="identity", **extra))


def build(repository: Path) -> list[str]:
    """Fill `repository`; the models that are expected to serve."""
    sleeper = 'backend: "python"\nmax_batch_size: 32\ninstance_group [ { kind: KIND_CPU, count: 2 } ]\n' + X_TO_Y
    add(repository, "sleeper", sleeper, {"model.py": SLEEPER})
    delegated(repository, "passed_on")
    delegated(repository, "bounded", "default_queue_policy { max_queue_size: 4 }")
    delegated(
        repository,
        "levels",
        "priority_levels: 3 default_priority_level: 2",
        max_batch_size=1,
    )
    patient = "default_queue_policy { default_timeout_microseconds: 60000000 allow_timeout_override: true }"
    hasty = "priority_queue_policy { key: 2 value { default_timeout_microseconds: 100000 } }"
    delegated(repository, "hasty", f"priority_levels: 2 default_priority_level: 1 {patient} {hasty}", max_batch_size=1)
    for kind, dtype in (("bytes", "TYPE_STRING"), ("open", "TYPE_FP32")):
        tensors = (
            f'input [ {{ name: "IN", data_type: {dtype}, dims: [-1] }} ]\n'
            f'output [ {{ name: "OUT", data_type: {dtype}, dims: [-1] }} ]\n'
        )
        identity(repository, f"echo_{kind}", tensors, more="dynamic_batching { }\n" + (WARM if kind == "open" else ""))
    fixed = (
        'input [ { name: "A", data_type: TYPE_FP32, dims: [4] }, { name: "B", data_type: TYPE_INT64, dims: [2] } ]\n'
        'output [ { name: "A2", data_type: TYPE_FP32, dims: [4] }, { name: "B2", data_type: TYPE_INT64, dims: [2] } ]\n'
    )
    identity(repository, "pair", fixed, more="dynamic_batching { }\n")
    identity(repository, "unbatched", fixed, max_batch_size=0)
    identity(repository, "wrong", fixed, threads="many")
    for model in ("digits_cnn", "digits_cnn_onnx", "bert_mini"):
        (repository / model).symlink_to(REPOSITORY / model)
    return sorted(path.name for path in repository.iterdir() if path.name != "wrong")
