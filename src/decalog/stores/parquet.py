"""Segments of a derived copy of the log in Parquet: written whole or not at all, found through their manifests.

    <folder>/<system>/<kind>/<start>-<stop>.parquet     one row a record
    <folder>/segments/<start>-<stop>.json               what the segment holds, and the log's hash at its end

A segment exists once its manifest does; files without one are the remains of a crash and are overwritten. `sealing`
fills the columns; this module alone knows Parquet, through DuckDB, which it imports when it is used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import CorruptLogError, DataError

if TYPE_CHECKING:
    import duckdb

FORMAT = 1
SHARED = "shared"
"""Folder of the records that belong to all systems."""

ColumnType = Literal["BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "VARCHAR[]", "DOUBLE[]"]


class Column(msgspec.Struct, frozen=True):
    """A named column; a value is None where it is missing. Lists are given as Python sequences."""

    name: str
    type: ColumnType
    values: Sequence[Any]


class SegmentFile(msgspec.Struct, frozen=True):
    """One file of a segment; `path` is relative to the folder."""

    path: str
    system: str
    kind: str
    rows: int
    sha256: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Manifest of a segment: the records with start ≤ seq < stop, and the log's chain hash (hex) after the last."""

    format: int
    partition: int
    start: int
    stop: int
    hash: str
    files: tuple[SegmentFile, ...]


_segment = msgspec.json.Decoder(Segment).decode


