"""Backfill gives old decisions the features of today, to the bits that serving gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, FraudLog, hours, payment

from decalog import backfill as module
from decalog.backfill import backfill
from decalog.decisions import unpack_features
from decalog.examples import History
from decalog.features.definition import Aggregate
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

NEW = Aggregate(
    name="card_payments_2h",
    meaning="payments of the card in the last two hours",
    unit="payments",
    entity="card",
    aggregate="count",
    over=("payment",),
    window="2h",
)
CHANGED = msgspec.structs.replace(
    SYSTEM, features=msgspec.structs.replace(FEATURES, features=(*FEATURES.features, NEW))
)


def busy(root: Path) -> FraudLog:
    log = FraudLog(root)
    for i in range(40):
        log.decide(f"d{i}", hours(i / 3), card=f"card-{i % 3}", amount_minor=100 + i, device=f"device-{i % 2}")
        if i % 5 == 0:
            log.pay(f"e{i}", hours(i / 3), card=f"card-{i % 3}")
    log.event(hours(14), **payment("fixed", hours(12), card="card-1", amount_minor=77_777, corrects="d36"))
    log.event(hours(14), id="gone", deletes="d35")
    log.decide("d40", hours(15), card="card-1")
    log.log.commit()
    return log


def read(path: Path) -> dict[str, Any]:
    return dict(duckdb.connect().execute("SELECT * FROM read_parquet(?) ORDER BY seq", [str(path)]).fetchnumpy())


@pytest.fixture(params=[7, module.BLOCK])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", request.param)


def test_the_features_that_were_served_come_out_again(tmp_path: Path, block: None) -> None:
    log = busy(tmp_path / "home")
    done = backfill(SYSTEM, log.log, folder=tmp_path / "out")
    assert (done.requests, done.refused, done.compared, done.differing) == (41 + 8, 0, 41, 0)
    assert done.path == tmp_path / "out" / "fraud" / FEATURES.version / f"{log.log.position:012d}.parquet"
    assert [path.name for path in done.path.parent.iterdir()] == [done.path.name]
    assert "49 requests" in done.text()
    assert "41 decided with these features, 0 of them with other bits" in done.text()
    rows = read(done.path)
    assert set(rows["features_version"].tolist()) == {FEATURES.version, ""}
    assert (rows["kind"] == "event").sum() == 8


def test_a_new_feature_is_given_to_old_decisions_as_training_computes_it(tmp_path: Path, block: None) -> None:
    log = busy(tmp_path / "home")
    done = backfill(CHANGED, log.log, folder=tmp_path / "out")
    assert (done.version, done.compared) == (CHANGED.features.version, 0)
    rows = read(done.path)
    learnt = History(log.records(), SCHEMA, features=CHANGED.features).now
    places = {seq: place for place, seq in enumerate(rows["seq"].tolist())}
    chosen = [places[seq] for seq in learnt.seqs.tolist()]
    written = np.column_stack([rows[name] for name in CHANGED.features.names])
    assert written[chosen].tobytes() == learnt.rows.tobytes()
    assert len(places) == learnt.n + 1  # the deleted one was decided, and is not learnt from
    assert len(set(rows["card_payments_2h"].tolist())) > 2


def test_requests_too_late_for_exact_features_have_none(tmp_path: Path) -> None:
    log = FraudLog(tmp_path / "home")
    log.pay("p1", 10)
    log.clock.advance(1)
    log.ingest.event(payment("straggler", 8.5))
    log.log.commit()
    done = backfill(SYSTEM, log.log, folder=tmp_path / "out")
    assert (done.requests, done.refused) == (2, 1)
    rows = read(done.path)
    assert rows["refused"].tolist() == [False, True]
    assert np.ma.getmaskarray(rows["amount"]).tolist() == [False, True]


def test_a_decision_that_was_logged_with_other_bits_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = busy(tmp_path / "home")
    monkeypatch.setattr(module, "unpack_features", lambda packed: unpack_features(packed) + 1)
    assert backfill(SYSTEM, log.log, folder=tmp_path / "out").differing == 41


def test_an_empty_log_gives_an_empty_file(tmp_path: Path) -> None:
    log = FraudLog(tmp_path / "home")
    done = backfill(SYSTEM, log.log, folder=tmp_path / "out")
    assert (done.requests, len(read(done.path)["seq"])) == (0, 0)
