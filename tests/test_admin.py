"""What operators do: models by name, tokens, and calls to a running server."""

from __future__ import annotations

import getpass
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.homes import add_model, rule
from tests.test_reports import REPORT as SOME_REPORT

from decalog import admin
from decalog.clock import time_us
from decalog.errors import AccessError, ConfigError, LogUnavailableError, ModelError, RequestError, UnknownRecordError
from decalog.home import Home
from decalog.ingest import RowResult
from decalog.metrics import Measurement
from decalog.registry import Pin
from decalog.reports import Report
from decalog.training import REPORT

Answer = Callable[[], tuple[int, bytes]]


# Models


def test_models_are_listed_with_their_aliases_and_history(tmp_path: Path) -> None:
    home = Home(tmp_path)
    pin = Pin((500,), 0, time_us("2026-03-01T00:00:00Z"))
    first = add_model(tmp_path, pin=pin, metrics={"brier": Measurement(0.0123456, 0.01, 0.02, 99)})
    second = add_model(tmp_path, rule(limit=1.0), promote=False, name="other")
    assert admin.promote(home, "fraud", model=second[:12], alias="shadow", why="to compare") == (
        f"shadow of fraud is {second[:12]}"
    )
    listed = admin.list_models(home, "fraud")
    by_id = {model.id: model for model in listed.models}
    assert (by_id[first[:12]].aliases, by_id[second[:12]].aliases) == (("champion",), ("shadow",))
    assert (by_id[first[:12]].position, by_id[first[:12]].trained_to) == (500, "2026-03-01T00:00:00Z")
    text = admin.models_text(listed)
    assert f"{first[:12]}  rule         champion" in text
    assert "trained to 2026-03-01T00:00:00Z  brier 0.01235" in text
    assert text.splitlines()[-1].endswith(f"promote shadow → {second[:12]} by {getpass.getuser()}: to compare")


def test_a_rollback_says_which_model_it_is_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, _ = add_model(tmp_path), add_model(tmp_path, rule(limit=1.0))
    assert admin.rollback(home, "fraud", alias="champion", why="alarms") == f"champion of fraud is {first[:12]} again"
    assert admin.list_models(home, "fraud").history[-1].why == "alarms"
    with pytest.raises(ConfigError, match="no earlier model in its history"):
        admin.rollback(home, "fraud", alias="champion", why="more alarms")


def test_a_model_shows_the_report_it_was_registered_with(tmp_path: Path) -> None:
    def save(folder: Path) -> dict[str, Any]:
        (folder / REPORT).write_text(SOME_REPORT.to_json(), encoding="utf-8")
        return dict(rule().save(folder))

    model = add_model(tmp_path, SimpleNamespace(save=save))
    shown = admin.show_model(Home(tmp_path), model[:12])
    assert shown == msgspec.json.decode(SOME_REPORT.to_json(), type=Report).markdown()


def test_a_model_without_a_report_that_reads_says_so(tmp_path: Path) -> None:
    model = add_model(tmp_path)
    with pytest.raises(ModelError, match=r"report\.json: no report that can be read .* the model itself is whole"):
        admin.show_model(Home(tmp_path), model)


def test_no_models_yet_is_no_error_and_makes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert admin.models_text(admin.list_models(home, "fraud")) == "no models yet: `decalog train` makes one"
    with pytest.raises(UnknownRecordError, match="Expected a trained model"):
        admin.promote(home, "fraud", model="0123456789ab", alias="champion", why="")
    assert not home.root.exists()


def test_models_of_an_unknown_system_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="system: 'frod'"):
        admin.list_models(Home(tmp_path), "frod")


# Tokens


def test_a_token_works_until_it_is_revoked_and_is_never_shown_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert admin.tokens_text(home) == "no tokens yet: `decalog tokens create --scope decide`"
    text = admin.create_token(home, ["decide", "outcomes"], systems=["fraud"], note="checkout", lifetime="90d")
    endless = admin.create_token(home, ["admin"], systems=(), note="", lifetime="")
    id_ = text.split("_")[1]
    access = admin.access_of(home)
    assert access.verify(f"Bearer {text}".encode()).scopes == ("decide", "outcomes")
    listed = admin.tokens_text(home)
    assert f"{id_}  decide, outcomes         fraud          until 20" in listed
    assert "admin                    all systems    live" in listed
    assert text.split("_")[2] not in listed
    assert endless.split("_")[2] not in listed
    assert admin.revoke_token(home, id_) == f"{id_} is revoked"
    assert f"{id_}  decide, outcomes         fraud          revoked" in admin.tokens_text(home)
    with pytest.raises(AccessError):
        admin.access_of(home).verify(f"Bearer {text}".encode())


