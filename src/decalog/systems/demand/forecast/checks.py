"""What is wrong with sales data, found before anything is learnt from it: repaired or put aside, each with a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.systems.demand.forecast.calendar import SEASONS, Calendar, Ints, Unit, unit_of
from decalog.systems.demand.forecast.frames import Span, Table
from decalog.systems.demand.forecast.panel import Floats, Panel

PACKS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 25, 30, 48, 50, 100, 144, 500, 1_000)
"""By how much a change of the unit of measure multiplies: pieces and cases, grams and kilograms."""
_AROUND = 28
_REUSED_AFTER = 120
_SUDDEN = 0.3
"""A lasting change of level is one step where it is, in logarithms, so near to what happens around the step."""
_DAY = 86_400

Reason = Literal[
    "not_a_number", "time_shift", "late_flag", "flag_without_future", "return", "duplicate", "two_values", "closed",
    "sold_while_closed", "no_stock", "no_sale", "gap", "reused", "unit_change", "unit_change_suspected",
]  # fmt: skip
Done = Literal["repaired", "quarantined", "kept"]
Mask = npt.NDArray[np.bool_]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong with one series.

    Args:
        reason: what.
        series: whose; "" where it is the whole frame.
        row: first row of the frame that shows it, from 0; −1 where it is a step that has no row.
        step: first step that shows it, from 0 on the time axis of all series; −1 where it is no matter of time.
        count: rows or steps of it.
        done: what became of them: mended, taken as not known, or left as they are.
        note: how.
    """

    reason: Reason
    series: str
    row: int
    step: int
    count: int
    done: Done
    note: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of a frame mean.

    Args:
        unit: of a step; None finds it.
        open: column that is 0 where the store was closed.
        stock: column that is 0 where nothing was left to sell: what was sold is then a lower bound of demand.
        price: column of the price, which a change of unit moves the other way.
        flags: columns that were written ahead of time, such as promotions, with the column that says when (s since
            1970, or a time), or "" where none does.
        two_values: what several different rows of one step mean.
        absent: what a step without a row means between a series' first and last; None finds it: where the frame has no
            row with 0 at all, it leaves out what was not sold.
        known: columns that a model may see ahead of time.
    """

    unit: Unit | None = None
    open: str = ""
    stock: str = ""
    price: str = ""
    flags: Mapping[str, str] = {}
    two_values: Literal["sum", "last", "unknown"] = "unknown"
    absent: Literal["zero", "unknown"] | None = None
    known: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The frame's columns that the rules name."""
        named = [self.open, self.stock, self.price, *self.flags, *self.flags.values(), *self.known]
        return list(dict.fromkeys(name for name in named if name))


class Checked(NamedTuple):
    """A panel that can be learnt from, and what was done to make it so."""

    panel: Panel
    findings: tuple[Finding, ...]


class _Sheet:
    """Rows on their way to a panel: what is changed is changed here, and each change leaves a finding."""

    def __init__(self, table: Table, rules: Rules) -> None:
        self.table, self.rules = table, rules
        self.y, self.times = table.y.copy(), table.times.copy()
        self.numbers = {name: values.copy() for name, values in table.numbers.items()}
        self.steps: Ints = np.empty(0, np.int64)
        self.width = 0
        self.findings: list[Finding] = []

    def note(self, reason: Reason, rows: Mask, *, done: Done, note: str) -> None:
        """Adds a finding for each series among the rows."""
        places = np.flatnonzero(rows)
        series = self.table.series[places]
        places = places[np.argsort(series, kind="stable")]
        codes, starts, counts = np.unique(np.sort(series), return_index=True, return_counts=True)
        for code, row, count in zip(codes, places[starts], counts, strict=True):
            step = int(self.steps[row]) if len(self.steps) else -1
            self.findings.append(Finding(reason, self.table.ids[code], int(row), step, int(count), done, note))


