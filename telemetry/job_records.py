# SPDX-License-Identifier: Apache-2.0
"""A job's records as files: JSON objects, each with what is left until the job's deadline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import durable
from .errors import SpoolDamaged
from .uptime import Noted, Uptime


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Put a record at `path`, durably, whole or not at all, mode 0600."""
    durable.replace(path, json.dumps(content, separators=(",", ":")).encode() + b"\n", mode=0o600)


def read(path: Path) -> dict[str, Any] | None:
    """A record, None if there is none; raises `SpoolDamaged` if it is not one."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SpoolDamaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise SpoolDamaged(path, "not a JSON object")
    return content


def deadline_json(noted: Noted | None) -> dict[str, Any]:
    """The field `deadline` of a record."""
    return {"deadline": noted and asdict(noted)}


def deadline(record: Mapping[str, Any]) -> Noted | None:
    """What is left, as a record notes it; raises `KeyError`, `TypeError` or `ValueError` if it is not ours."""
    row = record.get("deadline")
    if row is None:
        return None
    return Noted(float(row["left_s"]), Uptime(str(row["moment"]["boot"]), float(row["moment"]["at_s"])))
