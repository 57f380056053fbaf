# SPDX-License-Identifier: Apache-2.0
"""The governor's metrics for Prometheus, collected from its status and the board page at each scrape.

Names and help texts come from `telemetry.metrics`. A port that is taken never stops the governor: it is tried again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from boards.clocks import KNOBS
from telemetry.board_page import BoardReading
from telemetry.metrics import GOVERNOR

from .status import Phase, Status
from .training_status import TrainingStatus
from .trial import Invalid

RETRY_S = 30.0
Row = tuple[tuple[str, ...], float]


class Source(Protocol):
    """Where the figures come from; called from the scraper's thread."""

    def status(self) -> Status:
        """The governor's status."""
        ...

    def board(self) -> BoardReading | None:
        """The board's latest reading."""
        ...


class GovernorCollector:
    """A prometheus_client collector; `describe` keeps registration from scraping."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Nothing: families come and go with what is known."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of `telemetry.metrics.GOVERNOR` that has something to say now."""
        rows = governor_rows(self._source.status())
        if (board := self._source.board()) is not None:
            rows |= board_rows(board)
        for metric in GOVERNOR:
            if not rows.get(metric.name):
                continue
            family_type = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = family_type(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
            for labels, value in rows[metric.name]:
                family.add_metric(labels, value)
            yield family


def board_rows(board: BoardReading) -> dict[str, list[Row]]:
    """Label values and value per metric name, from a board reading."""
    clocks = {"teg_clock_hertz": board.observed, "teg_clock_requested_hertz": board.requested}
    rows: dict[str, list[Row]] = {
        name: [
            ((knob.removesuffix("_hz"),), value)
            for knob, value in zip(KNOBS, values, strict=True)
            if value is not None and knob.endswith("_hz")
        ]
        for name, values in clocks.items()
    }
    labels = (board.board, str(board.virtual).lower(), str(board.observe_only).lower())
    cores = board.observed[KNOBS.index("cores")]
    return rows | {
        "teg_board_info": [(labels, 1)],
        "teg_board_energy_joules_total": [((), board.energy_j)],
        "teg_board_energy_error_joules": [((), board.energy_error_j)],
        "teg_board_power_watts": [((), board.power_w)],
        "teg_board_rail_watts": [((rail,), watts) for rail, watts in board.rails_w.items()],
        "teg_board_temperature_celsius": [((zone,), celsius) for zone, celsius in board.zones_celsius.items()],
        "teg_board_throttle_events_total": [((), board.throttle_events)],
        "teg_board_foreign_changes_total": [((), board.foreign_changes)],
        "teg_board_brief_throttles_total": [((), board.brief_throttles)],
        "teg_board_power_missing_seconds_total": [((), board.power_missing_s)],
        "teg_board_power_same_seconds": [((), board.power_same_s)],
        "teg_board_temperature_age_seconds": [((), board.zones_age_s)],
        "teg_cores_online": [] if cores is None else [((), cores)],
    }


def governor_rows(status: Status) -> dict[str, list[Row]]:
    """Label values and value per metric name, from the governor's status.

    Its tick goes on while a scraper reads: every mapping is copied, which no tick can come between.
    """
    trials = list(status.trials)
    outcomes = Counter(type(trial.outcome).__name__.lower() for trial in trials)
    reasons = Counter(trial.outcome.reason for trial in trials if isinstance(trial.outcome, Invalid))
    best, models = status.best, tuple(status.slos)
    rows: dict[str, list[Row]] = {
        "teg_governor_up": [((), float(status.leased and status.phase is not Phase.WAITING))],
        "teg_trials_total": [((outcome,), count) for outcome, count in outcomes.items()],
        "teg_trial_invalid_total": [((reason,), count) for reason, count in reasons.items()],
        "teg_best_energy_joules_per_request": [((model,), best.energy_j) for model in models] if best else [],
        "teg_best_latency_seconds": _best_latencies(status),
        "teg_slo_seconds": [((model, f"{slo.quantile:g}"), slo.limit_s) for model, slo in dict(status.slos).items()],
        "teg_latency_seconds": [
            ((model, f"{status.slos[model].quantile:g}"), latency_s)
            for model, latency_s in dict(status.latency_s).items()
            if model in status.slos
        ],
        "teg_slo_windows_total": [(key, count) for key, count in dict(status.windows).items()],
        "teg_governor_faults_total": [((kind,), count) for kind, count in dict(status.faults).items()],
        "teg_lease_refusals_total": [((reason,), count) for reason, count in dict(status.refusals).items()],
        "teg_request_failures_total": [(key, count) for key, count in dict(status.failures).items()],
        "teg_knob_left_out": [(pair, 1) for pair in dict(status.left_out).items()],
        "teg_governor_alarm": [((kind,), 1) for kind in dict(status.alarms)],
        "teg_server_faults_total": [((kind,), count) for kind, count in status.server_faults.items()],
    }
    return rows | training_rows(status.training)


def training_rows(standing: TrainingStatus) -> dict[str, list[Row]]:
    """The same of fine-tuning; nothing but what the predictor knows while no fine-tuning process is there."""
    known = {
        "teg_predictor_error_ratio": standing.error_ratio,
        "teg_predictor_interval_held_ratio": standing.held_ratio,
    }
    rows: dict[str, list[Row]] = {name: [((), ratio)] for name, ratio in known.items() if not math.isnan(ratio)}
    trainer = standing.trainer
    if trainer is None:
        return rows
    return rows | {
        "teg_training_phase": [((standing.phase, trainer.notice.model), 1)],
        "teg_training_duty": [((), standing.limits.duty)],
        "teg_training_steps_total": [((), trainer.steps)],
        "teg_training_slices_total": [((), trainer.slices)],
        "teg_training_busy_seconds_total": [((), trainer.busy_ns / 1e9)],
        "teg_training_longest_stretch_seconds": [((), standing.longest_s)],
        "teg_training_jobs": [((state,), count) for state, count in trainer.jobs.items()],
        "teg_finetune_faults_total": [((kind,), count) for kind, count in trainer.faults.items()],
    }


def _best_latencies(status: Status) -> list[Row]:
    """Told in the first model's seconds for the one nearest its limit; no other takes a larger share of its own."""
    best, slos = status.best, dict(status.slos)
    if best is None or not slos:
        return []
    share = best.latency_s / next(iter(slos.values())).limit_s
    return [((model,), share * slo.limit_s) for model, slo in slos.items()]


class Exporter:
    """Serves one collector on `host:port`; call `poll` now and then: it binds, or tries again after half a minute."""

    def __init__(self, source: Source, host: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(GovernorCollector(source))
        self._source = source
        self._address = (host, port)
        self._clock = clock
        self._next_s = clock()
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def poll(self) -> None:
        """Bind if that is due; a failure is logged and counted as not serving."""
        if self._server is not None or self._clock() < self._next_s:
            return
        host, port = self._address
        try:
            self._server = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            text = f"{host}:{port} is not ours: {error}; next try in {RETRY_S:.0f} s"
            self._source.status().fault("metrics", text)
            self._next_s = self._clock() + RETRY_S

    @property
    def port(self) -> int | None:
        """The port served, None while it could not be bound."""
        return self._server[0].server_port if self._server else None

    def close(self) -> None:
        """Stop serving."""
        if self._server:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
