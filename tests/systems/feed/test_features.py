from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from decalog.candidates import Candidate, gathered
from decalog.clock import DAY, HOUR, MINUTE, SECOND
from decalog.features.definition import SHOWN
from decalog.features.facts import Change, Fact, Point, Value, laid_over
from decalog.features.online import OnlineState
from decalog.features.reference import evaluate
from decalog.systems.feed.features import FEATURES
from decalog.systems.feed.schema import SCHEMA

NOON = 20_000 * DAY + 12 * HOUR  # 20,000 days after 1 January 1970: Friday, 4 October 2024
READER, OTHER = 1, 2
ABOUT = {"post": 10, "author": 20, "topic": 30}


def row(kind: str, ago_us: int, user: int = READER, *, about: dict[str, int] = ABOUT, **attributes: Value) -> Fact:
    return Fact(-1, NOON - ago_us, kind, {"user": user, **about}, attributes)


def features_of(*rows: Fact, candidate: Candidate, **request: Value) -> dict[str, float]:
    """Features of a candidate of the reader's request at noon, by name, as the reference gives them."""
    changes, point = logged(rows, **request)
    values = evaluate(FEATURES, changes, point=laid_over(point, candidate))
    return dict(zip(FEATURES.names, values, strict=True))


def logged(rows: Sequence[Fact], **request: Value) -> tuple[list[Change], Point]:
    ordered = sorted(rows, key=lambda fact: fact.event_time)
    facts = [Fact(seq, one.event_time, one.kind, one.entities, one.attributes) for seq, one in enumerate(ordered)]
    changes = [Change(fact.root, fact.event_time, None, fact) for fact in facts]
    own = Fact(2**62, NOON, "feed_request", {"user": READER}, request)
    return changes, Point(len(facts), NOON, own=own)


POST = Candidate("post-10", entities=ABOUT)
HISTORY = (
    row("feed_request", 2 * DAY, about={}),
    row("decision.show", 2 * DAY, about={}),
    row(SHOWN, 2 * DAY),
    row("outcome.click", 2 * DAY - MINUTE, value=1),
    row("outcome.dwell", 2 * DAY - MINUTE, value=42),
    row("outcome.like", 2 * DAY - MINUTE, value=1),
    row(SHOWN, 5 * HOUR, explored=True),
    row("decision.show", 5 * HOUR, about={}),
    row(SHOWN, 30 * MINUTE, OTHER),
    row("outcome.click", 29 * MINUTE, OTHER, value=1),
    row("outcome.dwell", 29 * MINUTE, OTHER, value=9.5),
    row("outcome.hide", 28 * MINUTE, OTHER, value=1),
    row("click", 5 * MINUTE, OTHER, value=1.0),
    row("like", 4 * MINUTE, OTHER, value=0.0),
    row(SHOWN, 20 * DAY, about={"post": 11, "author": 20, "topic": 31}),
    row("outcome.click", 20 * DAY, about={"post": 11, "author": 20, "topic": 31}, value=1),
    row(SHOWN, 3 * HOUR, about={"post": 12, "author": 21, "topic": 30}),
)


def test_names_stand_in_the_schema() -> None:
    FEATURES.check(SCHEMA)


def test_a_reader_is_known_by_what_they_did() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert (values["user_requests_1h"], values["user_requests_7d"]) == (1, 2)  # the request at hand is one
    assert (values["user_shown_7d"], values["user_clicks_7d"], values["user_clicks_30d"]) == (3, 1, 2)
    assert (values["user_likes_30d"], values["user_hides_30d"], values["user_reads_7d"]) == (1, 0, 1)
    assert values["user_clicks_of_shown_7d"] == 1 / 3
    assert values["user_since_clicks_s"] == (2 * DAY - MINUTE) / SECOND


def test_a_post_is_known_by_how_it_fares_with_everyone() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert [values[f"post_shown_{window}"] for window in ("1h", "1d", "7d")] == [1, 2, 3]
    assert [values[f"post_clicks_{window}"] for window in ("10m", "1h", "1d", "7d")] == [1, 2, 2, 3]
    assert (values["post_clicks_of_shown_1h"], values["post_clicks_of_shown_7d"]) == (2, 1)
    assert values["post_clicks_pace"] == 1
    assert values["post_reads_of_clicks_7d"] == 1 / 3  # 9.5 s is not read


def test_what_was_taken_back_does_not_count() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert (values["post_likes_1d"], values["post_likes_7d"], values["post_hides_7d"]) == (0, 1, 1)
    assert (values["post_replies_7d"], values["post_shares_7d"], values["post_reports_7d"]) == (0, 0, 0)


