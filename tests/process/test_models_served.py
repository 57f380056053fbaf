# SPDX-License-Identifier: Apache-2.0
"""The example models, as built, behind a real Triton, under the load generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from safetensors.torch import load_file

from governor import digits
from governor.load import LoadPlan, draw_arrivals, read_answers, run_load
from governor.models import packaged_repository
from governor.server import TritonServer
from model_repository.architectures import architecture
from telemetry.instance_page import Counter, InstancePage

SERVED = ["digits_cnn", "digits_cnn_onnx", "efficientnet_b0", "resnet18", "bert_mini"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("examples")
    with TritonServer(
        packaged_repository(), models=SERVED, run_dir=folder / "run", log_path=folder / "log", ready_s=240.0
    ) as server:
        yield server


def infer(server: TritonServer, model: str, *arrays: np.ndarray, **wanted: int) -> np.ndarray:
    inputs = []
    for spec, array in zip(architecture(model.removesuffix("_onnx")).inputs, arrays, strict=True):
        inputs.append(triton.InferInput(spec.name, array.shape, spec.dtype))
        inputs[-1].set_data_from_numpy(array)
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(model, inputs, outputs=[triton.InferRequestedOutput("LOGITS", **wanted)])
        return answer.as_numpy("LOGITS")


@pytest.mark.parametrize("model", ["digits_cnn", "digits_cnn_onnx"])
def test_served_digits_are_recognised(served: TritonServer, model: str) -> None:
    """Through the server, too, at least 97 of 100 unseen digits are named rightly, by their labels."""
    data = digits.load()
    images, truth = data.test_images.numpy(), data.test_labels.numpy()
    right = 0
    for first in range(0, len(images), 60):
        labels = infer(served, model, images[first : first + 60], class_count=1).ravel()
        named = [int(label.decode().split(":")[2]) for label in labels]
        right += int((np.array(named) == truth[first : first + 60]).sum())
    assert right / len(images) >= digits.REQUIRED_ACCURACY


@pytest.mark.parametrize("model", ["efficientnet_b0", "resnet18", "bert_mini"])
def test_served_answers_are_those_of_plain_torch(served: TritonServer, model: str) -> None:
    """Served by the backend, transformers inside it, a model gives the logits of the same weights in plain PyTorch."""
    known = architecture(model)
    module = known.build()
    module.load_state_dict(load_file(packaged_repository() / model / "1" / "model.safetensors"))
    torch.manual_seed(1)
    inputs = [
        torch.randn(2, *spec.dims) if spec.dtype == "FP32" else torch.randint(0, 2, (2, *spec.dims))
        for spec in known.inputs
    ]
    with torch.inference_mode():
        expected = module.eval()(*inputs).numpy()
    logits = infer(served, model, *(tensor.numpy() for tensor in inputs))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_load_measures_what_the_server_saw(
    served: TritonServer, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """Each request of the generator is a sample on the instance page, and its latency there is part of that here."""
    data = digits.load()
    np.savez(tmp_path / "digits.npz", IMAGE=data.test_images.numpy())
    page = InstancePage.open(served.run_dir.instance_page("digits_cnn_0_0"))
    _, cursor, _ = page.samples_since(0)
    plan = LoadPlan(
        served.grpc_url,
        "digits_cnn",
        draw_arrivals(60.0, 1, requests=120),
        input_file=tmp_path / "digits.npz",
        warmup=0,
        slo_s=10.0,
        record=tmp_path / "answers.csv",
    )
    report = run_load(plan)
    # the last sample may be written a moment after its reply
    eventually(lambda: page.counter(Counter.SAMPLES) >= cursor + 120)
    samples, _, lost = page.samples_since(cursor)
    page.close()
    answers = read_answers(tmp_path / "answers.csv")
    assert (report.failed, report.slo_met, lost) == (0, True, 0)
    assert len(samples) == len(answers) == 120
    begin_ns, end_ns = min(a.sent_ns for a in answers), max(a.done_ns for a in answers)
    assert all(begin_ns <= s.arrival_ns <= s.end_ns <= end_ns for s in samples), "both use the monotonic clock"
    assert sum(s.latency_s for s in samples) <= sum(a.latency_s for a in answers)
