"""The loop that fills a slate: at each slot the best post that no cap rules out, given the slots above it.

The score of post i, with r its value in units of the spread of all values:

    none   r
    mmr    θ r − (1 − θ) · greatest S_ij to a post above (Carbonell and Goldstein, SIGIR 1998)
    dpp    θ r + (1 − θ) · log d²_i

d²_i is what the posts above leave of post i: det S(above + i) = det S(above) · d²_i. It is kept by one step of an
incremental Cholesky factor a slot (Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process",
NeurIPS 2018, algorithm 1). With the kernel L = diag(q) S diag(q) and q = exp(θ r / (2 (1 − θ))) it is their greedy
search for the likeliest slate. What the posts above take from a post only grows, so the score that it had with fewer
above is a bound: a post is caught up with when its bound is the greatest (Minoux, "Accelerated greedy algorithms for
maximizing submodular set functions", 1978), and of 500 posts most never are.

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
# Rows of what the posts above leave of a post, as far as it was caught up: d², its logarithm, its greatest likeness to
# one of them; and how many of them that is.
_LEFT, _LOG, _NEAREST, _REACHED, _STATE = 0, 1, 2, 3, 4

_LEAST = 1e-12
"""Of d², where rounding would leave less."""

_inner = compiled(None)


class _Below(NamedTuple):
    """What a slot is filled from: the places of the posts above; of all posts what is known, and what is worked out."""

    picks: Int64s
    facts: Int64s
    knobs: Float64s
    relevances: Float64s
    scores: Float64s
    factor: Float64s  # one row a post, of it the first columns: what each post above explains
    state: Float64s


@_inner
def _ones(word: int) -> int:
    """Returns how many bits of a word of 32 are set; its sums stay far below 2⁶³."""
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24) & 0xFF


@_inner
def _likeness(facts: Int64s, knobs: Float64s, one: int, to: int) -> float:
    """Returns S_ij of two posts."""
    same_author, same_topic = facts[AUTHOR, one] == facts[AUTHOR, to], facts[TOPIC, one] == facts[TOPIC, to]
    like = knobs[LIKE_AUTHOR] * same_author + knobs[LIKE_TOPIC] * same_topic
    if facts[SKETCHED, to] == 1:
        differ = facts[SKETCH, one] ^ facts[SKETCH, to]
        hamming = _ones(differ & 0xFFFFFFFF) + _ones((differ >> 32) & 0xFFFFFFFF)
        like += knobs[LIKE_SKETCH] * (1.0 - hamming / 32.0) * facts[SKETCHED, one]
    elif one == to:
        like += knobs[LIKE_SKETCH]
    return float(like + knobs[LIKE_OWN] * (one == to))


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
def _score(below: _Below, post: int) -> float:
    """Returns the score of a post, given what the posts above leave of it as far as it was caught up: else a bound."""
    relevance, theta, state = below.relevances[post], below.knobs[THETA], below.state
    if below.knobs[RERANK] == DPP:
        return float(theta * relevance + (1.0 - theta) * state[_LOG, post])
    if below.knobs[RERANK] == MMR:
        return float(theta * relevance - (1.0 - theta) * state[_NEAREST, post])
    return float(relevance)


@_inner
def _bounds(below: _Below, worth: Float64s, fades: Float64s, counts: Int64s) -> None:
    """Writes what every post is worth below the posts above, and a bound of its score."""
    author, topic = below.facts[AUTHOR], below.facts[TOPIC]
    for i in range(len(below.scores)):
        fade = fades[AUTHOR, counts[AUTHOR, author[i]]] * fades[TOPIC, counts[TOPIC, topic[i]]]
        below.relevances[i] = worth[GAIN, i] * fade - worth[HARM, i]
        below.scores[i] = _score(below, i)


@_inner
def _catch_up(below: _Below, post: int) -> None:
    """Takes from d² of a post what those picked above explain of it and was not taken off yet; writes its score."""
    knobs, factor, state = below.knobs, below.factor, below.state
    left = state[_LEFT, post]
    for slot in range(int(state[_REACHED, post]), len(below.picks)):
        pick = below.picks[slot]
        share = _likeness(below.facts, knobs, post, pick)
        state[_NEAREST, post] = max(state[_NEAREST, post], share)
        if knobs[RERANK] == DPP:
            for above in range(slot):
                share -= factor[post, above] * factor[pick, above]
            # Who was picked is not caught up with any more: that is what was left of it then.
            factor[post, slot] = share / math.sqrt(state[_LEFT, pick])
            left = max(left - factor[post, slot] * factor[post, slot], _LEAST)
    state[_LEFT, post], state[_LOG, post], state[_REACHED, post] = left, math.log(left), len(below.picks)
    below.scores[post] = _score(below, post)


@_inner
def _greatest(scores: Float64s, barriers: Int64s, least: int, most: int) -> int:
    """Returns the post of the greatest score whose barrier is in a range, the first among equals; −1 where none is."""
    best = -1
    for i in range(len(scores)):
        if least <= barriers[i] <= most and (best < 0 or scores[i] > scores[best]):
            best = i
    return best


@_inner
def _best(below: _Below, barriers: Int64s, least: int, most: int) -> int:
    """Does `_greatest` for the scores, of which only bounds are known, and works out no more than it takes."""
    best = _greatest(below.scores, barriers, least, most)
    while best >= 0 and below.state[_REACHED, best] < len(below.picks) and below.knobs[RERANK] != NONE:
        _catch_up(below, best)
        best = _greatest(below.scores, barriers, least, most)
    return best


@_inner
def _pool(below: _Below, barriers: Int64s, filled: Int64s) -> None:
    """Writes the pool of a slot: its best, the next best, then the best fresh ones. Uses up `barriers`."""
    size = 0
    for most, is_fresh in ((below.knobs[POOL_BEST], False), (below.knobs[POOL_FRESH], True)):
        for i in range(len(barriers)):
            if is_fresh and below.facts[FRESH, i] == 0:
                barriers[i] = GONE
        for _ in range(int(most)):
            best = _best(below, barriers, FREE, FREE)
            if best < 0:
                break
            barriers[best] = GONE
            filled[POOL + size] = best
            size += 1
    filled[POOLED] = size


@_inner
def _choice(below: _Below, barriers: Int64s) -> int:
    """Returns the post that a slot takes if nothing is drawn, or −1."""
    pick = _best(below, barriers, FREE, FREE)
    return pick if pick >= 0 else _best(below, barriers, BESIDE, TOO_FEW_OUTSIDE)


@_inner
def _spare(worth: Float64s, barriers: Int64s, pick: int) -> None:
    """Rules out posts that are expected to do more harm than good: nothing of that kind is tried."""
    for i in range(len(barriers)):
        if i != pick and worth[GAIN, i] < worth[HARM, i]:
            barriers[i] = GONE


@_inner
def _tell(below: _Below, barriers: Int64s, told: Float64s) -> None:
    """Writes score and barrier of every post; the score of one that is gone is the bound that it had."""
    for post in range(len(barriers)):
        if barriers[post] != GONE:
            _catch_up(below, post)
    told[SCORE], told[BARRIER] = below.scores, barriers


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
    scores, relevances, gone = np.zeros(posts), np.zeros(posts), facts[VOID] * GONE
    factor, state = np.empty((posts, size)), np.zeros((_STATE, posts))
    state[_LEFT] = 1.0
    fades, last = _fades(knobs, size), -1
    for slot in range(size):
        below = _Below(slots[:slot, PICK], facts, knobs, relevances, scores, factor, state)
        _bounds(below, worth, fades, counts)
        barriers = gone.copy()
        _barriers(facts, knobs, counts, slot, last, barriers)
        if told.shape[1] > 0:
            _tell(below, barriers, told[:, slot])
        last = _choice(below, barriers)
        if last < 0:
            return
        if draws[slot] >= 0.0 and barriers[last] == FREE:
            _spare(worth, barriers, last)
            _pool(below, barriers, slots[slot])
            if draws[slot] < knobs[EXPLORE]:
                place = int(draws[slot] / knobs[EXPLORE] * slots[slot, POOLED])
                last = slots[slot, POOL + min(place, slots[slot, POOLED] - 1)]
        slots[slot, PICK] = last
        gone[last] = GONE
        for row in (AUTHOR, TOPIC, OUTSIDE):
            counts[row, facts[row, last]] += 1


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
