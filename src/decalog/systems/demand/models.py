"""Demand's models: three that planners use, honest about how far they miss, and trees that know of shelves and days.

All say a mean and quantiles in one form (`models.quantities`), so what differs is what they know. The first two take
sales for demand, as spreadsheets do; the third knows for how many hours there was stock; the last learns from what was
wanted behind empty shelves too (`recovered.py`).
"""

from __future__ import annotations

from functools import partial

from decalog.features.definition import Aggregate, Derived, Rate
from decalog.models import quantities
from decalog.models.base import ModelSpec
from decalog.models.quantities import Age, QuantityParams, Young
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.schema import HEADS, LEVELS

_HEAD = "+".join(HEADS)
_LEVELS = ("series_plain_rate_lately", "series_rate_7d", "item_plain_rate_lately", "category_plain_rate_28d")

AVERAGE = QuantityParams(level=("series_sold_7d",), exposure="open_days", levels=LEVELS, is_as_told=True)
WEEKDAY = QuantityParams(level=("slot_sold_64d",), exposure="open_days", levels=LEVELS, is_as_told=True)
RATE = QuantityParams(level=_LEVELS, exposure="open_days", levels=LEVELS)


def _past_of(*entities: str) -> dict[str, float]:
    """Returns the features that say something of an entity's past, each with its value where there is none."""
    found: dict[str, float] = {}
    for feature in FEATURES.features:
        is_own = isinstance(feature, Aggregate) and feature.entity in entities
        if is_own or (isinstance(feature, Derived) and found.keys() & set(feature.parts)):
            # Nothing sold in a week is a rate of nothing.
            found[feature.name] = 0.0 if isinstance(feature, Rate) else feature.missing_value
    return {name: value for name, value in found.items() if name in FEATURES.names_for("model")}


YOUNG = Young(
    like="like_plain_rate_lately",
    rate="series_plain_rate_lately",
    exposed="series_days_91d",
    weight=16.0,
    until=28.0,
    hidden=_past_of("series", "slot", "item"),
    ages=(
        Age(),
        Age(exposed=1.0, rate="series_rate_1d", known=("series_rate_1d",)),
        Age(exposed=7.0, rate="series_rate_7d", known=("series_rate_1d", "series_rate_7d")),
        Age(
            exposed=21.0,
            rate="series_plain_rate_28d",
            known=("series_rate_1d", "series_rate_7d", "series_plain_rate_28d", "series_pace_1d", "series_pace_7d"),
        ),
    ),
)
"""A new item: for four weeks its like counts as much as 16 days of its own. Chosen on seeds 1 to 4 of the world."""
GROWN = QuantityParams(
    young=YOUNG,
    level=_LEVELS,
    exposure="open_days",
    levels=LEVELS,
    trees=1_000,
    learning_rate=0.05,
    leaves=7,
    rows_a_leaf=150,
    l2=50.0,
    feature_share=0.2,
)
"""Small trees: what moves demand mostly adds up in logs. Chosen on seed 1 of the world."""

_spec = partial(ModelSpec, head=_HEAD, format=quantities.FORMAT)

MODELS = (
    _spec(
        name="average",
        meaning="what was sold in the last week, as it was: the first rule of every spreadsheet",
        fit=partial(quantities.fit, params=AVERAGE),
        baseline=True,
    ),
    _spec(
        name="weekday",
        meaning="what was sold on that weekday in nine weeks without promotions",
        fit=partial(quantities.fit, params=WEEKDAY),
        baseline=True,
    ),
    _spec(
        name="rate",
        meaning="units an hour with stock on days without promotions, lately: sold out is no demand",
        fit=partial(quantities.fit, params=RATE),
        baseline=True,
    ),
    _spec(
        name="grown",
        meaning="boosted trees over that rate, by weekday, promotion, holiday and season, from recovered demand",
        fit=partial(quantities.fit, params=GROWN),
    ),
)
"""Baselines first, the champion's kind last."""
