"""Candidates as columns: the same values, one by one, as the rows they were made of."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from decalog.candidates import Candidate, Candidates, Column, Value, gathered, kept, named

VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=3),
)
NAMES = st.sampled_from(("age_s", "topic", "two_tower"))


def typed(values: list[Value | None]) -> list[str]:
    """Returns values with their types and signs: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    return [repr(value) for value in values]


def at_all(column: Column, count: int) -> list[Value | None]:
    return column.at(np.arange(count))


@given(st.lists(st.one_of(st.none(), VALUES), max_size=8))
def test_a_column_gives_back_the_values_it_was_made_of(values: list[Value | None]) -> None:
    column = Column.of(values)
    assert typed(at_all(column, len(values))) == typed(values)
    assert column.has(len(values)).tolist() == [value is not None for value in values]
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(column), type=Column)
    assert typed(at_all(read, len(values))) == typed(values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_ints_lie_in_the_fewest_bytes_that_hold_them(values: list[int]) -> None:
    size = int(Column.of(values).kind[2:])
    assert all(-(1 << 8 * size - 1) <= value < 1 << 8 * size - 1 for value in values)
    assert size == 1 or any(not -(1 << 4 * size - 1) <= value < 1 << 4 * size - 1 for value in values)


@pytest.mark.parametrize(("words", "kind"), [(1 << 8, "|u1"), ((1 << 8) + 1, "<u2"), ((1 << 16) + 1, "<u4")])
def test_places_lie_in_the_fewest_bytes_that_hold_them(words: int, kind: str) -> None:
    values = [str(n) for n in range(words)]
    column = Column.coded(np.arange(words), values)
    assert column.kind == kind
    assert at_all(column, words) == values


def test_beyond_its_end_a_column_has_no_value() -> None:
    column = Column.of([5, None])
    assert column.has(4).tolist() == [True, False, False, False]
    assert column.at(np.array([3, 0, 1])) == [None, 5, None]
    assert column.filled(4, -1).tolist() == [5, -1, -1, -1]
    assert column.filled(1, -1).tolist() == [5]
    assert Column.of([0.5]).filled(2, np.inf).tolist() == [0.5, np.inf]


def test_what_is_no_finite_number_is_taken_out() -> None:
    fine = Column.of([1.0, None])
    assert fine.finite() is fine
    odd = Column.numbers(np.array([1.0, np.nan, -np.inf]), np.array([True, True, False]))
    assert odd.finite().at(np.arange(3)) == [1.0, None, None]
    assert Column.of(["nan", float("inf"), 2]).finite().at(np.arange(3)) == ["nan", None, 2]


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.text(max_size=2),
        st.sampled_from(("", "fresh", "a+b")),
        predictions=st.fixed_dictionaries({"p_click": st.floats(allow_nan=False)}),
        entities=st.dictionaries(NAMES, st.integers(0, 2**63 - 1), max_size=2),
        attributes=st.dictionaries(NAMES, VALUES, max_size=3),
        dropped=st.sampled_from(("", "seen")),
    ),
    max_size=6,
)


@given(CANDIDATES)
def test_candidates_read_like_the_rows_they_were_made_of(rows: list[Candidate]) -> None:
    made = gathered(rows)
    expected = [one for one in rows if not one.dropped]
    expected += [msgspec.structs.replace(one, predictions={}) for one in rows if one.dropped]
    encoded = msgspec.msgpack.Encoder(order="sorted").encode
    assert [encoded(one) for one in made] == [encoded(one) for one in expected]
    assert len(made) == len(rows)
    assert made.competing == sum(not one.dropped for one in rows)
    assert [made[n] for n in range(-len(rows), 0)] == expected
    assert gathered(made) is made
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Candidates) == made


def test_a_head_that_one_lacks_is_no_number() -> None:
    one, other = gathered((Candidate("p1", predictions={"p_click": 0.5}), Candidate("p2")))
    assert one.predictions == {"p_click": 0.5}
    assert np.isnan(other.predictions["p_click"])


def test_predictions_and_features_stand_with_their_candidates() -> None:
    scored = Candidate("p1", predictions={"p_click": 0.5, "p_hide": -0.0}, features=struct.pack("<2d", 1.5, -0.0))
    plain = Candidate("p2", predictions={"p_click": 0.25, "p_hide": 0.5})
    gone = Candidate("p0", dropped="seen")
    made = gathered((gone, plain, scored))
    assert tuple(made) == (plain, scored, gone)
    assert made.rows.tolist() == [[0.25, 0.5], [0.5, 0.0]]
    assert kept(made) == kept((gone, plain, scored)) == [scored]
    with pytest.raises(IndexError):
        made[3]


@pytest.mark.parametrize("as_columns", [False, True])
def test_some_are_found_by_name(as_columns: bool) -> None:
    rows = (Candidate("a", "one"), Candidate("b", "two"), Candidate("a", "three"))
    found = named(gathered(rows) if as_columns else rows, iter(("a", "unknown", "a")))
    assert found == {"a": rows[2]}


def test_in_brief_one_has_the_attributes_that_are_wanted_at_least() -> None:
    full = Candidate("a", "one", {"p_click": 0.5}, entities={"post": 7}, attributes={"age_s": 60, "topic": "tea"})
    made = gathered((full, Candidate("b")))
    for wanted in (frozenset[str](), frozenset({"age_s", "unknown"}), frozenset({"topic"}), frozenset[str]()):
        (brief,) = named(made, ("a",), attributes=wanted).values()
        assert {**full.attributes, **brief.attributes} == full.attributes
        assert brief.attributes.keys() >= wanted & full.attributes.keys()
        assert msgspec.structs.replace(brief, attributes=full.attributes) == full
    assert named(made, ("a",)) == {"a": full}


def test_no_candidates_are_no_columns() -> None:
    none = gathered(())
    assert (len(none), list(none), none.rows.shape, kept(none), named(none, ("a",))) == (0, [], (0, 1), [], {})
