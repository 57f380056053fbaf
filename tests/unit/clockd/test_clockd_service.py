# SPDX-License-Identifier: Apache-2.0
"""clockd without its socket, on a virtual board in virtual time: leases, ledger, load, page."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boards.clocks import KNOBS, ClockPoint
from boards.physics import idle_power_w
from boards.virtual import VirtualBoard
from boards.virtual_faults import Faults
from governor.clockd.ledger import ClockLedger, Remembered
from governor.clockd.service import Clockd
from governor.clockd.virtual_load import VirtualLoad
from telemetry.board_page import BoardPage, BoardReading
from telemetry.durable import encode, read_log
from telemetry.instance_page import BOOKS, Counter, InstanceInfo, InstancePage
from telemetry.rundir import RunDir
from telemetry.trainer_page import JobNotice, TrainerPage

LOW = {"gpu_hz": 408_000_000, "gpu_min_hz": 306_000_000, "emc_hz": 665_600_000, "cpu_hz": 960_000_000, "cores": 4}
GPU_MAX = "/sys/class/devfreq/17000000.gpu/max_freq"
OWN_RANGE = ClockPoint(1_300_500_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)
TICK_S = 0.05


class Desk:
    """A clockd, its board and its time; `ask` is what a connection does."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1000.0
        self.run_dir = RunDir(folder)
        self.run_dir.make()
        self.board = VirtualBoard("virtual:agx-orin", lambda: self.now_s, self.sleep)
        self.originals = self.board.read_knobs()
        self.ledger = ClockLedger(folder / "clocks.ledger", "this-boot")
        page = BoardPage.create(self.run_dir.board_page)
        self.load = VirtualLoad(self.board, self.run_dir)
        self.clockd = Clockd(self.board, page, self.ledger, lambda: self.now_s, self.load)
        self._page = page
        self.pages: list[InstancePage | TrainerPage] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def run(self, seconds: float) -> None:
        """Let time pass, with a sample every 50 ms."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.clockd.tick()

    def ask(self, verb: str, holder: int = 1, **fields: Any) -> dict[str, Any]:
        return self.clockd.answer(holder, 4000 + holder, json.dumps({"verb": verb, **fields}).encode())

    def lease(self, point: dict[str, int] | None = None, ttl_ms: int = 2000, holder: int = 1) -> dict[str, Any]:
        return self.ask("lease", holder, point=LOW if point is None else point, ttl_ms=ttl_ms)

    def reading(self) -> BoardReading:
        reading = self._page.read()
        assert reading is not None
        return reading

    def instance(self, name: str = "digits_0_0", workload: str = "resnet") -> InstancePage:
        page = InstancePage.create(self.run_dir.instance_page(name))
        page.write_info(InstanceInfo("digits", "1", name, workload, 8, 0, 0.0, 0.99, 1.0))
        self.pages.append(page)
        return page

    def restored(self) -> bool:
        return self.board.read_knobs() == self.originals


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.clockd.close()
    for page in desk.pages:
        page.close()


def busy(page: InstancePage, seconds: float, batch: int = 4) -> None:
    page.count(Counter.BUSY_NS, round(1e9 * seconds))
    page.count(Counter.BUSY_BATCH_NS, round(1e9 * seconds * batch))


def test_a_lease_moves_the_clocks_and_says_what_became_of_it(desk: Desk) -> None:
    """The answer carries what was observed, and the page shows the lease at once."""
    answer = desk.lease()
    assert answer["ok"]
    assert answer["honoured"]
    assert answer["applied"]["observed"] == LOW
    reading = desk.reading()
    assert dict(zip(KNOBS, reading.observed, strict=True)) == LOW
    assert (reading.lease_pid, reading.virtual, reading.observe_only) == (4001, True, False)


def test_an_expired_lease_puts_the_clocks_back(desk: Desk) -> None:
    """Without renewal everything is as it was one time to live later, and the ledger is empty."""
    desk.lease(ttl_ms=1000)
    desk.run(0.9)
    assert desk.board.observe().cores == 4
    desk.run(0.2)
    assert desk.restored()
    assert not desk.ledger.pending()
    assert desk.reading().lease_pid == 0
    assert desk.ask("renew", ttl_ms=1000)["error"] == "no_lease"


def test_renewal_keeps_a_lease(desk: Desk) -> None:
    """Renewed in time it lives on, and ends when renewals stop."""
    desk.lease(ttl_ms=500)
    for _ in range(6):
        desk.run(0.4)
        assert desk.ask("renew", ttl_ms=500)["ok"]
    assert desk.board.observe().cores == 4
    desk.run(0.6)
    assert desk.restored()


def test_release_and_hanging_up_put_the_clocks_back(desk: Desk) -> None:
    """A lease ends with `release`, and with its connection."""
    desk.lease()
    assert desk.ask("release")["ok"]
    assert desk.restored()
    desk.lease()
    desk.clockd.gone(2)
    assert not desk.restored()
    desk.clockd.gone(1)
    assert desk.restored()


def test_a_second_holder_is_refused(desk: Desk) -> None:
    """Nobody else may take, renew or release a lease that lives."""
    desk.lease()
    assert desk.lease(holder=2)["error"] == "held"
    assert desk.ask("renew", 2, ttl_ms=1000)["error"] == "no_lease"
    assert desk.ask("release", 2)["error"] == "no_lease"
    assert desk.board.observe().cores == 4


def test_a_new_holder_starts_from_the_original_clocks(desk: Desk) -> None:
    """An expired lease is undone before the next one is granted, and the originals stay the original ones."""
    desk.lease(ttl_ms=100)
    desk.now_s += 0.2
    assert desk.lease({"gpu_hz": 612_000_000}, holder=2)["ok"]
    assert desk.board.observe() == ClockPoint(612_000_000, 306_000_000, 3_199_000_000, 2_201_600_000, 12)
    desk.ask("release", 2)
    assert desk.restored()


def test_moving_a_lease_keeps_the_originals(desk: Desk) -> None:
    """What a lease set is never taken for an original."""
    desk.lease()
    desk.lease({"gpu_hz": 1_020_000_000, "emc_hz": 2_133_000_000})
    desk.ask("release")
    assert desk.restored()


def test_only_the_table_is_offered(desk: Desk) -> None:
    """A value off the table is refused and nothing is written, not even the ledger."""
    assert desk.lease({"gpu_hz": 500_000_000})["error"] == "not_offered"
    assert desk.lease({"cores": 0})["error"] == "not_offered"
    assert not desk.ledger.pending()
    assert desk.restored()


def test_no_knob_is_written_before_the_ledger(desk: Desk) -> None:
    """If the originals cannot be made durable, the lease is refused and no clock has moved."""
    desk.ledger.path = desk.ledger.path.parent / "no-such-folder" / "clocks.ledger"
    refusal = desk.lease()
    assert (refusal["ok"], refusal["error"]) == (False, "ledger")
    assert desk.restored()
    assert desk.ask("status")["lease"] is None


def test_the_ledger_holds_every_original_while_a_lease_lives(desk: Desk) -> None:
    """What would be needed after a crash is on the disk: each knob file's own value."""
    desk.lease()
    assert [record["originals"] for record in read_log(desk.ledger.path)] == [desk.originals]


