"""The arena of live rows: each token keeps its own rows whatever comes and goes, and cells are used again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decalog.features import arena, kernel
from decalog.features.definition import Aggregate, AggregateName, FeatureSet
from decalog.features.live import LiveRows
from decalog.features.packed import PackedRows
from decalog.features.plan import Plan

ALIKE: dict[str, Any] = {"meaning": "tested", "unit": "1", "over": ("payment",), "window": "1s"}
KINDS: tuple[tuple[AggregateName, str], ...] = (("count", ""), ("sum", "cents"))
PLAN = Plan(
    FeatureSet(
        system="demo",
        features=tuple(
            Aggregate(name=f"{one}_{kind}", entity=one, aggregate=kind, column=column, **ALIKE)
            for one in ("card", "device")
            for kind, column in KINDS
        ),
        retain=40,
    )
)
FAR = kernel.BEFORE_ALL


def row(number: int, time: int) -> kernel.Int64s:
    return np.array([[time, number, 1, number % 7]], np.int64)


def step(name: int, token: int) -> kernel.Int64s:
    return np.array([[0, name, token]], np.int64)


def held(live: LiveRows, name: int) -> dict[int, list[int]]:
    """Returns token → the roots of its rows after its mark, in order."""
    packed = live.packed(name).after(FAR)
    parts = zip(packed.tokens.tolist(), packed.heads.tolist(), packed.counts.tolist(), strict=True)
    return {token: packed.block[head + 1 : head + 1 + count, kernel.ROOT].tolist() for token, head, count in parts}


_act = st.sampled_from(("add", "add", "add", "withdraw", "pass"))
_acts = st.lists(st.tuples(_act, st.integers(0, 500)), max_size=300)


@settings(max_examples=60)
@given(_acts, st.integers(1, 40), st.sampled_from((0, 3, 64)))
def test_each_token_keeps_its_own_rows_through_moves_drops_and_reuse(
    acts: list[tuple[str, int]], tokens: int, counted_from: int
) -> None:
    live, now, horizon = LiveRows(PLAN, counted_from=counted_from), 1_000, 0
    model: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, (act, drawn) in enumerate(acts):
        now += 1
        key = drawn % 2, 1 + drawn % tokens
        rows = model.setdefault(key, [])
        if act == "add":
            assert live.insert(row(number, now), step(*key), horizon=horizon) == -1
            assert live.insert(row(number, now), step(*key), horizon=horizon) == 0  # it is there already
            rows.append((now, number))
        elif act == "withdraw" and rows and rows[drawn % len(rows)][0] > horizon:
            time, root = rows.pop(drawn % len(rows))
            assert live.retract(*key, row=row(root, time)[0]) == kernel.DONE
        elif act == "pass":
            now += 40
            horizon = now - 60
    for name in (0, 1):
        want = {
            token: [root for time, root in rows if time > horizon][-40:]
            for (of, token), rows in model.items()
            if of == name
        }
        packed = live.packed(name).after(horizon)
        got = dict(zip(packed.tokens.tolist(), packed.counts.tolist(), strict=True))
        assert {token: len(rows) for token, rows in want.items() if rows} == {t: n for t, n in got.items() if n}
        for token, roots in held(live, name).items():
            assert roots[len(roots) - len(want[token]) :] == want[token]


def test_what_is_let_go_of_is_used_again() -> None:
    live, clock = LiveRows(PLAN), itertools.count(1)
    sizes = []
    for token in range(20_000):
        now = next(clock)
        live.insert(row(token, now), step(0, token), horizon=now - 100)
        sizes.append(int(live.arena[arena.STATE][arena.USED]))
    assert sizes[-1] < 1.1 * sizes[10_000]  # a steady stream of new tokens takes no more cells
    assert len(live.packed(0).tokens) < 1_000
    assert len(live.arena[arena.INDEX]) <= 2_048


def test_tokens_that_share_places_of_the_index_are_all_found_after_one_goes() -> None:
    live = LiveRows(PLAN)
    slots = len(live.arena[arena.INDEX])
    alike = [token for token in range(40_000) if kernel.mixed(token) & (slots - 1) >= slots - 2][:12]
    for token in alike:  # they run on around the end of the index
        live.insert(row(token, 1_000 + token), step(0, token), horizon=0)
    for token in alike[::3]:
        slot = next(s for s in range(slots) if live.arena[arena.INDEX][s, arena.TOKEN] == token)
        arena._drop(live.arena[arena.INDEX], slot)
    left = [token for place, token in enumerate(alike) if place % 3]
    assert [live.rows(0, token)[1, kernel.ROOT] for token in left] == left
    assert {live.rows(0, token)[0, kernel.COUNTED] for token in alike[::3]} == {0}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 39, 100])
def test_rows_that_are_loaded_are_those_that_were_packed(count: int) -> None:
    block = np.zeros((count + 1, 4), np.int64)
    block[0] = count, 5, 0, 0
    block[1:] = np.vstack([row(number, 10 + number) for number in range(count)]) if count else block[1:]
    packed = PackedRows(np.array([9]), np.array([count]), block)
    live = LiveRows(PLAN)
    live.load(1, packed)
    again = live.packed(1)
    assert [again.tokens.tolist(), again.counts.tolist(), again.block.tolist()] == [[9], [count], block.tolist()]
    view = live.view(1, since=10)
    assert (view.tokens, view.rows, view.recent.tolist()) == (1, count, [max(0, count - 1)])
    assert view.oldest == (10 if count else None)
    assert live.view(0, since=0).tokens == 0


def test_a_state_is_given_back_bit_by_bit() -> None:
    live = LiveRows(PLAN)
    live._make_cells(3 * 2**20)
    assert [live.free() for _ in range(5)] == [True, True, True, False, False]
