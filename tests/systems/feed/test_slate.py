from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.systems.feed.slates import LIKES, Arrays, arrays

from decalog.systems.feed.slate import kernel
from decalog.systems.feed.slate.kernel import Filled, filled

Matrix = npt.NDArray[np.float64]


def likeness(facts: npt.NDArray[np.int64]) -> Matrix:
    """S as the module's docstring defines it, from the bits of the sketches."""
    bits = facts[kernel.SKETCH].astype("<i8").view(np.uint8).reshape(facts.shape[1], 8)
    signs = np.unpackbits(bits, axis=1).astype(np.float64) * 2 - 1
    signs[facts[kernel.SKETCHED] == 0] = 0
    sketch = signs @ signs.T / 64
    np.fill_diagonal(sketch, 1.0)
    author, topic = (np.equal.outer(row, row) for row in (facts[kernel.AUTHOR], facts[kernel.TOPIC]))
    return np.asarray(LIKES[0] * sketch + LIKES[1] * author + LIKES[2] * topic + LIKES[3] * np.eye(len(sketch)))


def relevance(worth: Matrix) -> Matrix:
    return np.asarray(worth[kernel.GAIN] - worth[kernel.HARM])


def fill(made: Arrays, draws: dict[int, float] | None = None) -> Filled:
    facts, worth, knobs = made
    return filled(facts, worth, knobs=knobs, draws=draws or {}, tells=True)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.7, 0.95]))
def test_dpp_is_the_greedy_search_for_the_greatest_determinant(seed: int, theta: float) -> None:
    made = arrays(seed, 12, slots=8, rerank=kernel.DPP, theta=theta)
    quality = np.exp(theta * relevance(made[1]) / (2 * (1 - theta)))
    ensemble = quality[:, None] * likeness(made[0]) * quality[None, :]
    greedy: list[int] = []
    for _ in range(8):
        rest = [post for post in range(12) if post not in greedy]
        determinants = [np.linalg.slogdet(ensemble[np.ix_([*greedy, post], [*greedy, post])])[1] for post in rest]
        best = max(determinants)
        close = [post for post, one in zip(rest, determinants, strict=True) if one > best - 1e-9]
        greedy.append(next(post for post in fill(made).picks[len(greedy) : len(greedy) + 1]))
        assert greedy[-1] in close


def test_what_dpp_adds_up_is_the_log_of_the_determinant() -> None:
    made = arrays(3, 30, slots=20, rerank=kernel.DPP, theta=0.0)
    found = fill(made)
    gains = [found.told[kernel.SCORE, slot, pick] for slot, pick in enumerate(found.picks)]
    chosen = likeness(made[0])[np.ix_(found.picks, found.picks)]
    assert sum(gains) == pytest.approx(np.linalg.slogdet(chosen)[1], abs=1e-9)


def test_greedy_dpp_is_near_the_best_of_all_sets() -> None:
    made = arrays(5, 10, slots=4, rerank=kernel.DPP, theta=0.5)
    ensemble = likeness(made[0]) * np.exp(np.add.outer(relevance(made[1]), relevance(made[1])) / 2)
    logs = [np.linalg.slogdet(ensemble[np.ix_(some, some)])[1] for some in itertools.combinations(range(10), 4)]
    picks = fill(made).picks
    ours = np.linalg.slogdet(ensemble[np.ix_(picks, picks)])[1]
    assert np.median(logs) < ours <= max(logs) + 1e-9
    assert ours > max(logs) - 1.0