def test_a_clockd_that_died_is_recovered_from(desk: Desk, tmp_path: Path) -> None:
    """The next clockd on the same boot finds the ledger and puts the clocks back before it serves."""
    desk.lease()
    ledger = ClockLedger(desk.ledger.path, "this-boot")
    heir = Clockd(desk.board, BoardPage.create(tmp_path / "heir.page"), ledger, lambda: desk.now_s)
    heir.recover()
    assert desk.restored()
    assert not desk.ledger.pending()
    heir.close()


def test_a_reboot_voids_the_ledger(desk: Desk) -> None:
    """Another boot has reset the clocks: its originals are dropped, not written."""
    desk.ledger.remember({"gpu.max_freq": 408_000_000})
    assert ClockLedger(desk.ledger.path, "another-boot").restore(desk.board) is False
    assert desk.restored()
    assert not desk.ledger.pending()


WRONG_SUM = b'00000000 {"boot":"this-boot","originals":{"gpu.max_freq":1}}\n'


FUTURE = encode({"format": 2, "boot": "this-boot", "board": "auto", "originals": {"gpu.max_freq": 408_000_000}})


@pytest.mark.parametrize(
    "damage",
    [b"torn", WRONG_SUM, bytes(40), b"", FUTURE, FUTURE[:-9], b"\xff" * 200_000, encode({"format": 1})],
    ids=["torn", "wrong sum", "zeros", "emptied", "another format", "cut", "giant", "fields missing"],
)
def test_a_damaged_ledger_gives_the_boards_own_range_and_is_kept(desk: Desk, damage: bytes) -> None:
    """Damage never stops a restore: the board's own range takes the place, and the file is set aside."""
    desk.board.request(ClockPoint(**LOW))
    desk.ledger.path.write_bytes(damage)
    assert desk.ledger.restore(desk.board)
    assert desk.board.observe() == OWN_RANGE
    assert desk.board.read_knobs()["emc.mrq_rate_locked"] == 0
    assert desk.ledger.path.with_name("clocks.ledger.corrupt-0").read_bytes() == damage
    assert not desk.ledger.pending()
    assert desk.ask("status")["ledgers_damaged"] == 1


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_no_ledger(desk: Desk, kind: str) -> None:
    """Something else at the ledger's place is set aside as it is, never followed, never waited for."""
    path, elsewhere = desk.ledger.path, desk.ledger.path.with_name("elsewhere")
    elsewhere.write_bytes(encode({"format": 1, "boot": "this-boot", "board": "auto", "originals": {}}))
    {"folder": path.mkdir, "link": lambda: path.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(path)}[kind]()
    desk.board.request(ClockPoint(**LOW))
    assert desk.ledger.restore(desk.board)
    assert desk.board.observe() == OWN_RANGE
    assert not desk.ledger.pending()
    assert elsewhere.exists()


