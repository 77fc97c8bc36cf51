"""The state of all windows in memory: changes go in as they are logged, vectors come out at the state's position."""

from __future__ import annotations

import struct
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from decalog.errors import ReplayError
from decalog.features import kernel
from decalog.features.columnar import live_rows
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.kernel import Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import crowded, inadmissible, missing_row, out_of_order, row_twice

_HAND_STEPS = 2


class StateStats(msgspec.Struct, frozen=True):
    """What the state holds.

    Args:
        entities: entity name → number of tokens with rows.
        rows: live and not yet pruned rows over all entities.
        bytes: of the row arrays.
        unusable: column → values that could not enter an aggregate (another type, beyond the bound).
    """

    entities: dict[str, int]
    rows: int
    bytes: int
    unusable: dict[str, int]


class _EntityRows:
    """The row arrays of one entity name, by token."""

    def __init__(self, plan: EntityPlan) -> None:
        self.plan = plan
        self.by_token: dict[int, Int64s] = {}
        self._none = np.zeros((1, plan.picks.shape[0]), np.int64)
        # Tokens in the order in which they are looked at again: two a new token, so that the dead never outnumber
        # the living for long, and no call pays for more than two.
        self._hand: deque[int] = deque()

    def rows(self, token: int) -> Int64s:
        return self.by_token.get(token, self._none)

    def insert(self, token: int, row: Int64s, *, horizon: int) -> int:
        rows = self.by_token.get(token)
        if rows is None:
            rows = kernel.refit(self._none, horizon)
            self.put(token, rows)
            self._drop_dead(horizon)
        state = kernel.insert(rows, self.plan.picks, row)
        if state == kernel.FULL:
            self.by_token[token] = rows = kernel.refit(rows, horizon)
            state = kernel.insert(rows, self.plan.picks, row)
        return state

    def retract(self, token: int, row: Int64s, *, horizon: int) -> int:  # noqa: ARG002  # rows elsewhere check with it
        return kernel.retract(self.rows(token), row)

    def put(self, token: int, rows: Int64s) -> None:
        self.by_token[token] = rows
        self._hand.append(token)

    def _drop_dead(self, horizon: int) -> None:
        for _ in range(min(_HAND_STEPS, len(self._hand) - 1)):
            token = self._hand.popleft()
            rows = self.by_token[token]
            newest = int(rows[0, 0])
            if newest == 0 or rows[newest, kernel.TIME] <= horizon:
                del self.by_token[token]
            else:
                self._hand.append(token)


