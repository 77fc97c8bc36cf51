from __future__ import annotations

from prometheus_client import generate_latest

from decalog.meter import Meter


def read(meter: Meter, name: str, **labels: str) -> float | None:
    return meter.registry.get_sample_value(name, labels)


def test_decisions_are_counted_by_action_and_mode_and_fallbacks_by_reason() -> None:
    meter = Meter()
    for fallback in ("", "", "no_model"):
        meter.decided("fraud", "allow", mode="fallback" if fallback else "live", fallback=fallback)
    assert read(meter, "decalog_decisions_total", system="fraud", action="allow", mode="live") == 2
    assert read(meter, "decalog_decisions_total", system="fraud", action="allow", mode="fallback") == 1
    assert read(meter, "decalog_fallbacks_total", system="fraud", reason="no_model") == 1
    assert read(meter, "decalog_fallbacks_total", system="fraud", reason="") is None


def test_predictions_are_counted_by_size_so_that_a_shift_shows() -> None:
    meter = Meter()
    for value in (0.0004, 0.004, 0.4):
        meter.predicted("fraud", {"p_fraud": value})
    labels = {"system": "fraud", "head": "p_fraud"}
    buckets = [read(meter, "decalog_prediction_bucket", le=le, **labels) for le in ("0.0005", "0.005", "0.5", "+Inf")]
    assert buckets == [1, 2, 3, 3]


def test_stages_are_seconds() -> None:
    meter = Meter()
    meter.took("fraud", {"parse": 40, "model": 2_000})
    meter.took("fraud", {"parse": 60})
    assert read(meter, "decalog_stage_seconds_sum", system="fraud", stage="parse") == 0.0001
    assert read(meter, "decalog_stage_seconds_count", system="fraud", stage="parse") == 2
    assert read(meter, "decalog_stage_seconds_sum", system="fraud", stage="model") == 0.002


def test_rows_commits_and_failed_refreshes_are_counted() -> None:
    meter = Meter()
    meter.row("fraud", "event", status="rejected")
    meter.committed(12, 5)
    meter.committed(20, 8)
    meter.not_refreshed()
    assert read(meter, "decalog_rows_total", system="fraud", kind="event", status="rejected") == 1
    assert read(meter, "decalog_log_position") == 20
    assert (read(meter, "decalog_commit_records_count"), read(meter, "decalog_commit_records_sum")) == (2, 13)
    assert read(meter, "decalog_refresh_failures_total") == 1


def test_two_meters_in_one_process_count_apart() -> None:
    one, two = Meter(), Meter()
    one.row("fraud", "event", status="accepted")
    assert b"decalog_rows_total{" in generate_latest(one.registry)
    assert b"decalog_rows_total{" not in generate_latest(two.registry)
