"""Changes as int64 columns, for what reads a whole log at once: the offline fold, and the start of the online state."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.features import kernel
from decalog.features.facts import ALL, ALL_TOKEN, Change, Fact, Point
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan, looked_up
from decalog.features.refusals import missing_row, out_of_order, row_twice

Bools = npt.NDArray[np.bool_]
Timeline = dict[str, list[tuple[int, Mapping[str, float]]]]
"""Lookup table → its versions, each with the seq of its record, ascending."""
_PART = 20_000
"""Changes that are objects at a time."""
_BLOCK = 1024
"""Rows whose attributes stay in the processor's cache while one column after another is read from them."""


class Images(msgspec.Struct, frozen=True):
    """All images that changes withdraw and add, in the log's order (of one change, minus before plus).

    Args:
        seqs, watermarks: shape (changes,); the running maximum of known_time after each change, µs.
        acts: shape (images,), kernel.RETRACT or kernel.INSERT.
        changes: shape (images,), which change each comes from.
        table: shape (images, width of the plan).
        tokens: one array of shape (images,) an entity plan; MISSING where the entity is absent or keeps no such kind.
        unusable: column → added values that could not enter.
        tables: the versions of the lookup tables.
    """

    seqs: Int64s
    watermarks: Int64s
    acts: Int64s
    changes: Int64s
    table: Int64s
    tokens: tuple[Int64s, ...]
    unusable: Counter[str]
    tables: Timeline = {}


class LiveRows(msgspec.Struct, frozen=True):
    """The rows that are live after the last change, as the online state keeps them.

    Args:
        seq: of the last change.
        watermark: after it, µs.
        entities: one list of (token, row array) an entity plan.
        unusable: column → added values that could not enter.
        tables: lookup table → its numbers.
        newest: kind of row → known_time of the newest that was added, µs.
    """

    seq: int
    watermark: int
    entities: tuple[list[tuple[int, Int64s]], ...]
    unusable: Counter[str]
    tables: dict[str, Mapping[str, float]]
    newest: dict[str, int]


def images(plan: Plan, changes: Sequence[Change]) -> Images:
    """Returns the changes as columns; kinds that no feature reads are left out.

    Raises:
        DataError: the changes are not in the order of seq.
    """
    acts, origins, facts = _facts(plan, changes)
    table = rows_of(plan, facts)
    seqs = in_order(np.fromiter((change.seq for change in changes), np.int64, len(changes)))
    known = np.fromiter((change.known_time for change in changes), np.int64, len(changes))
    return Images(
        seqs=seqs,
        watermarks=np.maximum.accumulate(known),
        acts=acts,
        changes=origins,
        table=table,
        tokens=tuple(_tokens_kept(plan, entity, facts=facts, table=table) for entity in plan.entities),
        unusable=_unusable(plan, facts, missing=(table == MISSING) & (acts == kernel.INSERT)[:, None]),
        tables=timeline(changes),
    )


def rows_of(plan: Plan, facts: Sequence[Fact]) -> Int64s:
    """Returns `Plan.row` of every fact, column by column; shape (facts, width of the plan)."""
    table = np.empty((len(facts), plan.width), np.int64)
    table[:, kernel.TIME] = np.fromiter((fact.event_time for fact in facts), np.int64, len(facts))
    table[:, kernel.ROOT] = np.fromiter((fact.root for fact in facts), np.int64, len(facts))
    table[:, kernel.KIND] = np.fromiter((plan.bits[fact.kind] for fact in facts), np.int64, len(facts))
    for start in range(0, len(facts), _BLOCK):
        block = facts[start : start + _BLOCK]
        for place, read in enumerate(plan.cell_readers, kernel.FIRST_COLUMN):
            table[start : start + _BLOCK, place] = np.fromiter(map(read, block), np.int64, len(block))
    return table


def tokens_of(plan: EntityPlan, entities: Sequence[Mapping[str, int]]) -> Int64s:
    """Returns `EntityPlan.asked_token` of every row, MISSING where the entity is missing; shape (rows,)."""
    if plan.entity == ALL:
        return np.full(len(entities), ALL_TOKEN, np.int64)
    if plan.pair:
        asked = map(plan.asked_token, entities)
        return np.fromiter((MISSING if token is None else token for token in asked), np.int64, len(entities))
    name = plan.entity
    return np.fromiter((tokens.get(name, MISSING) for tokens in entities), np.int64, len(entities))


