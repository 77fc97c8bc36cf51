"""Why a post was shown, or why it was not: every stage of one decision, from its record.

Values, multipliers and the race for each slot are computed again by the policy that decided, with the draws that were
logged. Of more than 20 candidates a record holds no features, so what readers saw before is read again from the views:
live ones where they still say what the policy saw, or else those that are folded anew. Where the slate that comes out
is not the one that was logged, the trace says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate, gathered
from decalog.decisions import Decision, Slot, unpack_features
from decalog.errors import DataError
from decalog.features.kernel import Float64s
from decalog.folding import point
from decalog.policy import Case, Columns
from decalog.systems.feed.policy import REPEATS, FeedPolicy, Weighed
from decalog.systems.feed.slate import exploration, kernel
from decalog.systems.feed.slate.competitors import HEADS, Competitors

_BARRIERS = {
    kernel.BESIDE: "the slot above has its author",
    kernel.TOO_FEW_OUTSIDE: "the slots left were kept for posts out of network",
    kernel.OVER_AUTHOR: "the cap for its author was reached",
    kernel.OVER_TOPIC: "the cap for its topic was reached",
    kernel.OVER_OUTSIDE: "the cap for posts out of network was reached",
    kernel.GONE: "it has no usable prediction",
}
_NANO = 1e9


class Explained(msgspec.Struct, frozen=True):
    """What became of a post that competed.

    Args:
        ref: its name.
        rank: by adjusted value, 1 is the best; by the fallback's order where nothing was predicted.
        value_minor: Σ w · p in minor units.
        adjusted_minor: with its multipliers.
        multipliers: name → factor, those that are not 1.
        slot: that it has, or None.
        beaten_by: the post that has the slot it came closest to, or would have had; "" where it was shown.
        because: why it has no slot; "" where it has one.
    """

    ref: str
    rank: int
    value_minor: float
    adjusted_minor: float
    multipliers: dict[str, float]
    slot: int | None
    beaten_by: str = ""
    because: str = ""


class Why(msgspec.Struct, frozen=True):
    """A post's way through one decision: (stage, what happened there), in order; the last one decided."""

    ref: str
    stages: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Returns it for people, one stage a line."""
        return "\n".join([self.ref, *(f"  {stage:10} {words}" for stage, words in self.stages)])


class _Race:
    """A decision's race for slots, run again."""

    def __init__(self, decision: Decision, policy: FeedPolicy, columns: Mapping[str, Float64s]) -> None:
        logged = {slot.position: slot for slot in decision.choice.slots}
        case = Case(decision.request, decision.candidates, {}, lambda name: _draw(decision, logged, name), columns)
        self.posts = Competitors.of(decision.candidates)
        is_scored = not decision.fallback and bool(self.posts.usable.any())
        self.weighed: Weighed | None = policy.weighed(self.posts, columns) if is_scored else None
        self.found, self.seen = policy.filled(case, self.posts, weighed=self.weighed, tells=True)
        self.worth = self.found.told[kernel.SCORE, 0] if self.weighed is None else self.weighed.adjusted
        self.ranks = np.empty(len(self.worth), np.int64)
        self.ranks[np.argsort(-self.worth, kind="stable")] = np.arange(1, len(self.worth) + 1)

    @property
    def refs(self) -> list[str]:
        return [self.posts.refs[pick] for pick in self.found.picks]

    def explained(self, post: int) -> Explained:
        """Returns what became of the post of a place."""
        weighed, factors = self.weighed, dict[str, float]()
        value = adjusted = 0.0
        if weighed is not None:
            value, adjusted = float(weighed.value[post] / _NANO), float(weighed.adjusted[post] / _NANO)
            factors = {name: int(m[post]) / 10_000 for name, m in weighed.multipliers.items() if m[post] != 10_000}  # noqa: PLR2004 - 1 in hundredths of a percent
        ref, rank = self.posts.refs[post], int(self.ranks[post])
        if post in self.found.picks:
            return Explained(ref, rank, value, adjusted, factors, self.found.picks.index(post))
        return Explained(ref, rank, value, adjusted, factors, None, *self._beaten(post))

    def _beaten(self, post: int) -> tuple[str, str]:
        """Returns by which post one was beaten, and why.

        That is where a barrier alone kept it from a slot, or else where a post of less value came first, or nearest.
        """
        best = [self.found.pools.get(slot, [pick])[0] for slot, pick in enumerate(self.found.picks)]
        scores, barriers = self.found.told[:, : max(len(best), 1), post]
        if not best:
            return "", self._barrier(post, barriers[0])
        behind = self.found.told[kernel.SCORE, np.arange(len(best)), best] - scores
        is_free, is_dearer = barriers == kernel.FREE, self.worth[post] > self.worth[best]
        kept, alike = np.flatnonzero(~is_free & (behind < 0)), np.flatnonzero(is_free & is_dearer)
        first = kept if len(kept) else alike
        slot = int(first[0] if len(first) else np.where(is_free, behind, np.inf).argmin())
        if not is_free[slot]:
            return self.refs[slot], f"slot {slot}: {self._barrier(post, barriers[slot])}"
        words = "worth more, but more like the posts above" if is_dearer[slot] else "worth less"
        return self.refs[slot], f"slot {slot}: {words}, its score {behind[slot]:.3g} short"

    def _barrier(self, post: int, barrier: float) -> str:
        return _BARRIERS.get(int(barrier)) or self.seen.rules[post][1]


