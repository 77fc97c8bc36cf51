"""The offline fold over int64 columns: one entity name after another, and of each a part of its tokens at a time.

What the kernel needs beside the columns (its steps, rows and jobs) exists for one part only, so the peak of memory is
the columns, the answer and a little; and a part fits into the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.features import kernel
from decalog.features.columnar import Images
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import crowded, inadmissible, missing_row, row_twice

Bools = npt.NDArray[np.bool_]
NONE = -1
"""Stands in a visit for no image or no point, and in `Asked.own` for no own event."""
PART_VISITS = 1 << 16
"""Visits of a part; a token with more is a part of its own."""


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

    The two of one visit belong to the same entities.
    """

    images: Int64s
    points: Int64s


def visits_of(log: Images, positions: Int64s) -> Visits:
    """Returns images and points merged into the log's order: changes at 2·seq + 1, points at 2·position."""
    keys = np.concatenate([2 * log.seqs[log.changes] + 1, 2 * positions])
    order = np.argsort(keys, kind="stable")
    images, points = len(log.acts), len(positions)
    return Visits(
        np.where(order < images, order, NONE),
        np.where(order < images, NONE, order - images) if points else np.full(images, NONE, np.int64),
    )


def watermarks_at(log: Images, positions: Int64s) -> Int64s:
    """Returns wm(p) of each position: the largest known_time of the changes before it, or before every time."""
    seen = np.searchsorted(log.seqs, positions, side="left")
    watermarks: Int64s = np.concatenate([np.array([kernel.BEFORE_ALL], np.int64), log.watermarks])
    return watermarks[seen]


def refused_of(plan: Plan, log: Images, asked: Asked) -> Bools:
    """Returns which points lie before their watermark by more than the declared lateness."""
    late: Bools = asked.times < watermarks_at(log, asked.positions) - plan.features.lateness_us
    return late


def check_admissible(plan: Plan, log: Images, asked: Asked) -> None:
    """Raises where a point is too late.

    Raises:
        DataError: the first of them.
    """
    for first in np.flatnonzero(refused_of(plan, log, asked))[:1]:
        watermark = watermarks_at(log, asked.positions[first : first + 1])[0]
        raise inadmissible(int(asked.times[first]), int(watermark), lateness=plan.features.lateness)


def fold_parts(plan: Plan, log: Images, asked: Asked, *, visits: Visits) -> Float64s:
    """Returns the features over windows at points none of which is too late; the rest of the vectors is blank.

    Args:
        plan: of the features.
        log: all images.
        asked: all points.
        visits: both, in the log's order.

    Raises:
        DataError: an entity holds more rows than declared, or the log withdraws a row that is not live or adds one
            that is.
    """
    out = np.empty((len(asked.times), len(plan.blank)))
    out[:] = plan.blank
    for which in range(len(plan.entities)):
        _EntityFold(plan, log, asked, visits=visits, which=which).write(out)
    return out


