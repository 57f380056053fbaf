# SPDX-License-Identifier: Apache-2.0
"""The least that serves the same models: what the governed backend is measured against."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Joins the requests of a batch, runs the model, splits the answer."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.output = config["output"][0]["name"]
        name = config["parameters"]["architecture"]["string_value"]
        self.run = lambda array: array
        if name != "identity":
            import safetensors.torch
            import torch

            from model_repository.architectures import architecture

            torch.set_num_threads(1)
            module = architecture(name).build().eval()
            file = Path(args["model_repository"]) / args["model_version"] / "model.safetensors"
            module.load_state_dict(safetensors.torch.load_file(file))
            self.run = torch.inference_mode()(lambda *given: module(*map(torch.from_numpy, given)).numpy())

    def execute(self, requests):
        given = [[pb_utils.get_input_tensor_by_name(r, name).as_numpy() for name in self.inputs] for r in requests]
        joined = [np.concatenate(arrays) for arrays in zip(*given, strict=True)] if len(requests) > 1 else given[0]
        ends = np.cumsum([len(arrays[0]) for arrays in given])[:-1]
        answers = np.split(self.run(*joined), ends) if len(requests) > 1 else [self.run(*joined)]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(self.output, answer)]) for answer in answers]
