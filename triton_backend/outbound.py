# SPDX-License-Identifier: Apache-2.0
"""The way back to Triton's clients: in the list that `execute` returns, or later through the response sender."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from telemetry.instance_page import Status

from .tensors import Tensors

_CODES = {
    Status.INVALID: "INVALID_ARG",
    Status.REJECTED: "UNAVAILABLE",
    Status.TIMED_OUT: "UNAVAILABLE",
    Status.CANCELLED: "CANCELLED",
    Status.FAILED: "INTERNAL",
}
"""Names of Triton's codes: the stub fills its module only after it has imported the model."""


class TritonReply:
    """One request's answer. Until `defer` it lands in `response`, which costs a third of what a sender does."""

    __slots__ = ("_request", "_sender", "response")

    def __init__(self, request: Any) -> None:
        self._request = request
        self._sender: Any = None
        self.response: Any = None

    def defer(self) -> None:
        """From now on the answer goes through the response sender."""
        self._sender = self._request.get_response_sender()

    def cancelled(self) -> bool:
        """Whether the client has cancelled; a round trip to the server."""
        source = self._sender or self._request
        return bool(source.is_cancelled())

    def answer(self, outputs: Tensors) -> None:
        """Send the outputs."""
        self._send(pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()]))

    def refuse(self, status: Status, message: str) -> None:
        """Send an error."""
        code = getattr(pb_utils.TritonError, _CODES[status])
        self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)))

    def _send(self, response: Any) -> None:
        if self._sender is None:
            self.response = response
            return
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        # the request holds its inputs in shared memory
        self._request = None
