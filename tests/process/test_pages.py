# SPDX-License-Identifier: Apache-2.0
"""Pages of processes that end in every way: no file is left, and nobody hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PREPARE = """
import os, random, select, signal, sys
import torch
from pathlib import Path
from finetune.pages import open_pages
folder = Path(sys.argv[1])
"""

KILLED = f"""{PREPARE}
def train(said):
    pages = open_pages(folder, {{0: 8 << 20, 1: 1 << 20}}, sealed=True)
    memory = [torch.UntypedStorage(8 << 20), torch.UntypedStorage(1 << 20)]
    os.write(said, b"r")
    while True:
        for number in (0, 1):
            pages.write(number, memory[number])
            pages.empty(number, memory[number])
            pages.read(number, memory[number])
            pages.wait(number)

choose = random.Random(int(sys.argv[2]))
for turn in range(25):
    hear, said = os.pipe()
    child = os.fork()
    if not child:
        train(said)
    # half of them while the file is being opened, half once it is written to
    moment_s = choose.uniform(0, 0.02)
    if turn % 2:
        assert select.select([hear], [], [], 60)[0]
    select.select([], [], [], moment_s)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    os.close(hear)
    os.close(said)
    assert os.listdir(folder) == [], os.listdir(folder)
print("nothing left")
"""

FORGOTTEN = f"""{PREPARE}
pages = open_pages(folder, {{0: 8 << 20}})
pages.write(0, torch.UntypedStorage(8 << 20))
if sys.argv[2] == "held":
    pages.hold()
    pages.read(0, torch.UntypedStorage(0))
if sys.argv[2] == "raising":
    raise SystemExit(3)
"""


def run(program: str, folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, folder, how], capture_output=True, text=True, timeout=200, check=False
    )


def test_killed_at_any_moment_nothing_is_left(tmp_path: Path) -> None:
    """25 kills, while opening and while writing and reading: the folder is empty each time."""
    ended = run(KILLED, tmp_path, "1")
    assert (ended.returncode, ended.stdout) == (0, "nothing left\n"), ended.stderr


def test_pages_that_nobody_closed_do_not_keep_a_process_alive(tmp_path: Path) -> None:
    """Whether transfers are under way, held, or an exception ends it."""
    for how, code in (("under way", 0), ("held", 0), ("raising", 3)):
        ended = run(FORGOTTEN, tmp_path, how)
        assert (ended.returncode, ended.stderr) == (code, "")
        assert list(tmp_path.iterdir()) == []
