"""A file's history into the log, in the order in which it was known.

Two passes. The first maps every row into a temporary spool; where too many rows are bad, it ends there and the log has
not been touched. The second feeds the spool in the order of known_time, with the log's clock set to each row's own, so
that training on the imported history sees at each moment what was known then. Bad rows go to quarantine.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from decalog.clock import ManualClock, rfc3339
from decalog.data.csvrows import BrokenRow, Row
from decalog.data.frames import Frame, Source, open_frame
from decalog.data.mapping import DataMap, check_columns
from decalog.data.rows import RowMapper
from decalog.errors import ConfigError, DataError, RequestError
from decalog.ingest import Ingest, reason_code
from decalog.tables import Tables

GROUP = 1_000
"""Records a commit: one fsync for so many."""
EXAMPLES = 3
_LAST = 2**62

_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.Decoder(dict[str, Any]).decode


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file.

    Args:
        source: name of the file or frame.
        rows: in it.
        accepted: requests that are in the log now.
        duplicates: requests that were in it before, with the same body.
        outcomes: that are in the log now.
        rejected: reason → rows in quarantine.
        examples: reason → the first messages.
        first_us, last_us: event_time of the earliest and latest row that could be mapped, µs; None where none could.
        late: records that had to be stamped later than they were known, because the log held later ones.
        seconds: it took.
    """

    source: str
    rows: int
    accepted: int
    duplicates: int
    outcomes: int
    rejected: dict[str, int]
    examples: dict[str, tuple[str, ...]]
    first_us: int | None
    last_us: int | None
    late: int
    seconds: float

    def text(self) -> str:
        """Returns the report for a person."""
        span = ""
        if self.first_us is not None and self.last_us is not None:
            span = f", {rfc3339(self.first_us)} to {rfc3339(self.last_us)}"
        bad = sum(self.rejected.values())
        counts = f"{self.accepted:,} accepted, {self.duplicates:,} logged before, {self.outcomes:,} outcomes"
        lines = [f"{self.source}: {self.rows:,} rows{span}"]
        lines.append(f"  {counts}, {bad:,} in quarantine ({self.seconds:.1f} s)")
        if self.late:
            lines.append(f"  {self.late:,} records are stamped later than they were known: the log held later ones")
        for reason, count in sorted(self.rejected.items(), key=lambda item: -item[1]):
            lines.append(f"  {count:,} × {reason}, such as: {self.examples[reason][0]}")
        return "\n".join(lines)


class _Tally:
    """Counts what becomes of rows, and keeps the first messages of each reason."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = self.accepted = self.duplicates = self.outcomes = self.late = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.rejected: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, ...]] = {}

    def seen(self, event_us: int) -> None:
        self.first_us = event_us if self.first_us is None else min(self.first_us, event_us)
        self.last_us = event_us if self.last_us is None else max(self.last_us, event_us)

    def reject(self, reason: str, message: str) -> None:
        self.rejected[reason] += 1
        known = self.examples.get(reason, ())
        if len(known) < EXAMPLES:
            self.examples[reason] = (*known, message)

    def check(self, most: float, *, written: bool) -> None:
        """Raises DataError where the share of bad rows is above `most`."""
        bad = self.rejected.total()
        if bad <= most * self.rows:
            return
        reasons = "; ".join(
            f"{count:,} × {reason} ({self.examples[reason][0]})" for reason, count in self.rejected.most_common(5)
        )
        kept = f"The {self.accepted:,} rows that were accepted stay in the log." if written else "Nothing was written."
        raise DataError(
            where=self.name,
            given=f"{bad:,} of {self.rows:,} rows that cannot be used: {reasons}",
            expected=f"at most {most:.1%} of the rows",
            fix=f"{kept} Mend the mapping or the rows and import again, or raise max_bad_share.",
        )


class _Spooled(NamedTuple):
    known_us: int
    what: str
    line: int
    body: dict[str, Any]


class _Spool:
    """Mapped rows on their way, sorted by known_time on disk.

    SQLite keeps a database without a name in a file that is unlinked as soon as it is opened: no personal value of
    the user's file outlives this process, and memory stays bounded however long the file is.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA page_size = 16384")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE spool (known INTEGER, what TEXT, line INTEGER, body BLOB)")
        self._database.execute("BEGIN")
        self._waiting: list[tuple[int, str, int, bytes]] = []

    def add(self, row: _Spooled) -> None:
        known, what, line, body = row
        self._waiting.append((known, what, line, _pack(body)))
        if len(self._waiting) >= GROUP:
            self._write()

    def read(self) -> Iterator[_Spooled]:
        self._write()
        rows = self._database.execute("SELECT known, what, line, body FROM spool ORDER BY known, rowid")
        for known, what, line, body in rows:
            yield _Spooled(known, what, line, _unpack(body))

    def close(self) -> None:
        self._database.close()

    def _write(self) -> None:
        self._database.executemany("INSERT INTO spool VALUES (?, ?, ?, ?)", self._waiting)
        self._waiting.clear()


