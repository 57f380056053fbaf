# SPDX-License-Identifier: Apache-2.0
"""`make demo-finetune`: serve, tune, see the data shift, fine-tune in the gaps, publish; PolyThrottle's whole flow.

`digits_cnn` is served by a real Triton on a virtual AGX Orin and tuned under open-loop load. Then the camera falls on
its side: accuracy falls, people send labelled images through Triton, a client asks for a job. `teg run` makes room for
it or shows that there is room, `teg finetune worker` trains under half the activations' memory while no request is in
flight, and the new version is published under load. Only the silicon is virtual.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from . import demo_finetune_plot as plot
from .demo_finetune_acts import MODEL, TRAINER, Demo
from .demo_finetune_record import Watcher
from .demo_finetune_report import Story, show, summarise_run
from .demo_finetune_world import Clients
from .stack import REPOSITORY, running
from .tuned import say

SLACK = 6.0
"""The objective over the p95 of maximum clocks: what PolyThrottle grants where training shares the device."""
ENOUGH = 0.9
"""Accuracy that the published version must reach on digits that nobody trained on."""


def main() -> int:
    """Run the demo; 0 if the new version recognises what the old one did not, and no request failed."""
    began_s = time.monotonic()
    folder = Path("out/demo-finetune")
    repository = prepare(folder)
    say(f"serving {MODEL} on a real Triton and a virtual AGX Orin (logs in {folder})")
    with ExitStack() as stack:
        up = stack.enter_context(running(folder, MODEL, TRAINER, repository=repository, publish=True))
        watcher = stack.enter_context(Watcher(up.run_dir, MODEL))
        clients = stack.enter_context(Clients(up.grpc_url, MODEL, TRAINER))
        story = Story()
        Demo(up, folder, watcher, clients, story).run(float(os.environ.get("SLACK") or SLACK))
    summary = summarise_run(story, watcher.record)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    plot.timeline(folder / "timeline.png", watcher.record, story)
    show(summary)
    say(f"{folder}/summary.json, timeline.png; {time.monotonic() - began_s:.0f} s")
    return 0 if summary["accuracy_after"] >= ENOUGH and not summary["failed_requests"] else 1


def prepare(folder: Path) -> Path:
    """A model repository of the demo's own, as versions are published into it; what an earlier run left goes."""
    for name in ("repository", "spool", "state"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for model in (MODEL, TRAINER):
        shutil.copytree(REPOSITORY / model, folder / "repository" / model)
    os.environ["TEG_SPOOL_DIR"] = str((folder / "spool").resolve())
    return folder / "repository"


if __name__ == "__main__":
    # SIGTERM unwinds like Ctrl-C, so that clockd, Triton, the governor and the worker are ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
