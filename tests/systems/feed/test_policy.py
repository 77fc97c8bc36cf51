from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.systems.feed.slates import case, post, random_posts

from decalog.candidates import Candidate
from decalog.decisions import Choice, Decision, Versions, decode_decision, draw
from decalog.errors import ConfigError
from decalog.events import encode
from decalog.policy import Case, Verdict
from decalog.systems.feed.policy import FeedPolicy, FeedWeights, checked
from decalog.systems.feed.slate.competitors import HEADS, Competitors
from decalog.systems.feed.slate.exploration import Randomised, pool, slot_propensities

WEIGHTS = FeedWeights()
PLAIN = FeedWeights(rerank="none", explore_bp=0, author_decay_bp=10_000, topic_decay_bp=10_000, authors_apart=False)


def refs(verdict: Verdict) -> list[str]:
    return [slot.ref for slot in verdict.choice.slots]


def decided(asked: Case, verdict: Verdict) -> Decision:
    """Returns the decision as it is read back from the log."""
    made = Decision("d1", asked.request, 0, asked.candidates, verdict.choice, Versions("m", "p", "f", 0))
    return decode_decision(encode(made))


@given(st.lists(st.integers(0, 10**9), min_size=7, max_size=7))
def test_a_posts_value_is_the_weighed_sum_of_its_probabilities_exactly(ppb: list[int]) -> None:
    heads = {head: one / 1e9 for head, one in zip(HEADS, ppb, strict=True)}
    verdict = FeedPolicy(PLAIN).decide(case((post("a", heads),)))
    gain = Fraction(sum(p * w for p, w in zip(ppb, PLAIN.by_head, strict=True) if w > 0), 1_000)
    harm = Fraction(sum(p * -w for p, w in zip(ppb, PLAIN.by_head, strict=True) if w < 0), 1_000)
    assert verdict.expected_minor == round(Fraction(math.floor(gain) - math.floor(harm), 10**9))
    assert refs(verdict) == ["a"]


def test_the_expected_value_is_that_of_the_whole_slate_rounded_once_half_to_even() -> None:
    posts = tuple(post(f"p{number}", {"p_dwell": 0.25}) for number in range(6))
    assert FeedPolicy(PLAIN).decide(case(posts, size=6)).expected_minor == 2  # 1.5 of a minor unit
    assert FeedPolicy(PLAIN).decide(case(posts, size=2)).expected_minor == 0  # half of one


def test_posts_come_in_the_order_of_their_value() -> None:
    posts = (post("b", {"p_like": 0.1}), post("c", {"p_report": 0.1}), post("a", {"p_share": 0.1}))
    verdict = FeedPolicy(PLAIN).decide(case(posts))
    assert refs(verdict) == ["a", "b", "c"]
    assert [slot.position for slot in verdict.choice.slots] == [0, 1, 2]
    assert (verdict.choice.verb, verdict.choice.action) == ("show", "show")
    assert verdict.choice.reasons == (
        "3 of 20 slots from 3 posts, by none",
        "a: following; worth 0.3 minor units: p_share 0.1, p_click 0",
        "b: following; worth 0.15 minor units: p_like 0.1, p_click 0",
        "c: following; worth -10 minor units: p_report 0.1, p_click 0",
    )


