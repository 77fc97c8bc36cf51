"""The skew certificate: every logged value again from the log, or the first difference with what each side saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog, payment
from tests.homes import LATER, decide_live, fill_home, opened

from decalog import cli
from decalog.clock import DAY, HOUR, SECOND, rfc3339
from decalog.decisions import Decision, decode_decision, pack_features, unpack_features
from decalog.deployment import Setup
from decalog.errors import ConfigError, ReplayError
from decalog.events import Record, encode
from decalog.features import offline
from decalog.features.definition import FeatureSet, Reads
from decalog.features.facts import Change
from decalog.features.online import OnlineState
from decalog.folding import changes_of
from decalog.home import Home
from decalog.log import Log
from decalog.parity import Certificate, Parity
from decalog.policy import Case, Verdict
from decalog.runtime import runtime
from decalog.schema import Field
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.simulate import START_US
from decalog.systems.fraud.system import SYSTEM
from decalog.tables import Tables

WIDTH = len(SYSTEM.features.names)


class ForgetsCorrections(OnlineState):
    """A state as a fault would have it: it takes what is new and nothing that changes what was there."""

    def apply(self, *changes: Change) -> None:
        for change in changes:
            super().apply(msgspec.structs.replace(change, minus=None, plus=None if change.minus else change.plus))


class Lags(OnlineState):
    """A state that answers before it has taken the last change."""

    waiting: Change | None = None

    def apply(self, *changes: Change) -> None:
        for change in changes:
            if self.waiting is not None:
                super().apply(self.waiting)
            self.waiting = change


class OtherLog(Log):
    """A log whose decisions read otherwise than they were written."""

    def __init__(self, log: Log, change: Callable[[Decision], Decision]) -> None:
        super().__init__(log.store, log.vault, log.clock)
        self._change = change

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for record in super().read(start, stop):
            is_decision = record.kind == "decision"
            body = encode(self._change(decode_decision(record.body))) if is_decision else record.body
            yield msgspec.structs.replace(record, body=body)


def checked(log: FraudLog, *, last: int = 1_000) -> Certificate:
    """Returns the certificate of a log written by hand; its declarations are put into it first."""
    Tables(log.log).put("fraud", "features", content=msgspec.Raw(SYSTEM.features.to_json()))
    log.log.commit()
    return Parity(log.log, "fraud", notes_for=lambda _: ()).last(last)


def disorder(log: FraudLog) -> None:
    """Payments of one card: late, sent twice, corrected to another card, corrected in place, deleted, revived."""
    log.decide("a", 1.0)
    log.decide("a", 1.0)
    log.decide("b", 1.1, amount_minor=5_000)
    log.clock.advance(HOUR)
    log.ingest.event(payment("late", 0.9, merchant="m"))
    log.ingest.event(payment("late", 0.9, merchant="m"))
    log.decide("c", 1.2)
    log.event(1.21, **payment("b2", 1.1, amount_minor=7_000, corrects="b", card="other"))
    log.decide("d", 1.22)
    log.event(1.23, **payment("a2", 1.0, amount_minor=1, corrects="a"))
    log.decide("e", 1.24)
    log.event(1.25, id="gone", deletes="late")
    log.decide("f", 1.26)
    log.event(1.27, **payment("back", 0.95, corrects="late"))
    log.decide("g", 1.28)
    log.decide("h", 1.28, card="other")


def test_every_value_is_identical_after_every_disorder(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    disorder(log)
    found = checked(log)
    assert (found.compared, found.identical, found.first) == (8, 8, None)
    assert (found.values, found.different, found.differing) == (8 * WIDTH, 0, {})
    assert found.holds
    assert found.text().splitlines()[0] == "8/8 identical"
    log.log.close()


def test_only_the_last_are_compared_and_the_log_is_folded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FraudLog(tmp_path)
    disorder(log)
    folds: list[int] = []
    fold = offline.fold_admissible

    def counted(features: FeatureSet, changes: Any, *, points: Any) -> Any:
        folds.append(len(points))
        return fold(features, changes, points=points)

    monkeypatch.setattr("decalog.parity.fold_admissible", counted)
    monkeypatch.setattr("decalog.parity._CHUNK", 3)
    assert checked(log, last=3).identical == 3
    assert folds == [3]
    log.log.close()


def test_what_no_window_reaches_is_left_out_of_the_fold(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    for name, day in (("old", 0.0), ("moved", 1.0), ("older", 2.0)):
        log.pay(name, day)
    log.event(3.0, **payment("older2", 2.5, corrects="older"))
    log.event(60.0, **payment("moved2", 59.9, corrects="moved"))
    log.decide("now", 60.1)
    found = checked(log)
    assert (found.compared, found.identical) == (1, 1)
    changes = Parity(log.log, "fraud", notes_for=lambda _: ()).changes(40 * DAY + 20_000 * DAY, reads=Reads())
    images = [image for change in changes for image in (change.minus, change.plus) if image is not None]
    assert {image.event_time for image in images} == {20_000 * DAY + int(day * DAY) for day in (59.9, 60.1)}
    assert len(changes) == 7  # each of the six records goes on the watermark, and the decision is a row of its own too
    log.log.close()


# What is skipped is counted


class Stumbles(FraudPolicy):
    """A policy that cannot decide."""

    def decide(self, case: Case) -> Verdict:
        raise RuntimeError("stumbled")


def test_fallbacks_without_features_and_imported_decisions_are_skipped_and_counted(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    log.pay("theirs", 2.0, taken="block")
    log.decide("shadow", 2.0, taken="allow")
    log.decide("late", 2.1, event_time=rfc3339(log.clock.now_us() - 2 * DAY))
    log.service.adopt(msgspec.structs.replace(log.service.serving, policy=Stumbles(FraudCosts()), shadow=False))
    log.decide("no model", 2.2)
    found = checked(log)
    assert (found.compared, found.identical) == (2, 2)
    assert found.skipped == {"without features: late_request": 1, "imported: another system decided": 1}
    assert "  skipped      1 imported: another system decided" in found.text().splitlines()
    log.log.close()


def test_a_log_without_decisions_certifies_nothing(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("a", 1.0)
    found = checked(log)
    assert (found.compared, found.holds, found.text().splitlines()[0]) == (
        0,
        True,
        "0/0 identical: nothing was compared",
    )
    log.log.close()


def test_a_count_below_one_is_refused(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    with pytest.raises(ConfigError) as caught:
        checked(log, last=0)
    assert str(caught.value) == "parity, last: 0. Expected 1 or more decisions. 100000 is the default."
    log.log.close()


# Versions


def test_decisions_of_an_older_feature_set_are_compared_under_their_own(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    first = len(decide_live(home, hours=6))
    with opened(home, Setup(signals=(Field(name="score", kind="float", meaning="of another model"),))) as (
        deployment,
        clock,
    ):
        service = deployment.service()
        clock.set(START_US + LATER + 6 * HOUR)
        for number in range(4):
            service.decide(payment(f"p{number}", 0, event_time=None, score=number / 3))
        deployment.log.commit()
        found = deployment.parity().last()
        assert found.compared == found.identical == first + 4
        assert sorted(found.feature_sets.values()) == sorted([first, 4])
        assert found.values == first * WIDTH + 4 * (WIDTH + 1)


def test_declarations_that_are_gone_are_named(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.decide("a", 1.0)
    log.log.commit()
    with pytest.raises(ReplayError) as caught:
        Parity(log.log, "fraud", notes_for=lambda _: ()).last()
    assert str(caught.value) == (
        f"fraud parity: a decision made with features {SYSTEM.features.version}, which the log holds no table of. "
        "Expected the declarations of every version that a decision names. Restore the log from a backup."
    )
    log.log.close()


def test_another_runtime_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fill_home(tmp_path, champion=False)
    count = len(decide_live(home, hours=6))
    now = dict(runtime()) | {"cpu": "another", "lock": "other"}
    monkeypatch.setattr("decalog.deployment.runtime", lambda: now)
    with opened(home) as (deployment, _):
        found = deployment.parity().last()
    assert found.holds
    assert list(found.notes.values()) == [count, count]
    assert f"another now ({count} decisions)" in found.text()


# What differs is found and explained


def planted(log: FraudLog, state: type[OnlineState]) -> None:
    log.service.state = state(SYSTEM.features)


def test_a_state_that_forgets_corrections_is_found_with_the_rows_of_both_sides(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    planted(log, ForgetsCorrections)
    log.pay("a", 1.0)
    log.pay("b", 1.01)
    log.decide("before", 1.02)
    log.event(1.03, **payment("a2", 1.0, corrects="a", card="other", device="other", ip="192.0.2.9"))
    aim = log.decide("after", 1.04)
    found = checked(log)
    assert (found.compared, found.identical, found.holds) == (2, 1, False)
    first = found.first
    assert first is not None
    assert (first.decision_id, first.feature) == (aim.id, "card_payments_1h")
    assert first.declaration == "card_payments_1h: count of payment rows by card in (t − 1h, t] [payments]"
    assert (first.logged, first.recomputed) == ("4.0 (4010000000000000)", "3.0 (4008000000000000)")
    assert first.also[0] == "card_payments_1d"
    assert first.why.said == "the logged value is that of a state that forgets corrections"
    assert [(row.seq, row.seen, row.marks) for row in first.why.rows] == [
        (0, "online", ("corrected",)),
        (1, "both", ()),
        (2, "both", ()),
    ]
    text = found.text()
    assert "  why          the logged value is that of a state that forgets corrections" in text
    assert "  row          seq 0, payment, happened 2024-10-05T00:00:00Z" in text
    for secret in ("card-1", "192.0.2.1", "device-1", str(aim.request.entities["card"]), aim.request.id):
        assert secret not in text.replace(aim.id, "")
        assert secret not in msgspec.json.encode(found).decode()
    log.log.close()


def test_a_state_that_lags_is_found_and_told_by_its_position(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    planted(log, Lags)
    log.pay("a", 1.0)
    log.pay("b", 1.01)
    log.decide("c", 1.02)
    first = checked(log).first
    assert first is not None
    assert first.why.said == "the logged value is that of a state at 1, behind the decision's position 2"
    assert [(row.seq, row.seen) for row in first.why.rows] == [(0, "both"), (1, "offline")]
    log.log.close()


def test_a_changed_value_is_found_and_said_to_be_no_usual_fault(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("a", 1.0)
    aim = log.decide("b", 1.01)
    place = SYSTEM.features.names.index("card_amount_1d")

    def nudged(decision: Decision) -> Decision:
        if decision.id != aim.id:
            return decision
        values = unpack_features(decision.candidates[0].features).copy()
        values[place] = np.nextafter(values[place], np.inf)
        candidate = msgspec.structs.replace(decision.candidates[0], features=pack_features(values))
        return msgspec.structs.replace(decision, candidates=(candidate,))

    assert checked(log).holds
    found = Parity(OtherLog(log.log, nudged), "fraud", notes_for=lambda _: ()).last()
    assert (found.identical, found.different, found.differing) == (0, 1, {"card_amount_1d": 1})
    assert found.first is not None
    assert (found.first.feature, found.first.also) == ("card_amount_1d", ())
    assert found.first.why.said == (
        "no usual fault of a state gives the logged value: what each side saw cannot be told"
    )
    assert "differs      card_amount_1d in 1 decision" in found.text()
    log.log.close()


def test_an_answer_that_its_declarations_forbid_is_a_difference(tmp_path: Path) -> None:
    """A vector of another length, and one for a request that came later than its declared lateness."""
    log = FraudLog(tmp_path)
    log.pay("a", 3.0)
    log.decide("b", 3.01)
    assert checked(log).holds

    def cut(decision: Decision) -> Decision:
        candidate = msgspec.structs.replace(decision.candidates[0], features=b"12345678")
        return msgspec.structs.replace(decision, candidates=(candidate,))

    def early(decision: Decision) -> Decision:
        request = msgspec.structs.replace(decision.request, event_time=decision.request.event_time - 2 * DAY)
        return msgspec.structs.replace(decision, request=request)

    for change, logged, recomputed in (
        (cut, "1 values", f"{WIDTH} values"),
        (early, f"{WIDTH} values", "refused as too late"),
    ):
        found = Parity(OtherLog(log.log, change), "fraud", notes_for=lambda _: ()).last()
        assert (found.compared, found.identical) == (1, 0)
        assert found.first is not None
        assert (found.first.feature, found.first.logged, found.first.recomputed) == ("the vector", logged, recomputed)
        assert "let it answer" in found.first.why.said
    log.log.close()


def test_the_changes_are_those_of_the_views(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    disorder(log)
    records = log.records()
    expected = [change for record in records for change in changes_of(record, None, past=log.log)]
    assert Parity(log.log, "fraud", notes_for=lambda _: ()).changes(-1, reads=Reads()) == expected
    log.log.close()


# As a command


def test_the_command_ends_with_1_where_anything_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = fill_home(tmp_path / "home", champion=False)
    count = len(decide_live(home, hours=6))

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["decalog", "parity", "fraud", *words, "--home", str(home.root)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), capsys.readouterr().out

    code, out = run("--last", "2")
    assert (code, out.splitlines()[0]) == (0, "2/2 identical")
    code, out = run("--json")
    found = json.loads(out)
    assert (code, found["compared"], found["identical"], found["first"]) == (0, count, count, None)
    skew(home)
    code, out = run()
    assert (code, out.splitlines()[0]) == (1, f"{count}/{count + 1} identical")
    assert "first difference:" in out


def skew(home: Home) -> None:
    """Adds a decision of a server whose state lost everything."""
    with opened(home) as (deployment, clock):
        service = deployment.service()
        clock.advance(SECOND)
        body = payment("x", 0, event_time=None)
        service.ingest.event(body)
        service.state = OnlineState(SYSTEM.features)
        service.decide(body | {"id": "y"})
        deployment.log.commit()
