"""Each usual fault of a state is recognised by the value it gives, and the rows say which side saw them."""

from __future__ import annotations

from typing import Any

import pytest

from decalog.features.definition import Aggregate, Attribute, FeatureSet, Lookup, Ratio
from decalog.features.facts import Change, Fact, Point
from decalog.features.reference import evaluate
from decalog.features.skew import Why, explain

SUM = Aggregate(
    name="card_cents",
    meaning="spent by the card",
    unit="cents",
    entity="card",
    aggregate="sum",
    column="cents",
    over=("payment",),
    window="100us",
)
CENTS = Attribute(name="cents", meaning="of the payment", unit="cents", attribute="cents")
FEATURES = FeatureSet(system="demo", features=(SUM, CENTS), lateness="1h")
OWN = Fact(2**62, 200, "payment", {"card": 7}, {"cents": 1_000_000})


def fact(root: int, time: int, cents: int, *, card: int = 7) -> Fact:
    return Fact(root, time, "payment", {"card": card}, {"cents": cents})


def add(seq: int, time: int, cents: int, **other: Any) -> Change:
    return Change(seq, max(time, 150), None, fact(seq, time, cents, **other))


LOG = [
    add(0, 100, 1),  # on the window's older edge
    add(1, 120, 2),
    add(2, 150, 4),
    add(3, 130, 8),  # late
    Change(4, 151, fact(1, 120, 2), fact(1, 120, 16)),
    add(5, 152, 32),
    Change(6, 153, fact(5, 152, 32), None),
    add(7, 160, 64, card=8),
    add(8, 161, 128),
    add(10, 199, 256),  # after the decision
]
POINT = Point(9, 200, own=OWN)
OWN_CENTS = 1_000_000
HONEST = OWN_CENTS + 16 + 4 + 8 + 128


def why(logged: float, name: str = "card_cents", point: Point = POINT) -> Why:
    return explain(FEATURES, name, changes=LOG, point=point, logged=[logged, logged])


def test_the_honest_value_is_the_references() -> None:
    assert evaluate(FEATURES, LOG, point=POINT) == [HONEST, OWN_CENTS]


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (HONEST - 16 + 2, "a state that forgets corrections"),
        (HONEST + 32, "a state that forgets deletions"),
        (HONEST - 16 + 2 + 32, "a state that forgets corrections and deletions"),
        (HONEST + 2, "a state that adds corrections and leaves what they replace"),
        (HONEST - 8, "a state without the rows that came late"),
        (OWN_CENTS, "a state that lost the entity's rows"),
        (HONEST - OWN_CENTS, "the request's own event left out"),
        (HONEST - 128, "a state at 8, behind the decision's position 9"),
        (HONEST - 128 + 32, "a state at 6, behind the decision's position 9"),
        (HONEST + 256, "a state that looks ahead, to 11"),
        (HONEST + 128, "a state that holds the row of root 8 twice"),
        (HONEST + 1, "a window whose older edge is taken in"),
    ],
)
def test_a_fault_is_told_by_its_value(logged: float, said: str) -> None:
    assert why(logged).said == f"the logged value is that of {said}"


def test_rows_are_marked_and_say_who_saw_them() -> None:
    found = why(HONEST + 32)
    assert [(row.seq, row.root, row.seen, row.marks) for row in found.rows] == [
        (4, 1, "both", ("corrected",)),
        (3, 3, "both", ("late",)),
        (2, 2, "both", ()),
        (5, 5, "online", ("deleted",)),
        (8, 8, "both", ()),
    ]
    assert (found.rows[0].event_time, found.rows[0].known_time, found.rows[0].kind) == (
        "1970-01-01T00:00:00.000120Z",
        "1970-01-01T00:00:00.000151Z",
        "payment",
    )
    assert [row.seen for row in why(HONEST - 128).rows] == ["both"] * 3 + ["offline"]
    ahead, twice, beside = why(HONEST + 256).rows, why(HONEST + 128).rows, why(HONEST + 2).rows
    assert [(row.seq, row.seen) for row in ahead if row.seen != "both"] == [(10, "online")]
    assert [(row.seq, row.marks) for row in twice if row.seen != "both"] == [(8, ("second copy",))]
    assert [(row.seq, row.marks) for row in beside if row.seen != "both"] == [
        (1, ("corrected",)),
        (4, ("corrected",)),
        (4, ("second copy",)),
    ]
    forgets = why(HONEST - 16 + 2).rows
    assert [(row.seq, row.seen) for row in forgets][:2] == [(1, "online"), (4, "offline")]


