"""The state of all windows in memory: changes go in as they are logged, vectors come out at the state's position."""

from __future__ import annotations

import itertools
import struct
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from decalog.candidates import Candidates
from decalog.errors import ReplayError
from decalog.features import kernel, live
from decalog.features.candidates import Crowd
from decalog.features.columnar import live_rows
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Fact, Point, TableVersion
from decalog.features.kernel import Float64s, Int64s
from decalog.features.packed import NEVER, PackedRows, Rest, Resting, View, merge, pack
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import inadmissible, missing_row, out_of_order, row_twice

_HAND_STEPS = 2
_TOGETHER = 4  # rows from which on one call for each entity name is less than one for each row


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

    resting: Resting | None = None

    def __init__(self, plan: EntityPlan, features: FeatureSet) -> None:
        self.plan, self.retain = plan, features.retain
        self._kept_us = features.lateness_us + features.longest_window_us
        self.by_token: dict[int, Int64s] = {}
        self._blank = kernel.with_room(np.empty((0, plan.picks.shape[0]), np.int64))
        self.none = self._blank[:1]
        # Tokens in the order in which they are looked at again, at most two a new token, so that no call pays for
        # more; and until which horizon each lived as far as is known.
        self._hand, self._lived = deque[int](), deque[int]()

    def rows(self, token: int) -> Int64s:
        rows = self.by_token.get(token)
        if rows is None and self.resting is not None:
            rows = self.resting.rows(token)
        return self.none if rows is None else rows

    def held(self, tokens: Int64s) -> list[Int64s]:
        """Returns `rows` of each token."""
        held = list(map(self.by_token.get, tokens.tolist(), itertools.repeat(self.none)))
        if self.resting is not None:
            for place in np.flatnonzero(self.resting.has(tokens)).tolist():
                held[place] = self.rows(int(tokens[place]))
        return held

    def insert(self, token: int, row: Int64s, *, horizon: int) -> int:
        count = len(self.by_token)
        rows = self._own(token, horizon)
        plan = self.plan
        state = live.insert_counted(rows, plan.picks, plan.lanes, row, self.retain)
        if state == kernel.FULL:
            self.by_token[token] = rows = self.refitted(rows, horizon)
            state = live.insert_counted(rows, plan.picks, plan.lanes, row, self.retain)
        self._drop_dead(horizon, len(self.by_token) - count)
        return state

    def insert_many(self, tokens: Sequence[int | None], table: Int64s, *, horizon: int) -> int | None:
        """Inserts each row of a table under its token; returns the place of one that is there already, or None."""
        count = len(self.by_token)
        known = [(place, token) for place, token in enumerate(tokens) if token is not None]
        for start in range(0, len(known), live.MANY):
            twice = self._insert_some(known[start : start + live.MANY], table, horizon=horizon)
            if twice is not None:
                return twice
        self._drop_dead(horizon, len(self.by_token) - count)
        return None

    def _insert_some(self, some: list[tuple[int, int]], table: Int64s, *, horizon: int) -> int | None:
        while some:
            arrays = [self._own(token, horizon) for _, token in some]
            arrays += [self.none] * (live.MANY - len(some))
            at = np.array([place for place, _ in some])
            left = live.insert_some(tuple(arrays), at, self.plan.picks, self.plan.lanes, table, self.retain)
            some = [one for which, one in enumerate(some) if left >> which & 1]
            # The first of each token goes alone, which makes room for the others.
            firsts = {token: place for place, token in reversed(some)}
            for token, place in firsts.items():
                if self.insert(token, table[place], horizon=horizon) == kernel.TWICE:
                    return place
            some = [(place, token) for place, token in some if firsts[token] != place]
        return None

    def _own(self, token: int, horizon: int) -> Int64s:
        """Returns a token's array to insert into, a new one where it has none."""
        rows = self.by_token.get(token)
        if rows is None:
            before = None if self.resting is None else self.resting.take(token)
            rows = self._blank.copy() if before is None else self.refitted(before, horizon)
            self.put(token, rows, lived=horizon + self._kept_us)
        return rows

    def retract(self, token: int, row: Int64s, *, horizon: int) -> int:  # noqa: ARG002  # rows elsewhere check with it
        return live.retract_counted(self.rows(token), self.plan.lanes, row)

    def refitted(self, rows: Int64s, horizon: int = kernel.BEFORE_ALL) -> Int64s:
        return live.refit_counted(rows, self.plan.lanes, len(self.plan.picks), horizon, live.COUNTED_FROM)

    def put(self, token: int, rows: Int64s, *, lived: int = kernel.BEFORE_ALL) -> None:
        self.by_token[token] = rows
        self._hand.append(token)
        self._lived.append(lived)

    def _drop_dead(self, horizon: int, added: int) -> None:
        """Looks at two tokens at most for each that was added; these stand last, and are not looked at."""
        for _ in range(min(_HAND_STEPS * added, len(self._hand) - added)):
            if self._lived[0] > horizon:
                break
            token, _ = self._hand.popleft(), self._lived.popleft()
            lived = kernel.newest(self.by_token[token])
            if lived <= horizon:
                del self.by_token[token]
            else:
                self._hand.append(token)
                self._lived.append(lived)
        if self.resting is not None and self.resting.newest <= horizon:
            self.resting = None

    def free(self, count: int) -> bool:
        """Lets go of so many tokens' arrays at the most; returns whether there are more."""
        self.resting = None
        for _ in range(min(count, len(self._hand))):
            self.by_token.pop(self._hand.popleft(), None)
            self._lived.popleft()
        return bool(self._hand)

    def packed(self, horizon: int) -> PackedRows:
        held = pack(self.by_token, width=self.plan.picks.shape[0])
        return (held if self.resting is None else merge(held, self.resting.left())).after(horizon)

    def view(self, *, since: int) -> View:
        arrays = self.by_token.values()
        counts = [int(rows[0, kernel.COUNTED]) for rows in arrays]
        recent = np.array([count - kernel.last_until(rows, since) for count, rows in zip(counts, arrays, strict=True)])
        oldest = min((int(rows[1, kernel.TIME]) for rows in arrays if rows[0, kernel.COUNTED]), default=NEVER)
        tokens, rows, resting = len(counts), sum(counts), 0
        if self.resting is not None:
            left = self.resting.counts()
            tokens, rows, resting = tokens + len(left), rows + int(left.sum()), self.resting.block.nbytes
            recent, oldest = np.append(recent, self.resting.recent(since)), min(oldest, self.resting.oldest())
        return View(
            entity=self.plan.entity,
            tokens=tokens,
            rows=rows,
            recent=recent,
            width=self.plan.picks.shape[0],
            bytes=resting + sum(rows.nbytes for rows in arrays),
            resting=resting,
            arrays=len(counts),
            oldest=None if oldest == NEVER else oldest,
        )


