# SPDX-License-Identifier: Apache-2.0
"""The rows that are automated, in the order in which they run: the short ones first."""

from __future__ import annotations

from .record import Row

ROWS = {
    row.number: row
    for row in (
        Row("17", "torn or lost tail of a log (power loss)", 400, "tails:power_lost"),
        Row("33", "what lies at the socket's path", 40, "sockets:at_the_path"),
        Row("32", "control socket: strangers, garbage, crowds", 11_020, "sockets:hostile", thin=20),
        Row("18", "corrupted history or ledger", 10_000, "damage:corrupted", thin=50),
        Row("35", "board unknown, or plain x86", 20, "nowhere:no_board"),
        Row("26", "wall clock steps and slews", 30, "wallclock:stepped"),
        Row("34", "two governors, two daemons, foreign writers", 30, "foreign:changed_by_others"),
        Row("3", "nodes vanish and come back", 50, "nodes:vanished"),
        Row("4", "EINVAL, out of range, order of min and max", 50, "order:inverted"),
        Row("6", "request silently ignored or clamped", 200, "ignored:ignored", thin=14),
        Row("7", "power negative, zero, not a number, empty, or ten times too high", 200, "readings:implausible"),
        Row("8", "power sensor frozen", 50, "readings:frozen"),
        Row("9", "temperature unreadable", 20, "readings:blind"),
        Row("10", "thermal or over-current throttle inside a trial", 100, "readings:throttled"),
        Row("11", "latency objective broken while exploring", 200, "exploring:broken", real=0, limit_s=5400.0, thin=39),
        Row("12", "load step x3 during a trial", 50, "exploring:stepped", real=0, thin=15),
        Row("13", "fit fails or takes long", 50, "fits:failing", real=0, thin=8),
        Row("25", "predictor wrong by half", 100, "predictions:wrong", real=0, limit_s=2400.0, thin=20),
        Row("29", "metrics port taken", 10, "port:taken", thin=4),
        Row("1", "sysfs write EPERM or EACCES", 100, "writes:denied", thin=10),
        Row("2", "EBUSY or EAGAIN, once and lasting", 100, "writes:busy"),
        Row("5", "short write", 50, "writes:short"),
        Row("16", "governor hangs", 50, "hangs:hung"),
        Row("14", "governor killed at any instant", 400, "governors:killed", real=400, thin=10),
        Row("15", "clockd killed at any instant", 236, "kills:clockd_killed", real=236, thin=10),
        Row("19", "disk full or EIO while paging out", 450, "paging_out:full", real=100, limit_s=2400.0, thin=61),
        Row("21", "page read back corrupted", 1_000, "flips:flipped", limit_s=1800.0, thin=100),
        Row(
            "24", "solver: infeasible, time-out, wrong answer", 2_000, "planner:asked", real=0, limit_s=2400.0, thin=43
        ),
        Row("20", "disk full while checkpointing", 50, "resumes:disk_full", real=50, thin=9),
        Row("22", "fine-tuner killed at any instant", 300, "resumes:killed", real=300, limit_s=5400.0, thin=50),
        Row("23", "Triton or a model's process killed", 220, "servers:killed", real=120, limit_s=1800.0, thin=13),
        Row("19j", "disk full or EIO while a job pages out", 300, "finetuning:no_room", 300, 5400.0, thin=100),
        Row("22j", "fine-tuning worker killed at any instant", 400, "finetuning:killed", 400, 5400.0, thin=80),
        Row("mutants", "safeguards taken away one by one", 24, "mutants:noticed", real=15, limit_s=2400.0, thin=4),
    )
}