def import_rows(
    source: Source, mapping: DataMap, *, ingest: Ingest, on_progress: Callable[[int], None] | None = None
) -> ImportReport:
    """Imports a file's history into a log.

    Rows keep the time at which they were known, except where the log already holds later records: known_time never goes
    back. What a mapping's delay puts into the future is known now. At its end the import leaves a table `import` in the
    log, stamped with the present.

    Args:
        source: a file, or a frame that speaks Arrow.
        mapping: checked against the schema (`load_map`).
        ingest: made with the schema that has the mapping's signals; the clock of its log is the present.
        on_progress: told the number of rows so far, now and then.

    Raises:
        ConfigError: the mapping names columns that are not there, or the ingest lacks its signals.
        DataError: the file cannot be read, or too many of its rows are bad; what was accepted is not lost.
        LogUnavailableError: the log cannot be written.
    """
    started = time.monotonic()
    frame = open_frame(source, delimiter=mapping.file.delimiter, encoding=mapping.file.encoding)
    check_columns(mapping, [column.name for column in frame.columns], where=frame.name)
    _check_signals(mapping, ingest)
    tally, spool = _Tally(frame.name), _Spool()
    present = ingest.log.clock
    try:
        _spool(frame, RowMapper(mapping, frame.name, columns=frame.columns, schema=ingest.schema), spool, tally)
        tally.check(mapping.max_bad_share, written=False)
        _feed(spool, ingest, tally, on_progress=on_progress)
    finally:
        ingest.log.clock = present
        spool.close()
    Tables(ingest.log).put(ingest.schema.system, "import", content=_summary(tally, mapping))
    ingest.log.commit()
    tally.check(mapping.max_bad_share, written=True)
    return ImportReport(
        source=tally.name,
        rows=tally.rows,
        accepted=tally.accepted,
        duplicates=tally.duplicates,
        outcomes=tally.outcomes,
        rejected=dict(tally.rejected),
        examples=tally.examples,
        first_us=tally.first_us,
        last_us=tally.last_us,
        late=tally.late,
        seconds=round(time.monotonic() - started, 3),
    )


def _check_signals(mapping: DataMap, ingest: Ingest) -> None:
    known = {field.name for field in ingest.schema.request.fields}
    missing = [field.name for field in mapping.signal_fields() if field.name not in known]
    if missing:
        raise ConfigError(
            where=f"import into {ingest.schema.system}, signals",
            given=f"a schema without the mapping's signals {', '.join(missing[:10])}",
            expected="the schema of System.with_signals(mapping.signal_fields())",
            fix="Make the Ingest from that system's schema.",
        )


def _spool(frame: Frame, mapper: RowMapper, spool: _Spool, tally: _Tally) -> None:
    for row in frame.rows():
        tally.rows += 1
        try:
            mapped = mapper.row(row)
        except RequestError as error:
            tally.reject(reason_code(error), str(error))
            spool.add(_rejected(mapper, row, error))
            continue
        tally.seen(mapped.event_us)
        spool.add(_Spooled(mapped.known_us, "event", row.line, mapped.raw))
        for outcome in mapped.outcomes:
            spool.add(_Spooled(outcome.known_us, "outcome", row.line, outcome.raw))


def _rejected(mapper: RowMapper, row: Row | BrokenRow, error: RequestError) -> _Spooled:
    words = {"where": error.where, "given": error.given, "expected": error.expected, "fix": error.fix}
    return _Spooled(_LAST, "rejected", row.line, {"row": mapper.sent(row), **words})


def _feed(spool: _Spool, ingest: Ingest, tally: _Tally, *, on_progress: Callable[[int], None] | None) -> None:
    log = ingest.log
    present = log.clock.now_us()
    clock = log.clock = ManualClock(present)
    for place, item in enumerate(spool.read(), 1):
        clock.set(min(item.known_us, present))
        tally.late += item.known_us < log.known_time and item.what != "rejected"
        _admit(item, ingest, tally)
        if place % GROUP == 0:
            log.commit()
            if on_progress is not None:
                on_progress(tally.accepted + tally.duplicates)
    clock.set(present)
    log.commit()


def _admit(item: _Spooled, ingest: Ingest, tally: _Tally) -> None:
    body = item.body
    if item.what == "rejected":
        row = body.pop("row")
        ingest.reject("event", row, error=RequestError(**body))
        return
    result = ingest.event(body) if item.what == "event" else ingest.outcome(body)
    if result.status == "rejected":
        tally.reject(result.reason, f"{tally.name} line {item.line}: {result.message}")
    elif item.what == "outcome":
        tally.outcomes += 1
    elif result.status == "accepted":
        tally.accepted += 1
    else:
        tally.duplicates += 1


def _summary(tally: _Tally, mapping: DataMap) -> dict[str, object]:
    """Returns what the log keeps about an import: counts and the mapping, no value of the file."""
    return {
        "source": tally.name,
        "mapping": msgspec.to_builtins(mapping),
        "rows": tally.rows,
        "rejected": dict(tally.rejected),
    }
