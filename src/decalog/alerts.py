"""Alerts: what stands is told once and kept up, what ended is told to have ended; in Alertmanager's form.

The state lies in the home's control.sqlite: one row an alert, from when to when, and whether its end was told. An alert
is told apart by its labels; as long as one stands, the same finding makes no other.

Source: github.com/prometheus/alertmanager, api/v2/openapi.yaml, `postableAlerts`.
"""

from __future__ import annotations

import contextlib
import http.client
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from decalog.clock import rfc3339
from decalog.errors import LogUnavailableError, RequestError
from decalog.stores.sqlite import connect
from decalog.watching import Finding

_TABLE = """
CREATE TABLE IF NOT EXISTS alerts (
    alert INTEGER PRIMARY KEY AUTOINCREMENT, system TEXT NOT NULL, labels TEXT NOT NULL, annotations TEXT NOT NULL,
    started INTEGER NOT NULL, ended INTEGER, told INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS alerts_standing ON alerts (system, labels) WHERE ended IS NULL;
"""
_PATH = "/api/v2/alerts"
_ANSWER_S = 10


class Alert(msgspec.Struct, frozen=True):
    """One thing that a person was called for.

    Args:
        labels: by which it is told apart and routed: alertname, system, owner, and those of the slice.
        annotations: summary, description, runbook: as last seen.
        started: begin of the first window at which it was found, µs.
        ended: end of the last, or None while it stands.
    """

    labels: dict[str, str]
    annotations: dict[str, str]
    started: int
    ended: int | None = None


class AlertBook:
    """The alerts of a home.

    Args:
        home: DECALOG_HOME.
    """

    def __init__(self, home: Path) -> None:
        self._control = home / "control.sqlite"

    def update(self, system: str, standing: Sequence[Finding], *, now_us: int) -> tuple[Alert, ...]:
        """Notes what stands now, and returns the alerts that are new.

        Args:
            system: whose; its alerts that are not among these have ended.
            standing: what a watch found at its latest looks.
            now_us: the present, µs.

        Raises:
            LogUnavailableError: the state cannot be written.
        """
        new = []
        with self._open(writer=True) as write:
            open_ = dict(_rows(write, "SELECT labels, alert FROM alerts WHERE system = ? AND ended IS NULL", system))
            for alert in (_alert(system, finding) for finding in standing):
                labels, annotations = _text(alert.labels), _text(alert.annotations)
                known = open_.pop(labels, None)
                if known is None:
                    new.append(alert)
                    add = "INSERT INTO alerts (system, labels, annotations, started) VALUES (?, ?, ?, ?)"
                    write.execute(add, (system, labels, annotations, alert.started))
                else:
                    write.execute("UPDATE alerts SET annotations = ? WHERE alert = ?", (annotations, known))
            for gone in open_.values():
                write.execute("UPDATE alerts SET ended = ? WHERE alert = ?", (now_us, gone))
        return tuple(new)

    def untold(self, system: str) -> tuple[Alert, ...]:
        """Returns what is to be told: every alert that stands, and those that ended and were not told to.

        It only reads: pages ask for it every few seconds, and neither wait for who writes the file nor hold them up.

        Raises:
            LogUnavailableError: the state cannot be read.
        """
        if not self._control.exists():
            return ()
        sql = "SELECT labels, annotations, started, ended FROM alerts WHERE system = ? AND told = 0 ORDER BY alert"
        with self._open(writer=False) as reader:
            # The file may have been made for the tokens and the models that lie beside the alerts.
            is_made = _rows(reader, "SELECT 1 FROM sqlite_master WHERE name = ?", "alerts")
            return tuple(
                Alert(msgspec.json.decode(labels), msgspec.json.decode(annotations), started, ended)
                for labels, annotations, started, ended in (_rows(reader, sql, system) if is_made else ())
            )

    def tell(self, system: str, address: str, *, hold_us: int, now_us: int) -> int:
        """Posts to an Alertmanager what is to be told, and returns how many alerts that were.

        Args:
            system: whose.
            address: of the Alertmanager, `http://host:9093`, before /api/v2/alerts.
            hold_us: how long an alert stands there without being told again, µs.
            now_us: the present, µs.

        Raises:
            RequestError: the address cannot be used, or did not take them; they are told again the next time.
            LogUnavailableError: the state cannot be written.
        """
        alerts = self.untold(system)
        if alerts:
            post(address, body_of(alerts, until_us=now_us + hold_us))
            with self._open(writer=True) as write:
                write.execute("UPDATE alerts SET told = 1 WHERE system = ? AND ended IS NOT NULL", (system,))
        return len(alerts)

    @contextlib.contextmanager
    def _open(self, *, writer: bool) -> Iterator[sqlite3.Connection]:
        connection = connect(self._control, writer=writer, tables=_TABLE)
        try:
            connection.execute("BEGIN IMMEDIATE" if writer else "BEGIN")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise LogUnavailableError(
                where="control.sqlite, alerts",
                given=f"SQLite says: {error}",
                expected=f"a file that can be {'written' if writer else 'read'}",
                fix="See that the disk has room and no other process holds the file.",
            ) from None
        finally:
            connection.close()  # what was not committed is rolled back


def body_of(alerts: Sequence[Alert], *, until_us: int) -> bytes:
    """Returns alerts as the body of POST /api/v2/alerts.

    Args:
        alerts: standing, or ended.
        until_us: until when those that stand are to stand if nothing more is said, µs.
    """
    return msgspec.json.encode(
        [
            {
                "labels": alert.labels,
                "annotations": alert.annotations,
                "startsAt": rfc3339(alert.started),
                "endsAt": rfc3339(until_us if alert.ended is None else alert.ended),
            }
            for alert in alerts
        ]
    )


def post(address: str, body: bytes) -> None:
    """Posts a body to an Alertmanager; redirects are not followed.

    Raises:
        RequestError: the address is none, nobody answers, or it does not take the body.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused("no http address", "http://host:9093, or https://")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname, parts.port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            connection.request("POST", parts.path.rstrip("/") + _PATH, body, {"content-type": "application/json"})
            status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _refused(f"no answer ({error})", "a running Alertmanager") from None
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own
        raise _refused(f"status {status}", "200")


def _alert(system: str, finding: Finding) -> Alert:
    slice_ = {f"slice_{name}" if name in _OURS else name: value for name, value in finding.labels.items()}
    labels = {"alertname": finding.monitor, "system": system, "owner": finding.owner, **slice_}
    annotations = {"summary": finding.meaning, "description": finding.said, "runbook": finding.runbook}
    return Alert(labels, annotations, finding.since)


_OURS = ("alertname", "system", "owner")


def _text(value: dict[str, str]) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _rows(connection: sqlite3.Connection, sql: str, value: str) -> list[Any]:
    return connection.execute(sql, (value,)).fetchall()


def _refused(given: str, expected: str) -> RequestError:
    return RequestError(
        where="Alertmanager",
        given=given,
        expected=expected,
        fix="Mend --alertmanager, or start it; what was not told is told with the next watch.",
    )
