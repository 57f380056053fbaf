# SPDX-License-Identifier: Apache-2.0
"""Watches a server while it serves: what died is noticed, said not to be ready, and started again.

Triton's own health endpoints stay green when a model's process (its stub) has died, so they are not asked. A governed
instance beats on its page; a model with a page that fell silent is *suspect*, and a real inference, the canary,
decides. Models without pages are asked every few seconds. An idle model that beats is left alone: canaries would wake
a board that rests.

```
beats ───────────▶ ready        silent for 1 s ──▶ suspect ──canary answers──▶ ready
server ended ──▶ all down                             └──fails──▶ down ──▶ loaded anew, or the server started anew
```
A version that is on trial when it dies, or the server under it, is taken back before anything is started again; one
that nobody watches any more is taken back after a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from telemetry.errors import PageError
from telemetry.instance_page import InstancePage

from .canary import CanaryFailed
from .errors import GovernorError
from .server import TritonServer
from .unwatched import UNWATCHED_S, Unwatched
from .versions import Versions

LOOK_EVERY_S = 0.25
LOOK_AT_TRIALS_EVERY_S = 3.0
ASK_EVERY_S = 1.0
ASK_PAGELESS_EVERY_S = 3.0
CANARY_S = 2.5
"""With the second of silence before it: not ready within 5 s."""
UNLOAD_S, LOAD_S = 10.0, 300.0
FIRST_BREAK_S, LONGEST_BREAK_S = 1.0, 30.0
UNHEALTHY = "is not healthy"
"""What Triton answers in place of a stub that has died; anything else may be a slow model's doing."""
_SERVER = ""
log = logging.getLogger("teg.serve")