@pytest.mark.parametrize("lifetime", ["soon", "0d", "-1d"])
def test_a_token_without_a_sensible_lifetime_is_refused(tmp_path: Path, lifetime: str) -> None:
    with pytest.raises(ConfigError, match=r"a whole number and a unit|a time above 0"):
        admin.create_token(Home(tmp_path), ["decide"], systems=(), note="", lifetime=lifetime)
    assert admin.tokens_text(Home(tmp_path)).startswith("no tokens yet")


# Rows


def test_rows_are_counted_and_each_refused_one_has_its_sentence() -> None:
    rows = [
        RowResult("a", "accepted", 0),
        RowResult("a", "duplicate", 0),
        RowResult("b", "rejected", 1, "currency", "a sentence."),
        RowResult("", "rejected", 2, "malformed", "another."),
    ]
    assert admin.rows_text(iter(rows)) == (
        "1 accepted, 1 duplicate, 2 rejected\n  b [currency] a sentence.\n  (no id) [malformed] another."
    )
    assert admin.rows_text([]) == "0 accepted, 0 duplicate, 0 rejected"


# Calls to a server


class Listener:
    """A server that gives one answer and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                listener.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, raw))
                status, body = listener.answer
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the standard library's name
                """Says nothing."""

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_a_call_sends_the_body_with_its_token_and_gives_the_answer(listener: Listener) -> None:
    listener.answer = (200, b'{"action": "allow"}')
    shown = "dlg_x"
    assert admin.post(f"{listener.url}/v1/fraud/decide", b"{}", token=shown) == {"action": "allow"}
    ((path, headers, raw),) = listener.asked
    assert (path, raw) == ("/v1/fraud/decide", b"{}")
    assert (headers["authorization"], headers["content-type"]) == ("Bearer dlg_x", "application/json")
    admin.post(listener.url, b"{}")
    assert "authorization" not in listener.asked[1][1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RequestError), (401, AccessError), (403, AccessError), (404, RequestError), (503, LogUnavailableError)],
)
def test_a_refusal_is_the_servers_own_sentence(listener: Listener, status: int, kind: type[Exception]) -> None:
    parts = {"where": "a place", "given": "something", "expected": "another thing", "fix": "Mend it."}
    listener.answer = (status, msgspec.json.encode(parts))
    with pytest.raises(kind) as caught:
        admin.post(listener.url, b"{}")
    assert str(caught.value) == "a place: something. Expected another thing. Mend it."


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"\xff"])
def test_a_refusal_of_something_else_is_told_from_decalogs(listener: Listener, body: bytes) -> None:
    listener.answer = (502, body)
    with pytest.raises(LogUnavailableError) as caught:
        admin.post(listener.url, b"{}")
    assert str(caught.value) == (
        f"{listener.url}: status 502 in words that are not decalog's. Expected a decalog server. "
        "Check the address: something else may listen there."
    )


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff"])
def test_an_answer_that_is_no_json_is_refused(listener: Listener, body: bytes) -> None:
    listener.answer = (200, body)
    with pytest.raises(RequestError) as caught:
        admin.post(listener.url, b"{}")
    assert str(caught.value) == (
        f"{listener.url}: an answer that is not JSON. Expected a decalog server. "
        "Check the address: something else may listen there."
    )


def test_no_server_is_said_with_how_to_start_one() -> None:
    with pytest.raises(LogUnavailableError) as caught:
        admin.post("http://127.0.0.1:1/v1/fraud/decide", b"{}")
    assert str(caught.value).startswith("http://127.0.0.1:1/v1/fraud/decide: no answer (")
    assert str(caught.value).endswith("Expected a running server. Start `decalog serve`.")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "file:///etc/hosts", "ftp://here", ""])
def test_only_http_addresses_are_called(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        admin.post(url, b"{}")
    assert str(caught.value) == ("--url: no http address. Expected http://127.0.0.1:8000 or the like. Mend it.")


@pytest.mark.parametrize("url", ["http://[broken", "http://a b/", "http://host:port/", "http://\n/"])
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match=r"--url: an address that cannot be read \(.*\. Expected http://127"):
        admin.post(url, b"{}")