def settled(table: Table, rules: Rules) -> Rules:
    """Returns rules that leave nothing to be found in the frame, so that each part of it is read as the whole is."""
    largest = int(np.bincount(table.series).argmax())
    unit = (rules.unit or unit_of(table.times[table.series == largest])) if table.has_dates else None
    absent = rules.absent or ("unknown" if np.any(table.y == 0) else "zero")
    return msgspec.structs.replace(rules, unit=unit, absent=absent)


def checked(table: Table, rules: Rules | None = None, *, ahead: int = 0, span: Span | None = None) -> Checked:
    """Returns a frame as a panel, checked.

    Args:
        table: the frame.
        rules: what its columns mean.
        ahead: steps after the last sale for which the frame has rows without y: what is known of them.
        span: of the whole frame, where the table is a part of it; None where it is all.

    Raises:
        DataError: a rule names a column that is not there, a row lies outside the span, or nothing is left.
    """
    sheet = _Sheet(table, rules or Rules())
    _check_columns(sheet)
    sheet.rules = settled(table, sheet.rules)
    calendar = _aligned(sheet, span or Span.of(table))
    for check in (_not_a_number, _late_flags, _returns, _closed, _no_stock):
        check(sheet)
    usable = _one_a_step(sheet)
    return _on_grid(sheet, usable, calendar=calendar, ahead=ahead)


def _check_columns(sheet: _Sheet) -> None:
    missing = [name for name in sheet.rules.columns if name not in sheet.numbers]
    if missing or not len(sheet.y):
        raise DataError(
            where="long frame, rules",
            given=f"no column of numbers '{missing[0]}'" if missing else "no row",
            expected=f"one of: {', '.join(sorted(sheet.numbers)) or 'none'}" if missing else "rows",
            fix="Name the frame's own columns of numbers." if missing else "Check what was exported.",
        )


def _aligned(sheet: _Sheet, span: Span) -> Calendar | None:
    """Puts each row on a step; local days that were written as times in UTC are put back on their day."""
    times, ends = sheet.times.astype(np.int64), np.array([span.first, span.last])
    calendar, unit = None, sheet.rules.unit
    if unit is not None:
        if unit != "hour":
            shifted = times % _DAY != 0
            times, ends = _midnights(times), _midnights(ends)
            sheet.times = times.astype("datetime64[s]")
            sheet.note("time_shift", shifted, done="repaired", note="a day's time in UTC, put on the nearest midnight")
        calendar = Calendar(unit, int(ends[0]))
    steps = times - ends[0] if calendar is None else calendar.steps(times.astype("datetime64[s]"))
    last = ends[1:] - ends[0] if calendar is None else calendar.steps(ends[1:].astype("datetime64[s]"))
    sheet.steps, sheet.width = steps, int(last[0]) + 1
    _check_span(sheet)
    return calendar


