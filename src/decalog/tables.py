"""Versioned lookups in the log: exchange rates, policy parameters, feature definitions, own signals, the runtime.

A table is a record like any other, so a decision knows by its position which version was in force.
"""

from __future__ import annotations

from typing import Any

import msgspec

from decalog.events import decode_table, encode, make_table
from decalog.log import Draft, Log


class Tables:
    """The log's tables of one system ("" for those that all share), read and appended."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def put(self, system: str, name: str, *, content: object) -> int:
        """Appends a version and returns its seq; the same content as the latest version appends nothing."""
        table = make_table(name, content)
        seqs = self._log.find("table", f"{system}/{name}")
        if seqs and decode_table(self._log.get(seqs[-1]).body).version == table.version:
            return seqs[-1]
        body = encode(table)
        draft = Draft(kind="table", system=system, id=name, digest=b"", event_time=None, body=body)
        return self._log.stamp(draft).seq

    def get(self, system: str, name: str, *, before: int | None = None) -> Any:
        """Returns the content of the latest version at a log position, or None where there is none."""
        seqs = self._log.find("table", f"{system}/{name}")
        known = [seq for seq in seqs if before is None or seq < before]
        return msgspec.json.decode(decode_table(self._log.get(known[-1]).body).content) if known else None

    def version(self, system: str, name: str, *, version: str) -> Any:
        """Returns the content of the version of that hash, or None where the log holds none."""
        for seq in reversed(self._log.find("table", f"{system}/{name}")):
            table = decode_table(self._log.get(seq).body)
            if table.version == version:
                return msgspec.json.decode(table.content)
        return None