def test_an_unknown_original_gets_the_boards_own_range(desk: Desk) -> None:
    """A value that is no number, or none the board can have, is as good as missing; the others count."""
    originals = desk.originals | {"gpu.max_freq": "1020000000", "policy0.scaling_max_freq": 10**30, "cpu5.online": 0}
    record = {"format": 1, "boot": "this-boot", "board": "auto", "originals": originals}
    desk.ledger.path.write_bytes(encode(record))
    assert desk.ledger.restore(desk.board)
    assert desk.board.read_knobs() == desk.originals | {"cpu5.online": 0}


def test_the_ledger_of_another_board_is_left_alone(desk: Desk) -> None:
    """Its clocks are not this board's: no lease is granted, and the record waits for who can restore it."""
    ClockLedger(desk.ledger.path, "this-boot", "nvml:0").remember({"nvml.power_limit_mw": 300_000})
    desk.clockd.recover()
    assert desk.lease()["error"] == "not_restored"
    assert "nvml:0" in desk.ask("status")["not_restored"]
    assert desk.ledger.pending()
    desk.ledger.path.unlink()


def test_one_holds_the_ledger(desk: Desk) -> None:
    """Whoever came first keeps everybody else from restoring, and forgetting, under its feet."""
    assert desk.ledger.lock()
    assert not ClockLedger(desk.ledger.path, "this-boot").lock()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_moves_no_clock(desk: Desk, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Originals that cannot be written down are not lost: the lease is refused, and granted when there is room."""

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, call, fail)
        assert desk.lease()["error"] == "ledger"
    assert desk.restored()
    assert not desk.ledger.pending()
    assert desk.lease()["ok"]


def test_a_restore_that_fails_is_tried_again(desk: Desk) -> None:
    """Clocks that do not go back stay in the ledger, block new leases, and are retried."""
    desk.lease(ttl_ms=100)
    desk.board.faults = Faults(ignored=frozenset({"gpu_hz"}))
    desk.run(2.0)
    assert desk.ledger.pending()
    assert desk.ask("status")["restore_pending"]
    assert desk.lease()["error"] == "not_restored"
    desk.board.faults = Faults()
    desk.run(1.5)
    assert desk.restored()
    assert desk.lease()["ok"]


def test_an_ignored_write_is_told(desk: Desk) -> None:
    """A lease whose clocks do not follow is granted with `honoured` false: the observed point is the truth."""
    desk.board.faults = Faults(ignored=frozenset({"emc_hz"}))
    answer = desk.lease()
    assert (answer["ok"], answer["honoured"]) == (True, False)
    assert answer["applied"]["observed"]["emc_hz"] == 3_199_000_000


def test_a_foreign_change_ends_the_lease_within_a_tick(desk: Desk) -> None:
    """What somebody else wrote stays, what still reads as we left it goes back, and everybody is told."""
    desk.lease(ttl_ms=5000)
    desk.run(0.2)
    assert desk.reading().foreign_changes == 0
    desk.board.tree.write(GPU_MAX, "1020000000")
    desk.run(TICK_S)
    assert (desk.reading().foreign_changes, desk.reading().lease_pid) == (1, 0)
    assert desk.board.read_knobs() == desk.originals | {"gpu.max_freq": 1_020_000_000}
    assert desk.ask("renew", ttl_ms=1000)["error"] == "no_lease"
    assert not desk.ledger.pending()
    desk.run(2.0)
    assert desk.board.read_knobs()["gpu.max_freq"] == 1_020_000_000


def test_after_a_foreign_change_the_new_clocks_are_the_originals(desk: Desk) -> None:
    """The next lease goes back to what the other one wanted."""
    desk.lease(ttl_ms=5000)
    desk.board.tree.write(GPU_MAX, "1020000000")
    desk.run(TICK_S)
    assert desk.lease({"gpu_hz": 612_000_000})["ok"]
    desk.ask("release")
    assert desk.board.read_knobs() == desk.originals | {"gpu.max_freq": 1_020_000_000}


def test_the_ledger_keeps_our_originals_through_a_foreign_change(desk: Desk) -> None:
    """While not everything of ours is back the record is what it was, and what is theirs is left alone at each try."""
    desk.lease(ttl_ms=5000)
    desk.board.tree.write(GPU_MAX, "1020000000")
    desk.board.faults = Faults(ignored=frozenset({"cpu_hz"}))
    desk.run(2.0)
    assert [record["originals"] for record in read_log(desk.ledger.path)] == [desk.originals]
    assert "policy" in desk.ask("status")["not_restored"]
    desk.board.tree.write(GPU_MAX, "918000000")
    desk.board.faults = Faults()
    desk.run(1.5)
    assert desk.board.read_knobs() == desk.originals | {"gpu.max_freq": 918_000_000}
    assert desk.ask("status")["not_restored"] == ""


def test_a_memory_lock_that_is_lost_is_a_foreign_change(desk: Desk) -> None:
    """The lock flag counts as a knob: whoever takes it away owns the memory clock from then on."""
    desk.lease(ttl_ms=5000)
    desk.board.tree.write("/sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked", "0")
    desk.run(TICK_S)
    assert desk.reading().foreign_changes == 1
    assert desk.restored()


def test_cores_that_somebody_else_takes_off_stay_off(desk: Desk) -> None:
    """With them goes their policy's clock, which is nobody's to restore while they are off."""
    desk.lease({"gpu_hz": 408_000_000}, ttl_ms=5000)
    for cpu in (8, 9, 10, 11):
        desk.board.tree.write(f"/sys/devices/system/cpu/cpu{cpu}/online", "0")
    desk.run(TICK_S)
    assert not desk.ledger.pending()
    assert (desk.board.observe().cores, desk.board.observe().gpu_hz) == (8, OWN_RANGE.gpu_hz)
    assert desk.lease({"cpu_hz": 960_000_000})["ok"]


def test_a_lock_of_somebody_else_s_may_be_theirs_to_end(desk: Desk) -> None:
    """Memory that was locked before the lease, and is let go under it, is not locked again."""
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    desk.board.tree.write(f"{emc}/mrq_rate_locked", "1")
    desk.board.tree.write(f"{emc}/rate", "2133000000")
    desk.now_s += 1.0
    assert desk.lease({"emc_hz": 665_600_000}, ttl_ms=5000)["honoured"]
    desk.board.tree.write(f"{emc}/mrq_rate_locked", "0")
    desk.run(TICK_S)
    assert desk.reading().foreign_changes == 1
    assert not desk.ledger.pending()
    assert desk.board.read_knobs()["emc.mrq_rate_locked"] == 0


def test_clocks_that_over_current_takes_are_nobody_s_change(desk: Desk) -> None:
    """What runs may differ from what was asked for: only knob files tell who wrote."""
    desk.lease(ttl_ms=5000)
    desk.board.faults = Faults(over_current={"oc3": 15.0})
    desk.run(1.0)
    assert (desk.reading().foreign_changes, desk.reading().lease_pid) == (0, 4001)


@pytest.mark.parametrize("knob", ["gpu_hz", "emc_hz", "cpu_hz", "cores"])
@pytest.mark.parametrize(("fault", "cause"), [("denied", "denied"), ("busy", "busy")])
def test_a_request_that_fails_says_why_and_leaves_nothing(desk: Desk, knob: str, fault: str, cause: str) -> None:
    """The answer carries cause and knob, the fault is counted, and once it clears every clock is back."""
    desk.board.faults = Faults(**{fault: frozenset({knob})})
    refusal = desk.lease()
    assert (refusal["error"], refusal["cause"], refusal["knob"]) == ("board", cause, knob)
    assert desk.ask("status")["lease"] is None
    assert desk.ask("status")["board_faults"][cause] >= 1
    desk.board.faults = Faults()
    desk.run(1.5)
    assert desk.restored()
    assert not desk.ledger.pending()
    assert desk.lease()["ok"]


@pytest.mark.parametrize("knob", ["emc_hz", "gpu_hz", "cores"])
def test_a_knob_that_is_denied_for_good_blocks_no_other(desk: Desk, knob: str) -> None:
    """It never moved, so everything is as it was: what asks for the other knobs alone gets its lease."""
    desk.board.faults = Faults(denied=frozenset({knob}))
    for _ in range(3):
        assert desk.lease()["cause"] == "denied"
        assert not desk.ledger.pending()
        assert desk.restored()
    assert desk.lease({name: value for name, value in LOW.items() if not knob.startswith(name[:3])})["ok"]


def test_a_part_that_goes_takes_nothing_with_it(desk: Desk) -> None:
    """The lease, the page and the other parts live on; its clocks stay in the ledger until it is back and restored."""
    desk.lease(ttl_ms=5000)
    desk.board.faults = Faults(missing=frozenset({"gpu_hz"}))
    desk.run(0.5)
    reading = desk.reading()
    assert (reading.lease_pid, reading.observed[0], reading.observed[3]) == (4001, None, LOW["cpu_hz"])
    assert reading.foreign_changes == 0
    assert desk.ask("release")["error"] == "not_restored"
    assert desk.ask("table")["table"]["gpu_hz"] == []
    assert desk.lease({"cores": 8}, ttl_ms=1000)["ok"]
    assert [record["originals"] for record in read_log(desk.ledger.path)] == [desk.originals]
    desk.run(1.5)
    assert desk.board.observe().cores == 12
    desk.board.faults = Faults()
    desk.run(32.0)
    assert desk.restored()
    assert not desk.ledger.pending()
    assert desk.ask("table")["table"]["gpu_hz"]


def test_temperatures_that_cannot_be_read_age(desk: Desk) -> None:
    """Clocks, leases and power go on; the page says for how long nobody has seen a temperature."""
    desk.run(1.5)
    assert desk.reading().zones_age_s < 1.1
    desk.board.faults = Faults(thermal="unreadable")
    desk.lease(ttl_ms=5000)
    desk.run(3.0)
    reading = desk.reading()
    assert 2.5 < reading.zones_age_s < 4.1
    assert (reading.lease_pid, reading.zones_celsius) == (4001, {})
    assert reading.power_missing_s == 0
    desk.board.faults = Faults()
    desk.run(1.5)
    assert desk.reading().zones_age_s < 1.1


def test_a_frozen_sensor_is_told(desk: Desk) -> None:
    """The page says for how long every rail has shown the same."""
    page = desk.instance()
    for _ in range(20):
        busy(page, 0.02)
        desk.run(TICK_S)
    assert desk.reading().power_same_s < 0.5
    desk.board.faults = Faults(sensor="frozen")
    for _ in range(60):
        busy(page, 0.03)
        desk.run(TICK_S)
    assert desk.reading().power_same_s > 2.5


@pytest.mark.parametrize("sensor", ["negative", "zero", "nan", "empty"])
def test_implausible_power_is_missing_time(desk: Desk, sensor: Any) -> None:
    """Nothing that cannot be true is published or counted."""
    desk.run(1.0)
    before = desk.reading()
    desk.board.faults = Faults(sensor=sensor)
    desk.run(1.0)
    during = desk.reading()
    assert (during.energy_j, during.power_w) == (before.energy_j, before.power_w)
    assert during.power_missing_s == pytest.approx(before.power_missing_s + 1.0)


def test_throttling_is_no_foreign_change(desk: Desk) -> None:
    """A clock that the board itself takes away under heat is not blamed on anybody."""
    desk.lease({"gpu_hz": 1_020_000_000, "gpu_min_hz": 1_020_000_000}, ttl_ms=5000)
    desk.board.faults = Faults(throttled=True)
    desk.run(0.5)
    assert desk.reading().observed[0] == 306_000_000
    assert desk.reading().foreign_changes == 0


def test_busy_pages_raise_power_and_joules(desk: Desk) -> None:
    """Busy time in an instance page is charged as the page's workload; energy only grows."""
    page = desk.instance()
    desk.run(1.0)
    at_rest = desk.reading()
    joules = [at_rest.energy_j]
    for _ in range(40):
        busy(page, 0.04)
        desk.run(TICK_S)
        joules.append(desk.reading().energy_j)
    assert desk.reading().power_w > at_rest.power_w + 10
    assert joules == sorted(joules)
    expected = desk.board.workloads["resnet"].busy_power_w(desk.board.observe(), 4)
    assert desk.reading().power_w == pytest.approx(0.8 * expected + 0.2 * at_rest.power_w, abs=0.3)


def test_the_counter_is_right_within_its_own_bound(desk: Desk) -> None:
    """Bursts of load through a sensor that averages and rounds: the joules are those drawn, to less than the bound."""
    page, generator, busy_s = desk.instance(), random.Random(2), 0.0
    desk.run(1.0)
    before = desk.reading()
    for _ in range(60):
        busy_s += (spent := generator.choice((0.0, 0.0, 0.02, 0.05, 0.13)))
        busy(page, spent)
        desk.run(0.15)
    desk.run(1.0)
    after, point = desk.reading(), desk.board.observe()
    idle_w = idle_power_w(point)
    drawn_j = 10.0 * idle_w + busy_s * (desk.board.workloads["resnet"].busy_power_w(point, 4) - idle_w)
    counted_j = after.energy_j - before.energy_j
    assert abs(counted_j - drawn_j) < after.energy_error_j
    assert counted_j == pytest.approx(drawn_j, rel=0.01)


def test_busy_time_from_before_is_not_charged(desk: Desk) -> None:
    """A page that was busy for an hour before clockd came owes nothing."""
    page = desk.instance()
    busy(page, 3600.0)
    desk.run(0.5)
    assert desk.load.board.backlog_s == 0


def test_new_clocks_reach_the_pages_at_once(desk: Desk) -> None:
    """When the lease is answered, every page already has its stretch; when it ends, every page has it back."""
    page = desk.instance()
    desk.run(TICK_S)
    assert page.stretch(1) == pytest.approx(1.0)
    desk.lease(ttl_ms=300)
    assert page.stretch(1) == pytest.approx(desk.board.slowdowns("resnet", (1,))[0])
    assert page.stretch(1) > 2
    desk.run(0.4)
    assert page.stretch(1) == pytest.approx(1.0)


def test_a_new_page_gets_its_stretch_within_a_tick(desk: Desk) -> None:
    """An instance that comes up while clocks are low is slowed down from its first batches on."""
    desk.lease(ttl_ms=5000)
    page = desk.instance("late_0_0", "bert")
    desk.run(TICK_S)
    assert page.stretch(4) == pytest.approx(desk.board.slowdowns("bert", (4,))[0])


def test_without_clockd_nothing_is_slowed_down(desk: Desk) -> None:
    """A virtual board that ends takes its stretch with it."""
    page = desk.instance()
    desk.lease()
    assert page.stretch(1) > 2
    desk.load.close()
    assert page.stretch(1) == 1.0


def test_an_unknown_workload_is_told(desk: Desk) -> None:
    """A page that names a surface nobody has is neither slowed nor charged, and status says so."""
    page = desk.instance("odd_0_0", "quantum")
    desk.lease()
    busy(page, 1.0)
    desk.run(0.5)
    assert desk.ask("status")["load"]["unknown_workloads"] == {"odd_0_0": "quantum"}
    assert page.stretch(1) == 1.0
    assert desk.load.board.backlog_s == 0


def test_a_restarted_instance_is_seen_as_new(desk: Desk) -> None:
    """The same name with a new file is charged from its own beginning."""
    busy(desk.instance(), 5.0)
    desk.run(TICK_S)
    page = desk.instance()
    desk.lease(ttl_ms=5000)
    desk.run(TICK_S)
    busy(page, 0.02)
    desk.run(TICK_S)
    assert page.stretch(1) > 2
    assert desk.load.board.backlog_s == 0


def test_files_that_are_no_pages_are_passed_over(desk: Desk) -> None:
    """A stray file in the folder hurts nobody."""
    (desk.run_dir.instances / "stray.page").write_bytes(b"hello")
    page = desk.instance()
    desk.lease()
    assert page.stretch(1) > 2


def test_training_is_charged(desk: Desk) -> None:
    """Busy time of the trainer's page costs energy as training of what is served."""
    trainer = TrainerPage.create(desk.run_dir.trainer_page)
    desk.pages.append(trainer)
    desk.run(1.0)
    at_rest = desk.reading().power_w
    for _ in range(20):
        trainer.slice_done(50_000_000)
        desk.run(TICK_S)
    expected = desk.board.workloads["resnet"].busy_power_w(desk.board.observe(), 16, training=True)
    assert desk.reading().power_w == pytest.approx(expected, abs=0.3)
    assert expected > at_rest + 10


def test_training_is_slowed_down_as_the_model_that_it_trains(desk: Desk) -> None:
    """By the training surface at the clocks in force, told whenever they change; what keeps books is no load."""
    trainer = TrainerPage.create(desk.run_dir.trainer_page)
    desk.pages.append(trainer)
    desk.instance("books_0_0", BOOKS)
    desk.instance("first_0_0", "resnet")
    page = desk.instance("second_0_0", "bert")
    page.write_info(InstanceInfo("second", "1", "second_0_0", "bert", 8, 0, 0.0, 0.99, 1.0))
    desk.run(1.0)
    assert trainer.slowdown == pytest.approx(1.0)
    desk.lease(ttl_ms=5000)
    desk.run(TICK_S)
    assert trainer.slowdown == pytest.approx(desk.board.slowdowns("resnet", (16,), training=True)[0], rel=1e-5)
    trainer.write_notice(JobNotice("job", "second"))
    desk.run(TICK_S)
    assert trainer.slowdown == pytest.approx(desk.board.slowdowns("bert", (16,), training=True)[0], rel=1e-5)
    assert not desk.load.unknown_workloads
    desk.load.close()
    assert trainer.slowdown == 0.0


def test_a_bad_sensor_leaves_a_gap_and_not_a_number(desk: Desk) -> None:
    """Readings that cannot be true are counted, never integrated; the bound grows by what they hide."""
    desk.run(1.0)
    before = desk.reading()
    desk.board.faults = Faults(sensor="negative")
    desk.run(1.0)
    during = desk.reading()
    assert during.energy_j == before.energy_j
    assert desk.ask("status")["sensor_faults"] == {"power": 20}
    desk.board.faults = Faults()
    desk.run(0.5)
    after = desk.reading()
    assert after.energy_j == pytest.approx(before.energy_j + 1.5 * before.power_w, rel=0.02)
    assert after.energy_error_j > before.energy_error_j + 0.9 * before.power_w


def test_a_fault_that_lasts_is_logged_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty samples a second fail; one line says so. Rails that read but add up to nothing are such a fault too."""
    desk.board.faults = Faults(sensor="zero")
    desk.run(1.0)
    assert desk.ask("status")["sensor_faults"] == {"power": 20}
    assert len([line for line in caplog.messages if "power" in line]) == 1


def test_heat_is_on_the_page_with_the_clock_that_it_took(desk: Desk) -> None:
    """Who sees the clock fall sees why: signs of throttling are read with it, not up to a second later."""
    desk.lease({"gpu_hz": 1_020_000_000, "gpu_min_hz": 1_020_000_000}, ttl_ms=5000)
    desk.run(1.1)
    desk.board.faults = Faults(throttled=True)
    while desk.reading().observed[0] == 1_020_000_000:
        desk.run(TICK_S)
    assert desk.reading().throttle_events == 1


def test_throttling_is_counted(desk: Desk) -> None:
    """An alert that comes up is one event."""
    desk.run(1.5)
    desk.board.faults = Faults(throttled=True)
    desk.run(3.0)
    assert desk.reading().throttle_events == 1


def test_without_a_board_clockd_only_observes(tmp_path: Path) -> None:
    """On a plain machine hello says so, leases are refused with that reason, and the page says so too."""
    page = BoardPage.create(tmp_path / "board.page")
    clockd = Clockd(None, page, ClockLedger(tmp_path / "ledger", ""), lambda: 1.0, why="not a Jetson")
    clockd.recover()
    clockd.tick()
    hello = clockd.answer(1, 1, b'{"verb":"hello"}')
    assert (hello["observe_only"], hello["reason"], hello["pid"]) == (True, "not a Jetson", os.getpid())
    refusal = clockd.answer(1, 1, b'{"verb":"lease","point":{"cores":4},"ttl_ms":1000}')
    assert (refusal["error"], refusal["message"]) == ("observe_only", "not a Jetson")
    reading = page.read()
    assert reading is not None
    assert reading.observe_only
    assert clockd.close()


def test_a_ledger_without_its_board_waits(tmp_path: Path) -> None:
    """Clocks that an earlier clockd left, on a board that is not there any more: not forgotten, and told at the end."""
    ledger = ClockLedger(tmp_path / "ledger", "this-boot")
    ledger.remember({"gpu.max_freq": 1_300_500_000})
    clockd = Clockd(None, BoardPage.create(tmp_path / "board.page"), ledger, lambda: 1.0, why="not a Jetson")
    clockd.recover()
    clockd.tick()
    assert json.loads(json.dumps(clockd.answer(1, 1, b'{"verb":"status"}')))["restore_pending"]
    assert not clockd.close()
    assert ledger.read() == Remembered("this-boot", "auto", {"gpu.max_freq": 1_300_500_000})


def test_what_is_to_hold_with_a_lease_is_asked_for_once(desk: Desk) -> None:
    """A power limit, say: after the originals are written down, before the first request, not at every move."""
    asked: list[bool] = []
    page = BoardPage.create(desk.run_dir.root / "other.page")
    begin = lambda: asked.append(desk.ledger.pending())  # noqa: E731
    clockd = Clockd(desk.board, page, desk.ledger, lambda: desk.now_s, begin=begin)
    line = json.dumps({"verb": "lease", "point": LOW, "ttl_ms": 1000}).encode()
    for _ in range(3):
        assert clockd.answer(1, 1, line)["ok"]
    assert asked == [True]
    assert clockd.close()


def test_notes_are_cut_to_fit(desk: Desk) -> None:
    """A board with much to say keeps the answer short, and says where the rest is."""
    desk.board.notes = tuple(f"note {number} of many " * 10 for number in range(40))
    notes = desk.ask("hello")["notes"]
    assert notes[-1].endswith("more: teg doctor")
    assert len(json.dumps(desk.ask("status"))) < 4096


def test_answers_fit_the_line(desk: Desk) -> None:
    """Every answer is shorter than the protocol's longest line, with many instances too."""
    for number in range(20):
        desk.instance(f"some_model_with_a_name_{number}_0", "unknown")
    desk.lease()
    desk.run(0.1)
    for verb in ("hello", "table", "status"):
        assert len(json.dumps(desk.ask(verb))) < 4096
