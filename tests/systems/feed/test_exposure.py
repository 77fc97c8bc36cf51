from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.systems.feed.slates import case, post

from decalog.candidates import Candidate
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.slate_metrics import gini
from decalog.systems.feed.exposure import ESTABLISHED, NEW, SMALL, discount, exposure, group_of
from decalog.systems.feed.policy import FeedPolicy, FeedWeights

POLICY = FeedPolicy(FeedWeights())
YOUNG: dict[str, Any] = {"author_age_s": 60, "author_followers": 9_999}
KNOWN: dict[str, Any] = {"author_age_s": 10**8, "author_followers": 5_000}
LITTLE: dict[str, Any] = {"author_age_s": 10**8, "author_followers": 10}


def slate(posts: tuple[Candidate, ...], *refs: str) -> Decision:
    slots = tuple(Slot(ref, position) for position, ref in enumerate(refs))
    return Decision("d1", case(()).request, 0, posts, Choice(slots, (), "show"), Versions("m", "p", "f", 0))


def test_exposure_is_set_against_merit_by_hand() -> None:
    posts = (
        post("a", {"p_share": 0.2}, author="a", **KNOWN),
        post("b", {"p_share": 0.2}, author="b", **LITTLE),
        post("c", {"p_share": 0.4}, author="c", **YOUNG),
        post("d", {"p_share": 0.2}, author="a", **KNOWN),
    )
    found = exposure([slate(posts, "a", "b"), slate(posts, "d")], POLICY)
    total = 1 + 1 / math.log2(3) + 1
    shares = {share.group: share for share in found.groups}
    assert [shares[group].authors for group in (NEW, SMALL, ESTABLISHED)] == [1, 1, 1]
    assert [shares[group].merit for group in (NEW, SMALL, ESTABLISHED)] == pytest.approx([0.4, 0.2, 0.4])
    assert shares[NEW].exposure == 0.0
    assert shares[SMALL].exposure == pytest.approx(1 / math.log2(3) / total)
    assert shares[ESTABLISHED].exposure == pytest.approx(2 / total)
    assert shares[ESTABLISHED].ratio == pytest.approx(5 / total)
    assert found.gini == pytest.approx(gini(np.array([2.0, 1 / math.log2(3), 0.0])))


def test_a_post_that_harms_has_no_merit_and_an_author_without_a_name_no_group() -> None:
    posts = (
        post("bad", {"p_report": 0.5}, **KNOWN),
        post("x", author=""),
        Candidate("y", predictions={"p_click": 1.0}),
    )
    found = exposure([slate(posts, "bad", "x", "y")], POLICY)
    assert [(share.authors, share.exposure, share.merit, share.ratio) for share in found.groups] == [
        (0, 0.0, 0.0, 0.0),
        (0, 0.0, 0.0, 0.0),
        (1, 1.0, 0.0, 0.0),
    ]


def test_nothing_shown_is_spread_over_nobody() -> None:
    found = exposure([slate(())], POLICY)
    assert [share.exposure for share in found.groups] == [0.0, 0.0, 0.0]
    assert found.gini == 0.0
    assert exposure([], POLICY) == found


def test_boosting_new_authors_moves_their_share_of_exposure() -> None:
    known = tuple(post(f"k{n}", {"p_share": 0.10 + n / 1_000}, author=f"k{n}", **KNOWN) for n in range(10))
    young = tuple(post(f"n{n}", {"p_share": 0.09}, author=f"n{n}", author_posts=1, **YOUNG) for n in range(10))
    ratios = []
    for boost in (10_000, 20_000):
        policy = FeedPolicy(FeedWeights(new_author_bp=boost, rerank="none", explore_bp=0))
        verdict = policy.decide(case((*known, *young), size=10))
        decision = slate((*known, *young), *(slot.ref for slot in verdict.choice.slots))
        ratios.append(exposure([decision], policy).groups[0].ratio)
    assert ratios[0] < 1 < ratios[1]


def test_attention_falls_with_the_position_as_in_dcg() -> None:
    assert [discount(position) for position in (0, 2, 6)] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        (YOUNG, NEW),
        (KNOWN, ESTABLISHED),
        (LITTLE, SMALL),
        ({}, SMALL),
        ({"author_followers": 1_000}, ESTABLISHED),
        ({"author_age_s": 7 * 86_400, "author_followers": 999}, SMALL),
    ],
)
def test_authors_are_new_small_or_established(attributes: dict[str, int | float | str | bool], group: str) -> None:
    assert group_of(attributes) == group


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda amounts: sum(amounts) > 0))
def test_gini_is_half_the_mean_difference_over_the_mean(amounts: list[float]) -> None:
    values = np.array(amounts)
    plain = np.abs(np.subtract.outer(values, values)).mean() / 2 / values.mean()
    assert gini(values) == pytest.approx(plain, abs=1e-9)
