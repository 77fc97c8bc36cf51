from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, START, FraudLog, hours, payment

from decalog.clock import DAY, rfc3339
from decalog.examples import NO_ENTITY, UNKNOWN, Examples, History
from decalog.outcomes import NEVER
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.schema import SCHEMA

OTHER_VERSION = msgspec.structs.replace(FEATURES, lateness="2d")
"""The same features under another version, so that logged values are not taken."""


def history(log: FraudLog, until_day: float | None = None) -> History:
    return History(log.records(until_day), SCHEMA, features=FEATURES)


def labels(examples: Examples) -> dict[str, tuple[float, str]]:
    rows = zip(examples.ids, examples.labels.tolist(), examples.why, strict=True)
    return {name: (label if np.isfinite(label) else UNKNOWN, why) for name, label, why in rows}


def value(examples: Examples, name: str, feature: str) -> float:
    return float(examples.rows[examples.ids.index(name), examples.features.index(feature)])


def test_outcomes_and_silence_become_labels_and_the_rest_stays_unknown(tmp_path: Path) -> None:
    """Whoever was blocked or not yet silent for long enough has no label, whatever the system thought of him."""
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0))
    log.pay("old", 0)
    log.pay("stolen", 1)
    log.decide("allowed", 2)
    log.decide("blocked", 3, amount_minor=60_000)
    log.pay("young", 50)
    log.report("cb1", "stolen", 20)
    log.report("verdict", "young", 51, kind="analyst_verdict", source="analyst", value=0)
    found = history(log, 70).now
    assert labels(found) == {
        "old": (0, "silence"),
        "stolen": (1, "chargeback"),
        "allowed": (0, "silence"),
        "blocked": (UNKNOWN, "unobserved"),
        "young": (0, "analyst_verdict"),
    }
    assert found.acted == ("", "", "allow", "block", "")
    assert found.settled[3] == NEVER
    assert found.amounts.tolist() == [1_000, 1_000, 1_000, 60_000, 1_000]


