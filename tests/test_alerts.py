"""An alert is told once, kept up while it stands, and told to have ended; in the form that Alertmanager reads."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from decalog.access import TokenStore
from decalog.alerts import AlertBook, body_of, post
from decalog.clock import DAY, HOUR, ManualClock
from decalog.errors import LogUnavailableError, RequestError
from decalog.watching import Finding

NOW = 20_000 * DAY


def finding(name: str = "fraud_block_share", *, said: str = "0.05", since: int = NOW - HOUR, **labels: str) -> Finding:
    """Returns a finding that stands."""
    return Finding(
        monitor=name,
        meaning="payments refused outright",
        owner="fraud",
        runbook="Read ten blocked decisions.",
        labels=labels,
        said=said,
        value=None,
        level=0.03,
        since=since,
        until=NOW,
        stands=True,
    )


@pytest.fixture
def book(tmp_path: Path) -> AlertBook:
    return AlertBook(tmp_path)


class Receiver:
    """What an Alertmanager was sent, and the status it answers with."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.bodies: list[Any] = []
        self.address = ""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Gives a server on this machine that takes what is posted."""
    told = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["content-type"] == "application/json"
            told.paths.append(self.path)
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(told.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_same_finding_is_new_once(book: AlertBook) -> None:
    assert [one.labels["alertname"] for one in book.update("fraud", [finding()], now_us=NOW)] == ["fraud_block_share"]
    assert book.update("fraud", [finding(said="0.07", since=NOW)], now_us=NOW + HOUR) == ()
    (standing,) = book.untold("fraud")
    assert standing.annotations["description"] == "0.07"
    assert (standing.started, standing.ended) == (NOW - HOUR, None)


def test_slices_and_systems_are_alerts_of_their_own(book: AlertBook) -> None:
    findings = [finding(reason="no_model"), finding(reason="late_request"), finding()]
    assert len(book.update("fraud", findings, now_us=NOW)) == 3
    assert len(book.update("feed", [finding()], now_us=NOW)) == 1
    assert book.update("feed", [], now_us=NOW + HOUR) == ()
    assert [one.ended for one in book.untold("fraud")] == [None, None, None]


def test_what_ended_and_comes_again_is_new_again(book: AlertBook) -> None:
    book.update("fraud", [finding()], now_us=NOW)
    assert book.update("fraud", [], now_us=NOW + HOUR) == ()
    assert [one.ended for one in book.untold("fraud")] == [NOW + HOUR]
    assert len(book.update("fraud", [finding(since=NOW + 2 * HOUR)], now_us=NOW + 3 * HOUR)) == 1
    assert [one.ended for one in book.untold("fraud")] == [NOW + HOUR, None]


def test_what_is_to_be_told_is_only_read(tmp_path: Path, book: AlertBook) -> None:
    assert book.untold("fraud") == ()
    assert not (tmp_path / "control.sqlite").exists()
    with closing(TokenStore(tmp_path / "control.sqlite", ManualClock(0))):
        assert book.untold("fraud") == ()
    book.update("fraud", [finding()], now_us=NOW)
    with closing(sqlite3.connect(tmp_path / "control.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # somebody else writes
        assert len(book.untold("fraud")) == 1


def test_an_alertmanager_is_told_what_stands_again_and_what_ended_once(book: AlertBook) -> None:
    with receiving() as told:
        for hour, standing in enumerate([[finding()], [finding()], [], []]):
            book.update("fraud", standing, now_us=NOW + hour * HOUR)
            book.tell("fraud", told.address, hold_us=DAY, now_us=NOW + hour * HOUR)
    assert told.paths == ["/api/v2/alerts"] * 3
    ends = [[alert["endsAt"] for alert in body] for body in told.bodies]
    day = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=NOW)
    assert ends == [
        [f"{day + dt.timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"],
        [f"{day + dt.timedelta(days=1, hours=1):%Y-%m-%dT%H:%M:%SZ}"],
        [f"{day + dt.timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"],
    ]
    assert len({json.dumps([alert["labels"] for alert in body], sort_keys=True) for body in told.bodies}) == 1


def test_an_end_that_was_not_taken_is_told_again(book: AlertBook) -> None:
    book.update("fraud", [finding()], now_us=NOW)
    book.update("fraud", [], now_us=NOW + HOUR)
    with receiving() as told:
        told.status = 500
        with pytest.raises(
            RequestError, match=r"Alertmanager: status 500. Expected 200. Mend --alertmanager, or start it"
        ):
            book.tell("fraud", told.address, hold_us=DAY, now_us=NOW + HOUR)
        told.status = 200
        assert book.tell("fraud", f"{told.address}/am/", hold_us=DAY, now_us=NOW + 2 * HOUR) == 1
        assert book.tell("fraud", told.address, hold_us=DAY, now_us=NOW + 2 * HOUR) == 0
    assert told.paths == ["/api/v2/alerts", "/am/api/v2/alerts"]
    assert told.bodies[0] == told.bodies[1]


def test_the_body_is_what_alertmanagers_openapi_asks_for(book: AlertBook) -> None:
    """`postableAlerts`: an array of {labels (required), annotations, startsAt, endsAt}; label sets map text to text."""
    slice_: dict[str, Any] = {"feature": "card_payments_1h", "owner": "of a slice"}
    book.update("fraud", [finding(**slice_)], now_us=NOW)
    (alert,) = json.loads(body_of(book.untold("fraud"), until_us=NOW + DAY))
    assert set(alert) <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert alert["labels"] == {
        "alertname": "fraud_block_share",
        "system": "fraud",
        "owner": "fraud",
        "feature": "card_payments_1h",
        "slice_owner": "of a slice",
    }
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    for name, value in (*alert["labels"].items(), *alert["annotations"].items()):
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
        assert isinstance(value, str)
        assert value
    begin, end = (dt.datetime.fromisoformat(alert[name]) for name in ("startsAt", "endsAt"))
    assert begin.tzinfo is not None
    assert begin < end


@pytest.mark.parametrize("address", ["ftp://x", "localhost:9093", "http://"])
def test_an_address_has_to_be_one(address: str) -> None:
    with pytest.raises(RequestError, match=r"Alertmanager: no http address. Expected http://host:9093, or https://"):
        post(address, b"[]")


def test_nobody_there_is_said() -> None:
    with receiving() as told:
        address = told.address
    with pytest.raises(RequestError, match=r"Alertmanager: no answer \(.+\). Expected a running Alertmanager"):
        post(address, b"[]")


def test_a_state_that_cannot_be_written_is_said(tmp_path: Path, book: AlertBook) -> None:
    book.update("fraud", [], now_us=NOW)
    bad = msgspec.structs.replace(finding(), since=2**70)
    with pytest.raises(OverflowError):
        book.update("fraud", [bad], now_us=NOW)
    (tmp_path / "control.sqlite").write_bytes(b"no database at all, " * 500)
    with pytest.raises(LogUnavailableError):
        book.update("fraud", [], now_us=NOW)
