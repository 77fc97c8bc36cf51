"""Pages of systems whose label is a quantity: all about one thing, what stands on a decision's page, and exceptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from decalog.clock import DAY
from decalog.control_room.fans import NARROW, WIDE, Column, Shown, chances, fan, stock
from decalog.control_room.homes import Place
from decalog.control_room.index import Filter, Index, Row
from decalog.control_room.notable import WHY, Seen
from decalog.control_room.quantities import Quantity, quantity_of, schema_of, thing_of
from decalog.control_room.views import currency_of, day_of, index, log_of, number, words
from decalog.control_room.web import Ask, Page
from decalog.decisions import Decision, decode_decision
from decalog.errors import RequestError, UnknownRecordError, near
from decalog.log import Log
from decalog.outcomes import LabelBook
from decalog.schema import Schema

_ON_A_PAGE = 30
_EXCEPTIONS, _DAYS = 100, 14
_PER_MILLE, _BP = 1_000, 10_000


class Taken(NamedTuple):
    """A decision of a quantity with what was told of it.

    Args:
        row: of the index.
        decision: as logged.
        quantity: what it says.
        told: of the label; None for nothing yet.
        bound: whether that is a lower bound.
        others: what else was said of it, in words.
    """

    row: Row
    decision: Decision
    quantity: Quantity
    told: float | None
    bound: bool
    others: tuple[str, ...]

    @property
    def surprise(self) -> str:
        """Whether what was told lies outside the forecast's outermost quantiles: `above`, `below` or ""."""
        forecast = self.quantity.forecast
        return "" if forecast is None or self.told is None else forecast.surprise(self.told, is_bound=self.bound)


def thing(ask: Ask) -> Page:
    """All about one thing that decisions are about: forecasts, what was told, what there was and what was chosen.

    Raises:
        UnknownRecordError: no decision is about it.
    """
    place = ask.at
    schema, token = _schema(place), int(ask.parts[0]) if ask.parts[0].isdigit() else 0
    with index(place) as found:
        asked = Filter(token=token, before=ask.number("before"))
        rows = found.decisions(place.system, asked, most=_ON_A_PAGE + 1) if 0 < token < 1 << 63 else []
    with log_of(place) as log:
        taken = _taken(log, rows[:_ON_A_PAGE], schema)
    name = thing_of(schema)
    if not taken or taken[0].decision.request.entities.get(name) != token:
        raise UnknownRecordError(
            where=f"control room, {place.system}",
            given=f"what no decision here is about as its {name}",
            expected=f"a {name} that was decided about",
            fix="Follow a link of a decision, or search for it in the list of decisions.",
        )
    in_time = taken[::-1]
    columns, facts = list(_columns(in_time, schema)), taken[0].decision.request.attributes
    values = {
        "title": f"{place.system}: {facts[name]}",
        "name": name,
        "thing": facts[name],
        "others": [(one, facts[one]) for one in _steady(in_time, schema) if one != name],
        "taken": taken,
        "fan": fan(columns, Shown("fan", f"Forecast of {facts[name]}", _summary(in_time, schema))),
        "stock": stock(columns, Shown("stock", f"What there was of {facts[name]}", "The table below has each number.")),
        "parts": [words(one) for one in schema.charted.there],
        "held": _within(in_time, *NARROW),
        "gap": _gap(in_time),
        "unit": schema.label.unit,
        "older": rows[_ON_A_PAGE - 1].seq if len(rows) > _ON_A_PAGE else 0,
        "newest": not ask.query.get("before"),
        "token": token,
        "schema": schema,
        "currency": currency_of(place.home),
        "mark": mark_said,
    }
    return Page("thing.html", values)


