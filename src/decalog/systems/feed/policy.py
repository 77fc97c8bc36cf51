"""Which posts, in which order: value as declared weights of what a reader may do, then diversity, caps and a few draws.

With p the calibrated probability of each action on a shown post and w what that action is worth in money:

    value      Σ w · p                                                              minor units, may be below 0
    gain       the part of it with w > 0;  harm  the part with w < 0
    adjusted   gain · Π multipliers − harm

A multiplier makes a post earn less (out of the reader's network, shown before, old) or more (a new author); harm counts
in full, so no boost spreads what readers hide or report. Sums are integers: probabilities in 1e-9, multipliers in
hundredths of a percent.

The slots are then filled from the first on by `slate/kernel.py`, which weighs adjusted value against likeness to the
posts above, within the caps for authors, topics and the share out of network; `slate/visibility.py` says where a post
may not stand. Named slots are randomised, each from a pool that is logged with it (`slate/exploration.py`).

The weights are the trade-off: clicks alone fill the slate with bait, which readers hide, and stay away from afterwards.
The default holds what lasts (staying, sharing) dear and what drives readers away dearer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from decalog.decisions import Choice, Slot
from decalog.errors import ConfigError
from decalog.events import Event
from decalog.features.kernel import Float64s, Int64s
from decalog.policy import Case, Verdict
from decalog.systems.feed.schema import MOST_SLOTS, SHOW
from decalog.systems.feed.slate import exploration, kernel
from decalog.systems.feed.slate.competitors import FRESH, HEADS, Competitors
from decalog.systems.feed.slate.kernel import Filled, filled
from decalog.systems.feed.slate.visibility import Rules, Visibility, visibility

LEGS = ("following_rank", "popular_rank", "fresh_rank")
"""Ranks that the fallback takes in turn."""
REPEATS = ("shown_to_user_7d", "author_shown_to_user_1d", "topic_shown_to_user_1d")
"""Features that the policy reads: how often the reader was shown a post, its author, its topic."""

_BP = 10_000
_NANO = 10**9
_SIZE = 20
_MOST_REASONS = 20
_EXPLAINED = 3
_REPEATS = 10
"""Showings beyond which a multiplier falls no more."""
_OLD = 2**40
_RERANK = {"none": kernel.NONE, "mmr": kernel.MMR, "dpp": kernel.DPP}

Worth = Annotated[int, Meta(ge=-10_000_000, le=10_000_000)]
Share = Annotated[int, Meta(ge=0, le=_BP)]
Count = Annotated[int, Meta(ge=0, le=MOST_SLOTS)]
Seconds = Annotated[int, Meta(ge=0, le=10**9)]


class FeedWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader's actions are worth, and how a slate is put together.

    `_minor` is minor units of the base currency, `_bp` hundredths of a percent. The defaults are an example of a feed
    that lives on readers who come back; set your own before you trust the money in a report.

    Args:
        click_per_1000_minor: what 1,000 opened posts are worth.
        dwell_per_1000_minor: 1,000 posts that were stayed on for 10 s.
        like_per_1000_minor: 1,000 likes; and so on for replies, shares, hides and reports.
        out_of_network_bp: multiplier of posts by authors that the reader does not follow.
        foreign_bp: multiplier of posts in a language that the reader is not known to read.
        new_author_bp: multiplier of posts by new authors.
        new_author_posts: an author is new up to so many posts …
        new_author_age_s: … and up to this age.
        half_gain_age_s: a post earns half as much each time it has grown older by this; 0: age is left to the model.
        repeat_post_bp: multiplier for each time the reader was shown the post in 7 days.
        repeat_author_bp: for each time they were shown its author in a day.
        repeat_topic_bp: for each time they were shown its topic in a day.
        rerank: how likeness to the posts above counts: `dpp`, `mmr`, or `none`.
        theta_bp: relevance against diversity; at 10,000 relevance alone.
        like_sketch_bp: share of likeness that the item vectors' sketches make.
        like_author_bp: share that the same author makes.
        like_topic_bp: share that the same topic makes.
        author_decay_bp: what a further post of an author still earns, again for each one above …
        author_floor_bp: … but never less than this.
        topic_decay_bp: likewise for a topic.
        topic_floor_bp: likewise for a topic.
        author_cap: most posts of an author in a slate.
        topic_cap_bp: largest share of a topic; lifted where the request asks for one topic.
        out_least_bp: share out of network that is wished for, as far as there are such posts.
        out_most_bp: largest share out of network.
        authors_apart: no two posts of an author in a row, while there are others.
        sensitive_from: first slot of a sensitive post, for adults.
        unspread_labels: labels whose posts are not shown out of network, as limited ones are not.
        explore_bp: probability with which a randomised slot is drawn; 0 for no exploration.
        explore_slots: the slots that are randomised, 0 is the first.
        pool_best: how many of the next best posts a slot is drawn from, the best included.
        pool_fresh: and how many of the best fresh ones.
    """

    click_per_1000_minor: Worth = 50
    dwell_per_1000_minor: Worth = 1_000
    like_per_1000_minor: Worth = 1_500
    reply_per_1000_minor: Worth = 2_000
    share_per_1000_minor: Worth = 3_000
    hide_per_1000_minor: Worth = -20_000
    report_per_1000_minor: Worth = -100_000
    out_of_network_bp: Share = 8_000
    foreign_bp: Share = 2_000
    new_author_bp: Annotated[int, Meta(ge=0, le=5 * _BP)] = 12_000
    new_author_posts: Annotated[int, Meta(ge=0, le=10**6)] = 10
    new_author_age_s: Seconds = 7 * 86_400
    half_gain_age_s: Seconds = 2 * 86_400
    repeat_post_bp: Share = 10_000
    repeat_author_bp: Share = 9_900
    repeat_topic_bp: Share = 9_900
    rerank: Literal["dpp", "mmr", "none"] = "dpp"
    theta_bp: Share = 9_000
    like_sketch_bp: Share = 5_000
    like_author_bp: Share = 1_500
    like_topic_bp: Share = 2_500
    author_decay_bp: Share = 9_000
    author_floor_bp: Share = 5_000
    topic_decay_bp: Share = 9_700
    topic_floor_bp: Share = 5_000
    author_cap: Annotated[int, Meta(ge=1, le=MOST_SLOTS)] = 4
    topic_cap_bp: Annotated[int, Meta(ge=1, le=_BP)] = 4_000
    out_least_bp: Share = 1_000
    out_most_bp: Share = _BP
    authors_apart: bool = True
    sensitive_from: Count = 3
    unspread_labels: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=50)] = ()
    explore_bp: Share = 1_000
    explore_slots: Annotated[tuple[Annotated[int, Meta(ge=0, le=MOST_SLOTS - 1)], ...], Meta(max_length=10)] = (3, 8)
    pool_best: Annotated[int, Meta(ge=1, le=50)] = 10
    pool_fresh: Annotated[int, Meta(ge=0, le=50)] = 10

    @property
    def by_head(self) -> tuple[int, ...]:
        """What 1,000 of each action are worth, in the order of `HEADS`."""
        actions = [head.removeprefix("p_") for head in HEADS]
        return tuple(getattr(self, f"{action}_per_1000_minor") for action in actions)


