"""`decalog promotions demand`: what promotions do to their item and to others, and what a planned one would bring.

Both read the log alone and change nothing. What the figures rest on is told with them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from decalog.deployment import Deployment
from decalog.errors import ConfigError, UnknownRecordError, near
from decalog.home import Home
from decalog.systems.demand.forecast.planned import Brought, Plan, Range, brought
from decalog.systems.demand.forecast.pooling import Ints
from decalog.systems.demand.forecast.promotions import Effects, Fitted, Settings, effects
from decalog.systems.demand.promoted import History, history
from decalog.systems.demand.replanned import reordered
from decalog.systems.demand.system import SYSTEM

_DAYS, _LISTED = 400, 10
_EPOCH = dt.date(1970, 1, 1)
_LONGEST = 92
HomeOption = Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")]
DaysOption = Annotated[int, typer.Option("--history", help="Days to learn from, the latest ones.", min=56)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="What promotions do, to their item and to others.")


@app.callback(invoke_without_command=True, epilog="Example:  decalog promotions demand --item i7")
def promotions(
    context: typer.Context,
    *,
    home: HomeOption = Path("var"),
    item: Annotated[str, typer.Option("--item", help="Tell of one item all that it does to others.")] = "",
    days: DaysOption = _DAYS,
    as_json: JsonOption = False,
) -> None:
    """Tell what promotions do: to their item, to others of its category, and which items gain or lose beyond."""
    if context.invoked_subcommand is not None:
        return
    with closing(Home(home).reader()) as log:
        known = history(log, days=days)
    fitted = effects(known.promoted, Settings(beyond=True))
    place = _item(known, item) if item else -1
    lines = _of_item(known, fitted, place) if item else _matrix(known, fitted)
    typer.echo(msgspec.json.encode(_told(known, fitted)).decode() if as_json else "\n".join(lines))


@app.command(epilog="Example:  decalog promotions demand plan i7 --discount 25 --days 6")
def plan(
    item: Annotated[str, typer.Argument(help="The item that would be promoted.")],
    discount: Annotated[float, typer.Option("--discount", help="Percent off the price.")],
    *,
    days: Annotated[int, typer.Option("--days", help="Days that it lasts.", min=1, max=_LONGEST)] = 6,
    since: Annotated[str, typer.Option("--from", help="Its first day; else the day after the log's last.")] = "",
    store: Annotated[list[str] | None, typer.Option("--store", help="Stores that have it; else all.")] = None,
    request: Annotated[str, typer.Option("--request", help="An order on the log: how would it change?")] = "",
    learnt: DaysOption = _DAYS,
    home: HomeOption = Path("var"),
    as_json: JsonOption = False,
) -> None:
    """Tell what a planned promotion would bring: units of the item and of others, margins, and how an order changes."""
    if not 0 < discount < 100:  # noqa: PLR2004 - percent
        raise ConfigError(
            where="planned promotion, discount",
            given=f"{discount:g} %",
            expected="more than 0 and less than 100 percent",
            fix="Pass what is taken off the price, such as --discount 25.",
        )
    with closing(Home(home).reader()) as log:
        deployment = Deployment(Home(home), SYSTEM.name, log)
        known, currency = history(log, days=learnt), deployment.rates().base
        first = _first(known, since)
        asked = Plan(
            item=_item(known, item),
            stores=_stores(known, store or ()),
            depth=discount / 100,
            weekdays=[(first + dt.timedelta(days=day)).weekday() for day in range(days)],
            ahead=(first - _EPOCH).days - known.last_day,
        )
        changed = reordered(deployment, request, depth=asked.depth, days=days) if request else None
    fitted = effects(known.promoted, Settings(beyond=True))
    found = brought(fitted, asked, group=known.promoted.group, price=known.price, cost=known.cost)
    if as_json:
        typer.echo(msgspec.json.encode(_plan_told(known, found, changed)).decode())
        return
    typer.echo("\n".join(_plan_lines(known, fitted, asked, found, first=first, currency=currency)))
    if changed is not None:
        _, plain, promoted = changed
        typer.echo(
            f"order {request}: {plain.units:,.0f} units for a demand of {plain.mean:,.1f} without it, "
            f"{promoted.units:,.0f} for {promoted.mean:,.1f} with it on {promoted.promo_days} of its days"
        )


# What was asked for


def _item(known: History, name: str) -> int:
    return _place(known.names.items, name, kind="item")


def _stores(known: History, names: Sequence[str]) -> Ints:
    every = known.names.stores
    places = [_place(every, name, kind="store") for name in names]
    return np.array(places or range(len(every)), np.int64)


def _place(names: Sequence[str], name: str, *, kind: str) -> int:
    if name not in names:
        raise UnknownRecordError(
            where="promotions of demand",
            given=f"{kind} '{name[:80]}'",
            expected=f"one that has sold: {near(name, names)}",
            fix=f"Name the {kind} as the tills do.",
        )
    return names.index(name)


def _first(known: History, since: str) -> dt.date:
    """Returns the first day of a plan.

    Raises:
        ConfigError: it is no date, or not after the last day that was told.
    """
    last = _EPOCH + dt.timedelta(days=known.last_day)
    try:
        first = dt.date.fromisoformat(since) if since else last + dt.timedelta(days=1)
    except ValueError:
        first = last
    if first <= last:
        raise ConfigError(
            where="planned promotion, first day",
            given=f"'{since[:40]}'",
            expected=f"a date after {last}, the last day of sales, as {last + dt.timedelta(days=7)}",
            fix="Plan for days to come; what past promotions did is told by `decalog promotions demand`.",
        )
    return first


# The matrix


def _matrix(known: History, fitted: Fitted) -> Iterator[str]:
    """Yields each item's lift and dip, what each category loses, and the pairs that were found."""
    items, group = known.names.items, known.promoted.group
    yield _head(known, fitted)
    yield f"{'item':12}{'category':12}{'days':>5}  {'its own lift':28}after it"
    for item in np.argsort(-_promoted_days(known), kind="stable").tolist():
        days = int(_promoted_days(known)[item])
        own, after = (_percent(one, item) for one in (fitted.own, fitted.after))
        mark = "" if np.isfinite(fitted.own.error[item]) else "  as others'"
        yield f"{items[item]:12.11}{known.names.categories[group[item]]:12.11}{days:>5}  {own:28}{after}{mark}"
    yield "what each other item of the category loses on average:"
    for place, name in enumerate(known.names.categories):
        mean, error = fitted.taken.means[place], fitted.taken.errors[place]
        if np.isfinite(mean):
            yield f"  {name:12}{_change(mean, mean - fitted.settings.z * error, mean + fitted.settings.z * error)}"
    yield f"pairs that stand out (nominally {fitted.settings.false_share:.0%} are false, rather twice that in fact):"
    yield from _pairs(known, fitted) or ["  none"]
    yield from _caveats(fitted)


