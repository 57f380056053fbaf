# SPDX-License-Identifier: Apache-2.0
"""The run directory: where sockets and pages lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import PageError
from .instance_page import InstancePage


def default_run_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$TEG_RUN_DIR`, else `/run/teg` for root, else `$XDG_RUNTIME_DIR/teg`, else `/tmp/teg-<uid>`."""
    if given := environ.get("TEG_RUN_DIR"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/teg")
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "teg"
    return Path(f"/tmp/teg-{os.geteuid()}")  # noqa: S108 - made 0750 by `RunDir.make`, refused if not ours


@dataclass(frozen=True, slots=True)
class RunDir:
    """The names inside a run directory; constructing one touches nothing."""

    root: Path

    @property
    def socket(self) -> Path:
        """clockd's unix socket."""
        return self.root / "clockd.sock"

    @property
    def board_page(self) -> Path:
        """The board page, written by clockd."""
        return self.root / "board.page"

    @property
    def trainer_page(self) -> Path:
        """The trainer's page."""
        return self.root / "trainer.page"

    @property
    def api_key(self) -> Path:
        """The random key of Triton's restricted interfaces, mode 0600."""
        return self.root / "api-key"

    @property
    def instances(self) -> Path:
        """Folder of instance pages."""
        return self.root / "instances"

    def instance_page(self, instance: str) -> Path:
        """The page of one model instance, named as Triton names it (`digits_cnn_0_0`)."""
        return self.instances / f"{instance}.page"

    def make(self) -> None:
        """Create the directory and its folders, mode 0750; raises `PermissionError` if it belongs to somebody else."""
        for folder in (self.root, self.instances):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        owner = self.root.stat().st_uid
        if os.geteuid() not in (0, owner) and not os.access(self.root, os.W_OK):
            raise PermissionError(f"{self.root} belongs to uid {owner} and is not writable")

    def open_instances(self, *, writable: bool = False) -> Iterator[InstancePage]:
        """Every live instance page, in name order; the caller closes them. Dead and foreign files are passed over."""
        for path in sorted(self.instances.glob("*.page")):
            try:
                page = InstancePage.open(path, writable=writable)
            except PageError:
                continue
            if page.alive():
                yield page
            else:
                page.close()