class _EntityFold:
    """The fold of one entity name."""

    def __init__(self, plan: Plan, log: Images, asked: Asked, *, visits: Visits, which: int) -> None:
        self.plan, self.log, self.asked, self.visits = plan, log, asked, visits
        self.entity: EntityPlan = plan.entities[which]
        self.kept: Bools = log.tokens[which] != MISSING
        self.places = np.unique(self.entity.outputs[:, kernel.PLACE])
        self.tokens = self._tokens(which)

    def _tokens(self, which: int) -> Int64s:
        """Returns whose each visit is; MISSING where nothing is to be done."""
        images, points = self.visits
        tokens = np.full(len(images), MISSING, np.int64)
        there = np.flatnonzero(images != NONE)
        tokens[there] = self.log.tokens[which][images[there]]
        there = np.flatnonzero(points != NONE)
        tokens[there] = self.asked.tokens[which][points[there]]
        return tokens

    def write(self, out: Float64s) -> None:
        order = _by_token(self.tokens)
        tokens = self.tokens[order]
        del self.tokens
        for start, stop, most in _parts(tokens):
            self._write_part(order[start:stop], tokens[start:stop], most=most, out=out)

    def _write_part(self, chosen: Int64s, tokens: Int64s, *, most: int, out: Float64s) -> None:
        images, points = self.visits.images[chosen], self.visits.points[chosen]
        reads = points != NONE
        changes = images != NONE
        changes[changes] = self.kept[images[changes]]
        images, points = images[changes], points[reads]
        steps = _steps(self.log.acts[images], tokens, reads=reads, changes=changes)
        part = np.empty((len(points), len(self.plan.blank)))
        part[:] = self.plan.blank
        entity = self.entity
        fault = kernel.fold(
            steps,
            self.log.table[images],
            self._jobs(points),
            entity.picks,
            entity.lanes,
            entity.outputs,
            most,
            part,
        )
        if fault:
            raise self._fault(fault, steps, images)
        for place in self.places.tolist():
            out[points, place] = part[:, place]

    def _jobs(self, points: Int64s) -> Int64s:
        """Returns one job of `kernel.scan` a point."""
        asked, own = self.asked, self.asked.own[points]
        jobs = np.zeros((len(points), 2, self.plan.width), np.int64)
        jobs[:, kernel.ASKED, kernel.AT] = asked.times[points]
        jobs[:, kernel.ASKED, kernel.SKIPPED] = asked.roots[points]
        jobs[:, kernel.ASKED, kernel.RETAIN] = self.plan.features.retain
        there = own != NONE
        jobs[there, kernel.OWN_ROW] = asked.rows[own[there]]
        return jobs

    def _fault(self, fault: int, steps: Int64s, images: Int64s) -> DataError:
        step, state = divmod(fault, 8)
        if state == kernel.CROWDED:
            return crowded(self.entity.entity, retain=self.plan.features.retain)
        image = images[steps[step, kernel.INDEX]]
        seq, root = int(self.log.seqs[self.log.changes[image]]), int(self.log.table[image, kernel.ROOT])
        return (row_twice if state == kernel.TWICE else missing_row)(seq, root, entity=self.entity.entity)


def _by_token(tokens: Int64s) -> Int64s:
    """Returns the visits that have a token, sorted by it; inside a token they stay in the log's order."""
    there = np.flatnonzero(tokens != MISSING)
    if not len(there):
        return there
    chosen = tokens[there]
    least, bits = int(chosen.min()), len(there).bit_length()
    if (int(chosen.max()) - least).bit_length() + bits < 63:
        # Token and place in one number: numpy sorts those several times as fast as it sorts indexes.
        keys = np.sort(((chosen - least) << bits) | np.arange(len(there)))
        order = keys & ((1 << bits) - 1)
    else:
        order = np.argsort(chosen, kind="stable")
    return order if len(there) == len(tokens) else there[order]


def _parts(tokens: Int64s) -> Iterator[tuple[int, int, int]]:
    """Yields (start, stop, most visits of one token) of parts that no token is cut by."""
    firsts = np.flatnonzero(np.diff(tokens)) + 1
    edges = np.concatenate([[0], firsts, [len(tokens)]]) if len(tokens) else np.zeros(1, np.int64)
    place = 0
    while place < len(edges) - 1:
        beyond = int(np.searchsorted(edges, edges[place] + PART_VISITS, side="right")) - 1
        stop = max(place + 1, beyond)
        yield int(edges[place]), int(edges[stop]), int(np.diff(edges[place : stop + 1]).max())
        place = stop


def _steps(acts: Int64s, tokens: Int64s, *, reads: Bools, changes: Bools) -> Int64s:
    """Returns the steps of `kernel.fold`: of each visit the point, which does not see the image, then the image."""
    steps = np.empty((len(tokens), 2, 3), np.int64)
    steps[:, :, kernel.TOKEN] = tokens[:, None]
    steps[:, 0, kernel.ACT] = kernel.READ
    steps[:, 0, kernel.INDEX] = np.cumsum(reads) - 1
    steps[changes, 1, kernel.ACT] = acts
    steps[:, 1, kernel.INDEX] = np.cumsum(changes) - 1
    flat = steps.reshape(-1, 3)
    there = np.column_stack([reads, changes]).ravel()
    return flat if there.all() else flat[there]