def _head(known: History, fitted: Fitted) -> str:
    series, days = known.promoted.sold.shape
    stores = "compared with each other too" if fitted.across else "all with the same promotions"
    return (
        f"{len(known.names.items)} items, {len(known.names.stores)} stores ({stores}), {series} series, {days} days, "
        f"{known.cut:.0%} of them sold out; at {fitted.settings.reference:.0%} off, "
        f"{fitted.settings.confidence:.0%} intervals"
    )


def _promoted_days(known: History) -> Ints:
    """Returns on how many days each item was promoted, in any store."""
    most = np.zeros((len(known.names.items), known.promoted.depth.shape[1]))
    np.maximum.at(most, known.promoted.item, np.nan_to_num(known.promoted.depth))
    return np.asarray((most > 0).sum(axis=1))


def _pairs(known: History, fitted: Fitted) -> list[str]:
    cross, items = fitted.cross, known.names.items
    places = np.argwhere(cross.found & np.isfinite(cross.drawn.value))
    order = np.argsort(-np.abs(cross.measured[places[:, 0], places[:, 1]]))
    made = [f"  {items[j]} promoted: {items[i]} {_alone(fitted, j, i)}" for j, i in places[order].tolist()]
    return made[:_LISTED] + ([f"  and {len(made) - _LISTED} more: --json"] if len(made) > _LISTED else [])


def _of_item(known: History, fitted: Fitted, item: int) -> Iterator[str]:
    """Yields what one item's promotions do to each other item, those that change most first."""
    cross, items, group = fitted.cross, known.names.items, known.promoted.group
    yield _head(known, fitted)
    yield f"{items[item]}: {_percent(fitted.own, item)} on its days, {_percent(fitted.after, item)} after them"
    of = np.flatnonzero(np.isfinite(cross.drawn.value[item]) & ((group == group[item]) | cross.found[item]))
    yield f"{'other item':12}{'drawn to its kind':28}on its own"
    for other in of[np.argsort(cross.drawn.value[item, of])].tolist():
        mark = "" if group[other] == group[item] else "  (another category)"
        yield f"{items[other]:12.11}{_percent(cross, (item, other)):28}{_alone(fitted, item, other)}{mark}"
    yield from _caveats(fitted)


def _percent(some: Effects, at: int | tuple[int, int]) -> str:
    return _change(*(float(one[at]) for one in (some.drawn.value, some.drawn.low, some.drawn.high)))


def _alone(fitted: Fitted, j: int, i: int) -> str:
    value, error = float(fitted.cross.measured[j, i]), fitted.settings.z * float(fitted.cross.error[j, i])
    return _change(value, value - error, value + error) if np.isfinite(error) else "not measured"


