"""Changes as int64 columns, for what reads a whole log at once: the offline fold, and the start of the online state."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.features import kernel
from decalog.features.facts import Change, Fact
from decalog.features.kernel import MISSING, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import missing_row, out_of_order, row_twice

Bools = npt.NDArray[np.bool_]


class Images(msgspec.Struct, frozen=True):
    """All images that changes withdraw and add, in the log's order (of one change, minus before plus).

    Args:
        seqs, watermarks: shape (changes,); the running maximum of known_time after each change, µs.
        acts: shape (images,), kernel.RETRACT or kernel.INSERT.
        changes: shape (images,), which change each comes from.
        table: shape (images, width of the plan).
        tokens: one array of shape (images,) an entity plan; MISSING where the entity is absent or keeps no such kind.
        unusable: column → added values that could not enter.
    """

    seqs: Int64s
    watermarks: Int64s
    acts: Int64s
    changes: Int64s
    table: Int64s
    tokens: tuple[Int64s, ...]
    unusable: Counter[str]


class LiveRows(msgspec.Struct, frozen=True):
    """The rows that are live after the last change, as the online state keeps them.

    Args:
        watermark: after the last change, µs.
        entities: one list of (token, row array) an entity plan.
        unusable: column → added values that could not enter.
    """

    watermark: int
    entities: tuple[list[tuple[int, Int64s]], ...]
    unusable: Counter[str]


def images(plan: Plan, changes: Sequence[Change]) -> Images:
    """Returns the changes as columns; kinds that no feature reads are left out.

    Raises:
        DataError: the changes are not in the order of seq.
    """
    acts, origins, cells = array("q"), array("q"), array("q")
    tokens = tuple(array("q") for _ in plan.entities)
    unusable: Counter[str] = Counter()
    for origin, act, fact in _facts(plan, changes):
        row = plan.row(fact)
        if act == kernel.INSERT and MISSING in row:
            unusable.update(plan.unusable(fact))
        acts.append(act)
        origins.append(origin)
        cells.extend(row)
        for entity, column in zip(plan.entities, tokens, strict=True):
            token = entity.token_of(fact)
            column.append(MISSING if token is None else token)
    seqs = _in_order(np.fromiter((change.seq for change in changes), np.int64, len(changes)))
    known = np.fromiter((change.known_time for change in changes), np.int64, len(changes))
    return Images(
        seqs=seqs,
        watermarks=np.maximum.accumulate(known),
        acts=_int64s(acts),
        changes=_int64s(origins),
        table=_int64s(cells).reshape(-1, plan.width),
        tokens=tuple(_int64s(column) for column in tokens),
        unusable=unusable,
    )


def _in_order(seqs: Int64s) -> Int64s:
    for fault in np.flatnonzero(seqs[1:] < seqs[:-1])[:1]:
        raise out_of_order(int(seqs[fault + 1]), int(seqs[fault]))
    return seqs


def _facts(plan: Plan, changes: Sequence[Change]) -> Iterator[tuple[int, int, Fact]]:
    """Yields (index of the change, act, image) for the kinds that features read."""
    for origin, change in enumerate(changes):
        if change.minus is not None and change.minus.kind in plan.bits:
            yield origin, kernel.RETRACT, change.minus
        if change.plus is not None and change.plus.kind in plan.bits:
            yield origin, kernel.INSERT, change.plus


def live_rows(plan: Plan, changes: Sequence[Change], *, kept_us: int) -> LiveRows:
    """Returns what is live after at least one change, without what no admissible window can reach any more.

    Args:
        plan: of the features.
        changes: from the beginning of the log.
        kept_us: lateness + longest window, µs.

    Raises:
        DataError: the changes are out of order, withdraw a row that is not live, or add one that is.
    """
    log = images(plan, changes)
    watermark = int(log.watermarks[-1])
    reachable = log.table[:, kernel.TIME] > watermark - kept_us
    entities = tuple(
        list(_entity_rows(log, entity, tokens=tokens, reachable=reachable))
        for entity, tokens in zip(plan.entities, log.tokens, strict=True)
    )
    return LiveRows(watermark, entities, log.unusable)


def _entity_rows(log: Images, plan: EntityPlan, *, tokens: Int64s, reachable: Bools) -> Iterator[tuple[int, Int64s]]:
    chosen = np.flatnonzero(reachable & (tokens != MISSING))
    keys = np.column_stack([tokens[chosen], log.table[chosen, : kernel.FIRST_COLUMN]])
    # Stable, so the images of one row stay in the log's order.
    order = np.lexsort(keys.T[::-1])
    chosen, keys = chosen[order], keys[order]
    added = log.acts[chosen] == kernel.INSERT
    repeats = np.zeros(len(chosen), np.bool_)
    repeats[1:] = (keys[1:] == keys[:-1]).all(axis=1)
    _check_turns(log, plan, chosen=chosen, added=added, repeats=repeats)
    last = np.ones(len(chosen), np.bool_)
    last[:-1] = ~repeats[1:]
    live = last & added
    rows, owners = np.ascontiguousarray(log.table[chosen[live]][:, plan.picks]), keys[live, 0]
    starts = np.flatnonzero(np.diff(owners, prepend=owners[:1] - 1)) if len(owners) else np.zeros(0, np.int64)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(owners)], strict=False):
        yield int(owners[start]), kernel.with_room(rows[start:end])


def _check_turns(log: Images, plan: EntityPlan, *, chosen: Int64s, added: Bools, repeats: Bools) -> None:
    """Raises unless each row is first added, then withdrawn and added in turns."""
    before = np.zeros(len(chosen), np.bool_)
    before[1:] = added[:-1] & repeats[1:]
    for fault in np.flatnonzero(added == before)[:1]:
        image = chosen[fault]
        seq, root = int(log.seqs[log.changes[image]]), int(log.table[image, kernel.ROOT])
        raise (row_twice if added[fault] else missing_row)(seq, root, entity=plan.entity)


def _int64s(values: array[int]) -> Int64s:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