def test_clicks_alone_show_bait_and_the_default_does_not() -> None:
    """The trade-off: the slate of the greatest click rate is hidden far more often."""
    rng = np.random.default_rng(4)
    baits = [post(f"bait-{n}", {"p_click": 0.5, "p_hide": 0.05 * rng.random()}, topic=f"b{n}") for n in range(30)]
    kale = [post(f"kale-{n}", {"p_click": 0.1, "p_dwell": 0.2 * rng.random()}, topic=f"k{n}") for n in range(30)]
    asked = case((*baits, *kale), size=10)
    slates = {}
    for name, others in (("clicks", 0), ("all", None)):
        heads = [head.removeprefix("p_") for head in HEADS if head != "p_click"]
        nothing = {f"{head}_per_1000_minor": 0 for head in heads}
        params = WEIGHTS if others is None else msgspec.structs.replace(WEIGHTS, **nothing)
        chosen = set(refs(FeedPolicy(params).decide(asked)))
        slates[name] = [one.predictions for one in asked.candidates if one.ref in chosen]
    rates = {name: [sum(p[head] for p in slate) for head in ("p_click", "p_hide")] for name, slate in slates.items()}
    assert rates["clicks"][0] > 2 * rates["all"][0]
    assert rates["clicks"][1] > 5 * rates["all"][1]


@pytest.mark.parametrize(
    ("changes", "params", "columns", "factor"),
    [
        ({"in_network": False}, {"out_of_network_bp": 7_000}, {}, 0.7),
        ({"author_posts": 3, "author_age_s": 60}, {"new_author_bp": 15_000}, {}, 1.5),
        ({"author_posts": 3, "author_age_s": 10**7}, {"new_author_bp": 15_000}, {}, 1.0),
        ({"author_posts": 300, "author_age_s": 60}, {"new_author_bp": 15_000}, {}, 1.0),
        ({"age_s": 3_600}, {"half_gain_age_s": 3_600}, {}, 0.5),
        ({"age_s": 3_600}, {"half_gain_age_s": 0}, {}, 1.0),
        ({"readable": False}, {"foreign_bp": 3_000}, {}, 0.3),
        ({"readable": True}, {"foreign_bp": 3_000}, {}, 1.0),
        ({}, {"repeat_post_bp": 5_000}, {"shown_to_user_7d": 2.0}, 0.25),
        ({}, {"repeat_post_bp": 9_000}, {"shown_to_user_7d": 1e9}, 0.9**10),
        ({}, {}, {"shown_to_user_7d": math.nan}, 1.0),
        ({}, {}, {"shown_to_user_7d": -1.0}, 1.0),
        ({}, {"repeat_author_bp": 9_000}, {"author_shown_to_user_1d": 1.0}, 0.9),
        ({}, {"repeat_topic_bp": 9_000}, {"topic_shown_to_user_1d": 1.0}, 0.9),
        ({"in_network": False}, {"repeat_post_bp": 5_000}, {"shown_to_user_7d": 1.0}, 0.4),
    ],
)
def test_multipliers_move_what_a_post_earns_and_never_the_harm_it_does(
    changes: dict[str, Any], params: dict[str, int], columns: dict[str, float], factor: float
) -> None:
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, **params))
    posts = Competitors.of((post("a", {"p_share": 0.5, "p_hide": 0.01}, **changes),))
    weighed = policy.weighed(posts, {name: np.array([value]) for name, value in columns.items()})
    assert weighed.value.tolist() == [1_300_000_000]
    assert weighed.adjusted[0] == pytest.approx(1_500_000_000 * factor - 200_000_000, rel=2e-3)


def test_a_post_shown_before_makes_room_for_another() -> None:
    posts = (post("seen", {"p_like": 0.1}), post("new", {"p_like": 0.08}))
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, repeat_post_bp=5_000))
    assert refs(policy.decide(case(posts))) == ["seen", "new"]
    again = case(posts, columns={"shown_to_user_7d": np.array([1.0, 0.0])})
    assert refs(policy.decide(again)) == ["new", "seen"]


