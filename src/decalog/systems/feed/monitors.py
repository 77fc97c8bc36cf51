"""What is watched on the feed, beside what every system is watched for."""

from __future__ import annotations

from decalog.monitoring import Drift, Monitor

_OWNER = "feed"


MONITORS = (
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
    Monitor(
        name="feed_towers_late_share",
        meaning="slates whose nearest posts did not come in time",
        watches="late",
        of=("two_tower",),
        window="15m",
        alert="above",
        level=0.05,
        owner=_OWNER,
        runbook="Slates go on without that source. Look at the load of the machine and the size of the index.",
    ),
    Monitor(
        name="feed_neighbours_late_share",
        meaning="slates whose neighbours of recent posts did not come in time",
        watches="late",
        of=("neighbours",),
        window="15m",
        alert="above",
        level=0.05,
        owner=_OWNER,
        runbook="As for feed_towers_late_share.",
    ),
    Monitor(
        name="feed_click_probability",
        meaning="mean predicted click probability of the first post: what it falls with is a broken feature or a flood",
        watches="prediction",
        of=("p_click",),
        window="1h",
        alert="below",
        level=0.01,
        owner=_OWNER,
        runbook="Replay a decision of now and one of when it was usual (`decalog replay feed ID`); compare their "
        "features.",
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
