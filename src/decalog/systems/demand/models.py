"""Demand's models: three that planners use, honest about how far they miss, and trees that know of shelves and days.

All say a mean and quantiles in one form (`models.quantities`), so what differs is what they know. The first two take
sales for demand, as spreadsheets do; the third knows for how many hours there was stock; the last learns from what was
wanted behind empty shelves too (`recovered.py`).
"""

from __future__ import annotations

from functools import partial

from decalog.models import quantities
from decalog.models.base import ModelSpec
from decalog.models.quantities import QuantityParams
from decalog.systems.demand.schema import HEADS, LEVELS

_HEAD = "+".join(HEADS)
_LEVELS = ("series_plain_rate_lately", "series_rate_7d", "item_plain_rate_lately", "category_plain_rate_28d")

AVERAGE = QuantityParams(level=("series_sold_7d",), exposure="open_days", levels=LEVELS, is_as_told=True)
WEEKDAY = QuantityParams(level=("slot_sold_64d",), exposure="open_days", levels=LEVELS, is_as_told=True)
RATE = QuantityParams(level=_LEVELS, exposure="open_days", levels=LEVELS)
GROWN = QuantityParams(
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