def test_columns_that_do_not_fit_the_posts_raise_and_are_not_guessed_at() -> None:
    wrong = case(random_posts(1, 5), columns={"shown_to_user_7d": np.zeros(3)})
    with pytest.raises(ValueError, match="could not be broadcast"):
        FeedPolicy(WEIGHTS).decide(wrong)


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 30), st.sampled_from(["dpp", "mmr", "none"]))
def test_slates_keep_their_caps_and_say_only_numbers(seed: int, count: int, size: int, rerank: str) -> None:
    params = msgspec.structs.replace(WEIGHTS, rerank=rerank, author_cap=2, out_most_bp=6_000)
    asked = case(random_posts(seed, count), size=size, is_adult=bool(seed % 2))
    for verdict in (FeedPolicy(params).decide(asked), FeedPolicy(params).fall_back(asked, "model_timeout")):
        shown = [next(one.attributes for one in asked.candidates if one.ref == ref) for ref in refs(verdict)]
        assert len(set(refs(verdict))) == len(shown) <= min(size, count)
        assert max(Counter(one["author"] for one in shown).values(), default=0) <= 2
        assert max(Counter(one["topic"] for one in shown).values(), default=0) <= math.ceil(size * 0.4)
        assert sum(not one["in_network"] for one in shown) <= math.floor(size * 0.6)
        assert not [one for one in shown if one["integrity"] == "limited" and not one["in_network"]]
        sensitive = [place for place, one in enumerate(shown) if one["integrity"] == "sensitive"]
        assert min(sensitive, default=99) >= (WEIGHTS.sensitive_from if seed % 2 else 99)
        assert len(verdict.choice.reasons) <= 20
        assert len(verdict.guardrails) <= 10
        assert all(0 < slot.propensity <= 1 for slot in verdict.choice.slots if slot.propensity is not None)
        assert b"NaN" not in msgspec.json.encode(verdict.choice)


def test_one_topic_that_is_asked_for_has_no_cap() -> None:
    posts = tuple(post(f"p{number}", topic="chess") for number in range(20))
    assert len(refs(FeedPolicy(WEIGHTS).decide(case(posts, size=10)))) == 4
    assert len(refs(FeedPolicy(WEIGHTS).decide(case(posts, size=10, only_topic="chess")))) == 10


@pytest.mark.parametrize(
    ("size", "shown"), [(None, 20), (1, 1), (30, 30), (0, 20), (-1, 20), (True, 20), ("9", 20), (900, 40)]
)
def test_as_many_are_shown_as_are_asked_for(size: int | str | None, shown: int) -> None:
    posts = tuple(post(f"p{number}") for number in range(40))
    asked = case(posts) if size is None else case(posts, size=size)
    assert len(refs(FeedPolicy(WEIGHTS).decide(asked))) == shown


def test_what_a_rule_takes_out_or_moves_down_is_recorded_with_the_rule() -> None:
    posts = (
        post("limited", {"p_share": 0.9}, in_network=False, integrity="limited"),
        post("graphic", {"p_share": 0.8}, integrity="sensitive"),
        post("spam", {"p_share": 0.7}, in_network=False, labels="paid spam"),
        *(post(f"plain-{number}", {"p_share": 0.1}) for number in range(4)),
    )
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, sensitive_from=2, unspread_labels=("spam",)))
    verdict = policy.decide(case(posts, is_adult=True))
    assert refs(verdict) == ["plain-0", "plain-1", "graphic", "plain-2", "plain-3"]
    told = [(one.name, one.before, one.after, one.why) for one in verdict.guardrails]
    limited = "limited posts are shown to their authors' followers alone"
    assert told == [
        ("limited_out_of_network", "limited", "plain-0", f"slot 0: {limited}"),
        ("sensitive_first_slots", "graphic", "plain-0", "slot 0: sensitive posts are shown from slot 2 on"),
        ("limited_out_of_network", "spam", "plain-0", f"slot 0: {limited}"),
    ]
    assert verdict.choice.reasons[-1] == f"limited_out_of_network: spam kept from slot 0: {limited}"
    minor = policy.decide(case(posts[1:2] + posts[3:], is_adult=False))
    assert refs(minor) == ["plain-0", "plain-1", "plain-2", "plain-3"]
    assert [(one.name, one.before, one.after) for one in minor.guardrails] == [
        ("sensitive_not_adult", "graphic", "plain-0")
    ]
    adult = policy.decide(case(posts[1:2] + posts[3:], is_adult=True))
    assert [(one.name, one.after, one.why) for one in adult.guardrails] == [
        ("sensitive_first_slots", "plain-0", "slot 0: sensitive posts are shown from slot 2 on")
    ]