class Breaks:
    """How long to wait before the next try of the same: longer each time, and short again after a quiet while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._break_s = FIRST_BREAK_S
        self._until_s = float("-inf")

    @property
    def over(self) -> bool:
        """Whether the next try is due."""
        return self._clock() >= self._until_s

    def begin(self) -> None:
        """A try was made."""
        now_s = self._clock()
        quiet = now_s > self._until_s + 2 * LONGEST_BREAK_S
        self._break_s = FIRST_BREAK_S if quiet else min(LONGEST_BREAK_S, 2 * self._break_s)
        self._until_s = now_s + self._break_s


class Supervisor:
    """Keeps one server and its models alive. It belongs to the thread that started the server."""

    def __init__(
        self,
        server: TritonServer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._clock = clock
        self._sleep = sleep
        self._supervised = set(server.models) - set(server.failed)
        self._pages: dict[Path, str] = {}
        """The pages that have beaten since the server started, and the models they are of."""
        self._asked_s: dict[str, float] = {}
        self._breaks: defaultdict[str, Breaks] = defaultdict(lambda: Breaks(clock))
        """By model; `_SERVER` for the server."""
        self._runs, self._wants_restart = True, False
        self._unwatched = Unwatched(server.repository, server.run_dir.root, clock)
        self._looked_at_trials_s = float("-inf")

    def run(self) -> NoReturn:
        """Look again and again."""
        while True:
            self.look()
            self._sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Notice what died, say so, and start it again if that is due."""
        if (code := self._server.ended()) is not None:
            self._server_ended(code)
        if self._wants_restart:
            self._start_server()
            return
        silent = self._silent()
        for model in sorted(self._supervised):
            if model in self._server.failed:
                self._mend(model)
            elif model in silent:
                self._ask(model, ASK_EVERY_S, lambda _: True)
            elif model not in self._pages.values():
                self._ask(model, ASK_PAGELESS_EVERY_S, lambda why: UNHEALTHY in why)
        if self._server.publish and self._clock() - self._looked_at_trials_s >= LOOK_AT_TRIALS_EVERY_S:
            self._looked_at_trials_s = self._clock()
            for model in sorted(self._supervised - set(self._server.failed)):
                self._settle(model)

    def _silent(self) -> set[str]:
        """Models of which a page beat once and does no more."""
        beating = {}
        for page in self._server.run_dir.open_instances():
            if (info := page.info) is not None:
                beating[page.path] = info.model
            page.close()
        self._pages |= beating
        return {model for path, model in self._pages.items() if path not in beating}

    def _ask(self, model: str, every_s: float, telling: Callable[[str], bool]) -> None:
        """One canary, at most so often; a failure that tells, of a model that is still silent, takes the model down."""
        if self._clock() - self._asked_s.get(model, float("-inf")) < every_s:
            return
        self._asked_s[model] = self._clock()
        try:
            self._server.canary(model, CANARY_S)
        except CanaryFailed as error:
            governed = model in self._pages.values()
            if telling(str(error)) and (not governed or model in self._silent()) and self._server.ended() is None:
                self._take_down(model, str(error))

    def _take_down(self, model: str, why: str) -> None:
        log.error("stub of model '%s' died: %s", model, why)
        self._server.faults["stub"] += 1
        self._server.failed[model] = why
        self._say()
        self._take_back(model, "its process died while it was on trial")
        self._wants_restart = not self._server.publish

    def _server_ended(self, code: int) -> None:
        self._wants_restart = True
        if not self._runs:
            return
        self._runs = False
        log.error("server died: tritonserver ended with %s", code)
        self._server.faults["server"] += 1
        self._server.failed |= dict.fromkeys(self._supervised, "the server has ended")
        self._say()
        for model in self._supervised:
            self._take_back(model, "the server died while it was on trial")

    def _start_server(self) -> None:
        if not self._breaks[_SERVER].over:
            return
        self._breaks[_SERVER].begin()
        self._pages.clear()
        try:
            self._server.restart()
        except (GovernorError, OSError) as error:
            log.warning("the server does not start: %s", error)
        else:
            self._runs, self._wants_restart = True, False
            log.warning("serving again%s", "".join(f"; not {name}: {why}" for name, why in self._server.failed.items()))

    def _mend(self, model: str) -> None:
        """Bring back a model that is down, where that can be done alone; else only look whether it has come back."""
        if not self._breaks[model].over:
            return
        self._breaks[model].begin()
        try:
            if self._server.publish:
                self._load_anew(model)
            self._server.canary(model)
        except (CanaryFailed, InferenceServerException) as error:
            log.warning("model '%s' is still down: %s", model, " ".join(str(error).split()))
            return
        del self._server.failed[model]
        self._say()
        log.warning("model '%s' answers again", model)

    def _settle(self, model: str) -> None:
        """Take a version back that is on trial with nobody to watch it, and have the one before it served."""
        if self._unwatched.too_long(model) is None:
            return
        self._take_back(model, f"it was on trial, and nobody watched it for {UNWATCHED_S:.0f} s")
        try:
            with triton.InferenceServerClient(self._server.grpc_url) as client:
                client.load_model(model, headers=self._server.grpc_headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            self._server.failed[model] = " ".join(str(error).split())
            self._say()

    def _load_anew(self, model: str) -> None:
        """Unload and load: to load alone does nothing where no file has changed."""
        self._kill_silent(model)
        headers = self._server.grpc_headers
        with triton.InferenceServerClient(self._server.grpc_url) as client:
            client.unload_model(model, headers=headers, client_timeout=UNLOAD_S)
            until_s = self._clock() + UNLOAD_S
            while client.is_model_ready(model, client_timeout=UNLOAD_S) and self._clock() < until_s:
                self._sleep(0.01)
            client.load_model(model, headers=headers, client_timeout=LOAD_S)

    def _kill_silent(self, model: str) -> None:
        """End those processes of a model that hang; they are in the server's group, or none of ours."""
        for path in [path for path, name in self._pages.items() if name == model]:
            for page in _opened(path):
                with contextlib.suppress(ProcessLookupError):
                    if not page.alive() and os.getpgid(page.pid) == self._server.pid:
                        os.kill(page.pid, signal.SIGKILL)
            del self._pages[path]

    def _say(self) -> None:
        try:
            self._server.say()
        except OSError as error:
            log.warning("where the server stands was not written down: %s", error)

    def _take_back(self, model: str, why: str) -> None:
        versions = Versions(self._server.repository / model)
        if (trial := versions.trial) is not None:
            log.error("version %s of model '%s' is taken back: %s", trial.version, model, why)
            try:
                versions.reject(trial, why)
            except OSError as error:  # whoever watches it may have been first
                log.warning("version %s of model '%s' was not moved: %s", trial.version, model, error)


def _opened(path: Path) -> Iterator[InstancePage]:
    """The page at `path`, for as long as it is looked at; nothing where it has gone."""
    try:
        page = InstancePage.open(path)
    except PageError:
        return
    try:
        yield page
    finally:
        page.close()
