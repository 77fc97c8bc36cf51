"""What is known of demand when an order is due: how fast it sells where there is stock, and what the days ahead are.

Units alone say little: what was sold out sells nothing. So everything is a rate, units an hour with stock on the shelf,
over the last day, week, month and quarter, of the series, of its weekday, of its item in all stores, of its store and
of its category; days with a promotion apart, since they tell what promotions do and would spoil what is usual.
"""

from __future__ import annotations

import msgspec

from decalog.features.definition import Aggregate, Attribute, Condition, Feature, FeatureSet, Rate, Ratio
from decalog.systems.demand.schema import DAY_KIND

_OWNER = "demand"
_OVER = (DAY_KIND,)
_WHERE: dict[str, tuple[Condition, ...]] = {
    "": (),
    "plain": (Condition("discount_bp", "==", 0),),
    "promoted": (Condition("discount_bp", ">", 0),),
}
_DAYS = {"plain": "days without a promotion", "promoted": "days with a promotion"}
"""Kinds of days, "" for all."""
_BOUND = 10_000_000
_SILENCE = "2d"


def _sum(entity: str, column: str, window: str, *, kind: str = "") -> Aggregate:
    what = {"units": "units sold", "stocked_h": "opening hours with stock", "empty_h": "opening hours sold out"}[column]
    days = f" on {_DAYS[kind]}" if kind else ""
    return Aggregate(
        name="_".join(part for part in (entity, kind, column, window) if part),
        meaning=f"{what} of the {entity} in {window}{days}",
        unit="units" if column == "units" else "h",
        owner=_OWNER,
        entity=entity,
        aggregate="sum",
        column=column,
        over=_OVER,
        window=window,
        where=_WHERE[kind],
        bound=_BOUND,
        staleness=_SILENCE if not kind else "",
        use="model" if column == "empty_h" else "policy",
    )


def _rate(entity: str, window: str, *, kind: str = "") -> tuple[Feature, ...]:
    """Returns units, hours with stock, and one over the other."""
    units = _sum(entity, "units", window, kind=kind)
    hours = _sum(entity, "stocked_h", window, kind=kind)
    days = f", {_DAYS[kind]}" if kind else ""
    rate = Ratio(
        name="_".join(part for part in (entity, kind, "rate", window) if part),
        meaning=f"units sold of the {entity} an hour with stock in {window}{days}",
        unit="units/h",
        owner=_OWNER,
        numerator=units.name,
        denominator=hours.name,
    )
    return units, hours, rate


def _lately(entity: str) -> tuple[Feature, ...]:
    """Returns the rate of plain days of which each counts half as much as one two weeks after it."""
    units, hours = (
        msgspec.structs.replace(
            _sum(entity, column, "112d", kind="plain"),
            name=f"{entity}_plain_{column}_lately",
            aggregate="decayed",
            half_life="14d",
            bound=1_000_000,
        )
        for column in ("units", "stocked_h")
    )
    rate = Ratio(
        name=f"{entity}_plain_rate_lately",
        meaning=f"units sold of the {entity} an hour with stock, days without a promotion, each half as much as one "
        "two weeks later",
        unit="units/h",
        owner=_OWNER,
        numerator=units.name,
        denominator=hours.name,
    )
    return units, hours, rate


def _over(name: str, numerator: str, denominator: str, *, meaning: str) -> Ratio:
    return Ratio(name=name, meaning=meaning, unit="1", owner=_OWNER, numerator=numerator, denominator=denominator)


def _asked(name: str, meaning: str, unit: str) -> Attribute:
    return Attribute(name=name, meaning=meaning, unit=unit, owner=_OWNER, attribute=name)


_RATES: tuple[Feature, ...] = (
    *_rate("series", "1d"),
    *_rate("series", "7d"),
    *_rate("series", "28d", kind="plain"),
    *_rate("series", "91d", kind="plain"),
    *_rate("series", "91d", kind="promoted"),
    *_lately("series"),
    *_lately("item"),
    *_lately("like"),
    *_rate("slot", "64d", kind="plain"),
    *_rate("item", "7d"),
    *_rate("item", "28d", kind="plain"),
    *_rate("item", "91d", kind="promoted"),
    *_rate("store", "1d"),
    *_rate("store", "28d", kind="plain"),
    *_rate("category", "1d"),
    *_rate("category", "7d"),
    *_rate("category", "28d", kind="plain"),
    *_rate("category", "28d", kind="promoted"),
)

