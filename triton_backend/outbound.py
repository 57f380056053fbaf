# SPDX-License-Identifier: Apache-2.0
"""The way back to Triton's clients: in the list that `execute` returns, or later through the response sender."""

from __future__ import annotations

from typing import Any

from telemetry.instance_page import Status

from .tensors import Tensors

_CODES = {
    Status.INVALID: "INVALID_ARG",
    Status.REJECTED: "UNAVAILABLE",
    Status.TIMED_OUT: "UNAVAILABLE",
    Status.CANCELLED: "CANCELLED",
    Status.FAILED: "INTERNAL",
}


class TritonReply:
    """One request's answer. Until `defer` it lands in `response`, which costs a third of what a sender does."""

    __slots__ = ("_request", "_sender", "_triton", "response")

    def __init__(self, request: Any, triton: Any) -> None:
        self._request = request
        self._triton = triton
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
        triton = self._triton
        self._send(triton.InferenceResponse([triton.Tensor(name, array) for name, array in outputs.items()]))

    def refuse(self, status: Status, message: str) -> None:
        """Send an error."""
        triton = self._triton
        error = triton.TritonError(message, getattr(triton.TritonError, _CODES[status]))
        self._send(triton.InferenceResponse(error=error))

    def _send(self, response: Any) -> None:
        if self._sender is None:
            self.response = response
            return
        self._sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        # the request holds its inputs in shared memory
        self._request = None
