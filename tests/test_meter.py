from __future__ import annotations

from prometheus_client import generate_latest

from decalog.meter import Decided, Meter


def read(meter: Meter, name: str, **labels: str) -> float | None:
    return meter.registry.get_sample_value(name, labels)


def decided(fallback: str = "", stages_us: dict[str, int] | None = None, p_fraud: float | None = None) -> Decided:
    predictions = {} if p_fraud is None else {"p_fraud": p_fraud}
    return Decided("allow", "fallback" if fallback else "live", fallback, stages_us or {}, predictions)


def metered(*decisions: Decided) -> Meter:
    meter = Meter()
    for decision in decisions:
        meter.decided("fraud", decision)
    meter.committed(len(decisions), len(decisions))
    return meter


def test_decisions_are_counted_by_action_and_mode_and_fallbacks_by_reason() -> None:
    meter = metered(decided(), decided(), decided("no_model"))
    assert read(meter, "decalog_decisions_total", system="fraud", action="allow", mode="live") == 2
    assert read(meter, "decalog_decisions_total", system="fraud", action="allow", mode="fallback") == 1
    assert read(meter, "decalog_fallbacks_total", system="fraud", reason="no_model") == 1
    assert read(meter, "decalog_fallbacks_total", system="fraud", reason="") is None


def test_a_decision_is_counted_once_and_with_a_commit() -> None:
    meter = Meter()
    meter.decided("fraud", decided())
    labels = {"system": "fraud", "action": "allow", "mode": "live"}
    assert read(meter, "decalog_decisions_total", **labels) is None
    for _ in range(2):
        meter.committed(1, 1)
        assert read(meter, "decalog_decisions_total", **labels) == 1


def test_predictions_are_counted_by_size_so_that_a_shift_shows() -> None:
    meter = metered(*(decided(p_fraud=value) for value in (0.0004, 0.004, 0.4)))
    labels = {"system": "fraud", "head": "p_fraud"}
    buckets = [read(meter, "decalog_prediction_bucket", le=le, **labels) for le in ("0.0005", "0.005", "0.5", "+Inf")]
    assert buckets == [1, 2, 3, 3]


def test_stages_are_seconds() -> None:
    meter = metered(decided(stages_us={"parse": 40, "model": 2_000}), decided(stages_us={"parse": 60}))
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


def test_requests_with_a_positive_report_are_counted_by_kind() -> None:
    meter = Meter()
    for kind in ("chargeback", "chargeback", "fraud_warning"):
        meter.reported("fraud", kind)
    assert read(meter, "decalog_reported_total", system="fraud", kind="chargeback") == 2
    assert read(meter, "decalog_reported_total", system="fraud", kind="fraud_warning") == 1


def test_a_champion_that_cannot_be_used_is_shown_until_it_can() -> None:
    meter, troubles = Meter(), ["damaged"]
    meter.watch_champion("fraud", is_troubled=lambda: bool(troubles))
    assert read(meter, "decalog_champion_problem", system="fraud") == 1
    troubles.clear()
    assert read(meter, "decalog_champion_problem", system="fraud") == 0


def test_two_meters_in_one_process_count_apart() -> None:
    one, two = Meter(), Meter()
    one.row("fraud", "event", status="accepted")
    assert b"decalog_rows_total{" in generate_latest(one.registry)
    assert b"decalog_rows_total{" not in generate_latest(two.registry)