_PACES = (
    _over("series_pace_1d", "series_rate_1d", "series_plain_rate_28d", meaning="today's rate against the month's"),
    _over("series_pace_7d", "series_rate_7d", "series_plain_rate_28d", meaning="the week's rate against the month's"),
    _over(
        "series_pace_28d",
        "series_plain_rate_28d",
        "series_plain_rate_91d",
        meaning="the month's rate against the quarter's",
    ),
    _over("slot_pace", "slot_plain_rate_64d", "series_plain_rate_91d", meaning="the weekday's rate against all days'"),
    _over(
        "series_lift",
        "series_promoted_rate_91d",
        "series_plain_rate_91d",
        meaning="the rate under promotions against all",
    ),
    _over(
        "item_pace_7d", "item_rate_7d", "item_plain_rate_28d", meaning="the item's week in all stores against its month"
    ),
    _over(
        "item_lift",
        "item_promoted_rate_91d",
        "item_plain_rate_28d",
        meaning="the item's rate under promotions against all",
    ),
    _over("store_pace_1d", "store_rate_1d", "store_plain_rate_28d", meaning="the store's day against its month"),
    _over(
        "category_pace_1d",
        "category_rate_1d",
        "category_plain_rate_28d",
        meaning="the category's day against its month",
    ),
    _over(
        "category_pace_7d",
        "category_rate_7d",
        "category_plain_rate_28d",
        meaning="the category's week against its month",
    ),
    _over(
        "category_lift",
        "category_promoted_rate_28d",
        "category_plain_rate_28d",
        meaning="the category's rate under promotions against all",
    ),
)

_SHELF = (
    Rate(
        name="series_sold_7d",
        meaning="units sold a day in 7d",
        unit="units/day",
        owner=_OWNER,
        of="series_units_7d",
        per="1d",
    ),
    Rate(
        name="slot_sold_64d",
        meaning="units sold on such a weekday without a promotion in 64d",
        unit="units/day",
        owner=_OWNER,
        of="slot_plain_units_64d",
        per="7d",
    ),
    _over(
        "series_over_item",
        "series_plain_rate_lately",
        "item_plain_rate_lately",
        meaning="the series' rate against the item's in all stores",
    ),
    _sum("series", "empty_h", "7d"),
    _sum("series", "empty_h", "28d"),
    Aggregate(
        name="series_days_91d",
        meaning="days that were told of the series in 91d",
        unit="days",
        owner=_OWNER,
        entity="series",
        aggregate="count",
        over=_OVER,
        window="91d",
    ),
    Aggregate(
        name="series_std_28d",
        meaning="standard deviation of the series' units a day in 28d",
        unit="units",
        owner=_OWNER,
        entity="series",
        aggregate="std",
        column="units",
        over=_OVER,
        window="28d",
        bound=1_000_000,
    ),
    Aggregate(
        name="series_discount_1d",
        meaning="deepest discount of the day that ends",
        unit="hundredths of a percent",
        owner=_OWNER,
        entity="series",
        aggregate="max",
        column="discount_bp",
        over=_OVER,
        window="1d",
        bound=10_000,
    ),
)

_AHEAD = (
    _asked("horizon_days", "days that the order has to last for, from tomorrow on", "days"),
    _asked("open_days", "of them, days on which the store is open", "days"),
    _asked("eve_days", "of them, days with a holiday in the next three", "days"),
    _asked("weekend_days", "of them, Fridays and Saturdays", "days"),
    _asked("weekday", "day of the week of the first of them, Monday is 0", "index"),
    _asked("promo_days", "of them, days on which the item is promoted", "days"),
    _asked("discount_bp", "deepest discount planned", "hundredths of a percent"),
    _asked("after_promo_days", "of them, days in the week after a promotion", "days"),
    _asked("lead_days", "days until the order comes", "days"),
)

FEATURES = FeatureSet(system="demand", features=(*_RATES, *_PACES, *_SHELF, *_AHEAD), lateness="1d")
"""All for the model; where there is none, the policy's fallback reads the series' rate too."""