class OnlineState:
    """The state of one feature set after a position of the log.

    Args:
        features: the declarations.
        rows: makes what keeps the rows of one entity name; in this process, if nothing else is said.

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
    """Whether the rows are in this process: they are inserted into at once, and a snapshot of it holds them."""
    is_lost = False
    """Whether it can answer no more until it is built anew from the log."""

    def __init__(
        self, features: FeatureSet, rows: Callable[[EntityPlan, FeatureSet], _EntityRows] = _EntityRows
    ) -> None:
        self.features = features
        self.plan = Plan(features)
        self._entities = tuple(rows(plan, features) for plan in self.plan.entities)
        # Kind of row → whether each entity name keeps it.
        self._kept = {kind: tuple(kind in entity.plan.kinds for entity in self._entities) for kind in self.plan.bits}
        self._all_kept = tuple(True for _ in self._entities)
        self._scan_all, self._insert_all = self.plan.doors
        self._row_cells = array("q", bytes(8 * self.plan.width))
        self._job_cells = array("q", bytes(16 * self.plan.width))
        # The kernel's views of the cells above: packing into cells costs a third of filling a numpy array.
        self._row = np.frombuffer(self._row_cells, np.int64)
        self._job = np.frombuffer(self._job_cells, np.int64).reshape(2, -1)
        self._pack = struct.Struct(f"{self.plan.width}q").pack_into
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
            if kind in self._kept and len(some) >= _TOGETHER and self.is_here:
                horizon = self._advance(some[-1])
                self.newest[kind] = self._watermark
                self._add_many([change.plus for change in some if change.plus], some[-1].seq, horizon=horizon)
            else:
                for change in some:
                    self._apply(change)

    def _apply(self, change: Change) -> None:
        horizon = self._advance(change)
        if change.table is not None:
            self._tables[change.table.name] = change.table.numbers
        if change.minus is not None and change.minus.kind in self._kept:
            self._withdraw(change.minus, change.seq, horizon=horizon)
        if change.plus is not None and change.plus.kind in self._kept:
            self.newest[change.plus.kind] = self._watermark
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
        built = live_rows(self.plan, changes, kept_us=self._kept_us)
        if built is None:
            return
        for entity, tokens in zip(self._entities, built.entities, strict=True):
            for token, rows in tokens:
                is_many = self.is_here and rows[0, kernel.COUNTED] >= live.COUNTED_FROM
                entity.put(token, entity.refitted(rows) if is_many else rows, lived=built.watermark)
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
        if self._entities:  # the compiled door takes no empty tuple
            asked, rows = self._asked(point.subjects, self._all_kept)
            self._scan_all(rows, plan.lanes, plan.outputs, plan.spans, self._job, asked, plan.crowded, out)
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
        return Crowd(self.plan, point, candidates).vectors(self._entities, self._tables)

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

    def _asked(self, entities: Mapping[str, int], kept: tuple[bool, ...]) -> tuple[int, tuple[Int64s, ...]]:
        """Returns which entity names are kept and there, one bit each, and the row array of each."""
        asked, bit, rows = 0, 1, []
        for entity, is_kept in zip(self._entities, kept, strict=True):
            token = entity.plan.asked_token(entities) if is_kept else None
            if token is None:
                rows.append(entity.none)
            else:
                asked |= bit
                rows.append(entity.rows(token))
            bit <<= 1
        return asked, tuple(rows)

    def views(self, *, recent_us: int = 0) -> tuple[View, ...]:
        """Returns what each entity name takes; rows of the last `recent_us` before the watermark count as recent."""
        return tuple(entity.view(since=self._watermark - recent_us) for entity in self._entities)

    def rest(self) -> Rest:
        """Returns the canonical state (DESIGN §3a rule 10), to be read before the next change."""
        horizon = self._watermark - self._kept_us
        by_name = sorted(self._entities, key=lambda entity: entity.plan.entity)
        return Rest(
            seq=self._seq,
            watermark=self._watermark,
            unusable=dict(sorted(self._unusable.items())),
            newest=dict(sorted(self.newest.items())),
            entities=((entity.plan.entity, entity.packed(horizon)) for entity in by_name),
        )

    @classmethod
    def resumed(cls, features: FeatureSet, rest: Rest) -> OnlineState:
        """Returns the state that `rest` was taken of: it answers, and goes on, as if it had never stopped."""
        state = cls(features)
        state._seq, state._watermark = rest.seq, rest.watermark
        state._unusable.update(rest.unusable)
        state.newest.update(rest.newest)
        packed = dict(rest.entities)
        for entity in state._entities:
            entity.resting = Resting(packed[entity.plan.entity])
        return state

    def _advance(self, change: Change) -> int:
        """Takes a change's place in the log; returns the horizon."""
        if change.seq < self._seq:
            raise out_of_order(change.seq, self._seq)
        self._seq = change.seq
        self._watermark = max(self._watermark, change.known_time)
        return self._watermark - self._kept_us

    def _set_job(self, point: Point) -> None:
        cells, own = self._job_cells, point.own
        cells[kernel.AT], cells[kernel.SKIPPED] = point.time, point.root
        if own is None or own.kind not in self._kept:
            cells[self.plan.width + kernel.KIND] = 0
        else:
            self._pack(cells, 8 * self.plan.width, *self.plan.row(own))

    def _withdraw(self, fact: Fact, seq: int, *, horizon: int) -> None:
        self._pack(self._row_cells, 0, *self.plan.row(fact))
        for entity, is_kept in zip(self._entities, self._kept[fact.kind], strict=True):
            token = entity.plan.asked_token(fact.entities) if is_kept else None
            if token is None:
                continue
            state = entity.retract(token, self._row, horizon=horizon)
            if state == kernel.ABSENT and fact.event_time > horizon:  # at or below it, it may have been pruned
                raise missing_row(seq, fact.root, entity=entity.plan.entity)

    def _add(self, fact: Fact, seq: int, *, horizon: int) -> None:
        row = self.plan.row(fact)
        if kernel.MISSING in row:
            self._unusable.update(self.plan.unusable(fact))
        if fact.event_time <= horizon:
            return
        self._pack(self._row_cells, 0, *row)
        asked, rows = self._asked(fact.entities, self._kept[fact.kind])
        left = asked
        if self.is_here and asked:
            left = self._insert_all(
                rows, self.plan.picks, self.plan.lanes, self.plan.spans, self._row, asked, self.features.retain
            )
        for place, entity in enumerate(self._entities if left else ()):
            # A new token, one whose array has no room left, a row that is there already, or rows kept elsewhere.
            token = entity.plan.asked_token(fact.entities) if left >> place & 1 else None
            if token is not None and entity.insert(token, self._row, horizon=horizon) == kernel.TWICE:
                raise row_twice(seq, fact.root, entity=entity.plan.entity)

    def _add_many(self, facts: Sequence[Fact], seq: int, *, horizon: int) -> None:
        """Adds rows of one kind and one record: one call an entity name and `live.MANY` rows."""
        table = np.array([self.plan.row(fact) for fact in facts], np.int64)
        for place in np.flatnonzero((table == kernel.MISSING).any(axis=1)).tolist():
            self._unusable.update(self.plan.unusable(facts[place]))
        in_time = table[:, kernel.TIME] > horizon
        table, among = table[in_time], [fact.entities for fact, is_in in zip(facts, in_time, strict=True) if is_in]
        for entity, is_kept in zip(self._entities, self._kept[facts[0].kind], strict=True):
            twice = entity.insert_many(entity.plan.asked_tokens(among), table, horizon=horizon) if is_kept else None
            if twice is not None:
                raise row_twice(seq, int(table[twice, kernel.ROOT]), entity=entity.plan.entity)


def scan_inputs(state: OnlineState, entity: str, *, point: Point) -> tuple[Int64s, Int64s] | None:
    """Returns the rows and the job of `kernel.scan` for one entity name at a point, both the state's own.

    None where the entity is missing.
    """
    (mine,) = (rows for rows in state._entities if rows.plan.entity == entity)  # noqa: SLF001 - of this module
    token = mine.plan.asked_token(point.subjects)
    state._set_job(point)  # noqa: SLF001 - as there
    return None if token is None else (mine.rows(token), state._job)  # noqa: SLF001 - as there


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
