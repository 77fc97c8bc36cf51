"""What is watched on demand, beside what every system is watched for."""

from __future__ import annotations

from decalog.monitoring import Drift, Monitor

_OWNER = "demand"

MONITORS = (
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

DRIFTS = (Drift(switch="wrong_unit", alert="demand_inputs", within="3d"),)
"""A store that reports cases in place of units sells a sixth of what it did."""
