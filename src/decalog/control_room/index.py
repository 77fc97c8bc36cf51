"""The index: what lists and time series need of a log, in a file of its own that is derived and may be deleted.

It holds ids, tokens, public amounts and sums, and no personal value; of decisions whose person was erased nothing but
sums. One process follows the log and writes it
(`following.py`); pages read it beside that.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from decalog.clock import DAY, HOUR, MINUTE
from decalog.control_room import notable
from decalog.control_room.notable import Notable
from decalog.decisions import Decision, decode_decision
from decalog.events import Record, decode_table
from decalog.examples import AMOUNT
from decalog.log import Log
from decalog.outcomes import decode_outcome
from decalog.registry import SHORT
from decalog.standing import ERASURES, Erasure, read_erasure

WIDTHS = (MINUTE, HOUR, DAY)
"""Of the buckets that sums are kept in, µs. Those of a minute are kept for two days, the others for good."""
GROUP = 5_000
"""Records that are taken in one transaction."""
_MINUTES_KEPT = 2 * DAY
_LAYOUT = 3
_TABLES = """
CREATE TABLE IF NOT EXISTS decisions (seq INTEGER PRIMARY KEY, system TEXT NOT NULL, id TEXT NOT NULL,
    request TEXT NOT NULL, at INTEGER NOT NULL, action TEXT NOT NULL, amount INTEGER, score REAL,
    expected INTEGER NOT NULL, arm TEXT NOT NULL, mode TEXT NOT NULL, fallback TEXT NOT NULL, model TEXT NOT NULL,
    reason TEXT NOT NULL, us INTEGER NOT NULL, outcome TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS by_system ON decisions (system, seq);
CREATE INDEX IF NOT EXISTS by_time ON decisions (system, at);
CREATE INDEX IF NOT EXISTS by_action ON decisions (system, action, seq);
CREATE INDEX IF NOT EXISTS by_arm ON decisions (system, arm, seq) WHERE arm <> '';
CREATE INDEX IF NOT EXISTS by_fallback ON decisions (system, seq) WHERE fallback <> '';
CREATE INDEX IF NOT EXISTS by_request ON decisions (system, request);
CREATE INDEX IF NOT EXISTS by_id ON decisions (id);
CREATE TABLE IF NOT EXISTS touched (token INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (token, seq))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erased (root INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS series (system TEXT NOT NULL, width INTEGER NOT NULL, start INTEGER NOT NULL,
    name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (system, width, start, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 0), value BLOB NOT NULL);
"""
_NAMED = "SELECT seq FROM decisions WHERE id = ? UNION SELECT seq FROM decisions WHERE system = ? AND request = ?"
_FIRST = "coalesce((SELECT seq FROM decisions WHERE system = ? AND at >= ? ORDER BY at, seq LIMIT 1), 9e18)"
_BIN = 1.15
"""Ratio of two neighbouring bins of a histogram of times: a percentile is known to 15 %."""

Sums = Counter[tuple[str, int, int, str]]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an index has come.

    Args:
        position: records before it are in it.
        total: of the log, when last looked.
        known: time of the last record in it, µs of the log's clock.
        hash: of the chain before `position`: of which log it is.
        wall: when that was, s since the epoch of the machine.
        pace: seconds of the log's clock for one of the machine's, of late; 0 while nothing came.
        rate: records a second of the machine, of late.
    """

    position: int = 0
    total: int = 0
    known: int = 0
    hash: bytes = b""
    wall: float = 0.0
    pace: float = 0.0
    rate: float = 0.0

    @property
    def share(self) -> float:
        """What of the log is in it, 0 to 1."""
        return self.position / self.total if self.total else 1.0


class Row(NamedTuple):
    """A decision as a list shows it; `score` is the first prediction of what was chosen, `us` what deciding took."""

    seq: int
    system: str
    id: str
    request: str
    at: int
    action: str
    amount: int | None
    score: float | None
    expected: int
    arm: str
    mode: str
    fallback: str
    model: str
    reason: str
    us: int
    outcome: str


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which decisions of a system a list shows; what is empty asks for nothing.

    Args:
        id: of the decision or of its request, whole.
        action, arm: exactly.
        fallback: a reason, or `any`.
        token: of an entity that the request names.
        since, until: µs, [since, until).
        before: seq below which the page begins, the newest first; 0 for the newest of all.
    """

    id: str = ""
    action: str = ""
    arm: str = ""
    fallback: str = ""
    token: int = 0
    since: int = 0
    until: int = 0
    before: int = 0


class Index:
    """The index of one home, read by pages.

    Args:
        path: of the file; a reader of one that is not there, or of another layout, sees an empty one.
        writes: whether it follows the log; a file of another layout is then begun anew.

    Attributes:
        notable: what it holds of decisions of quantities.
    """

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        self._path = path
        if writes:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sql = _opened(path)
        else:
            self._sql = _read(path) or _created(
                sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            )
        self.notable = Notable(self._sql)

    def close(self) -> None:
        """Releases the file."""
        self._sql.close()

    def progress(self) -> Progress:
        """Returns how far it has come."""
        found = self._rows("SELECT value FROM progress")
        return msgspec.msgpack.decode(found[0][0], type=Progress) if found else Progress()

    def decisions(self, system: str, asked: Filter, *, most: int) -> list[Row]:
        """Returns decisions, the newest first."""
        where, values = zip(*_conditions(system, asked), strict=True)
        # By the seq of what is walked: that order is its own, and nothing has to be sorted.
        walked = "touched" if asked.token else "decisions"
        ends = f"WHERE {' AND '.join(where)} ORDER BY {walked}.seq DESC LIMIT ?"
        sql = f"SELECT decisions.* FROM {_source(asked)} {ends}"  # noqa: S608 - ours
        return [Row(*row) for row in self._rows(sql, *(one for several in values for one in several), most)]

    def of(self, seqs: Iterable[int]) -> dict[int, Row]:
        """Returns the decisions of some records, by seq."""
        wanted = list(seqs)
        rows = self._rows(f"SELECT * FROM decisions WHERE seq IN ({', '.join('?' * len(wanted))})", *wanted)  # noqa: S608 - marks
        return {row[0]: Row(*row) for row in rows}

    def named(self, id_: str) -> Row | None:
        """Returns the decision of an id, its own."""
        found = self._rows("SELECT * FROM decisions WHERE id = ?", id_)
        return Row(*found[0]) if found else None

    def is_erased(self, root: int) -> bool:
        """Returns whether the person of a chain of records was erased, as far as the index has come."""
        return bool(self._rows("SELECT 1 FROM erased WHERE root = ?", root))

    def arms(self, system: str) -> list[str]:
        """Returns the arms that decided something, the latest rollout first."""
        sql = (
            "SELECT arm, max(seq) AS last FROM decisions WHERE system = ? AND arm <> '' GROUP BY arm ORDER BY last DESC"
        )
        return [row[0] for row in self._rows(sql, system)]

    def first(self, system: str, since: int) -> int:
        """Returns the seq of a system's first decision from a moment on, µs; one beyond all where there is none."""
        return int(self._rows(f"SELECT {_FIRST}", system, since)[0][0])

    def systems(self) -> list[str]:
        """Returns the systems that decided something."""
        return [row[0] for row in self._rows("SELECT DISTINCT system FROM series WHERE width = ?", DAY)]

    def series(self, system: str, width: int, *, since: int) -> dict[int, dict[str, float]]:
        """Returns begin of a bucket (µs) → name → sum, from one that holds `since` on, in order of time."""
        sql = "SELECT start, name, value FROM series WHERE system = ? AND width = ? AND start >= ? ORDER BY start"
        found: dict[int, dict[str, float]] = {}
        for start, name, value in self._rows(sql, system, width, since // width * width):
            found.setdefault(start, {})[name] = value
        return found

    def _rows(self, sql: str, *values: object) -> list[Any]:
        return self._sql.execute(sql, values).fetchall()

    # ---- writing ----

    def take(self, log: Log, *, stop: int) -> Progress:
        """Takes the next records of a log, at most up to a position, in one transaction.

        An index of another log, or of one that was cut back, begins anew.
        """
        before = self.progress()
        if before.position and log.hash_at(before.position) != before.hash:
            self._begin_anew()
            before = Progress()
        if stop <= before.position:
            return before
        stop = min(stop, before.position + GROUP)
        known, sums = before.known, Sums()
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            for record in log.read(before.position, stop):
                known = record.known_time
                self._add(record, sums)
                if record.kind == "table" and record.id == ERASURES:
                    self._forget(log, read_erasure(decode_table(record.body)))
            self._add_sums(sums, known)
            now = msgspec.structs.replace(before, position=stop, known=known, hash=log.hash_at(stop) or b"")
            self.note(now)
            self._sql.execute("COMMIT")
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        return now

    def note(self, progress: Progress) -> None:
        """Keeps how far it has come."""
        self._sql.execute("INSERT OR REPLACE INTO progress VALUES (0, ?)", (msgspec.msgpack.encode(progress),))

    def _add(self, record: Record, sums: Sums) -> None:
        if record.reason:
            _count(sums, record, {"refused": 1})
        elif record.kind == "decision":
            decision = decode_decision(record.body)
            row = _row(record, decision)
            self._sql.execute(f"INSERT INTO decisions VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - marks
            tokens = {token for token in decision.request.entities.values() if token}
            self._sql.executemany("INSERT OR IGNORE INTO touched VALUES (?, ?)", [(one, row.seq) for one in tokens])
            self.notable.add(record, decision)
            _count(sums, record, _counted(row))
        elif record.kind == "outcome":
            said = decode_outcome(record.body)
            update = "UPDATE decisions SET outcome = ? WHERE system = ? AND request = ?"
            self._sql.execute(update, (f"{said.kind} {said.value:g}", record.system, said.target))
            self.notable.tell(record.system, said)
            _count(sums, record, {"outcomes": 1, f"outcome {said.kind}": 1})
        elif record.kind == "event":
            _count(sums, record, {"events": 1})

    def _forget(self, log: Log, erasure: Erasure) -> None:
        """Lets go of what an erasure names; sums lead to nobody."""
        self._sql.executemany("INSERT OR IGNORE INTO erased VALUES (?)", [(root,) for root in erasure.records])
        for record in map(log.get, erasure.records):
            for table in ("decisions", "quantities"):
                self._sql.execute(f"DELETE FROM {table} WHERE seq = ?", (record.seq,))  # noqa: S608 - ours
            if record.kind == "decision":
                tokens = decode_decision(record.body).request.entities.values()
                gone = [(token, record.seq) for token in tokens]
                self._sql.executemany("DELETE FROM touched WHERE token = ? AND seq = ?", gone)

    def _add_sums(self, sums: Sums, known: int) -> None:
        add = (
            "INSERT INTO series VALUES (?, ?, ?, ?, ?) ON CONFLICT (system, width, start, name) "
            "DO UPDATE SET value = value + excluded.value"
        )
        self._sql.executemany(add, [(*key, value) for key, value in sums.items()])
        for system in self.systems():
            old = (system, MINUTE, known - _MINUTES_KEPT)
            self._sql.execute("DELETE FROM series WHERE system = ? AND width = ? AND start < ?", old)

    def _begin_anew(self) -> None:
        for table in ("decisions", "touched", "erased", "series", "quantities", "progress"):
            self._sql.execute(f"DELETE FROM {table}")  # noqa: S608 - ours


def _source(asked: Filter) -> str:
    """Returns what is walked, the newest first: of several things that are asked for, the rarest as a rule."""
    if asked.token:
        return "touched CROSS JOIN decisions USING (seq)"
    if asked.id:
        return "decisions"
    walked = {"by_fallback": asked.fallback, "by_arm": asked.arm, "by_action": asked.action}
    return f"decisions INDEXED BY {next((name for name, is_asked in walked.items() if is_asked), 'by_system')}"


def _conditions(system: str, asked: Filter) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yields SQL that a decision has to meet, and its values."""
    yield "system = ?", (system,)
    if asked.id:
        yield f"seq IN ({_NAMED})", (asked.id, system, asked.id)
    if asked.action:
        yield "action = ?", (asked.action,)
    if asked.arm:
        yield "arm <> '' AND arm = ?", (asked.arm,)
    if asked.fallback:
        yield "fallback <> '' AND ? IN ('any', fallback)", (asked.fallback,)
    if asked.token:
        yield "token = ?", (asked.token,)
    if asked.since:
        yield f"seq >= {_FIRST}", (system, asked.since)
    if asked.until:
        yield f"seq < {_FIRST}", (system, asked.until)
    if asked.before:
        yield "seq < ?", (asked.before,)


def _read(path: Path) -> sqlite3.Connection | None:
    """Returns a connection that reads; None where there is nothing of this layout to read."""
    if not path.is_file():
        return None
    uri = f"{path.absolute().as_uri()}?mode=ro"
    found = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)
    if found.execute("PRAGMA user_version").fetchone() == (_LAYOUT,):
        return found
    found.close()
    return None


def _opened(path: Path) -> sqlite3.Connection:
    """Returns a connection that writes; what cannot be read, or is of another layout, is begun anew."""
    with suppress(sqlite3.Error):
        found = sqlite3.connect(path, isolation_level=None, timeout=5)
        (layout,) = found.execute("PRAGMA user_version").fetchone()
        (tables,) = found.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if layout == _LAYOUT or not tables:
            return _created(found)
        found.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return _created(sqlite3.connect(path, isolation_level=None, timeout=5))


def _created(made: sqlite3.Connection) -> sqlite3.Connection:
    # It is derived: what a crash takes of it is read from the log again, so nothing waits for the disk.
    made.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA secure_delete=ON;"
        f"{_TABLES} {notable.TABLES} PRAGMA user_version={_LAYOUT};"
    )
    return made


def _row(record: Record, decision: Decision) -> Row:
    lead, amount = decision.lead, decision.request.attributes.get(AMOUNT)
    return Row(
        record.seq,
        record.system,
        decision.id,
        decision.request.id,
        record.known_time,
        decision.choice.action if decision.choice.slots or decision.choice.verb else "",
        amount if isinstance(amount, int) else None,
        next(iter(lead.predictions.values()), None) if lead is not None else None,
        decision.expected_minor,
        decision.arm,
        decision.mode,
        decision.fallback,
        decision.versions.model[:SHORT],
        decision.choice.reasons[0][:120] if decision.choice.reasons else "",
        sum(decision.stages_us.values()),
        "",
    )


def _counted(row: Row) -> dict[str, float]:
    """Returns what a decision adds to the sums of its time."""
    names = {"decisions": 1.0, f"action {row.action}": 1.0, "expected": float(row.expected), _bin(row.us): 1.0}
    if row.fallback:
        names["fallbacks"] = 1.0
    if row.arm:
        names[f"arm {row.arm}"] = 1.0
    return names | ({} if row.amount is None else {"amount": float(row.amount)})


def _count(sums: Sums, record: Record, names: dict[str, float]) -> None:
    for width in WIDTHS:
        start = record.known_time // width * width
        for name, value in names.items():
            sums[record.system, width, start, name] += value  # type: ignore[assignment]  # sums of money are floats


def _bin(us: int) -> str:
    """Returns the bin of a time in a histogram, by its upper end in µs."""
    return f"us {math.ceil(_BIN ** math.ceil(math.log(max(us, 1), _BIN)))}"


def percentile(buckets: Iterable[Mapping[str, float]], share: float) -> float | None:
    """Returns a percentile of the times that deciding took, µs, to 15 %; None where nothing was decided.

    >>> percentile([{"us 100": 98.0, "us 900": 2.0}], 0.99)
    900.0
    """
    bins: Counter[int] = Counter()
    for bucket in buckets:
        for name, count in bucket.items():
            if name.startswith("us "):
                bins[int(name[3:])] += int(count)
    wanted, seen = share * bins.total(), 0
    for end in sorted(bins):
        seen += bins[end]
        if seen >= wanted:
            return float(end)
    return None
