"""Charts of quantities as SVG: what was forecast, what there was, and what was told.

What has a size of its own (dots, words, lines) is placed by shares of the chart, which stretches with the page, and is
as sharp on a telephone as on a screen. Colours are classes of the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from decalog.control_room.quantities import Forecast

WIDE, NARROW = (0.05, 0.95), (0.1, 0.9)
"""Levels of the two bands."""
_BANDS = (("wide", WIDE), ("narrow", NARROW))
_TICKS, _DATES = 4, 7
_STEPS = (1, 2, 2.5, 5, 10)
_FILLED = 0.86
"""Of a decision's days: what its column takes of them."""


class Column(NamedTuple):
    """One decision in a chart over time.

    Args:
        left, right: where its days begin and end, shares of the width.
        label: of its first day.
        said: all of it in words.
        forecast: of the days.
        held: what can be had.
        told: what was told since, and whether that is a lower bound.
        parts: what there was, part by part, and last what was chosen.
        marked: whether the request was out of the ordinary.
    """

    left: float
    right: float
    label: str
    said: str
    forecast: Forecast | None
    held: float | None
    told: float | None
    bound: bool
    parts: tuple[float, ...]
    marked: bool


class Shown(NamedTuple):
    """What an SVG is called, and what it says at length to those who do not see it."""

    id: str
    title: str
    text: str


def fan(columns: Sequence[Column], shown: Shown) -> Markup:
    """Returns each decision's bands and mean, with what could be had and what was told."""
    return _over_time(columns, shown, drawn=_fanned, most=highest(_seen(column) for column in columns))


def stock(columns: Sequence[Column], shown: Shown) -> Markup:
    """Returns what there was and what was chosen, one above the other."""
    most = highest(sum(column.parts) for column in columns)
    return _over_time(columns, shown, drawn=_stacked, most=most, css="fan low")


def chances(forecast: Forecast, shown: Shown, *, held: float | None, told: float | None, bound: bool) -> Markup:
    """Returns how likely each quantity is enough, with the bands, what could be had and what was told."""
    most = highest([forecast.values[-1], held or 0.0, told or 0.0])
    lines = (("mean", forecast.mean), ("held", held), ("told bound" if bound else "told", told))
    shapes = [
        *_percents(),
        *(f'<text class="x" x="{_pc(one / most)}" y="100%" dy="18">{one:,.6g}</text>' for one in ticks(most)),
        *(_upright_band(css, forecast.at(low) / most, forecast.at(high) / most) for css, (low, high) in _BANDS),
        _curve(forecast, most),
        *(_upright(css, value / most) for css, value in lines if value is not None),
    ]
    return _svg("".join(shapes), shown, css="fan chances")


def highest(values: Iterable[float]) -> float:
    """Returns the value of the upper edge: a little above the highest.

    >>> highest([3.0, 10.0]), highest([])
    (10.8, 1.0)
    """
    return 1.08 * max(values, default=0.0) or 1.0


def ticks(most: float) -> list[float]:
    """Returns round values from 0 to an upper edge.

    >>> ticks(10.8), ticks(0.9)
    ([0.0, 2.5, 5.0, 7.5, 10.0], [0.0, 0.2, 0.4, 0.6, 0.8])
    """
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * one for one in _STEPS), key=lambda one: abs(one - rough))
    return [round(place * step, 9) for place in range(math.floor(most / step) + 1)]


def _over_time(
    columns: Sequence[Column],
    shown: Shown,
    *,
    drawn: Callable[[Column, float], Iterator[str]],
    most: float,
    css: str = "fan",
) -> Markup:
    """Returns columns over time, each with its words for who points at it."""
    each = (f"<g>{_titled(column)}{_mark(column)}{''.join(drawn(column, most))}</g>" for column in columns)
    return _svg("".join([*_grid(most), *_dates(columns), *each]), shown, css=css)


def _mark(column: Column) -> str:
    """Returns what stands behind a request that was out of the ordinary, and its flag."""
    if not column.marked:
        return ""
    x, wide = column.left, (column.right - column.left) * _FILLED
    tint = f'<rect class="marked" x="{_pc(x)}" width="{_pc(wide)}" y="0" height="100%"/>'
    return f'{tint}<svg class="flag" x="{_pc(x + wide / 2)}" y="0"><path d="M-4 -9H4L0 -2z"/></svg>'


def _seen(column: Column) -> float:
    top = 0.0 if column.forecast is None else column.forecast.at(WIDE[1])
    return max(top, column.held or 0.0, column.told or 0.0)


