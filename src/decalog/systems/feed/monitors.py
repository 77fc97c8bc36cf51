"""What is watched on the feed, beside what every system is watched for."""

from __future__ import annotations

from msgspec.structs import replace

from decalog.monitoring import USUAL, Drift, Monitor

_OWNER = "feed"


def _late(name: str, source: str, runbook: str) -> Monitor:
    return Monitor(
        name=f"feed_{name}_late_share",
        meaning=f"slates whose {source.replace('_', '-')} candidates did not come in time",
        watches="late",
        of=(source,),
        window="15m",
        alert="above",
        level=0.05,
        owner=_OWNER,
        runbook=runbook,
    )


MONITORS = (
    # What readers are shown moves what they do: a better ranker alone moves clicks of an hour by a PSI of 0.1.
    replace(USUAL["inputs"], name="feed_inputs", level=0.2, owner=_OWNER),
    Monitor(
        name="feed_fallback_share",
        meaning="slates chosen without predictions",
        watches="fallback",
        window="1h",
        alert="above",
        level=0.01,
        owner=_OWNER,
        runbook="The slice names the reason: no_candidates → are posts arriving; retrieval_error → the server's log; "
        "no_model → promote one; model_error → roll back.",
    ),
    _late("towers", "two_tower", "Slates go on without that source. Look at the machine's load and the index's size."),
    _late("neighbours", "neighbours", "As for feed_towers_late_share."),
    Monitor(
        name="feed_click_probability",
        meaning="mean predicted click probability of the first post: what it falls with is a broken feature or a flood",
        watches="prediction",
        of=("p_click",),
        window="1h",
        alert="below",
        level=0.01,
        owner=_OWNER,
        runbook="Compare the features of a decision of now and one of when it was usual (`decalog replay feed ID`).",
    ),
    Monitor(
        name="feed_quarantine_share",
        meaning="events and outcomes that could not be admitted",
        watches="rejected",
        window="15m",
        alert="above",
        level=0.02,
        owner=_OWNER,
        runbook="The sender was told the reason of each row; a clock that runs ahead or a new field is usual.",
    ),
    Monitor(
        name="feed_expected_worth",
        meaning="what a slate is expected to be worth, minor units",
        watches="worth",
        alert="below",
        level=-10.0,
        owner=_OWNER,
        runbook="Worth falls with predictions and with candidates: look at feed_click_probability and at sources.",
    ),
    Monitor(
        name="feed_calibration",
        meaning="first posts are clicked twice or half as often as predicted; somewhat less is usual, since the best "
        "of hundreds of predictions is chosen",
        watches="calibration",
        alert="change",
        level=1.0,
        window="7d",
        owner=_OWNER,
        runbook="Train again; a feature that is computed otherwise than in training shows in feed_inputs.",
    ),
)
"""Levels are where a person is called; set your own after a week of traffic."""

DRIFTS = (Drift(switch="device_outage", alert="feed_inputs", within="2d"),)