def test_an_adult_by_the_profile_alone_is_one_for_the_rules_too() -> None:
    plain = tuple(post(f"plain-{number}", {"p_share": 0.1}) for number in range(4))
    graphic = post("graphic", {"p_share": 0.8}, integrity="sensitive", reader_is_adult=True)
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, sensitive_from=2))
    verdict = policy.decide(case((graphic, *plain)))
    assert refs(verdict) == ["plain-0", "plain-1", "graphic", "plain-2", "plain-3"]
    assert [one.name for one in verdict.guardrails] == ["sensitive_first_slots"]


def test_a_reader_of_unknown_age_counts_as_none_that_may_see_sensitive_posts() -> None:
    verdict = FeedPolicy(WEIGHTS).decide(case((post("graphic", integrity="sensitive"),)))
    assert refs(verdict) == []
    assert verdict.guardrails[0].after == ""


def test_dropped_posts_and_those_without_a_usable_prediction_do_not_compete() -> None:
    posts = (
        msgspec.structs.replace(post("gone", {"p_like": 0.9}), dropped="seen"),
        post("nan", {"p_like": math.nan}),
        post("odd", {"p_like": 1.5}),
        msgspec.structs.replace(post("bare"), predictions={}),
        post("fine", {"p_like": 0.1}),
    )
    verdict = FeedPolicy(WEIGHTS).decide(case(posts))
    assert refs(verdict) == ["fine"]


def test_heads_that_a_model_lacks_are_worth_nothing() -> None:
    posts = tuple(Candidate(f"p{number}", predictions={"p_click": number / 10}) for number in range(4))
    assert refs(FeedPolicy(PLAIN).decide(case(posts))) == ["p3", "p2", "p1", "p0"]


def test_without_any_prediction_the_fallback_takes_the_legs_in_turn() -> None:
    posts = (
        post("popular-1", {}, popular_rank=1),
        post("popular-2", {}, popular_rank=2),
        post("fresh-1", {}, fresh_rank=1),
        post("followed-1", {}, following_rank=1),
        post("followed-and-popular", {}, following_rank=2, popular_rank=3),
        post("unranked", {}),
        msgspec.structs.replace(post("gone", following_rank=1), dropped="blocked"),
    )
    bare = tuple(msgspec.structs.replace(one, predictions={}) for one in posts)
    verdict = FeedPolicy(WEIGHTS).decide(case(bare))
    order = ["followed-1", "popular-1", "fresh-1", "followed-and-popular", "popular-2", "unranked"]
    assert refs(verdict) == order
    assert verdict.choice.reasons == ("no_prediction: no prediction, so followed, popular and fresh posts in turn",)
    assert verdict.expected_minor == 0
    assert {slot.propensity for slot in verdict.choice.slots} == {1.0}


def test_the_fallback_obeys_visibility_and_caps() -> None:
    posts = tuple(post(f"p{number}", author="one", popular_rank=number + 1) for number in range(5))
    hidden = post("graphic", integrity="sensitive", following_rank=1)
    verdict = FeedPolicy(WEIGHTS).fall_back(case((hidden, *posts)), "features_late")
    assert refs(verdict) == ["p0", "p1", "p2", "p3"]
    assert verdict.guardrails[0].name == "sensitive_not_adult"
    assert verdict.choice.reasons[0].startswith("features_late: no prediction")


@pytest.mark.parametrize("posts", [(), (msgspec.structs.replace(post("gone"), dropped="seen"),)])
def test_without_posts_the_slate_is_empty_and_says_why(posts: tuple[Candidate, ...]) -> None:
    verdict = FeedPolicy(WEIGHTS).decide(case(posts))
    assert verdict.choice == Choice((), ("no_prediction: no post was found that may be shown",), "show")
    assert verdict.choice.propensity is None


