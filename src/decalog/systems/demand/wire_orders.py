"""Planners' files: the orders of a night, and what planners order in their place.

GET  /v1/demand/orders?date=2026-11-26      the night's decisions; also hour=18, store=s1, format=csv|xlsx
POST /v1/demand/orders                      the same file, with other `units` and a `why`: each becomes an override

`units` is what is ordered: what was decided, or what a planner ordered instead. A row that says the same as the log is
left alone, so the file may come twice. A bad row is refused alone, and told with its line.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from decalog.clock import rfc3339
from decalog.decisions import Decision
from decalog.errors import RequestError, UnknownRecordError
from decalog.host import Host
from decalog.http.problems import Answer, Headers, Refusal, answer_of, problem
from decalog.http.routes import JSON
from decalog.http.settings import HttpSettings
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.ingest import RowResult
from decalog.money import to_minor
from decalog.outcomes import Outcome, decode_outcome
from decalog.systems.demand.schema import OVERRIDE, SCHEMA
from decalog.systems.demand.wire_nights import Nights, Query, check_rows
from decalog.systems.demand.wire_sheets import CSV, XLSX, CsvLines, read, written
from decalog.systems.demand.wire_workbook import Cell

ID, UNITS, WHY, PLANNER, SERIES = "decision_id", "units", "why", "planner", "series"
COLUMNS = (
    *("series", "item", "store", "mean", "q10", "q50", "q90", "on_hand", "on_order", "pack"),
    *(
        "decided_units",
        UNITS,
        WHY,
        PLANNER,
        "expected_worth",
        "currency",
        "reasons",
        "guardrails",
        "mode",
        "decided",
        ID,
    ),
)
REASONS = next(field.choices for kind in SCHEMA.outcomes if kind.name == OVERRIDE for field in kind.fields)
_PREDICTED = {"mean": "demand_mean", "q10": "demand_q10", "q50": "demand_q50", "q90": "demand_q90"}
_WHOLE = re.compile(r"(\d{1,9})(?:[.,]0)?")
_AT_ONCE, _LOGGED_AT_ONCE = 20, 200

Status = Literal["accepted", "unchanged", "rejected"]


class RowTold(msgspec.Struct, frozen=True):
    """What became of a row of a planner's file: its line, its decision, and why where it was refused."""

    line: int
    decision_id: str
    status: Status
    message: str = ""


class Override(NamedTuple):
    """What a row orders: the line that says so, the decision, and the outcome that is to be logged."""

    line: int
    decision_id: str
    outcome: dict[str, Any]