def test_an_author_and_a_topic_are_known_by_all_their_posts() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert (values["author_shown_7d"], values["author_clicks_7d"], values["author_readers_7d"]) == (3, 3, 2)
    assert (values["author_shown_1d"], values["author_clicks_1d"], values["author_clicks_of_shown_1d"]) == (2, 2, 1)
    assert (values["author_shown_30d"], values["author_likes_30d"], values["author_hides_30d"]) == (4, 1, 1)
    assert (values["author_likes_of_shown_30d"], values["author_hides_of_shown_30d"]) == (1 / 4, 1 / 4)
    assert values["author_likes_of_clicks_30d"] == 1 / 4
    assert (values["topic_clicks_1h"], values["topic_clicks_1d"], values["topic_clicks_pace"]) == (2, 2, 1)


def test_a_reader_and_what_they_meet_have_a_history_of_their_own() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert (values["user_author_shown_7d"], values["user_author_clicks_7d"], values["user_author_clicks_30d"]) == (
        2,
        1,
        2,
    )
    assert (values["user_topic_shown_7d"], values["user_topic_clicks_30d"], values["user_topic_likes_30d"]) == (3, 1, 1)
    assert values["user_author_hides_30d"] == 0  # another reader's
    assert values["user_author_since_clicks_s"] == (2 * DAY - MINUTE) / SECOND
    assert (values["shown_to_user_7d"], values["user_post_since_shown_s"]) == (2, 5 * HOUR / SECOND)


def test_the_policy_sees_what_it_has_shown_already() -> None:
    values = features_of(*HISTORY, candidate=POST)
    assert (values["author_shown_to_user_1d"], values["topic_shown_to_user_1d"]) == (1, 2)
    assert (values["user_slates_1d"], values["user_explored_1d"]) == (1, 1)


def test_an_unknown_post_has_no_history() -> None:
    values = features_of(*HISTORY, candidate=Candidate("new", entities={"post": 99, "author": 98, "topic": 97}))
    assert values["post_shown_7d"] == values["author_shown_7d"] == values["shown_to_user_7d"] == 0
    assert values["post_clicks_of_shown_7d"] == values["user_author_since_clicks_s"] == -1
    assert values["user_clicks_30d"] == 2


def test_a_post_that_is_shown_all_the_time_is_judged_by_its_last_hours() -> None:
    often = [row(SHOWN, DAY + place * SECOND, OTHER) for place in range(FEATURES.retain)]
    values = features_of(*often, *HISTORY, candidate=POST)
    assert (values["post_shown_1h"], values["post_clicks_of_shown_1h"]) == (1, 2)
    assert (values["post_shown_7d"], values["post_clicks_of_shown_7d"]) == (-2, -1)


def test_what_retrieval_found_is_a_feature() -> None:
    facts: dict[str, Value] = {
        "two_tower": 0.25,
        "popular_rank": 3,
        "in_network": True,
        "age_s": 60,
        "integrity": "limited",
    }
    candidate = Candidate("post-10", entities=ABOUT, attributes={**facts, "post_language": "de", "author_posts": 4})
    values = features_of(candidate=candidate, language="de", surface="explore", device="tv")
    assert (values["two_tower"], values["similar"], values["neighbours"]) == (0.25, -2, -1)
    assert (values["popular_rank"], values["fresh_rank"], values["in_network"], values["age_s"]) == (3, -1, 1, 60)
    assert (values["author_posts"], values["author_followers"], values["integrity"]) == (4, -1, 1)
    assert (values["surface"], values["device"], values["hour_utc"], values["weekday_utc"]) == (1, 3, 12, 4)


@pytest.mark.parametrize(("language", "same"), [("de", 1), ("fr", 0)])
def test_languages_of_reader_and_post_are_told_apart(language: str, same: float) -> None:
    candidate = Candidate("post-10", attributes={"post_language": "de"})
    assert features_of(candidate=candidate, language=language)["same_language"] == same


def test_all_candidates_at_once_have_the_bits_of_the_reference() -> None:
    changes, point = logged(HISTORY, language="de", surface="home", device="phone")
    found = [
        POST,
        Candidate(
            "post-12", entities={"post": 12, "author": 21, "topic": 30}, attributes={"two_tower": 0.5, "age_s": 9}
        ),
        Candidate("post-11", entities={"post": 11, "author": 20}, attributes={"integrity": "", "neighbours": 2}),
        Candidate("gone"),
    ]
    state = OnlineState(FEATURES)
    state.apply_many(changes)
    wanted = [evaluate(FEATURES, changes, point=laid_over(point, candidate)) for candidate in found]
    assert state.vectors(point, gathered(found)).tobytes() == np.array(wanted, np.float64).tobytes()


@pytest.mark.parametrize("use", ["model", "policy"])
def test_every_feature_says_what_it_is(use: str) -> None:
    chosen = [feature for feature in FEATURES.features if feature.use == use]
    assert chosen
    assert all(feature.meaning and feature.unit and feature.owner for feature in chosen)