def segments(folder: Path) -> tuple[Segment, ...]:
    """Returns the manifests of all segments, in order of their records.

    Raises:
        CorruptLogError: one does not decode, or is of a format that this version does not know.
    """
    found = []
    for path in (folder / "segments").glob("*.json"):
        try:
            segment = _segment(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _damaged(path.name, "a manifest that does not decode") from None
        if segment.format != FORMAT:
            raise _damaged(path.name, f"format {segment.format}")
        found.append(segment)
    return tuple(sorted(found, key=lambda segment: segment.start))


def write_file(
    folder: Path, *, place: tuple[str, str], span: tuple[int, int], columns: Sequence[Column]
) -> SegmentFile:
    """Writes one Parquet file, durably, and returns what the manifest says of it.

    Args:
        folder: of the copy.
        place: system ("" for records of all) and kind.
        span: seqs (start, stop) of its segment.
        columns: at least one, all of one length.
    """
    system, kind = place
    relative = Path(system or SHARED) / kind / f"{_span(*span)}.parquet"
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with _connection() as connection:
        given, select = _relation(columns)
        connection.register("given", given)
        rows = f"SELECT {', '.join(select)} FROM given"  # noqa: S608 - own names, quoted
        connection.execute(f"COPY ({rows}) TO {_text(str(draft))} (FORMAT parquet, COMPRESSION zstd)")
    publish(draft, path)
    return SegmentFile(str(relative), system, kind, len(columns[0].values), hash_of(path))


def write_manifest(folder: Path, segment: Segment) -> None:
    """Makes a segment exist; its files are durable already."""
    path = folder / "segments" / f"{_span(segment.start, segment.stop)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(segment)) + b"\n")
    publish(draft, path)


def read(folder: Path, *, system: str, kind: str, columns: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """Returns the columns of one kind of records, rows in order of seq; a masked array where values are missing.

    Args:
        folder: of the copy.
        system: whose records; "" for those of all systems.
        kind: event, decision, outcome, table or rejected.
        columns: only these; empty: all.

    Raises:
        DataError: nothing was sealed for that system and kind, or a column does not exist.
        CorruptLogError: a manifest is damaged.
    """
    paths = [
        file.path for part in segments(folder) for file in part.files if (file.system, file.kind) == (system, kind)
    ]
    if not paths:
        raise DataError(
            where=f"Parquet copy, {system or SHARED}/{kind}",
            given="no segment",
            expected="at least one sealed record",
            fix="Seal first: python -m decalog.sealing HOME.",
        )
    wanted = ", ".join(_name(name) for name in columns) or "*"
    listed = ", ".join(_text(str(folder / path)) for path in paths)
    with _connection() as connection:
        import duckdb

        try:
            rows = connection.execute(
                f"SELECT {wanted} FROM read_parquet([{listed}], union_by_name = true) ORDER BY seq"  # noqa: S608 - own names, quoted
            )
        except duckdb.Error as error:
            raise DataError(
                where=f"Parquet copy, {system or SHARED}/{kind}",
                given=f"DuckDB says: {str(error).splitlines()[0]}",
                expected="whole files and columns that exist",
                fix="Run `decalog verify`; delete the folder `parquet` and seal again if it is damaged.",
            ) from None
        return dict(rows.fetchnumpy())


def write_table(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes numpy columns, masked where values are missing, as one Parquet file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    given = {f"c{number}": column for number, column in enumerate(columns.values())}
    named = ", ".join(f"{mark} AS {_name(name)}" for mark, name in zip(given, columns, strict=True))
    types = ("VARCHAR" if column.dtype.kind == "O" else "" for column in columns.values())
    casts = ", ".join(
        f"CAST({mark} AS {kind}) AS {mark}" if kind else mark for mark, kind in zip(given, types, strict=True)
    )
    with _connection() as connection:
        connection.register("given", given)
        rows = f"SELECT {named} FROM (SELECT {casts} FROM given)"  # noqa: S608 - own names, quoted
        connection.execute(f"COPY ({rows}) TO {_text(str(draft))} (FORMAT parquet, COMPRESSION zstd)")
    publish(draft, path)


def count_rows(path: Path) -> int:
    """Returns how many rows a Parquet file holds.

    Raises:
        CorruptLogError: it cannot be read.
    """
    import duckdb

    with _connection() as connection:
        try:
            row = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone()
        except duckdb.Error:
            raise _damaged(path.name, "a file that is no Parquet") from None
    return int(row[0]) if row else 0


def hash_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(draft: Path, path: Path) -> None:
    """Gives a finished file its name: first its bytes are on disk, then the name is."""
    _sync(draft)
    draft.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    # One thread: this runs beside a server, and the same rows give the same bytes.
    return duckdb.connect(config={"threads": 1})


def _relation(columns: Sequence[Column]) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    given: dict[str, npt.NDArray[Any]] = {}
    select = []
    for number, column in enumerate(columns):
        arrays, expression = _expression(f"c{number}", column)
        given.update(arrays)
        select.append(f"CAST({expression} AS {column.type}) AS {_name(column.name)}")
    return given, select


def _expression(name: str, column: Column) -> tuple[Mapping[str, npt.NDArray[Any]], str]:
    if column.type == "DOUBLE[]":
        return _wide(name, column.values)
    if column.type == "VARCHAR[]":
        texts = [None if value is None else msgspec.json.encode(list(value)).decode() for value in column.values]
        return {name: _objects(texts)}, f"{name}::JSON"
    if column.type == "VARCHAR":
        return {name: _objects(column.values)}, name
    return {name: _masked(column.values, _NUMPY[column.type])}, name


_NUMPY: Mapping[str, tuple[Any, Any]] = {
    "BIGINT": (np.int64, 0),
    "DOUBLE": (np.float64, 0.0),
    "BOOLEAN": (np.bool_, False),
}


def _masked(values: Sequence[Any], kind: tuple[Any, Any]) -> npt.NDArray[Any]:
    numpy_type, filler = kind
    mask = np.fromiter((value is None for value in values), np.bool_, len(values))
    filled = np.array([filler if value is None else value for value in values], numpy_type)
    return np.ma.masked_array(filled, mask=mask) if mask.any() else filled


def _objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _wide(name: str, values: Sequence[Any]) -> tuple[Mapping[str, npt.NDArray[Any]], str]:
    # DuckDB takes no lists from numpy: one array a position, put together again in SQL, cut to each row's length.
    lengths = np.fromiter((-1 if value is None else len(value) for value in values), np.int64, len(values))
    width = int(lengths.max(initial=0))
    table = np.zeros((len(values), width))
    for row, value in enumerate(values):
        if value is not None:
            table[row, : len(value)] = value
    arrays = {f"{name}_{place}": np.ascontiguousarray(table[:, place]) for place in range(width)}
    listed = f"list_slice([{', '.join(arrays)}]::DOUBLE[], 1, {name}_n)"
    return {**arrays, f"{name}_n": lengths}, f"CASE WHEN {name}_n >= 0 THEN {listed} END"


def _span(start: int, stop: int) -> str:
    return f"{start:012d}-{stop:012d}"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _damaged(name: str, given: str) -> CorruptLogError:
    return CorruptLogError(
        where=f"Parquet copy, {name}",
        given=given,
        expected=f"a segment of format {FORMAT} as it was sealed",
        fix="Delete the folder `parquet` and seal again: it is a copy, the log holds everything.",
    )
