"""Decisions by when they were made, and the forecasts in them as the field's frames.

GET /v1/demand/forecast?series=s1/i7&series=…      the latest forecast of each series
GET /v1/demand/forecast?date=2026-11-26            those of all decisions of a night

Each row is one decision's forecast of its whole protection interval: `ds` is the interval's first day, and
`horizon_days` its length. `format=csv` gives the frame alone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs

import msgspec

from decalog.clock import DAY, HOUR, SECOND, rfc3339
from decalog.decisions import Decision, decode_decision, new_decision_id
from decalog.errors import LimitError, RequestError, UnknownRecordError
from decalog.events import Record
from decalog.host import Host
from decalog.http.problems import Answer, Refusal, answer_of
from decalog.http.routes import JSON
from decalog.http.settings import HttpSettings
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.stores.base import StoredKeys
from decalog.systems.demand.schema import HEADS, LEVELS
from decalog.systems.demand.wire_sheets import CSV, CsvLines

BACK_DAYS = 35
"""How far back the latest forecast of a series is looked for."""
MODEL = "decalog"
"""Name of the column of means."""

_AT_ONCE, _KEYS_AT_ONCE = 20, 2_000
_LATE_US = 60 * SECOND
"""Ids carry the time at which a decision began: so much later it is in the log at the latest."""
_LOWER = [level for level in LEVELS if level < 0.5]  # noqa: PLR2004 - the median
_CENTRAL = [round(100 - 200 * level) for level in _LOWER]
COLUMNS = ("unique_id", "ds", MODEL, *(f"{MODEL}-{side}-{level}" for level in _CENTRAL for side in ("lo", "hi")))


class Span(NamedTuple):
    """From a moment until another, µs."""

    begin: int
    end: int


class Query:
    """The words of a request's query, each of which it may hold once but those that a list is made of.

    Args:
        asked: the request.
        known: words that it may hold.

    Raises:
        RequestError: it holds others.
    """

    def __init__(self, asked: Asked, *known: str) -> None:
        self._words = parse_qs(asked.query.decode(errors="replace"))
        unknown = set(self._words) - set(known)
        if unknown:
            raise _unfit("query", "words that mean nothing here", ", ".join(known))

    def all(self, name: str) -> list[str]:
        """Returns everything that was said under a name."""
        return self._words.get(name, [])

    def one(self, name: str, choices: Sequence[str] = ()) -> str:
        """Returns the last of it, "" for nothing, or the first choice where there are some."""
        said = (self._words.get(name) or [choices[0] if choices else ""])[-1]
        if choices and said not in choices:
            raise _unfit(f"query, {name}", "another word", " or ".join(choices))
        return said

    def night(self) -> Span:
        """Returns the day of `date`, from `hour` on (UTC), for 24 hours."""
        date, hour = self.one("date"), self.one("hour") or "0"
        try:
            day = dt.date.fromisoformat(date) - dt.date(1970, 1, 1)
        except ValueError:
            raise _unfit("query, date", "no date", "date=2026-11-26") from None
        if not hour.isdecimal() or int(hour) >= DAY // HOUR:
            raise _unfit("query, hour", "no hour", "hour=18: when a night of orders begins in UTC, 0 to 23")
        begin = day.days * DAY + int(hour) * HOUR
        return Span(begin, begin + DAY)


class Nights:
    """Reads one system's decisions in the order in which they were made.

    Args:
        host: whose log.
        system: its name.
    """

    def __init__(self, host: Host, system: str) -> None:
        self._host, self._system = host, system

    @property
    def now(self) -> int:
        """The log's time, µs."""
        return max(self._host.log.known_time, self._host.log.clock.now_us())

    async def decisions(self, span: Span) -> AsyncIterator[tuple[Record, Decision]]:
        """Yields what was decided here and not imported, in the log's order, and lets others work in between."""
        log = self._host.log
        erased = self._host.services[self._system].standing.erased
        first, last = (new_decision_id(max(at, 0), bytes(10)) for at in span)
        seqs = []
        for _, _, seq in cast("StoredKeys", log.store).keys(("decision", first, -1), ("decision", last, -1)):
            seqs.append(seq)
            if len(seqs) % _KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for number, seq in enumerate(sorted(seqs), 1):  # ids of one millisecond are in no order
            record = log.get(seq)
            if record.kind == "decision" and record.system == self._system and record.root not in erased:
                decision = decode_decision(record.body)
                if decision.mode != "imported":
                    yield record, decision
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)


