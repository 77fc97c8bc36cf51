"""Why two sides of one feature differ: the rows that each saw, as far as the log and the logged value can tell.

What the offline side saw is in the log. What the online side saw is not; but a fault has a shape, so the value is
computed again, by the rules read out slowly, as a state with each of the usual faults would have: one that forgets
corrections, misses late rows, is behind, or looks ahead. The one that gives the logged bits is named; where several
do, the one that also gives most of the other values that were logged for the entity.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from decalog.clock import rfc3339
from decalog.errors import ConfigError, DataError
from decalog.features.definition import Aggregate, Derived, FeatureSet, Lookup
from decalog.features.facts import Change, Fact, Point
from decalog.features.plan import Plan
from decalog.features.reference import Held, evaluate, held

_NEAR = 20
"""How many positions behind and ahead, and how many rows, are tried."""
_SHOWN = 30
_COPY = 2**61
"""Roots from here on stand for a second copy of a row."""

Sides = Literal["both", "offline", "online"]


class SeenRow(msgspec.Struct, frozen=True):
    """One row in the window: whose place in the log, never what it holds.

    Args:
        seq: of the record that its present image came with.
        root: seq of the first record in its chain of corrections.
        event_time, known_time: RFC 3339.
        kind: of row.
        marks: `late` (older than a row of the entity that was there before it), `corrected`, `deleted`, `second copy`.
        seen: by both sides or one; what is said of `online` is what the logged value tells.
    """

    seq: int
    root: int
    event_time: str
    known_time: str
    kind: str
    marks: tuple[str, ...]
    seen: Sides


class Why(msgspec.Struct, frozen=True):
    """What explains a difference.

    Args:
        said: one line.
        rows: in the window on either side, the newest last.
        more: older rows that are not listed.
    """

    said: str
    rows: tuple[SeenRow, ...] = ()
    more: int = 0


class _Account(msgspec.Struct, frozen=True):
    """A fault in words, and what the reference is asked so that it computes as a state with that fault would.

    `features` are those of one entity, the one that differs first.
    """

    said: str
    features: FeatureSet
    changes: Sequence[Change]
    point: Point


def explain(
    features: FeatureSet, name: str, *, changes: Sequence[Change], point: Point, logged: Sequence[float]
) -> Why:
    """Returns why the online side may have logged a value, and the rows in the window on both sides.

    Args:
        features: the declarations of the decision's version.
        name: of the feature that differs.
        changes: of the system's log, beyond the point's position as well.
        point: of the decision.
        logged: all values, in the order of declaration.
    """
    feature = features.features[features.names.index(name)]
    if isinstance(feature, Derived):
        return Why(f"derived from {', '.join(feature.parts)} alone: where these agree, the logged value was changed")
    if isinstance(feature, Lookup):
        return Why(f"looked up in {feature.table}: another version of it was seen, or the logged value was changed")
    if not isinstance(feature, Aggregate):
        return Why("computed from the request and its time alone, no other row enters: the logged value was changed")
    siblings = [other for other in features.aggregates if other.entity == feature.entity and other.name != name]
    asked = msgspec.structs.replace(features, features=(feature, *siblings))
    mine = _relevant(asked, changes, point=point)
    if mine is None:
        return Why(f"the request has no {feature.entity}, so no row enters: the logged value was changed")
    honest = _Account("", asked, mine, point)
    values = dict(zip(features.names, logged, strict=True))
    account = _likeliest(honest, [values[other] for other in asked.names])
    if account is None:
        return _why(
            "no usual fault of a state gives the logged value: what each side saw cannot be told", honest, honest
        )
    return _why(f"the logged value is that of {account.said}", honest, account)


def _likeliest(honest: _Account, logged: list[float]) -> _Account | None:
    """Returns the first fault of those that give the value of the first feature and most of the others'."""
    best, most = None, 0
    for account in _accounts(honest):
        same = [_bits(value) == _bits(was) for value, was in zip(_values(account), logged, strict=False)]
        if same and same[0] and sum(same) > most:
            best, most = account, sum(same)
        if most == len(logged):
            break
    return best


