"""Views over outcomes and lookup tables: live, refolded after a restart, offline and by the reference, on one log."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np
from tests.fraud_log import FraudLog

from decalog.decisions import decode_decision, unpack_features
from decalog.examples import History
from decalog.features.definition import Aggregate, Condition, FeatureSet, Lookup, Ratio
from decalog.features.offline import fold
from decalog.features.online import OnlineState
from decalog.features.reference import evaluate
from decalog.folding import changes, point
from decalog.systems.fraud.schema import SCHEMA


def view(name: str, **given: object) -> Aggregate:
    plain = {
        "meaning": "tested",
        "unit": "1",
        "entity": "merchant",
        "aggregate": "count",
        "window": "30d",
        "own": False,
    }
    return Aggregate(name=name, **(plain | {"own": False} | given))  # type: ignore[arg-type]


FEATURES = FeatureSet(
    system="fraud",
    lateness="30d",
    features=(
        view("merchant_payments_delayed", over=("payment",), offset="7d"),
        view(
            "merchant_frauds_delayed", over=("labelled.chargeback",), offset="7d", where=(Condition("value", "==", 1),)
        ),
        Ratio(
            name="merchant_risk",
            meaning="share of the merchant's payments, a week old or older, that were frauds",
            unit="1",
            numerator="merchant_frauds_delayed",
            denominator="merchant_payments_delayed",
        ),
        view("card_reports_30d", over=("outcome.chargeback",), entity="card"),
        view("card_merchant_payments", over=("payment",), entity="card+merchant"),
        Lookup(name="mcc_risk", meaning="risk of the category", unit="1", table="mcc_risk", key="mcc"),
    ),
)


def play(log: FraudLog, seed: int) -> None:
    """Plays two months: payments, late and corrected outcomes, outcomes before their payment, new tables."""
    rng = random.Random(seed)
    reports: list[str] = []
    for number in range(160):
        day = number * 0.4
        name = f"p{number}"
        shop = {"merchant": f"m{rng.randrange(3)}", "card": f"c{rng.randrange(5)}", "mcc": rng.choice(["5411", "5732"])}
        if number % 40 == 0:
            log._at(day)
            content = {"5411": number / 100, **({"5732": 1} if number else {})}
            assert log.service.put_table("mcc_risk", content) == log.service.put_table("mcc_risk", content)
        log.decide(name, day, **shop)
        if rng.random() < 0.5:
            target = f"p{rng.randrange(number + 2)}"  # now and then of a payment that is yet to come
            log.report(f"r{number}", target, day, value=rng.choice([0, 1, 1]))
            reports.append(f"r{number}")
        if reports and rng.random() < 0.1:
            log.report(f"x{number}", f"p{rng.randrange(number)}", day, value=1, corrects=rng.choice(reports))
        if reports and rng.random() < 0.05:
            log.withdraw(f"w{number}", reports.pop(), day)


def test_every_engine_sees_the_same_outcomes_and_tables(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, features=FEATURES)
    play(log, seed=4)
    records = log.records()
    decided = [log.service.ingest.log.get(record.seq) for record in records if record.kind == "decision"]
    folded = list(changes(records, "fraud", past=log.log, reads=FEATURES.reads))
    restarted = OnlineState(FEATURES)
    restarted.apply_many(folded)
    points, logged = [], []
    for record in decided:
        decision = decode_decision(record.body)
        points.append(point(decision.request, decision.state_seq))
        logged.append(unpack_features(decision.candidates[0].features))
    live = np.array(logged)
    assert fold(FEATURES, folded, points=points).tobytes() == live.tobytes()
    for place in range(0, len(points), 7):
        assert np.array(evaluate(FEATURES, folded, point=points[place])).tobytes() == live[place].tobytes()
    assert (live.max(axis=0) > np.array([3, 1, 0.1, 1, 3, 0.5])).all()
    assert live[:, 5].min() == -1.0
    last = points[-1]
    assert log.service.state.stats().rows == restarted.stats().rows
    again = msgspec.structs.replace(last, state_seq=restarted.position)
    assert restarted.vector(again).tobytes() == log.service.state.vector(again).tobytes()
    other = FeatureSet(
        system="fraud", features=(*FEATURES.features, view("further", over=("payment",))), lateness="30d"
    )
    history = History(records, SCHEMA, features=other)  # another version, so that nothing logged is taken
    places = [history.now.ids.index(record.id) for record in decided]
    assert history.now.rows[places, :-1].tobytes() == live.tobytes()
    log.log.close()