def _change(value: float, low: float, high: float) -> str:
    """Returns an effect in logs as a change in percent with its interval."""
    told = [f"{100 * np.expm1(min(one, 5)):+.1f}" for one in (value, low, high)]
    return f"{told[0]} % ({told[1]} to {told[2]})"


def _caveats(fitted: Fitted) -> Iterator[str]:
    yield (
        "rests on: nothing else moves one item for days whenever another one is promoted; effects in proportion to the "
        "discount; people who take another item since a shelf is empty are told apart by when it was empty"
    )
    if not fitted.across:
        yield (
            "all stores promote alike, so weeks are compared with the weeks around them: "
            "what comes with each leaflet counts as its effect"
        )


def _told(known: History, fitted: Fitted) -> dict[str, Any]:
    """Returns all effects for a machine, logs at the depth of reference."""
    items, names = known.names.items, known.names
    group = [names.categories[one] for one in known.promoted.group.tolist()]
    pairs = np.argwhere(np.isfinite(fitted.cross.drawn.value)).tolist()
    return {
        "reference": fitted.settings.reference,
        "confidence": fitted.settings.confidence,
        "across_stores": fitted.across,
        "items": [
            {"item": name, "category": group[place], "own": _row(fitted.own, place), "after": _row(fitted.after, place)}
            for place, name in enumerate(items)
        ],
        "taken": {
            name: {"value": mean, "error": error}
            for name, mean, error in zip(
                names.categories, fitted.taken.means.tolist(), fitted.taken.errors.tolist(), strict=True
            )
        },
        "pairs": [{"promoted": items[j], "item": items[i], **_row(fitted.cross, (j, i))} for j, i in pairs],
    }


def _row(some: Effects, at: Any) -> dict[str, Any]:
    """Returns one effect; what was not measured is null."""
    own = {"measured": float(some.measured[at]), "error": float(some.error[at])}
    drawn = {name: float(getattr(some.drawn, name)[at]) for name in ("value", "low", "high")}
    return {**drawn, **own, "found": bool(some.found[at])}


# The plan


def _plan_lines(
    known: History, fitted: Fitted, asked: Plan, found: Brought, *, first: dt.date, currency: str
) -> Iterator[str]:
    items = known.names.items
    last = first + dt.timedelta(days=len(asked.weekdays) - 1)
    days, length = int(_promoted_days(known)[asked.item]), known.promoted.depth.shape[1]
    stores = "1 store" if len(asked.stores) == 1 else f"{len(asked.stores)} stores"
    usual = " to ".join(f"{one:,.0f}" for one in found.usual[1:])
    yield (
        f"{items[asked.item]} at {asked.depth:.0%} off in {stores}, {first} to {last}; "
        f"usual sales {found.usual.value:,.0f} ({usual}); promoted on {days} of {length} days so far"
    )
    yield f"{'':24}{'units':28}margin, {currency}"
    for name, units, margin in (
        ("the item, meanwhile", found.own, found.own_margin),
        (f"{fitted.settings.after} days after", found.after, found.after_margin),
        (f"{len(found.by_item)} other items", found.others, found.others_margin),
        ("together", found.total, found.margin),
    ):
        yield f"{name:24}{_units(units):28}{_money(margin)}"
    most = [f"{items[other]} {_units(units)}" for other, units in list(found.by_item.items())[:3]]
    yield from [f"most of it: {'; '.join(most)}"] if most else []
    if found.unpriced:
        yield f"without a price, so not in the margin: {', '.join(items[one] for one in found.unpriced[:_LISTED])}"
    deepest = float(np.nanmax(np.where(known.promoted.item[:, None] == asked.item, known.promoted.depth, 0.0)))
    if asked.depth > deepest:
        yield f"deeper than the item has been promoted so far ({deepest:.0%}): a line drawn beyond what was seen"
    yield "units are wanted ones: shelves have to hold them. What lies there and spoils is not in the margin."


def _units(of: Range) -> str:
    return f"{of.value:+,.0f} ({of.low:+,.0f} to {of.high:+,.0f})"


def _money(of: Range) -> str:
    return f"{of.value / 100:+,.2f} ({of.low / 100:+,.2f} to {of.high / 100:+,.2f})"


def _plan_told(known: History, found: Brought, changed: Any) -> dict[str, Any]:
    items, named = known.names.items, found.by_item.items()
    told: dict[str, Any] = {
        name: value._asdict() for name in Brought.__struct_fields__ if isinstance(value := getattr(found, name), Range)
    }
    told["by_item"] = [{"item": items[other], **units._asdict()} for other, units in named]
    told["unpriced"] = [items[one] for one in found.unpriced]
    if changed is not None:
        request, plain, promoted = changed
        told["order"] = {"request": request.id, "without": plain._asdict(), "with": promoted._asdict()}
    return told
