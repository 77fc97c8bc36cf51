"""Decisions: ids in order of time, draws that replay, features bit for bit."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from decalog.decisions import (
    Choice,
    Decision,
    Mode,
    Slot,
    Versions,
    decode_decision,
    draw,
    new_decision_id,
    pack_features,
    unpack_features,
)
from decalog.events import Event, encode

REQUEST = Event("pay-1", "payment", 1, 2, {}, {})
ids = st.tuples(st.integers(0, 2**48 * 1_000 - 1), st.binary(min_size=10, max_size=10))


@given(ids)
def test_an_id_is_a_uuid_of_version_7_with_its_time(given_id: tuple[int, bytes]) -> None:
    at_us, entropy = given_id
    found = uuid.UUID(new_decision_id(at_us, entropy))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == at_us // 1_000


@given(ids, ids)
def test_ids_sort_by_their_millisecond(one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
    if one[0] // 1_000 < other[0] // 1_000:
        assert new_decision_id(*one) < new_decision_id(*other)


@given(st.binary(min_size=1, max_size=32), st.text(max_size=10), st.text(max_size=10))
def test_a_draw_depends_on_its_arguments_alone(secret: bytes, id_: str, name: str) -> None:
    value = draw(secret, id_, name=name)
    assert 0 <= value < 1
    assert value == draw(secret, id_, name=name)


def test_draws_are_uniform() -> None:
    draws = np.array([draw(b"secret", f"{n}", name="explore") for n in range(20_000)])
    # Kolmogorov-Smirnov at 0.1 %: 1.95 / sqrt(n).
    distance = np.abs(np.sort(draws) - (np.arange(20_000) + 0.5) / 20_000).max()
    assert distance < 1.95 / np.sqrt(20_000)
    other = np.array([draw(b"secret", f"{n}", name="another") for n in range(20_000)])
    assert abs(np.corrcoef(draws, other)[0, 1]) < 0.03


@given(hnp.arrays(np.float64, st.integers(0, 20)))
def test_features_come_back_bit_for_bit(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    again = unpack_features(pack_features(values))
    assert again.dtype == np.float64
    assert again.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("mode", "acted"), [("live", "block"), ("fallback", "block"), ("shadow", "allow"), ("imported", "allow")]
)
def test_what_happened_is_another_system_s_action_where_ours_was_not_acted_on(mode: Mode, acted: str) -> None:
    decision = Decision("d", REQUEST, 0, (), Choice((Slot("block"),)), Versions("m", "p", "f", 0), mode, taken="allow")
    assert decision.acted == acted
    assert decision.choice.action == "block"
    assert decode_decision(encode(decision)) == decision