class Orders(JsonWire):
    """The two routes of one system's files.

    Args:
        host: decides.
        system: its name.
        settings: limits.
    """

    def __init__(self, host: Host, system: str, *, settings: HttpSettings) -> None:
        self._host, self._system, self._most = host, system, settings.batch_rows
        self._nights = Nights(host, system)
        self._alone, self._workbook = asyncio.Lock(), asyncio.Lock()
        path = f"/v1/{system}/orders"
        self.routes: tuple[WireRoute, ...] = (
            WireRoute("demand_orders", "GET", path, "outcomes", self._get),
            WireRoute("demand_overrides", "POST", path, "outcomes", self._post, batch=True),
        )

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as our own JSON has it."""
        return answer_of(refusal)

    async def _get(self, asked: Asked) -> Answer:
        query = Query(asked, "date", "hour", "store", "format")
        form, store, lines, rows = query.one("format", ("csv", "xlsx")), query.one("store"), CsvLines(COLUMNS), []
        async for record, decision in self._nights.decisions(query.night()):
            if store in ("", decision.request.attributes.get("store")):
                row = row_of(decision, self._override(decision), decided=rfc3339(record.known_time))
                rows.append(row)
                lines.add(row)
                check_rows(len(rows), self._most)
        if form == "xlsx":
            async with self._workbook:  # one process at a time
                book = await written(COLUMNS, rows)
            return Answer(200, book, XLSX + _named(query.one("date"), form))
        return Answer(200, lines.body, CSV + _named(query.one("date"), form))

    async def _post(self, asked: Asked) -> Answer:
        async with self._workbook:
            rows = await read(asked.body, most=self._most)
        async with self._alone:  # a second file waits: what it says is compared with what the first one brought
            told, overrides = await self._sorted(rows)
            told += await self._logged(overrides)
        told.sort(key=lambda row: row.line)
        counts = {status: sum(row.status == status for row in told) for status in ("accepted", "unchanged", "rejected")}
        if told and counts["rejected"] == len(told):
            rows_told = [RowResult(row.decision_id, "rejected", -1, message=row.message) for row in told]
            return problem(422, _none_taken(told), results=rows_told)
        return Answer(200, msgspec.json.encode({**counts, "results": told}), JSON)

    async def _sorted(self, rows: Iterator[Mapping[str, str]]) -> tuple[list[RowTold], list[Override]]:
        """Returns what can be said of rows at once, and the overrides that the others ask for."""
        told: list[RowTold] = []
        overrides: list[Override] = []
        seen: dict[str, int] = {}
        for line, row in enumerate(rows, 2):  # the first names the columns
            check_rows(line - 1, self._most)
            id_ = row.get(ID, "")
            if not any(row.values()):
                continue
            try:
                outcome = await self._asked_for(row, seen, line=line)
            except RequestError as error:
                told.append(RowTold(line, id_[:64], "rejected", f"line {line}: {error}"))
                continue
            if outcome is None:
                told.append(RowTold(line, id_, "unchanged"))
            else:
                overrides.append(Override(line, id_, outcome))
            if line % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return told, overrides

    async def _asked_for(self, row: Mapping[str, str], seen: dict[str, int], *, line: int) -> dict[str, Any] | None:
        """Returns the outcome that a row asks for, None where it changes nothing.

        Raises:
            RequestError: the row cannot be taken.
        """
        _check_columns(row)
        decision = await self._decision(row)
        if seen.setdefault(decision.id, line) != line:
            raise _refused(ID, f"the decision of line {seen[decision.id]}", "each decision once", "Leave one out.")
        units, why = _units(row[UNITS], decision), row.get(WHY, "").lower()
        stands = self._override(decision)
        decided = decision.choice.slots[0].value
        if units == decided and not why:
            return None
        if why not in REASONS:
            given = "a changed quantity without a reason" if not why else "a reason that is none"
            raise _refused(WHY, given, "one of " + ", ".join(REASONS), "Say why in the column `why`.")
        if stands is not None and (stands.value, stands.attributes.get(WHY)) == (units, why):
            return None
        id_ = f"override/{decision.id}/{1 + len(self._versions(decision))}"
        told = {"id": id_, SCHEMA.noun: decision.request.id, "kind": OVERRIDE, "source": "planner", "value": units}
        who = {PLANNER: row[PLANNER]} if row.get(PLANNER) else {}
        return told | {WHY: why} | who | ({} if stands is None else {"corrects": stands.id})

    async def _decision(self, row: Mapping[str, str]) -> Decision:
        try:
            _, decision = await self._host.logged(self._system, row[ID])
        except UnknownRecordError:
            decision = None
        if decision is None or decision.id != row[ID] or decision.mode == "imported":
            raise _refused(ID, "an id that no decision has", "the id as it stood in the file", "Get the file again.")
        if row.get(SERIES, "") not in ("", decision.request.attributes.get(SERIES)):
            given = "a series that the decision is not about"
            raise _refused(
                SERIES, given, "rows as they were", "Sort whole rows, not single columns; get the file again."
            )
        return decision

    async def _logged(self, overrides: Sequence[Override]) -> list[RowTold]:
        told: list[RowTold] = []
        for start in range(0, len(overrides), _LOGGED_AT_ONCE):
            some = overrides[start : start + _LOGGED_AT_ONCE]
            results = await self._host.add_outcomes(self._system, msgspec.json.encode([one.outcome for one in some]))
            for one, result in zip(some, results, strict=True):
                status: Status = "rejected" if result.status == "rejected" else "accepted"
                told.append(RowTold(one.line, one.decision_id, status, result.message))
        return told

    def _versions(self, decision: Decision) -> list[Outcome]:
        """Returns every override that was ever reported of a decision, as it came."""
        log = self._host.log
        seqs = log.find("target", f"{self._system}/{decision.request.id}")
        return [one for seq in seqs if (one := decode_outcome(log.get(seq).body)).kind == OVERRIDE]

    def _override(self, decision: Decision) -> Outcome | None:
        """Returns the override that stands, the last that came."""
        told = self._host.outcomes(self._system, decision.request.id)
        found = [(record.seq, outcome) for record, outcome in told if outcome.kind == OVERRIDE]
        return max(found, key=lambda one: one[0])[1] if found else None


def row_of(decision: Decision, override: Outcome | None, *, decided: str) -> list[Cell]:
    """Returns a decision as a row of the file, by `COLUMNS`."""
    said, choice = decision.request.attributes, decision.choice
    units = choice.slots[0].value if choice.slots else None
    cells: dict[str, Cell] = {
        **{name: _cell(said.get(name)) for name in ("series", "item", "store", "on_hand", "on_order", "pack")},
        **_predicted(decision),
        "decided_units": _rounded(units),
        UNITS: _rounded(units if override is None else override.value),
        **{name: "" if override is None else str(override.attributes.get(name, "")) for name in (WHY, PLANNER)},
        "reasons": "; ".join(choice.reasons),
        "guardrails": "; ".join(f"{one.name}: {one.before} → {one.after}, {one.why}" for one in decision.guardrails),
        "mode": decision.mode,
        "decided": decided,
        ID: decision.id,
    }
    return [cells[name] for name in COLUMNS]


def _predicted(decision: Decision) -> dict[str, Cell]:
    """Returns the forecast of a decision and what its order is expected to bring; nothing where nothing was said."""
    lead, currency = decision.lead, decision.currency
    said = {} if lead is None else lead.predictions
    worth = float(Decimal(decision.expected_minor) / to_minor("1", currency)) if said and currency else None
    return {name: _rounded(said.get(head)) for name, head in _PREDICTED.items()} | {
        "expected_worth": worth,
        "currency": currency,
    }


def _cell(value: float | str | bool | None) -> Cell:  # noqa: FBT001 - a value is what it is
    return value if isinstance(value, int | float | str) else None


def _rounded(value: float | None) -> Cell:
    if value is None:
        return None
    return int(value) if float(value).is_integer() else round(value, 2)


def _units(text: str, decision: Decision) -> float:
    """Returns the units of a cell, whole cases of the item."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise _refused(UNITS, "no whole number", "units, such as 12, without separators", "Write the number alone.")
    units, pack = int(found[1]), decision.request.attributes.get("pack", 1)
    if isinstance(pack, int) and units % max(pack, 1) and units != decision.choice.slots[0].value:
        raise _refused(UNITS, f"{units} units", f"whole cases of {pack}", "Round it to cases.")
    return float(units)


def _check_columns(row: Mapping[str, str]) -> None:
    missing = [name for name in (ID, UNITS) if not row.get(name)]
    if missing:
        raise _refused(missing[0], "nothing", "a value in each row", "Leave rows out whole, and columns as they are.")


def _refused(name: str, given: str, expected: str, fix: str) -> RequestError:
    return RequestError(where=f"planner's file, {name}", given=given, expected=expected, fix=fix)


def _none_taken(told: Sequence[RowTold]) -> RequestError:
    given = "no row that could be taken" if len(told) > 1 else told[0].message
    return _refused("rows", given, "rows of a night's file", "`results` says what is wrong with each; mend them.")


def _named(date: str, form: str) -> Headers:
    return ((b"content-disposition", f'attachment; filename="orders-{date}.{form}"'.encode()),)
