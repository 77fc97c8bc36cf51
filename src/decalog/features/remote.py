"""The state of all windows on another server, behind the methods of `OnlineState`, by the same kernel to the same bits.

What the log may still lose never leaves this process: a change waits here until it is durable, and what waits is laid
over the rows that a request reads. So the stored state holds nothing that is not in the log, and after any stop it is
brought up to date by applying the log from its mark on. docs/decisions/0019-features-on-redis.md has the argument.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from decalog.errors import DataError, DecalogError, LostStateError, StateError
from decalog.features import kernel
from decalog.features.candidates import Crowd
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.kernel import Float64s, Int64s
from decalog.features.online import OnlineState, StateStats
from decalog.features.packed import pack
from decalog.features.plan import EntityPlan
from decalog.features.refusals import missing_row, row_twice
from decalog.stores.base import INSERT, RETRACT, Leftovers, Mark, RowSteps, StateKey, StateStore

_SIGN = np.int64(kernel.MISSING)
_BLOCK = 1_000
"""Steps that wait before they are sent without a request, so that catching up with a log takes few round trips."""
_MOST = 200_000
"""Steps that may wait while the server is away; beyond them the state gives up."""


class _Step(NamedTuple):
    """One row that is added or withdrawn, and the change that it belongs to."""

    key: StateKey
    act: bytes
    row: Int64s
    seq: int
    watermark: int
    horizon: int

    @property
    def packed(self) -> bytes:
        return self.act + (self.horizon - kernel.MISSING).to_bytes(8) + (self.row ^ _SIGN).astype(">i8").tobytes()

    def fault(self) -> DataError:
        """Returns why a log in order holds no such step."""
        refused = row_twice if self.act == INSERT else missing_row
        return refused(self.seq, int(self.row[kernel.ROOT]), entity=self.key[0])


class RemoteState(OnlineState):
    """The state of one feature set, kept by a `StateStore`.

    It is used as an `OnlineState` is. `apply` costs no round trip: a vector sends what became durable and reads its
    rows in one. Where a state was kept before, `position` says from which seq on the log is to be applied.

    Args:
        features: the declarations.
        store: keeps the rows; this is its one user.
        durable: gives the position up to which the log is durable; None where all that is applied is.
    """

    is_here = False

    def __init__(self, features: FeatureSet, store: StateStore, *, durable: Callable[[], int] | None = None) -> None:
        super().__init__(features)
        self._store = store
        self._durable = durable
        self._waiting: deque[_Step] = deque()
        self._fault: DecalogError | None = None
        mark = store.known()
        if mark is not None:
            self._seq, self._watermark = mark

    def reset(self) -> None:
        """Begins anew with an empty state; what was stored vanishes by itself."""
        self._store.rebuild(())
        self._waiting.clear()
        self._unusable.clear()
        self.newest.clear()
        self._fault, self.is_lost = None, False
        self._seq, self._watermark = -1, kernel.BEFORE_ALL

    def apply(self, *changes: Change) -> None:
        """Folds changes; they are sent with a later vector or `flush`, which raises what is wrong with it.

        Raises:
            DataError: the changes are not in the order of seq; or as for `flush`.
        """
        super().apply(*changes)
        if changes and len(self._waiting) >= _BLOCK:
            # Not this change: another of the same record may follow. A server that is away is the next vector's matter.
            with contextlib.suppress(StateError):
                self._exchange((), before=changes[-1].seq)
        if len(self._waiting) >= _MOST:
            self._fault = _overdue(len(self._waiting))
            self._waiting.clear()

    def apply_many(self, changes: Iterable[Change]) -> None:
        """Folds changes in order, all of the last record's among them, and stores them.

        Raises:
            DataError: as for `OnlineState.apply`; the stored state is given up.
            StateError: the server is away; a state that was to be built must then be reset and built again.
        """
        is_new = self._seq < 0
        super().apply_many(changes)
        if is_new and self._seq >= 0:
            try:
                self._store.rebuild(self._built())
                self._store.exchange((), (), mark=Mark(self._seq, self._watermark))
            except StateError as error:
                self._fault = error
                raise
        self.flush()

    def flush(self) -> None:
        """Sends what is durable.

        Raises:
            DataError: a change withdrew a row that is not live, or added one that is; the state is then unfit.
            StateError: the server is away, or the state there is lost.
        """
        while True:
            self._exchange(())
            if not self._due(self._until()):
                return

    @property
    def left(self) -> Leftovers:
        """What states of the system keep on the server."""
        return self._store.left

    def close(self) -> None:
        """Flushes, and releases the store."""
        try:
            self.flush()
        finally:
            self._store.close()

    def vector(self, point: Point) -> Float64s:
        """See `OnlineState.vector`.

        Raises:
            DataError: as there, or as for `flush`.
            ReplayError: as there.
            StateError: the server is away, or the state there is lost or damaged.
        """
        tokens = (plan.asked_token(point.subjects) for plan in self.plan.entities)
        self._read([(name, token) for name, token in enumerate(tokens) if token is not None])
        return super().vector(point)

    def _bring(self, crowd: Crowd) -> None:
        self._read([(name, token) for name in range(len(self.plan.entities)) for token in crowd.tokens(name)])

    def stats(self) -> StateStats:
        """Returns what the server holds, pruned or not; `unusable` counts from when this state was opened."""
        widths = {plan.entity: 8 * len(plan.picks) for plan in self.plan.entities}
        tokens, rows, size = dict.fromkeys(widths, 0), 0, 0
        for entity, length in self._store.sizes():
            tokens[entity] += 1
            rows += length // widths[entity]
            size += length
        return StateStats(entities=tokens, rows=rows, bytes=size, unusable=dict(self._unusable))

    def _insert(self, table: Int64s, steps: Int64s) -> None:
        for row, name, token in steps.tolist():
            if token != kernel.MISSING:
                self._wait(name, token, act=INSERT, row=table[row])

    def _retract(self, name: int, token: int) -> int:
        self._wait(name, token, act=RETRACT, row=self._row)
        return kernel.DONE

    def _wait(self, name: int, token: int, *, act: bytes, row: Int64s) -> None:
        if self._fault is None:
            plan = self.plan.entities[name]
            key, mine = (plan.entity, token), row[plan.picks]
            self._waiting.append(_Step(key, act, mine, self._seq, self._watermark, self._horizon))

    def _read(self, asked: Sequence[tuple[int, int]]) -> None:
        """Reads the rows of (place of the entity name, token) in one round trip, and lays over them what waits."""
        keys = [(self.plan.entities[name].entity, token) for name, token in asked]
        read, waiting = self._exchange(keys), _by_key(self._waiting)
        found: dict[int, dict[int, Int64s]] = {}
        for (name, token), key, packed in zip(asked, keys, read, strict=True):
            rows = self._rows(self.plan.entities[name], packed, waiting=waiting.get(key, []))
            found.setdefault(name, {})[token] = rows
        self._live.clear()
        for name, by_token in found.items():
            self._live.load(name, pack(by_token, width=len(self.plan.entities[name].picks)))

    def _rows(self, plan: EntityPlan, packed: bytes, *, waiting: Sequence[_Step]) -> Int64s:
        """Returns what was read of a token, with what waits.

        Raises:
            StateError: it is no whole number of rows and a mark.
        """
        width = len(plan.picks)
        count, rest = divmod(len(packed), 8 * width)
        if rest != (8 if packed else 0):
            raise _misfit(plan.entity, len(packed))
        rows = np.zeros((1 + count + len(waiting), width), np.int64)
        rows[0, kernel.COUNTED], rows[0, kernel.MARK] = count, kernel.BEFORE_ALL
        if packed:
            cells = np.frombuffer(packed, ">i8").astype(np.int64) ^ _SIGN
            rows[1 : 1 + count], rows[0, kernel.MARK] = cells[:-1].reshape(count, width), cells[-1]
        for step in waiting:
            if step.act == INSERT:
                kernel.insert(rows, np.arange(width), step.row, self.features.retain)
            else:
                kernel.retract(rows, step.row)
        return rows

    def _built(self) -> Iterator[tuple[StateKey, int, bytes]]:
        """Yields what `OnlineState.apply_many` built, as it is stored, and lets go of it."""
        for name, plan in enumerate(self.plan.entities):
            packed = self._live.packed(name)
            ends = packed.heads + packed.counts
            for token, end, count in zip(packed.tokens.tolist(), ends.tolist(), packed.counts.tolist(), strict=True):
                rows = packed.block[end - count : end + 1]
                cells = np.append(rows[1:], rows[0, kernel.MARK]) ^ _SIGN
                yield (plan.entity, token), count, cells.astype(">i8").tobytes()
        self._live.clear()

    def _until(self) -> int:
        return self._seq + 1 if self._durable is None else self._durable()

    def _due(self, until: int) -> list[_Step]:
        """Returns the first steps below a seq, of whole records, as many as fit one round trip."""
        due = list(itertools.takewhile(lambda step: step.seq < until, itertools.islice(self._waiting, 2 * _BLOCK)))
        if len(due) == 2 * _BLOCK:
            due = [step for step in due if step.seq < due[-1].seq]
        return due

    def _exchange(self, keys: Sequence[StateKey], before: int | None = None) -> list[bytes]:
        """Sends the steps that are due, all below a seq, and returns the rows of keys after them."""
        try:
            return self._exchanged(keys, before)
        except LostStateError:
            self.is_lost = True
            raise

    def _exchanged(self, keys: Sequence[StateKey], before: int | None) -> list[bytes]:
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        self._forget_taken()
        due = self._due(self._until() if before is None else min(self._until(), before))
        if not due:
            return self._store.exchange((), keys)[1] if keys else []
        grouped = _by_key(due)
        retain = self.features.retain
        packed = [RowSteps(key, [step.packed for step in steps], retain) for key, steps in grouped.items()]
        refused, read = self._store.exchange(packed, keys, mark=Mark(due[-1].seq, due[-1].watermark))
        if refused is not None:
            self._fault = grouped[packed[refused.due].key][refused.step].fault()
            self._waiting.clear()
            raise self._fault
        self._forget_taken()
        return read

    def _forget_taken(self) -> None:
        """Lets go of the steps that the server has; where the reply was lost, the mark says whether it has them."""
        mark = self._store.known()
        while mark is not None and self._waiting and self._waiting[0].seq <= mark.seq:
            self._waiting.popleft()


def let_go(state: OnlineState) -> Iterator[None]:
    """Ends a state that nobody asks any more, wherever it is, bit by bit: giving back gigabytes at once stalls."""
    if isinstance(state, RemoteState):
        state._store.close()  # noqa: SLF001 - of this module; what was not sent, the log has
        return
    while state._live.free():  # noqa: SLF001 - as there
        yield


def _by_key(steps: Iterable[_Step]) -> dict[StateKey, list[_Step]]:
    grouped: dict[StateKey, list[_Step]] = {}
    for step in steps:
        grouped.setdefault(step.key, []).append(step)
    return grouped


def _misfit(entity: str, size: int) -> StateError:
    return StateError(
        where=f"features' state, entity {entity!r}",
        given=f"{size} bytes, which are no whole number of rows and a mark",
        expected="rows of this feature set",
        fix="Give each feature set a state of its own; reset this one to build it from the log.",
    )


def _overdue(steps: int) -> LostStateError:
    return LostStateError(
        where="features' state",
        given=f"{steps} changes of rows that the server did not take",
        expected=f"fewer than {_MOST}",
        fix="Look after the server: once it is back, decalog brings the state up from the log.",
    )