def test_the_same_case_gives_the_same_slate() -> None:
    asked = case(random_posts(3, 200), size=40)
    policy = FeedPolicy(WEIGHTS)
    assert policy.decide(asked) == policy.decide(asked) == FeedPolicy(FeedWeights()).decide(asked)


# Exploration


EXPLORING = FeedWeights(explore_bp=4_000, explore_slots=(1, 3), pool_best=4, pool_fresh=3)


def drawing(number: int) -> Case:
    own = random_posts(8, 60)
    return case(own, size=8, draw=lambda name: draw(b"of this test", f"decision {number}", name=name))


def test_a_randomised_slot_logs_its_pool_and_the_propensity_of_what_it_shows() -> None:
    for number in range(50):
        asked = drawing(number)
        decision = decided(asked, FeedPolicy(EXPLORING).decide(asked))
        slots = {slot.position: slot for slot in decision.choice.slots}
        assert [slot.propensity for place, slot in slots.items() if place not in (1, 3)] == [1.0] * 6
        for one in slot_propensities(decision):
            slot = slots[one.position]
            share = dict(zip(one.refs, one.propensities, strict=True))
            assert slot.propensity == share[slot.ref]
            assert sum(one.propensities) == pytest.approx(1.0, abs=1e-12)
            assert one.propensities[0] == pytest.approx(0.6 + 0.4 / len(one.refs), abs=1e-15)
            assert one.propensities[1:] == pytest.approx([0.4 / len(one.refs)] * (len(one.refs) - 1), rel=1e-15)
            assert slot.attributes.get("explored", False) is (slot.ref != one.refs[0])
            assert len(pool(slot.attributes)) == len(one.refs) <= 7


def test_draws_come_as_often_as_their_propensities_say_given_the_slots_above() -> None:
    policy, times = FeedPolicy(EXPLORING), 4_000
    first, second = Counter[str](), dict[str, Counter[str]]()
    said: dict[tuple[str, ...], Randomised] = {}
    for number in range(times):
        asked = drawing(number)
        verdict = policy.decide(asked)
        above = refs(verdict)
        first[above[1]] += 1
        second.setdefault(above[1], Counter())[above[3]] += 1
        for one in slot_propensities(decided(asked, verdict)):
            key = tuple(above[: one.position])
            assert said.setdefault(key, one) == one
    chi = [_chi_square(first, next(one for one in said.values() if one.position == 1))]
    for drawn, counts in second.items():
        below = next(one for key, one in said.items() if one.position == 3 and key[1] == drawn)
        chi.append(_chi_square(counts, below))
    # 6 degrees of freedom at most: beyond 27.9 with probability 0.0001.
    assert max(chi) < 27.9
    assert len(chi) == 8


def _chi_square(counts: Counter[str], expected: Randomised) -> float:
    times = counts.total()
    shares = dict(zip(expected.refs, expected.propensities, strict=True))
    assert set(counts) <= set(shares)
    return sum((counts[ref] - times * p) ** 2 / (times * p) for ref, p in shares.items())


def test_the_slots_above_a_randomised_one_do_not_depend_on_its_draw() -> None:
    slates = [refs(FeedPolicy(EXPLORING).decide(drawing(number))) for number in range(30)]
    assert len({slate[0] for slate in slates}) == 1
    assert len({slate[1] for slate in slates}) > 1


def test_the_greedy_policy_draws_nothing_and_is_of_the_same_kind() -> None:
    class Own(FeedPolicy):
        pass

    def never(name: str) -> float:
        raise AssertionError(name)

    greedy = Own(EXPLORING).greedy
    assert type(greedy) is Own
    verdict = greedy.decide(case(random_posts(8, 60), size=8, draw=never))
    assert {slot.propensity for slot in verdict.choice.slots} == {1.0}
    assert not any(slot.attributes for slot in verdict.choice.slots)


