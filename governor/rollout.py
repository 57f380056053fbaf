# SPDX-License-Identifier: Apache-2.0
"""Trained weights become the next version of a served model: written, loaded, proved, watched, and kept or taken back.

```
publish_trained:  N+1 written beside N, on trial  ->  load  ->  proof  ->  watched for watch_s  ->  RolledOut(N+1)
                                                       |          |            |
                                                       +----------+------------+->  moved away, N loaded  ->  RolledBack
```
Triton goes on with N until N+1 is ready and lets N finish what it has begun, so that no request fails on either way
(model control `explicit`, its repository interface behind the API key). Killed anywhere, `publish_trained` takes up the
same version when it is called for the same job again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from .canary import CanaryFailed
from .comparison import ENOUGH, Answered, worse
from .errors import CannotPublish
from .guard import Slo
from .page_samples import samples_of
from .proof import Proof, prove
from .serving import grpc_headers, read_key, read_served, watching
from .versions import RolledBack, RolledOut, Trial, Versions

if TYPE_CHECKING:
    from torch import Tensor

LOAD_S = 300.0
"""How long a load may take; a busy host needs half a minute for a small network."""
ASK_S = 10.0
LOOK_EVERY_S, PROVE_EVERY_S, WINDOW_S = 0.25, 2.0, 5.0
log = logging.getLogger("teg.rollout")


@dataclass(frozen=True, slots=True)
class Target:
    """A served model that can take trained weights, and the version that it serves now."""

    model: str
    architecture: str
    folder: Path
    """The model's folder in the repository."""
    file: str
    """The weights' name in each version folder."""
    version: int
    slo: Slo | None

    @property
    def weights(self) -> Path:
        """The serving version's weights."""
        return self.folder / str(self.version) / self.file


class _Taken(Exception):
    """The version cannot stay; the message says why."""


def find_target(run_dir: Path, model: str) -> Target:
    """The model as the run directory's server serves it; raises `CannotPublish` if it takes no trained weights."""
    return _Server(run_dir, model).target()


