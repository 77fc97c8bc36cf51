"""Evaluation in three tiers, from the log as it happened: is the model right, what do people meet, what is it worth.

    ─ delays of labels are learnt ─│─ earlier decisions ─│─ a maturity ─│─ decisions of the time asked for ─│ now
                                                         │ expectations of that moment, against what came since

Nothing is replayed: decisions count as they were taken, predictions as they were logged, outcomes as they are known
now. Groups that were drawn by person (arms of a rollout, two random halves) are compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR, SECOND, rfc3339
from decalog.errors import ConfigError, DataError, near
from decalog.examples import NO_ENTITY, Bools, Int64s
from decalog.figures import Earlier, Figure, Moment, Part, Pricing, difference, figure, moment
from decalog.happened import Happened, Row, maturities, read_happened
from decalog.metrics import Measurement
from decalog.schema import Schema
from decalog.statistics.screening import adjusted
from decalog.system import System
from decalog.tails import LogTail

Texts = np.ndarray[tuple[int], np.dtype[np.str_]]

TIERS = ("model", "product", "business")
HALF = "half"
_IN_TIME = ("day", "week")
_MOST_VALUES = 20
_REST = "(rest)"
_LEVEL = 0.05
_Z95 = 1.959963984540054
_MONDAY = 3
"""Days from the first Monday before the epoch, which was a Thursday."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the decisions, and their figures.

    Args:
        name: arm, model, day, value of the field.
        decisions: how many.
        rows: things that they showed; the decisions themselves where slots hold actions.
        figures: by tier.
    """

    name: str
    decisions: int
    rows: int
    figures: tuple[Figure, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A measure of one group less that of another; `is_beyond` chance with all differences paid for."""

    metric: str
    of: str
    less: str
    value: Measurement
    is_beyond: bool


