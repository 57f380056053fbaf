# SPDX-License-Identifier: Apache-2.0
"""What the README shows, run as it stands there but for the ports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from governor.cli import build_parser
from governor.models import packaged_repository
from governor.server import TritonServer

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
CLIENTS = [text for text in SNIPPETS if "tritonclient" in text]
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
COMMANDS = re.findall(r"^(?:sudo )?(teg [^#\n]*?)(?: &&.*)?(?:\s+#.*)?$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("readme")
    with TritonServer(
        packaged_repository(), models=["digits_cnn"], run_dir=folder / "run", log_path=folder / "log"
    ) as up:
        yield up


@pytest.mark.parametrize("number", range(len(CLIENTS)))
def test_a_client_of_the_readme_gets_a_digit(server: TritonServer, number: int) -> None:
    """Copied from the README into a Python of its own, a client prints one class of ten."""
    text = CLIENTS[number].replace("127.0.0.1:8001", server.grpc_url).replace("127.0.0.1:8000", server.http_url)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in set("0123456789")


def test_the_readme_shows_both_protocols() -> None:
    """One client over gRPC and one over HTTP."""
    assert len(CLIENTS) == 2
    assert [name for name in ("grpc", "http") if any(f"tritonclient.{name}" in text for text in CLIENTS)] == [
        "grpc",
        "http",
    ]


def test_what_else_the_readme_shows_stands_in_an_example() -> None:
    """The examples of the guides are run next to plain torch; the README quotes them."""
    run = "".join(path.read_text() for path in EXAMPLES.glob("*.py"))
    others = [text for text in SNIPPETS if text not in CLIENTS]
    assert others
    assert all(any(indent(text, " " * deep) in run for deep in (0, 4, 8)) for text in others)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_of_the_readme_is_understood(command: str) -> None:
    """The command line knows each verb and option that the README uses."""
    args = build_parser().parse_args(command.split()[1:])
    assert callable(args.handler)
