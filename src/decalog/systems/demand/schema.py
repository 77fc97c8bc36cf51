"""What a day of sales and a request for an order look like, and what is known of demand afterwards.

Sales are not demand: where the shelf was empty for a while, what was sold is a lower bound. So the outcome of an order
says whether it is one, and nobody ever reports demand itself.
"""

from __future__ import annotations

from decalog.schema import Charted, Entity, EventKind, Field, Label, OutcomeKind, Schema

ORDER = "order"
DAY_KIND, SALES, OVERRIDE = "day", "sales", "override"
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Of the quantiles of demand that are forecast."""
HEADS = ("demand_mean", *(f"demand_q{round(100 * level):02d}" for level in LEVELS))
"""What is forecast of the protection interval, units."""
PARTS = ("units_1", "units_2", "units_3", "units_4")
"""Units sold in each quarter of the opening hours: when it sold out says how much more was wanted."""
CENSORED = "censored"


def _public(name: str, meaning: str) -> Entity:
    return Entity(name=name, meaning=meaning, privacy="public")


_WHO = (
    _public("series", "What is forecast: an item in a store (`unique_id` in the field's frames)."),
    _public("item", "The item, in all stores."),
    _public("store", "The store, with all items."),
    _public("category", "The item's category."),
    _public("slot", "The series on one day of the week: `series/weekday`, Monday is 0."),
)

_LIKE = _public(
    "like",
    "A request's: the series of another item in the same store that a planner takes for its like, until it has a past "
    "of its own. A day's: its own series, by which others may ask for it.",
)

DAY = EventKind(
    name=DAY_KIND,
    meaning="What a series sold on one day, told when the store has closed.",
    subject=("series",),
    entities=(*_WHO, _LIKE),
    fields=(
        Field(
            name="units",
            kind="int",
            meaning="Units sold; negative where more came back.",
            required=True,
            least=-100_000,
            most=10_000_000,
        ),
        *(
            Field(
                name=name, kind="int", meaning=f"Of them in quarter {n} of the opening hours.", least=0, most=10_000_000
            )
            for n, name in enumerate(PARTS, 1)
        ),
        Field(
            name="empty_h",
            kind="int",
            meaning="Opening hours that ended with an empty shelf.",
            steered=True,
            least=0,
            most=24,
        ),
        Field(name="stocked_h", kind="int", meaning="Opening hours that ended with stock.", least=0, most=24),
        Field(
            name="left",
            kind="int",
            meaning="Units on the shelf in the evening.",
            steered=True,
            least=0,
            most=100_000_000,
        ),
        Field(
            name="wasted",
            kind="int",
            meaning="Units thrown away in the evening.",
            steered=True,
            least=0,
            most=10_000_000,
        ),
        Field(
            name="discount_bp",
            kind="int",
            meaning="Taken off the price, hundredths of a percent.",
            least=0,
            most=10_000,
        ),
        Field(name="is_closed", kind="flag", meaning="Whether the store was closed: no sale is no demand then."),
    ),
)

REPLENISHMENT = EventKind(
    name="replenishment",
    meaning="An item in a store that is due for an order.",
    subject=("series",),
    entities=(*_WHO, _LIKE),
    fields=(
        Field(
            name="on_hand",
            kind="int",
            meaning="Units on the shelf.",
            steered=True,
            required=True,
            least=0,
            most=100_000_000,
        ),
        Field(
            name="on_order",
            kind="int",
            meaning="Units ordered that have not come.",
            steered=True,
            least=0,
            most=100_000_000,
        ),
        Field(
            name="lead_days",
            kind="int",
            meaning="Days from this order to its delivery.",
            required=True,
            least=0,
            most=365,
        ),
        Field(
            name="horizon_days",
            kind="int",
            meaning="Days from tomorrow until the delivery of the next order: the protection interval.",
            required=True,
            least=1,
            most=365,
        ),
        Field(name="open_days", kind="int", meaning="Of them, days on which the store is open.", least=0, most=365),
        Field(
            name="eve_days", kind="int", meaning="Of them, days with a holiday in the next three.", least=0, most=365
        ),
        Field(name="weekend_days", kind="int", meaning="Of them, Fridays and Saturdays.", least=0, most=365),
        Field(
            name="weekday", kind="int", meaning="Day of the week of the first of them, Monday is 0.", least=0, most=6
        ),
        Field(name="day_of_year", kind="int", meaning="Day of the year of the first of them.", least=1, most=366),
        Field(name="promo_days", kind="int", meaning="Of them, days on which the item is promoted.", least=0, most=365),
        Field(
            name="discount_bp",
            kind="int",
            meaning="Deepest discount planned, hundredths of a percent.",
            least=0,
            most=10_000,
        ),
        Field(
            name="after_promo_days",
            kind="int",
            meaning="Of them, days in the week after a promotion.",
            least=0,
            most=365,
        ),
        Field(name="price_minor", kind="amount_minor", meaning="Price of a unit without a discount.", required=True),
        Field(name="unit_cost_minor", kind="amount_minor", meaning="What a unit costs to buy.", required=True),
        Field(name="currency", kind="currency", meaning="ISO 4217 code of price and cost.", required=True),
        Field(name="pack", kind="int", meaning="Units a case: orders are whole cases.", least=1, most=100_000),
        Field(
            name="least_cases",
            kind="int",
            meaning="Cases an order has at least, if there is one.",
            least=0,
            most=100_000,
        ),
        Field(
            name="shelf_days", kind="int", meaning="Days on which a delivered unit can be sold.", least=1, most=100_000
        ),
        Field(
            name="case_volume_ml",
            kind="int",
            meaning="Room that a case takes in the delivery and in the store, millilitres.",
            least=0,
            most=1_000_000_000,
        ),
        Field(name="case_weight_g", kind="int", meaning="What a case weighs, grams.", least=0, most=1_000_000_000),
        Field(name="planned", kind="int", meaning="Units that a planner would order.", least=0, most=100_000_000),
        Field(
            name="most_units",
            kind="int",
            meaning="Units that there is room for, or are left.",
            least=0,
            most=100_000_000,
        ),
    ),
)

SCHEMA = Schema(
    system="demand",
    noun="replenishment",
    request=REPLENISHMENT,
    events=(DAY,),
    outcomes=(
        OutcomeKind(
            name=SALES,
            meaning="Units sold over the protection interval; a lower bound of demand where `censored`.",
            sources=("till",),
            labels={},
            fields=(
                Field(name=CENSORED, kind="flag", meaning="Whether the shelf was empty for a while."),
                Field(name="empty_h", kind="int", meaning="Opening hours that ended with an empty shelf."),
                Field(name="wasted", kind="int", meaning="Units thrown away meanwhile."),
                Field(name="left", kind="int", meaning="Units left on the last evening."),
            ),
        ),
        OutcomeKind(
            name=OVERRIDE,
            meaning="Units that a planner ordered in place of what was decided.",
            sources=("planner",),
            labels={},
            fields=(
                Field(
                    name="why",
                    kind="text",
                    meaning="What the planner knew.",
                    choices=("event", "promotion", "supply", "quality", "range", "judgement"),
                ),
                Field(
                    name="planner",
                    kind="text",
                    meaning="Which planner: a pseudonym whose key the company keeps. Public for ever, so never a name.",
                    max_length=32,
                ),
            ),
        ),
    ),
    actions=(ORDER,),
    label=Label(
        name="demand",
        meaning="Units wanted over the protection interval; where the shelf was empty for a while at least those sold.",
        maturity="15d",
        observed_after=(ORDER,),
        of=SALES,
        bound=CENSORED,
        unit="units",
    ),
    charted=Charted(
        days="horizon_days",
        there=("on_hand", "on_order"),
        marks=("promo_days", "discount_bp"),
        unit_minor="price_base_minor",
    ),
)
