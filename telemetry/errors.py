# SPDX-License-Identifier: Apache-2.0
"""Errors of this package.

TelemetryError
  PageError
    PageUnreadable      the file is missing or may not be opened
    PageLayoutMismatch  the file is not a page of this kind and version
"""

from __future__ import annotations

from pathlib import Path


class TelemetryError(Exception):
    """Base of this package's errors."""


class PageError(TelemetryError):
    """Something about one page; `path` says which."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class PageUnreadable(PageError):
    """The page is missing or may not be opened."""


class PageLayoutMismatch(PageError):
    """The file is not a page of the kind and version expected."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(path, f"expected {expected}, found {found}")