class Weighed(msgspec.Struct, frozen=True):
    """What each competing post is worth; shape (posts,), money in 1e-9 minor units.

    Args:
        gain: expected from what is worth something, ≥ 0.
        harm: expected of what costs, ≥ 0.
        multipliers: name → hundredths of a percent.
        adjusted: gain · Π multipliers − harm.
    """

    gain: Int64s
    harm: Int64s
    multipliers: dict[str, Int64s]
    adjusted: Int64s

    @property
    def value(self) -> Int64s:
        """What a post is worth, unadjusted."""
        return self.gain - self.harm


class FeedPolicy:
    """Fills a slate with the posts of the greatest adjusted value, unlike each other, within the caps.

    A few slots are drawn from pools that are logged with them.

    Args:
        params: what actions are worth, and how a slate is put together.

    Raises:
        ConfigError: parameters are out of range or contradict each other; all are named.

    >>> from decalog.candidates import Candidate
    >>> posts = (
    ...     Candidate("bait", predictions={"p_click": 0.9, "p_dwell": 0.05, "p_hide": 0.2}),
    ...     Candidate("essay", predictions={"p_click": 0.2, "p_dwell": 0.15, "p_hide": 0.001}),
    ... )
    >>> case = Case(Event("f1", "feed_request", 0, 7, {"user": 7}, {"size": 2}), posts, {}, lambda name: 0.5)
    >>> [slot.ref for slot in FeedPolicy(FeedWeights()).decide(case).choice.slots]
    ['essay', 'bait']
    >>> clicks = FeedWeights(hide_per_1000_minor=0, dwell_per_1000_minor=0)
    >>> [slot.ref for slot in FeedPolicy(clicks).decide(case).choice.slots]
    ['bait', 'essay']
    """

    def __init__(self, params: FeedWeights) -> None:
        self.params = checked(params)
        self._worth = np.array(params.by_head, np.int64)

    def decide(self, case: Case) -> Verdict:
        """Returns the slate; posts without usable predictions do not compete, and without any the fallback decides."""
        posts = Competitors.of(case.candidates)
        if not posts.usable.any():
            return self.fall_back(case, "no_prediction")
        weighed = self.weighed(posts, case.columns)
        found, seen = self.filled(case, posts, weighed=weighed)
        reasons = (
            f"{len(found.picks)} of {_size(case.request)} slots from {len(posts.refs)} posts, by {self.params.rerank}",
            *self._worded(posts, weighed, picks=found.picks[:_EXPLAINED]),
        )
        expected = round(Fraction(int(weighed.value[found.picks].sum()), _NANO))
        return self._verdict(posts, found, seen=seen, reasons=reasons, expected_minor=expected)

    @property
    def greedy(self) -> FeedPolicy:
        """See `Policy.greedy`."""
        return type(self)(msgspec.structs.replace(self.params, explore_bp=0))

    def fall_back(self, case: Case, reason: str) -> Verdict:
        """Returns followed, popular and fresh posts in turn, by the ranks that retrieval gave them, within the caps."""
        posts = Competitors.of(case.candidates)
        if not posts.refs:
            return Verdict(Choice((), (f"{reason}: no post was found that may be shown",), SHOW))
        found, seen = self.filled(case, posts)
        words = f"{reason}: no prediction, so followed, popular and fresh posts in turn"
        return self._verdict(posts, found, seen=seen, reasons=(words,), expected_minor=0)

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        """Returns 0: whether one post was opened does not say what a slate was worth.

        A click alone would make bait look cheap. What slates are worth is measured by all heads, and by readers who
        return, in the system's own metrics and in its world.
        """
        del action, label, amount_minor
        return 0

    def worth(self, heads: tuple[str, ...], rows: Float64s) -> Float64s:
        """Returns what posts are worth, minor units, by what is predicted or known of them: (n, heads) → (n,)."""
        by_head = dict(zip(HEADS, self.params.by_head, strict=True))
        worth: Float64s = rows @ np.array([by_head[head] / 1_000 for head in heads])
        return worth

    def weighed(self, posts: Competitors, columns: Mapping[str, Float64s]) -> Weighed:
        """Returns what each post is worth.

        Args:
            posts: that compete.
            columns: feature name → value of each of them; what is missing adjusts nothing.
        """
        ppb = np.rint(np.where(posts.usable[:, None], posts.predictions, 0.0) * _NANO).astype(np.int64)
        gain = (ppb * np.maximum(self._worth, 0)).sum(axis=1) // 1_000
        harm = (ppb * np.maximum(-self._worth, 0)).sum(axis=1) // 1_000
        multipliers = dict(_multipliers(self.params, posts, columns))
        product = np.full(len(posts.refs), _BP, np.int64)
        for multiplier in multipliers.values():
            product = product * multiplier // _BP
        return Weighed(gain, harm, multipliers, gain * product // _BP - harm)

    def filled(
        self, case: Case, posts: Competitors, *, weighed: Weighed | None = None, tells: bool = False
    ) -> tuple[Filled, Visibility]:
        """Returns the filled slots and what visibility says.

        Args:
            case: of the request.
            posts: that compete.
            weighed: what each is worth; None for the fallback, which goes by ranks.
            tells: whether scores and barriers are kept, for a trace.
        """
        seen, knobs, draws = self._seen(case, posts), self._knobs(case.request), dict[int, float]()
        facts = self._facts(posts, seen)
        if weighed is None:
            facts[kernel.VOID], worth = 0, np.zeros((2, len(posts.refs)))
            worth[kernel.GAIN, _in_turn(posts)] = np.arange(len(posts.refs), 0, -1)
            knobs[[kernel.RERANK, kernel.AUTHOR_FLOOR, kernel.TOPIC_FLOOR]] = kernel.NONE, 1.0, 1.0
        else:
            worth = _spread(weighed)
            explored = self.params.explore_slots if self.params.explore_bp else ()
            draws = {slot: case.draw(f"slot {slot}") for slot in explored if slot < knobs[kernel.SLOTS]}
        return filled(facts, worth, knobs=knobs, draws=draws, tells=tells or bool(seen.rules)), seen

    def choice_in(self, case: Case, position: int, *, above: Sequence[str]) -> str:
        """Returns the post that a slot takes without a draw, given the posts above it.

        Args:
            case: of the request.
            position: of the slot, 0 is the first.
            above: posts in the slots above, the first one first.

        Returns:
            "" where nothing can be chosen, or the posts above could not stand there by the caps of this policy.
        """
        posts = Competitors.of(case.candidates)
        places = {ref: place for place, ref in enumerate(posts.refs)}
        if not posts.usable.any() or not places.keys() >= {*above}:
            return ""
        facts = self._facts(posts, self._seen(case, posts))
        # Each post above may have its own slot and no later one is free before it; all others come from here on.
        facts[kernel.FIRST] = np.maximum(facts[kernel.FIRST], position)
        facts[kernel.FIRST, [places[ref] for ref in above]] = np.arange(len(above))
        worth = _spread(self.weighed(posts, case.columns))
        picks = [posts.refs[pick] for pick in filled(facts, worth, knobs=self._knobs(case.request), draws={}).picks]
        return picks[position] if len(picks) > position and picks[:position] == list(above) else ""

    def _seen(self, case: Case, posts: Competitors) -> Visibility:
        # Retrieval knows readers' profiles; a policy knows the case alone.
        is_adult = case.request.attributes.get("is_adult") is True or posts.numbers("reader_is_adult", 0).any()
        rules = Rules(bool(is_adult), self.params.sensitive_from, frozenset(self.params.unspread_labels))
        return visibility(posts, rules)

    def _facts(self, posts: Competitors, seen: Visibility) -> Int64s:
        facts = np.empty((kernel.FACTS, len(posts.refs)), np.int64)
        facts[kernel.AUTHOR], facts[kernel.TOPIC] = posts.groups("author"), posts.groups("topic")
        facts[kernel.OUTSIDE], facts[kernel.FIRST], facts[kernel.VOID] = ~posts.in_network, seen.first, ~posts.usable
        facts[kernel.SKETCH], facts[kernel.SKETCHED] = posts.sketches()
        facts[kernel.FRESH] = posts.from_sources(FRESH)
        return facts

    def _knobs(self, request: Event) -> Float64s:
        params, size, knobs = self.params, _size(request), np.empty(kernel.KNOBS)
        likes = (params.like_sketch_bp, params.like_author_bp, params.like_topic_bp)
        knobs[kernel.RERANK] = _RERANK[params.rerank]
        knobs[kernel.THETA : kernel.LIKE_OWN + 1] = (params.theta_bp, *likes, _BP - sum(likes))
        knobs[kernel.AUTHOR_DECAY : kernel.TOPIC_FLOOR + 1] = (
            *(params.author_decay_bp, params.author_floor_bp),
            *(params.topic_decay_bp, params.topic_floor_bp),
        )
        knobs[kernel.THETA : kernel.TOPIC_FLOOR + 1] /= _BP
        knobs[kernel.AUTHOR_CAP] = params.author_cap
        is_one_topic = bool(request.attributes.get("only_topic"))
        knobs[kernel.TOPIC_CAP] = size if is_one_topic else -(-size * params.topic_cap_bp // _BP)
        knobs[kernel.OUT_LEAST] = size * params.out_least_bp // _BP
        knobs[kernel.OUT_MOST] = size * params.out_most_bp // _BP
        knobs[kernel.APART], knobs[kernel.EXPLORE] = params.authors_apart, params.explore_bp / _BP
        knobs[kernel.POOL_BEST], knobs[kernel.POOL_FRESH] = params.pool_best, params.pool_fresh
        knobs[kernel.SLOTS] = size
        return knobs

    def _verdict(
        self, posts: Competitors, found: Filled, *, seen: Visibility, reasons: tuple[str, ...], expected_minor: int
    ) -> Verdict:
        guardrails = seen.verdicts(posts, found) if seen.rules else ()
        slots = tuple([self._slot(posts, found, position) for position in range(len(found.picks))])
        explored = [
            f"{slot.ref}: explored in slot {slot.position}, propensity {slot.propensity:.4g}"
            for slot in slots
            if "explored" in slot.attributes
        ]
        ruled = [f"{one.name}: {one.before} kept from {one.why}" for one in guardrails]
        words = (*reasons, *explored, *ruled)[:_MOST_REASONS]
        return Verdict(Choice(slots, words, SHOW), expected_minor, guardrails)

    def _slot(self, posts: Competitors, found: Filled, position: int) -> Slot:
        pick, pool = found.picks[position], found.pools.get(position)
        if pool is None:
            return Slot(posts.refs[pick], position)
        place, explore_bp = pool.index(pick), self.params.explore_bp
        return Slot(
            posts.refs[pick],
            position,
            exploration.propensity(place, size=len(pool), explore_bp=explore_bp),
            attributes=exploration.logged(pool, place=place, explore_bp=explore_bp),
        )

    def _worded(self, posts: Competitors, weighed: Weighed, *, picks: list[int]) -> Iterator[str]:
        """Yields why the first posts are shown: what they are worth, and by what."""
        by_head, sources = self.params.by_head, posts.candidates.sources.at(np.array(picks, np.int64))
        for pick, source in zip(picks, sources, strict=True):
            heads = dict(zip(HEADS, posts.predictions[pick].tolist(), strict=True))
            weights = sorted(zip(HEADS, by_head, strict=True), key=lambda one: -abs(heads[one[0]] * one[1]))
            words = ", ".join([f"{head} {heads[head]:.3g}" for head, _ in weights[:2]])
            value = int(weighed.value[pick]) / _NANO
            yield f"{posts.refs[pick]}: {source or 'request'}; worth {value:.3g} minor units: {words}"


POLICY = FeedPolicy
"""Makes the policy from its parameters."""


def checked(params: FeedWeights) -> FeedWeights:
    """Returns the parameters as they are, or raises.

    Raises:
        ConfigError: some are out of range or contradict each other; all are named.
    """
    problems = list(_problems(params))
    if not problems:
        return params
    raise ConfigError(
        where="feed policy",
        given="; ".join(problems),
        expected="worths in minor units for 1,000 actions, shares in hundredths of a percent (0 to 10000)",
        fix="See decalog.systems.feed.policy.FeedWeights for what each means.",
    )


def _problems(params: FeedWeights) -> Iterator[str]:
    for field in msgspec.structs.fields(FeedWeights):
        try:
            msgspec.convert(msgspec.to_builtins(getattr(params, field.name)), field.type)
        except msgspec.ValidationError as error:
            yield f"{field.name}: {error}"
    likes = params.like_sketch_bp + params.like_author_bp + params.like_topic_bp
    if likes >= _BP:
        yield f"like_sketch_bp + like_author_bp + like_topic_bp is {likes}: Expected `int` < {_BP}"
    if params.out_least_bp > params.out_most_bp:
        yield f"out_least_bp {params.out_least_bp} is above out_most_bp {params.out_most_bp}"


def _multipliers(
    params: FeedWeights, posts: Competitors, columns: Mapping[str, Float64s]
) -> Iterator[tuple[str, Int64s]]:
    """Yields each multiplier by the name under which a trace shows it, in hundredths of a percent."""
    yield "out_of_network", np.where(posts.in_network, _BP, params.out_of_network_bp)
    yield "foreign", np.where(posts.numbers("readable", 1), _BP, params.foreign_bp)
    is_young = posts.numbers("author_age_s", _OLD) <= params.new_author_age_s
    is_new = is_young & (posts.numbers("author_posts", _OLD) <= params.new_author_posts)
    yield "new_author", np.where(is_new, params.new_author_bp, _BP)
    half = params.half_gain_age_s
    if half:
        halvings = np.maximum(posts.numbers("age_s", 0), 0) / half
        yield "age", (_BP * np.exp2(-halvings)).astype(np.int64)
    shares = (params.repeat_post_bp, params.repeat_author_bp, params.repeat_topic_bp)
    for column, share in zip(REPEATS, shares, strict=True):
        if column in columns:
            times = np.fmin(np.fmax(columns[column], 0), _REPEATS).astype(np.int64)  # NaN is none
            yield column, _powers(share)[times]


@functools.cache
def _powers(share: int) -> Int64s:
    """Returns a share to the powers 0, 1, …, each rounded down, in hundredths of a percent."""
    powers = [_BP]
    for _ in range(_REPEATS):
        powers.append(powers[-1] * share // _BP)
    return np.array(powers, np.int64)


def _spread(weighed: Weighed) -> Float64s:
    """Returns gain and harm of each post in units of the spread of all adjusted values."""
    distances = np.abs(weighed.adjusted - _median(weighed.adjusted))
    spread = max(int(distances.sum()) // len(distances), 1)
    return np.stack([weighed.adjusted + weighed.harm, weighed.harm]) / spread


def _median(values: Int64s) -> int:
    """Returns the lower median."""
    middle = (len(values) - 1) // 2
    return int(np.partition(values, middle)[middle])


def _in_turn(posts: Competitors) -> Int64s:
    """Returns the posts, those of each leg in turn by their ranks, then the others as they were retrieved."""
    turns = [posts.numbers(leg, _OLD) * len(LEGS) + place for place, leg in enumerate(LEGS)]
    return np.argsort(np.min(turns, axis=0), kind="stable")


def _size(request: Event) -> int:
    size = request.attributes.get("size")
    return min(size, MOST_SLOTS) if type(size) is int and size > 0 else _SIZE