def publish_trained(
    run_dir: Path,
    model: str,
    weights: Mapping[str, Tensor],
    *,
    job: str,
    about: Mapping[str, Any] | None = None,
    watch_s: float = 20.0,
    keep: int = 2,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> RolledOut | RolledBack:
    """Serve a job's weights as the model's next version, if they serve no worse than those before them.

    `about` is written into the version's `published.json`; `keep` versions before it stay, and all that no job wrote.
    Raises `CannotPublish` before anything has changed.
    """
    server = _Server(run_dir, model)
    target = server.target()
    versions = Versions(target.folder)
    if (done := versions.outcome_of(job)) is not None:
        return done
    trial = versions.trial
    if trial is not None and trial.job != job:
        log.warning("%s: version %s was never watched to its end", model, trial.version)
        server.take_back(versions, trial, "whoever published it did not watch it")
        trial, target = None, server.target()
    base = trial.base if trial else target.version
    proof = prove(target.architecture, weights)
    before = samples_of(run_dir, model, base, watch_s)
    if trial is None:
        trial = Trial(versions.fresh, base, job)
        _write(versions, trial, about or {}, weights, target)
    with watching(run_dir, model, trial.version, base):
        try:
            server.load(trial.version)
            requests = _watch(server, target, trial, proof, before, watch_s, clock, sleep)
        except _Taken as error:
            return server.take_back(versions, trial, str(error))
    versions.accept()
    _sweep(versions, keep)
    log.info("%s: version %s is rolled out", model, trial.version)
    return RolledOut(trial.version, requests)


def _watch(
    server: _Server,
    target: Target,
    trial: Trial,
    proof: Proof,
    before: Answered,
    watch_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    """Look at the version's requests until `watch_s` is over; how many there were. Raises `_Taken`.

    A stall of the host breaks one window, a version that serves worse breaks the next one as well.
    """
    began_s = proved_s = window_s = clock()
    broken = ""
    server.check(proof, trial.version)
    while (left_s := began_s + watch_s - clock()) > 0:
        sleep(min(LOOK_EVERY_S, left_s))
        if clock() - window_s >= min(WINDOW_S, watch_s / 4):
            last = samples_of(server.run_dir, target.model, trial.version, clock() - window_s)
            window_s, before_it, broken = clock(), broken, worse(before, last, target.slo, final=False)
            if broken and before_it:
                raise _Taken(broken)
        if clock() - proved_s >= PROVE_EVERY_S:
            proved_s = clock()
            server.check(proof, trial.version)
    server.check(proof, trial.version)
    after = samples_of(server.run_dir, target.model, trial.version, clock() - began_s)
    half = samples_of(server.run_dir, target.model, trial.version, (clock() - began_s) / 2)
    if (why := worse(before, after, target.slo)) and (half.total < ENOUGH or worse(before, half, target.slo)):
        raise _Taken(why)
    return after.total


class _Server:
    """The model of a running server; a connection per question, for a watch may outlive the server."""

    def __init__(self, run_dir: Path, model: str) -> None:
        self.run_dir = run_dir
        self._model = model

    def target(self) -> Target:
        """Raises `CannotPublish`."""
        served = read_served(self.run_dir)
        if served is None:
            raise CannotPublish(self._model, f"no server runs in {self.run_dir}", waiting=True)
        if not served.publish:
            raise CannotPublish(self._model, "the server loads no versions: start it with `teg serve --publish`")
        if self._model not in (*served.models, *served.down):
            raise CannotPublish(self._model, f"not served; served are {', '.join((*served.models, *served.down))}")
        try:
            with triton.InferenceServerClient(served.grpc_url) as client:
                config = client.get_model_config(self._model, client_timeout=ASK_S).config
                ready = client.get_model_metadata(self._model, client_timeout=ASK_S).versions
        except InferenceServerException as error:
            raise CannotPublish(self._model, f"it does not answer: {error.message()}", waiting=True) from error
        return _target(self._model, config, Path(served.repository), max(int(version) for version in ready))

    def load(self, version: int) -> None:
        """Have the newest version served; raises `_Taken` if that is not this one."""
        try:
            with self._client() as client:
                headers = grpc_headers(read_key(self.run_dir))
                client.load_model(self._model, headers=headers, client_timeout=LOAD_S)
                if not client.is_model_ready(self._model, str(version), client_timeout=ASK_S):
                    raise _Taken(f"version {version} is not served: config.pbtxt must leave version_policy out")
        except (InferenceServerException, OSError) as error:
            raise _Taken(f"it does not load: {_words(error)}") from error

    def check(self, proof: Proof, version: int) -> None:
        """Raises `_Taken` unless the version answers as its weights do."""
        try:
            with self._client() as client:
                proof.check(client, self._model, version, ASK_S)
        except (CanaryFailed, OSError) as error:
            raise _Taken(f"its canary failed: {_words(error)}") from error

    def take_back(self, versions: Versions, trial: Trial, reason: str) -> RolledBack:
        """Move the version away and have the one before it served again; without a server the next one will."""
        log.warning("%s: version %s is taken back: %s", self._model, trial.version, reason)
        done = versions.outcome_of(trial.job)
        if done is None:
            # `teg serve` may be first, where the version has died
            with contextlib.suppress(FileNotFoundError):
                done = versions.reject(trial, reason)
        try:
            self.load(trial.base)
        except _Taken as error:
            log.warning("%s: version %s is not back yet: %s", self._model, trial.base, error)
        return done if isinstance(done, RolledBack) else RolledBack(trial.version, reason)

    def _client(self) -> Any:
        served = read_served(self.run_dir)
        if served is None:
            raise OSError(f"the server of {self.run_dir} has gone")
        return triton.InferenceServerClient(served.grpc_url)


def _target(model: str, config: Any, repository: Path, version: int) -> Target:
    said = {name: entry.string_value for name, entry in config.parameters.items()}
    if config.backend != "governed" or said.get("engine") != "torch":
        raise CannotPublish(model, "only the governed backend's engine 'torch' serves trained weights")
    if "digest" in said:
        raise CannotPublish(model, "config.pbtxt pins a digest, so that no other weights are ever served")
    limit_s = float(said.get("slo_ms", 0)) / 1e3
    slo = Slo(float(said.get("slo_quantile", 0.99)), limit_s) if limit_s else None
    file = said.get("model_file", "model.safetensors")
    return Target(model, said.get("architecture", model), repository / model, file, version, slo)


def _write(
    versions: Versions, trial: Trial, about: Mapping[str, Any], weights: Mapping[str, Tensor], target: Target
) -> None:
    """Write the version; a disk that is full may have room later."""
    try:
        versions.begin(trial, about, lambda folder: _save(weights, folder / target.file))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CannotPublish(target.model, f"version {trial.version} was not written: {error}", waiting=full) from error


def _sweep(versions: Versions, keep: int) -> None:
    try:
        versions.sweep(keep)
    except OSError as error:
        log.warning("old versions stay: %s", error)


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    # written by us: safetensors' own `save_file` does not say that a disk is full in terms of OSError
    path.write_bytes(save({name: tensor.detach().contiguous() for name, tensor in weights.items()}))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