def _fanned(column: Column, most: float) -> Iterator[str]:
    x, wide = column.left, (column.right - column.left) * _FILLED
    if column.forecast is not None:
        for css, (low, high) in _BANDS:
            bottom, top = column.forecast.at(low) / most, column.forecast.at(high) / most
            yield _box(css, x, wide=wide, bottom=bottom, top=top)
        yield _level("mean", x, wide=wide, y=column.forecast.mean / most)
    if column.held is not None:
        yield _level("held", x, wide=wide, y=column.held / most)
    if column.told is not None:
        yield _dot(x + wide / 2, column.told / most, is_bound=column.bound)


def _stacked(column: Column, most: float) -> Iterator[str]:
    floor, wide, last = 0.0, (column.right - column.left) * _FILLED, len(column.parts) - 1
    for place, amount in enumerate(column.parts):
        css = "chosen" if place == last else f"part p{place}"
        if amount > 0:
            yield _box(css, column.left, wide=wide, bottom=floor / most, top=(floor + amount) / most)
        floor += amount


def _grid(most: float) -> Iterator[str]:
    for one in ticks(most):
        y = _pc(1 - one / most)
        yield f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        yield f'<text class="y" x="-8" y="{y}" dy="4">{one:,.6g}</text>'


def _dates(columns: Sequence[Column]) -> Iterator[str]:
    """Yields the first days of some columns, not so many that they touch."""
    gap, last = 1 / _DATES, -1.0
    for column in columns:
        if column.left >= last + gap or last < 0:
            last = column.left
            middle = column.left + (column.right - column.left) * _FILLED / 2
            yield f'<text class="x" x="{_pc(middle)}" y="100%" dy="18">{escape(column.label)}</text>'


def _box(css: str, x: float, *, wide: float, bottom: float, top: float) -> str:
    tall = max(top - bottom, 0.0)
    return f'<rect class="{css}" x="{_pc(x)}" width="{_pc(wide)}" y="{_pc(1 - top)}" height="{_pc(tall)}"/>'


def _level(css: str, x: float, *, wide: float, y: float) -> str:
    return f'<line class="{css}" x1="{_pc(x)}" x2="{_pc(x + wide)}" y1="{_pc(1 - y)}" y2="{_pc(1 - y)}"/>'


def _dot(x: float, y: float, *, is_bound: bool) -> str:
    """Returns what was told; of a lower bound an open dot with an arrow up."""
    if not is_bound:
        return f'<circle class="told" cx="{_pc(x)}" cy="{_pc(1 - y)}" r="3.6"/>'
    arrow = '<path d="M0 -3.6V-13M-3.4 -9.6L0 -13L3.4 -9.6"/><circle r="3.6"/>'
    return f'<svg class="told bound" x="{_pc(x)}" y="{_pc(1 - y)}">{arrow}</svg>'


def _upright(css: str, x: float) -> str:
    return f'<line class="{css}" x1="{_pc(x)}" x2="{_pc(x)}" y1="0" y2="100%"/>'


def _upright_band(css: str, left: float, right: float) -> str:
    return f'<rect class="{css}" x="{_pc(left)}" width="{_pc(right - left)}" y="0" height="100%"/>'


def _percents() -> Iterator[str]:
    for level in (0, 50, 100):
        yield f'<line class="grid" x1="0" x2="100%" y1="{100 - level}%" y2="{100 - level}%"/>'
        yield f'<text class="y" x="-8" y="{100 - level}%" dy="4">{level} %</text>'


def _curve(forecast: Forecast, most: float) -> str:
    """Returns the quantiles, joined; stretched, as only paths have to be."""
    points = [(0.0, 0.0), *zip(forecast.values, forecast.levels, strict=True)]
    path = "L".join(f"{1_000 * value / most:.1f} {100 * (1 - level):.2f}" for value, level in points)
    about = 'viewBox="0 0 1000 100" preserveAspectRatio="none" width="100%" height="100%"'
    return f'<svg {about}><path class="curve" d="M{path}"/></svg>'


def _titled(column: Column) -> str:
    return f"<title>{escape(column.said)}</title>"


def _pc(share: float) -> str:
    return f"{100 * share:.2f}%"


def _svg(shapes: str, shown: Shown, *, css: str) -> Markup:
    about = f'role="img" aria-labelledby="{shown.id}-title {shown.id}-text"'
    title = f'<title id="{shown.id}-title">{escape(shown.title)}</title>'
    text = f'<desc id="{shown.id}-text">{escape(shown.text)}</desc>'
    return Markup(f'<svg class="{css}" {about}>{title}{text}{shapes}</svg>')  # noqa: S704 - numbers, and escaped
