"""Features of many candidates at once are those of one candidate after the other, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import VALUES, Writer, features, retains, steps
from tests.features.test_engines_agree import assert_same_bits

from decalog.candidates import Candidate, gathered
from decalog.errors import DataError, ReplayError
from decalog.features.candidates import firsts
from decalog.features.definition import Aggregate, Attribute, FeatureSet
from decalog.features.facts import Change, Fact, Point, Value, laid_over
from decalog.features.kernel import MISSING
from decalog.features.offline import fold_admissible
from decalog.features.online import OnlineState
from decalog.features.plan import pair_token, pair_tokens


def laid(entities: dict[str, int], attributes: dict[str, Value] | None = None) -> Candidate:
    """Returns a candidate of which nothing else is known."""
    return Candidate("c", entities=entities, attributes=attributes or {})


_tokens = st.fixed_dictionaries({}, optional={"card": st.integers(1, 3), "device": st.integers(1, 4)})
_values = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})
_candidates = st.lists(st.builds(laid, _tokens, _values), max_size=40)
_alike = st.lists(st.builds(laid, _tokens), max_size=40)


@given(steps, retains, _candidates | _alike, st.booleans())
def test_all_at_once_are_one_by_one(
    drawn: list[tuple[object, ...]], retain: int, candidates: list[Candidate], rested: bool
) -> None:
    declared, log, done = features(retain=retain), Writer().write(drawn), 0
    state = OnlineState(declared)
    for point in sorted(log.points, key=lambda point: point.state_seq):
        while done < len(log.changes) and log.changes[done].seq < point.state_seq:
            state.apply(log.changes[done])
            done += 1
        if rested:
            tables = state._tables
            state = OnlineState.resumed(declared, state.rest())
            state._tables = tables
        if state.refused(point):
            continue
        got = state.vectors(point, gathered(candidates))
        assert got.shape == (len(candidates), len(declared.names))
        points = [laid_over(point, candidate) for candidate in candidates]
        for asked, vector in zip(points, got, strict=True):
            assert_same_bits(declared.names, state.vector(asked), vector, asked)
        late, folded = fold_admissible(declared, log.changes, points=points)
        assert not late.any()
        assert folded.tobytes() == got.tobytes()


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_the_first_of_the_same_two_numbers_is_found(drawn: Sequence[tuple[int, int]]) -> None:
    ones, others = (np.array([pair[place] for pair in drawn], np.int64) for place in (0, 1))
    assert firsts(ones, others).tolist() == [drawn.index(pair) for pair in drawn]
    tokens = [MISSING if MISSING in pair else pair_token(*pair) for pair in drawn]
    assert pair_tokens(ones, others).tolist() == tokens


def _count(name: str, entity: str, **given: object) -> Aggregate:
    plain = {"meaning": "tested", "unit": "1", "aggregate": "count", "over": ("asked", "seen"), "window": "1h"}
    return Aggregate(name=name, entity=entity, **(plain | given))  # type: ignore[arg-type]


def _amount(name: str, missing: float = -1.0) -> Attribute:
    return Attribute(name=name, meaning="tested", unit="1", attribute=name, missing=missing)


DECLARED = FeatureSet(
    system="tested",
    features=(
        _count("by_user", "user"),
        _count("by_post", "post", own=False),
        _count("posts_of_user", "user", aggregate="distinct", column="post"),
        _count("together", "user+post"),
        _amount("score"),
        _amount("bid", missing=1e300),
    ),
)


def _state(*facts: Fact) -> OnlineState:
    state = OnlineState(DECLARED)
    for fact in facts:
        state.apply(Change(fact.root, fact.event_time, None, fact))
    return state


def _asked(state: OnlineState, time: int = 100, **attributes: Value) -> Point:
    return Point(state.position, time, own=Fact(2**62, time, "asked", {"user": 1}, attributes))


def _seen(root: int, post: int, user: int = 1) -> Fact:
    return Fact(root, 10 + root, "seen", {"user": user, "post": post}, {})


def test_each_candidate_brings_its_own_row_and_its_own_facts() -> None:
    state = _state(_seen(0, 7), _seen(1, 7, user=2), _seen(2, 8))
    candidates = [
        laid({"post": 7}, {"score": 2}),
        laid({"post": 9}, {"bid": 3}),
        laid({}),
        laid({"user": 2, "post": 7}),
    ]
    assert state.vectors(_asked(state, score=0.5), gathered(candidates)).tolist() == [
        [3, 2, 2, 2, 2, 1e300],
        [3, 0, 3, 1, 0.5, 3],
        [3, 0, 2, 0, 0.5, 1e300],
        [2, 2, 1, 2, 0.5, 1e300],
    ]


@pytest.mark.parametrize("odd", ["7", 2**63, -(2**63) - 1, 10**400, math.nan, math.inf])
def test_a_value_that_is_no_number_is_missing_and_spoils_no_other(odd: Value) -> None:
    state = _state()
    candidates = [laid({}, {"score": odd}), laid({}, {"score": 2**62}), laid({}, {"score": True}), laid({})]
    got = state.vectors(_asked(state), gathered(candidates))[:, DECLARED.names.index("score")]
    assert got.tolist() == [-1, 2.0**62, 1, -1]


def test_no_candidates_have_no_features() -> None:
    state = _state(_seen(0, 7))
    assert state.vectors(_asked(state), gathered(())).shape == (0, len(DECLARED.names))


@pytest.mark.parametrize("candidates", [[], [laid({"post": 7})]])
def test_a_late_point_and_one_before_the_state_are_refused_as_for_one(candidates: list[Candidate]) -> None:
    state = _state(Fact(0, 10**12, "seen", {"user": 1}, {}))
    with pytest.raises(DataError, match="before the watermark") as late:
        state.vectors(_asked(state, time=5), gathered(candidates))
    with pytest.raises(DataError) as one:
        state.vector(_asked(state, time=5))
    assert str(late.value) == str(one.value)
    with pytest.raises(ReplayError, match="a point at position 0"):
        state.vectors(msgspec.structs.replace(_asked(state), state_seq=0), gathered(candidates))


def test_a_state_that_was_resumed_gives_candidates_what_it_gave_before() -> None:
    state = _state(_seen(0, 7), _seen(1, 7, user=2), _seen(2, 8))
    resumed = OnlineState.resumed(DECLARED, state.rest())
    candidates = gathered([laid({"post": post}) for post in (9, 7, 8, 6)])
    told = [state.vectors(_asked(state), candidates).tolist()]
    told += [resumed.vectors(_asked(resumed), candidates).tolist()]
    for one in (state, resumed):  # which takes some tokens from what rests
        one.apply(Change(3, 13, None, _seen(3, 7)))
        told.append(one.vectors(_asked(one), candidates).tolist())
    assert told[0] == told[1] != told[2] == told[3]


def test_many_rows_of_one_token_go_in_together_as_one_by_one() -> None:
    facts = [Fact(5, 10 + place, "seen", {"user": 1, "post": place % 3}, {}) for place in range(96)]
    together, alone = OnlineState(DECLARED), OnlineState(DECLARED)
    changes = [Change(5, 500, None, fact) for fact in facts]
    together.apply(*changes)
    for change in changes:
        alone.apply(change)
    asked, candidates = _asked(together, time=1_000), gathered([laid({"post": post}) for post in range(4)])
    assert together.vectors(asked, candidates).tolist() == alone.vectors(asked, candidates).tolist()
    assert [view.rows for view in together.views()] == [view.rows for view in alone.views()]
