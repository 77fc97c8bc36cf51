"""What every page shares: how home, index and log are opened, and the templates with their words and numbers."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from decalog.clock import DAY, HOUR, MINUTE, SECOND
from decalog.control_room.homes import Place, index_of
from decalog.control_room.index import Index
from decalog.control_room.sessions import Session
from decalog.control_room.web import Page, View, path_of
from decalog.home import Home
from decalog.log import Log
from decalog.money import EXPONENTS
from decalog.registry import SHORT
from decalog.tables import Tables

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@contextmanager
def index(place: Place) -> Iterator[Index]:
    """Opens the index of a system's home."""
    with closing(Index(index_of(place.home))) as found:
        yield found


@contextmanager
def log_of(place: Place) -> Iterator[Log]:
    """Opens the log of a system's home, for reading."""
    with closing(place.home.reader()) as log:
        yield log


@cache
def currency_of(home: Home) -> str:
    """Returns the base currency of a home; it never changes."""
    with closing(home.reader()) as log:
        rates = Tables(log).get("", "rates") or {}
    return str(rates.get("base", "EUR"))


def render(view: View, page: Page, *, session: Session | None) -> str:
    """Returns a page as HTML; what it tells once is told by that."""
    said: list[str] = []
    if session is not None:
        said, session.said = session.said, []
    places = view.house.places() if session is not None else []
    shown = [place for place in places if session is not None and view.doors.scopes(session, place)]
    place = page.values.get("place")
    about: dict[str, Any] = {
        "place": place,
        "places": shown,
        "scopes": view.doors.scopes(session, place) if place is not None and session is not None else (),
        "session": session,
        "asks": view.doors.asks,
        "said": said,
        "time": _clock(place or (shown[0] if shown else None)),
    }
    return _templates().get_template(page.template).render(about | page.values)


def _clock(place: Place | None) -> dict[str, Any] | None:
    """Returns what the clock of a page tells: the time of the log, and how fast it goes."""
    if place is None:
        return None
    with index(place) as found:
        progress = found.progress()
    speed = place.driven.speed if place.driven is not None else 1.0
    return {"progress": progress, "speed": speed, "is_world": place.driven is not None}


def strongest(told: Mapping[str, Any]) -> float:
    """Returns the largest move of an explanation, up or down: the full length of its bars."""
    return max((abs(one["log_odds"]) for one in told["explanation"]), default=1.0)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: tuple[Callable[..., str], ...] = (
        money,
        number,
        signed_number,
        percent,
        moment,
        day_of,
        hour_of,
        span,
        ago,
        short,
        words,
    )
    made.filters |= {function.__name__: function for function in filters}
    made.globals["path"] = path_of
    return made


# ---- words and numbers ----


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number for people.

    >>> number(1234.0), number(0.012345), number(None)
    ('1,234', '0.0123', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:  # noqa: PLR2004 - whole numbers that floats hold exactly
        return f"{int(value):,}".replace("-", "−")
    shown = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return shown.replace("-", "−")


def signed_number(value: float) -> str:
    """Returns a difference for people.

    >>> signed_number(2.0), signed_number(-0.5)
    ('+2', '−0.5')
    """
    return f"{'+' if value > 0 else ''}{number(value)}"


def percent(value: float | None) -> str:
    """Returns a share for people.

    >>> percent(0.5), percent(0.0123), percent(0.0)
    ('50 %', '1.2 %', '0 %')
    """
    if value is None or not math.isfinite(value):
        return "–"
    share = 100 * value
    return f"{share:.0f} %" if share >= 10 or share == int(share) else f"{share:.1f} %"  # noqa: PLR2004 - two digits


def money(minor: float | None, currency: str) -> str:
    """Returns an amount for people.

    >>> money(-123456, "EUR"), money(1_234, "JPY")
    ('−1,234.56 EUR', '1,234 JPY')
    """
    if minor is None or not math.isfinite(minor):
        return "–"
    exponent = EXPONENTS.get(currency, 2)
    return f"{minor / 10**exponent:,.{exponent}f} {currency}".replace("-", "−")


def moment(us: int) -> str:
    """Returns a time.

    >>> moment(1_767_571_200_000_000)
    '5 Jan 2026, 00:00:00'
    """
    when = _EPOCH + dt.timedelta(microseconds=us)
    return f"{when.day} {when:%b %Y, %H:%M:%S}"


def day_of(us: int) -> str:
    """Returns a day: `5 Jan`."""
    when = _EPOCH + dt.timedelta(microseconds=us)
    return f"{when.day} {when:%b}"


def hour_of(us: int) -> str:
    """Returns a day and a time: `5 Jan 13:00`."""
    return f"{day_of(us)} {_EPOCH + dt.timedelta(microseconds=us):%H:%M}"


def span(us: float) -> str:
    """Returns how long something takes.

    >>> [span(us) for us in (0, 850, 12_300, 4_000_000, 5_400_000_000, 300_000_000_000)]
    ['0 µs', '850 µs', '12 ms', '4 s', '1.5 hours', '3.5 days']
    """
    if us < 1_000:  # noqa: PLR2004 - µs in a ms
        return f"{us:.0f} µs"
    steps = ((SECOND, 1_000, "ms"), (MINUTE, SECOND, "s"), (HOUR, MINUTE, "min"), (DAY, HOUR, "hours"))
    for end, unit, name in steps:
        if us < end:
            return f"{us / unit:.2g} {name}" if us / unit < 10 else f"{us / unit:.0f} {name}"  # noqa: PLR2004 - two digits
    return f"{us / DAY:.1f} days"


def ago(wall_s: float) -> str:
    """Returns how long ago something was by the machine's clock."""
    return f"{span(max(0.0, time.time() - wall_s) * SECOND)} ago"


def short(id_: str) -> str:
    """Returns the first digits of a model's id."""
    return id_[:SHORT]


def words(name: str) -> str:
    """Returns a name of ours for people.

    >>> words("net_loss_per_1000")
    'net loss per 1000'
    """
    return name.replace("_", " ")
