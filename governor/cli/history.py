# SPDX-License-Identifier: Apache-2.0
"""`teg history`: what tunings have measured, to look at and to share with other boards of the same kind."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..surface_file import Surface


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    parser = subparsers.add_parser(
        "history",
        help="list, export and import what tunings have measured",
        description="Surfaces are what tunings measured, one per board, models, objective and level of load. A later "
        "tuning on the same kind of board begins with them, so that one board of a fleet can learn for the others.",
    )
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    listing = verbs.add_parser("list", help="the surfaces kept here, the newest first")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.set_defaults(handler=list_handler)
    out = verbs.add_parser("export", help="write all of them into one file")
    out.add_argument("file", type=Path, metavar="FILE")
    out.add_argument("--force", action="store_true", help="replace FILE if it exists")
    out.set_defaults(handler=export_handler)
    taken = verbs.add_parser("import", help="add those of such a file; none is overwritten")
    taken.add_argument("file", type=Path, metavar="FILE")
    taken.set_defaults(handler=import_handler)
    for verb in (listing, out, taken):
        verb.add_argument("--state", type=Path, metavar="DIR", help="the state directory (default: RUN_DIR/state)")
        verb.add_argument("--run-dir", type=Path, help="default: /run/teg for root, else $XDG_RUNTIME_DIR/teg")


def list_handler(args: argparse.Namespace) -> int:
    """Print the surfaces; 1 if there is none."""
    from ..surface_store import SurfaceStore
    from . import DONE, NO

    surfaces = SurfaceStore(state_of(args)).surfaces()
    if args.json:
        print(json.dumps({"surfaces": [_about(surface) for surface in surfaces]}))
    elif not surfaces:
        print("nothing has been measured here yet")
    else:
        print("\n".join(_line(surface) for surface in surfaces))
    return DONE if surfaces else NO


def export_handler(args: argparse.Namespace) -> int:
    """Write the surfaces to a file; 1 if there is none, 2 if the file cannot be written or exists."""
    from ..surface_store import SurfaceStore
    from . import DONE, NO, USAGE

    try:
        count = SurfaceStore(state_of(args)).export(args.file, force=args.force)
    except FileExistsError:
        print(f"teg history export: {args.file} exists; --force replaces it", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"teg history export: {error}", file=sys.stderr)
        return USAGE
    print(f"{count} surfaces written to {args.file}")
    return DONE if count else NO


def import_handler(args: argparse.Namespace) -> int:
    """Add the surfaces of a file; 2 if it, or any surface in it, is not as it should be: then none is added."""
    from ..errors import SurfaceInvalid
    from ..surface_store import SurfaceStore
    from . import DONE, USAGE

    try:
        added, known = SurfaceStore(state_of(args)).take_in(args.file)
    except (SurfaceInvalid, OSError) as error:
        print(f"teg history import: {error}", file=sys.stderr)
        return USAGE
    print(f"{added} surfaces added, {known} were here already")
    return DONE


def state_of(args: argparse.Namespace) -> Path:
    """The state directory that the flags name."""
    from .progress import run_dir_of

    return args.state or run_dir_of(args).root / "state"


def _about(surface: Surface) -> dict[str, Any]:
    return {
        "name": surface.name,
        "board": surface.board,
        "virtual": surface.virtual,
        "models": list(surface.models),
        "slo_s": surface.slo_s,
        "rate_hz": surface.rate_hz,
        "knobs": list(surface.knobs),
        "points": len(surface.columns["energy_j"]),
        "least_energy_j": _least_j(surface),
    }


def _least_j(surface: Surface) -> float | None:
    """Joules per request of the cheapest point that kept the objective."""
    rows = zip(surface.columns["latency_s"], surface.columns["energy_j"], strict=True)
    return min((energy_j for latency_s, energy_j in rows if latency_s <= surface.slo_s), default=None)


def _line(surface: Surface) -> str:
    least_j = _least_j(surface)
    best = f"{least_j:.3f} J/request at best" if least_j else "no point kept it"
    points = len(surface.columns["energy_j"])
    return f"{surface.name}: {points} points, {surface.slo_s * 1e3:g} ms: {best}"