def exceptions(ask: Ask) -> Page:
    """The decisions of late that somebody should look at, those with the most money at stake first.

    Raises:
        RequestError: what is asked for makes no decision notable.
    """
    place, why = ask.at, ask.query.get("why", "")
    schema = _schema(place)
    if why and why not in WHY:
        raise RequestError(
            where="control room, why", given="no reason to look", expected=near(why[:64], WHY), fix="Follow a link."
        )
    with index(place) as found:
        rows = found.notable.latest(place.system, since=_since(found, place), why=why, most=_EXCEPTIONS)
        decisions = found.of(row.seq for row in rows)
    values = {
        "title": f"{place.system}: exceptions",
        "rows": [(row, decisions[row.seq]) for row in rows],
        "why": why,
        "reasons": WHY,
        "name": thing_of(schema),
        "unit": schema.label.unit,
        "days": _DAYS,
        "most": _EXCEPTIONS,
        "currency": currency_of(place.home),
    }
    return Page("exceptions.html", values)


def worst(place: Place, *, most: int) -> list[Seen]:
    """Returns the first exceptions of a system; none where its label is no quantity."""
    if not place.is_of_quantities:
        return []
    with index(place) as found:
        return found.notable.latest(place.system, since=_since(found, place), most=most)


def _since(found: Index, place: Place) -> int:
    """Returns the seq from which on decisions are of late."""
    return found.first(place.system, max(found.progress().known - _DAYS * DAY, 1))


def quantity_shown(log: Log, decision: Decision, *, place: Place, decided: int) -> dict[str, Any] | None:
    """Returns what a decision's page shows of a quantity; None where its system's label is none.

    Args:
        log: of its home.
        decision: as logged.
        place: its system.
        decided: µs.
    """
    schema = schema_of(place.system)
    if schema is None:
        return None
    found = quantity_of(decision, schema)
    told, bound, _ = _told(log, decision, schema, decided=decided)
    name = thing_of(schema)
    chart = None
    if found.forecast is not None:
        text = f"Mean {number(found.forecast.mean)}, 8 in 10 times {_band(found, *NARROW)} {schema.label.unit}."
        about = Shown("chances", "How likely each quantity is enough", text)
        chart = chances(found.forecast, about, held=found.held, told=told, bound=bound)
    return {
        **found._asdict(),
        "held": found.held,
        "chart": chart,
        "told": told,
        "bound": bound,
        "unit": schema.label.unit,
        "of": schema.label.of,
        "name": name,
        "token": decision.request.entities.get(name, 0),
        "thing": decision.request.attributes.get(name, ""),
        "days": (found.ends - found.begins) // DAY,
        "mark": mark_said,
    }


def mark_said(name: str, value: float) -> str:
    """Returns a fact in words, by the unit that its name ends in.

    >>> mark_said("promo_days", 2.0), mark_said("discount_bp", 2_500.0)
    ('promo days 2', 'discount 25 %')
    """
    if name.endswith("_bp"):
        return f"{words(name.removesuffix('_bp'))} {number(100 * value / _BP)} %"
    return f"{words(name)} {number(value)}"


def _schema(place: Place) -> Schema:
    schema = schema_of(place.system)
    if schema is None or not thing_of(schema):
        raise UnknownRecordError(
            where=f"control room, {place.system}",
            given="a page of quantities",
            expected="a system whose label is a quantity of a thing that has a public name",
            fix="Look at its decisions.",
        )
    return schema


def _taken(log: Log, rows: Sequence[Row], schema: Schema) -> list[Taken]:
    """Returns decisions with what was told of them, in the order of the rows."""
    found = []
    for row in rows:
        decision = decode_decision(log.get(row.seq).body)
        told, bound, others = _told(log, decision, schema, decided=row.at)
        found.append(Taken(row, decision, quantity_of(decision, schema), told, bound, others))
    return found


def _told(log: Log, decision: Decision, schema: Schema, *, decided: int) -> tuple[float | None, bool, tuple[str, ...]]:
    """Returns what was told of a label, whether it is a bound, and what else was said."""
    book, target = LabelBook(schema), decision.request.id
    book.add_all(log.get(seq) for seq in log.find("target", f"{schema.system}/{target}"))
    state = book.label(target, decided=decided, acted=decision.acted, known_by=log.known_time)
    said = [one for _, one in book.outcomes(target) if one.kind != schema.label.of]
    others = tuple(f"{words(one.kind)} {number(one.value)}" for one in said)
    return state.value, state.is_bound, others


