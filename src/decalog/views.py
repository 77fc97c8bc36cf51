"""The views of one system: brought up to a log position from its newest snapshot, and written down as the next."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec

from decalog.errors import CorruptLogError
from decalog.features.definition import FeatureSet
from decalog.features.facts import TableVersion
from decalog.features.online import OnlineState
from decalog.features.snapshot import (
    SUFFIX,
    Manifest,
    check_log,
    check_made,
    read_manifest,
    read_snapshot,
    write_snapshot,
)
from decalog.folding import changes, table_version
from decalog.log import Log

_AT_ONCE = 1_000_000
"""Changes that are folded by one sort where the rows go to another server: it may have more memory than this one."""


class Views(msgspec.Struct, frozen=True):
    """Views that are up to date.

    Args:
        state: with the records of the log below `position`.
        position: of the log.
        start: position of the snapshot that it began with, 0 where the whole log was folded.
        problem: why the snapshot that is there could not be used, or "".
    """

    state: OnlineState
    position: int
    start: int
    problem: str

    def __str__(self) -> str:
        if not self.start:
            return f"{self.position:,} records folded"
        return f"snapshot at record {self.start:,}, {self.position - self.start:,} records folded after it"


def snapshot_path(folder: Path, features: FeatureSet) -> Path:
    """Returns where the snapshot of a feature set stands in a home's folder of states."""
    return folder / features.system / f"{features.version}{SUFFIX}"


def bring_up(features: FeatureSet, log: Log, *, folder: Path) -> Views:
    """Returns the views at the log's position; a snapshot that cannot be used costs time and nothing else.

    Args:
        features: the declarations.
        log: read up to the position that it had when it was opened, or that it has as its writer.
        folder: of the home's states.
    """
    state, start, problem = OnlineState(features), 0, ""
    path = snapshot_path(folder, features)
    if path.exists():
        try:
            manifest, state = read_snapshot(path, features, hash_at=log.hash_at)
            start = manifest.position
        except CorruptLogError as error:
            problem = str(error)
    return follow(Views(state, log.durable, start, problem), log)


def follow(views: Views, log: Log) -> Views:
    """Returns views that were good at their `start`, with what the log holds since then up to their position."""
    state, features = views.state, views.state.features
    state.use_tables(_tables(features, log, before=views.start))
    # The log finds a corrected record wherever it stands, before the start too.
    found = changes(log.read(views.start, views.position), features.system, past=log, reads=features.reads)
    # An empty state takes what is given at once by one sort, and holds all the rows of it meanwhile.
    if not state.is_here:
        state.apply_many(islice(found, _AT_ONCE))
    state.apply_many(found)
    return views


def _tables(features: FeatureSet, log: Log, *, before: int) -> list[TableVersion]:
    """Returns the lookup tables that features read, as they were at a position: a snapshot holds rows alone."""
    found = []
    for name in sorted(features.reads.tables or ()):
        seqs = [seq for seq in log.find("table", f"{features.system}/{name}") if seq < before]
        found += [table_version(log.get(seq)) for seq in seqs[-1:]]
    return found


def write_down(state: OnlineState, log: Log, *, folder: Path) -> Manifest:
    """Writes the state at the log's durable position as the next snapshot and returns its manifest.

    Args:
        state: with every record below that position.
        log: that was folded.
        folder: of the home's states.

    Raises:
        LogUnavailableError: another process writes one, or the disk does not take it.
    """
    position = log.durable
    path = snapshot_path(folder, state.features)
    return write_snapshot(path, state, position=position, log_hash=log.hash_at(position) or b"")


def last_position(features: FeatureSet, log: Log, *, path: Path) -> int:
    """Returns the position of the snapshot that a start would use, 0 where there is none; its rows are not read."""
    if not path.exists():
        return 0
    try:
        manifest = read_manifest(path)
        check_made(manifest, features, path=path)
        check_log(manifest, log.hash_at, path=path)
    except CorruptLogError:
        return 0
    return manifest.position