@given(st.integers(0, 10**6))
def test_mmr_takes_what_is_worth_most_beside_its_greatest_likeness(seed: int) -> None:
    made = arrays(seed, 15, slots=10, rerank=kernel.MMR, theta=0.4)
    like, value = likeness(made[0]), relevance(made[1])
    picks = fill(made).picks
    for slot, pick in enumerate(picks):
        nearest = like[:, picks[:slot]].max(axis=1) if slot else np.zeros(15)
        scores = np.where(np.isin(np.arange(15), picks[:slot]), -np.inf, 0.4 * value - 0.6 * np.maximum(nearest, 0))
        assert scores[pick] == pytest.approx(scores.max(), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_likeness_is_positive_semi_definite(seed: int, posts: int) -> None:
    facts, _, _ = arrays(seed, posts, slots=1)
    facts[kernel.SKETCH, : posts // 2] = facts[kernel.SKETCH, 0]
    assert np.linalg.eigvalsh(likeness(facts)).min() >= LIKES[3] - 1e-9


def test_without_reranking_the_best_come_first_and_the_first_of_equals() -> None:
    facts, worth, knobs = arrays(1, 6, slots=6)
    worth[:] = 0.0
    worth[kernel.GAIN, 4] = 2.0
    worth[kernel.HARM, 2] = 1.0
    assert fill((facts, worth, knobs)).picks == [4, 0, 1, 3, 5, 2]


def test_relevance_alone_is_the_end_of_the_scale() -> None:
    plain, weighed = arrays(9, 40, slots=20), arrays(9, 40, slots=20, rerank=kernel.DPP, theta=1.0)
    assert fill(plain).picks == fill(weighed).picks


def test_more_diversity_makes_a_slate_less_alike_and_worth_less() -> None:
    alike, worth = [], []
    for theta in (1.0, 0.3, 0.1):
        made = arrays(11, 200, slots=15, rerank=kernel.DPP, theta=theta)
        made[0][kernel.AUTHOR : kernel.TOPIC + 1] %= 5
        picks = fill(made).picks
        alike.append(likeness(made[0])[np.ix_(picks, picks)].sum())
        worth.append(relevance(made[1])[picks].sum())
    assert alike[0] > alike[1] > alike[2]
    assert worth[0] > worth[1] > worth[2]


def test_a_further_post_of_an_author_earns_less_down_to_the_floor_and_harms_as_much() -> None:
    facts, worth, knobs = arrays(1, 5, slots=5)
    facts[kernel.AUTHOR], facts[kernel.TOPIC] = 0, np.arange(5)
    worth[kernel.GAIN], worth[kernel.HARM] = 1.0, 0.2
    knobs[[kernel.AUTHOR_DECAY, kernel.AUTHOR_FLOOR]] = 0.5, 0.1
    found = fill((facts, worth, knobs))
    scores = [found.told[kernel.SCORE, slot, pick] for slot, pick in enumerate(found.picks)]
    assert scores == pytest.approx([0.1 + 0.9 * 0.5**above - 0.2 for above in range(5)])


class Asked(NamedTuple):
    seed: int
    posts: int
    slots: int
    rerank: int
    caps: tuple[int, int, int, int]
    draw: float
    first: int


CAPS = st.builds(
    Asked,
    seed=st.integers(0, 10**6),
    posts=st.integers(1, 60),
    slots=st.integers(1, 30),
    rerank=st.sampled_from([kernel.NONE, kernel.MMR, kernel.DPP]),
    caps=st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(0, 10), st.integers(0, 30)),
    draw=st.floats(0, 0.999),
    first=st.sampled_from([2, kernel.NEVER]),
)


def capped(asked: Asked) -> tuple[Arrays, Filled]:
    facts, _, knobs = made = arrays(asked.seed, asked.posts, slots=asked.slots, rerank=asked.rerank)
    knobs[[kernel.AUTHOR_CAP, kernel.TOPIC_CAP, kernel.OUT_LEAST, kernel.OUT_MOST]] = asked.caps
    knobs[[kernel.AUTHOR_DECAY, kernel.AUTHOR_FLOOR, kernel.APART, kernel.EXPLORE]] = 0.6, 0.3, 1.0, 0.5
    facts[kernel.FIRST, ::5] = asked.first
    return made, fill(made, {slot: asked.draw for slot in (1, 4) if slot < asked.slots})


@given(CAPS)
def test_caps_hold_whatever_is_asked(asked: Asked) -> None:
    (facts, _, knobs), found = capped(asked)
    picks = found.picks
    assert len(set(picks)) == len(picks) <= knobs[kernel.SLOTS]
    for row, cap in ((kernel.AUTHOR, kernel.AUTHOR_CAP), (kernel.TOPIC, kernel.TOPIC_CAP)):
        assert max(np.bincount(facts[row, picks]), default=0) <= knobs[cap]
    assert facts[kernel.OUTSIDE, picks].sum() <= knobs[kernel.OUT_MOST]
    assert all(facts[kernel.FIRST, pick] <= slot for slot, pick in enumerate(picks))
    assert np.isfinite(found.told).all()


@given(CAPS)
def test_bounds_of_scores_lead_to_the_slate_that_all_scores_lead_to(asked: Asked) -> None:
    (facts, worth, knobs), found = capped(asked)  # with every score worked out, as they are told
    lazily = filled(facts, worth, knobs=knobs, draws={slot: asked.draw for slot in (1, 4) if slot < asked.slots})
    assert (lazily.picks, lazily.pools) == (found.picks, found.pools)
    for slot, pick in enumerate(found.picks):
        scores, barriers = found.told[:, slot]
        rivals = np.flatnonzero(barriers == barriers[pick])
        assert slot in found.pools or pick == rivals[scores[rivals].argmax()]


@given(CAPS)
def test_a_slate_ends_early_only_where_no_post_may_follow(asked: Asked) -> None:
    (_, _, knobs), found = capped(asked)
    if len(found.picks) < knobs[kernel.SLOTS]:
        assert (found.told[kernel.BARRIER, len(found.picks)] >= kernel.TOO_EARLY).all()


@given(CAPS)
def test_authors_stand_apart_while_there_are_others(asked: Asked) -> None:
    (facts, _, _), found = capped(asked)
    for slot, (above, pick) in enumerate(itertools.pairwise(found.picks), 1):
        if facts[kernel.AUTHOR, above] == facts[kernel.AUTHOR, pick]:
            assert not (found.told[kernel.BARRIER, slot] == kernel.FREE).any()


def test_the_share_out_of_network_is_made_up_at_the_end() -> None:
    facts, worth, knobs = arrays(1, 20, slots=10)
    facts[kernel.OUTSIDE] = np.arange(20) >= 10
    worth[kernel.GAIN] = np.arange(20, 0, -1)
    knobs[kernel.OUT_LEAST] = 3
    assert fill((facts, worth, knobs)).picks == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12]


