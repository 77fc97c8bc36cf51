"""Which decisions of quantities somebody should look at: kept in the index as the log is followed.

Five things make one: the fallback decided; a guardrail changed it; far more was chosen than is usual of that thing;
what can be had lies below the lowest quantile of the forecast; what was told lies below that, or above the highest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from decalog.control_room.quantities import Forecast, quantity_of, schema_of, thing_of
from decalog.decisions import Decision, GuardrailVerdict
from decalog.events import Record
from decalog.outcomes import Outcome

TABLES = """
CREATE TABLE IF NOT EXISTS quantities (seq INTEGER PRIMARY KEY, system TEXT NOT NULL, token INTEGER NOT NULL,
    thing TEXT NOT NULL, chosen REAL NOT NULL, held REAL NOT NULL, usual REAL, mean REAL, low REAL, high REAL,
    unit REAL NOT NULL, fallback TEXT NOT NULL, guardrail TEXT NOT NULL, told REAL, bound INTEGER NOT NULL,
    why TEXT NOT NULL, stake REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_thing ON quantities (token, seq);
CREATE INDEX IF NOT EXISTS by_why ON quantities (system, seq) WHERE why <> '';
"""
WHY = {
    "above": "more than forecast",
    "below": "less than forecast",
    "short": "too little there",
    "large": "far above usual",
    "guardrail": "guardrail",
    "fallback": "fallback",
}
LARGE = 3.0
"""From so many times the usual on, a choice is large."""
_USUAL_OF, _USUAL_FROM = 12, 4
"""The usual is the mean of so many choices above 0 before, where there are that many at least."""
_MOST = 5_000
"""Notable decisions that are sorted, the newest."""


class Seen(NamedTuple):
    """A decision of a quantity as the index keeps it.

    Args:
        seq: of its record.
        system: whose.
        token: of what it is about; 0 for nothing.
        thing: its value.
        chosen: the quantity.
        held: what can be had: what there was and what was chosen.
        usual: of that thing; None where it is not known yet.
        mean, low, high: of the forecast: the outermost quantiles; None where nothing was predicted.
        unit: what a unit is worth, minor units of the base currency.
        fallback: why, or "".
        guardrail: what the first did that changed it, or "".
        told: what was told since; None for nothing.
        bound: whether that is a lower bound.
        why: what makes it notable, words of `WHY`; "" for nothing.
        stake: money at stake, minor units.
    """

    seq: int
    system: str
    token: int
    thing: str
    chosen: float
    held: float
    usual: float | None
    mean: float | None
    low: float | None
    high: float | None
    unit: float
    fallback: str
    guardrail: str
    told: float | None = None
    bound: bool = False
    why: str = ""
    stake: float = 0.0

    @property
    def outer(self) -> Forecast | None:
        """The forecast's mean and outermost quantiles; None where nothing was predicted."""
        if self.mean is None or self.low is None or self.high is None:
            return None
        return Forecast(self.mean, (), (self.low, self.high))

    @property
    def reasons(self) -> list[str]:
        """What makes it notable, in words."""
        return [WHY[one] for one in self.why.split()]


def judged(seen: Seen) -> Seen:
    """Returns a decision with what makes it notable, and the money at stake: of the reason with the most.

    A unit counts what it is worth. What was told or can be had counts by how far it is from the mean, a large choice by
    what is beyond the usual, and what no forecast or no free choice decided by all that was chosen or expected.
    """
    units = dict(_units(seen))
    return seen._replace(why=" ".join(units), stake=seen.unit * max(units.values(), default=0.0))


def _units(seen: Seen) -> Iterator[tuple[str, float]]:
    """Yields each reason with the units at stake."""
    yield from _against_forecast(seen)
    if seen.usual is not None and seen.chosen > LARGE * seen.usual:
        yield "large", seen.chosen - seen.usual
    whole = max(seen.chosen, seen.mean or 0.0)
    if seen.guardrail:
        yield "guardrail", whole
    if seen.fallback:
        yield "fallback", whole


def _against_forecast(seen: Seen) -> Iterator[tuple[str, float]]:
    outer = seen.outer
    if outer is None:
        return
    surprise = "" if seen.told is None else outer.surprise(seen.told, is_bound=bool(seen.bound))
    if seen.told is not None and surprise:
        yield surprise, abs(seen.told - outer.mean)
    if outer.surprise(seen.held, is_bound=False) == "below":
        yield "short", outer.mean - seen.held


class Notable:
    """The part of an index that holds decisions of quantities.

    Args:
        sql: connection of the index.
    """

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql

    def latest(self, system: str, *, since: int, why: str = "", most: int) -> list[Seen]:
        """Returns decisions that somebody should look at, those with the most money first.

        Args:
            system: whose.
            since: seq of the first that counts; of those the newest are sorted.
            why: a word of `WHY`; "" for all.
            most: how many.
        """
        newest = "SELECT * FROM quantities WHERE system = ? AND seq >= ? AND why <> '' ORDER BY seq DESC LIMIT ?"
        sql = f"SELECT * FROM ({newest}) WHERE instr(why, ?) ORDER BY stake DESC, seq DESC LIMIT ?"  # noqa: S608 - ours
        return self._rows(sql, system, since, _MOST, why, most)

    def of(self, seqs: Iterable[int]) -> dict[int, Seen]:
        """Returns the decisions of some records that chose a quantity, by seq."""
        wanted = list(seqs)
        rows = self._rows(f"SELECT * FROM quantities WHERE seq IN ({', '.join('?' * len(wanted))})", *wanted)  # noqa: S608 - marks
        return {row.seq: row for row in rows}

    def add(self, record: Record, decision: Decision) -> None:
        """Takes a decision, if it chose a quantity."""
        schema = schema_of(record.system)
        found = None if schema is None else quantity_of(decision, schema)
        if schema is None or found is None or found.chosen is None:
            return
        name = thing_of(schema)
        token = decision.request.entities.get(name, 0)
        mean, low, high = (None, None, None) if found.forecast is None else found.forecast.outer
        guardrails = [_guardrail(one) for one in decision.guardrails]
        self._put(
            Seen(
                seq=record.seq,
                system=record.system,
                token=token,
                thing=str(decision.request.attributes.get(name, "")),
                chosen=found.chosen,
                held=found.held or 0.0,
                usual=self._usual(token),
                mean=mean,
                low=low,
                high=high,
                unit=found.unit_minor,
                fallback=decision.fallback,
                guardrail=next(iter(guardrails), ""),
            )
        )

    def tell(self, system: str, said: Outcome) -> None:
        """Takes what was told of a decision's quantity, if it is that; what was told last holds."""
        schema = schema_of(system)
        if schema is None or said.kind != schema.label.of:
            return
        asked = "SELECT * FROM quantities WHERE seq IN (SELECT seq FROM decisions WHERE system = ? AND request = ?)"
        is_bound = bool(said.attributes.get(schema.label.bound))
        for row in self._rows(asked, system, said.target):
            self._put(row._replace(told=said.value, bound=is_bound))

    def _put(self, seen: Seen) -> None:
        row = judged(seen)
        self._sql.execute(f"INSERT OR REPLACE INTO quantities VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - marks

    def _usual(self, token: int) -> float | None:
        """Returns what is usually chosen of a thing; None where too little is known of it."""
        before = "SELECT chosen FROM quantities WHERE token = ? AND chosen > 0 ORDER BY seq DESC LIMIT ?"
        (found,) = self._sql.execute(f"SELECT avg(chosen), count(*) FROM ({before})", (token, _USUAL_OF))  # noqa: S608 - ours
        return float(found[0]) if token and found[1] >= _USUAL_FROM else None

    def _rows(self, sql: str, *values: object) -> list[Seen]:
        return [Seen(*row) for row in self._sql.execute(sql, values)]


def _guardrail(one: GuardrailVerdict) -> str:
    return f"{one.name.replace('_', ' ')}: {one.before} became {one.after}, {one.why}"