def test_what_is_drawn_may_stand_where_it_is_drawn() -> None:
    drawn = [post(f"hidden-{n}", {"p_like": 0.2}, integrity="sensitive", source="explore") for n in range(5)]
    plain = [post(f"plain-{n}", {"p_like": 0.1}) for n in range(9)]
    policy = FeedPolicy(msgspec.structs.replace(EXPLORING, explore_bp=10_000, sensitive_from=3))
    for number in range(40):
        asked = case((*drawn, *plain), size=6, is_adult=True, draw=lambda name, n=number: (n + 0.5) / 40)  # type: ignore[misc]  # binds n
        assert not [ref for ref in refs(policy.decide(asked))[:3] if ref.startswith("hidden")]


def test_no_cost_is_claimed_for_a_slate_of_which_one_click_is_known() -> None:
    policy = FeedPolicy(WEIGHTS)
    assert [policy.cost_minor("show", label=label, amount_minor=0) for label in (0.0, 1.0)] == [0, 0]


def test_wrong_parameters_are_all_named() -> None:
    wrong = FeedWeights(
        out_of_network_bp=10_001,
        author_cap=0,
        like_sketch_bp=9_000,
        out_least_bp=500,
        out_most_bp=400,
        explore_slots=(3, 100),
    )
    with pytest.raises(ConfigError) as caught:
        FeedPolicy(wrong)
    assert str(caught.value) == (
        "feed policy: out_of_network_bp: Expected `int` <= 10000; author_cap: Expected `int` >= 1; "
        "explore_slots: Expected `int` <= 99 - at `$[1]`; "
        "like_sketch_bp + like_author_bp + like_topic_bp is 13000: Expected `int` < 10000; "
        "out_least_bp 500 is above out_most_bp 400. "
        "Expected worths in minor units for 1,000 actions, shares in hundredths of a percent (0 to 10000). "
        "See decalog.systems.feed.policy.FeedWeights for what each means."
    )
    assert checked(WEIGHTS) is WEIGHTS


def test_parameters_survive_their_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(EXPLORING), type=FeedWeights) == EXPLORING


@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from(["none", "mmr", "dpp"]))
def test_a_slot_takes_what_it_took_given_the_slots_above(seed: int, count: int, rerank: str) -> None:
    policy = FeedPolicy(msgspec.structs.replace(WEIGHTS, rerank=rerank, explore_bp=0))
    asked = case(random_posts(seed, count), size=8)
    slate = refs(policy.decide(asked))
    assert [policy.choice_in(asked, place, above=slate[:place]) for place in range(len(slate))] == slate


def test_a_slot_is_chosen_for_the_posts_that_stand_above_it_and_not_for_the_best() -> None:
    posts = tuple(post(name, {"p_dwell": p}, author=name[0]) for name, p in (("a1", 0.9), ("a2", 0.8), ("b1", 0.1)))
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, author_cap=1))
    assert policy.choice_in(case(posts), 1, above=["b1"]) == "a1"
    assert policy.choice_in(case(posts), 1, above=["a2"]) == "b1"  # its author has had one


def test_a_slot_below_posts_that_could_not_stand_there_has_no_choice() -> None:
    posts = tuple(post(name, {"p_dwell": 0.5}, author=name[0]) for name in ("a1", "a2", "b1"))
    policy = FeedPolicy(msgspec.structs.replace(PLAIN, author_cap=1))
    assert policy.choice_in(case(posts), 2, above=["a1", "a2"]) == ""
    assert policy.choice_in(case(posts), 1, above=["unknown"]) == ""
    assert policy.choice_in(case(posts), 9, above=["a1", "b1"]) == ""
    assert policy.choice_in(case((Candidate("a1"),)), 0, above=[]) == ""
