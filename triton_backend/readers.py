# SPDX-License-Identifier: Apache-2.0
"""What a parameter's text may be: each reader returns its value, or raises `BadParameter` with what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import BadParameter

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def file(name: str, text: str) -> str:
    """A file inside the version folder."""
    if len(text) > 255 or not _FILE.fullmatch(text):
        raise BadParameter(name, text, "a file name inside the version folder (letters, digits, '.', '_', '-', '/')")
    return text


def plain_name(name: str, text: str) -> str:
    """A name, of a model for example."""
    if len(text) > 255 or not _NAME.fullmatch(text):
        raise BadParameter(name, text, "a name of letters, digits, '.', '_' and '-'")
    return text


def workload(name: str, text: str) -> str:
    """A surface of a virtual board; the instance page carries 32 bytes of it."""
    if len(text) > 32:
        raise BadParameter(name, text, "a name of at most 32 letters, digits, '.', '_' and '-'")
    return plain_name(name, text)


def models(name: str, text: str) -> dict[str, str]:
    """Architectures by model, from `a,b=architecture_of_b`; a model's architecture is its name unless stated."""
    pairs = [entry.strip().partition("=") for entry in text.split(",")]
    found = {model: architecture or model for model, _, architecture in pairs}
    fits = all(len(part) <= 64 and _NAME.fullmatch(part) for pair in found.items() for part in pair)
    if not fits or len(found) != len(pairs):
        raise BadParameter(name, text, "different models separated by commas, each MODEL or MODEL=ARCHITECTURE")
    return found


def sha256(name: str, text: str) -> str:
    """A SHA-256 in hexadecimal."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise BadParameter(name, text, "64 hexadecimal digits in lower case (SHA-256)")
    return text


def flag(name: str, text: str) -> bool:
    """Yes or no."""
    if text not in ("true", "false"):
        raise BadParameter(name, text, "'true' or 'false'")
    return text == "true"


def whole(low: int, high: int) -> Callable[[str, str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(name: str, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise BadParameter(name, text, f"a whole number from {low} to {high}")
        return int(text)

    return read


def number(above: float, to: float, allowed: str, *, open_end: bool = False) -> Callable[[str, str], float]:
    """A reader of numbers above `above`, at most `to`, or below that with `open_end`."""

    def read(name: str, text: str) -> float:
        # a plain decimal: float() alone would take '1_0', ' 1 ', 'inf' and digits of other scripts
        value = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) else above
        if not above < value <= to or (open_end and value == to):
            raise BadParameter(name, text, allowed)
        return value

    return read