class OnlineState:
    """The state of one feature set after a position of the log.

    Args:
        features: the declarations.
        rows: makes what keeps the rows of one entity name; in this process, if nothing else is said.

    >>> from decalog.features.definition import Aggregate, FeatureSet
    >>> state = OnlineState(FeatureSet(system="fraud", features=(
    ...     Aggregate(name="card_payments_60s", meaning="payments of the card in the last minute", unit="payments",
    ...               entity="card", aggregate="count", over=("payment",), window="60s"),)))
    >>> first = Fact(0, 1_000_000, "payment", {"card": 7}, {})
    >>> state.apply(Change(seq=0, known_time=1_000_000, plus=first))
    >>> second = Fact(1, 2_000_000, "payment", {"card": 7}, {})
    >>> state.vector(Point(state_seq=1, time=2_000_000, root=1, own=second)).tolist()
    [2.0]
    """

    def __init__(self, features: FeatureSet, rows: Callable[[EntityPlan], _EntityRows] = _EntityRows) -> None:
        self.features = features
        self._plan = Plan(features)
        self._entities = tuple(rows(plan) for plan in self._plan.entities)
        self._by_kind = {
            kind: tuple(entity for entity in self._entities if kind in entity.plan.kinds) for kind in self._plan.bits
        }
        self._row_cells = array("q", bytes(8 * self._plan.width))
        self._job_cells = array("q", bytes(16 * self._plan.width))
        # The kernel's views of the cells above: packing into cells costs a third of filling a numpy array.
        self._row = np.frombuffer(self._row_cells, np.int64)
        self._job = np.frombuffer(self._job_cells, np.int64).reshape(2, -1)
        self._pack = struct.Struct(f"{self._plan.width}q").pack_into
        self._seq = -1
        self._watermark = kernel.BEFORE_ALL
        self._lateness_us = features.lateness_us
        self._kept_us = features.lateness_us + features.longest_window_us
        self._unusable: Counter[str] = Counter()

    @property
    def position(self) -> int:
        """The least state_seq at which the state can answer: one beyond the last change."""
        return self._seq + 1

    @property
    def watermark(self) -> int | None:
        """The largest known_time so far, µs; None before the first change."""
        return None if self._watermark == kernel.BEFORE_ALL else self._watermark

    def apply(self, change: Change) -> None:
        """Folds one change.

        Raises:
            DataError: the log is not in order, withdraws a row that is not live, or adds one that is; the state is
                then unfit and must be rebuilt.
        """
        if change.seq < self._seq:
            raise out_of_order(change.seq, self._seq)
        self._seq = change.seq
        self._watermark = max(self._watermark, change.known_time)
        horizon = self._watermark - self._kept_us
        if change.minus is not None and change.minus.kind in self._by_kind:
            self._withdraw(change.minus, change.seq, horizon=horizon)
        if change.plus is not None and change.plus.kind in self._by_kind:
            self._add(change.plus, change.seq, horizon=horizon)

    def apply_many(self, changes: Iterable[Change]) -> None:
        """Folds changes in order; an empty state is built at once, by one sort an entity name.

        Raises:
            DataError: as for `apply`.
        """
        if self._seq >= 0:
            for change in changes:
                self.apply(change)
            return
        changes = list(changes)
        if not changes:
            return
        live = live_rows(self._plan, changes, kept_us=self._kept_us)
        for entity, tokens in zip(self._entities, live.entities, strict=True):
            for token, rows in tokens:
                entity.put(token, rows)
        self._unusable.update(live.unusable)
        self._seq, self._watermark = changes[-1].seq, live.watermark

    def refused(self, point: Point) -> bool:
        """Returns whether the point lies before the watermark by more than the declared lateness."""
        return point.time < self._watermark - self._lateness_us

    def vector(self, point: Point) -> Float64s:
        """Returns the features at a point, float64 of shape (features,), in the order of declaration, never NaN.

        Raises:
            DataError: the point is refused as too late, or an entity holds more rows than declared.
            ReplayError: the state is beyond the point's position.
        """
        if point.state_seq <= self._seq:
            raise _beyond(point.state_seq, self.position)
        if self.refused(point):
            raise inadmissible(point.time, self._watermark, lateness=self.features.lateness)
        out = self._plan.blank.copy()
        self._set_job(point)
        subjects = point.subjects
        for entity in self._entities:
            plan = entity.plan
            token = plan.asked_token(subjects)
            if token is None:
                continue
            state = kernel.scan(entity.rows(token), plan.lanes, plan.outputs, self._job, out)
            if state == kernel.CROWDED:
                raise crowded(plan.entity, retain=self.features.retain)
        self._plan.write_request(point, out)
        return out

    def stats(self) -> StateStats:
        """Returns what the state holds; counts every entity, so it is for reports and not for requests."""
        arrays = [rows for entity in self._entities for rows in entity.by_token.values()]
        return StateStats(
            entities={entity.plan.entity: len(entity.by_token) for entity in self._entities},
            rows=sum(int(rows[0, 0]) for rows in arrays),
            bytes=sum(rows.nbytes for rows in arrays),
            unusable=dict(self._unusable),
        )

    def _set_job(self, point: Point) -> None:
        cells, own = self._job_cells, point.own
        cells[kernel.AT], cells[kernel.SKIPPED], cells[kernel.RETAIN] = point.time, point.root, self.features.retain
        if own is None or own.kind not in self._by_kind:
            cells[self._plan.width + kernel.KIND] = 0
        else:
            self._pack(cells, 8 * self._plan.width, *self._plan.row(own))

    def _withdraw(self, fact: Fact, seq: int, *, horizon: int) -> None:
        self._pack(self._row_cells, 0, *self._plan.row(fact))
        for entity in self._by_kind[fact.kind]:
            token = entity.plan.asked_token(fact.entities)
            if token is None:
                continue
            state = entity.retract(token, self._row, horizon=horizon)
            if state == kernel.ABSENT and fact.event_time > horizon:  # at or below it, it may have been pruned
                raise missing_row(seq, fact.root, entity=entity.plan.entity)

    def _add(self, fact: Fact, seq: int, *, horizon: int) -> None:
        row = self._plan.row(fact)
        if kernel.MISSING in row:
            self._unusable.update(self._plan.unusable(fact))
        if fact.event_time <= horizon:
            return
        self._pack(self._row_cells, 0, *row)
        for entity in self._by_kind[fact.kind]:
            token = entity.plan.asked_token(fact.entities)
            if token is not None and entity.insert(token, self._row, horizon=horizon) == kernel.TWICE:
                raise row_twice(seq, fact.root, entity=entity.plan.entity)


def _beyond(asked: int, position: int) -> ReplayError:
    return ReplayError(
        where="online features",
        given=f"a point at position {asked}, with the state at {position}",
        expected=f"a position of at least {position}",
        fix="Refold the log up to the point with decalog.features.offline.fold.",
    )
