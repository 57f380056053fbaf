# SPDX-License-Identifier: Apache-2.0
"""Only a regular, unlinked, pinned-as-stated file inside the version folder is ever opened."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest

import triton_backend
from triton_backend.errors import ModelFileRefused
from triton_backend.trust import read_model_file

CONTENT = b"weights"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "model" / "1"
    (folder / "sub").mkdir(parents=True)
    for name in ("model.safetensors", "model.pt2", "model.onnx", "model.pt", "sub/model.onnx"):
        (folder / name).write_bytes(CONTENT)
    (tmp_path / "model" / "outside.safetensors").write_bytes(CONTENT)
    return folder


def pin(version: Path, content: object) -> None:
    (version / "digest.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_trusted(version: Path) -> None:
    """Safetensors and ONNX need no pin; with one it must match; a folder inside is fine."""
    assert read_model_file(version, "model.safetensors") == CONTENT
    assert read_model_file(version, "sub/model.onnx") == CONTENT
    assert read_model_file(version, "model.pt2", SHA) == CONTENT
    pin(version, {"files": {"model.pt2": SHA, "model.safetensors": "0" * 64}})
    assert read_model_file(version, "model.pt2") == CONTENT
    assert read_model_file(version, "model.safetensors", SHA) == CONTENT, "config.pbtxt outranks digest.json"


def test_the_version_folder_may_be_reached_through_a_link(version: Path, tmp_path: Path) -> None:
    """A repository of links is how some models of it are served; inside the folder links stay forbidden."""
    (tmp_path / "served").symlink_to(version.parent)
    assert read_model_file(tmp_path / "served" / "1", "model.onnx") == CONTENT


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt", "only .safetensors"),
        ("model.pkl", "only .safetensors"),
        ("model", "only .safetensors"),
        ("model.pt2", "pin its SHA-256"),
        ("absent.onnx", "No such file"),
        ("../outside.safetensors", "inside the version folder"),
        ("sub/../../outside.safetensors", "inside the version folder"),
        ("/etc/passwd.onnx", "inside the version folder"),
        ("sub", "only .safetensors"),
    ],
)
def test_refused(version: Path, name: str, words: str) -> None:
    """Formats that run code when loaded, unpinned archives, and paths that leave the folder are refused unopened."""
    with pytest.raises(ModelFileRefused, match=words):
        read_model_file(version, name)


def test_links_and_devices(version: Path) -> None:
    """No symbolic link at any step inside the folder, no FIFO (and no waiting for one), no folder posing as a file."""
    (version / "link.onnx").symlink_to(version / "model.onnx")
    (version / "jump").symlink_to(version / "sub")
    os.mkfifo(version / "pipe.onnx")
    (version / "folder.onnx").mkdir()
    for name in ("link.onnx", "jump/model.onnx", "pipe.onnx", "folder.onnx"):
        with pytest.raises(ModelFileRefused):
            read_model_file(version, name)


@pytest.mark.parametrize(
    "digests",
    [
        {"files": {"model.onnx": "0" * 64}},
        {"files": {}},
        {"files": {"model.onnx": 7}},
        {"files": []},
        {},
        [],
        "{",
        "null",
    ],
)
def test_wrong_pins(version: Path, digests: object) -> None:
    """A digest file that does not pin this content refuses it: wrong, missing, or no digest file at all."""
    pin(version, digests)
    with pytest.raises(ModelFileRefused):
        read_model_file(version, "model.onnx")


def test_a_linked_digest_file_counts_as_none_to_trust(version: Path, tmp_path: Path) -> None:
    """`digest.json` itself must be a plain file: a link in its place refuses the model instead of unpinning it."""
    (version / "digest.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFileRefused):
        read_model_file(version, "model.onnx")


def test_a_pickle_is_not_run(version: Path, tmp_path: Path) -> None:
    """A pickle under any accepted name is refused or fails as data; its code never runs."""
    canary = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (canary,)

    import safetensors.torch

    (version / "evil.safetensors").write_bytes(pickle.dumps(Payload()))
    content = read_model_file(version, "evil.safetensors")
    with pytest.raises(Exception, match=r"(?i)header|deserializ"):
        safetensors.torch.load(content)
    assert not canary.exists()


def test_no_unsafe_loader_in_the_backend() -> None:
    """The backend's source calls no loader that can run code: no torch.load, pickle, eval, exec."""
    for path in Path(triton_backend.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names), path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "eval", "exec", "torch.jit.load"}, path
