"""Writes for one caller into a log, beside a server's services or without any."""

from __future__ import annotations

from collections.abc import Mapping

from decalog.decisions import Decision
from decalog.events import Event
from decalog.log import Draft, Log
from decalog.serving import Service
from decalog.standing import Standing
from decalog.tables import Tables


class Pen:
    """Appends to a log; what a server's views have to know, they follow at once.

    Args:
        log: of the writer, who commits it.
        by: who asks, for the table of changes.
        services: those that run, by system.
    """

    def __init__(self, log: Log, *, by: str, services: Mapping[str, Service] | None = None) -> None:
        self.log, self._by, self._services = log, by, services or {}

    def standing(self, system: str) -> Standing:
        """Returns what the log says of a system's people, what is not durable yet included."""
        service = self._services.get(system)
        return Standing.of(self.log, system) if service is None else service.standing

    def put(self, system: str, table: str, *, content: object) -> None:
        """Appends a version of a table; the latest, put again, appends nothing."""
        service = self._services.get(system)
        if service is None:
            Tables(self.log).put(system, table, content=content, by=self._by)
        else:
            service.put_table(table, content, by=self._by)

    def stamp(self, draft: Draft, body: Event | Decision) -> None:
        """Appends a record."""
        record, service = self.log.stamp(draft), self._services.get(draft.system)
        if service is not None:
            service.fold(record, body)
