# SPDX-License-Identifier: Apache-2.0
"""The class that Triton's Python stub looks for; it only passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from .complete import complete
from .instance import Instance, open_instance


class TritonPythonModel:
    """One governed model instance."""

    _instance: Instance

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """The configuration with the inputs and outputs that the model itself can tell."""
        return complete(config, Path(pb_utils.get_model_dir()))

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; an exception refuses the load with its message."""
        self._instance = open_instance(args, pb_utils)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Serve or queue requests; those queued are answered through their response senders."""
        return self._instance.serve(requests)

    def finalize(self) -> None:
        """Answer what is left and stop."""
        self._instance.close()

    def is_ready(self) -> bool:
        """Whether the worker lives; asked only by newer servers."""
        return self._instance.alive
