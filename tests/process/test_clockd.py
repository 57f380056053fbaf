# SPDX-License-Identifier: Apache-2.0
"""clockd as a real process: leases that end however their holder ends, a ledger that survives kill -9, a socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boards.archive import unpack
from boards.clocks import ClockPoint
from boards.discover import open_board
from governor.client import ClockClient
from governor.errors import ClockdUnavailable, LeaseLost, LeaseRefused
from telemetry.board_page import BoardPage, BoardReading
from telemetry.instance_page import Counter, InstanceInfo, InstancePage
from telemetry.rundir import RunDir

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "agx-orin-jp6.tree"
LOW = ClockPoint(408_000_000, 306_000_000, 665_600_000, 960_000_000, 4)
HIGH = ClockPoint(1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)
DEADLINE_S = 60.0
"""Bounds a failure and promises nothing."""
LONG_S = 5.0
"""Time to live of a lease that must not expire in a test: the longest that clockd grants."""
TEG = "import sys; from governor.cli import main; sys.exit(main())"
HOLDER_TTL_S, ON_THE_WAY_S = 4.0, 6.0
"""What its holder asks for, and what a busy host may lose between the end of a lease and our noticing."""
HOLDER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from boards.clocks import ClockPoint
    from governor.client import ClockClient
    client = ClockClient(Path(sys.argv[1]))
    assert client.lease(ClockPoint(cores=4, emc_hz=665_600_000), 4.0).honoured
    print("held", flush=True)
    while True:
        client.renew(4.0)
        time.sleep(0.1)
""")


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


def start(run_dir: RunDir, *arguments: str, verb: str = "clockd") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TEG, verb, "--run-dir", str(run_dir.root), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def reaped(process: subprocess.Popen[str]) -> str:
    """End a process for good; what it said."""
    if process.poll() is None:
        process.kill()
    return process.communicate(timeout=DEADLINE_S)[1] or ""


