"""The three paths of a system as a living picture, and its money: each a chart of late with the figures that matter.

decide    requests become decisions          by the index
hear      outcomes come in and become labels by the index; how many are known, by what was measured last
improve   labels become models               by the registry
earn      what decisions are expected to bring
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from decalog.clock import DAY, HOUR, MINUTE
from decalog.control_room.charts import Chart, highest, signed, stacked, ticks
from decalog.control_room.homes import Place
from decalog.control_room.index import Progress, percentile
from decalog.control_room.measuring import Measured
from decalog.control_room.views import (
    ago,
    currency_of,
    day_of,
    hour_of,
    index,
    money,
    number,
    percent,
    short,
    span,
    words,
)
from decalog.registry import Registry
from decalog.system import find_system

_BUSY = 200.0
"""Decisions in the last minutes from which on a picture is of minutes, and not of hours."""
_MODELS = 60 * DAY
"""Time that the picture of models is of, at the least: the champion is always in it."""
_BUCKETS = 168
_MOST = 5
"""Actions or kinds that have a colour of their own."""

Series = Mapping[int, Mapping[str, float]]


class Fact(NamedTuple):
    """A figure with its name; `mark` is `bad` where somebody should look."""

    name: str
    value: str
    note: str = ""
    mark: str = ""


class Lane(NamedTuple):
    """A path: what it is, its picture and its figures."""

    key: str
    title: str
    about: str
    chart: Chart
    facts: tuple[Fact, ...]


class Window(NamedTuple):
    """Buckets of a width, µs, up to one that has not ended."""

    width: int
    starts: range

    @property
    def noun(self) -> str:
        """What a bucket is called, with its article."""
        return {MINUTE: "a minute", HOUR: "an hour", DAY: "a day"}[self.width]

    @property
    def ends(self) -> tuple[str, str]:
        """The texts of the time axis."""
        told = day_of if self.width == DAY else hour_of
        return told(self.starts.start), told(self.starts.stop)

    def columns(self, series: Series) -> list[Mapping[str, float]]:
        """Returns the buckets, those too in which nothing came."""
        return [series.get(start, {}) for start in self.starts]


def of(place: Place, told: Measured | None) -> tuple[Lane, ...]:
    """Returns the lanes of a system, with what was measured of it last."""
    with index(place) as found:
        progress = found.progress()
        window = _last(progress.known, MINUTE, _BUCKETS)
        late = found.series(place.system, MINUTE, since=window.starts.start)
        if sum(column.get("decisions", 0.0) for column in late.values()) < _BUSY:
            window = _last(progress.known, HOUR, _BUCKETS)
            late = found.series(place.system, HOUR, since=window.starts.start)
        days = _last(progress.known, DAY, 14)
        daily = found.series(place.system, DAY, since=days.starts.start)
    return (
        _decide(place, window, window.columns(late)),
        _hear(place, days, days.columns(daily), told=told),
        _improve(place, progress),
        _earn(place, days, days.columns(daily), told=told),
    )


def _last(known: int, width: int, count: int) -> Window:
    stop = (known // width + 1) * width
    return Window(width, range(max(0, stop - count * width), stop, width))


def _decide(place: Place, window: Window, columns: Sequence[Mapping[str, float]]) -> Lane:
    names = _names(columns, "action ")
    # The last bucket has not ended; what was in the one before is what comes in one now.
    whole = columns[-2] if len(columns) > 1 else {}
    recent = columns[-24:]
    decided = sum(column.get("decisions", 0.0) for column in recent)
    fell = sum(column.get("fallbacks", 0.0) for column in recent)
    p50, p99 = (percentile(recent, share) for share in (0.5, 0.99))
    deadline = find_system(place.system).deadline_ms
    said = f"decisions {window.noun} by action; {number(whole.get('decisions', 0.0))} in the last whole one"
    svg = stacked(columns, names, said=said)
    most = f"{number(highest(columns, names))} {window.noun}"
    chart = Chart(svg, most, "0", *window.ends, _legend(names, "action "))
    facts = (
        Fact("rate", f"{number(whole.get('decisions', 0.0))} {window.noun}"),
        Fact("p99 to decide", "–" if p99 is None else span(p99), "" if p50 is None else f"median {span(p50)}"),
        Fact("fallbacks", percent(fell / decided) if decided else "–", "", "bad" if fell > 0.01 * decided else ""),
        Fact("deadline", f"{deadline} ms"),
    )
    return Lane("decide", "Decide", "requests become decisions", chart, facts)


def _hear(place: Place, window: Window, columns: Sequence[Mapping[str, float]], *, told: Measured | None) -> Lane:
    names = _names(columns, "outcome ")
    came = sum(column.get("outcomes", 0.0) for column in columns)
    refused = sum(column.get("refused", 0.0) for column in columns[-2:])
    chart = Chart(
        stacked(columns, names, said=f"outcomes a day by kind; {number(came)} in {len(columns)} days"),
        f"{number(highest(columns, names))} a day",
        "0",
        *window.ends,
        _legend(names, "outcome "),
    )
    labels, schema = _labels(told), find_system(place.system).schema
    ages = sorted((schema.label.maturity_us, *(signal.maturity_us for signal in schema.signals)))
    facts = [
        Fact("today", number(columns[-1].get("outcomes", 0.0) if columns else 0.0), "outcomes"),
        Fact("labels mature after", " to ".join(dict.fromkeys((span(ages[0]), span(ages[-1]))))),
        Fact("refused rows", number(refused), "since yesterday", "bad" if refused else ""),
    ]
    if labels is not None:
        known, n = labels
        facts.insert(1, Fact("labels known", percent(known / n) if n else "–", _since(n, ages[-1])))
    return Lane("hear", "Hear", "outcomes become labels", chart, tuple(facts))


def _since(n: int, age_us: int) -> str:
    """Returns of what labels are known: until then nobody can tell that nothing was done from that nothing came yet."""
    return f"of {number(n)} in 14 days; silence is a label after {span(age_us)}"


def _labels(told: Measured | None) -> tuple[int, int] | None:
    """Returns how many labels are known of how many, as measured last; None where nothing was."""
    if told is None or isinstance(told.tiers, str):
        return None
    found = [one["labels"] for one in told.tiers["groups"][0]["figures"] if one["labels"] is not None]
    return max(((one["known"], one["n"]) for one in found), key=lambda both: both[1], default=None)


def _improve(place: Place, progress: Progress) -> Lane:
    registry = Registry(place.home.root)
    models, history = registry.list(place.system), registry.history(place.system)
    champions = [change for change in history if change.alias == "champion"]
    now = next((one for one in models if champions and one.id == champions[-1].model), None)
    age = 0 if now is None else max(0, progress.known - now.manifest.pin.known_time)
    reach = max(_MODELS, age + age // 10)
    start = progress.known - reach
    marks = [((one.manifest.pin.known_time - start) / reach, "trained") for one in models]
    # Changes made by hand carry the machine's time, which is not the log's on a world's clock.
    marks += [((one.at_us - start) / reach, one.act) for one in champions]
    there = [(place_, css) for place_, css in marks if 0 <= place_ <= 1]
    said = f"{len(models)} models trained, {len(champions)} promotions and rollbacks; the latest are drawn"
    legend = (("trained", "trained"), ("promote", "promoted"), ("rollback", "rolled back"))
    chart = Chart(ticks(there, said=said), "", "", day_of(max(0, start)), day_of(progress.known), legend)
    facts = [Fact("models", number(len(models)))]
    if now is not None:
        facts = [
            Fact("champion", short(now.id), now.manifest.name),
            Fact("learnt up to", f"{span(age)} ago", "of the log's clock"),
            *facts,
        ]
    return Lane("improve", "Improve", "labels become models", chart, tuple(facts))


def _earn(place: Place, window: Window, columns: Sequence[Mapping[str, float]], *, told: Measured | None) -> Lane:
    currency = currency_of(place.home)
    worth = [column.get("expected", 0.0) for column in columns]
    decided = [column.get("decisions", 0.0) for column in columns]
    most, least = max((0.0, *worth)), min((0.0, *worth))
    chart = Chart(
        signed(worth, said=f"money that the decisions of a day are expected to bring, {currency}"),
        money(most, currency) if most else "0",
        money(least, currency) if least else "0",
        *window.ends,
    )
    per = 1_000 * sum(worth) / sum(decided) if sum(decided) else None
    facts = [
        Fact("expected", money(worth[-2] if len(worth) > 1 else 0.0, currency), "the last whole day"),
        Fact("a thousand decisions", money(per, currency), "expected, 14 days"),
        *_measured_money(told, currency),
    ]
    return Lane("earn", "Earn", "what the decisions are worth", chart, tuple(facts))


def _measured_money(told: Measured | None, currency: str) -> list[Fact]:
    """Returns the first figure of the business that is money, as measured."""
    if told is None or isinstance(told.tiers, str):
        return []
    for one in told.tiers["groups"][0]["figures"]:
        value = one["value"] or one["expected"]
        if one["tier"] == "business" and value is not None and "minor" in one["unit"] and value["value"]:
            kind = "measured" if one["value"] is not None else "expected"
            shown = money(value["value"], currency)
            return [Fact(words(one["metric"]), shown, f"{kind}, {ago(told.at)}")]
    return []


def _names(columns: Sequence[Mapping[str, float]], prefix: str) -> list[str]:
    """Returns the names that begin so, the most frequent first, so that it stands at the bottom."""
    sums: Counter[str] = Counter()
    for column in columns:
        sums.update({name: int(value) for name, value in column.items() if name.startswith(prefix)})
    return [name for name, _ in sums.most_common(_MOST)]


def _legend(names: Sequence[str], prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"c{place}", words(name.removeprefix(prefix))) for place, name in enumerate(names))
