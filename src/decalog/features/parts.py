"""The offline fold over int64 columns: one entity name after another, and of each a part of its tokens at a time.

What the kernel needs beside the columns (its steps, rows and jobs) exists for one part only, so the peak of memory is
the columns, the answer and a little; and a part fits into the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.features import kernel, sliding
from decalog.features.columnar import Images
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import inadmissible, missing_row, row_twice

Bools = npt.NDArray[np.bool_]
NONE = -1
"""Stands in a visit for no image or no point, and in `Asked.own` for no own event."""
_KEY_BITS = 63


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Points as columns; every array has one entry a point.

    Args:
        positions: state_seq.
        times: t, µs.
        roots: of the own event, −1 for none.
        own: row in `rows` of the own event; NONE where there is none, or none that a feature reads.
        rows: own events over all columns of the plan.
        tokens: one array an entity plan, MISSING where the entity is missing.
    """

    positions: Int64s
    times: Int64s
    roots: Int64s
    own: Int64s
    rows: Int64s
    tokens: tuple[Int64s, ...]

    def take(self, chosen: Bools) -> Asked:
        """Returns the points of a mask."""
        return msgspec.structs.replace(
            self,
            positions=self.positions[chosen],
            times=self.times[chosen],
            roots=self.roots[chosen],
            own=self.own[chosen],
            tokens=tuple(tokens[chosen] for tokens in self.tokens),
        )


class Visits(NamedTuple):
    """Images and points in the log's order: a visit is an image, a point, or a point and then an image.

    The two of one visit belong to the same entities. `same`: each visit, its point, image and own row have one number;
    the point is at the image's own time and root, and nothing is withdrawn.
    """

    images: Int64s
    points: Int64s
    same: bool = False


def visits_of(log: Images, positions: Int64s) -> Visits:
    """Returns images and points merged into the log's order: changes at 2·seq + 1, points at 2·position."""
    keys = np.concatenate([2 * log.seqs[log.changes] + 1, 2 * positions])
    order = np.argsort(keys, kind="stable")
    count = len(log.acts)
    return Visits(np.where(order < count, order, NONE), np.where(order < count, NONE, order - count))


def joined_points(plan: Plan, parts: Sequence[Asked]) -> Asked:
    """Returns the points of one block of the log after another as those of the whole."""
    none = np.zeros(0, np.int64)
    nobody = Asked(
        positions=none,
        times=none,
        roots=none,
        own=none,
        rows=np.zeros((0, plan.width), np.int64),
        tokens=(none,) * len(plan.entities),
    )
    blocks = [nobody, *parts]
    firsts = np.cumsum([0, *(len(part.rows) for part in blocks)])
    own = [np.where(part.own == NONE, NONE, part.own + first) for part, first in zip(blocks, firsts, strict=False)]
    return Asked(
        positions=np.concatenate([part.positions for part in blocks]),
        times=np.concatenate([part.times for part in blocks]),
        roots=np.concatenate([part.roots for part in blocks]),
        own=np.concatenate(own),
        rows=np.concatenate([part.rows for part in blocks]),
        tokens=tuple(np.concatenate([part.tokens[which] for part in blocks]) for which in range(len(plan.entities))),
    )


def watermarks_at(log: Images, positions: Int64s) -> Int64s:
    """Returns wm(p) of each position: the largest known_time of the changes before it, or before every time."""
    seen = np.searchsorted(log.seqs, positions, side="left")
    watermarks: Int64s = np.concatenate([np.array([kernel.BEFORE_ALL], np.int64), log.watermarks])
    return watermarks[seen]


def refused_of(plan: Plan, log: Images, *, asked: Asked) -> Bools:
    """Returns which points lie before their watermark by more than the declared lateness."""
    late: Bools = asked.times < watermarks_at(log, asked.positions) - plan.features.lateness_us
    return late


def check_admissible(plan: Plan, log: Images, *, asked: Asked) -> None:
    """Raises where a point is too late.

    Raises:
        DataError: the first of them.
    """
    for first in np.flatnonzero(refused_of(plan, log, asked=asked))[:1]:
        watermark = watermarks_at(log, asked.positions[first : first + 1])[0]
        raise inadmissible(int(asked.times[first]), int(watermark), lateness=plan.features.lateness)