def test_immature_labels_never_train(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.pay("p2", 1)
    before, after = history(log, 59.9).now, history(log, 60.5).now
    assert labels(before) == {"p1": (UNKNOWN, "immature"), "p2": (UNKNOWN, "immature")}
    assert labels(after) == {"p1": (0, "silence"), "p2": (UNKNOWN, "immature")}
    assert after.take(after.labelled).ids == ("p1",)


def test_a_past_date_knows_only_what_was_known_then(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.report("early", "p1", 10, kind="fraud_warning", source="network")
    log.report("late", "p1", 80, value=0)
    log.pay("p2", 90)
    whole = history(log)
    known = {day: labels(whole.as_of(START + day * DAY)) for day in (9, 10, 79, 80)}
    assert known == {
        9: {"p1": (UNKNOWN, "immature")},
        10: {"p1": (1, "fraud_warning")},
        79: {"p1": (1, "fraud_warning")},
        80: {"p1": (0, "chargeback")},
    }
    assert whole.now.ids == ("p1", "p2")


TOLD = [{"event_time": rfc3339(START + day * DAY)} for day in (4, 5)]
STEPS: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("report", ("cb1", "p1"), {}),
    ("report", ("cb2", "p2"), {}),
    ("report", ("won", "p2"), {"value": 0, "corrects": "cb2"}),
    ("report", ("efw3", "p3"), {"kind": "fraud_warning", "source": "network"}),
    ("withdraw", ("oops", "efw3"), {}),
    ("report", ("efw4", "p4"), {"kind": "fraud_warning", "source": "network"} | TOLD[0]),
    ("report", ("verdict4", "p4"), {"kind": "analyst_verdict", "source": "analyst", "value": 0} | TOLD[1]),
    ("report", ("early", "p5"), {}),
)
AFTER = {2: 1, 4: 3}  # a correction needs what it corrects


@pytest.mark.parametrize("seed", range(8))
def test_late_duplicated_reordered_and_corrected_outcomes_end_in_the_same_training_set(
    tmp_path: Path, seed: int
) -> None:
    """Conformance 5: order and repetition change nothing, even for a request that comes after its outcome."""
    found = _training_set(tmp_path / "shuffled", shuffle=random.Random(seed))
    plain = _training_set(tmp_path / "plain", shuffle=None)
    assert labels(found) == labels(plain)
    assert found.ids == plain.ids == ("p1", "p2", "p3", "p4", "p5")
    assert labels(plain) == {
        "p1": (1, "chargeback"),
        "p2": (0, "chargeback"),
        "p3": (0, "silence"),
        "p4": (0, "analyst_verdict"),
        "p5": (1, "chargeback"),
    }
    assert found.rows.tobytes() == plain.rows.tobytes()
    assert found.amounts.tolist() == plain.amounts.tolist()


def _training_set(root: Path, shuffle: random.Random | None) -> Examples:
    log = FraudLog(root)
    order = list(range(len(STEPS)))
    if shuffle is not None:
        shuffle.shuffle(order)
        for later, first in AFTER.items():
            if order.index(later) < order.index(first):
                order.remove(later)
                order.insert(order.index(first) + 1, later)
        order += shuffle.sample(order, 3)
    for day in range(4):
        log.pay(f"p{day + 1}", day)
    days = np.linspace(4.5, 70, len(order)) if shuffle is None else sorted(shuffle.uniform(4.5, 90) for _ in order)
    statuses = [_send(log, step, float(day)) for step, day in zip(order, days, strict=True)]
    assert statuses.count("duplicate") == (0 if shuffle is None else 3)
    late = log.pay("p5", 4)  # arrives after everything else; its outcome came before it
    assert late.status == "accepted"
    found = History(log.records(95), SCHEMA, features=msgspec.structs.replace(FEATURES, lateness="100d")).now
    return found.take(found.labelled)


def _send(log: FraudLog, step: int, day: float) -> str:
    method, names, fields = STEPS[step]
    return str(getattr(log, method)(*names, day, **fields).status)


def test_the_last_image_of_a_corrected_payment_is_learnt_where_the_payment_stood(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.pay("p2", hours(1), amount_minor=99_999)
    log.pay("p3", hours(2))
    log.event(hours(3), **payment("p2b", hours(1), amount_minor=500, corrects="p2"))
    found = history(log, 61).now
    assert found.ids == ("p1", "p2", "p3")
    assert found.amounts.tolist() == [1_000, 500, 1_000]
    assert value(found, "p2", "card_amount_1d") == 1_500
    # p3 was followed by the correction, so it had not seen it.
    assert value(found, "p3", "card_amount_1d") == 101_999


def test_a_deleted_payment_is_no_example_and_a_revived_one_is(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    for name in ("p1", "p2", "p3"):
        log.pay(name, 0)
    log.event(1, id="gone2", deletes="p2")
    log.event(1, id="gone3", deletes="p3")
    log.event(2, **payment("back3", 0, amount_minor=7, corrects="p3"))
    found = history(log, 61).now
    assert found.ids == ("p1", "p3")
    assert found.amounts.tolist() == [1_000, 7]


def test_an_outcome_may_name_a_corrected_payment_by_either_id(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.pay("p2", 0)
    log.event(1, **payment("p1b", 0, amount_minor=5, corrects="p1"))
    log.event(1, **payment("p2b", 0, amount_minor=5, corrects="p2"))
    log.report("cb1", "p1", 20)
    log.report("cb2", "p2b", 20)
    assert labels(history(log, 61).now) == {"p1": (1, "chargeback"), "p2": (1, "chargeback")}


@pytest.mark.parametrize(("kind", "source"), [("chargeback", "issuer"), ("fraud_warning", "network")])
def test_a_fraud_that_an_analyst_let_go_is_one_once_it_is_reported(tmp_path: Path, kind: str, source: str) -> None:
    log = FraudLog(tmp_path)
    assert log.decide("p1", 0).choice.action == "review"
    log.report("let go", "p1", 0.1, kind="analyst_verdict", source="analyst", value=0)
    log.report("reported", "p1", 30, kind=kind, source=source)
    log.report("looked into", "p1", 40, kind="analyst_verdict", source="analyst", value=0)
    found = history(log, 61)
    days = [int(START + day * DAY) for day in (1, 31, 41)]
    assert [labels(found.as_of(day)) for day in days] == [
        {"p1": (0, "analyst_verdict")},
        {"p1": (1, kind)},
        {"p1": (0, "analyst_verdict")},
    ]


def test_what_was_said_last_decides_whichever_id_of_a_corrected_payment_it_names(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.event(1, **payment("p1b", 0, amount_minor=5, corrects="p1"))
    log.report("seen", "p1", 10, kind="analyst_verdict", source="analyst", value=0)
    log.report("warned", "p1b", 20, kind="fraud_warning", source="network", event_time=rfc3339(START + 5 * DAY))
    assert labels(history(log, 61).now) == {"p1": (0, "analyst_verdict")}


def _busy(root: Path) -> FraudLog:
    log = FraudLog(root)
    for i in range(40):
        log.decide(f"d{i}", hours(i / 3), card=f"card-{i % 3}", amount_minor=100 + i, device=f"device-{i % 2}")
        if i % 5 == 0:
            log.pay(f"e{i}", hours(i / 3), card=f"card-{i % 3}")
    log.event(hours(14), **payment("fixed", hours(12), card="card-1", amount_minor=77_777, corrects="d36"))
    log.event(hours(14), id="gone", deletes="d35")
    return log


def test_logged_and_folded_features_are_the_same_bits(tmp_path: Path) -> None:
    records = _busy(tmp_path).records()
    logged = History(records, SCHEMA, features=FEATURES).now
    folded = History(records, SCHEMA, features=OTHER_VERSION).now
    assert logged.n == 40 + 8 - 1
    assert logged.ids == folded.ids
    assert logged.rows.tobytes() == folded.rows.tobytes()
    assert len(np.unique(logged.rows[:, FEATURES.names.index("card_payments_1d")])) > 5


def test_a_decision_keeps_the_features_it_was_made_on_when_its_request_is_corrected(tmp_path: Path) -> None:
    found = History(_busy(tmp_path).records(), SCHEMA, features=FEATURES).now
    place = found.ids.index("d36")
    assert found.amounts[place] == 77_777
    assert value(found, "d36", "amount") == 136
    assert "d35" not in found.ids


def test_a_shadow_decision_is_labelled_by_what_the_other_system_did(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    log.decide("let", 0, taken="allow")
    log.decide("stopped", 0, taken="block")
    found = history(log, 61).now
    assert found.acted == ("allow", "block")
    assert labels(found) == {"let": (0, "silence"), "stopped": (UNKNOWN, "unobserved")}


def test_silence_says_nothing_where_nobody_told_what_the_other_system_did(tmp_path: Path) -> None:
    """It may have blocked the payment: a good label would teach that blocked frauds are good payments."""
    log = FraudLog(tmp_path, shadow=True)
    log.decide("untold", 0)
    log.decide("reported", 0)
    log.report("cb", "reported", 20)
    found = history(log, 61).now
    assert found.acted == ("untold", "untold")
    assert labels(found) == {"untold": (UNKNOWN, "unobserved"), "reported": (1, "chargeback")}
    assert found.settled[0] == NEVER


def test_a_live_decision_matures_from_its_record_not_from_the_senders_clock(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.clock.set(START)
    log.service.decide(payment("slow-clock", -0.9))
    found = history(log, 59.5).now
    assert found.times.tolist() == [START]
    assert labels(found) == {"slow-clock": (UNKNOWN, "unobserved")}


def test_requests_too_late_for_exact_features_are_left_out_and_counted(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 10)
    log.clock.advance(1)
    assert log.ingest.event(payment("straggler", 8.5)).status == "accepted"
    found = history(log, 80)
    assert found.late == 1
    assert found.now.ids == ("p1",)


def test_entities_are_tokens_and_absent_ones_say_so(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.pay("p2", 0, device=None)
    found = history(log, 61).now
    assert found.entities["card"][0] == found.entities["card"][1] != NO_ENTITY
    assert found.entities["device"][1] == NO_ENTITY
    assert set(found.entities["customer"].tolist()) == {NO_ENTITY}


def test_rejected_rows_and_other_systems_are_not_examples(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    assert log.pay("p2", 0, amount_minor=-5).status == "rejected"
    records = log.records()
    assert History(records, SCHEMA, features=FEATURES).now.ids == ("p1",)
    other = msgspec.structs.replace(SCHEMA, system="ads")
    assert History(records, other, features=FEATURES).now.n == 0


def test_an_empty_log_has_no_examples() -> None:
    found = History([], SCHEMA, features=FEATURES)
    assert (found.position, found.known_time, found.now.n) == (0, 0, 0)


def test_the_pin_is_the_number_of_records_read(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    log.pay("p2", 1)
    log.report("cb1", "p1", 20)
    records = log.records()
    pinned = History(records[:2], SCHEMA, features=FEATURES)
    assert (pinned.position, pinned.known_time) == (2, START + DAY)
    assert labels(pinned.now) == {"p1": (UNKNOWN, "immature"), "p2": (UNKNOWN, "immature")}
