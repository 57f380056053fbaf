# SPDX-License-Identifier: Apache-2.0
"""Errors of this package.

GovernorError
  ConfigInvalid       a setting is unknown or out of range
  ClockdUnavailable   nobody answers on clockd's socket
  LeaseRefused        clockd said no, with its reason
  LeaseLost           the lease ended before it was released
  AlreadyGoverned     another governor has this run directory
  NothingToGovern     no live model instance, or none with an objective
  ServerBusy          another server uses the run directory, or another program a port
  ServerFailed        the server ended, or did not become ready
    ModelsFailed      it runs, but some models do not answer
  CannotPublish       the model, or the server, takes no trained weights
  SurfaceInvalid      a surface that somebody wrote down is not one of ours
  SearchError
    Infeasible        no point meets the objective
    UnknownPoint      a point that is not on the grid was told
"""

from __future__ import annotations

from pathlib import Path


class GovernorError(Exception):
    """Base of this package's errors."""


class ConfigInvalid(GovernorError):
    """A setting is unknown or out of range; `key` names it."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(f"{key}: {message}")


class ClockdUnavailable(GovernorError):
    """Nobody answers on clockd's socket."""

    def __init__(self, socket: Path, message: str) -> None:
        self.socket = socket
        super().__init__(f"{socket}: {message}")


class LeaseRefused(GovernorError):
    """Clockd said no; `reason` is one of the protocol's error kinds.

    With reason `board` a knob could not be set: `cause` is `denied`, `busy`, `missing` or `refused`, `knob` says which
    of a clock point's. Clockd has put every clock back by then.
    """

    def __init__(self, reason: str, message: str, cause: str = "", knob: str = "") -> None:
        self.reason = reason
        self.cause = cause
        self.knob = knob
        super().__init__(f"{reason}: {message}")


class LeaseLost(GovernorError):
    """The lease ended (expired, taken back, or clockd restarted) before it was released."""


class AlreadyGoverned(GovernorError):
    """Another governor has this run directory; `pid` is its process, None if it has not said so yet."""

    def __init__(self, run_dir: Path, pid: int | None) -> None:
        self.run_dir = run_dir
        self.pid = pid
        super().__init__(f"another governor{f' (process {pid})' if pid else ''} holds the clocks of {run_dir}")


class NothingToGovern(GovernorError):
    """No live model instance, or none that states an objective."""


class ServerBusy(GovernorError):
    """Another server uses this run directory, or another program one of the ports."""


class ServerFailed(GovernorError):
    """The server ended or did not become ready; `log_path` has its words where they were kept."""

    def __init__(self, message: str, log_path: Path | None) -> None:
        self.log_path = log_path
        super().__init__(message + (f"; see {log_path}" if log_path else ""))


class ModelsFailed(ServerFailed):
    """The server runs, but some models do not answer; `reasons` says why, by model."""

    def __init__(self, reasons: dict[str, str], log_path: Path | None) -> None:
        self.reasons = reasons
        super().__init__("; ".join(f"model '{model}': {reason}" for model, reason in reasons.items()), log_path)


class CannotPublish(GovernorError):
    """Trained weights cannot be published to `model`; nothing was changed. `waiting`: whether to wait may help."""

    def __init__(self, model: str, reason: str, *, waiting: bool = False) -> None:
        self.model = model
        self.reason = reason
        self.waiting = waiting
        super().__init__(f"model '{model}': {reason}")


class SurfaceInvalid(GovernorError):
    """A surface that somebody wrote down is not one of ours; the message says why."""


class SearchError(GovernorError):
    """Base of the search's errors."""


class Infeasible(SearchError):
    """No point meets the objective; `best_latency_s` is the lowest latency quantile seen, in seconds."""

    def __init__(self, best_latency_s: float, slo_s: float) -> None:
        self.best_latency_s = best_latency_s
        self.slo_s = slo_s
        super().__init__(
            f"the objective of {slo_s:.4f} s is out of reach: the lowest latency seen is {best_latency_s:.4f} s"
        )


class UnknownPoint(SearchError):
    """A point that is not on the grid was told."""

    def __init__(self, point: dict[str, float]) -> None:
        self.point = point
        super().__init__(f"not a point of this search: {point}")