def _steady(taken: Sequence[Taken], schema: Schema) -> list[str]:
    """Returns the public entities that all decisions share."""
    public = [entity.name for entity in schema.request.entities if entity.privacy == "public"]
    values = {name: {one.decision.request.attributes.get(name) for one in taken} for name in public}
    return [name for name in public if len(values[name]) == 1 and None not in values[name]]


def _columns(taken: Sequence[Taken], schema: Schema) -> Iterator[Column]:
    """Yields decisions, the oldest first, each over its days until those of the next one begin."""
    begins = [one.quantity.begins for one in taken]
    last = max([begins[-1] + DAY, *(one.quantity.ends for one in taken[-1:])])
    start, reach = begins[0], last - begins[0]
    usual = reach / len(taken)
    for one, following in zip(taken, [*begins[1:], last], strict=True):
        quantity = one.quantity
        # Days that are nobody's stay empty; those of two decisions are shown with the later one.
        end = min(following, quantity.ends) if quantity.ends > quantity.begins else following
        end = max(end, quantity.begins + int(usual / 4))
        yield Column(
            left=(quantity.begins - start) / reach,
            right=min((end - start) / reach, 1.0),
            label=day_of(quantity.begins),
            said=_line(one, schema),
            forecast=quantity.forecast,
            held=quantity.held,
            told=one.told,
            bound=one.bound,
            parts=(*(amount for _, amount in quantity.there), quantity.chosen or 0.0),
            marked=bool(quantity.marks),
        )


def _line(one: Taken, schema: Schema) -> str:
    """Returns a decision in one line."""
    quantity, unit = one.quantity, schema.label.unit
    parts = [f"{day_of(quantity.begins)} to {day_of(max(quantity.ends - DAY, quantity.begins))}"]
    if quantity.forecast is not None:
        parts.append(f"forecast {number(quantity.forecast.mean)} {unit}, 8 in 10 times {_band(quantity, *NARROW)}")
    parts += [f"{words(name)} {number(amount)}" for name, amount in quantity.there]
    parts += [] if quantity.chosen is None else [f"{one.row.action} {number(quantity.chosen)}"]
    parts += [] if one.told is None else [f"told{' at least' if one.bound else ''} {number(one.told)}"]
    return "; ".join([*parts, *(mark_said(*mark) for mark in quantity.marks)])


def _band(quantity: Quantity, low: float, high: float) -> str:
    forecast = quantity.forecast
    return "" if forecast is None else f"{number(forecast.at(low))} to {number(forecast.at(high))}"


def _within(taken: Sequence[Taken], low: float, high: float) -> tuple[int, int]:
    """Returns how often what was told lay between two quantiles, in whole units, and how often it was told exactly."""
    said = [(one.told, one.quantity.forecast) for one in taken if not one.bound]
    both = [(told, forecast) for told, forecast in said if told is not None and forecast is not None]
    inside = sum(int(forecast.at(low)) <= told <= -(-forecast.at(high) // 1) for told, forecast in both)
    return inside, len(both)


def _gap(taken: Sequence[Taken]) -> float | None:
    """Returns how much more was told than forecast, as a share; of what was told exactly; None where nothing was."""
    exact = [one for one in taken if one.told is not None and one.quantity.forecast is not None and not one.bound]
    means = sum(one.quantity.forecast.mean for one in exact if one.quantity.forecast is not None)
    return sum(one.told or 0.0 for one in exact) / means - 1 if means else None


def _summary(taken: Sequence[Taken], schema: Schema) -> str:
    """Returns what a chart of decisions says."""
    inside, exact = _within(taken, *NARROW)
    bounds = sum(one.bound for one in taken)
    wide = " and ".join(f"{100 * (high - low):.0f}" for low, high in (NARROW, WIDE))
    return (
        f"{len(taken)} decisions from {day_of(taken[0].quantity.begins)} on, with bands of {wide} in 100, in "
        f"{schema.label.unit}. Told exactly {exact} times, {inside} of them within the narrower band; {bounds} times "
        "only a lower bound was told. The table below has each number."
    )
