"""The views of one system: brought up to a log position from what was kept of them, and written down as a snapshot.

What was kept is a snapshot in the home, or a state on another server.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import msgspec

from decalog.errors import CorruptLogError
from decalog.features.definition import FeatureSet
from decalog.features.facts import TableVersion
from decalog.features.online import OnlineState
from decalog.features.remote import RemoteState
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
from decalog.runtime import this_code
from decalog.stores.table import open_state

_AT_ONCE = 1_000_000
"""Changes that are folded by one sort where the rows go to another server: it may have more memory than this one."""
# Records that `catch_up` folds at a time: 2 ms where a record takes 100 µs.
_STEP = 20


class Views(msgspec.Struct, frozen=True):
    """Views that are up to date.

    Args:
        state: with the records of the log below `position`.
        position: of the log.
        start: position of what it began with, 0 where the whole log was folded.
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


def begin(features: FeatureSet, log: Log, *, folder: Path, state: str = "") -> Views:
    """Returns the views as far as they were kept; what cannot be used costs time and nothing else.

    Args:
        features: the declarations.
        log: whose views they are.
        folder: of the home's states.
        state: address of the server that keeps them; "" for a snapshot in the folder.
    """
    if state:
        return _begin_remote(features, log, state)
    path, problem = snapshot_path(folder, features), ""
    if path.exists():
        try:
            manifest, kept = read_snapshot(path, features, hash_at=log.hash_at)
            return Views(kept, manifest.position, manifest.position, "")
        except CorruptLogError as error:
            problem = str(error)
    return Views(OnlineState(features), 0, 0, problem)


def _begin_remote(features: FeatureSet, log: Log, address: str) -> Views:
    home = blake2b(log.vault.secret("state"), digest_size=8).hexdigest()
    space = f"{home}:{features.system}:{features.version}:{this_code().sources[:12]}"
    store = open_state(address, space, kept_us=features.lateness_us + features.longest_window_us)
    state = RemoteState(features, store, durable=lambda: log.durable)
    last = state.position - 1
    # A log that was restored from a backup may be shorter, or have gone on with other records.
    if last >= 0 and not (last < log.durable and log.get(last).known_time == state.watermark):
        state.reset()
    return Views(state, state.position, state.position, "")


def follow(views: Views, log: Log) -> Views:
    """Returns the views at the log's durable position, having folded what it holds beyond theirs."""
    state, features = views.state, views.state.features
    state.use_tables(_tables(features, log, before=views.position))
    # The log finds a corrected record wherever it stands, before the position too.
    found = changes(log.read(views.position, log.durable), features.system, past=log, reads=features.reads)
    # An empty state takes what is given at once by one sort, and holds all the rows of it meanwhile.
    if not state.is_here:
        state.apply_many(islice(found, _AT_ONCE))
    state.apply_many(found)
    return msgspec.structs.replace(views, position=log.durable)


def catch_up(views: Views, log: Log) -> Iterator[None]:
    """Folds all that the log holds beyond the views, what is not durable yet included; stops now and then.

    For the one that stamps: between two stops it has the thread for 2 ms or so. When it ends, the views stand at
    the log's very position, until the next record is stamped.
    """
    state, features, position = views.state, views.state.features, views.position
    state.use_tables(_tables(features, log, before=position))
    while position < log.position:
        records = map(log.get, range(position, min(position + _STEP, log.position)))
        for change in changes(records, features.system, past=log, reads=features.reads):
            state.apply(change)
        position += _STEP
        if position < log.position:
            yield


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
