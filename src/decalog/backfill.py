"""Backfill: what the features of today would have been at every logged request, written beside the log as Parquet.

    <folder>/<system>/<version of the feature set>/<log position>.parquet     one row a request

The values are those of the same fold that serving, training and replay use, at each request's own state_seq and time.
It only reads the log, up to a pinned position, so it runs in its own process beside a server. The file is a copy, whole
or not there; the same log and declarations give the same one again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.events import Event, Record, decode_event
from decalog.features.columnar import Images, Timeline, images, joined_images, write_requests
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.kernel import Float64s
from decalog.features.offline import asked_of
from decalog.features.parts import Asked, fold_parts, joined_points, refused_of, visits_of
from decalog.features.plan import Plan
from decalog.folding import changes_of, point
from decalog.log import Log
from decalog.standing import Standing
from decalog.stores import parquet
from decalog.system import System

BLOCK = 20_000
"""Records that are held as objects at a time."""
Bools = npt.NDArray[np.bool_]


class Backfilled(msgspec.Struct, frozen=True, kw_only=True):
    """What a backfill gave.

    Args:
        path: of the file.
        version: of the feature set.
        position: of the log, exclusive.
        requests: rows of the file.
        refused: requests that came too late for exact features; their values are missing.
        compared: decisions that were logged with features of this version.
        differing: those of them whose logged bits are others; 0, or something is wrong.
    """

    path: Path
    version: str
    position: int
    requests: int
    refused: int
    compared: int
    differing: int

    def text(self) -> str:
        """Returns it in three lines."""
        return (
            f"{self.requests:,} requests below log position {self.position:,}, features {self.version}\n"
            f"{self.refused:,} too late for exact features; {self.compared:,} decided with these features, "
            f"{self.differing:,} of them with other bits\n{self.path}\n"
        )


class _Request(NamedTuple):
    record: Record
    asked: Point
    decision: Decision | None


_Block = tuple[list[Change], list[_Request]]


def backfill(system: System, log: Log, *, folder: Path) -> Backfilled:
    """Writes the features of all requests of a system up to the log's present position.

    Columns: seq, id, kind (`decision`, or `event` for imported history), event_time and known_time (µs), state_seq,
    features_version (what it was decided with), refused, and one column a feature, missing where refused.

    Args:
        system: with its present declarations.
        log: to read; a server may be writing to it meanwhile.
        folder: of all backfills of the home.

    Raises:
        DataError: the log contradicts itself, or an entity holds more rows than declared.
    """
    plan, position = Plan(system.features), log.position
    logs, points, stamps = list[Images](), list[Asked](), list[npt.NDArray[Any]]()
    for changes, requests in _blocks(system, log, position):
        logs.append(images(plan, changes))
        points.append(asked_of(plan, [request.asked for request in requests]))
        stamps += [np.array(_stamps(request), object) for request in requests]
    history, asked = joined_images(plan, logs), joined_points(plan, points)
    late = refused_of(plan, history, asked=asked)
    exact = asked.take(~late)
    values = np.full((len(late), len(plan.blank)), plan.blank)
    values[~late] = fold_parts(plan, history, asked=exact, visits=visits_of(history, exact.positions))
    tables = history.tables
    compared, differing = _finish(_blocks(system, log, position), plan, tables=tables, late=late, values=values)
    path = folder / system.name / system.features.version / f"{position:012d}.parquet"
    parquet.write_table(path, _columns(system, stamps, late=late, values=values))
    return Backfilled(
        path=path,
        version=system.features.version,
        position=position,
        requests=len(late),
        refused=int(late.sum()),
        compared=compared,
        differing=differing,
    )


def _blocks(system: System, log: Log, position: int) -> Iterator[tuple[list[Change], list[_Request]]]:
    """Yields changes and requests of a block of records at a time, so that few are objects at once."""
    own = _own(system, log, position)
    reads = system.features.reads
    while block := list(itertools.islice(own, BLOCK)):
        pairs = [(record, _body(record)) for record in block]
        changes = [c for record, body in pairs for c in changes_of(record, body, past=log, reads=reads)]
        asked = [(record, body) for record, body in pairs if body is not None and _is_request(system, record, body)]
        yield changes, [_request(record, body) for record, body in asked]


def _own(system: System, log: Log, position: int) -> Iterator[Record]:
    """Yields the admitted records of a system that were not erased."""
    standing = Standing.of(log, system.name)
    for record in log.read(0, position):
        if record.system == system.name and not record.reason and not standing.hides(record):
            yield record


def _body(record: Record) -> Event | Decision | None:
    """Returns what features may be asked at; None for outcomes and tables."""
    if record.kind == "decision":
        return decode_decision(record.body)
    return decode_event(record.body) if record.kind == "event" else None


def _is_request(system: System, record: Record, body: Event | Decision) -> bool:
    """Returns whether features were asked for at a record: a decision, or the first image of a request of history."""
    if isinstance(body, Decision):
        return True
    return record.root == record.seq and not body.deleted and body.kind == system.schema.request.name


def _request(record: Record, body: Event | Decision) -> _Request:
    if isinstance(body, Decision):
        return _Request(record, point(body.request, body.state_seq, root=record.seq), body)
    return _Request(record, point(body, record.seq, root=record.seq), None)


def _stamps(request: _Request) -> list[Any]:
    record, asked, decision = request
    version = "" if decision is None else decision.versions.features
    return [record.seq, record.id, record.kind, asked.time, record.known_time, asked.state_seq, version]


def _finish(
    blocks: Iterable[tuple[list[Change], list[_Request]]],
    plan: Plan,
    *,
    tables: Timeline,
    late: Bools,
    values: Float64s,
) -> tuple[int, int]:
    """Writes the features of the requests themselves; returns how many vectors the log has too, and how many differ.

    The log is read a second time, because a million requests as objects are a gigabyte.
    """
    place = compared = differing = 0
    for _, requests in blocks:
        block = slice(place, place + len(requests))
        write_requests(plan, [request.asked for request in requests], out=values[block], tables=tables)
        for request, row, is_late in zip(requests, values[block], late[block].tolist(), strict=True):
            logged = b"" if is_late else _logged(plan.features, request.decision)
            compared += bool(logged)
            differing += bool(logged) and unpack_features(logged).tobytes() != row.tobytes()
        place += len(requests)
    return compared, differing


def _logged(features: FeatureSet, decision: Decision | None) -> bytes:
    if decision is None or decision.versions.features != features.version or len(decision.candidates) != 1:
        return b""
    return decision.candidates[0].features


def _columns(
    system: System, stamps: Sequence[npt.NDArray[Any]], *, late: Bools, values: Float64s
) -> dict[str, npt.NDArray[Any]]:
    names = {"seq": np.int64, "id": object, "kind": object, "event_time": np.int64, "known_time": np.int64}
    names |= {"state_seq": np.int64, "features_version": object}
    table = np.array(stamps, object).reshape(-1, len(names))
    columns: dict[str, npt.NDArray[Any]] = {
        name: table[:, place].astype(kind) for place, (name, kind) in enumerate(names.items())
    }
    columns["refused"] = late
    for place, name in enumerate(system.features.names):
        column = np.ascontiguousarray(values[:, place])
        columns[name] = np.ma.masked_array(column, mask=late) if late.any() else column
    return columns
