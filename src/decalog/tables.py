"""Versioned lookups in the log: exchange rates, policy parameters, feature definitions, own signals, the runtime.

A table is a record like any other, so a decision knows by its position which version was in force. Who put a version is
a table too, `changes`, right behind it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from decalog.clock import rfc3339
from decalog.events import Record, decode_table, encode, make_table
from decalog.log import Draft, Log

CHANGES = "changes"


class Version(msgspec.Struct, frozen=True):
    """A version of a table: its hash, and seq and known_time (RFC 3339) of its record; "", −1 and "" for none."""

    table: str
    version: str = ""
    seq: int = -1
    known_time: str = ""


class Stored(Version, frozen=True):
    """A version with its content, None where there is none."""

    content: Any = None


class TableChange(Version, frozen=True):
    """Who put a version, and what was changed for it, where that is less than the whole."""

    by: str = ""
    what: str = ""


class Tables:
    """The log's tables of one system ("" for those that all share), read and appended."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def put(self, system: str, name: str, *, content: object, by: str = "", what: str = "") -> int:
        """Appends a version and returns its seq; the same content as the latest version appends nothing.

        Args:
            system: whose.
            name: of the table.
            content: what JSON can say.
            by: who puts it, for the table of changes; "" where nobody does, as at a start.
            what: is changed, for the same table; "" for the whole.
        """
        table = make_table(name, content)
        seqs = self._log.find("table", f"{system}/{name}")
        if seqs and decode_table(self._log.get(seqs[-1]).body).version == table.version:
            return seqs[-1]
        body = encode(table)
        draft = Draft(kind="table", system=system, id=name, digest=b"", event_time=None, body=body)
        record = self._log.stamp(draft)
        if by:
            change = TableChange(name, table.version, record.seq, rfc3339(record.known_time), by, what)
            self.put(system, CHANGES, content=change)
        return record.seq

    def get(self, system: str, name: str, *, before: int | None = None) -> Any:
        """Returns the content of the latest version at a log position, or None where there is none."""
        return self.stored(system, name, before=before).content

    def stored(self, system: str, name: str, *, before: int | None = None) -> Stored:
        """Returns the latest version at a log position, an empty one where there is none."""
        seqs = self._log.find("table", f"{system}/{name}")
        known = [seq for seq in seqs if before is None or seq < before]
        return _stored(self._log.get(known[-1])) if known else Stored(name)

    def version(self, system: str, name: str, *, version: str) -> Any:
        """Returns the content of the version of that hash, or None where the log holds none."""
        for seq in reversed(self._log.find("table", f"{system}/{name}")):
            table = decode_table(self._log.get(seq).body)
            if table.version == version:
                return msgspec.json.decode(table.content)
        return None

    def history(self, system: str, name: str) -> list[Stored]:
        """Returns every version, oldest first."""
        return [_stored(self._log.get(seq)) for seq in self._log.find("table", f"{system}/{name}")]

    def changes(self, system: str) -> list[TableChange]:
        """Returns who changed the system's tables, oldest first."""
        return [msgspec.convert(stored.content, TableChange) for stored in self.history(system, CHANGES)]


def _stored(record: Record) -> Stored:
    table = decode_table(record.body)
    content = msgspec.json.decode(table.content)
    return Stored(table.name, table.version, record.seq, rfc3339(record.known_time), content)
