# SPDX-License-Identifier: Apache-2.0
"""Every metric's name, kind, labels and help text, in one list.

Names follow Prometheus: prefix `teg_`, base units, `_total` on counters. The backend's metrics leave through Triton's
own endpoint (:8002), the governor's through its exporter (:9402).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_MODEL = ("model", "version")

BACKEND = (
    Metric("teg_requests_total", "counter", "Requests answered, by outcome.", (*_MODEL, "status")),
    Metric("teg_batches_total", "counter", "Batches executed.", _MODEL),
    Metric("teg_busy_seconds_total", "counter", "Time spent executing batches.", _MODEL),
    Metric("teg_queue_seconds", "histogram", "Time from arrival to execution.", _MODEL, LATENCY_BUCKETS_S),
    Metric("teg_request_seconds", "histogram", "Server-side latency, queueing included.", _MODEL, LATENCY_BUCKETS_S),
    Metric("teg_batch_size", "histogram", "Requests per executed batch.", _MODEL, BATCH_BUCKETS),
    Metric("teg_queue_depth", "gauge", "Requests waiting now.", _MODEL),
    Metric("teg_batch_limit", "gauge", "Largest batch allowed now.", _MODEL),
    Metric("teg_knobs_ignored_total", "counter", "Knob values that were out of range and not obeyed.", _MODEL),
    Metric(
        "teg_metric_drops_total",
        "counter",
        "Metric operations that were held back because Triton would refuse them.",
        _MODEL,
    ),
)

GOVERNOR = (
    Metric("teg_board_info", "gauge", "Always 1; the labels describe the board.", ("board", "virtual", "observe_only")),
    Metric("teg_board_energy_joules_total", "counter", "Energy since clockd started, whole module."),
    Metric("teg_board_energy_error_joules", "gauge", "Bound on the energy counter's error so far."),
    Metric("teg_board_power_watts", "gauge", "Power of the whole module."),
    Metric("teg_board_rail_watts", "gauge", "Power of one rail.", ("rail",)),
    Metric("teg_board_temperature_celsius", "gauge", "Temperature of one zone.", ("zone",)),
    Metric("teg_board_throttle_events_total", "counter", "Throttle and over-current events since clockd started."),
    Metric("teg_board_foreign_changes_total", "counter", "Clock changes made by somebody else under a lease."),
    Metric("teg_board_brief_throttles_total", "counter", "Brief over-current events since clockd started."),
    Metric("teg_board_power_missing_seconds_total", "counter", "Time without a power reading that could be trusted."),
    Metric("teg_board_power_same_seconds", "gauge", "For how long every rail has shown exactly the same."),
    Metric("teg_board_temperature_age_seconds", "gauge", "Age of the last temperature that could be read."),
    Metric("teg_clock_hertz", "gauge", "Observed clock.", ("domain",)),
    Metric("teg_clock_requested_hertz", "gauge", "Requested clock.", ("domain",)),
    Metric("teg_cores_online", "gauge", "CPU cores online."),
    Metric("teg_governor_up", "gauge", "Whether the governor holds its lease (1) or only observes (0)."),
    Metric("teg_trials_total", "counter", "Finished trials, by outcome.", ("outcome",)),
    Metric("teg_trial_invalid_total", "counter", "Invalid trials, by reason.", ("reason",)),
    Metric("teg_best_energy_joules_per_request", "gauge", "Energy per request at the best point found.", ("model",)),
    Metric("teg_best_latency_seconds", "gauge", "Constrained latency quantile at the best point found.", ("model",)),
    Metric("teg_slo_seconds", "gauge", "The latency objective.", ("model", "quantile")),
    Metric("teg_latency_seconds", "gauge", "Constrained latency quantile over the last window.", ("model", "quantile")),
    Metric("teg_slo_windows_total", "counter", "Judged windows, by verdict.", ("model", "verdict")),
    Metric("teg_governor_faults_total", "counter", "Faults met by the governor, by kind.", ("kind",)),
    Metric("teg_lease_refusals_total", "counter", "Leases that clockd refused, by reason.", ("reason",)),
    Metric("teg_request_failures_total", "counter", "Clock requests that failed on the board.", ("cause", "knob")),
    Metric("teg_knob_left_out", "gauge", "Always 1; a knob that the search does without, and why.", ("knob", "why")),
    Metric(
        "teg_training_phase",
        "gauge",
        "Always 1; whether training may run, and which model it trains.",
        ("phase", "model"),
    ),
    Metric("teg_training_duty", "gauge", "Share of the idle time that training may take."),
    Metric("teg_training_steps_total", "counter", "Training steps of the fine-tuning process."),
    Metric("teg_training_slices_total", "counter", "Slices of training between requests and rests."),
    Metric("teg_training_busy_seconds_total", "counter", "Time spent training, stretched on a virtual board."),
    Metric("teg_training_longest_stretch_seconds", "gauge", "The longest operation of the job that requests wait for."),
    Metric("teg_training_jobs", "gauge", "Fine-tuning jobs, by state.", ("state",)),
    Metric("teg_finetune_faults_total", "counter", "Faults met by the fine-tuning process, by kind.", ("kind",)),
    Metric("teg_predictor_error_ratio", "gauge", "Mean relative error of the latency predicted beside training."),
    Metric(
        "teg_predictor_interval_held_ratio", "gauge", "Share of windows whose latency lay in the interval predicted."
    ),
    Metric(
        "teg_server_faults_total", "counter", "Times the server or a model of it had to be started again.", ("kind",)
    ),
    Metric("teg_governor_alarm", "gauge", "Always 1; a fault that needs a person's attention now.", ("kind",)),
)