def _relevant(features: FeatureSet, changes: Sequence[Change], *, point: Point) -> list[Change] | None:
    """Returns the changes of every row that ever was the entity's, near enough to matter; None without the entity."""
    plan = Plan(features).entities[0]
    token = plan.asked_token(point.subjects)
    if token is None:
        return None
    begin = point.time - features.longest_window_us - 1

    def is_mine(fact: Fact | None) -> bool:
        if fact is None or fact.event_time <= begin or fact.kind not in plan.kinds:
            return False
        return plan.asked_token(fact.entities) == token

    rows = {_row_of(change) for change in changes if is_mine(change.minus) or is_mine(change.plus)}
    return [change for change in changes if (change.minus or change.plus) is not None and _row_of(change) in rows]


def _accounts(honest: _Account) -> Iterator[_Account]:
    """Yields the usual faults, the likeliest first."""
    asked, changes, point = honest.features, honest.changes, honest.point
    before = [change for change in changes if change.seq < point.state_seq]
    late = _late_rows(before)
    edits = {
        "a state that forgets corrections": [c for c in before if not (c.minus and c.plus)],
        "a state that forgets deletions": [c for c in before if c.plus],
        "a state that forgets corrections and deletions": [c for c in before if not c.minus],
        "a state that adds corrections and leaves what they replace": [_beside(c) for c in before],
        "a state without the rows that came late": [c for c in before if _row_of(c) not in late],
        "a state that lost the entity's rows": [],
    }
    for said, edited in edits.items():
        yield _Account(said, asked, edited, point)
    yield from _crowds(honest, before)
    first = asked.aggregates[0]
    flipped = _each(asked, lambda feature: msgspec.structs.replace(feature, own=not first.own))
    yield _Account(f"the request's own event {'left out' if first.own else 'taken in'}", flipped, changes, point)
    yield from _positions(honest)
    yield from _doubled(honest, before)
    wider = _each(asked, lambda feature: msgspec.structs.replace(feature, window=f"{feature.window_us + 1}us"))
    yield _Account("a window whose older edge is taken in", wider, changes, point)


def _crowds(honest: _Account, before: list[Change]) -> Iterator[_Account]:
    """Yields the faults of a state whose entity has had more rows than declared."""
    mine = _held(honest)
    if mine.mark is None:
        return
    kept = {id(fact) for fact in mine.rows}
    silent = [Change(c.seq, c.known_time, None, c.plus) for c in before if id(c.plus) in kept]
    yield _Account("a state that let rows go and does not say so", honest.features, silent, honest.point)
    with contextlib.suppress(ConfigError):  # so many rows may be more than the declared bounds allow
        roomy = msgspec.structs.replace(honest.features, retain=len(before))
        yield _Account("a state that holds more rows than declared", roomy, before, honest.point)


def _each(features: FeatureSet, change: Callable[[Aggregate], Aggregate]) -> FeatureSet:
    return msgspec.structs.replace(features, features=tuple(change(feature) for feature in features.aggregates))


def _positions(honest: _Account) -> Iterator[_Account]:
    at = honest.point.state_seq
    seqs = sorted({change.seq for change in honest.changes})
    for seq in [seq for seq in seqs if seq < at][: -_NEAR - 1 : -1]:
        there = msgspec.structs.replace(honest.point, state_seq=seq)
        yield _Account(f"a state at {seq}, behind the decision's position {at}", honest.features, honest.changes, there)
    for seq in [seq for seq in seqs if seq >= at][:_NEAR]:
        there = msgspec.structs.replace(honest.point, state_seq=seq + 1)
        yield _Account(f"a state that looks ahead, to {seq + 1}", honest.features, honest.changes, there)


def _doubled(honest: _Account, before: list[Change]) -> Iterator[_Account]:
    for fact in _in_window(honest)[: -_NEAR - 1 : -1]:
        copy = Change(before[-1].seq, before[-1].known_time, None, _copy(fact, fact.root))
        said = f"a state that holds the row of root {fact.root} twice"
        yield _Account(said, honest.features, [*before, copy], honest.point)


