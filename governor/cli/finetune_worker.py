# SPDX-License-Identifier: Apache-2.0
"""`teg finetune worker`: the process that trains."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import DONE, REFUSED

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.jobs.publisher import Published, Serving


def add_worker(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "worker",
        help="train jobs in the gaps until told to stop",
        description="Train the jobs of a spool beside the models served from a run directory, one after another. "
        "Training holds while no governor sets limits for it. Exit code 3 if another worker has the spool.",
    )
    parser.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")
    parser.add_argument(
        "--spool-dir", type=Path, metavar="DIR", help="default: $TEG_SPOOL_DIR, or /var/lib/teg/finetune"
    )
    parser.add_argument("--watch-s", type=float, default=20.0, help="how long a new version is on trial (default: 20)")
    parser.add_argument("--without-governor", action="store_true", help="train although nobody sets limits")
    parser.add_argument("--once", action="store_true", help="end when every job has ended")
    parser.add_argument("--checkpoint-s", type=float, default=60.0, help="what a killed job loses (default: 60)")
    parser.add_argument("--longest-ms", type=float, default=5.0, help="longer operations run in pieces (default: 5)")
    parser.add_argument("--sealed", action="store_true", help="encrypt what leaves RAM (needs the extra 'sealed')")
    parser.add_argument("--sysfs-root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    parser.set_defaults(handler=handler)


def handler(args: argparse.Namespace) -> int:
    """Train until a signal; 3 if another worker has the spool, or the spool is open to others."""
    import platform

    import torch

    from boards.tree import SysfsTree
    from finetune.jobs.worker import Settings, Worker
    from governor.surroundings import Look
    from telemetry.errors import WorkerBusy

    from .finetune import spool_of
    from .progress import run_dir_of

    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    torch.set_num_threads(1)  # the models being served need the cores more
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run_dir = run_dir_of(args)
    settings = Settings(
        governed=not args.without_governor,
        aside=True,
        checkpoint_s=args.checkpoint_s,
        longest_s=args.longest_ms / 1e3,
        sealed=args.sealed,
        board=platform.node(),
    )
    publisher = Rollout(run_dir.root, args.watch_s)
    look = Look(run_dir, SysfsTree(args.sysfs_root))
    try:
        Worker(spool_of(args), run_dir, publisher, look, settings, stop.is_set).run(once=args.once)
    except (WorkerBusy, PermissionError) as error:
        print(f"teg finetune worker: {error}", file=sys.stderr)
        return REFUSED
    return DONE


class Rollout:
    """Takes weights from the server of a run directory, and has new ones served by it."""

    def __init__(self, run_dir: Path, watch_s: float) -> None:
        self._run_dir, self._watch_s = run_dir, watch_s

    def serving(self, model: str) -> Serving:
        """The version that serves; raises `NotServed`."""
        from finetune.jobs.publisher import NotServed, Serving
        from governor.errors import CannotPublish
        from governor.rollout import find_target
        from model_repository.architectures import UnknownArchitecture, architecture

        try:
            target = find_target(self._run_dir, model)
            return Serving(architecture(target.architecture), target.weights, target.version)
        except CannotPublish as error:
            raise NotServed(str(error), waiting=error.waiting) from error
        except UnknownArchitecture as error:
            raise NotServed(str(error), waiting=False) from error

    def publish(self, model: str, job: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        """Have weights served as the next version, if they serve no worse; raises `NotServed`."""
        from finetune.jobs.publisher import NotServed, Published
        from governor.errors import CannotPublish
        from governor.rollout import publish_trained
        from governor.versions import RolledOut

        try:
            done = publish_trained(self._run_dir, model, weights, job=job, about=about, watch_s=self._watch_s)
        except CannotPublish as error:
            raise NotServed(str(error), waiting=error.waiting) from error
        return Published(done.version) if isinstance(done, RolledOut) else Published(None, done.reason)