def test_what_no_fault_gives_is_said_so() -> None:
    found = why(0.5)
    assert found.said == "no usual fault of a state gives the logged value: what each side saw cannot be told"
    assert {row.seen for row in found.rows} == {"both"}


def test_long_windows_are_cut_to_their_newest_rows() -> None:
    log = [add(seq, 110 + seq, 1) for seq in range(40)]
    found = explain(FEATURES, "card_cents", changes=log, point=Point(40, 200, own=OWN), logged=[0.5, 0.5])
    assert (len(found.rows), found.more, found.rows[-1].seq) == (30, 10, 39)


def test_features_without_rows_are_said_so() -> None:
    assert why(1.0, "cents").said == (
        "computed from the request and its time alone, no other row enters: the logged value was changed"
    )
    alone = Point(9, 200, own=Fact(2**62, 200, "payment", {}, {}))
    assert why(1.0, point=alone).said == "the request has no card, so no row enters: the logged value was changed"


def test_a_fault_that_would_have_refused_is_no_explanation() -> None:
    """A correction after a deletion revives: a state that forgets deletions would hold the row twice."""
    log = [add(0, 150, 1), Change(1, 151, fact(0, 150, 1), None), Change(2, 152, None, fact(0, 150, 2))]
    found = explain(FEATURES, "card_cents", changes=log, point=Point(3, 200, own=OWN), logged=[0.5, 0.5])
    assert found.said.startswith("no usual fault")
    assert [(row.seq, row.marks) for row in found.rows] == [(2, ("corrected",))]


def test_of_several_faults_the_one_that_explains_the_other_values_is_named() -> None:
    """One more or less may have many causes; the windows beside it were filled by the same state."""
    count = Aggregate(
        name="card_payments",
        meaning="payments of the card",
        unit="payments",
        entity="card",
        aggregate="count",
        over=("payment",),
        window="100us",
    )
    features = FeatureSet(system="demo", features=(count, SUM), lateness="1h")
    log = [add(0, 150, 1), add(1, 160, 2)]
    for logged, said in (
        ([2.0, OWN_CENTS + 1.0], "a state at 1, behind the decision's position 2"),
        ([2.0, 3.0], "the request's own event left out"),
        ([2.0, 7.0], "the request's own event left out"),
    ):
        found = explain(features, "card_payments", changes=log, point=Point(2, 200, own=OWN), logged=logged)
        assert found.said == f"the logged value is that of {said}"


def test_what_is_derived_or_looked_up_names_what_it_came_from() -> None:
    declared = FeatureSet(
        system="skew",
        features=(
            *FEATURES.features,
            Lookup(name="risk", meaning="tested", unit="1", table="risks", key="cents"),
            Ratio(name="share", meaning="tested", unit="1", numerator="cents", denominator="card_cents"),
        ),
    )
    logged, point = [0.0] * len(declared.names), Point(0, 200, own=OWN)
    said = {name: explain(declared, name, changes=[], point=point, logged=logged).said for name in ("risk", "share")}
    assert said == {
        "risk": "looked up in risks: another version of it was seen, or the logged value was changed",
        "share": "derived from cents, card_cents alone: where these agree, the logged value was changed",
    }