def _midnights(times: Ints) -> Ints:
    found: Ints = (times + _DAY // 2) // _DAY * _DAY
    return found


def _check_span(sheet: _Sheet) -> None:
    for row in np.flatnonzero((sheet.steps < 0) | (sheet.steps >= sheet.width))[:1]:
        raise DataError(
            where=f"long frame, row {row}",
            given=f"step {sheet.steps[row]} of series '{sheet.table.ids[sheet.table.series[row]]}'",
            expected=f"a step from 0 to {sheet.width - 1}, inside the span of the whole frame",
            fix="Take the span anew from the frame that this part comes from.",
        )


def _not_a_number(sheet: _Sheet) -> None:
    wrong = np.isinf(sheet.y)
    sheet.y[wrong] = np.nan
    sheet.note("not_a_number", wrong, done="quarantined", note="infinite: taken as not known")


def _late_flags(sheet: _Sheet) -> None:
    """Takes back what was written after the fact; a flag that the future never has is told."""
    for flag, written in sheet.rules.flags.items():
        values = sheet.numbers[flag]
        if written:
            late = (values != 0) & (sheet.numbers[written] > sheet.times.astype(np.int64))
            values[late] = 0.0
            sheet.note("late_flag", late, done="repaired", note=f"{flag} was written after its time: taken as not set")
        future = np.isnan(sheet.y) & (sheet.steps > int(sheet.steps[~np.isnan(sheet.y)].max(initial=-1)))
        if future.any() and not np.nan_to_num(values[future]).any() and np.nanmean(values[~future]) >= 0.02:  # noqa: PLR2004 - one step in fifty
            note = f"{flag} is set in the past and never ahead: it may be written after the fact"
            sheet.findings.append(Finding("flag_without_future", "", -1, -1, int(future.sum()), "kept", note))


def _returns(sheet: _Sheet) -> None:
    back = sheet.y < 0
    sheet.y[back] = 0.0
    sheet.note("return", back, done="repaired", note="what came back is no demand: taken as 0")


def _closed(sheet: _Sheet) -> None:
    if not sheet.rules.open:
        return
    closed = sheet.numbers[sheet.rules.open] == 0
    sold = closed & (sheet.y > 0)
    sheet.note("sold_while_closed", sold, done="kept", note="sold although closed: the sale is believed")
    sheet.y[closed & ~sold] = np.nan
    sheet.note("closed", closed & ~sold, done="repaired", note="closed, and not a day without demand")


def _no_stock(sheet: _Sheet) -> None:
    if not sheet.rules.stock:
        return
    empty = (sheet.numbers[sheet.rules.stock] <= 0) & ~np.isnan(sheet.y)
    sheet.y[empty] = np.nan
    sheet.note("no_stock", empty, done="quarantined", note="sold out: what was sold is less than was wanted")


def _one_a_step(sheet: _Sheet) -> Mask:
    """Returns which row speaks for its step."""
    order = np.lexsort((np.arange(len(sheet.y)), sheet.steps, sheet.table.series))
    key = sheet.table.series[order] * (int(sheet.steps.max()) + 1) + sheet.steps[order]
    starts = np.flatnonzero(np.r_[True, np.diff(key) != 0])
    sizes = np.diff(np.r_[starts, len(key)])
    usable = np.zeros(len(sheet.y), bool)
    usable[order[starts + sizes - 1]] = True
    same, different = np.zeros(len(sheet.y), bool), np.zeros(len(sheet.y), bool)
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        rows = order[start : start + size]
        values = sheet.y[rows]
        if np.nanmax(values, initial=-1) == np.nanmin(values, initial=np.inf) or np.isnan(values).all():
            same[rows[:-1]] = True
            continue
        different[rows] = True
        chosen = {"sum": np.nansum(values), "last": values[-1], "unknown": np.nan}[sheet.rules.two_values]
        sheet.y[rows[-1]] = chosen
    sheet.note("duplicate", same, done="repaired", note="the same row again: counted once")
    done: Done = "quarantined" if sheet.rules.two_values == "unknown" else "repaired"
    note = {"sum": "added up", "last": "the last one taken", "unknown": "which is right is not known"}
    sheet.note("two_values", different, done=done, note=f"several values of one step: {note[sheet.rules.two_values]}")
    return usable


def _on_grid(sheet: _Sheet, usable: Mask, *, calendar: Calendar | None, ahead: int) -> Checked:
    rows = np.flatnonzero(usable)
    at = sheet.table.series[rows], sheet.steps[rows]
    shape = len(sheet.table.ids), sheet.width
    y, has_row = np.full(shape, np.nan), np.zeros(shape, bool)
    y[at], has_row[at] = sheet.y[rows], True
    width = shape[1] - ahead
    columns = {}
    for name in {*sheet.rules.known, *([sheet.rules.price] if sheet.rules.price else [])}:
        columns[name] = np.full(shape, np.nan)
        columns[name][at] = sheet.numbers[name][rows]
    y, has_row = y[:, :width], has_row[:, :width]
    sheet.findings.extend(_gaps(sheet, y, has_row=has_row))
    sheet.findings.extend(_reused(sheet, y))
    sheet.findings.extend(_units(sheet, y, price=columns.get(sheet.rules.price)))
    known = {name: columns[name] for name in sheet.rules.known}
    seasons = SEASONS[calendar.unit] if calendar else ()
    panel = Panel(ids=sheet.table.ids, y=y, seasons=seasons, calendar=calendar, known=known)
    return Checked(panel, tuple(sheet.findings))


def _gaps(sheet: _Sheet, y: Floats, *, has_row: Mask) -> Iterator[Finding]:
    """Says what a step without a row means between the first and the last of its series."""
    is_inside = (np.cumsum(has_row, axis=1) > 0) & (np.cumsum(has_row[:, ::-1], axis=1)[:, ::-1] > 0)
    absent = is_inside & ~has_row
    meaning = sheet.rules.absent
    if meaning == "zero":
        y[absent] = 0.0
    for at in np.flatnonzero(absent.any(axis=1)):
        steps = np.flatnonzero(absent[at])
        reason: Reason = "no_sale" if meaning == "zero" else "gap"
        note = "no row: nothing was sold" if meaning == "zero" else "no row: not known"
        yield Finding(reason, sheet.table.ids[at], -1, int(steps[0]), len(steps), "repaired", note)


def _reused(sheet: _Sheet, y: Floats) -> Iterator[Finding]:
    """Finds a number that rested for months and came back as another product: only what came after counts."""
    for at, row in enumerate(y):
        sold = np.flatnonzero(np.nan_to_num(row) > 0)
        rests = np.diff(sold)
        if not len(rests) or rests.max() < _REUSED_AFTER:
            continue
        back = int(sold[rests.argmax() + 1])
        before, after = row[: back - rests.max() + 1], row[back : back + 4 * _AROUND]
        if max(_typical(before), _typical(after)) >= 2 * max(1e-9, min(_typical(before), _typical(after))):
            row[:back] = np.nan
            note = (
                f"rested for {rests.max()} steps and came back at another level: what was before is another product's"
            )
            yield Finding("reused", sheet.table.ids[at], -1, back, back, "quarantined", note)


def _units(sheet: _Sheet, y: Floats, *, price: Floats | None) -> Iterator[Finding]:
    """Finds a level that changes at once, for good, by a pack's size; mended where the price moved the other way."""
    for at, row in enumerate(y):
        found = _jump(row)
        if found is None:
            continue
        step, factor = found
        moved = (
            np.nan if price is None else _typical(price[at, :step][-_AROUND:]) / _typical(price[at, step:][:_AROUND])
        )
        if np.isfinite(moved) and abs(np.log(moved / factor)) < np.log(1.3):
            row[:step] *= factor
            note = f"counted in another unit before: multiplied by {factor:g}"
            yield Finding("unit_change", sheet.table.ids[at], -1, step, step, "repaired", note)
        else:
            note = f"the level changes by {factor:g}, as a pack's size would, and no price tells why"
            yield Finding("unit_change_suspected", sheet.table.ids[at], -1, step, step, "kept", note)


def _jump(row: Floats) -> tuple[int, float] | None:
    """Returns where a level changes most at once, and by which pack size; None where it does not."""
    known = np.flatnonzero(np.nan_to_num(row) > 0)
    if len(known) < 2 * _AROUND:
        return None
    logs = np.log(row[known])
    sums = np.cumsum(np.r_[0.0, logs])
    places = np.arange(_AROUND, len(logs) - _AROUND + 1)
    steps = (sums[places + _AROUND] - sums[places]) / _AROUND - (sums[places] - sums[places - _AROUND]) / _AROUND
    place = int(places[np.abs(steps).argmax()])
    change = float(np.median(logs[place:]) - np.median(logs[:place]))
    if abs(change - steps[place - _AROUND]) > _SUDDEN:
        return None
    noise = float(np.std(np.diff(logs)) / np.sqrt(_AROUND))
    packs = np.log(np.array(PACKS, np.float64))
    nearest = int(np.abs(packs - abs(change)).argmin())
    if abs(change) < np.log(1.8) or abs(packs[nearest] - abs(change)) > 0.1 + noise or abs(change) < 8 * noise:
        return None
    return int(known[place]), float(PACKS[nearest] if change > 0 else 1 / PACKS[nearest])


def _typical(values: Floats) -> float:
    known = values[np.nan_to_num(values) > 0]
    return float(np.median(known)) if len(known) else np.nan
