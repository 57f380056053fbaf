# SPDX-License-Identifier: Apache-2.0
"""Everything declared is there, in range, and lives together in one process; package metadata does not show clashes."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "accelerate": "accelerate",
    "botorch": "botorch",
    "cryptography": "cryptography.hazmat.primitives.ciphers.aead",
    "gpytorch": "gpytorch",
    "highspy": "highspy",
    "hypothesis": "hypothesis",
    "jetson-stats": "jtop",
    "matplotlib": "matplotlib.figure",
    "mypy": "mypy.api",
    "numba": "numba",
    "numpy": "numpy",
    "nvidia-ml-py": "pynvml",
    "nvidia-pytriton": "pytriton",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "optuna": "optuna",
    "ortools": "ortools.sat.python.cp_model",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pulp": "pulp",
    "pytest": "pytest",
    "pytest-randomly": "pytest_randomly",
    "pytest-timeout": "pytest_timeout",
    "pytest-xdist": "xdist",
    "rich": "rich.progress",
    "ruff": "ruff",
    "safetensors": "safetensors.torch",
    "scikit-learn": "sklearn.datasets",
    "scipy": "scipy.optimize",
    "torch": "torch",
    "transformers": "transformers",
    "tritonclient": "tritonclient.grpc.aio, tritonclient.http.aio",
    "xxhash": "xxhash",
}
"""Distribution -> what is imported of it."""

ALONE = {"jetson-stats"}
"""Under AGPL-3.0, so only ever imported in a process of its own."""

SOLVE = {
    "highspy": """
import highspy
highs = highspy.Highs()
highs.setOptionValue("output_flag", False)
x, y = highs.addIntegral(lb=0, ub=10), highs.addIntegral(lb=0, ub=10)
highs.addConstr(3 * x + 2 * y <= 17)
highs.maximize(2 * x + y)
assert highs.getInfo().objective_function_value == 11, highs.getInfo().objective_function_value
""",
    "ortools": """
from ortools.sat.python import cp_model
model = cp_model.CpModel()
x, y = model.new_int_var(0, 10, "x"), model.new_int_var(0, 10, "y")
model.add(3 * x + 2 * y <= 17)
model.maximize(2 * x + y)
solver = cp_model.CpSolver()
solver.parameters.num_workers = 1
assert solver.solve(model) == cp_model.OPTIMAL
assert solver.objective_value == 11
""",
}


def declared() -> dict[str, Requirement]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    blocks = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = (line.partition("#")[0].strip() for block in blocks for line in block.splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {requirement.name: requirement for requirement in requirements}


def run(code: str) -> None:
    # Some of these packages warn about one another's future on import; what counts here is that they work.
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert child.returncode == 0, child.stderr


def test_each_is_known_here() -> None:
    """A dependency added to setup.cfg is added to this test, and one removed leaves it."""
    assert set(declared()) == set(MODULES)


@pytest.mark.parametrize("name", sorted(declared()))
def test_each_is_installed_in_range(name: str) -> None:
    """The installed version is one that setup.cfg allows."""
    assert declared()[name].specifier.contains(metadata.version(name))


def test_all_share_one_process() -> None:
    """Imported together, they still compute: a Gaussian process, both solvers, an ONNX graph, a gRPC client."""
    imports = "\n".join(f"import {module}" for name, module in sorted(MODULES.items()) if name not in ALONE)
    run(f"{imports}\n{SOLVE['highspy']}\n{SOLVE['ortools']}\n{TOGETHER}")


TOGETHER = """
import numpy, onnx, onnxruntime, torch, tritonclient.grpc
from botorch.models import SingleTaskGP
from onnx import TensorProto, helper
x = torch.linspace(0, 1, 6, dtype=torch.float64).unsqueeze(-1)
assert SingleTaskGP(x, x.sin()).posterior(x).mean.isfinite().all()
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
graph = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "g", [value("a")], [value("b")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {"a": numpy.array([1, 2], numpy.float32)})[0].tolist() == [2, 4]
assert torch.from_numpy(numpy.arange(3)).sum() == 3
tritonclient.grpc.InferInput("a", [2], "FP32").set_data_from_numpy(numpy.zeros(2, numpy.float32))
"""


@pytest.mark.parametrize("order", [("highspy", "ortools"), ("ortools", "highspy")], ids="-then-".join)
def test_solvers_live_together_in_either_order(order: tuple[str, str]) -> None:
    """Two copies of one solver's library in a process must not clash, whichever is loaded first; each proves 11."""
    run("\n".join(SOLVE[name] for name in order))


def test_jtop_is_importable_alone() -> None:
    """The optional reader of Jetson statistics imports in its own process."""
    run("import jtop")
