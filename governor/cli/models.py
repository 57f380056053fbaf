# SPDX-License-Identifier: Apache-2.0
"""`teg models build` and `teg models pin`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import DONE, NO, USAGE


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    models = subparsers.add_parser("models", help="build the example models, pin your own")
    verbs = models.add_subparsers(dest="models_verb", metavar="VERB", required=True)
    make = verbs.add_parser("build", help="make the example models' weights; nothing is downloaded")
    make.add_argument("names", nargs="*", metavar="NAME", help="models to build (default: all but bert_base)")
    make.add_argument("--if-missing", action="store_true", help="pass over models that are there and whole")
    make.add_argument("--repository", type=Path, metavar="DIR", help="model repository (default: the packaged one)")
    make.add_argument(
        "--checkpoint",
        type=_named_folder,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="take a model's weights from a local Hugging Face checkpoint (safetensors)",
    )
    make.set_defaults(handler=handle_build)
    fix = verbs.add_parser("pin", help="write digest.json into a model's version folder")
    fix.add_argument("version", type=Path, metavar="VERSION_DIR", help="for example models/mine/1")
    fix.set_defaults(handler=handle_pin)


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(folder)


def handle_build(args: argparse.Namespace) -> int:
    """Build each model asked for; 1 if one could not be built."""
    from governor.models import DEFAULT_MODELS, MODELS, packaged_repository

    checkpoints = dict(args.checkpoint)
    names = args.names or [*DEFAULT_MODELS, *(name for name in checkpoints if name not in DEFAULT_MODELS)]
    if unknown := [name for name in (*names, *checkpoints) if name not in MODELS]:
        print(f"teg models: no example model is named {unknown[0]!r}; there are {', '.join(MODELS)}", file=sys.stderr)
        return USAGE
    if idle := [name for name in checkpoints if name not in names]:
        print(f"teg models: --checkpoint {idle[0]}=... names a model that is not to be built", file=sys.stderr)
        return USAGE
    repository = args.repository or packaged_repository()
    # a list, so that one failure does not keep the others from being built
    done = [_build(name, repository, checkpoints.get(name), args.if_missing) for name in names]
    return DONE if all(done) else NO


def _build(name: str, repository: Path, checkpoint: Path | None, if_missing: bool) -> bool:
    from governor.checkpoint import CheckpointUnfit
    from governor.digits import AccuracyTooLow
    from governor.models import build, is_built

    if if_missing and not checkpoint and is_built(name, repository):
        print(f"{name}: there", flush=True)
        return True
    print(f"{name}: building ...", flush=True)
    started_s = time.monotonic()
    try:
        built = build(name, repository, checkpoint)
    except (CheckpointUnfit, AccuracyTooLow, OSError, ImportError) as error:
        print(f"{name}: not built: {error}", file=sys.stderr, flush=True)
        return False
    accuracy = "" if built.accuracy is None else f", test accuracy {built.accuracy:.4f}"
    print(f"{name}: {built.source}{accuracy}, {time.monotonic() - started_s:.1f} s", flush=True)
    return True


def handle_pin(args: argparse.Namespace) -> int:
    """Pin one version folder; 1 if it cannot be pinned."""
    from governor.publish import VersionUnfit, pin

    try:
        digests = pin(args.version)
    except (VersionUnfit, OSError) as error:
        print(f"teg models pin: {error}", file=sys.stderr)
        return NO
    for name, digest in digests.items():
        print(f"{digest}  {name}")
    return DONE
