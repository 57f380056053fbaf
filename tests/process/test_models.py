# SPDX-License-Identifier: Apache-2.0
"""`teg models` as a user runs it, and a publisher killed at any moment."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from governor import digits
from governor.publish import is_intact
from model_repository.architectures import architecture

DEADLINE_S = 240.0


def teg(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import argparse, sys; from governor.cli import models; p = argparse.ArgumentParser(prog='teg');"
    code += "models.add_parser(p.add_subparsers()); a = p.parse_args(); sys.exit(a.handler(a))"
    command = [sys.executable, "-W", "error", "-c", code, "models", *words]
    return subprocess.run(command, text=True, capture_output=True, timeout=DEADLINE_S, check=False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh repository with the trained, the exported, and one seeded model, built by one command."""
    folder = tmp_path_factory.mktemp("repository")
    built = teg("build", "digits_cnn", "digits_cnn_onnx", "efficientnet_b0", "--repository", str(folder))
    assert built.returncode == 0, built.stderr
    assert built.stdout.count("building") == 3
    return folder


def digits_module(repository: Path) -> torch.nn.Module:
    module = architecture("digits_cnn").build()
    module.load_state_dict(load_file(repository / "digits_cnn" / "1" / "model.safetensors"))
    return module.eval()


def test_digits_are_recognised(repository: Path) -> None:
    """The published weights recognise at least 97 of 100 unseen handwritten digits, as the file beside them says."""
    data = digits.load()
    with torch.inference_mode():
        accuracy = digits.measure_accuracy(digits_module(repository), data)
    stated = json.loads((repository / "digits_cnn" / "1" / "accuracy.json").read_text())
    assert accuracy >= 0.97
    assert stated["test_accuracy"] == round(accuracy, 4)
    assert stated["test_images"] == len(data.test_labels) > 300
    assert stated["training_images"] + stated["test_images"] == 1797


def test_onnx_answers_as_torch(repository: Path) -> None:
    """The exported network gives the same logits as the trained one, for any batch size."""
    session = onnxruntime.InferenceSession(
        repository / "digits_cnn_onnx" / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    module = digits_module(repository)
    for count in (1, 7, 64):
        images = digits.load().test_images[:count]
        (logits,) = session.run(["LOGITS"], {"IMAGE": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(logits, module(images).numpy(), atol=1e-4)


def test_a_seeded_convnet_has_ordinary_values(repository: Path) -> None:
    """Seeded weights give logits that are finite, differ between images, and are far from denormal numbers."""
    module = architecture("efficientnet_b0").build()
    module.load_state_dict(load_file(repository / "efficientnet_b0" / "1" / "model.safetensors"))
    with torch.inference_mode():
        logits = module.eval()(torch.randn(2, 3, 224, 224))
    assert logits.isfinite().all()
    assert 1e-3 < logits.std() < 1e3
    assert not torch.allclose(logits[0], logits[1], rtol=0.01)


def test_each_version_is_whole_and_configured(repository: Path) -> None:
    """A fresh repository gets configuration and labels; building again with --if-missing does nothing."""
    for name in ("digits_cnn", "digits_cnn_onnx", "efficientnet_b0"):
        assert is_intact(repository / name / "1")
        assert (repository / name / "config.pbtxt").is_file()
    assert (repository / "digits_cnn" / "labels.txt").is_file()
    before_ns = (repository / "digits_cnn" / "1").stat().st_ctime_ns
    again = teg("build", "digits_cnn", "--if-missing", "--repository", str(repository))
    assert (again.returncode, again.stdout) == (0, "digits_cnn: there\n")
    assert (repository / "digits_cnn" / "1").stat().st_ctime_ns == before_ns


def test_pin_prints_what_it_pinned(tmp_path: Path) -> None:
    """`teg models pin` writes the digest of a user's model and says it; an empty folder is refused with 1."""
    assert teg("pin", str(tmp_path)).returncode == 1
    (tmp_path / "model.pt2").write_bytes(b"program")
    pinned = teg("pin", str(tmp_path))
    assert pinned.returncode == 0
    assert is_intact(tmp_path)
    assert pinned.stdout.split() == [*json.loads((tmp_path / "digest.json").read_text())["files"].values(), "model.pt2"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("build", "digits_cmn"), "digits_cmn"),
        (("build", "digits_cnn", "--checkpoint", "bert_mini=x"), "bert_mini"),
        (("build", "--checkpoint", "bert_mini"), "NAME=DIR"),
    ],
)
def test_usage_names_what_is_wrong(words: tuple[str, ...], names: str) -> None:
    """A wrong name or option ends in usage (2), before anything is built."""
    refused = teg(*words)
    assert refused.returncode == 2
    assert names in refused.stderr


def test_killed_at_any_moment_a_version_is_whole(tmp_path: Path) -> None:
    """Whenever a publisher is killed, the version folder holds one whole version."""
    version = tmp_path / "mine" / "1"
    code = """
import itertools, sys
from pathlib import Path
from governor.publish import publish
for n in itertools.count():
    def fill(folder):
        for part in "abc":
            (folder / part).write_text(f"{n}" * 5000)
    publish(Path(sys.argv[1]), fill)
    print(n, flush=True)
"""
    rng = random.Random(5)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", code, str(version)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()  # the first version of this publisher is in place
        time.sleep(rng.random() * 0.02)  # not a wait: the kill is to fall anywhere into the next publications
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=DEADLINE_S)
        assert is_intact(version)
        assert len({(version / part).read_text() for part in "abc"}) == 1
