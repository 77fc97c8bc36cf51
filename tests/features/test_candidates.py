"""Features of many candidates at once are those of one candidate after the other, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import VALUES, Writer, features, retains, steps
from tests.features.test_engines_agree import assert_same_bits

from decalog.errors import DataError, ReplayError
from decalog.features.definition import Aggregate, Attribute, Calendar, FeatureSet
from decalog.features.facts import Change, Fact, Point, Value, laid_over
from decalog.features.offline import fold_admissible
from decalog.features.online import OnlineState


class Laid(msgspec.Struct, frozen=True):
    """What stands for a candidate here: it has an overlay's two names and nothing else."""

    entities: dict[str, int]
    attributes: dict[str, Value]


_tokens = st.fixed_dictionaries({}, optional={"card": st.integers(1, 3), "device": st.integers(1, 4)})
_values = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})
_overlays = st.lists(st.builds(Laid, _tokens, _values), max_size=40)
_alike = st.lists(st.builds(Laid, _tokens, st.just({})), max_size=40)


def assert_as_one_by_one(state: OnlineState, point: Point, candidates: Sequence[Laid]) -> None:
    got = state.vectors(point, candidates)
    assert got.shape == (len(candidates), len(state.features.names))
    for vector, candidate in zip(got, candidates, strict=True):
        assert_same_bits(state.features.names, state.vector(laid_over(point, candidate)), vector, point)


@given(steps, retains, _overlays | _alike)
def test_all_at_once_are_one_by_one(drawn: list[tuple[object, ...]], retain: int, candidates: list[Laid]) -> None:
    log, state, done = Writer().write(drawn), OnlineState(features(retain=retain)), 0
    for point in sorted(log.points, key=lambda point: point.state_seq):
        while done < len(log.changes) and log.changes[done].seq < point.state_seq:
            state.apply(log.changes[done])
            done += 1
        if not state.refused(point):
            assert_as_one_by_one(state, point, candidates)
