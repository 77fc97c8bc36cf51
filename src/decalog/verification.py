"""Checks a home: the hash chain, every record, the index, the vault, and what is derived against the log.

Nothing is written, nothing is mended; damage is reported with the first record it reaches, never as a trace.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.crypto import digest
from decalog.decisions import Decision, decision_keys, decode_decision
from decalog.errors import CorruptLogError, LogError
from decalog.events import Event, Record, Table, decode_event, decode_table
from decalog.features.snapshot import SUFFIX, check_snapshot
from decalog.ingest import Rejected
from decalog.log import Keys, checked, hash_before, own_keys
from decalog.outcomes import Outcome, decode_outcome
from decalog.standing import ERASURES, read_erasure
from decalog.stores import parquet
from decalog.stores.base import Entry, LogStore, StoredKeys, StoredTokens, Vault
from decalog.stores.parquet import Segment
from decalog.stores.table import open_log, open_vault

_GROUP = 200_000
_SUM = 2**128


class Check(msgspec.Struct, frozen=True):
    """One thing that was checked: its name, whether it is sound, and one line that says so."""

    name: str
    sound: bool
    said: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a home was found to be.

    Args:
        position: records that are intact, from the first on.
        hash: the chain's hash after them, in hex: the same position and hash are the same log.
        known_time: of the last of them, µs.
        counts: "system/kind" → records.
        checks: chain, index, vault, parquet, snapshot.
    """

    position: int
    hash: str
    known_time: int
    counts: dict[str, int]
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return all(check.sound for check in self.checks)

    def text(self) -> str:
        """Returns a report for people."""
        lines = [f"{'ok' if check.sound else 'BAD':4}{check.name:9}{check.said}" for check in self.checks]
        lines += [f"    {count:>12,}  {name}" for name, count in sorted(self.counts.items())]
        return "\n".join(lines)


class ReadableLog(LogStore, StoredKeys, Protocol):
    """A log's store that also gives its index."""


class ReadableVault(Vault, StoredTokens, Protocol):
    """A vault that also gives what it holds."""


def verify(home: Path, *, engine: str = "sqlite") -> Verification:
    """Returns what a home was found to be; a writer may be at work meanwhile.

    Args:
        home: folder with `log`, `vault.sqlite` and, where they were made, `parquet` and `state`.
        engine: short name of its stores.
    """
    survey = _Survey(home / "parquet")
    try:
        store = open_log(engine, home / "log" / "0.sqlite")
    except LogError as error:
        return survey.result(Check("chain", sound=False, said=str(error)))
    try:
        # Keys of records that are appended meanwhile are left out by this.
        head = store.head()
        chain = survey.read(store, 0 if head is None else head.seq + 1)
        index = _check_index(store, survey) if chain.sound else _left("index")
        vault = _check_vault(engine, home / "vault.sqlite", survey)
        return survey.result(chain, index, vault, _check_copy(survey), _check_snapshots(home / "state", store))
    except LogError as error:
        return survey.result(Check("chain", sound=False, said=str(error)))
    finally:
        store.close()


def index_keys(record: Record) -> Keys:
    """Returns every index entry of a record, from its blob alone.

    Raises:
        CorruptLogError: the body does not decode.
    """
    return _keys_of(record, read_body(record))


def read_body(record: Record) -> msgspec.Struct:
    """Returns the body of a record as its kind says.

    Raises:
        CorruptLogError: the kind is unknown, or the body does not decode.
    """
    try:
        return _BODIES[record.kind](record.body)
    except CorruptLogError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise CorruptLogError(
            where=f"log record {record.seq}",
            given=f"a body of kind {record.kind!r} that does not decode ({type(error).__name__})",
            expected=f"one of: {', '.join(_BODIES)}",
            fix="Read it with the newer decalog that wrote it, or restore from a backup.",
        ) from None


def _rejected(body: bytes) -> Rejected:
    return msgspec.msgpack.decode(body, type=Rejected)


_BODIES = {
    "event": decode_event,
    "decision": decode_decision,
    "outcome": decode_outcome,
    "table": decode_table,
    "rejected": _rejected,
}


def _keys_of(record: Record, body: msgspec.Struct) -> Keys:
    # What the writers of each kind ask for besides the record's own keys: serving, ingest.
    if isinstance(body, Rejected):
        return (("rejected", f"{record.system}/{record.id}"),)
    if isinstance(body, Decision):
        # An imported decision is found by its request alone: nobody was told its id.
        return own_keys(record) + (() if body.mode == "imported" else decision_keys(record.system, body))
    if isinstance(body, Outcome) and body.target:
        return (*own_keys(record), ("target", f"{record.system}/{body.target}"))
    return own_keys(record)