def fold_parts(plan: Plan, log: Images, *, asked: Asked, visits: Visits) -> Float64s:
    """Returns the features over windows at points none of which is too late; the rest of the vectors is blank.

    Args:
        plan: of the features.
        log: all images.
        asked: all points.
        visits: both, in the log's order.

    Raises:
        DataError: the log withdraws a row that is not live or adds one that is.
    """
    out = np.empty((len(asked.times), len(plan.blank)))
    out[:] = plan.blank
    for which in range(len(plan.entities)):
        _EntityFold(plan, log, asked, visits=visits, which=which).write(out)
    return out


class _EntityFold:
    """The fold of one entity name."""

    def __init__(self, plan: Plan, log: Images, asked: Asked, *, visits: Visits, which: int) -> None:
        self.plan, self.log, self.asked = plan, log, asked
        self.entity: EntityPlan = plan.entities[which]
        self.points = visits.points
        self.same = visits.same and log.tokens[which] is asked.tokens[which]
        self.images, self.tokens = visits.images, asked.tokens[which]
        if not self.same:
            self.images, self.tokens = _visited(log, asked, visits=visits, which=which)

    def write(self, out: Float64s) -> None:
        log, asked, entity = self.log, self.asked, self.entity
        order = _by_token(self.tokens)
        slid, scanned = sliding.slid_outputs(entity.lanes, entity.outputs)
        state, image = sliding.fold_tokens(
            order,
            _edges(self.tokens[order]),
            self.images,
            self.points,
            log.acts,
            log.table,
            asked.times,
            asked.roots,
            asked.own,
            asked.rows,
            entity.picks,
            entity.lanes,
            entity.outputs,
            slid,
            sliding.windows_of(slid),
            scanned,
            self.plan.features.retain,
            int(self.same),
            self.plan.blank,
            self.plan.crowded,
            out,
        )
        if state != kernel.DONE:
            raise self._fault(state, image)

    def _fault(self, state: int, image: int) -> DataError:
        seq, root = int(self.log.seqs[self.log.changes[image]]), int(self.log.table[image, kernel.ROOT])
        return (row_twice if state == kernel.TWICE else missing_row)(seq, root, entity=self.entity.entity)


def _visited(log: Images, asked: Asked, *, visits: Visits, which: int) -> tuple[Int64s, Int64s]:
    """Returns of each visit the image, if the entity keeps it, and the token; MISSING where nothing is to be done."""
    there = np.flatnonzero(visits.images != NONE)
    tokens = np.full(len(visits.images), MISSING, np.int64)
    tokens[there] = log.tokens[which][visits.images[there]]
    images = np.where(tokens != MISSING, visits.images, NONE)
    there = np.flatnonzero(visits.points != NONE)
    tokens[there] = asked.tokens[which][visits.points[there]]
    return images, tokens


def _by_token(tokens: Int64s) -> Int64s:
    """Returns the visits that have a token, sorted by it; inside a token they stay in the log's order."""
    there = np.flatnonzero(tokens != MISSING)
    if not len(there):
        return there
    chosen = tokens[there]
    least, bits = int(chosen.min()), len(there).bit_length()
    if (int(chosen.max()) - least).bit_length() + bits < _KEY_BITS:
        # Token and place in one number: numpy sorts those several times as fast as it sorts indexes.
        keys = np.sort(((chosen - least) << bits) | np.arange(len(there)))
        order = keys & ((1 << bits) - 1)
    else:
        order = np.argsort(chosen, kind="stable")
    return order if len(there) == len(tokens) else there[order]


def _edges(tokens: Int64s) -> Int64s:
    """Returns where each token begins, and the end."""
    firsts = np.flatnonzero(np.diff(tokens)) + 1
    return np.concatenate([[0], firsts, [len(tokens)]]) if len(tokens) else np.zeros(1, np.int64)
