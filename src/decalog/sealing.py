"""Seals the log's records into Parquet with typed columns, for training, monitors and Spark; run it beside a server.

    python -m decalog.sealing HOME [--at-least 10000]

Columns of every kind: seq, root, known_time, event_time (µs), id, reason. Entities are `entity_<name>` (int64 tokens),
public values `attribute_<name>` and `list_<name>`, addresses in the blob store `blob_<name>`, predictions of the first
candidate `prediction_<head>`, its features the list `features` in the order of the feature set named by
`features_version`. Of several slots or candidates the first stands here; the log has them all. Personal values are not
in the copy, not even encrypted.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from decalog.candidates import Candidate
from decalog.decisions import Decision, Slot, decode_decision, unpack_features
from decalog.events import Event, Record, decode_event, decode_table
from decalog.ingest import Rejected
from decalog.log import checked
from decalog.outcomes import Outcome, decode_outcome
from decalog.stores import parquet
from decalog.stores.base import LogStore
from decalog.stores.parquet import Column, ColumnType, Segment, SegmentFile

SEGMENT_ROWS = 100_000

_TYPES: Mapping[str, ColumnType] = {
    **dict.fromkeys(("seq", "root", "known_time", "event_time", "subject", "state_seq", "runtime"), "BIGINT"),
    **dict.fromkeys(("expected_minor", "amount_minor", "money_minor", "per", "candidates"), "BIGINT"),
    **dict.fromkeys(("propensity", "value", "slot_value"), "DOUBLE"),
    **dict.fromkeys(("reasons", "guardrails"), "VARCHAR[]"),
    "deleted": "BOOLEAN",
    "features": "DOUBLE[]",
}
_PREFIXES: Mapping[str, ColumnType] = {
    "entity_": "BIGINT",
    "prediction_": "DOUBLE",
    "list_": "VARCHAR[]",
    "blob_": "VARCHAR",
}
_NOTHING = Candidate("")
_NO_SLOT = Slot("", propensity=None)


def seal(store: LogStore, folder: Path, *, upto: int, rows: int = SEGMENT_ROWS) -> tuple[Segment, ...]:
    """Seals the records below `upto` that are not sealed yet; returns the new segments.

    A second call, or one after a crash, goes on where the last whole segment ends. Where another process is sealing
    the same folder, nothing is done.

    Args:
        store: the log, open for reading.
        folder: of the copy.
        upto: log position, exclusive.
        rows: at most this many records a segment.

    Raises:
        CorruptLogError: the log's chain is broken, or does not follow from the last segment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as alone:
        if not alone:
            return ()
        sealed = parquet.segments(folder)
        _sweep(folder, sealed)
        start, before = (sealed[-1].stop, bytes.fromhex(sealed[-1].hash)) if sealed else (0, b"")
        entries = checked(store.read(start, upto), start=start, before=before)
        new = []
        while group := list(itertools.islice(entries, rows)):
            new.append(_seal_group(folder, group[-1][0].hash, [record for _, record in group]))
        return tuple(new)


def flatten(record: Record) -> dict[str, Any]:
    """Returns the columns of one record: name → value; what is missing has no entry or None."""
    row: dict[str, Any] = {
        "seq": record.seq,
        "root": record.root,
        "known_time": record.known_time,
        "event_time": record.event_time,
        "id": record.id,
        "reason": record.reason,
    }
    return row | _BODIES[record.kind](record.body)


def _event(body: bytes) -> dict[str, Any]:
    return _event_columns(decode_event(body))