def test_a_post_that_may_not_stand_yet_takes_the_first_slot_that_it_may() -> None:
    facts, worth, knobs = arrays(1, 5, slots=5)
    worth[kernel.GAIN], worth[kernel.HARM] = (5.0, 4.0, 3.0, 2.0, 1.0), 0.0
    facts[kernel.FIRST] = (2, 0, 0, kernel.NEVER, 0)
    found = fill((facts, worth, knobs))
    assert found.picks == [1, 2, 0, 4]
    assert found.barred() == {0: 0, 3: 3}


def test_a_pool_is_the_best_and_then_the_best_fresh_ones_and_none_that_harms() -> None:
    facts, worth, knobs = arrays(1, 8, slots=2)
    worth[kernel.GAIN], worth[kernel.HARM] = (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0), 0.0
    worth[kernel.HARM, 2] = 6.5
    facts[kernel.FRESH] = (1, 0, 0, 0, 0, 1, 0, 1)
    knobs[kernel.EXPLORE] = 0.5
    assert fill((facts, worth, knobs), {0: 0.99}).pools == {0: [0, 1, 3, 5, 7]}
    drawn = [fill((facts, worth, knobs), {0: draw}).picks[0] for draw in (0.0, 0.0999, 0.1, 0.25, 0.499, 0.5, 0.99)]
    assert drawn == [0, 0, 1, 3, 7, 0, 0]


def test_slots_below_a_drawn_one_go_by_what_is_above_them() -> None:
    made = arrays(21, 40, slots=8, rerank=kernel.DPP)
    made[2][kernel.EXPLORE] = 1.0
    found = fill(made, {1: 0.95})
    drawn = found.picks[1]
    assert drawn == found.pools[1][-1]
    forced = arrays(21, 40, slots=8, rerank=kernel.DPP)
    forced[1][kernel.GAIN, drawn] += 100.0  # so that it comes first
    first = fill(forced)
    assert first.picks[0] == drawn
    assert likeness(made[0])[drawn, found.picks[2:]].mean() < likeness(made[0])[drawn].mean()


SCRIPT = """
from tests.systems.feed.slates import arrays
from decalog.systems.feed.slate import kernel
for rerank in (kernel.NONE, kernel.MMR, kernel.DPP):
    facts, worth, knobs = arrays(7, 25, slots=12, rerank=rerank)
    knobs[[kernel.AUTHOR_CAP, kernel.APART, kernel.EXPLORE]] = 2, 1, 0.5
    found = kernel.filled(facts, worth, knobs=knobs, draws={3: 0.3}, tells=True)
    print(found.picks, found.pools, found.barred(), found.told.tobytes().hex())
"""


def test_compiled_and_not_the_loop_gives_the_same_bits() -> None:
    said = []
    for off in ("0", "1"):
        environment = os.environ | {"DECALOG_NO_NUMBA": off}
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        said.append(run.stdout)
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 3
