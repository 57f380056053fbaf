# SPDX-License-Identifier: Apache-2.0
"""The import arrows between packages, read from the syntax trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"boards", "finetune", "governor", "model_repository", "predictor", "telemetry", "triton_backend"}
STDLIB = set(sys.stdlib_module_names)
TYPES_ONLY = {"typing_extensions"}

ARROWS: dict[str, set[str]] = {
    "governor": {"predictor", "finetune", "boards", "telemetry", "model_repository.architectures"},
    "governor.clockd": {"boards", "telemetry"},
    "triton_backend": {"telemetry", "model_repository.architectures"},
    "finetune": {"telemetry", "model_repository.architectures"},
    "predictor": {"boards"},
    "boards": set(),
    "telemetry": set(),
    "model_repository": set(),
}
"""Package -> what of ours it may import, besides itself."""

STANDARD_LIBRARY_ONLY = {"boards", "telemetry", "governor.clockd"}
EXCEPTIONS = {"boards/nvml.py": {"pynvml"}}
RUNTIMES = {
    "torch": {"triton_backend/torch_engine.py", "triton_backend/pt2_engine.py"},
    "onnxruntime": {"triton_backend/onnx_engine.py"},
}
"""Inside `triton_backend/` each runtime is imported by its own engine alone."""


def modules() -> list[Path]:
    return sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def package_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).parts[:-1])
    return "governor.clockd" if name.startswith("governor.clockd") else name.split(".")[0]


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, at any depth, with relative imports made absolute."""
    here = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*here[: len(here) - node.level + 1], *filter(None, [node.module]))) if node.level else ""
            base = base or node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    """A package imports only those of ours that its arrow names."""
    package = package_of(path)
    allowed = ARROWS[package] | {package}
    if package == "governor" and "cli" in path.parts:
        allowed |= OURS
    wrong = {
        name
        for name in imports_of(path)
        if name.split(".")[0] in OURS and not any(within(name, arrow) for arrow in allowed)
    }
    assert not wrong, f"{path.relative_to(ROOT)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", [p for p in modules() if package_of(p) in STANDARD_LIBRARY_ONLY], ids=str)
def test_leaves_need_only_the_standard_library(path: Path) -> None:
    """The privileged daemon and the two leaves run on a bare Python."""
    extra = EXCEPTIONS.get(str(path.relative_to(ROOT)), set()) | TYPES_ONLY
    foreign = {top for name in imports_of(path) if (top := name.split(".")[0]) not in OURS | STDLIB | extra}
    assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_runtimes_stay_in_their_engines(runtime: str) -> None:
    """Inside Triton only the engine that needs a runtime imports it."""
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "triton_backend").rglob("*.py")
        if any(within(name, runtime) for name in imports_of(path))
    }
    assert users <= RUNTIMES[runtime]
