from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.systems.feed.slates import case, post, random_posts

from decalog.candidates import Candidate
from decalog.decisions import Decision, Mode, Versions, decode_decision, draw
from decalog.events import encode
from decalog.policy import Case
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.trace import Why, explain, why

PLAIN = FeedWeights(rerank="none", explore_bp=0, author_decay_bp=10_000, topic_decay_bp=10_000, sensitive_from=2)
POLICY = FeedPolicy(PLAIN)


def logged(asked: Case, policy: FeedPolicy, *, mode: Mode = "live", fallback: str = "") -> Decision:
    """Returns the decision of a case as it is read back from the log."""
    verdict = policy.fall_back(asked, fallback) if fallback else policy.decide(asked)
    made = Decision(
        "d1",
        asked.request,
        0,
        asked.candidates,
        verdict.choice,
        Versions("m", "p", "f", 0),
        mode=mode,
        fallback=fallback,
        guardrails=verdict.guardrails,
    )
    return decode_decision(encode(made))


POSTS = (
    post("best", {"p_share": 0.5}, source="two_tower+following", following_rank=2),
    post("stranger", {"p_share": 0.4}, in_network=False),
    post("graphic", {"p_share": 0.9}, integrity="sensitive"),
    post("hidden", {"p_share": 0.8}, integrity="limited", in_network=False),
    post("last", {"p_share": 0.1, "p_hide": 0.001}),
    msgspec.structs.replace(post("seen"), predictions={}, dropped="seen"),
)
DECISION = logged(case(POSTS, size=3, is_adult=True), POLICY)


def stages(ref: str, decision: Decision = DECISION, policy: FeedPolicy = POLICY) -> dict[str, str]:
    return dict(why(decision, ref, policy=policy).stages)


def test_what_nothing_found_was_not_retrieved() -> None:
    assert why(DECISION, "unknown", policy=POLICY) == Why(
        "unknown", (("retrieval", "no source found it among 6 candidates"),)
    )


def test_what_a_filter_took_out_ends_there() -> None:
    found = why(DECISION, "seen", policy=POLICY)
    assert found.stages == (("retrieval", "found by following"), ("filter", "taken out: seen"))


def test_a_shown_post_has_every_stage_to_its_slot() -> None:
    assert why(DECISION, "best", policy=POLICY).text() == (
        "best\n"
        "  retrieval  found by two_tower and following, following_rank 2\n"
        "  score      p_click 0, p_dwell 0, p_like 0, p_reply 0, p_share 0.5, p_hide 0, p_report 0\n"
        "  value      1.5 minor units: 1.5\n"
        "  rank       3 of 5 by adjusted value\n"
        "  slot       0, the best; propensity 1.0"
    )


def test_a_post_of_too_little_value_says_what_beat_it_and_by_how_much() -> None:
    found = stages("last")
    assert found["value"] == "0.28 minor units: 0.28"
    assert found["slate"].startswith("slot 1: worth less, its score ")
    assert found["slate"].endswith(" short; stranger has it")
    assert found["slot"] == "none"


def test_a_multiplier_is_named_with_what_it_does() -> None:
    assert stages("stranger")["value"] == "1.2 minor units, out_of_network × 0.8: 0.96"


def test_what_a_rule_moved_down_or_took_out_says_which_rule() -> None:
    moved, out = stages("graphic"), stages("hidden")
    assert moved["guardrail"] == "sensitive_first_slots: slot 0: sensitive posts are shown from slot 2 on"
    assert moved["slot"] == "2, the best; propensity 1.0"
    assert out["slate"] == "slot 0: limited posts are shown to their authors' followers alone; best has it"
    assert out["guardrail"].startswith("limited_out_of_network: slot 0")
    assert out["slot"] == "none"


@pytest.mark.parametrize(
    ("changes", "attributes", "because"),
    [
        ({"author_cap": 1}, {"author": "one"}, "slot 1: the cap for its author was reached"),
        ({"topic_cap_bp": 1}, {"topic": "one"}, "slot 1: the cap for its topic was reached"),
        ({"out_most_bp": 4_000}, {"in_network": False}, "slot 1: the cap for posts out of network was reached"),
        ({"author_cap": 5}, {"author": "one"}, "slot 1: the slot above has its author"),
    ],
)
def test_a_cap_that_kept_a_post_out_is_named(changes: dict[str, int], attributes: dict[str, Any], because: str) -> None:
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, **{"out_least_bp": 0} | changes))
    posts = (
        post("first", {"p_share": 0.9}, **attributes),
        post("second", {"p_share": 0.8}, **attributes),
        *(post(f"other-{number}", {"p_share": 0.2 + number / 100}) for number in range(2)),
    )
    decision = logged(case(posts, size=3), policy)
    one = explain(decision, policy)[1]
    if one.slot is None:
        assert (one.because, one.beaten_by) == (because, "other-1")
    else:  # no two in a row is a wish: the post comes a slot later
        assert (because, one.slot) == ("slot 1: the slot above has its author", 2)


