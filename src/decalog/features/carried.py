"""The offline fold in pieces: steps come in runs of any length, and an entity's rows are carried from run to run.

Engines that hold one partition of the entities at a time hand over what `offline.fold` reads at once. Steps come sorted
by token, and inside a token in the log's order: images at 2·seq + 1, withdrawals before additions, points at 2·p. That
order is checked, since a step out of place would give other bits and no error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.features import kernel
from decalog.features.kernel import Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import missing_row, row_twice

_F = TypeVar("_F", bound=Callable[..., object])
_ROOM = 64
"""Rows that the first entity has room for; the array of the entity before is used again."""

# Columns of a step for the compiled loop: what to do, with which job, for whom, and up to which time rows may go.
_ACT, _JOB, _TOKEN, _HORIZON = 0, 1, 2, 3
_ALL_DONE = -1


class Steps(msgspec.Struct, frozen=True):
    """A run of one entity name's steps.

    Args:
        tokens: shape (steps,), whose rows.
        keys: shape (steps,), 2·seq + 1 of an image, 2·state_seq of a point.
        acts: shape (steps,), kernel.RETRACT, INSERT or READ.
        times: shape (steps,), the watermark after an image, or the t of a point, µs.
        roots: shape (steps,), the root that a point does not see; of an image it is not read.
        table: shape (steps, width of the plan), the row of an image, or a point's own row (kind 0 for none).
    """

    tokens: Int64s
    keys: Int64s
    acts: Int64s
    times: Int64s
    roots: Int64s
    table: Int64s


class CarriedFold:
    """The fold of one entity name over a sorted run of steps that arrives in pieces.

    Rows that no admissible point can reach any more are dropped when an entity's array is full, so that a piece of the
    log is bounded by its longest window and not by its length. A withdrawal that finds nothing raises, unless the row
    may have been dropped.

    Args:
        plan: of the features.
        entity: one of the plan's.
    """

    def __init__(self, plan: Plan, entity: EntityPlan) -> None:
        self._plan = plan
        self._entity = entity
        self._kept_us = plan.features.lateness_us + plan.features.longest_window_us
        self._rows: Int64s = np.empty((_ROOM + 1, entity.picks.shape[0]), np.int64)
        kernel.clear(self._rows)
        self._dropped = kernel.BEFORE_ALL
        self._last: tuple[int, int, int] | None = None

    def values(self, steps: Steps) -> Float64s:
        """Returns the vectors at the run's points, shape (points, features); only this entity's places are filled.

        Args:
            steps: at least one; they follow those of the call before.

        Raises:
            DataError: the steps are not in order, a row is withdrawn that is not live, or added twice.
        """
        self._check_order(steps)
        reads = np.flatnonzero(steps.acts == kernel.READ)
        out = np.tile(self._plan.blank, (len(reads), 1))
        table = np.array(steps.table, np.int64, order="C")  # engines lend arrays that may not be written
        token = int(steps.tokens[0]) if self._last is None else self._last[0]
        entity = self._entity
        self._rows, self._dropped, fault = _advance(
            self._rows,
            self._dropped,
            token,
            self._compact(steps),
            table,
            self._jobs(steps, reads),
            entity.picks,
            entity.lanes,
            entity.outputs,
            self._plan.features.retain,
            self._plan.crowded,
            out,
        )
        if fault != _ALL_DONE:
            self._refuse(steps, fault)
        self._last = (int(steps.tokens[-1]), int(steps.keys[-1]), int(steps.acts[-1]))
        return out

    def _compact(self, steps: Steps) -> Int64s:
        compact = np.empty((len(steps.acts), 4), np.int64)
        compact[:, _ACT] = steps.acts
        compact[:, _JOB] = np.cumsum(steps.acts == kernel.READ) - 1
        compact[:, _TOKEN] = steps.tokens
        compact[:, _HORIZON] = steps.times - self._kept_us
        return compact

    def _jobs(self, steps: Steps, reads: npt.NDArray[np.intp]) -> Int64s:
        jobs = np.zeros((len(reads), 2, self._plan.width), np.int64)
        jobs[:, kernel.ASKED, kernel.AT] = steps.times[reads]
        jobs[:, kernel.ASKED, kernel.SKIPPED] = steps.roots[reads]
        jobs[:, kernel.OWN_ROW] = steps.table[reads]
        return jobs

    def _check_order(self, steps: Steps) -> None:
        places = np.column_stack([steps.tokens, steps.keys, steps.acts])
        if self._last is not None:
            places = np.vstack([np.array([self._last], np.int64), places])
        grows = places[1:] > places[:-1]
        equal = places[1:] == places[:-1]
        ordered = grows[:, 0] | equal[:, 0] & (grows[:, 1] | equal[:, 1] & (grows[:, 2] | equal[:, 2]))
        for fault in np.flatnonzero(~ordered)[:1]:
            raise _unsorted(int(places[fault + 1, 1]), int(places[fault, 1]), entity=self._entity.entity)

    def _refuse(self, steps: Steps, fault: int) -> NoReturn:
        step, state = divmod(fault, 8)
        seq, root = int(steps.keys[step]) // 2, int(steps.table[step, kernel.ROOT])
        raise (row_twice if state == kernel.TWICE else missing_row)(seq, root, entity=self._entity.entity)


def _compiled(function: _F) -> _F:
    """Returns the function compiled if the kernel is; uncached, since a cache does not see that the kernel changed."""
    if not hasattr(kernel.scan, "py_func"):
        return function
    import numba

    return cast("_F", numba.njit(nogil=True, error_model="numpy")(function))


@_compiled
def _advance(
    rows: Int64s,
    dropped: int,
    token: int,
    steps: Int64s,
    table: Int64s,
    jobs: Int64s,
    picks: Int64s,
    lanes: Int64s,
    outputs: Int64s,
    retain: int,
    crowded: Float64s,
    out: Float64s,
) -> tuple[Int64s, int, int]:
    """Folds a run; returns the last entity's rows, the time up to which some were dropped, and the fault or −1.

    A fault is 8 × step + what went wrong there.
    """
    for step in range(steps.shape[0]):
        if steps[step, _TOKEN] != token:
            token, dropped = steps[step, _TOKEN], kernel.BEFORE_ALL
            kernel.clear(rows)
        act, state = steps[step, _ACT], kernel.DONE
        if act == kernel.INSERT:
            if rows[0, kernel.COUNTED] + 1 == rows.shape[0]:
                rows, dropped = kernel.refit(rows, steps[step, _HORIZON]), max(dropped, steps[step, _HORIZON])
            state = kernel.insert(rows, picks, table[step], retain)
        elif act == kernel.RETRACT:
            state = kernel.retract(rows, table[step])
            if state == kernel.ABSENT and table[step, kernel.TIME] <= dropped:
                state = kernel.DONE
        else:
            job = steps[step, _JOB]
            kernel.scan(rows, lanes, outputs, jobs[job], crowded, out[job])
        if state != kernel.DONE:
            return rows, dropped, 8 * step + state
    return rows, dropped, _ALL_DONE


def _unsorted(key: int, last: int, *, entity: str) -> DataError:
    return DataError(
        where=f"steps of entity {entity!r}",
        given=f"a step at {key} after one at {last} of the same or a later token",
        expected="steps sorted by token, by 2·seq + 1 or 2·state_seq, and withdrawals before additions",
        fix="Sort inside each partition after the rows were divided among them.",
    )
