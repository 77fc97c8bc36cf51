"""The settings of demand's world, each with meaning, unit and range, and the drifts and attacks to switch on.

The figures are invented so that what planners fight with is there: weekly and yearly seasons, moving holidays,
promotions with a dip after them, popular items that sell out before the evening. They are estimates of no real shop.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from decalog.testing.settings import Settings, fixed, rate, share

OPENS, CLOSES = 8, 20
"""Opening hours, of the day in UTC."""
HOURS = CLOSES - OPENS


class WorldParams(Settings, frozen=True, kw_only=True):
    """All settings of demand's world; meaning, unit and range stand in each field's annotation."""

    world: ClassVar[str] = "demand"
    sizes: ClassVar[tuple[str, ...]] = ("items",)

    stores: Annotated[int, fixed("stores", least=1, most=1_000)] = 4
    items: Annotated[int, fixed("items that each store sells", least=12, most=20_000)] = 100
    categories: Annotated[int, fixed("categories of items, a third of them fresh", least=3, most=60)] = 6
    units_day: Annotated[float, rate("units that the median item sells on a mean day", 1_000)] = 9.0
    unequal: Annotated[float, rate("standard deviation of the log of what items sell", 2)] = 0.9
    unequal_stores: Annotated[float, rate("the same of stores", 1)] = 0.35
    weekly: Annotated[float, rate("size of the weekly season, in logs", 1)] = 0.25
    yearly: Annotated[float, rate("size of the yearly season of a category, in logs", 1)] = 0.2
    trend: Annotated[float, rate("standard deviation of what an item grows by in a year, in logs", 1)] = 0.15
    holiday: Annotated[float, rate("what the three days before a holiday add, in logs", 2)] = 0.4
    weather: Annotated[float, rate("standard deviation of a store's good and bad days, in logs", 1)] = 0.08
    weather_stays: Annotated[float, share("correlation of a store's day with the next")] = 0.6
    fashion: Annotated[float, rate("standard deviation of an item's ups and downs, in logs", 1)] = 0.15
    fashion_stays: Annotated[float, share("correlation of an item's day with the next")] = 0.95
    shape: Annotated[
        float, fixed("gamma shape of a day's demand around its mean, 1 / shape overdisperses", least=1, most=1_000)
    ] = 12.0
    promoted: Annotated[float, share("share of items that a week's leaflet promotes")] = 0.08
    lift: Annotated[float, rate("mean lift of a promotion at 25 % off, in logs", 3)] = 0.8
    pulled: Annotated[float, share("share of the lift that the week after gives back")] = 0.3
    taken: Annotated[float, rate("what a promotion takes from each other item of its category, in logs", 1)] = 0.06
    lent: Annotated[float, rate("what it adds to the item that goes with it, in logs", 1)] = 0.15
    substituted: Annotated[float, share("share of what is not there that is bought as another item")] = 0.3
    new_items: Annotated[float, share("share of items that come during the first 300 days")] = 0.1
    likes: Annotated[float, share("share of items for which planners name another as their like; none told at 0")] = 0.0
    margin: Annotated[float, rate("mean margin, share of the price", 0.9)] = 0.3
    holding_bp: Annotated[float, rate("cost of holding stock, hundredths of a percent of its cost a day", 100)] = 8.0
    late: Annotated[float, share("share of days of an item that are told a day late")] = 0.01
    twice: Annotated[float, share("share of them that are sent twice")] = 0.01
    corrected: Annotated[float, share("share of them that are corrected on the next day")] = 0.01


# What can be switched on, with its declared effect.
SWITCHES = {
    "boom": "demand for a third of the categories grows by 60 %",
    "slump": "demand for everything falls by 35 %",
    "early_shoppers": "people come three hours earlier: what sells out does so before more of the day",
    "late_lorries": "two in five deliveries come a day later than agreed",
    "lost_days": "a third of the days of items is never told",
    "wrong_unit": "one store in four reports cases in place of units",
    "untold_promotions": "promotions are on, and no request says so",
}