def write_requests(plan: Plan, points: Sequence[Point], *, out: Float64s, tables: Timeline | None = None) -> None:
    """Writes `Plan.write_request` of every point, feature by feature, into out of shape (points, features).

    Args:
        plan: of the features.
        points: where they are asked for.
        out: holds the features over windows.
        tables: the versions of the lookup tables along the log.
    """
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        attributes, times = [point.attributes for point in block], [point.time for point in block]
        for place, read in plan.request_readers:
            out[start : start + _BLOCK, place] = np.fromiter(map(read, attributes, times), np.float64, len(block))
    for place, lookup in plan.lookups:
        versions = (tables or {}).get(lookup.table)
        out[:, place] = lookup.missing_value
        if versions:
            out[:, place] = [
                looked_up(lookup, point.attributes, subjects=point.subjects, numbers=_version_at(versions, point))
                for point in points
            ]
    plan.formulas.write(out)


def timeline(changes: Iterable[Change]) -> Timeline:
    """Returns the versions of every lookup table, each with the seq since which it stands, in order."""
    versions: Timeline = {}
    for change in changes:
        if change.table is not None:
            versions.setdefault(change.table.name, []).append((change.seq, change.table.numbers))
    return versions


def _version_at(versions: Sequence[tuple[int, Mapping[str, float]]], point: Point) -> Mapping[str, float]:
    before = bisect.bisect_left(versions, point.state_seq, key=lambda version: version[0])
    return versions[before - 1][1] if before else {}


def in_order(seqs: Int64s) -> Int64s:
    """Returns the seqs.

    Raises:
        DataError: they go backwards.
    """
    for fault in np.flatnonzero(seqs[1:] < seqs[:-1])[:1]:
        raise out_of_order(int(seqs[fault + 1]), int(seqs[fault]))
    return seqs


def _facts(plan: Plan, changes: Sequence[Change]) -> tuple[Int64s, Int64s, list[Fact]]:
    """Returns the act, the index of the change, and the fact of each image of the kinds that features read."""
    acts, origins, facts = list[int](), list[int](), list[Fact]()
    for origin, change in enumerate(changes):
        for act, fact in ((kernel.RETRACT, change.minus), (kernel.INSERT, change.plus)):
            if fact is not None and fact.kind in plan.bits:
                acts.append(act)
                origins.append(origin)
                facts.append(fact)
    return np.array(acts, np.int64), np.array(origins, np.int64), facts


def _tokens_kept(plan: Plan, entity: EntityPlan, *, facts: Sequence[Fact], table: Int64s) -> Int64s:
    """Returns whose row each fact is; MISSING where the entity is missing or keeps no such kind."""
    tokens = tokens_of(entity, [fact.entities for fact in facts])
    tokens[table[:, kernel.KIND] & sum(plan.bits[kind] for kind in entity.kinds) == 0] = MISSING
    return tokens


def _unusable(plan: Plan, facts: Sequence[Fact], *, missing: Bools) -> Counter[str]:
    """Returns column → values that are there but gave a missing cell, of a mask in the shape of the table."""
    counts = Counter[str]()
    for place, column in enumerate(plan.columns, kernel.FIRST_COLUMN):
        there = [
            facts[row].attributes.get(column.name) is not None for row in np.flatnonzero(missing[:, place]).tolist()
        ]
        if any(there):
            counts[column.name] += sum(there)  # a name may stand for a number and an identity
    return counts


def joined_images(plan: Plan, parts: Sequence[Images]) -> Images:
    """Returns the images of one block of the log after another as those of the whole."""
    firsts = np.cumsum([0, *(len(part.seqs) for part in parts)])
    blocks = [images(plan, []), *parts]
    watermarks = np.concatenate([part.watermarks for part in blocks])
    return Images(
        seqs=np.concatenate([part.seqs for part in blocks]),
        watermarks=np.maximum.accumulate(watermarks),
        acts=np.concatenate([part.acts for part in blocks]),
        changes=np.concatenate([part.changes + first for part, first in zip(blocks, [0, *firsts], strict=False)]),
        table=np.concatenate([part.table for part in blocks]),
        tokens=tuple(np.concatenate([part.tokens[which] for part in blocks]) for which in range(len(plan.entities))),
        unusable=sum((part.unusable for part in blocks), Counter[str]()),
        tables=_joined_tables(parts),
    )


