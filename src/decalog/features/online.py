"""The state of all windows in memory: changes go in as they are logged, vectors come out at the state's position."""

from __future__ import annotations

import functools
import itertools
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from decalog.candidates import Candidates
from decalog.errors import ReplayError
from decalog.features import arena, kernel
from decalog.features.candidates import Crowd
from decalog.features.columnar import live_rows
from decalog.features.definition import FeatureSet
from decalog.features.facts import ALL, ALL_TOKEN, Change, Fact, Point, TableVersion
from decalog.features.kernel import Float64s, Int64s
from decalog.features.live import LiveRows
from decalog.features.packed import Rest, View, pack
from decalog.features.plan import Plan
from decalog.features.refusals import inadmissible, missing_row, out_of_order, row_twice

_TOGETHER = 4  # rows from which on one call for all of them is less than one for each


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


class OnlineState:
    """The state of one feature set after a position of the log.

    Args:
        features: the declarations.

    Attributes:
        plan: the declarations as the kernel's tables.
        newest: kind of row that features read → known_time of the newest one, µs.

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

    is_here = True
    """Whether the rows are in this process: a snapshot of it holds them."""
    is_lost = False
    """Whether it can answer no more until it is built anew from the log."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.plan = Plan(features)
        self._live = LiveRows(self.plan)
        # Kind of row → whether each entity name keeps it.
        self._kept = {kind: tuple(kind in one.kinds for one in self.plan.entities) for kind in self.plan.bits}
        self._all_kept = tuple(True for _ in self.plan.entities)
        self._row_cells = array("q", bytes(8 * self.plan.width))
        self._job_cells = array("q", bytes(16 * self.plan.width))
        self._token_cells = array("q", bytes(8 * len(self.plan.entities)))
        # The kernel's views of the cells above: packing into cells costs a third of filling a numpy array.
        self._row = np.frombuffer(self._row_cells, np.int64)
        self._table = self._row.reshape(1, -1)
        self._job = np.frombuffer(self._job_cells, np.int64).reshape(2, -1)
        self._tokens = np.frombuffer(self._token_cells, np.int64)
        self._steps = np.zeros((len(self._tokens), 3), np.int64)
        self._steps[:, 1] = np.arange(len(self._tokens))
        self._pack = struct.Struct(f"{self.plan.width}q").pack_into
        self._pack_tokens = struct.Struct(f"{len(self._tokens)}q").pack_into
        self._seq = -1
        self._watermark = kernel.BEFORE_ALL
        self._lateness_us = features.lateness_us
        self._kept_us = features.lateness_us + features.longest_window_us
        self._unusable: Counter[str] = Counter()
        self.newest: dict[str, int] = {}
        self._tables: dict[str, Mapping[str, float]] = {}

    @property
    def position(self) -> int:
        """The least state_seq at which the state can answer: one beyond the last change."""
        return self._seq + 1

    @property
    def watermark(self) -> int | None:
        """The largest known_time so far, µs; None before the first change."""
        return None if self._watermark == kernel.BEFORE_ALL else self._watermark

    def apply(self, *changes: Change) -> None:
        """Folds changes of one record; where it adds many rows of one kind, these go in together.

        Raises:
            DataError: the log is not in order, withdraws a row that is not live, or adds one that is; the state is
                then unfit and must be rebuilt.
        """
        for kind, run in itertools.groupby(changes, key=_added):
            some = list(run)
            if kind in self._kept and len(some) >= _TOGETHER:
                self._advance(some[-1])
                self.newest[kind] = self._watermark
                self._add_many([change.plus for change in some if change.plus])
            else:
                for change in some:
                    self._apply(change)

    def _apply(self, change: Change) -> None:
        self._advance(change)
        if change.table is not None:
            self._tables[change.table.name] = change.table.numbers
        if change.minus is not None and change.minus.kind in self._kept:
            self._withdraw(change.minus)
        if change.plus is not None and change.plus.kind in self._kept:
            self.newest[change.plus.kind] = self._watermark
            self._add(change.plus)

    def apply_many(self, changes: Iterable[Change]) -> None:
        """Folds changes in order; an empty state is built at once, by one sort an entity name.

        Raises:
            DataError: as for `apply`.
        """
        if self._seq >= 0:
            for change in changes:
                self.apply(change)
            return
        built = live_rows(self.plan, changes, kept_us=self._kept_us)
        if built is None:
            return
        for name, tokens in enumerate(built.entities):
            self._live.load(name, pack(dict(tokens), width=len(self.plan.entities[name].picks)))
        self._unusable.update(built.unusable)
        self.newest.update(built.newest)
        self._tables.update(built.tables)
        self._seq, self._watermark = built.seq, built.watermark

    def use_tables(self, versions: Iterable[TableVersion]) -> None:
        """Takes versions of lookup tables as they stood at the state's position."""
        self._tables.update({version.name: version.numbers for version in versions})

    def refused(self, point: Point) -> bool:
        """Returns whether the point lies before the watermark by more than the declared lateness."""
        return point.time < self._watermark - self._lateness_us

    def vector(self, point: Point) -> Float64s:
        """Returns the features at a point, float64 of shape (features,), in the order of declaration, never NaN.

        Raises:
            DataError: the point is refused as too late.
            ReplayError: the state is beyond the point's position.
        """
        self._check(point)
        plan, out = self.plan, self.plan.blank.copy()
        self._set_job(point)
        self._ask(point.subjects, self._all_kept)
        arena.scan_all(self._live.arena, self._live.tables, self._tokens, self._job, plan.crowded, out)
        self.plan.write_request(point, out, tables=self._tables)
        return out

    def vectors(self, point: Point, candidates: Candidates) -> Float64s:
        """Returns the features of each competing candidate of a request, float64 of shape (candidates, features).

        Each row is, bit for bit, the `vector` of the candidate laid over the request's point (`facts.laid_over`).

        Args:
            point: the request's.
            candidates: of the request.

        Raises:
            DataError: as for `vector`.
            ReplayError: as for `vector`.
        """
        self._check(point)
        if not candidates.competing:
            return np.empty((0, len(self.plan.blank)))
        crowd = Crowd(self.plan, point, candidates)
        self._bring(crowd)
        return crowd.vectors(self._live, self._tables)

    def _bring(self, crowd: Crowd) -> None:
        """Brings the rows of candidates here, where they are elsewhere."""

    def stats(self) -> StateStats:
        """Returns what the state holds; counts every entity, so it is for reports and not for requests."""
        views = self.views()
        return StateStats(
            entities={view.entity: view.tokens for view in views},
            rows=sum(view.rows for view in views),
            bytes=sum(view.bytes for view in views),
            unusable=dict(self._unusable),
        )

    def _check(self, point: Point) -> None:
        if point.state_seq <= self._seq:
            raise _beyond(point.state_seq, self.position)
        if self.refused(point):
            raise inadmissible(point.time, self._watermark, lateness=self.features.lateness)

    def _ask(self, entities: Mapping[str, int], kept: tuple[bool, ...]) -> None:
        """Writes down the token of each entity name that is kept; MISSING where it is not there."""
        tokens = [
            plan.asked_token(entities) if is_kept else None
            for plan, is_kept in zip(self.plan.entities, kept, strict=True)
        ]
        self._pack_tokens(self._token_cells, 0, *[kernel.MISSING if one is None else one for one in tokens])

    def views(self, *, recent_us: int = 0) -> tuple[View, ...]:
        """Returns what each entity name takes; rows of the last `recent_us` before the watermark count as recent."""
        since = self._watermark - recent_us
        return tuple(self._live.view(name, since=since) for name in range(len(self.plan.entities)))

    def rest(self) -> Rest:
        """Returns the canonical state (DESIGN §3a rule 10), to be read before the next change."""
        horizon = self._horizon
        by_name = sorted((plan.entity, name) for name, plan in enumerate(self.plan.entities))
        return Rest(
            seq=self._seq,
            watermark=self._watermark,
            unusable=dict(sorted(self._unusable.items())),
            newest=dict(sorted(self.newest.items())),
            entities=((entity, self._live.packed(name).after(horizon)) for entity, name in by_name),
        )

    @classmethod
    def resumed(cls, features: FeatureSet, rest: Rest) -> OnlineState:
        """Returns the state that `rest` was taken of: it answers, and goes on, as if it had never stopped."""
        state = cls(features)
        state._seq, state._watermark = rest.seq, rest.watermark
        state._unusable.update(rest.unusable)
        state.newest.update(rest.newest)
        names = {plan.entity: name for name, plan in enumerate(state.plan.entities)}
        for entity, packed in rest.entities:  # one goes in while others are read
            state._live.load(names[entity], packed)
        return state

    @property
    def _horizon(self) -> int:
        """The time up to which no row need be kept, µs."""
        return self._watermark - self._kept_us

    def _advance(self, change: Change) -> None:
        """Takes a change's place in the log."""
        if change.seq < self._seq:
            raise out_of_order(change.seq, self._seq)
        self._seq = change.seq
        self._watermark = max(self._watermark, change.known_time)

    def _set_job(self, point: Point) -> None:
        cells, own = self._job_cells, point.own
        cells[kernel.AT], cells[kernel.SKIPPED] = point.time, point.root
        if own is None or own.kind not in self._kept:
            cells[self.plan.width + kernel.KIND] = 0
        else:
            self._pack(cells, 8 * self.plan.width, *self.plan.row(own))

    def _withdraw(self, fact: Fact) -> None:
        self._pack(self._row_cells, 0, *self.plan.row(fact))
        for name, is_kept in enumerate(self._kept[fact.kind]):
            token = self.plan.entities[name].asked_token(fact.entities) if is_kept else None
            if token is None:
                continue
            state = self._retract(name, token)
            if state == kernel.ABSENT and fact.event_time > self._horizon:  # at or below it, it may have been pruned
                raise missing_row(self._seq, fact.root, entity=self.plan.entities[name].entity)

    def _add(self, fact: Fact) -> None:
        row = self.plan.row(fact)
        if kernel.MISSING in row:
            self._unusable.update(self.plan.unusable(fact, row))
        if fact.event_time <= self._horizon:
            return
        self._pack(self._row_cells, 0, *row)
        self._ask(fact.entities, self._kept[fact.kind])
        self._steps[:, 2] = self._tokens
        self._insert(self._table, self._steps)

    def _add_many(self, facts: Sequence[Fact]) -> None:
        """Adds rows of one kind and one record in one call."""
        rows = [self.plan.row(fact) for fact in facts]
        for fact, row in zip(facts, rows, strict=True):
            if lost := self.plan.unusable(fact, row):
                self._unusable.update(lost)
        table = np.array(rows, np.int64)
        places = np.flatnonzero(table[:, kernel.TIME] > self._horizon)
        among = [facts[place].entities for place in places.tolist()]
        names = np.flatnonzero(self._kept[facts[0].kind])
        steps = np.empty((len(names), len(places), 3), np.int64)
        steps[:, :, 0], steps[:, :, 1] = places, names[:, None]
        # One name stands in several pairs.
        columns = functools.cache(lambda name: _tokens(among, name))
        for which, name in enumerate(names.tolist()):
            steps[which, :, 2] = self.plan.entities[name].asked_tokens(columns)
        self._insert(table, steps.reshape(-1, 3))

    def _insert(self, table: Int64s, steps: Int64s) -> None:
        """Adds rows to tokens; see `arena.insert`."""
        twice = self._live.insert(table, steps, horizon=self._horizon)
        if twice >= 0:
            row, name, _ = steps[twice].tolist()
            raise row_twice(self._seq, int(table[row, kernel.ROOT]), entity=self.plan.entities[name].entity)

    def _retract(self, name: int, token: int) -> int:
        """Withdraws the row that was packed; returns what `kernel.retract` does."""
        return self._live.retract(name, token, row=self._row)


