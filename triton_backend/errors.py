# SPDX-License-Identifier: Apache-2.0
"""Errors of this package.

BackendError
  BadParameter      config.pbtxt says something the backend cannot obey; the load is refused
  ModelFileRefused  the model file may not be opened
  EngineUnusable    the runtime or the model does not fit the configuration; the load is refused
  BadRequest        one request is malformed; it alone is answered with INVALID_ARG
  Unavailable       one request cannot be taken now; it alone is answered with UNAVAILABLE
  EngineFailed      the engine did not answer as the model promises
"""

from __future__ import annotations

from pathlib import Path


class BackendError(Exception):
    """Base of this package's errors."""


class BadParameter(BackendError):
    """One entry of config.pbtxt; `name` says which, `allowed` what it may be."""

    def __init__(self, name: str, given: object, allowed: str) -> None:
        self.name = name
        self.given = given
        self.allowed = allowed
        super().__init__(f"parameter '{name}': expected {allowed}, got {given!r}")


class ModelFileRefused(BackendError):
    """The model file may not be opened; `path` and `reason` say which and why."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"model file {path}: {reason}")


class EngineUnusable(BackendError):
    """The engine cannot serve this model as configured."""


class BadRequest(BackendError):
    """A request that the model cannot take, whoever else is in its batch."""


class Unavailable(BackendError):
    """A request that is sound, and may be taken later."""


class EngineFailed(BackendError):
    """The engine raised, or answered with tensors that the model does not declare."""