def _joined_tables(parts: Sequence[Images]) -> Timeline:
    tables: Timeline = {}
    for part in parts:
        for name, versions in part.tables.items():
            tables.setdefault(name, []).extend(versions)
    return tables


def live_rows(plan: Plan, changes: Iterable[Change], *, kept_us: int) -> LiveRows | None:
    """Returns what is live after all changes, without what no admissible window can reach any more; None for none.

    Few changes are objects at a time; what is out of reach already is let go before all is sorted.

    Args:
        plan: of the features.
        changes: from the beginning of the log.
        kept_us: lateness + longest window, µs.

    Raises:
        DataError: the changes are out of order, withdraw a row that is not live, or add one that is.
    """
    parts, newest, following = list[Images](), dict[str, int](), iter(changes)
    while block := list(itertools.islice(following, _PART)):
        part = images(plan, block)
        newest |= _newest(plan, part)
        parts.append(_after(part, int(part.watermarks[-1]) - kept_us))
    if not parts:
        return None
    log = joined_images(plan, parts)
    in_order(log.seqs)
    watermark = int(log.watermarks[-1])
    reachable = log.table[:, kernel.TIME] > watermark - kept_us
    entities = tuple(
        list(_entity_rows(log, entity, tokens=tokens, reachable=reachable, retain=plan.features.retain))
        for entity, tokens in zip(plan.entities, log.tokens, strict=True)
    )
    tables = {name: versions[-1][1] for name, versions in log.tables.items()}
    return LiveRows(int(log.seqs[-1]), watermark, entities, log.unusable, tables, newest)


def _after(log: Images, horizon: int) -> Images:
    """Returns the images with event_time > horizon, of all the changes."""
    kept = log.table[:, kernel.TIME] > horizon
    images = {"acts": log.acts[kept], "changes": log.changes[kept], "table": log.table[kept]}
    return msgspec.structs.replace(log, **images, tokens=tuple(tokens[kept] for tokens in log.tokens))


def _newest(plan: Plan, log: Images) -> dict[str, int]:
    added = log.acts == kernel.INSERT
    last = {kind: np.flatnonzero(added & (log.table[:, kernel.KIND] == bit))[-1:] for kind, bit in plan.bits.items()}
    return {kind: int(log.watermarks[log.changes[image[0]]]) for kind, image in last.items() if len(image)}


def _entity_rows(
    log: Images, plan: EntityPlan, *, tokens: Int64s, reachable: Bools, retain: int
) -> Iterator[tuple[int, Int64s]]:
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
    rows = np.ascontiguousarray(log.table[chosen[live]][:, plan.picks])
    edges = np.append(np.flatnonzero(np.diff(keys[:, 0], prepend=keys[:1, 0] - 1)), len(keys))
    stands, came = (np.append(0, np.cumsum(mask))[edges] for mask in (live, added))
    hot, owners = (np.diff(came) > retain).tolist(), keys[edges[:-1], 0].tolist()
    spans = zip(itertools.pairwise(edges.tolist()), itertools.pairwise(stands.tolist()), strict=True)
    for token, is_hot, (of_images, of_rows) in zip(owners, hot, spans, strict=True):
        if is_hot:  # it may have passed the bound: then it matters in which order rows came and went
            mine = np.sort(chosen[slice(*of_images)])
            yield token, kernel.replayed(log.acts[mine], log.table[mine], plan.picks, retain)
        elif of_rows[0] < of_rows[1]:
            yield token, kernel.with_room(rows[slice(*of_rows)])


def _check_turns(log: Images, plan: EntityPlan, *, chosen: Int64s, added: Bools, repeats: Bools) -> None:
    """Raises unless each row is first added, then withdrawn and added in turns."""
    before = np.zeros(len(chosen), np.bool_)
    before[1:] = added[:-1] & repeats[1:]
    for fault in np.flatnonzero(added == before)[:1]:
        image = chosen[fault]
        seq, root = int(log.seqs[log.changes[image]]), int(log.table[image, kernel.ROOT])
        raise (row_twice if added[fault] else missing_row)(seq, root, entity=plan.entity)