class _Survey:
    """What one pass over the log collects for all checks."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.segments: tuple[Segment, ...] = ()
        self.copy_error = ""
        try:
            self.segments = parquet.segments(copy)
        except LogError as error:
            self.copy_error = str(error)
        self.ends = {segment.stop: "" for segment in self.segments}
        self.position, self.known_time, self.hash = 0, 0, ""
        self.counts: Counter[str] = Counter()
        self._starts = [segment.start for segment in self.segments]
        self.found: list[Counter[tuple[str, str]]] = [Counter() for _ in self.segments]
        self.key_count, self.key_sum = 0, 0
        self.tokens, self.subjects = _Numbers(), _Numbers()
        self.gone: set[int] = set()

    def read(self, store: LogStore, stop: int) -> Check:
        """Reads records until the first that is damaged."""
        try:
            for entry, record in checked(store.read(0, stop)):
                self._take(entry, record)
        except CorruptLogError as error:
            said = f"damaged after {self.position:,} intact records: {error}"
            return Check("chain", sound=False, said=said)
        return Check("chain", sound=True, said=f"{self.position:,} records, hash {self.hash[:16] or '(empty log)'}")

    def result(self, *checks: Check) -> Verification:
        return Verification(
            position=self.position,
            hash=self.hash,
            known_time=self.known_time,
            counts=dict(self.counts),
            checks=checks,
        )

    def _take(self, entry: Entry, record: Record) -> None:
        body = read_body(record)
        for index, key in _keys_of(record, body):
            self.key_count += 1
            self.key_sum = (self.key_sum + _key_hash(index, key, record.seq)) % _SUM
        _collect(body, self.tokens, self.subjects)
        if isinstance(body, Table) and body.name == ERASURES:
            erasure = read_erasure(body)
            self.gone.update((erasure.subject, *erasure.tokens))
        self.position, self.known_time, self.hash = record.seq + 1, record.known_time, entry.hash.hex()
        self.counts[f"{record.system or parquet.SHARED}/{record.kind}"] += 1
        place = bisect_right(self._starts, record.seq) - 1
        if place >= 0 and record.seq < self.segments[place].stop:
            self.found[place][record.system, record.kind] += 1
        if self.position in self.ends:
            self.ends[self.position] = self.hash


class _Numbers:
    """Distinct int64 numbers, held in 8 bytes each."""

    def __init__(self) -> None:
        self._new: set[int] = set()
        self._held = np.empty(0, np.int64)

    def update(self, numbers: Iterable[int]) -> None:
        self._new.update(numbers)
        if len(self._new) >= _GROUP:
            self.all()

    def all(self) -> npt.NDArray[np.int64]:
        fresh = np.fromiter(self._new, np.int64, len(self._new))
        self._held = np.union1d(self._held, fresh)
        self._new.clear()
        return self._held


def _collect(body: msgspec.Struct, tokens: _Numbers, subjects: _Numbers) -> None:
    event = body.request if isinstance(body, Decision) else body
    if isinstance(event, Event | Outcome):
        tokens.update(event.entities.values())
    if isinstance(event, Event | Outcome | Rejected) and event.sealed:
        subjects.update((event.subject,))
    if isinstance(body, Decision):
        for candidate in body.candidates:
            tokens.update(candidate.entities.values())
        if body.sealed:
            subjects.update((body.request.subject,))


def _key_hash(index: str, key: str, seq: int) -> int:
    # Summed, these say whether two sets of keys are the same, in whatever order and without holding either.
    return int.from_bytes(digest(b"index", index.encode(), key.encode(), seq.to_bytes(8, "big")), "big")


def _left(name: str) -> Check:
    return Check(name, sound=False, said="not checked, because the chain is broken")


def _check_index(store: LogStore, survey: _Survey) -> Check:
    stored, total = 0, 0
    for index, key, seq in _stored_keys(store):
        if seq < survey.position:
            stored += 1
            total = (total + _key_hash(index, key, seq)) % _SUM
    if (stored, total) == (survey.key_count, survey.key_sum):
        return Check("index", sound=True, said=f"{stored:,} keys, as the records say")
    return Check("index", sound=False, said=_first_wrong_key(store, survey))


def _stored_keys(store: LogStore) -> Iterator[tuple[str, str, int]]:
    readable: ReadableLog = store  # type: ignore[assignment]  # every engine of the table gives its keys as well
    return readable.keys()


def _first_wrong_key(store: LogStore, survey: _Survey) -> str:
    for _, record in checked(store.read(0, survey.position)):
        for index, key in index_keys(record):
            if record.seq not in store.find(index, key):
                return f"log record {record.seq} is missing from the index {index!r}"
    for index, key, seq in _stored_keys(store):
        if seq < survey.position and (index, key) not in _keys_at(store, seq):
            return f"the index {index!r} holds a key of record {seq} that the record does not have"
    return "the index changed while it was read; verify again"


def _keys_at(store: LogStore, seq: int) -> Keys:
    for _, record in checked(store.read(seq, seq + 1), start=seq, before=_hash_before(store, seq)):
        return index_keys(record)
    return ()


def _hash_before(store: LogStore, seq: int) -> bytes:
    return next((entry.hash for entry in store.read(seq - 1, seq)), b"") if seq else b""


def _check_vault(engine: str, path: Path, survey: _Survey) -> Check:
    try:
        vault: ReadableVault = open_vault(engine, path)  # type: ignore[assignment]  # as for the log
        try:
            tokens, subjects = _all(vault.tokens()), _all(vault.subjects())
        finally:
            vault.close()
    except LogError as error:
        return Check("vault", sound=False, said=str(error))
    gone = np.array(sorted(survey.gone), np.int64)
    left = int(np.isin(gone, tokens).sum() + np.isin(gone, subjects).sum())
    if left:
        said = f"{left:,} keys and tokens of erased people are still in it: run `decalog erase SYSTEM`"
        return Check("vault", sound=False, said=said)
    lost = _missing(survey.tokens, np.union1d(tokens, gone))
    unreadable = _missing(survey.subjects, np.union1d(subjects, gone))
    if lost or unreadable:
        said = f"{lost:,} tokens and {unreadable:,} keys that records name are not in it"
        return Check("vault", sound=False, said=said)
    erased = f"; {len(gone):,} erased are gone" if len(gone) else ""
    said = f"{len(tokens):,} tokens, {len(subjects):,} keys; every one in use is there{erased}"
    return Check("vault", sound=True, said=said)


def _all(numbers: Iterator[int]) -> npt.NDArray[np.int64]:
    return np.sort(np.fromiter(numbers, np.int64))


def _missing(wanted: _Numbers, held: npt.NDArray[np.int64]) -> int:
    return int((~np.isin(wanted.all(), held)).sum())


def _check_copy(survey: _Survey) -> Check:
    if survey.copy_error:
        return Check("parquet", sound=False, said=survey.copy_error)
    stop = 0
    for segment, counts in zip(survey.segments, survey.found, strict=True):
        wrong = _wrong_segment(segment, stop, survey) or _wrong_files(segment, counts, survey.copy)
        if wrong:
            said = f"segment {segment.start}-{segment.stop}: {wrong}. Delete the folder parquet and seal again"
            return Check("parquet", sound=False, said=said)
        stop = segment.stop
    files = sum(len(segment.files) for segment in survey.segments)
    return Check("parquet", sound=True, said=f"{stop:,} records in {files:,} files" if stop else "nothing sealed yet")


def _check_snapshots(folder: Path, store: LogStore) -> Check:
    """Checks every byte of the snapshots and that they are of this log; what their rows say is not folded again."""
    paths = sorted(folder.glob(f"*/*{SUFFIX}"))
    try:
        for path in paths:
            check_snapshot(path, hash_at=lambda position: hash_before(store, position))
    except CorruptLogError as error:
        return Check("snapshot", sound=False, said=str(error))
    return Check("snapshot", sound=True, said=f"{len(paths):,} of this log, whole" if paths else "none taken yet")


def _wrong_segment(segment: Segment, stop: int, survey: _Survey) -> str:
    if segment.start != stop:
        return f"it begins at {segment.start}, not at {stop}"
    if segment.stop > survey.position:
        return f"the log ends at {survey.position}: records that were sealed are gone from it"
    if survey.ends[segment.stop] != segment.hash:
        return "its hash is not the log's"
    return ""


def _wrong_files(segment: Segment, counts: Counter[tuple[str, str]], copy: Path) -> str:
    if {(file.system, file.kind): file.rows for file in segment.files} != counts:
        return "it counts other records than the log"
    for file in segment.files:
        path = copy / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if parquet.hash_of(path) != file.sha256:
            return f"{file.path} was changed"
        if parquet.count_rows(path) != file.rows:
            return f"{file.path} holds another number of rows"
    return ""
