"""The loop that fills a slate: at each slot the best post that no cap rules out, given the slots above it.

The score of post i, with r its value in units of the spread of all values:

    none   r
    mmr    θ r − (1 − θ) · greatest S_ij to a post above (Carbonell and Goldstein, SIGIR 1998)
    dpp    θ r + (1 − θ) · log d²_i

d²_i is what the posts above leave of post i: det S(above + i) = det S(above) · d²_i. It is kept by one step of an
incremental Cholesky factor a slot (Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process",
NeurIPS 2018, algorithm 1), so 500 posts and 50 slots cost 500 · 50² / 2 multiplications. With the kernel
L = diag(q) S diag(q) and q = exp(θ r / (2 (1 − θ))) it is their greedy search for the likeliest slate.

    S_ij = sketch · (1 − 2 · hamming / 64) + author · [same author] + topic · [same topic] + own · [i = j]

with weights that add up to 1. Each term is a Gram matrix, so S is positive semi-definite; `own` keeps d² above 0 where
two posts are the same in all else. A post without a sketch is unlike every other in that term.

What a post would earn fades with each post above of its author, and of its topic: by floor + (1 − floor) · decayⁿ. What
harm it would do does not fade.

Compiled by numba where it is installed, as the feature kernel is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from decalog.compiling import compiled
from decalog.features.kernel import Float64s, Int64s

NEVER = 1_000
"""A first slot beyond every slate."""

# Rows of `facts`: numbers of author and topic from 0; 1 where out of the reader's network; the first slot that a post
# may have; the sketch, and 1 where there is one; 1 where the pool of an explored slot takes it as fresh; 1 where it
# cannot be chosen at all.
AUTHOR, TOPIC, OUTSIDE, FIRST, SKETCH, SKETCHED, FRESH, VOID, FACTS = 0, 1, 2, 3, 4, 5, 6, 7, 8
# Rows of `worth`: what a post would earn, and the harm it would do, both ≥ 0 and in units of the spread.
GAIN, HARM = 0, 1
# Places of `knobs`. Caps are counts; OUT_LEAST is a wish, OUT_MOST holds.
RERANK, THETA, LIKE_SKETCH, LIKE_AUTHOR, LIKE_TOPIC, LIKE_OWN = 0, 1, 2, 3, 4, 5
AUTHOR_DECAY, AUTHOR_FLOOR, TOPIC_DECAY, TOPIC_FLOOR = 6, 7, 8, 9
AUTHOR_CAP, TOPIC_CAP, OUT_LEAST, OUT_MOST, APART = 10, 11, 12, 13, 14
EXPLORE, POOL_BEST, POOL_FRESH, SLOTS, KNOBS = 15, 16, 17, 18, 19
NONE, MMR, DPP = 0, 1, 2
# Columns of a filled slot: the post; from how many posts it was drawn (0: nothing was), and these, the best first.
PICK, POOLED, POOL = 0, 1, 2
# Why a post cannot have a slot, weakest first, as the strongest is told. The first two are wishes: they yield where
# nothing else is left.
FREE, BESIDE, TOO_FEW_OUTSIDE, TOO_EARLY, OVER_AUTHOR, OVER_TOPIC, OVER_OUTSIDE, GONE = 0, 1, 2, 3, 4, 5, 6, 7
# Planes of what is told of each slot and post.
SCORE, BARRIER = 0, 1
# Rows of what the posts above leave of a post: d², and its greatest likeness to one of them.
_LEFT, _NEAREST = 0, 1

_LEAST = 1e-12
"""Of d², where rounding would leave less."""

_inner = compiled(None)


@_inner
def _ones(word: int) -> int:
    """Returns how many bits of a word of 32 are set; its sums stay far below 2⁶³."""
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24) & 0xFF


@_inner
def _likenesses(facts: Int64s, knobs: Float64s, to: int, row: Float64s) -> None:
    """Writes S_ij of every post to one."""
    author, topic = facts[AUTHOR, to], facts[TOPIC, to]
    for i in range(len(row)):
        same_author, same_topic = facts[AUTHOR, i] == author, facts[TOPIC, i] == topic
        row[i] = knobs[LIKE_AUTHOR] * same_author + knobs[LIKE_TOPIC] * same_topic
    if facts[SKETCHED, to] == 1:
        for i in range(len(row)):
            differ = facts[SKETCH, i] ^ facts[SKETCH, to]
            hamming = _ones(differ & 0xFFFFFFFF) + _ones((differ >> 32) & 0xFFFFFFFF)
            row[i] += knobs[LIKE_SKETCH] * (1.0 - hamming / 32.0) * facts[SKETCHED, i]
    else:
        row[to] += knobs[LIKE_SKETCH]
    row[to] += knobs[LIKE_OWN]


@_inner
def _fades(knobs: Float64s, slots: int) -> Float64s:
    """Returns floor + (1 − floor) · decayⁿ for authors and topics, n from 0."""
    fades = np.ones((2, slots + 1))
    for row, decay, floor in ((AUTHOR, AUTHOR_DECAY, AUTHOR_FLOOR), (TOPIC, TOPIC_DECAY, TOPIC_FLOOR)):
        power = 1.0
        for count in range(slots + 1):
            fades[row, count] = knobs[floor] + (1.0 - knobs[floor]) * power
            power *= knobs[decay]
    return fades


@_inner
def _barriers(facts: Int64s, knobs: Float64s, counts: Int64s, slot: int, last: int, barriers: Int64s) -> None:
    """Writes why a post cannot have a slot, or FREE; posts that are GONE stay so. `last` is the post above, or −1."""
    outside, most_author, most_topic = counts[OUTSIDE, 1], knobs[AUTHOR_CAP], knobs[TOPIC_CAP]
    is_full = outside >= knobs[OUT_MOST]
    # Others are ruled out only when just enough slots are left.
    is_short = knobs[SLOTS] - slot <= knobs[OUT_LEAST] - outside
    beside = facts[AUTHOR, last] if last >= 0 and knobs[APART] == 1.0 else -1
    for i in range(len(barriers)):
        author, is_outside = facts[AUTHOR, i], facts[OUTSIDE, i] == 1
        wish = max(BESIDE * (author == beside), TOO_FEW_OUTSIDE * (is_short & (not is_outside)))
        early = TOO_EARLY * (facts[FIRST, i] > slot)
        over = max(OVER_AUTHOR * (counts[AUTHOR, author] >= most_author), OVER_OUTSIDE * (is_full & is_outside))
        over = max(over, OVER_TOPIC * (counts[TOPIC, facts[TOPIC, i]] >= most_topic))
        barriers[i] = max(barriers[i], wish, early, over)


@_inner
def _scores(facts: Int64s, worth: Float64s, knobs: Float64s, counts: Int64s, left: Float64s, scores: Float64s) -> None:
    """Writes the score of every post, given what the posts above leave of it."""
    theta, rerank, most = knobs[THETA], knobs[RERANK], int(knobs[SLOTS])
    fades = _fades(knobs, most)
    for i in range(len(scores)):
        fade = fades[AUTHOR, counts[AUTHOR, facts[AUTHOR, i]]] * fades[TOPIC, counts[TOPIC, facts[TOPIC, i]]]
        relevance = worth[GAIN, i] * fade - worth[HARM, i]
        if rerank == DPP:
            scores[i] = theta * relevance + (1.0 - theta) * math.log(left[_LEFT, i])
        elif rerank == MMR:
            scores[i] = theta * relevance - (1.0 - theta) * left[_NEAREST, i]
        else:
            scores[i] = relevance


@_inner
def _best(scores: Float64s, barriers: Int64s, least: int, most: int) -> int:
    """Returns the post of the greatest score whose barrier is in a range, the first among equals; −1 where none is."""
    best = -1
    for i in range(len(scores)):
        if least <= barriers[i] <= most and (best < 0 or scores[i] > scores[best]):
            best = i
    return best


@_inner
def _pool(scores: Float64s, barriers: Int64s, fresh: Int64s, knobs: Float64s, filled: Int64s) -> None:
    """Writes the pool of a slot: its best, the next best, then the best fresh ones. Uses up `barriers`."""
    size = 0
    for most, is_fresh in ((knobs[POOL_BEST], False), (knobs[POOL_FRESH], True)):
        for i in range(len(scores)):
            if is_fresh and fresh[i] == 0:
                barriers[i] = GONE
        for _ in range(int(most)):
            best = _best(scores, barriers, FREE, FREE)
            if best < 0:
                break
            barriers[best] = GONE
            filled[POOL + size] = best
            size += 1
    filled[POOLED] = size


@_inner
def _update(facts: Int64s, knobs: Float64s, factor: Float64s, left: Float64s, slot: int, pick: int) -> None:
    """Takes from d² of every post what the one picked for a slot explains of it; `factor` has one row a slot."""
    row = factor[slot]
    _likenesses(facts, knobs, pick, row)
    for i in range(row.shape[0]):
        left[_NEAREST, i] = max(left[_NEAREST, i], row[i])
    if knobs[RERANK] != DPP:
        return
    for above in range(slot):
        share = factor[above, pick]
        for i in range(row.shape[0]):
            row[i] -= factor[above, i] * share
    root = math.sqrt(left[_LEFT, pick])
    for i in range(row.shape[0]):
        row[i] /= root
        left[_LEFT, i] = max(left[_LEFT, i] - row[i] * row[i], _LEAST)


@_inner
def _choice(scores: Float64s, barriers: Int64s) -> int:
    """Returns the post that a slot takes if nothing is drawn, or −1."""
    pick = _best(scores, barriers, FREE, FREE)
    return pick if pick >= 0 else _best(scores, barriers, BESIDE, TOO_FEW_OUTSIDE)


@_inner
def _spare(worth: Float64s, barriers: Int64s, pick: int) -> None:
    """Rules out posts that are expected to do more harm than good: nothing of that kind is tried."""
    for i in range(len(barriers)):
        if i != pick and worth[GAIN, i] < worth[HARM, i]:
            barriers[i] = GONE


@compiled(
    "void(int64[:, ::1], float64[:, ::1], float64[::1], float64[::1], int64[:, ::1], float64[:, :, ::1])",
)
def _fill(facts: Int64s, worth: Float64s, knobs: Float64s, draws: Float64s, slots: Int64s, told: Float64s) -> None:
    """Fills the slots from the first on, until none is left or no post may have the next.

    Args:
        facts: shape (FACTS, posts).
        worth: shape (2, posts).
        knobs: shape (KNOBS,).
        draws: shape (slots,); in [0, 1) where the slot is randomised, else −1.
        slots: shape (slots, POOL + POOL_BEST + POOL_FRESH), all −1; what is found.
        told: shape (2, slots, posts) for score and barrier of every post at every filled slot; of 0 slots for none.
    """
    posts, size = facts.shape[1], slots.shape[0]
    counts = np.zeros((3, max(posts, 2)), np.int64)
    scores, gone = np.zeros(posts), facts[VOID] * GONE
    factor, left = np.zeros((size, posts)), np.zeros((2, posts))
    left[_LEFT] = 1.0
    last = -1
    for slot in range(size):
        _scores(facts, worth, knobs, counts, left, scores)
        barriers = gone.copy()
        _barriers(facts, knobs, counts, slot, last, barriers)
        if told.shape[1] > 0:
            told[SCORE, slot], told[BARRIER, slot] = scores, barriers
        last = _choice(scores, barriers)
        if last < 0:
            return
        if draws[slot] >= 0.0 and barriers[last] == FREE:
            _spare(worth, barriers, last)
            _pool(scores, barriers, facts[FRESH], knobs, slots[slot])
            if draws[slot] < knobs[EXPLORE]:
                place = int(draws[slot] / knobs[EXPLORE] * slots[slot, POOLED])
                last = slots[slot, POOL + min(place, slots[slot, POOLED] - 1)]
        slots[slot, PICK] = last
        gone[last] = GONE
        for row in (AUTHOR, TOPIC, OUTSIDE):
            counts[row, facts[row, last]] += 1
        _update(facts, knobs, factor, left, slot, last)


class Filled(NamedTuple):
    """A filled slate; posts are places among the competitors.

    Args:
        picks: slot → post, as far as there were any.
        pools: randomised slot → the posts that it was drawn from, the greedy choice first.
        told: shape (2, slots, posts): score and barrier of every post at every slot that was looked at; of 0 slots
            where they were not asked for.
    """

    picks: list[int]
    pools: dict[int, list[int]]
    told: Float64s

    def barred(self) -> dict[int, int]:
        """Returns post → the first slot that visibility alone kept it from; nothing where scores were not kept."""
        best = [self.pools.get(slot, [pick])[0] for slot, pick in enumerate(self.picks)]
        scores, barriers = self.told[:, : len(best) + 1]
        needed = np.full(len(scores), -np.inf)
        if len(scores):
            needed[: len(best)] = scores[np.arange(len(best)), best]
        is_barred = (barriers == TOO_EARLY) & (scores > needed[:, None])
        return {int(post): int(is_barred[:, post].argmax()) for post in np.flatnonzero(is_barred.any(axis=0))}


def filled(facts: Int64s, worth: Float64s, *, knobs: Float64s, draws: dict[int, float], tells: bool = False) -> Filled:
    """Fills a slate.

    Args:
        facts: see `_fill`.
        worth: see `_fill`.
        knobs: see `_fill`.
        draws: randomised slot → its draw, in [0, 1).
        tells: whether to keep scores and barriers.
    """
    size, posts = int(knobs[SLOTS]), facts.shape[1]
    by_slot = np.full(size, -1.0)
    for slot, draw in draws.items():
        by_slot[slot] = draw
    width = POOL + int(knobs[POOL_BEST] + knobs[POOL_FRESH])
    slots = np.full((size, width), -1, np.int64)
    told = np.full((2, size if tells else 0, posts), GONE, np.float64)
    _fill(facts, worth, knobs, by_slot, slots, told)
    rows = slots.tolist()
    return Filled(
        [row[PICK] for row in rows if row[PICK] >= 0],
        {slot: rows[slot][POOL : POOL + rows[slot][POOLED]] for slot in draws if rows[slot][POOLED] > 0},
        told,
    )