def scan_inputs(state: OnlineState, entity: str, *, point: Point) -> tuple[Int64s, Int64s] | None:
    """Returns the rows and the job of `kernel.scan` for one entity name at a point.

    None where the entity is missing.
    """
    ((name, plan),) = ((name, plan) for name, plan in enumerate(state.plan.entities) if plan.entity == entity)
    token = plan.asked_token(point.subjects)
    state._set_job(point)  # noqa: SLF001 - of this module
    return None if token is None else (state._live.rows(name, token), state._job)  # noqa: SLF001 - as there


def _tokens(among: Sequence[Mapping[str, int]], name: str) -> Int64s:
    """Returns the token of one entity name of each; MISSING for none."""
    if name == ALL:
        return np.full(len(among), ALL_TOKEN)
    return np.array([entities.get(name, kernel.MISSING) for entities in among], np.int64)


def _added(change: Change) -> str:
    """Returns the kind of the row that a change adds, and does nothing else; "" where it is another."""
    return change.plus.kind if change.plus is not None and change.minus is None and change.table is None else ""


def _beyond(asked: int, position: int) -> ReplayError:
    return ReplayError(
        where="online features",
        given=f"a point at position {asked}, with the state at {position}",
        expected=f"a position of at least {position}",
        fix="Refold the log up to the point with decalog.features.offline.fold.",
    )
