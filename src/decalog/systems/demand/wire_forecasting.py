"""What a server of TimeGPT's protocol works out, in a process of its own: series in, forecasts out, nothing kept.

`python -m decalog.systems.demand.wire_forecasting forecast|cross_validation [zstd]` reads the body of one request from
its standard input and writes a line, the status of the answer and how many values were forecast, and the answer's body.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.errors import ConfigError, DataError, DecalogError, LimitError, RequestError, near
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.calendar import SEASONS, Calendar, Unit
from decalog.systems.demand.forecast.ensemble import ensemble, mix
from decalog.systems.demand.forecast.naive import naive_of_m4, seasonal_naive
from decalog.systems.demand.forecast.origins import roll
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Method, Panel
from decalog.systems.demand.forecast.statistical import MODELS, statistical

AUTO, THEIRS = "auto", "timegpt"
"""What is taken where nobody chose: the client names a model of Nixtla's, which is not here."""
MOST_SERIES, MOST_VALUES, MOST_AHEAD = 5_000, 5_000_000, 500_000
"""Series; series × the longest of them; series × steps ahead × windows."""
MOST_BYTES = 64 * 1_024 * 1_024
"""Of a body, once it is no longer compressed."""
MOST_LEVELS = 40

_DAY = 86_400
_SECONDS = {"s": 1, "min": 60, "t": 60, "h": 3_600, "d": _DAY}
_LONG_SEASON = 700
_SLOW: Mapping[str, tuple[Unit | None, int]] = {
    "b": (None, 5),
    "w": ("week", 52),
    "m": ("month", 12),
    "q": ("quarter", 4),
    **dict.fromkeys("ay", ("year", 1)),
}
"""Letter → the calendar's unit and how many are a season: five working days, 52 weeks, a year's months."""
_UNITS: Mapping[int, Unit] = {3_600: "hour", _DAY: "day"}
_FREQ = re.compile(r"(\d{0,4})([a-z]+?)([se]?)(?:-[a-z]{3})?")
_FAST = Settings(trees=40, leaves=31, learning_rate=0.1, stride=3, held_out=0, most_rows=100_000)
"""Chosen on seed 5 of demand's world: no worse than more trees, and 300 series of two years take seconds."""


class Series(msgspec.Struct, rename={"x": "X", "x_future": "X_future"}):
    """Series one after the other; see Nixtla's client for what each list holds."""

    y: list[float | None]
    sizes: list[int]
    x: list[list[Any]] | None = None
    x_future: list[list[Any]] | None = None
    start_datetime: list[str] | None = None
    categorical_exog: list[int] | None = None


class Wanted(msgspec.Struct, kw_only=True):
    """The body of a request for forecasts, or for those of earlier times (`n_windows`)."""

    series: Series
    h: int
    freq: str
    model: str = AUTO
    level: list[float] | None = None
    n_windows: int = 1
    step_size: int | None = None
    hist_exog: list[int] | None = None
    finetune_steps: int = 0
    finetuned_model_id: str | None = None
    feature_contributions: bool = False
    multivariate: bool = False
    model_parameters: Any = None
    full_history: bool = False


class Steps(NamedTuple):
    """What a frequency means: the calendar's unit, None where it has none, and seasons in steps."""

    unit: Unit | None
    seasons: tuple[int, ...]


def steps_of(freq: str) -> Steps:
    """Returns what a frequency of pandas or polars means.

    Raises:
        RequestError: it is none that is known.

    >>> steps_of("D"), steps_of("MS"), steps_of("15min"), steps_of("B").seasons
    (Steps(unit='day', seasons=(7,)), Steps(unit='month', seasons=(12,)), Steps(unit=None, seasons=(96, 672)), (5,))
    """
    found = _FREQ.fullmatch(freq.lower())
    times, word = (int(found[1] or 1), found[2]) if found else (0, "")
    if times and word in _SECONDS:
        return _quick(times, times * _SECONDS[word])
    if times and word in _SLOW:
        return _slow(times, *_SLOW[word])
    raise RequestError(
        where="forecast, freq",
        given=f"'{freq[:20]}'",
        expected="a frequency of pandas or polars: s, min, h, D, B, W, MS, ME, QS, QE, YS, YE, with a number before it",
        fix="Say how far the times of a series lie apart.",
    )


