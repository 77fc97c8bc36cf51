"""Law 2 catches a state, a kernel and a trial that are not what they seem; the planted states have their faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from decalog.errors import DataError
from decalog.features import reference
from decalog.features.definition import Aggregate, Derived, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.kernel import Float64s
from decalog.features.online import OnlineState
from decalog.systems.fraud.system import SYSTEM
from decalog.testing import traffic
from decalog.testing.laws import parity
from decalog.testing.planted import (
    CountsTwice,
    FaultyState,
    ForgetsCorrections,
    ForgetsDeletions,
    MissesLate,
)
from decalog.testing.stage import Step, Trial

APPLY, VECTOR = OnlineState.apply, OnlineState.vector
LIVE = traffic.live


def trial(folder: Path) -> Trial:
    return Trial(system=SYSTEM, folder=folder)


def test_the_law_holds_and_says_what_it_was_tried_on(tmp_path: Path) -> None:
    found = parity.check(trial(tmp_path))
    assert found.holds
    assert found.noticed == (
        "the last bit of a logged value",
        "a state that misses late events",
        "a state that counts duplicates twice",
        "a state that forgets corrections",
        "a state that forgets deletions",
    )
    assert list(found.tried) == ["late", "duplicated", "corrected", "deleted"]
    assert min(found.tried.values()) > 0
    assert found.checked % len(SYSTEM.features.names) == 0


def test_a_state_that_forgets_corrections_is_caught_as_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(state: OnlineState, *changes: Change) -> None:
        for change in changes:
            forgets = change.minus is not None and change.plus is not None
            APPLY(state, msgspec.structs.replace(change, minus=None, plus=None) if forgets else change)

    monkeypatch.setattr(OnlineState, "apply", apply)
    said = parity.check(trial(tmp_path)).text()
    assert " candidates are identical; first: seq " in said
    assert "the logged value is that of a state that forgets corrections" in said
    assert "the reference interpreter differs at position " in said


def test_a_fault_that_online_and_offline_share_is_caught_by_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same wrong value from both is no skew; that it is wrong only another interpreter can say."""
    honest = reference.evaluate

    def evaluate(features: FeatureSet, changes: Sequence[Change], *, point: Point) -> list[float]:
        values = honest(features, changes, point=point)
        return [*values[:-1], values[-1] + 1]

    monkeypatch.setattr(parity, "evaluate", evaluate)
    said = parity.check(trial(tmp_path)).text()
    assert "candidates are identical" not in said
    assert f"the reference interpreter differs at position 155: {SYSTEM.features.names[-1]}" in said


def test_a_reference_that_refuses_what_was_answered_is_a_breach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_args: Any, **_kwargs: Any) -> list[float]:
        raise DataError(where="w", given="g", expected="e", fix="f")

    monkeypatch.setattr(parity, "evaluate", evaluate)
    assert "the reference interpreter differs at position 155: every value" in parity.check(trial(tmp_path)).text()


@pytest.mark.parametrize(("kind", "word"), [("corrected", "corrects"), ("deleted", "deletes")])
def test_a_trial_without_a_kind_of_disorder_has_tried_nothing(
    kind: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calm(of: Trial) -> list[Step]:
        return [step for step in LIVE(of) if word not in step.body]

    monkeypatch.setattr(traffic, "live", calm)
    found = parity.check(trial(tmp_path))
    assert not found.holds
    assert found.breaches == (f"nothing was tried: the trial holds no {kind} event; ask for more requests",)
    assert found.tried[kind] == 0


def test_without_late_events_nothing_came_late_or_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def calm(of: Trial) -> list[Step]:
        return [step for step in LIVE(of) if step.door != "event"]

    monkeypatch.setattr(traffic, "live", calm)
    found = parity.check(trial(tmp_path))
    assert len(found.breaches) == 4
    assert set(found.tried.values()) == {0}


def test_decisions_that_parity_does_not_see_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_EVERY_VALUE", 10)
    assert " candidates logged features, 10 were compared" in parity.check(trial(tmp_path)).text()


def test_a_system_without_windows_is_tried_on_its_bits_alone(tmp_path: Path) -> None:
    plain = tuple(
        feature
        for feature in SYSTEM.features.features
        if not isinstance(feature, Aggregate | Derived) or feature.name == "reviews_1d"
    )
    features = msgspec.structs.replace(SYSTEM.features, features=plain)
    found = parity.check(Trial(system=msgspec.structs.replace(SYSTEM, features=features), folder=tmp_path))
    assert found.holds
    assert found.noticed == ("the last bit of a logged value",)


# The planted states


COUNT = Aggregate(
    name="card_payments",
    meaning="payments of the card",
    unit="payments",
    entity="card",
    aggregate="count",
    over=("payment",),
    window="1000us",
)
FEATURES = FeatureSet(system="demo", features=(COUNT,))


def fact(root: int, time: int, card: int = 7) -> Fact:
    return Fact(root, time, "payment", {"card": card}, {})


LOG = [
    Change(0, 100, None, fact(0, 100)),
    Change(1, 101, None, fact(1, 90)),
    Change(2, 102, fact(0, 100), fact(0, 100, card=8)),
    Change(3, 103, None, fact(3, 103)),
    Change(4, 104, fact(3, 103), None),
    Change(5, 105, fact(1, 90), fact(1, 91)),
]


def count(state: OnlineState, card: int = 7) -> float:
    vector: Float64s = state.vector(Point(6, 500, entities={"card": card}))
    return float(vector[0])


@pytest.mark.parametrize(
    ("fault", "of_7", "of_8"),
    [
        (FaultyState, 1, 1),
        (MissesLate, 0, 1),
        (CountsTwice, 2, 1),
        (ForgetsCorrections, 2, 0),
        (ForgetsDeletions, 2, 1),
    ],
)
def test_a_planted_state_has_its_fault_and_no_other(fault: type[FaultyState], of_7: int, of_8: int) -> None:
    one, many = fault(FEATURES, {1}), fault(FEATURES, {1})
    for change in LOG:
        one.apply(change)
    many.apply_many(LOG)
    assert [count(one), count(one, 8)] == [count(many), count(many, 8)] == [of_7, of_8]
    assert one.position == 6
