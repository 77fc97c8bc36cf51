"""Charts as SVG, drawn here: shapes stretch with the page, and what is to be read of an axis is text beside them.

Colours are classes of the style sheet, so a chart needs no style of its own and follows light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 600, 100


class Chart(NamedTuple):
    """A chart with the texts of its axes.

    Args:
        svg: the shapes.
        top, bottom: what the upper and the lower edge mean, with the unit.
        left, right: what the ends of the time axis mean.
        legend: (class, name) of each colour; () for one.
    """

    svg: Markup
    top: str
    bottom: str
    left: str
    right: str
    legend: tuple[tuple[str, str], ...] = ()


class Band(NamedTuple):
    """A line with what surrounds it; None where there is no value."""

    values: Sequence[float | None]
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()
    css: str = "c0"


def stacked(columns: Sequence[Mapping[str, float]], names: Sequence[str], *, said: str, top: float = 0.0) -> Markup:
    """Returns columns of stacked bars.

    Args:
        columns: one a bucket, in order of time: name → value, not below 0.
        names: from the bottom up.
        said: what the chart says, for those who do not see it.
        top: value of the upper edge; the highest column's if 0.
    """
    top = top or highest(columns, names) or 1.0
    wide = WIDTH / max(len(columns), 1)
    shapes = []
    floors = [0.0] * len(columns)
    for colour, name in enumerate(names):
        steps = []
        for place, column in enumerate(columns):
            value = column.get(name, 0.0)
            if value > 0:
                y, tall = HEIGHT * (1 - (floors[place] + value) / top), HEIGHT * value / top
                steps.append(f"M{place * wide:.1f} {y:.2f}h{wide * 0.82:.2f}v{tall:.2f}h-{wide * 0.82:.2f}z")
                floors[place] += value
        shapes.append(f'<path class="c{colour}" d="{"".join(steps)}"/>' if steps else "")
    return _svg("".join(shapes), said)


def highest(columns: Sequence[Mapping[str, float]], names: Sequence[str]) -> float:
    """Returns the height of the highest column."""
    return max((sum(column.get(name, 0.0) for name in names) for column in columns), default=0.0)


def signed(values: Sequence[float], *, said: str) -> Markup:
    """Returns bars above and below a line of zero."""
    most, least = max((0.0, *values)), min((0.0, *values))
    scale = HEIGHT / ((most - least) or 1.0)
    zero = most * scale if most > least else float(HEIGHT)
    wide = WIDTH / max(len(values), 1)
    bars = [
        f'<path class="c{int(value < 0) * 2}" '
        f'd="M{place * wide:.1f} {zero:.1f}h{wide * 0.82:.2f}v{-value * scale:.2f}h-{wide * 0.82:.2f}z"/>'
        for place, value in enumerate(values)
        if value
    ]
    return _svg(f'{"".join(bars)}<path class="axis" d="M0 {zero:.1f}H{WIDTH}"/>', said)


def lines(bands: Sequence[Band], *, said: str, low: float, high: float) -> Markup:
    """Returns lines, each with the band of its interval, between two values."""
    return _svg("".join(_line(band, low, reach=(high - low) or 1.0) for band in bands), said)


def _line(band: Band, low: float, *, reach: float) -> str:
    """Returns the shapes of one line; days without a value are left out."""

    def at(place: int, value: float) -> str:
        share = min(max((value - low) / reach, 0.0), 1.0)
        return f"{WIDTH * place / max(len(band.values) - 1, 1):.1f} {HEIGHT * (1 - share):.2f}"

    ends = [
        (place, least, most)
        for place, (least, most) in enumerate(zip(band.lows, band.highs, strict=True))
        if least is not None and most is not None
    ]
    there = [at(place, most) for place, _, most in ends]
    back = [at(place, least) for place, least, _ in reversed(ends)]
    points = [at(place, value) for place, value in enumerate(band.values) if value is not None]
    shape = f'<path class="{band.css} band" d="M{"L".join([*there, *back])}z"/>' if ends else ""
    return shape + (f'<path class="{band.css} line" d="M{"L".join(points)}"/>' if points else "")


def ticks(places: Sequence[tuple[float, str]], *, said: str) -> Markup:
    """Returns marks on a line of time: (0 to 1, class of the mark)."""
    marks = "".join(f'<path class="{escape(css)} tick" d="M{WIDTH * x:.1f} 12V{HEIGHT - 12}"/>' for x, css in places)
    return _svg(f'<path class="axis" d="M0 {HEIGHT / 2}H{WIDTH}"/>{marks}', said)


def interval(value: float, *, low: float, high: float, reach: tuple[float, float]) -> Markup:
    """Returns a value with its interval on a scale from one number to another."""
    least, most = reach
    wide = (most - least) or 1.0
    x, left, right = (100 * (one - least) / wide for one in (value, low, high))
    bar = f'<path class="whisker" d="M{left:.1f} 5H{right:.1f}"/><circle cx="{x:.1f}" cy="5" r="3.2"/>'
    said = escape(f"{value:.4g}, interval {low:.4g} to {high:.4g}")
    return Markup(f'<svg class="interval" viewBox="-4 0 108 10" role="img" aria-label="{said}">{bar}</svg>')  # noqa: S704 - numbers, and escaped


def _svg(shapes: str, said: str) -> Markup:
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
    return Markup(f'<svg class="plot" {size} role="img" aria-label="{escape(said)}">{shapes}</svg>')  # noqa: S704 - numbers, and escaped