def test_slots_kept_for_posts_out_of_network_are_named() -> None:
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, out_least_bp=5_000))
    posts = (post("a", {"p_share": 0.9}), post("b", {"p_share": 0.8}), post("c", {"p_share": 0.1}, in_network=False))
    one = explain(logged(case(posts, size=2), policy), policy)[1]
    assert (one.because, one.beaten_by) == ("slot 1: the slots left were kept for posts out of network", "c")


def test_a_post_that_lost_to_diversity_says_so() -> None:
    policy = FeedPolicy(FeedWeights(theta_bp=1_000, explore_bp=0))
    twins = [post(f"twin-{number}", {"p_share": 0.50 - number / 100}, topic="t", sketch=77) for number in range(2)]
    others = [post(f"other-{number}", {"p_share": 0.3}, sketch=(1 << (7 * number)) * 999_999) for number in range(3)]
    decision = logged(case((*twins, *others), size=3), policy)
    one = explain(decision, policy)[1]
    assert one.rank == 2
    assert one.because.startswith("slot 1: worth more, but more like the posts above, its score ")
    assert one.beaten_by.startswith("other-")


def test_drawn_slots_come_out_as_they_were_logged() -> None:
    policy = FeedPolicy(FeedWeights(explore_bp=6_000, explore_slots=(1, 3), half_gain_age_s=0))
    told = set()
    for number in range(20):
        asked = case(random_posts(2, 50), size=9, draw=lambda name, n=number: draw(b"x", f"d{n}", name=name))  # type: ignore[misc]  # binds n
        decision = logged(asked, policy)
        made = policy.decide(asked).choice.slots[1].attributes
        assert [*made.items()] == [*decision.choice.slots[1].attributes.items()], (
            "a retry is answered by the log's order"
        )
        assert [one.ref for one in explain(decision, policy) if one.slot == 1] == [decision.choice.slots[1].ref]
        assert "note" not in stages(decision.choice.slots[1].ref, decision, policy)
        told.add(stages(decision.choice.slots[1].ref, decision, policy)["slot"].split(";")[0])
    assert told == {"1, the best of a pool of 20", "1, drawn from a pool of 20"}


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12))
def test_every_post_that_competed_is_either_shown_or_says_why_not(seed: int, count: int, size: int) -> None:
    policy = FeedPolicy(FeedWeights(author_cap=2))
    decision = logged(case(random_posts(seed, count), size=size, is_adult=True), policy)
    found = explain(decision, policy)
    slots = {slot.ref: slot.position for slot in decision.choice.slots}
    assert {one.ref: one.slot for one in found if one.slot is not None} == slots
    assert sorted(one.rank for one in found) == list(range(1, count + 1))
    for one in found:
        assert bool(one.because) is (one.slot is None)
        assert not one.beaten_by or one.beaten_by in slots


def test_without_predictions_the_order_of_the_fallback_is_told() -> None:
    decision = logged(case(POSTS, size=2), POLICY, mode="fallback", fallback="model_timeout")
    found = stages("best", decision)
    assert found["score"] == "nothing predicted: model_timeout"
    assert found["rank"] == "1 of 5 by the ranks of retrieval in turn"
    assert found["slot"] == "0, the best; propensity 1.0"
    assert stages("last", decision)["slate"] == "slot 1: worth less, its score 3 short; stranger has it"


def test_one_post_without_a_prediction_is_told_apart() -> None:
    posts = (post("fine"), msgspec.structs.replace(post("bare"), predictions={}))
    decision = logged(case(posts), POLICY)
    assert explain(decision, POLICY)[1].because == "slot 0: it has no usable prediction"


def test_where_everything_is_barred_nothing_beat_it() -> None:
    decision = logged(case((post("graphic", integrity="sensitive"),)), POLICY)
    (one,) = explain(decision, POLICY)
    assert (one.beaten_by, one.because) == ("", "sensitive posts are not shown to readers not known to be adults")


@pytest.mark.parametrize("posts", [(), POSTS[-1:]])
def test_without_competitors_there_is_nothing_to_explain(posts: tuple[Candidate, ...]) -> None:
    assert explain(logged(case(posts), POLICY), POLICY) == ()


def test_another_systems_slate_has_its_sources_and_slots_alone() -> None:
    decision = msgspec.structs.replace(DECISION, mode="imported")
    assert [stage for stage, _ in why(decision, "best", policy=POLICY).stages] == ["retrieval", "slot"]


def test_a_slate_that_comes_out_otherwise_says_that_the_record_is_not_enough() -> None:
    columns = {"shown_to_user_7d": np.array([9.0, 0.0, 0.0, 0.0, 0.0])}
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, repeat_post_bp=5_000))
    decision = logged(case(POSTS, size=3, is_adult=True, columns=columns), policy)
    assert stages("last", decision, policy)["note"].startswith("the slate comes out otherwise than logged")
    told = dict(why(decision, "best", policy=policy, columns=columns).stages)
    assert "note" not in told
    assert "shown_to_user_7d × 0.0019" in told["value"]