@contextlib.contextmanager
def clockd(run_dir: RunDir, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = start(run_dir, *arguments)
    try:
        until(lambda: process.poll() is not None or run_dir.board_page.exists(), "clockd publishes its page")
        yield process
    finally:
        reaped(process)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def virtual(run_dir: RunDir) -> Iterator[subprocess.Popen[str]]:
    with clockd(run_dir, "--board", "virtual:agx-orin") as process:
        yield process


@pytest.fixture
def client(run_dir: RunDir, virtual: subprocess.Popen[str]) -> Iterator[ClockClient]:
    with ClockClient(run_dir.socket, timeout_s=DEADLINE_S) as client:
        yield client


def reading(run_dir: RunDir) -> BoardReading:
    page = BoardPage.open(run_dir.board_page)
    try:
        until(lambda: page.read() is not None, "a first sample")
        found = page.read()
        assert found is not None
        return found
    finally:
        page.close()


def observed(run_dir: RunDir) -> ClockPoint:
    return ClockPoint(*reading(run_dir).observed)


def test_a_lease_is_applied_and_given_back(run_dir: RunDir, client: ClockClient) -> None:
    """hello, table, lease, status, release: what a governor does, over the real socket."""
    hello = client.hello()
    assert (hello["name"], hello["virtual"], hello["observe_only"]) == ("virtual:agx-orin", True, False)
    assert client.table() == open_board("virtual:agx-orin").table
    applied = client.lease(LOW, LONG_S)
    assert applied.honoured
    assert observed(run_dir) == LOW
    assert reading(run_dir).lease_pid == os.getpid()
    assert client.status()["lease"]["point"]["cores"] == 4
    client.renew(LONG_S)
    client.release()
    until(lambda: observed(run_dir) == HIGH, "the clocks go back")
    with pytest.raises(LeaseLost):
        client.renew(LONG_S)


def test_an_expired_lease_is_lost(run_dir: RunDir, client: ClockClient) -> None:
    """Whoever stops renewing finds the clocks restored and the lease gone."""
    client.lease(LOW, 0.3)
    until(lambda: observed(run_dir) == HIGH, "the lease expires")
    with pytest.raises(LeaseLost):
        client.release()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_holder_that_dies_or_hangs_loses_its_lease(run_dir: RunDir, client: ClockClient, end: int) -> None:
    """Within its time to live and a second the clocks are back, whether the holder is dead or only asleep."""
    command = [sys.executable, "-c", HOLDER, str(run_dir.socket)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LeaseRefused) as refused:
            client.lease(LOW, 1.0)
        assert refused.value.reason == "held"
        assert observed(run_dir).cores == 4
        holder.send_signal(end)
        ended = time.monotonic()
        until(lambda: observed(run_dir) == HIGH, "the clocks go back")
        assert time.monotonic() - ended < HOLDER_TTL_S + 1.0 + ON_THE_WAY_S
        assert client.lease(LOW, 1.0).honoured
    finally:
        holder.kill()
        holder.communicate(timeout=DEADLINE_S)


def talk(run_dir: RunDir, data: bytes) -> list[dict[str, object]]:
    """Every answer to raw bytes, until clockd hangs up or has nothing more to say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(run_dir.socket))  # before the timeout: with one it would not wait for its turn
        raw.settimeout(DEADLINE_S)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := raw.recv(65536):
                received += part
    return [json.loads(line) for line in received.splitlines()]


def test_bad_lines_are_refused_one_by_one(run_dir: RunDir, client: ClockClient) -> None:
    """Garbage gets an answer each and hurts neither the connection nor anybody else's."""
    bad = [b"{", b"\xff\x00", b'{"verb":"exec"}', b'{"verb":"lease","point":{"gpu_hz":"/etc/passwd"},"ttl_ms":100}']
    answers = talk(run_dir, b"\n".join([*bad, b'{"verb":"hello"}', b""]))
    assert [answer["ok"] for answer in answers] == [False, False, False, False, True]
    assert all(answer["error"] == "malformed" for answer in answers[:4])
    assert client.hello()["ok"]


def test_an_endless_line_ends_the_connection(run_dir: RunDir, client: ClockClient) -> None:
    """More than 4 KiB without a newline is answered once, and hung up on."""
    answers = talk(run_dir, b"x" * 200_000)
    assert len(answers) <= 1
    assert all(answer["error"] == "malformed" for answer in answers)
    assert client.hello()["ok"]


def test_half_a_line_and_many_connections_block_nobody(run_dir: RunDir, client: ClockClient) -> None:
    """Clients that say half a sentence, or nothing, leave clockd serving; beyond the limit they are turned away."""
    client.hello()
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            silent.connect(str(run_dir.socket))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                silent.sendall(b'{"verb":')
        assert client.hello()["ok"]
    until(
        lambda: [answer["ok"] for answer in talk(run_dir, b'{"verb":"hello"}\n')] == [True],
        "room again when they have gone",
    )


def test_a_client_that_does_not_read_is_not_waited_for(run_dir: RunDir, client: ClockClient) -> None:
    """Ten thousand questions and no ear for the answers: hung up on when its queue is full; the others go on."""
    client.lease(LOW, LONG_S)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(str(run_dir.socket))
        deaf.settimeout(DEADLINE_S)
        questions = b'{"verb":"status"}\n' * 100_000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            deaf.sendall(questions)
    client.renew(LONG_S)
    assert observed(run_dir) == LOW


def test_work_costs_energy_and_low_clocks_stretch_it(run_dir: RunDir, client: ClockClient) -> None:
    """A busy instance raises power; low clocks tell it to slow down; the joule counter never falls."""
    page = InstancePage.create(run_dir.instance_page("digits_0_0"))
    try:
        page.write_info(InstanceInfo("digits", "1", "digits_0_0", "resnet", 8, 0, 0.0, 0.99, 1.0))
        at_rest = reading(run_dir)
        until(lambda: page.stretch(4) == pytest.approx(1.0) and reading(run_dir).energy_j > 0, "a tick with the page")
        joules, powers, began = [], [], time.monotonic()
        while time.monotonic() - began < 1.0 or max(powers) < at_rest.power_w + 10:
            assert time.monotonic() - began < DEADLINE_S, f"power stays at {max(powers)} W"
            page.count(Counter.BUSY_NS, 20_000_000)
            page.count(Counter.BUSY_BATCH_NS, 80_000_000)
            page.beat()
            time.sleep(0.02)
            latest = reading(run_dir)
            joules.append(latest.energy_j)
            powers.append(latest.power_w)
        assert joules == sorted(joules)
        assert joules[-1] > at_rest.energy_j + 5
        assert client.lease(LOW, LONG_S).honoured
        page.beat()
        until(lambda: page.stretch(4) > 1.5, "the work is slowed down")
    finally:
        page.close()


def test_sigterm_puts_the_clocks_back(tmp_path: Path, run_dir: RunDir) -> None:
    """Told to end, clockd restores the board's files first, removes its socket and page, and exits with 0."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    before = open_board("auto", root).read_knobs()
    with clockd(run_dir, "--root", str(root)) as process, ClockClient(run_dir.socket, DEADLINE_S) as client:
        assert client.lease(LOW, LONG_S).honoured
        assert open_board("auto", root).observe() == LOW
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert open_board("auto", root).read_knobs() == before
    assert not run_dir.socket.exists()
    assert not run_dir.board_page.exists()


@pytest.mark.parametrize("heir", ["clockd", "restore"])
def test_kill_9_is_undone_by_the_next_one(tmp_path: Path, run_dir: RunDir, heir: str) -> None:
    """A killed clockd leaves clocks and ledger; a new clockd, or `teg restore`, puts the clocks back."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    before = open_board("auto", root).read_knobs()
    with clockd(run_dir, "--root", str(root)) as process, ClockClient(run_dir.socket, DEADLINE_S) as client:
        assert client.lease(LOW, LONG_S).honoured
        process.kill()
        process.wait(DEADLINE_S)
    assert open_board("auto", root).observe() == LOW
    if heir == "restore":
        for _ in range(2):
            helper = start(run_dir, "--root", str(root), verb="restore")
            assert helper.wait(DEADLINE_S) == 0, reaped(helper)
            reaped(helper)
    else:
        run_dir.board_page.unlink()
        with clockd(run_dir, "--root", str(root)), ClockClient(run_dir.socket, DEADLINE_S) as client:
            assert client.status()["restore_pending"] is False
    assert open_board("auto", root).read_knobs() == before


def test_clocks_that_cannot_go_back_are_exit_code_4(tmp_path: Path, run_dir: RunDir) -> None:
    """If a knob has vanished when clockd ends, it says so, and the ledger stays for whoever comes next."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    with clockd(run_dir, "--root", str(root)) as process, ClockClient(run_dir.socket, DEADLINE_S) as client:
        client.lease(LOW, LONG_S)
        knob = root / "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu/max_freq"
        knob.rename(knob.with_name("gone"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 4
    assert (run_dir.root / "clocks.ledger").stat().st_size > 0
    knob.with_name("gone").rename(knob)
    helper = start(run_dir, "--root", str(root), verb="restore")
    assert helper.wait(DEADLINE_S) == 0, reaped(helper)
    reaped(helper)
    assert open_board("auto", root).observe().gpu_hz == 1_300_500_000


def test_a_foreign_write_is_kept_and_the_rest_goes_back(tmp_path: Path, run_dir: RunDir) -> None:
    """nvpmodel, or a hand in a shell, writes a leased knob: within a few ticks the lease is over and theirs stays."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    before = open_board("auto", root).read_knobs()
    with clockd(run_dir, "--root", str(root)), ClockClient(run_dir.socket, DEADLINE_S) as client:
        assert client.lease(LOW, LONG_S).honoured
        knob = root / "sys/class/devfreq/17000000.gpu/max_freq"
        knob.write_text("918000000\n")
        until(lambda: reading(run_dir).foreign_changes == 1, "the change is seen")
        until(lambda: client.status()["restore_pending"] is False, "the rest goes back")
        with pytest.raises(LeaseLost):
            client.renew(1.0)
        assert open_board("auto", root).read_knobs() == before | {"gpu.max_freq": 918_000_000}


def test_faults_of_a_virtual_board_follow_their_file(tmp_path: Path, run_dir: RunDir) -> None:
    """What the file says goes wrong, from when it says so until it is gone; nonsense changes nothing."""
    faults = tmp_path / "faults.json"
    arguments = ("--board", "virtual:agx-orin", "--faults", str(faults))
    with clockd(run_dir, *arguments), ClockClient(run_dir.socket, DEADLINE_S) as client:
        assert client.lease(LOW, LONG_S).honoured
        client.release()
        faults.write_text('{"sensor": "negative", "denied": ["emc_hz"]}')
        until(lambda: client.status()["sensor_faults"].get("power", 0) > 0, "the faults begin")
        faults.write_text("{")
        counted = client.status()["sensor_faults"]["power"]
        until(lambda: client.status()["sensor_faults"]["power"] > counted + 3, "the faults go on")
        with pytest.raises(LeaseRefused) as refused:
            client.lease(LOW, 1.0)
        assert (refused.value.reason, refused.value.cause, refused.value.knob) == ("board", "denied", "emc_hz")
        assert client.status()["board_faults"] == {"denied": 1}
        faults.unlink()
        joules = client.status()["energy_j"]
        until(lambda: client.status()["energy_j"] > joules, "the faults end")
        assert client.lease(LOW, 1.0).honoured


def test_systemd_is_told(run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready once the page is there, fed while it samples, told who holds the clocks, and when it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        # its queue holds ten messages: fed this seldom, none is lost where this host stalls for three seconds
        monkeypatch.setenv("WATCHDOG_USEC", "1200000")
        with clockd(run_dir, "--board", "virtual:agx-orin") as process:
            assert systemd.recv(4096) == b"READY=1"
            heard = [systemd.recv(4096) for _ in range(6)]
            assert heard.count(b"WATCHDOG=1") >= 5
            with ClockClient(run_dir.socket, DEADLINE_S) as client:
                client.lease(LOW, LONG_S)
                wanted = f"STATUS=clocks leased to process {os.getpid()}".encode()
                until(lambda: systemd.recv(4096) == wanted, "the status")
            process.send_signal(signal.SIGTERM)
            until(lambda: systemd.recv(4096) == b"STOPPING=1", "the end")
            assert process.wait(DEADLINE_S) == 0


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`teg` on nothing but the standard library: no site-packages, no environment, nobody's configuration."""
    program = f"import sys; sys.path.insert(0, {str(ARCHIVE.parents[2])!r}); {TEG}"
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_restore_needs_nothing(tmp_path: Path) -> None:
    """Where nothing was ever run there is nothing to do, and nothing is made; it takes no library but Python's own."""
    done = bare("restore", "--root", str(tmp_path), "--run-dir", str(tmp_path / "run"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_restore_without_a_ledger_gives_the_whole_range_if_asked(tmp_path: Path) -> None:
    """The second line: whoever lost the ledger gets a board that is limited by nothing and locked by nobody."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    open_board("auto", root).request(LOW)
    arguments = ("restore", "--root", str(root), "--run-dir", str(tmp_path / "run"))
    assert bare(*arguments).returncode == 0
    assert open_board("auto", root).observe() == LOW
    done = bare(*arguments, "--to-board-range")
    assert (done.returncode, done.stderr) == (0, "")
    assert open_board("auto", root).observe() == HIGH
    assert open_board("auto", root).read_knobs()["emc.mrq_rate_locked"] == 0


def test_a_knob_that_does_not_go_back_is_exit_code_4(tmp_path: Path, run_dir: RunDir) -> None:
    """`teg restore` names it, keeps the ledger, and puts everything else back."""
    root = unpack(ARCHIVE.read_text(), tmp_path / "board")
    with clockd(run_dir, "--root", str(root)) as process, ClockClient(run_dir.socket, DEADLINE_S) as client:
        client.lease(LOW, LONG_S)
        process.kill()
        process.wait(DEADLINE_S)
    knob = root / "sys/class/devfreq/17000000.gpu/max_freq"
    real = knob.resolve()
    real.rename(real.with_name("gone"))
    done = bare("restore", "--root", str(root), "--run-dir", str(run_dir.root))
    assert done.returncode == 4
    assert "max_freq" in done.stderr
    assert "Traceback" not in done.stderr
    assert open_board("auto", root).observe().cores == 12
    real.with_name("gone").rename(real)
    assert bare("restore", "--root", str(root), "--run-dir", str(run_dir.root)).returncode == 0
    assert open_board("auto", root).observe() == HIGH
    assert not (run_dir.root / "clocks.ledger").exists()


def test_one_ledger_one_daemon(tmp_path: Path) -> None:
    """Two run directories over one ledger would be two daemons on one board: the second exits with 3."""
    state = str(tmp_path / "state")
    first, second = RunDir(tmp_path / "first"), RunDir(tmp_path / "second")
    with clockd(first, "--board", "virtual:agx-orin", "--state-dir", state):
        process = start(second, "--board", "virtual:agx-orin", "--state-dir", state)
        assert process.wait(DEADLINE_S) == 3, reaped(process)
        reaped(process)


def test_a_second_clockd_is_refused_and_the_first_unharmed(run_dir: RunDir, client: ClockClient) -> None:
    """A live socket is never taken over: exit code 3, and `teg restore` beside a live clockd too."""
    client.lease(LOW, LONG_S)
    for verb in ("clockd", "restore"):
        second = start(run_dir, "--board", "virtual:agx-orin", verb=verb)
        assert second.wait(DEADLINE_S) == 3, reaped(second)
        reaped(second)
    client.renew(LONG_S)
    assert observed(run_dir) == LOW


def test_a_stale_socket_is_replaced_and_a_stranger_is_not(run_dir: RunDir) -> None:
    """A socket that refuses connections belongs to the dead; a file that is no socket stays, exit code 3."""
    run_dir.make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(run_dir.socket))
    with clockd(run_dir, "--board", "virtual:agx-orin"), ClockClient(run_dir.socket, DEADLINE_S) as client:
        assert client.hello()["ok"]
        assert run_dir.socket.stat().st_mode & 0o777 == 0o660
    run_dir.socket.unlink()
    run_dir.socket.write_text("somebody's notes")
    stranger = start(run_dir, "--board", "virtual:agx-orin")
    assert stranger.wait(DEADLINE_S) == 3, reaped(stranger)
    reaped(stranger)
    assert run_dir.socket.read_text() == "somebody's notes"


def test_a_plain_machine_is_observed_only(tmp_path: Path, run_dir: RunDir) -> None:
    """Without a board clockd serves all the same, refuses leases, and ends with 0."""
    (tmp_path / "empty").mkdir()
    with (
        clockd(run_dir, "--root", str(tmp_path / "empty")) as process,
        ClockClient(run_dir.socket, DEADLINE_S) as client,
    ):
        assert client.hello()["observe_only"]
        with pytest.raises(LeaseRefused) as refused:
            client.lease(LOW, 1.0)
        assert refused.value.reason == "observe_only"
        assert reading(run_dir).observe_only
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_nobody_there_is_said_so(run_dir: RunDir) -> None:
    """Without clockd the client names the socket."""
    with ClockClient(run_dir.socket) as client, pytest.raises(ClockdUnavailable) as unavailable:
        client.hello()
    assert unavailable.value.socket == run_dir.socket


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workload", "mine"),
        ("--workload", "mine=/nonexistent"),
        ("--rate-hz", "0"),
        ("--power-limit-w", "200"),
        ("--board", "auto", "--faults", "/nonexistent"),
    ],
)
def test_wrong_arguments_are_usage_errors(run_dir: RunDir, arguments: tuple[str, ...]) -> None:
    """What cannot be is refused with exit code 2 before anything is opened."""
    process = start(run_dir, "--board", "virtual:agx-orin", *arguments)
    said = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == 2
    assert "Traceback" not in said
    assert not run_dir.root.exists()


def test_the_daemon_is_small(run_dir: RunDir, virtual: subprocess.Popen[str]) -> None:
    """Standard library only: below 20 MB on a board of files, below 24 MB with a virtual board and its physics."""
    until(lambda: reading(run_dir).energy_j > 0, "a few samples")
    status = Path(f"/proc/{virtual.pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 24_000