def _event_columns(event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {
        "event_kind": event.kind,
        "subject": event.subject,
        "corrects": event.corrects,
        "deleted": event.deleted,
    }
    row |= {f"list_{name}": values for name, values in event.lists.items()}
    return row | _named_columns(event)


def _named_columns(body: Event | Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {f"entity_{name}": token for name, token in body.entities.items()}
    row |= {f"blob_{name}": address for name, address in body.blobs.items()}
    return row | {f"attribute_{name}": value for name, value in body.attributes.items()}


def _decision(body: bytes) -> dict[str, Any]:
    decision = decode_decision(body)
    first = decision.lead or _NOTHING
    slot = decision.choice.slots[0] if decision.choice.slots else _NO_SLOT
    action = decision.choice.verb or slot.ref
    row: dict[str, Any] = {
        "decision_id": decision.id,
        "action": action,
        "propensity": slot.propensity,
        "slot_value": slot.value,
        "money_minor": slot.money_minor,
        "per": slot.per,
        "acted": decision.acted if action else decision.taken,
        "candidates": len(decision.candidates),
        "candidate": first.ref,
        "features": unpack_features(first.features) if first.features else None,
        "reasons": decision.choice.reasons,
        "guardrails": [verdict.name for verdict in decision.guardrails],
        "model": decision.versions.model,
        "policy": decision.versions.policy,
        "features_version": decision.versions.features,
        "runtime": decision.versions.runtime,
    }
    row |= {name: getattr(decision, name) for name in _PLAIN}
    row |= {f"prediction_{head}": value for head, value in first.predictions.items()}
    return row | _event_columns(decision.request)


_PLAIN = tuple(
    name
    for name in Decision.__struct_fields__
    if name in {"state_seq", "mode", "fallback", "expected_minor", "currency", "arm", "taken", "parent", "batch"}
)


def _outcome(body: bytes) -> dict[str, Any]:
    outcome = decode_outcome(body)
    row = {name: getattr(outcome, name) for name in _SAID} | {"outcome_kind": outcome.kind}
    return row | _named_columns(outcome)


_SAID = tuple(
    name
    for name in Outcome.__struct_fields__
    if name not in {"id", "event_time", "kind", "attributes", "entities", "blobs", "sealed"}
)


def _table(body: bytes) -> dict[str, Any]:
    return msgspec.structs.asdict(decode_table(body))


def _rejected(body: bytes) -> dict[str, Any]:
    row = msgspec.msgpack.decode(body, type=Rejected)
    return {"meant": row.meant, "message": row.message, "subject": row.subject}


_BODIES = {"event": _event, "decision": _decision, "outcome": _outcome, "table": _table, "rejected": _rejected}


def _seal_group(folder: Path, last_hash: bytes, records: Sequence[Record]) -> Segment:
    span = (records[0].seq, records[-1].seq + 1)
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        places.setdefault((record.system, record.kind), []).append(flatten(record))
    files: list[SegmentFile] = []
    for place, rows in sorted(places.items()):
        files.append(parquet.write_file(folder, place=place, span=span, columns=_columns(rows)))
    segment = Segment(
        format=parquet.FORMAT,
        partition=records[0].partition,
        start=span[0],
        stop=span[1],
        hash=last_hash.hex(),
        files=tuple(files),
    )
    parquet.write_manifest(folder, segment)
    return segment


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def _column(name: str, values: list[Any]) -> Column:
    if name.startswith("attribute_"):
        return _inferred(name, values)
    prefixed = next((_PREFIXES[prefix] for prefix in _PREFIXES if name.startswith(prefix)), None)
    return Column(name, prefixed or _TYPES.get(name, "VARCHAR"), values)


def _inferred(name: str, values: list[Any]) -> Column:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int}:
        return Column(name, "BIGINT", values)
    if kinds <= {int, float}:
        return Column(name, "DOUBLE", values)
    if kinds == {bool}:
        return Column(name, "BOOLEAN", values)
    if kinds == {str}:
        return Column(name, "VARCHAR", values)
    # A schema gives a name one kind; where two schemas of one log disagree, the values stand as JSON.
    return Column(name, "VARCHAR", [None if v is None else msgspec.json.encode(v).decode() for v in values])


def _sweep(folder: Path, sealed: Sequence[Segment]) -> None:
    known = {folder / file.path for segment in sealed for file in segment.files}
    for path in (*folder.glob("*/*/*.parquet"), *folder.glob("**/*.draft")):
        if path not in known:
            path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Seals what a home's log holds; prints what was done.

    Returns 0, or 1 where the log cannot be read.
    """
    from decalog.errors import DecalogError
    from decalog.stores.table import open_log

    parser = argparse.ArgumentParser(prog="python -m decalog.sealing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--at-least", type=int, default=1, help="do nothing for fewer new records than this")
    options = parser.parse_args(arguments)
    folder = options.home / "parquet"
    try:
        store = open_log("sqlite", options.home / "log" / "0.sqlite")
        try:
            head, done = store.head(), parquet.segments(folder)
            upto = 0 if head is None else head.seq + 1
            new = upto - (done[-1].stop if done else 0)
            sealed = seal(store, folder, upto=upto) if new >= options.at_least else ()
        finally:
            store.close()
    except DecalogError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"sealed {sum(s.stop - s.start for s in sealed)} records in {len(sealed)} segments\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
