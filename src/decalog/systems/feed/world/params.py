"""The settings of the feed's world, each with meaning, unit and range, and the attacks and drifts to switch on.

The figures are invented so that what people click and what does them good differ as the field tells ("choc and kale":
Kleinberg, Mullainathan and Raghavan, 2022); they are not estimates of any real service.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from decalog.testing.settings import Settings, fixed, rate, share

HEADS = ("p_click", "p_dwell", "p_like", "p_reply", "p_share", "p_hide", "p_report")
FACTS = (
    *("one", "match", "quality", "clickbait", "followed", "trend", "age_days"),
    *("tired", "foreign", "seen", "blocked", "harmful", "unfit"),
)
"""What an action depends on: `match` of reader and post in [-1, 1], `tired` posts of its topic read lately."""

# Rows as HEADS, but dwell to share given a click; then what a click adds to satisfaction, linear. Columns as FACTS.
_WEIGHTS = (
    (-1.8, 2.4, 0.20, 1.00, 0.5, 1.0, -0.5, -0.12, -3.0, -2.0, -3.0, 0.0, -3.0),
    (0.50, 1.2, 1.10, -1.30, 0.1, 0.1, 0.0, -0.03, -0.5, -1.0, 0.0, -0.2, 0.0),
    (-2.0, 1.2, 1.00, -0.80, 0.4, 0.1, 0.0, -0.03, 0.0, -1.0, -2.0, -0.5, 0.0),
    (-3.6, 0.8, 0.70, -0.20, 0.4, 0.2, 0.0, -0.02, -1.0, -1.0, 0.0, 0.5, 0.0),
    (-3.8, 0.6, 0.90, -0.30, 0.1, 0.4, 0.0, 0.0, -1.0, -1.0, -2.0, 0.0, 0.0),
    (-6.2, -1.2, -0.30, 0.90, -1.0, 0.0, 0.0, 0.05, 1.0, 1.5, 2.5, 0.8, 1.0),
    (-8.4, -0.6, -0.20, 1.20, -0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 1.5, 3.0, 3.5),
    (0.10, 0.7, 0.60, -1.00, 0.1, 0.0, 0.0, -0.03, -0.3, -0.4, -0.5, -0.5, -0.5),
)


class WorldParams(Settings, frozen=True, kw_only=True):
    """All settings of the feed's world; meaning, unit and range stand in each field's annotation."""

    world: ClassVar[str] = "feed"
    sizes: ClassVar[tuple[str, ...]] = ("readers", "authors", "posts_day", "arrivals_day", "fakes")

    readers: Annotated[int, fixed("people who read, those included who join later", least=20, most=100_000)] = 600
    authors: Annotated[int, fixed("people who write, at the start", least=20, most=20_000)] = 150
    topics: Annotated[int, fixed("topics that posts are about", least=6, most=200)] = 24
    posts_day: Annotated[float, fixed("new posts on a mean day, at the start", least=20, most=100_000)] = 150.0
    slate: Annotated[int, fixed("posts asked for at once", least=1, most=100)] = 10
    visits: Annotated[float, rate("mean sessions of a reader on a day on which they come", 4)] = 2.5
    present: Annotated[float, fixed("log-odds that an indifferent reader comes on a day", least=-3, most=3)] = 0.5
    loyalty: Annotated[float, rate("what one unit of satisfaction adds to those log-odds", 6)] = 2.2
    memory: Annotated[float, share("share of satisfaction that each slate renews")] = 0.08
    sated: Annotated[float, fixed("good of a slate that satisfies by three quarters", least=0.1, most=20)] = 1.0
    bored: Annotated[float, share("satisfaction that a post looked at for nothing costs")] = 0.04
    scroll: Annotated[float, fixed("probability to look at the next position as well", least=0.1, most=0.999)] = 0.93
    more: Annotated[float, fixed("log-odds to ask for more at a slate's end, if indifferent", least=-4, most=4)] = 0.3
    dwell_s: Annotated[float, rate("median seconds, beyond ten, on a post worth staying on", 600)] = 40.0
    drift: Annotated[float, rate("standard deviation of a day's step of a reader's taste", 0.5)] = 0.015
    new_taste: Annotated[float, share("share of readers a day who take up another topic")] = 0.006
    trends: Annotated[float, share("share of topics a day that begin to surge")] = 0.03
    joining: Annotated[float, share("share of readers who join during the first 60 days")] = 0.15
    bait: Annotated[float, share("share of authors who live by clickbait")] = 0.3
    creators: Annotated[float, rate("share of authors who are creators: better, busier, gone if unseen", 0.9)] = 0.2
    arrivals_day: Annotated[float, fixed("new authors on a mean day", least=0.1, most=4)] = 0.9
    leaving: Annotated[float, rate("probability a day that an author who is seen as usual leaves", 0.1)] = 0.004
    mature: Annotated[float, share("share of posts for adults only")] = 0.04
    harmful: Annotated[float, share("share of posts that moderation takes down or limits, hours later")] = 0.03
    withdrawn: Annotated[float, share("share of posts that their author withdraws within a day")] = 0.02
    edited: Annotated[float, share("share of posts that are corrected within a day")] = 0.03
    elsewhere: Annotated[float, rate("posts that a reader opens elsewhere, on a mean day", 2)] = 0.05
    impression_minor: Annotated[float, rate("earned by a post looked at, minor units", 100)] = 0.2
    click_minor: Annotated[float, rate("earned by a post opened, minor units", 100)] = 0.6
    minute_minor: Annotated[float, rate("earned by a minute on posts, minor units", 100)] = 1.0
    hide_minor: Annotated[float, rate("cost of a post hidden, minor units", 1_000)] = 3.0
    report_minor: Annotated[float, rate("cost of a report: somebody reads it, minor units", 10_000)] = 30.0
    day_minor: Annotated[float, rate("worth of a day, by which satisfaction is priced, minor units", 1_000)] = 6.0
    horizon_days: Annotated[int, fixed("days over which satisfaction is priced", least=1, most=365)] = 30
    twice: Annotated[float, share("share of posts acted on whose outcomes are sent twice")] = 0.01
    late: Annotated[float, share("share of them whose outcomes come hours late")] = 0.01
    unknown: Annotated[float, share("share of them after which an outcome names a post that nobody knows")] = 0.003
    future: Annotated[float, share("share of them after which an outcome comes from two days ahead")] = 0.002
    fakes: Annotated[int, fixed("accounts that like together where that is switched on", least=3, most=10_000)] = 25
    weights: tuple[tuple[float, ...], ...] = _WEIGHTS


# What can be switched on, with its declared effect.
SWITCHES = {
    "clickbait_wave": "of new posts 60 % are made 1.5 more attractive than they are good",
    "coordinated_likes": "each day the fakes open and like the same five poor new posts within their first hour",
    "trend": "a topic surges with twice the strength of ordinary trends, and a quarter of new posts is about it",
    "interest_drift": "tastes move 4 times as far a day, and new topics are taken up 8 times as often",
    "creators_leave": "creators leave 15 times as often",
    "device_outage": "60 % of requests arrive without a device",
    "replayed_feedback": "a fifth of the outcomes on posts comes again a day later, under ids of its own",
}