class Forecasts(JsonWire):
    """The route of the forecasts on the log.

    Args:
        host: whose log.
        system: its name.
        settings: limits.
    """

    def __init__(self, host: Host, system: str, *, settings: HttpSettings) -> None:
        self._host, self._system, self._most = host, system, settings.batch_rows
        self._nights = Nights(host, system)
        self._latest: dict[str, int] = {}
        self._read_until = 0
        self._alone = asyncio.Lock()
        self.routes: tuple[WireRoute, ...] = (
            WireRoute("demand_forecast", "GET", f"/v1/{system}/forecast", "decide", self._forecast),
        )

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as our own JSON has it."""
        return answer_of(refusal)

    async def _forecast(self, asked: Asked) -> Answer:
        query = Query(asked, "series", "date", "hour", "format")
        names, form = query.all("series"), query.one("format", ("json", "csv"))
        if bool(names) == bool(query.one("date")):
            raise _unfit("query", "both of series and date, or none", "series=…, once or more, or date=2026-11-26")
        found = await self._of_series(names) if names else await self._of_night(query.night())
        return _csv(found) if form == "csv" else _json(found)

    async def _of_night(self, span: Span) -> list[Decision]:
        found = []
        async for _, decision in self._nights.decisions(span):
            if _has_forecast(decision):
                found.append(decision)
            check_rows(len(found), self._most)
        return found

    async def _of_series(self, names: Sequence[str]) -> list[Decision]:
        check_rows(len(names), self._most)
        async with self._alone:
            await self._follow()
        missing = [name for name in names if name not in self._latest]
        if missing:
            raise UnknownRecordError(
                where=f"{self._system} forecast, series",
                given=f"{len(missing)} that no decision with a forecast was made for",
                expected=f"series that an order was decided for within {BACK_DAYS} days",
                fix="Name them as their requests do.",
            )
        return [decode_decision(self._host.log.get(self._latest[name]).body) for name in names]

    async def _follow(self) -> None:
        """Looks at what was decided since it looked last."""
        now = self._nights.now
        begin = max(self._read_until - _LATE_US, now - BACK_DAYS * DAY)
        for day in range(begin, now + SECOND, DAY):
            async for record, decision in self._nights.decisions(Span(day, min(day + DAY, now + SECOND))):
                if _has_forecast(decision):
                    self._latest[str(decision.request.attributes.get("series", ""))] = record.seq
        self._read_until = now


def check_rows(count: int, most: int) -> None:
    """Returns if there are no more rows than a file or a frame may have.

    Raises:
        LimitError: there are.
    """
    if count > most:
        raise LimitError(
            where="demand, rows of one answer",
            given=f"more than {most:,}",
            expected=f"at most {most:,}",
            fix="Ask for one store after the other (store=…), or for fewer series.",
        )


def _has_forecast(decision: Decision) -> bool:
    lead = decision.lead
    return lead is not None and all(head in lead.predictions for head in HEADS)


def _row(decision: Decision) -> list[Any]:
    lead = decision.lead
    said = {} if lead is None else lead.predictions
    quantiles = [said[f"demand_q{round(100 * level):02d}"] for low in _LOWER for level in (low, 1 - low)]
    first = decision.request.event_time // DAY + 1
    day = (dt.date(1970, 1, 1) + dt.timedelta(days=first)).isoformat()
    series = str(decision.request.attributes.get("series", ""))
    return [series, day, *(round(value, 4) for value in (said[HEADS[0]], *quantiles))]


def _json(found: Sequence[Decision]) -> Answer:
    rows = [_row(decision) for decision in found]
    told = {
        "frame": {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)},
        "horizon_days": [decision.request.attributes.get("horizon_days") for decision in found],
        "decision_id": [decision.id for decision in found],
        "asked": [rfc3339(decision.request.event_time) for decision in found],
    }
    return Answer(200, msgspec.json.encode(told), JSON)


def _csv(found: Sequence[Decision]) -> Answer:
    lines = CsvLines(COLUMNS, mark=False)
    for decision in found:
        lines.add(_row(decision))
    return Answer(200, lines.body, CSV)


def _unfit(where: str, given: str, expected: str) -> RequestError:
    return RequestError(where=f"demand, {where}", given=given, expected=expected, fix="Mend the query.")
