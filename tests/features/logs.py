"""Small logs with everything that goes wrong in one: ties, late rows, corrections, deletions, revivals, gaps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from decalog.features.definition import (
    Aggregate,
    AggregateName,
    Attribute,
    Calendar,
    Category,
    Condition,
    Cross,
    Feature,
    FeatureSet,
    Lookup,
    Rate,
    Ratio,
    Same,
    ZScore,
)
from decalog.features.facts import Change, Fact, Point, TableVersion, Value

KINDS = ("payment", "login", "decision.review")
WINDOWS = ("1us", "3us", "8us", "30us")
BOUND = 100
COLUMNS: dict[AggregateName, tuple[str, ...]] = {
    "count": ("",),
    "time_since": ("",),
    "sum": ("cents", "flag"),
    "mean": ("cents",),
    "distinct": ("card", "device", "country", "cents"),
}
VALUES: dict[str, list[Value]] = {
    "cents": [0, 1, -1, 7, BOUND, BOUND + 1, -BOUND - 1, 2**63, True, 2.5, "7", float("nan")],
    "flag": [True, False, 3],
    "country": ["DE", "FR", "", "ü", 5, 1.0],
    "other": ["DE", "FR", 5, 1],
}


retains = st.sampled_from([1000, 2, 3, 4, 5, 6])
"""Most rows of an entity: so many that none is ever full, or so few that most are."""


@functools.cache
def features(lateness: str = "6us", retain: int = 1000, *, lookups: bool = True) -> FeatureSet:
    """Returns every aggregate over every entity and window, with and without the own event, and request features."""
    declared: list[Feature] = []
    for entity in ("card", "device", "all"):
        for aggregate, columns in COLUMNS.items():
            declared += [
                Aggregate(
                    name=f"{entity}_{aggregate}_{column}_{window}_{int(own)}_{'_'.join(over).replace('.', '_')}",
                    meaning="generated",
                    unit="s" if aggregate == "time_since" else "1",
                    entity=entity,
                    aggregate=aggregate,
                    over=over,
                    window=window,
                    column=column,
                    own=own,
                    missing=-7.5 if entity == "device" else None,
                    bound=BOUND,
                )
                for column in columns
                for window in WINDOWS
                for own, over in ((True, ("payment",)), (False, ("payment", "login")), (True, ("decision.review",)))
            ]
    declared += [*_further(), *_pairs()]
    declared += [
        Attribute(name="cents", meaning="generated", unit="1", attribute="cents"),
        Category(
            name="country", meaning="generated", unit="1", attribute="country", vocabulary=("DE", "FR"), missing=-3
        ),
        Same(name="same", meaning="generated", unit="1", left="country", right="other"),
        Calendar(name="hour", meaning="generated", unit="h", part="hour_of_day"),
        Calendar(name="day", meaning="generated", unit="d", part="day_of_week"),
        Cross(name="cross", meaning="generated", unit="1", left="country", right="other", buckets=7, missing=-2),
        Lookup(name="looked_up", meaning="generated", unit="1", table="risk", key="country", missing=-9),
        Lookup(name="listed", meaning="generated", unit="1", table="lists", key="device", missing=0),
        Ratio(
            name="ratio", meaning="generated", unit="1", numerator="card_sum_flag_8us_1_payment", denominator="cents"
        ),
        Ratio(name="ratio_of_gaps", meaning="generated", unit="1", numerator="looked_up", denominator="card_min_8us"),
        Rate(name="rate", meaning="generated", unit="1", of="card_count__8us_1_payment", per="3us"),
        ZScore(
            name="z",
            meaning="generated",
            unit="1",
            value="cents",
            mean="card_mean_cents_8us_1_payment",
            std="card_std_8us",
        ),
    ]
    return FeatureSet(system="generated", features=tuple(declared), lateness=lateness, retain=retain)


def _further() -> list[Feature]:
    """Returns the aggregates of single values, with conditions, offsets and half-lives."""
    kinds = ("payment", "login")
    shapes: list[tuple[str, dict[str, Any]]] = [
        *((name, {"aggregate": name, "column": "cents"}) for name in ("min", "max", "std", "first", "last")),
        ("last_flag", {"aggregate": "last", "column": "flag", "own": False}),
        ("first_own_out", {"aggregate": "first", "column": "cents", "own": False, "over": kinds}),
        ("decayed", {"aggregate": "decayed", "half_life": "16us"}),
        ("decayed_cents", {"aggregate": "decayed", "half_life": "160us", "column": "cents", "over": kinds}),
        ("filtered", {"aggregate": "count", "where": (Condition("country", "==", "DE"),)}),
        ("filtered_since", {"aggregate": "time_since", "unit": "s", "where": (Condition("cents", ">=", 1),)}),
        ("filtered_sum", {"aggregate": "sum", "column": "cents", "where": (Condition("country", "!=", "FR"),)}),
        ("filtered_set", {"aggregate": "distinct", "column": "device", "where": (Condition("flag", "==", 1),)}),
        ("between", {"aggregate": "count", "where": (Condition("cents", ">", -1), Condition("cents", "<", 7.5))}),
        ("among", {"aggregate": "last", "column": "cents", "where": (Condition("other", "in", ("DE", 5)),)}),
        ("at_most", {"aggregate": "max", "column": "cents", "where": (Condition("cents", "<=", 7),)}),
    ]
    return [
        _aggregate(f"{entity}_{name}{offset}_{window}", entity=entity, window=window, offset=offset, **given)
        for entity in ("card", "all")
        for name, given in shapes
        for offset in ("", "2us")
        for window in ("8us", "30us")
    ]


def _pairs() -> list[Feature]:
    return [
        _aggregate("pair_count", entity="card+device", aggregate="count", window="30us"),
        _aggregate("pair_sum", entity="card+device", aggregate="sum", column="cents", window="8us", own=False),
        _aggregate("turned_last", entity="device+card", aggregate="last", column="cents", window="30us"),
    ]


def _aggregate(name: str, **given: Any) -> Aggregate:
    plain: dict[str, Any] = {"meaning": "generated", "unit": "1", "over": ("payment",), "bound": BOUND, "crowded": -5.5}
    return Aggregate(name=name, **(plain | given))


_entities = st.fixed_dictionaries({}, optional={"card": st.integers(1, 2), "device": st.integers(1, 3)})
_attributes = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})
_ages = st.integers(-3, 12)
_step = st.tuples(
    st.sampled_from(
        ["event", "event", "decide", "decide", "correct", "correct", "delete", "point", "hindsight", "table"]
    ),
    st.integers(0, 4),  # how much later it becomes known
    _ages,  # how much earlier it happened
    st.integers(0, 50),  # which earlier row a correction or hindsight is about
    st.sampled_from(KINDS[:2]),
    _entities,
    _attributes,
)
steps = st.lists(_step, min_size=15, max_size=60)


class Writer:
    """Turns drawn steps into changes and points, as the log's one writer would stamp them."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.points: list[Point] = []
        self._live: dict[int, Fact | None] = {}
        self._decided: list[Point] = []
        self._seq = 0
        self._known = 1_000_000

    def write(self, drawn: Sequence[tuple[Any, ...]]) -> Writer:
        for act, later, age, which, kind, entities, attributes in drawn:
            self._known += later
            fact = Fact(self._seq, self._known - age, kind, entities, attributes)
            getattr(self, f"_{act}")(fact, which)
        return self

    def _event(self, fact: Fact, which: int) -> None:
        self._append(Change(self._seq, self._known, None, fact))
        self._live[fact.root] = fact

    def _decide(self, fact: Fact, which: int) -> None:
        asked = Fact(fact.root, fact.event_time, "payment", fact.entities, fact.attributes)
        state_seq = max(0, self._seq - which % 2)  # a decision may have seen an earlier position than its own
        # Mostly asked at its own time; sometimes later, or earlier than it happened.
        point = Point(state_seq, asked.event_time + (0, 0, 3, -1)[which % 4], asked.root, asked)
        self.points.append(point)
        self._decided.append(point)
        verdict = Fact(fact.root, fact.event_time, "decision.review", fact.entities, fact.attributes)
        self._live[fact.root] = asked
        self._append(Change(self._seq, self._known, None, asked), Change(self._seq, self._known, None, verdict))

    def _correct(self, fact: Fact, which: int) -> None:
        roots = list(self._live)
        if not roots:
            return
        root = roots[which % len(roots)]
        plus = Fact(root, fact.event_time, fact.kind, fact.entities, fact.attributes)
        self._append(Change(self._seq, self._known, self._live[root], plus))
        self._live[root] = plus

    def _delete(self, fact: Fact, which: int) -> None:
        roots = list(self._live)
        if roots:
            root = roots[which % len(roots)]
            self._append(Change(self._seq, self._known, self._live[root], None))
            self._live[root] = None

    def _point(self, fact: Fact, which: int) -> None:
        self.points.append(Point(self._seq, fact.event_time, entities=fact.entities))

    def _hindsight(self, fact: Fact, which: int) -> None:
        if self._decided:
            seen = self._decided[which % len(self._decided)]
            self.points.append(Point(self._seq, seen.time, seen.root, seen.own))

    def _table(self, fact: Fact, which: int) -> None:
        if which % 2:
            numbers = {str(token): float(which) for token in range(1, 4) if which % (token + 2)}
            self._append(Change(self._seq, self._known, table=TableVersion("lists", numbers)))
            return
        numbers = {"DE": float(which), "5": 0.5} if which % 3 else {}
        self._append(Change(self._seq, self._known, table=TableVersion("risk", numbers)))

    def _append(self, *changes: Change) -> None:
        self.changes.extend(changes)
        self._seq += 1
