# SPDX-License-Identifier: Apache-2.0
"""One model instance inside Triton: engine, batcher, page and heartbeat, put together and taken apart."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.instance_page import InstanceInfo, InstancePage, Knobs, Status
from telemetry.rundir import RunDir, default_run_dir

from .batcher import Batcher, Reply
from .engine import Engine, open_engine
from .errors import BadRequest, EngineUnusable
from .inbound import Gatekeeper, Inbound
from .metrics import Exporter
from .outbound import TritonReply
from .parameters import BackendConfig, parse
from .placement import placement_of
from .recorder import Recorder, instant
from .tally import Tally
from .turns import Turns

BEAT_S = 0.05
BEATS_PER_PUSH = 20
SWITCH_S = 0.0005
NUMPY_2_SINCE = (25, 7)
"""Releases of Triton whose binding is known to carry tensors of numpy 2 unharmed."""
logger = logging.getLogger(__name__)


class Instance:
    """Serves requests from `open_instance` to `close`."""

    def __init__(
        self, config: BackendConfig, engine: Engine, page: InstancePage, exporter: Exporter, triton: Any
    ) -> None:
        self._triton = triton
        self._gatekeeper = Gatekeeper(config)
        self._engine = engine
        self._recorder = Recorder(page, Tally(), _configured(config), config.max_batch)
        self._turns = Turns(RunDir(page.path.parents[1]).trainer_page)
        self._batcher = Batcher(engine, config, self._recorder, self._turns)
        self._exporter = exporter
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="governed-heart", daemon=True)

    def start(self) -> None:
        """Start the worker and the heartbeat."""
        self._batcher.start()
        self._heart.start()

    def serve(self, requests: Sequence[Any]) -> list[Any] | None:
        """The body of `execute`: responses served in place, or None where all of them come later."""
        arrival_ns = time.monotonic_ns()
        replies = [TritonReply(request, self._triton) for request in requests]
        good: list[tuple[Inbound, Reply]] = []
        for request, reply in zip(requests, replies, strict=True):
            try:
                good.append((self._gatekeeper.read(request), reply))
            except BadRequest as error:
                self._recorder.turned_away(instant(arrival_ns, time.monotonic_ns(), 1, Status.INVALID))
                reply.refuse(Status.INVALID, str(error))
        self._batcher.submit(good, arrival_ns)
        responses = [reply.response for reply in replies]
        return None if all(response is None for response in responses) else responses

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._batcher.alive

    def close(self) -> None:
        """Answer what waits, stop the threads, take the page away."""
        self._batcher.close()
        self._stop.set()
        if self._heart.is_alive():
            self._heart.join()
        self._engine.close()
        self._turns.close()
        self._recorder.close()

    def _beat(self) -> None:
        beats = 0
        while not self._stop.wait(BEAT_S):
            self._recorder.beat()
            self._batcher.poke()
            beats += 1
            if beats % BEATS_PER_PUSH == 0:
                self._exporter.push(self._recorder.harvest(self._batcher.depth))


def open_instance(args: Mapping[str, str], triton: Any, environ: Mapping[str, str] = os.environ) -> Instance:
    """The instance that Triton's arguments of `initialize` describe, started; raises `BackendError`."""
    refuse_numpy_2(np.__version__, environ)
    config = parse(json.loads(args["model_config"]))
    if not config.inputs or not config.outputs:
        raise EngineUnusable("config.pbtxt states no inputs or no outputs, and auto-complete is off")
    engine = open_engine(config, _version_folder(args), placement_of(args), triton)
    version, name = args["model_version"], args["model_instance_name"]
    page = open_page(RunDir(default_run_dir(environ)), name)
    page.write_info(_info(config, version, name))
    exporter = Exporter(triton.MetricFamily, {"model": config.model, "version": version})
    instance = Instance(config, engine, page, exporter, triton)
    instance.start()
    # threads that serve hand the interpreter to each other within a fraction of a light model's time
    sys.setswitchinterval(SWITCH_S)
    # the runtime's hundred thousand objects live for ever: without this every full collection walks them all
    gc.collect()
    gc.freeze()
    return instance


def open_page(run_dir: RunDir, instance: str) -> InstancePage:
    """The instance's page; one that nobody else can see where the run directory cannot be used, with a warning."""
    try:
        run_dir.make()
        return InstancePage.create(run_dir.instance_page(instance))
    except OSError as error:
        logger.warning("no governor will see this instance: run directory %s: %s", run_dir.root, error)
    with tempfile.TemporaryDirectory(prefix="teg-") as folder:
        return InstancePage.create(Path(folder) / "unseen.page")


def refuse_numpy_2(version: str, environ: Mapping[str, str]) -> None:
    """Raises `EngineUnusable` for numpy 2 under a server that is not known to cope with it."""
    release = environ.get("NVIDIA_TRITON_SERVER_VERSION", "").split(".")
    known = tuple(int(part) for part in release[:2] if part.isdigit())
    if int(version.split(".", 1)[0]) >= 2 and known < NUMPY_2_SINCE:
        raise EngineUnusable(
            f"numpy {version} corrupts tensors in silence in the Python binding of this Triton release or of one that "
            "cannot be told: install numpy<2"
        )


def _version_folder(args: Mapping[str, str]) -> Path:
    return Path(args["model_repository"]) / args["model_version"]


def _configured(config: BackendConfig) -> Knobs:
    return Knobs(config.max_batch, config.queueing.triton_delay_ns)


def _info(config: BackendConfig, version: str, instance: str) -> InstanceInfo:
    return InstanceInfo(
        model=config.model,
        version=version,
        instance=instance,
        virtual_workload=config.virtual_workload,
        max_batch=config.max_batch,
        batch_wait_ns=config.queueing.triton_delay_ns,
        slo_s=config.slo_s,
        slo_quantile=config.slo_quantile,
        slo_weight=config.slo_weight,
    )