def _why(said: str, honest: _Account, account: _Account) -> Why:
    # By identity: two images of one row differ, though place and time are the same.
    offline, online = ({id(fact): fact for fact in _in_window(side)} for side in (honest, account))
    late, history = _late_rows(honest.changes), _history(honest.changes, honest.point.state_seq)
    rows = []
    for image, fact in sorted((online | offline).items(), key=lambda item: (item[1].event_time, item[1].root)):
        seen: Sides = "online" if image not in offline else "both" if image in online else "offline"
        rows.append(_seen_row(fact, history, is_late=(fact.root, fact.kind) in late, seen=seen))
    return Why(said, tuple(rows[-_SHOWN:]), max(0, len(rows) - _SHOWN))


def _seen_row(fact: Fact, history: dict[tuple[int, str], list[Change]], *, is_late: bool, seen: Sides) -> SeenRow:
    if fact.root >= _COPY:
        known = next(c.known_time for chain in history.values() for c in chain if c.seq == fact.root - _COPY)
        root = fact.root - _COPY
        return SeenRow(root, root, rfc3339(fact.event_time), rfc3339(known), fact.kind, ("second copy",), seen)
    chain = history[fact.root, fact.kind]
    came = next(change for change in reversed(chain) if change.plus == fact)
    marks = [word for word, holds in (("late", is_late), ("corrected", any(change.minus for change in chain))) if holds]
    if chain[-1].plus is None:
        marks = [*marks[: int(is_late)], "deleted"]
    happened, known_time = rfc3339(fact.event_time), rfc3339(came.known_time)
    return SeenRow(came.seq, fact.root, happened, known_time, fact.kind, tuple(marks), seen)


def _history(changes: Iterable[Change], state_seq: int) -> dict[tuple[int, str], list[Change]]:
    """Returns the changes of each row before a position; of a row that came after it, all."""
    history: dict[tuple[int, str], list[Change]] = {}
    for change in changes:
        chain = history.setdefault(_row_of(change), [])
        if change.seq < state_seq or not chain or chain[0].seq >= state_seq:
            chain.append(change)
    return history


def _in_window(account: _Account) -> list[Fact]:
    """Returns the logged rows in the account's window, oldest first; the request's own event is not one of them."""
    feature, point = account.features.aggregates[0], account.point
    return [
        fact
        for fact in _held(account).rows
        if point.time - feature.reach_us < fact.event_time <= point.time - feature.offset_us
        and fact.kind in feature.over
    ]


def _held(account: _Account) -> Held:
    before = [change for change in account.changes if change.seq < account.point.state_seq]
    return held(account.features, before, entity=account.features.aggregates[0].entity, subjects=account.point.subjects)


def _values(account: _Account) -> list[float]:
    try:
        return evaluate(account.features, account.changes, point=account.point)
    except DataError:
        return []  # a state with this fault would have refused: no logged value is that of it


def _late_rows(changes: Iterable[Change]) -> set[tuple[int, str]]:
    """Returns the rows that were older, when they came, than one of the entity that was there."""
    added = [change.plus for change in changes if change.plus is not None and change.plus.root == change.seq]
    newest = itertools.accumulate((fact.event_time for fact in added), max, initial=-(2**62))
    return {(fact.root, fact.kind) for fact, before in zip(added, newest, strict=False) if fact.event_time < before}


def _beside(change: Change) -> Change:
    if change.minus is None or change.plus is None:
        return change
    return Change(change.seq, change.known_time, None, _copy(change.plus, change.seq))


def _copy(fact: Fact, number: int) -> Fact:
    return msgspec.structs.replace(fact, root=_COPY + number)


def _row_of(change: Change) -> tuple[int, str]:
    image = change.plus or change.minus
    return (-1, "") if image is None else (image.root, image.kind)


def _bits(value: float) -> bytes:
    return struct.pack(">d", value)