def _quick(times: int, step: int) -> Steps:
    """Returns steps of so many seconds: the seasons are an hour, a day and a week, the two longest that fit."""
    if times == 1 and step in _UNITS:
        return Steps(_UNITS[step], SEASONS[_UNITS[step]])
    whole = (span // step for span in (60, 3_600, _DAY, 7 * _DAY) if span % step == 0)
    return Steps(None, tuple(one for one in whole if 1 < one <= _LONG_SEASON)[-2:])


def _slow(times: int, unit: Unit | None, season: int) -> Steps:
    """Returns steps of which so many times `season` are a season."""
    if times == 1:
        return Steps(unit, (season,) if season > 1 else ())
    return Steps(None, (season // times,) if season % times == 0 and season > times else ())


def method_of(model: str) -> Callable[[Panel, int], Forecast]:
    """Returns the method of a model's name.

    Raises:
        RequestError: there is none.
    """
    if model in ("", AUTO) or model.startswith(THEIRS):
        return automatic
    if model == "boosted":
        return boosted(msgspec.structs.replace(_FAST, held_out=1)).forecast
    if model == "seasonal-naive":
        return seasonal_naive().forecast
    if model.replace("-", " ") in MODELS:
        return statistical(model.replace("-", " ")).forecast
    raise RequestError(
        where="forecast, model",
        given=f"'{model[:40]}'",
        expected=near(model[:40], model_names()),
        fix="GET /v2/models lists them; leave it out for the default.",
    )


def model_names() -> list[str]:
    """Returns what may be asked for by name."""
    return [AUTO, "boosted", "seasonal-naive", *(name.replace(" ", "-") for name in MODELS)]


def automatic(panel: Panel, horizon: int) -> Forecast:
    """Returns the season before and a boosted model, weighted by how they did lately; of short series simpler ones."""
    if panel.y.shape[1] > 2 * (panel.season + 2 * horizon):
        try:
            return ensemble([seasonal_naive(), boosted(_FAST)]).forecast(panel, horizon)
        except DataError:  # too few rows to learn from, or too few errors to calibrate by
            pass
    simple: tuple[Method, ...] = (seasonal_naive(), naive_of_m4())
    made = {one.name: one.forecast(panel, horizon) for one in simple}
    return mix(made, dict.fromkeys(made, 1 / len(made)))


def forecast(wanted: Wanted) -> dict[str, Any]:
    """Returns what follows each series, as the client reads it."""
    future = wanted.series.x_future or []
    if wanted.series.x is not None and len(future) < len(wanted.series.x):
        raise _not_done("exogenous columns of the past alone", "Say what they will be (X_df), or leave them out.")
    panel = panel_of(wanted, known=list(range(len(future))), horizon=wanted.h)
    found = method_of(wanted.model)(panel, wanted.h)
    return _told([_kept_up(found, panel)], wanted)


def cross_validation(wanted: Wanted) -> dict[str, Any]:
    """Returns what would have been said at earlier times, series by series, the earliest window first."""
    if wanted.full_history:
        raise _not_done("add_history", "Ask for cross_validation with as many windows as you need.")
    if wanted.hist_exog:
        raise _not_done("exogenous columns of the past alone (hist_exog)", "Leave them out.")
    step, sizes = wanted.step_size or wanted.h, np.array(wanted.series.sizes)
    ends = [wanted.h + step * back for back in range(wanted.n_windows - 1, -1, -1)]
    if step < 1 or int(sizes.min()) <= ends[0]:
        raise RequestError(
            where="cross validation, n_windows and step_size",
            given=f"windows that reach {ends[0]} steps back, and a series of {int(sizes.min())}",
            expected="a step_size from 1, and a value at least before the first window",
            fix="Take fewer or shorter windows, or leave short series out.",
        )
    panel = panel_of(wanted, known=list(range(len(wanted.series.x or ()))), horizon=0)
    method = Method(wanted.model, method_of(wanted.model))
    tolds = roll(method, panel, horizon=wanted.h, ends=ends)
    starts = np.cumsum(sizes)[:, None] - np.array(ends)[None]
    idxs = (starts[..., None] + np.arange(wanted.h)).ravel()
    told = _told([_kept_up(one.forecast, panel) for one in tolds], wanted)
    return told | {"sizes": [len(ends) * wanted.h] * len(sizes), "idxs": idxs.tolist()}


def panel_of(wanted: Wanted, *, known: Sequence[int], horizon: int) -> Panel:
    """Returns the series as a panel, each ending with the last step.

    Args:
        wanted: the request.
        known: places of the exogenous columns that are known ahead.
        horizon: steps of them that lie ahead.
    """
    series, steps = wanted.series, steps_of(wanted.freq)
    y = _matrix(series.y, series.sizes)
    ahead = series.x_future or []
    columns = {}
    for place in known:
        past = _matrix((series.x or [])[place], series.sizes)
        later = _numbers(ahead[place]).reshape(len(y), horizon) if horizon else np.empty((len(y), 0))
        columns[f"x{place}"] = np.concatenate([past, later], axis=1)
    ids = tuple(map(str, range(len(y))))
    return Panel(ids=ids, y=y, seasons=steps.seasons, calendar=_calendar(series, steps.unit), known=columns)


def check(wanted: Wanted) -> Wanted:
    """Returns a request that can be worked on as it is.

    Raises:
        RequestError: it does not fit, or asks for what is not done here.
        LimitError: it is too much for one request.
    """
    wrong = [name for name, is_right in (*_of_series(wanted.series, wanted.h), *_of_all(wanted)) if not is_right]
    if wrong:
        raise _unfit("a body that does not fit", "; ".join(wrong))
    asked = {
        "finetuning (finetune_steps, finetuned_model_id)": wanted.finetune_steps or wanted.finetuned_model_id,
        "feature_contributions": wanted.feature_contributions,
        "multivariate": wanted.multivariate,
        "model_parameters": wanted.model_parameters,
        "exogenous columns of categories": wanted.series.categorical_exog,
    }
    refused = [name for name, is_asked in asked.items() if is_asked]
    if refused:
        raise _not_done(", ".join(refused), "Leave it out.")
    n, longest, steps = len(wanted.series.sizes), max(wanted.series.sizes), wanted.h * wanted.n_windows
    if n > MOST_SERIES or n * longest > MOST_VALUES or n * steps > MOST_AHEAD:
        raise LimitError(
            where="forecast",
            given=f"{n} series, up to {longest} steps long, {steps} steps ahead",
            expected=f"{MOST_SERIES:,} series, {MOST_VALUES:,} values of equally long series, {MOST_AHEAD:,} ahead",
            fix="Send them in parts: num_partitions of the client does so.",
        )
    return wanted


def _of_all(wanted: Wanted) -> Iterator[tuple[str, bool]]:
    """Yields what numbers of a request have to be, and whether they are."""
    top, levels = _top(), wanted.level or ()
    yield "h and n_windows: whole numbers from 1", wanted.h >= 1 and wanted.n_windows >= 1
    yield (
        f"level: up to {MOST_LEVELS} from 0 to {top:g}",
        len(levels) <= MOST_LEVELS and all(0 <= x <= top for x in levels),
    )


def _of_series(series: Series, h: int) -> Iterator[tuple[str, bool]]:
    """Yields what lists have to be, and whether they are."""
    rows, count, past, ahead = len(series.y), len(series.sizes), series.x or [], series.x_future or []
    adds_up = min(series.sizes, default=0) >= 1 and sum(series.sizes) == rows
    yield "sizes: of each series, 1 or more, that add up to the values of y", adds_up
    yield "X: a number for each value of y", {len(column) for column in past} <= {rows}
    yield "X_future: h numbers a series", {len(column) for column in ahead} <= {h * count}
    yield "X_future: columns of X", len(ahead) <= len(past)
    yield "start_datetime: one a series", len(series.start_datetime or series.sizes) == count


def read(body: bytes, *, compressed: bool) -> Wanted:
    """Returns the request of a body.

    Raises:
        RequestError: it is none.
    """
    try:
        return msgspec.json.decode(_inflated(body) if compressed else body, type=Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unfit(f"a body that does not fit ({str(error)[:200]})", "what Nixtla's client sends") from None


def _inflated(body: bytes) -> bytes:
    """Returns a body that came compressed; DuckDB reads zstd, and stops where a text is too long."""
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.json.zst"
        path.write_bytes(body)
        connection = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "1GB"})
        reader = "read_json_objects(?, compression='zstd', format='unstructured', maximum_object_size=?)"
        try:
            rows = connection.execute(f"SELECT json FROM {reader} LIMIT 2", [str(path), MOST_BYTES]).fetchall()  # noqa: S608 - our own words
        except duckdb.Error:
            rows = []
    if len(rows) != 1:
        raise _unfit("a compressed body that cannot be read", f"one JSON object of up to {MOST_BYTES:,} bytes, zstd")
    return str(rows[0][0]).encode()


def _matrix(values: Sequence[float | None], sizes: Sequence[int]) -> Floats:
    whole, widths = _numbers(values), np.array(sizes)
    found = np.full((len(widths), int(widths.max())), np.nan)
    found[np.arange(found.shape[1]) >= found.shape[1] - widths[:, None]] = whole
    return found


def _numbers(values: Sequence[Any]) -> Floats:
    try:
        found = np.array(values, np.float64)  # None is NaN
    except (TypeError, ValueError):
        raise _unfit("a column of other things than numbers", "numbers, or null where one is not known") from None
    return np.where(np.isfinite(found), found, np.nan)


def _calendar(series: Series, unit: Unit | None) -> Calendar | None:
    """Returns the dates of the panel's columns; None where the series do not end on one day, or none is told."""
    if unit is None or not series.start_datetime:
        return None
    try:
        starts = np.array([text[:19] for text in series.start_datetime], "datetime64[s]").astype(np.int64)
    except ValueError:
        raise _unfit("a start_datetime that is no time", "such as 2026-03-01T00:00:00") from None
    calendars = [Calendar(unit, int(start)) for start in starts]
    places = (np.array([size - 1]) for size in series.sizes)
    ends = {int(one.times(place).astype(np.int64)[0]) for one, place in zip(calendars, places, strict=True)}
    return calendars[int(np.argmax(series.sizes))] if len(ends) == 1 else None


def _kept_up(found: Forecast, panel: Panel) -> Forecast:
    """Returns a forecast of which nothing is below 0 where nothing ever was."""
    if np.nanmin(panel.y, initial=0.0) < 0:
        return found
    return found._replace(mean=np.maximum(found.mean, 0.0), quantiles=np.maximum(found.quantiles, 0.0))


def _told(found: Sequence[Forecast], wanted: Wanted) -> dict[str, Any]:
    """Returns forecasts as the client reads them: of each series its windows, of each window its steps."""

    def flat(parts: Sequence[Floats]) -> list[float]:
        together: list[float] = np.stack(parts, axis=1).ravel().tolist()
        return together

    bounds = {
        f"{side}-{level:g}": flat([one.at((100 + sign * level) / 200) for one in found])
        for level in dict.fromkeys(wanted.level or ())
        for side, sign in (("lo", -1), ("hi", 1))
    }
    return {
        "mean": flat([one.mean for one in found]),
        "intervals": bounds or None,
        "weights_x": None,
        "feature_contributions": None,
        "input_tokens": len(wanted.series.y),
        "output_tokens": len(found) * found[0].mean.size,
    }


def _top() -> float:
    return round(100 - 200 * LEVELS[0], 6)


def _unfit(given: str, expected: str) -> RequestError:
    return RequestError(where="forecast", given=given, expected=expected, fix="Send it as Nixtla's client 0.9 does.")


def _not_done(given: str, fix: str) -> RequestError:
    return RequestError(where="forecast", given=given, expected="a forecast without: it is not done here", fix=fix)


def _parts(error: DecalogError) -> bytes:
    told = {name: getattr(error, name) for name in ("where", "given", "expected", "fix")}
    return (b"413 0\n" if isinstance(error, LimitError) else b"422 0\n") + msgspec.json.encode(told)


def main() -> None:
    """Answers one request."""
    os.nice(5)  # decisions go first
    work = {"forecast": forecast, "cross_validation": cross_validation}[sys.argv[1]]
    try:
        wanted = check(read(sys.stdin.buffer.read(), compressed="zstd" in sys.argv[2:]))
        told = work(wanted)
        answer = b"200 %d\n" % len(told["mean"]) + msgspec.json.encode(told)
    except (RequestError, DataError, ConfigError) as error:
        answer = _parts(error)
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()