class Tiers(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions of a time came to.

    Args:
        system: its name.
        since, until: µs.
        by: what groups them; "" for nothing.
        noun: what a row is called.
        untold: decisions that are left out: another system acted, and nobody said how.
        matures: when labels of now will have matured, in words.
        groups: with their figures.
        differences: of groups that were drawn by person.
    """

    system: str
    since: int
    until: int
    by: str
    noun: str
    untold: int
    matures: str
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]

    def text(self) -> str:
        """Returns it for people."""
        decisions = sum(group.decisions for group in self.groups)
        lines = [
            f"{self.system}, {_second(self.since)} to {_second(self.until)}: {decisions:,} decisions; {self.matures}",
            *([f"{self.untold:,} decisions are left out: nobody told what was done"] if self.untold else []),
        ]
        for group in self.groups:
            lines += ["", f"{group.name}: {group.rows:,} {self.noun}s" if self.by else f"{group.rows:,} {self.noun}s"]
            for tier in TIERS:
                told = [line for one in group.figures if one.tier == tier for line in _lines(one)]
                lines += [f"  {tier}", *told] if told else []
        return "\n".join([*lines, *self._differences()])

    def _differences(self) -> Iterator[str]:
        for pair in dict.fromkeys((one.of, one.less) for one in self.differences):
            found = [one for one in self.differences if (one.of, one.less) == pair]
            yield from ("", f"{pair[0]} − {pair[1]}")
            yield from (
                f"    {one.metric:24}{_told(one.value)}{'  beyond chance' if one.is_beyond else ''}" for one in found
            )
            yield f"  {sum(one.is_beyond for one in found) or 'none'} of {len(found)} beyond chance"


def _span(us: int) -> str:
    return f"{us / HOUR:g} hours" if us <= DAY else f"{us / DAY:g} days"


def _second(time: int) -> str:
    return rfc3339(time // SECOND * SECOND)


def _lines(one: Figure) -> Iterator[str]:
    if one.value is None and one.labels is None:
        return  # nothing is known of it, and nothing will be
    value = f"no value yet: it needs {one.lacking}" if one.value is None else f"{_told(one.value)} {one.unit}"
    yield f"    {one.metric:24}{value}"
    if one.labels is None:
        return
    between = "" if one.between is None else f"; between {one.between[0].value:.3g} and {one.between[1].value:.3g}"
    hidden = f"; {one.labels.hidden:,} are hidden" if one.labels.hidden else ""
    yield f"      {_percent(one.labels.mature, one.labels.n)} of {one.labels.n:,} labels are mature{between}{hidden}"
    if one.expected is not None:
        yield f"      expected {_told(one.expected)}{' is not to be trusted' if one.doubts else ''}{_checked(one)}"
        yield from (f"        {doubt}" for doubt in one.doubts)


def _checked(one: Figure) -> str:
    if one.check is None:
        return ""
    then, came = one.check.expected.value, one.check.came.value
    ratio = f"{one.check.ratio:.2f} times, " if came else ""
    place = f"{ratio}{'within' if one.check.is_covered else 'beyond'} chance"
    return f"; of {one.check.n:,} before, {then:.3g} was expected and {came:.3g} came: {place}"


def _told(value: Measurement) -> str:
    return f"{value.value:.3g} ({value.low:.3g} to {value.high:.3g})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


class Asked(NamedTuple):
    """What is asked: of the decisions of (now − since, now], µs, grouped `by`; `salt` divides halves anew."""

    since_us: int
    now_us: int
    by: str = ""
    salt: str = ""


def tiers(system: System, log: LogTail, *, asked: Asked, pricing: Pricing) -> Tiers:
    """Returns a system's measures of what it decided in a time, from the log alone.

    Args:
        system: whose.
        log: to read; a server may be writing to it meanwhile.
        asked: time and groups.
        pricing: the policy whose money counts, and how likely slots are looked at.

    Raises:
        ConfigError: there is nothing of that name to group by.
        DataError: nothing was decided in that time.
    """
    key = _key(system.schema, asked)
    longest = max(maturities(system.schema))
    happened = read_happened(log, system, start=asked.now_us - asked.since_us - 2 * longest)
    names = _names(happened, key, is_field=asked.by in slice_fields(system.schema))
    groups = _Groups(happened, names, asked=asked, pricing=pricing)
    there = _within(happened.times, asked.now_us, asked.since_us)
    found = Counter(names[there].tolist())
    if not found:
        raise DataError(
            where=f"metrics of {system.name}",
            given=f"no decision from {rfc3339(asked.now_us - asked.since_us)} to {rfc3339(asked.now_us)}",
            expected="decisions that were made here, whose action is known",
            fix="Look further back with --since, or let a server decide first.",
        )
    ordered = _ordered(found, asked.by)
    parts = {name: groups.part(there & (names == name)) for name in ordered}
    return Tiers(
        system=system.name,
        since=asked.now_us - asked.since_us,
        until=asked.now_us,
        by=asked.by,
        noun=f"shown {system.schema.slate_of}" if system.schema.slate_of else system.schema.noun,
        untold=int(np.sum(_within(happened.untold, asked.now_us, asked.since_us))),
        matures=f"labels mature after {_span(longest)}",
        groups=tuple(groups.group(system, name, part=part) for name, part in parts.items()),
        differences=_differences(system, parts, asked.by),
    )


def _within(times: Int64s, now: int, since: int) -> Bools:
    return (times > now - since) & (times <= now)


class _Groups:
    """What figures of a group are made of: what is known now, and what was known a maturity ago."""

    def __init__(self, happened: Happened, names: Texts, *, asked: Asked, pricing: Pricing) -> None:
        self._happened, self._names, self._asked, self._pricing = happened, names, asked, pricing
        self._cut = asked.now_us - max(happened.maturities)
        self._now, self._then = moment(happened, asked.now_us), moment(happened, self._cut)
        self._models = np.array([row.model for row in happened.rows], np.str_)
        self._made: dict[bytes, Earlier] = {}
        self._before = _within(happened.times, self._cut, asked.since_us)

    def group(self, system: System, name: str, *, part: Part) -> Group:
        """Returns the figures of a group."""
        earlier = self._earlier(name, self._models[part.places])
        figures = [figure(metric, part, earlier=earlier) for metric in system.metrics]
        decisions = len({row.seq for row in part.rows})
        return Group(name=name, decisions=decisions, rows=part.n, figures=tuple(figures))

    def _earlier(self, name: str, models: Texts) -> Earlier | None:
        """Returns the earlier decisions of the same models and, unless groups are of time, of the same group."""
        before = self._before & np.isin(self._models, np.unique(models))
        if self._asked.by not in _IN_TIME:
            before &= self._names == name
        if not before.any():
            return None
        key = before.tobytes()
        if key not in self._made:
            self._made[key] = Earlier(self._part(before, self._then), self.part(before), 0.0, {})
        unchecked = 1 - float(np.mean(np.isin(models, np.unique(self._models[before]))))
        return self._made[key]._replace(unchecked=unchecked)

    def part(self, rows: Bools) -> Part:
        """Returns some rows as known now."""
        return self._part(rows, self._now)

    def _part(self, rows: Bools, at: Moment) -> Part:
        places = np.flatnonzero(rows).astype(np.int64)
        return Part(self._happened, places, at, pricing=self._pricing, now_us=self._asked.now_us)


# ---- groups ----


def _key(schema: Schema, asked: Asked) -> Callable[[Row], str]:
    """Returns what names the group of a row.

    Raises:
        ConfigError: there is nothing of that name.
    """
    keys: Mapping[str, Callable[[Row], str]] = {
        "": lambda _: "all",
        "arm": lambda row: row.arm or "no rollout",
        "model": lambda row: row.model or "no model",
        "day": lambda row: rfc3339(row.decided)[:10],
        "week": lambda row: rfc3339(((row.decided // DAY + _MONDAY) // 7 * 7 - _MONDAY) * DAY)[:10],
        HALF: lambda row: _half(row, asked.salt),
    }
    if asked.by in keys:
        return keys[asked.by]
    fields = slice_fields(schema)
    if asked.by not in fields:
        raise ConfigError(
            where=f"metrics of {schema.system}, --by",
            given=repr(asked.by[:64]),
            expected=near(asked.by, [*filter(None, keys), *fields]),
            fix="Name one of them; numbers and personal values group nothing.",
        )
    return lambda row: str(row.facts.get(asked.by, "(none)"))


def slice_fields(schema: Schema) -> tuple[str, ...]:
    """Returns the public values of requests, and of things shown, that decisions can be grouped by."""
    fields = [field for field in (*schema.request.fields, *schema.candidate) if field.privacy == "public"]
    named = [field.name for field in fields if field.kind in ("text", "flag", "currency")]
    return (*named, *(entity.name for entity in schema.request.entities if entity.privacy == "public"))


def _half(row: Row, salt: str) -> str:
    """Returns the random half that a person is in, always the same."""
    whose = row.seq if row.person == NO_ENTITY else row.person
    drawn = blake2b(whose.to_bytes(8, "big", signed=True), digest_size=1, key=f"half{salt}".encode()).digest()
    return "first half" if drawn[0] % 2 else "second half"


def _names(happened: Happened, key: Callable[[Row], str], *, is_field: bool) -> Texts:
    """Returns the group of each row; of a field's values those beyond the most frequent are one."""
    names = [key(row) for row in happened.rows]
    kept = {name for name, _ in Counter(names).most_common(_MOST_VALUES if is_field else None)}
    return np.array([name if name in kept else _REST for name in names], np.str_)


def _ordered(found: Counter[str], by: str) -> list[str]:
    return sorted(found) if by in (*_IN_TIME, "arm", HALF) else [name for name, _ in found.most_common()]


# ---- differences ----


def _differences(system: System, parts: Mapping[str, Part], by: str) -> tuple[Difference, ...]:
    """Returns the differences between groups of different people that were drawn: halves, and arms of one rollout."""
    found = [
        Difference(metric=metric.name, of=other, less=one, value=value, is_beyond=False)
        for one, other in pairwise(parts)
        if by == HALF or (by == "arm" and one.partition("/")[0] == other.partition("/")[0])
        for metric in system.metrics
        if (value := difference(metric, parts[one], other=parts[other])) is not None
    ]
    paid = adjusted([_p_value(one.value) for one in found]) if found else ()
    return tuple(msgspec.structs.replace(one, is_beyond=bool(p <= _LEVEL)) for one, p in zip(found, paid, strict=True))


def _p_value(difference: Measurement) -> float:
    """Returns how likely a difference as far from none is by chance, as its interval says on the side of none."""
    value = difference.value
    side = value - difference.low if value > 0 else difference.high - value
    if side <= 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(_Z95 * abs(value) / side / math.sqrt(2))