def remembered(decision: Decision, state: Any, *, root: int = -1) -> Columns | None:
    """Returns what the readers of competing posts had seen before, as the policy saw it; empty where it did not look.

    None where the views cannot tell: they are of another set of features, do not reach back so far, or count what was
    told after the decision of the time before it, as those features show that the record holds.

    Args:
        decision: logged.
        state: views that are as far as the decision, or farther.
        root: seq of the decision's record, where the views hold it: it never sees itself.
    """
    candidates, names = gathered(decision.candidates), state.features.names
    if not candidates.predictions:
        return Columns({}, np.empty((candidates.competing, 0)))
    if decision.versions.features != state.features.version or not set(REPEATS) <= set(names):
        return None
    asked = point(decision.request, max(decision.state_seq, state.position), root=root)
    try:
        rows = state.vectors(asked, candidates)
    except DataError:
        return None
    places = {name: names.index(name) for name in REPEATS}
    looked = list(places.values())
    logged = [unpack_features(one.features)[looked] for one in candidates.some(candidates.kept)]
    is_told = np.array_equal(rows[np.ix_(candidates.kept, looked)], np.reshape(logged, (-1, len(looked))))
    return Columns(places, rows) if is_told else None


def explain(
    decision: Decision, policy: FeedPolicy, *, columns: Mapping[str, Float64s] | None = None
) -> tuple[Explained, ...]:
    """Returns what became of each post that competed, in the order of the candidates.

    Args:
        decision: logged, not imported.
        policy: that decided, of `decision.versions.policy`.
        columns: feature name → value of each competing post.
    """
    race = _Race(decision, policy, columns or {})
    return tuple(race.explained(post) for post in range(len(race.posts.refs)))


def why(decision: Decision, ref: str, *, policy: FeedPolicy, columns: Mapping[str, Float64s] | None = None) -> Why:
    """Returns why a post was shown, or why it was not.

    Args:
        decision: logged.
        ref: the post, whether or not anything found it.
        policy: that decided, of `decision.versions.policy`.
        columns: feature name → value of each competing post.
    """
    return Why(ref, tuple(_stages(decision, ref, policy, columns or {})))


def _stages(
    decision: Decision, ref: str, policy: FeedPolicy, columns: Mapping[str, Float64s]
) -> Iterator[tuple[str, str]]:
    candidate = next((one for one in decision.candidates if one.ref == ref), None)
    if candidate is None:
        yield "retrieval", f"no source found it among {len(decision.candidates)} candidates"
        return
    yield "retrieval", _found(candidate)
    if candidate.dropped:
        yield "filter", f"taken out: {candidate.dropped}"
        return
    if decision.mode != "imported":
        yield from _raced(decision, candidate, _Race(decision, policy, columns))
    yield from (("guardrail", f"{one.name}: {one.why}") for one in decision.guardrails if one.before == ref)
    yield "slot", _slot(next((slot for slot in decision.choice.slots if slot.ref == ref), None))


def _raced(decision: Decision, candidate: Candidate, race: _Race) -> Iterator[tuple[str, str]]:
    one = race.explained(race.posts.refs.index(candidate.ref))
    if race.weighed is None:
        yield "score", f"nothing predicted: {decision.fallback or 'no_prediction'}"
        yield "rank", f"{one.rank} of {len(race.posts.refs)} by the ranks of retrieval in turn"
    else:
        yield "score", ", ".join(f"{head} {candidate.predictions.get(head, 0.0):.4g}" for head in HEADS)
        factors = "".join(f", {name} × {factor:.4g}" for name, factor in one.multipliers.items())
        yield "value", f"{one.value_minor:.4g} minor units{factors}: {one.adjusted_minor:.4g}"
        yield "rank", f"{one.rank} of {len(race.posts.refs)} by adjusted value"
    if one.because:
        yield "slate", one.because + (f"; {one.beaten_by} has it" if one.beaten_by else "")
    if race.refs != [slot.ref for slot in decision.choice.slots]:
        yield (
            "note",
            "the slate comes out otherwise than logged: another policy, or features that are not in the record",
        )


def _found(candidate: Candidate) -> str:
    ranks = [f"{name} {value}" for name, value in candidate.attributes.items() if name.endswith("_rank")]
    return ", ".join((f"found by {candidate.source.replace('+', ' and ') or 'request'}", *ranks))


def _slot(slot: Slot | None) -> str:
    if slot is None:
        return "none"
    size = len(exploration.pool(slot.attributes))
    how = f"drawn from a pool of {size}" if "explored" in slot.attributes else f"the best of a pool of {size}"
    return f"{slot.position}, {how if size else 'the best'}; propensity {slot.propensity or 'not known'}"


def _draw(decision: Decision, logged: Mapping[int, Slot], name: str) -> float:
    """Returns a draw that gives what was logged for a slot; one that gives the best where nothing was drawn."""
    slot = logged.get(int(name.removeprefix("slot ")))
    pool = [] if slot is None else [decision.candidates[place].ref for place in exploration.pool(slot.attributes)]
    if slot is None or slot.ref not in pool:
        return 1.0
    return int(slot.attributes["explore_bp"]) / 10_000 * (pool.index(slot.ref) + 0.5) / len(pool)
