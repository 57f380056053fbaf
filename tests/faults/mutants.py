# SPDX-License-Identifier: Apache-2.0
"""The suite tried on broken products: each mutant undoes one safeguard, and a row that ought to notice must fail."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import runner
from .record import Tally
from .zygote import ROOT

IGNORED = shutil.ignore_patterns(".git", ".venv", "out", "build", "__pycache__", "*.egg-info", "*.png", ".mypy_cache")


@dataclass(frozen=True, slots=True)
class Edit:
    """One textual change; `old` must stand in the file exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A product without one safeguard, and the row that must fail, taking every so-many-th of its points."""

    name: str
    edits: tuple[Edit, ...]
    row: str
    every: int


COURSE = "governor/course.py"
DURABLE, SERVICE, TREE = "telemetry/durable.py", "governor/clockd/service.py", "boards/tree.py"
REMEMBER = "        self._remember(board)\n        first, self.lease"
REQUEST = "            applied = board.request(request.point)\n"
MUTANTS = (
    Mutant(
        "a ledger that is not synced",
        (Edit(DURABLE, "        write_all(descriptor, content)\n        os.fsync(descriptor)\n",
              "        write_all(descriptor, content)\n"),),
        "17", 3,
    ),
    Mutant(
        "a ledger whose folder is not synced",
        (Edit(DURABLE, "    temporary.replace(path)\n    sync_folder(path.parent)\n",
              "    temporary.replace(path)\n"),),
        "17", 3,
    ),
    Mutant(
        "knobs written before the ledger",
        (Edit(SERVICE, REMEMBER, "        first, self.lease"),
         Edit(SERVICE, REQUEST, REQUEST + "            self._remember(board)\n")),
        "17", 3,
    ),
    Mutant("a log that is not synced", (Edit(DURABLE, "        os.fdatasync(self._descriptor)\n", ""),), "17", 3),
    Mutant("no newline guard", (Edit(DURABLE, 'b"\\n" if self._torn else b""', 'b""'),), "17", 3),
    Mutant(
        "a request that is not read back",
        (Edit("boards/jetson.py", "Applied(point, self.observe(), ", "Applied(point, point, "),),
        "6", 10,
    ),
    Mutant(
        "a restore that is not read back",
        (Edit("boards/restoring.py", "now.get(name) != value:", "now.get(name) is None:"),),
        "6", 10,
    ),
    Mutant("a write whose length is not checked", (Edit(TREE, "if taken != len(line):", "if taken < 0:"),), "5", 7),
    Mutant(
        "a ledger whose checksum is not checked",
        (Edit(DURABLE, 'if b"%08x" % zlib.crc32(body) != checksum:', "if not checksum:"),),
        "18", 50,
    ),
    Mutant(
        "leases that never expire",
        (Edit("governor/clockd/lease.py", "now_s >= self.expires_s", "False"),),
        "16", 9,
    ),
    Mutant(
        "a socket for everybody",
        (Edit("governor/clockd/peers.py", "peer.uid in (0, own_uid)", "peer.uid >= 0"),),
        "32", 100,
    ),
    Mutant(
        "a governor that stays where the objective broke",
        (Edit(COURSE, "            self._think()\n            self._step_back()\n",
              "            self._think()\n            self._go_on()\n"),),
        "11", 99,
    ),
    Mutant(
        "a governor that tries again what broke the objective",
        (Edit("governor/lessons.py", "return 0 <= now_s - self._broke.get", "return 1e9 <= now_s - self._broke.get"),),
        "11", 99,
    ),
    Mutant(
        "a governor that explores however much it breaks",
        (Edit(COURSE, "and self._allowance.wait_s > 0 and", "and self._allowance.wait_s > 1e9 and"),),
        "11", 99,
    ),
    Mutant(
        "a load step that is blamed on the point",
        (Edit("governor/measurement.py", "        if self._demand.changed(window.span_s)", "        if False"),),
        "12", 10,
    ),
    Mutant(
        "a blame that outlasts the load it was for",
        (Edit("governor/keeping.py", "        if self._blamed_s is None or not", "        if True or not"),),
        "12", 24,
    ),
    Mutant(
        "a governor that explores again before a window was kept",
        (Edit("governor/keeping.py", "CLEAN = 2.0", "CLEAN = 1.0"),),
        "12", 23,
    ),
    Mutant(
        "a fit that ends the course",
        (Edit("governor/thoughts.py", "if (error := thought.exception()) is None:", "if True:"),),
        "13", 5,
    ),
    Mutant(
        "training that is never refused",
        (Edit("predictor/pacing.py", "BROKEN = 3", "BROKEN = 1_000"),),
        "25", 13,
    ),
    Mutant(
        "a checkpoint that leaves its half behind",
        (Edit("telemetry/large_files.py", "        temporary.unlink(missing_ok=True)\n", ""),),
        "20", 30,
    ),
    Mutant(
        "a run that goes on with other random numbers",
        (Edit("finetune/checkpoint.py", '"rng": self.rng}', '"rng": torch.get_rng_state()}'),),
        "22", 150,
    ),
    Mutant(
        "pages whose checksum is not compared",
        (Edit("finetune/paging/marks.py", "        return xxh3_64_digest(bytes_at(memory, size_bytes)) == mark\n",
              "        return True\n"),),
        "21", 100,
    ),
    Mutant(
        "a step that goes on among its updates",
        (Edit("finetune/execute.py", "self.torn = self.runtime.updated or isinstance(error, PageCorrupted)",
              "self.torn = isinstance(error, PageCorrupted)"),),
        "19", 61,
    ),
    Mutant(
        "a model that is believed to live while its page is silent",
        (Edit("governor/supervision.py", "self._ask(model, ASK_EVERY_S, lambda _: True)", "continue"),),
        "23", 26,
    ),
)  # fmt: skip


def noticed(tally: Tally) -> None:
    """Row mutants: as it is the thinned rows pass; with any one safeguard gone the row named fails."""
    with tempfile.TemporaryDirectory(prefix="teg-mutants-") as folder:
        copy = Path(folder) / "product"
        shutil.copytree(ROOT, copy, ignore=IGNORED)
        chosen = tally.thin(MUTANTS)
        for row, every in dict.fromkeys((mutant.row, mutant.every) for mutant in chosen):
            result = _try(copy, row, every)
            tally.expect(
                not result["failed"], f"row {row}, thinned, fails without a mutation: {result['failures'][:3]}"
            )
        for mutant in chosen:
            _one(tally, copy, mutant)


def _one(tally: Tally, copy: Path, mutant: Mutant) -> None:
    before = {edit.file: (copy / edit.file).read_text() for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            text = (copy / edit.file).read_text()
            if not tally.same(text.count(edit.old), 1, f"{mutant.name}: matches of {edit.old!r} in {edit.file}"):
                return
            (copy / edit.file).write_text(text.replace(edit.old, edit.new))
        result = _try(copy, mutant.row, mutant.every)
        tally.inject(real=bool(result["real_processes"]), kind=f"caught by row {mutant.row}")
        # a row that could not even begin proves nothing
        seen = result["failed"] > 0 and result["injected"] > 0
        tally.expect(seen, f"{mutant.name}: not noticed by row {mutant.row} ({result['injected']} injected)")
        tally.note(mutant.name, (result["failures"] or [""])[0][:200])
    finally:
        for file, text in before.items():
            (copy / file).write_text(text)


def _try(copy: Path, row: str, every: int) -> runner.Json:
    from .table import ROWS

    return runner.run_row(ROWS[row], every, copy)
