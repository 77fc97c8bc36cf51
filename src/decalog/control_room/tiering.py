"""What was measured in three tiers, as a page shows it: each measure with its interval, its days, and its arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from decalog.control_room.charts import Band, Chart, interval, lines
from decalog.control_room.measuring import Measured
from decalog.control_room.views import money, number, percent

TIERS = (
    ("model", "Is the model right?"),
    ("product", "What do people meet?"),
    ("business", "What is it worth?"),
)
_MOST_ARMS = 4

Plain = Mapping[str, Any]


class Arm(NamedTuple):
    """A measure of one arm of a rollout, on a scale that all arms of the measure share."""

    name: str
    text: str
    svg: Markup


class Measure(NamedTuple):
    """A measure of the last days.

    Args:
        name: of the metric.
        better: higher or lower.
        text: its value; "" where there is none yet.
        between: its interval.
        note: what is lacking, or what is not to be trusted.
        is_expected: whether the value is what is expected once labels are in.
        chart: by day; None where no day has a value.
        arms: of the rollout under way.
    """

    name: str
    better: str
    text: str
    between: str
    note: str
    is_expected: bool
    chart: Chart | None
    arms: tuple[Arm, ...]


class Tier(NamedTuple):
    """One of the three tiers; those of its measures that say something."""

    name: str
    question: str
    measures: tuple[Measure, ...]


def shown_tiers(found: Measured, currency: str) -> list[Tier]:
    """Returns the tiers of what was measured; none where it could not be."""
    if isinstance(found.tiers, str):
        return []
    told = found.tiers["groups"][0]["figures"]
    made = [(one["tier"], _measure(one, found, currency)) for one in told]
    return [
        Tier(name, question, tuple(one for tier, one in made if tier == name and (one.text or one.note)))
        for name, question in TIERS
    ]


def _measure(one: Plain, found: Measured, currency: str) -> Measure:
    is_expected = one["value"] is None and one["expected"] is not None
    value = one["value"] or one["expected"]
    texts = (
        ("", "") if value is None else (_text(value["value"], one["unit"], currency), _between(value, one, currency))
    )
    return Measure(
        name=one["metric"],
        better=one["better"],
        text=texts[0],
        between=texts[1],
        note=next(iter(one["doubts"]), "") if is_expected else _lacking(one),
        is_expected=is_expected,
        chart=_by_day(one, found, currency),
        arms=tuple(_by_arm(one, found, currency)),
    )


def _lacking(one: Plain) -> str:
    """Returns what a value still needs; "" where it is there, or never will be."""
    return "" if one["value"] is not None or one["labels"] is None else f"needs {one['lacking']}"


def _figures(groups: object, metric: str) -> Iterator[tuple[str, Plain | None]]:
    """Yields (group, its value or what is expected) of a measure."""
    if isinstance(groups, Mapping):
        for group in groups["groups"]:
            one = next(figure for figure in group["figures"] if figure["metric"] == metric)
            yield group["name"], one["value"] or one["expected"]


def _by_day(one: Plain, found: Measured, currency: str) -> Chart | None:
    days = list(_figures(found.by_day, one["metric"]))
    values = [None if day is None else day["value"] for _, day in days]
    there = [value for value in values if value is not None]
    if len(there) < 2:  # noqa: PLR2004 - a line
        return None
    # An interval of a day with few rows may reach anywhere: the axis is that of the values.
    low, high = min(0.0, *there), max(0.0, *there)
    lows, highs = ([None if day is None else day[end] for _, day in days] for end in ("low", "high"))
    said = f"{one['metric']} by day, {number(there[-1])} on the last"
    svg = lines([Band(values, lows, highs)], said=said, low=low, high=high)
    top, bottom = (_text(end, one["unit"], currency) for end in (high, low))
    return Chart(svg, top, bottom if low else "0", days[0][0], days[-1][0])


def _by_arm(one: Plain, found: Measured, currency: str) -> Iterator[Arm]:
    arms = [(name, value) for name, value in _figures(found.by_arm, one["metric"]) if "/" in name and value is not None]
    latest = arms[-1][0].partition("/")[0] if arms else ""
    arms = [(name, value) for name, value in arms if name.startswith(f"{latest}/")][:_MOST_ARMS]
    if len(arms) < 2:  # noqa: PLR2004 - a comparison
        return
    reach = min(value["low"] for _, value in arms), max(value["high"] for _, value in arms)
    for name, value in arms:
        svg = interval(value["value"], low=value["low"], high=value["high"], reach=reach)
        yield Arm(name.partition("/")[2], _text(value["value"], one["unit"], currency), svg)


def _between(value: Plain, one: Plain, currency: str) -> str:
    unit = one["unit"]
    return f"{_text(value['low'], unit, currency)} to {_text(value['high'], unit, currency)}"


def _text(value: float, unit: str, currency: str) -> str:
    if "minor" in unit:
        return money(value, currency)
    if unit == "share":
        return percent(value)
    return number(value) if unit in ("", "1", "probability") else f"{number(value)} {unit}"
