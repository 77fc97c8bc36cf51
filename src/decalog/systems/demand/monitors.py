"""What is watched on demand, beside what every system is watched for."""

from __future__ import annotations

from msgspec.structs import replace

from decalog.monitoring import USUAL, Drift, Monitor

_OWNER = "demand"

MONITORS = (
    replace(
        USUAL["inputs"],
        name="demand_inputs",
        meaning="features, or values of requests, are distributed otherwise than when the champion was judged",
        # Requests come in one batch a night, store by store: what is to show in each quarter needs four nights.
        window="4d",
        owner=_OWNER,
        runbook="Look at one store at a time: a till that reports cases for units, lost days, prices of another list. "
        "If all moved alike it is the season or the market: train again.",
    ),
    Monitor(
        name="demand_fallback_share",
        meaning="orders chosen without a forecast",
        watches="fallback",
        window="1d",
        alert="above",
        level=0.01,
        owner=_OWNER,
        runbook="The slice names the reason: no_model → promote one; no_price → which system sends requests without "
        "prices; model_error → roll back.",
    ),
    Monitor(
        name="demand_spread",
        meaning="items that sell a hundred a day and items that sell one are forecast almost alike",
        watches="spread",
        of=("demand_mean",),
        alert="below",
        level=0.1,
        # A night's orders come at once, and are what the day costs: a look soon after them.
        window="1h",
        owner=_OWNER,
        runbook="Replay an order: features that are all alike or empty mean days that no till told, others a model "
        "that learnt or loaded nothing: roll back.",
    ),
    Monitor(
        name="demand_unit_change",
        meaning="sales or stock of a store moved by its packs at once: cases are told for units, or units for cases",
        watches="found",
        of=("decalog.systems.demand.units:found",),
        alert="above",
        level=0.5,
        window="2d",
        owner=_OWNER,
        runbook="Ask whoever sends the store's days what changed. Have them sent again, with `corrects`: features and "
        "training then know the right ones. The loop trains no model meanwhile.",
    ),
    Monitor(
        name="demand_quarantine_share",
        meaning="days and outcomes that could not be admitted",
        watches="rejected",
        window="1d",
        alert="above",
        level=0.02,
        owner=_OWNER,
        runbook="The sender was told the reason of each row; a clock that runs ahead or a new field is usual.",
    ),
)
"""Levels are where a person is called; set your own after a week of traffic."""

DRIFTS = (
    # A third of the days of items is never told: rates of yesterday are missing.
    Drift(switch="lost_days", alert="demand_inputs", within="5d"),
    # One store in four reports cases in place of units.
    Drift(switch="wrong_unit", alert="demand_unit_change", within="4d"),
)
