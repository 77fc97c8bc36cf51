"""What callers get: decisions, batches, and one form for every refusal."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import count
from typing import Any

import httpx
import pytest
from tests.http.callers import Client, outcome, payment, refusal

from decalog.access import Access, TokenStore
from decalog.clock import DAY, ManualClock
from decalog.errors import ConfigError, LogUnavailableError
from decalog.host import Host
from decalog.http import App, HttpSettings

DECIDE = "/v1/fraud/decide"
EVENTS = "/v1/fraud/events"
LINES = {"Content-Type": "application/x-ndjson"}
OUTCOMES = "/v1/fraud/outcomes"
JSON = {"Content-Type": "application/json"}


def decide_raw(client: Client, raw: bytes) -> httpx.Response:
    return client.post(DECIDE, content=raw, headers=JSON)


def test_a_decision_is_answered_and_stands_in_the_log(client: Client, host: Host) -> None:
    answer = client.post(DECIDE, payment())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["payment"], told["action"], told["predictions"]) == ("p-1", "allow", {"p_fraud": 0.001})
    assert host.log.durable > told["seq"]
    assert "idempotent-replayed" not in answer.headers


def test_a_retry_gets_the_logged_decision_and_says_so(client: Client, host: Host) -> None:
    first = client.post(DECIDE, payment())
    position = host.log.position
    again = client.post(DECIDE, payment())
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert host.log.position == position


def test_the_same_id_with_another_body_is_a_conflict(client: Client) -> None:
    client.post(DECIDE, payment())
    problem = refusal(client.post(DECIDE, payment(amount_minor=9)), 409)
    assert problem["given"] == "an id that was logged before with another body"


@pytest.mark.parametrize("key", ["p-1", '"p-1"'])
def test_an_idempotency_key_may_repeat_the_id(client: Client, key: str) -> None:
    answer = client.post(DECIDE, payment(), headers={"Idempotency-Key": key})
    assert answer.status_code == 200


def test_an_idempotency_key_that_differs_is_a_conflict_and_decides_nothing(client: Client, host: Host) -> None:
    position = host.log.position
    problem = refusal(client.post(DECIDE, payment(), headers={"Idempotency-Key": "other"}), 409)
    assert problem["where"] == "request, Idempotency-Key"
    assert host.log.position == position


def test_an_idempotency_key_does_not_stand_in_for_the_id(standing: Client) -> None:
    body = {key: value for key, value in payment().items() if key != "id"}
    problem = refusal(standing.post(DECIDE, body, headers={"Idempotency-Key": "p-1"}), 422)
    assert problem["given"] == "no id"


def test_an_idempotency_key_beside_a_broken_body_is_about_the_body(standing: Client) -> None:
    headers = JSON | {"Idempotency-Key": "p-1"}
    refusal(standing.post(DECIDE, content=b'{"id":', headers=headers), 400)


@pytest.mark.parametrize("id_", ["p-1", "übung/1 & more?", "日本%2F"])
def test_a_decision_is_read_back_by_either_id(client: Client, id_: str) -> None:
    told = client.post(DECIDE, payment(id=id_)).json()
    quoted = httpx.QueryParams({"x": id_}).__str__()[2:].replace("+", "%20")
    for name in (quoted, told["decision_id"]):
        read = client.get(f"/v1/fraud/decisions/{name}")
        assert read.status_code == 200, read.text
        assert read.json()["decision_id"] == told["decision_id"]
        assert "card-1" not in read.text


def test_a_decision_is_replayed(client: Client) -> None:
    answers, numbers = dict[str, str](), count()
    while "0" not in answers or len(answers) == 1:
        told = client.post(DECIDE, payment(id=f"p-{next(numbers)}")).json()
        answers[told["decision_id"][-1]] = told["decision_id"]
    erased, whole = answers.pop("0"), answers.popitem()[1]
    assert client.post(f"/v1/fraud/decisions/{whole}/replay").json() == {"decision_id": whole, "identical": True}
    assert refusal(client.post(f"/v1/fraud/decisions/{erased}/replay"), 409)["given"] == "an erased subject"


def test_a_batch_tells_what_became_of_each_row(client: Client) -> None:
    rows = [payment(), payment(id="p-2", currency="EURO"), payment(), 7, payment(id="p-3")]
    told = client.post(EVENTS, rows).json()
    assert [row["status"] for row in told["results"]] == ["accepted", "rejected", "duplicate", "rejected", "accepted"]
    assert {key: told[key] for key in ("accepted", "duplicate", "rejected")} == {
        "accepted": 2,
        "duplicate": 1,
        "rejected": 2,
    }


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl", "application/json"])
def test_a_batch_may_hold_one_object_a_line(client: Client, kind: str) -> None:
    lines = "\n".join(json.dumps(row) for row in (payment(), payment(id="p-2")))
    told = client.post(EVENTS, content=lines + '\n{"broken\n', headers={"Content-Type": kind}).json()
    assert [row["status"] for row in told["results"]] == ["accepted", "accepted", "rejected"]


def test_a_batch_of_requests_is_answered_line_by_line_in_its_order(client: Client, host: Host) -> None:
    rows = [payment(id=f"p-{number}") for number in range(70)]
    lines = [*(json.dumps(row) for row in rows), json.dumps(payment(id="p-3", amount_minor=9)), '{"id": "x"}', "{", ""]
    answer = client.post("/v1/fraud/batch", content="\n".join(lines).encode(), headers=LINES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["payment"] for row in told[:70]] == [row["id"] for row in rows]
    assert [row["status"] for row in told[70:]] == [409, 422, 400]
    assert host.log.durable == host.log.position
    again = client.post("/v1/fraud/batch", content="\n".join(lines).encode(), headers=LINES)
    assert again.text == answer.text


def test_a_batch_of_requests_is_bounded(runner: asyncio.Runner, host: Host) -> None:
    client = Client(runner, App(host, HttpSettings(tokens=False, batch_rows=2), access=None), {})
    refusal(client.post("/v1/fraud/batch", content=b"{}\n{}\n{}", headers=LINES), 413)
    refusal(client.post("/v1/fraud/batch", content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    assert client.post("/v1/fraud/batch", content=b"", headers=LINES).content == b""


def test_outcomes_are_taken(standing: Client) -> None:
    told = standing.post(OUTCOMES, [outcome(), outcome(), outcome(id="o-2", source="us")]).json()
    assert [row["status"] for row in told["results"]] == ["accepted", "duplicate", "rejected"]


def test_a_batch_of_which_nothing_was_taken_is_no_success(standing: Client) -> None:
    problem = refusal(standing.post(OUTCOMES, [outcome(source="us"), outcome(id="o-2", kind="guess")]), 422)
    assert problem["given"] == "no row that could be taken"
    assert [row["reason"] for row in problem["results"]] == ["source", "kind"]


def test_a_single_bad_row_says_what_is_wrong_with_it(standing: Client) -> None:
    problem = refusal(standing.post(OUTCOMES, outcome(source="us")), 422)
    assert "a source that is not trusted for this kind" in problem["given"]


def test_an_empty_batch_is_taken(standing: Client) -> None:
    assert standing.post(EVENTS, []).json() == {"accepted": 0, "duplicate": 0, "rejected": 0, "results": []}


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (payment(ammount=1), 422, "fraud payment"),
        (payment(currency="EURO"), 422, "fraud payment, currency"),
        (payment(currency="XXX"), 422, "fraud payment, currency"),
        (payment(amount_minor=12.34), 422, "fraud payment, amount_minor"),
        (payment(amount_minor=1200.5, currency="JPY"), 422, "fraud payment, amount_minor"),
        (payment(amount_minor=-1), 422, "fraud payment, amount_minor"),
        (payment(amount_minor=10**30), 422, "fraud payment, amount_minor"),
        (payment(event_time="2999-01-01T00:00:00Z"), 422, "fraud payment, event_time"),
        (payment(event_time="2026-03-01 12:00"), 422, "fraud payment, event_time"),
        (payment(cardholder="x" * 1_000_000), 422, "fraud payment, cardholder"),
        (payment(cardholder="a\x00b"), 422, "fraud payment, cardholder"),
        (payment(channel="carrier pigeon"), 422, "fraud payment, channel"),
        (payment(card=""), 422, "fraud payment, card"),
        (payment(id=""), 422, "fraud payment, id"),
        (payment(id=7), 422, "fraud payment, id"),
        (payment(corrects="p-0"), 422, "fraud payment, corrects"),
        ({"id": "p-1", "currency": "EUR"}, 422, "fraud payment"),
        ({"id": "p-1", "amount_minor": 1}, 422, "fraud payment"),
        ([payment()], 422, "fraud payment"),
        ("text", 422, "fraud payment"),
    ],
)
def test_a_bad_request_gets_the_four_parts(standing: Client, body: Any, status: int, where: str) -> None:
    assert refusal(standing.post(DECIDE, body), status)["where"].startswith(where)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{",
        b'{"id":"p-1","amount_minor":NaN,"currency":"EUR"}',
        b'{"id":"p-1","amount_minor":1e400,"currency":"EUR"}',
        b'{"id":"p-1","amount_minor":' + b"9" * 50_000 + b',"currency":"EUR"}',
        b'{"id":"\\ud800","amount_minor":1,"currency":"EUR"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
def test_what_is_hardly_json_gets_a_4xx_everywhere(standing: Client, raw: bytes) -> None:
    for path in (DECIDE, EVENTS, OUTCOMES):
        answer = standing.post(path, content=raw, headers=JSON)
        if answer.status_code != 200 or raw:
            refusal(answer, answer.status_code)
            assert answer.status_code in (400, 422)


@pytest.mark.parametrize("cardholder", ["Zoë Ångström", "王小明", "محمد", "👩‍👩‍👧", "O'Brien <b>"])
def test_names_of_the_world_are_taken(client: Client, cardholder: str) -> None:
    assert client.post(DECIDE, payment(cardholder=cardholder)).status_code == 200


def test_a_payment_without_device_is_decided(client: Client) -> None:
    body = {"id": "p-1", "amount_minor": 1200, "currency": "JPY"}
    assert client.post(DECIDE, body).status_code == 200


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([payment(cardholder="x" * 300_000)], 0),
        ([payment(id="a"), {"nested": {"deep": [[[]]]}}, payment(id="b")], 2),
    ],
)
def test_a_bad_row_loses_nothing_else_of_its_batch(client: Client, rows: list[Any], taken: int) -> None:
    answer = client.post(EVENTS, rows)
    assert sum(row["status"] == "accepted" for row in answer.json()["results"]) == taken


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/fraud", "/v1/fraud/decided", "/v1/fraud/decide/", "/v2/fraud/decide"]
)
def test_an_unknown_path_is_not_found(standing: Client, path: str) -> None:
    assert refusal(standing.post(path), 404)["where"] == "request, path"


@pytest.mark.parametrize(
    "path",
    ["/v1/fraud/decisions", "/v1/fraud/decisions/a/b", "/v1/fraud/decisions/a/replay/b", "/v1/fraud/decisions/%FF"],
)
def test_an_unknown_path_of_a_decision_is_not_found(standing: Client, path: str) -> None:
    assert refusal(standing.get(path), 404)["where"] == "request, path"


def test_an_unknown_system_is_not_found_with_the_near_match(standing: Client) -> None:
    assert "'fraud' (closest match)" in refusal(standing.post("/v1/froud/decide", payment()), 404)["expected"]


def test_an_unknown_decision_is_not_found(standing: Client) -> None:
    assert refusal(standing.get("/v1/fraud/decisions/nope"), 404)["given"] == "an id that no decision has"


def test_a_percent_encoded_path_is_the_same_path(client: Client) -> None:
    assert client.post("/v1/%66raud/decide", payment()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", DECIDE, "POST"),
        ("OPTIONS", DECIDE, "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/v1/fraud/decisions/x", "GET, HEAD"),
        ("GET", "/v1/fraud/decisions/x/replay", "POST"),
    ],
)
def test_another_method_says_which_is_allowed(standing: Client, method: str, path: str, allowed: str) -> None:
    answer = standing.call(method, path)
    assert refusal(answer, 405)["expected"] == allowed
    assert answer.headers["allow"] == allowed


def test_head_is_get_without_a_body(standing: Client) -> None:
    head, get = standing.call("HEAD", "/openapi.json"), standing.get("/openapi.json")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ({}, "request, Content-Type"),
        ({"Content-Type": "text/plain"}, "request, Content-Type"),
        ({"Content-Type": "application/x-ndjson"}, "request, Content-Type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "request, Content-Type"),
        (JSON | {"Content-Encoding": "gzip"}, "request, Content-Encoding"),
    ],
)
def test_another_media_type_is_refused(standing: Client, headers: dict[str, str], where: str) -> None:
    answer = standing.post(DECIDE, content=json.dumps(payment()), headers=headers)
    assert refusal(answer, 415)["where"] == where


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
def test_utf8_may_be_named(client: Client, kind: str) -> None:
    answer = client.post(DECIDE, content=json.dumps(payment()), headers={"Content-Type": kind})
    assert answer.status_code == 200


def test_query_parameters_are_refused(standing: Client) -> None:
    assert refusal(standing.post(DECIDE + "?token=x", payment()), 400)["where"] == "request, query"


def test_a_header_that_may_come_once_must_not_come_twice(standing: Client) -> None:
    headers = [("Host", "a"), ("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
    assert refusal(standing.run(lambda inside: inside.get("/healthz", headers=headers)), 400)["where"] == (
        "request, authorization"
    )


@pytest.mark.parametrize(
    ("headers", "where"),
    [([], "request, Host"), ([(b"host", b"a"), (b"content-length", b"many")], "request, Content-Length")],
)
def test_a_head_without_sense_is_refused(
    standing: Client, standing_runner: asyncio.Runner, headers: list[tuple[bytes, bytes]], where: str
) -> None:
    status, problem = call_plain(standing_runner, standing.app, headers=headers)
    assert (status, problem["where"]) == (400, where)


def call_plain(standing_runner: asyncio.Runner, app: App, **parts: Any) -> tuple[int, Any]:
    """Calls the application without a standing between, which would mend what is sent."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/healthz", "raw_path": b"/healthz", "query_string": b""}
    standing_runner.run(app(scope | {"headers": [(b"host", b"127.0.0.1")], "standing": None} | parts, receive, send))
    return (sent[0]["status"], json.loads(sent[1]["body"])) if sent else (0, None)


def test_a_client_that_hangs_up_gets_no_answer(open_client: Client, runner: asyncio.Runner) -> None:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    app = open_client.app
    status, _ = call_plain(runner, app, method="POST", path=DECIDE, raw_path=DECIDE.encode(), headers=headers)
    assert (status, app.in_flight) == (0, 0)


def test_a_server_that_gives_no_raw_path_is_served_too(standing: Client, standing_runner: asyncio.Runner) -> None:
    assert call_plain(standing_runner, standing.app, raw_path=None) == (200, {"status": "alive", "problems": {}})


@pytest.mark.parametrize("settings", [HttpSettings(tokens=False, decide_bytes=100, batch_bytes=200, batch_rows=2)])
def test_limits_of_size_are_kept(runner: asyncio.Runner, host: Host, settings: HttpSettings) -> None:
    client = Client(runner, App(host, settings, access=None), {})
    assert refusal(client.post(DECIDE, payment(card="x" * 100)), 413)["expected"] == "at most 100 bytes"
    answer = client.post(EVENTS, payment(card="x" * 200))
    assert refusal(answer, 413)["expected"] == "at most 200 bytes"
    assert answer.headers["connection"] == "close"
    assert refusal(client.post(EVENTS, [1, 2, 3]), 413)["expected"] == "at most 2 rows"
    lines = client.post(EVENTS, content=b"1\n2\n3", headers=JSON)
    assert refusal(lines, 413)["expected"] == "at most 2 rows"


def test_a_body_in_parts_is_refused_as_soon_as_it_is_too_long(runner: asyncio.Runner, host: Host) -> None:
    client = Client(runner, App(host, HttpSettings(tokens=False, decide_bytes=100), access=None), {})
    sent: list[int] = []

    async def endless() -> Any:
        for number in range(1_000):
            sent.append(number)
            yield b"x" * 10

    refusal(client.run(lambda inside: inside.post(DECIDE, content=endless(), headers=JSON)), 413)
    assert len(sent) < 15


def test_a_body_in_parts_is_put_together(open_client: Client) -> None:
    async def parts() -> Any:
        for byte in json.dumps(payment()):
            yield byte.encode()

    answer = open_client.run(lambda inside: inside.post(DECIDE, content=parts(), headers=JSON))
    assert answer.status_code == 200


def test_a_rate_is_kept_for_each_caller(runner: asyncio.Runner, host: Host, store: TokenStore) -> None:
    now = [100.0]
    settings = HttpSettings(rate_per_s=0.5, burst=2)
    app = App(host, settings, access=Access(store), monotonic=lambda: now[0])
    first, other = [Client(runner, app, {"Authorization": f"Bearer {store.create(['decide'])[1]}"}) for _ in range(2)]
    assert [first.get("/v1/fraud/decisions/x").status_code for _ in range(3)] == [404, 404, 429]
    answer = first.get("/v1/fraud/decisions/x")
    assert refusal(answer, 429)["expected"] == "at most 0.5 a second"
    assert answer.headers["retry-after"] == "2"
    assert other.get("/v1/fraud/decisions/x").status_code == 404
    now[0] += 2
    assert [first.get("/v1/fraud/decisions/x").status_code for _ in range(2)] == [404, 429]


def test_wrong_tokens_are_limited_by_address(runner: asyncio.Runner, host: Host, store: TokenStore) -> None:
    settings = HttpSettings(rate_per_s=1, burst=2)
    app = App(host, settings, access=Access(store), monotonic=lambda: 0.0)
    client = Client(runner, app, {"Authorization": "Bearer wrong"})
    assert [client.post(DECIDE).status_code for _ in range(3)] == [401, 401, 429]
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", DECIDE, "decide"),
        ("POST", EVENTS, "decide"),
        ("POST", OUTCOMES, "outcomes"),
        ("GET", "/v1/fraud/decisions/x", "decide"),
        ("POST", "/v1/fraud/decisions/x/replay", "admin"),
        ("GET", "/v1/fraud/decisions/x/explanation", "admin"),
        ("GET", "/metrics", "admin"),
    ],
)
def test_each_route_takes_its_scope_and_no_other(
    client: Client, store: TokenStore, *, method: str, path: str, scope: str
) -> None:
    wrong = {"Authorization": "Bearer dlg_0123456789ab_" + "0" * 64}
    answers = [client.call(method, path, headers={"Authorization": ""}), client.call(method, path, headers=wrong)]
    for answer in answers:
        refusal(answer, 401)
        assert answer.headers["www-authenticate"] == 'Bearer realm="decalog", error="invalid_token"'
    for held in ("decide", "outcomes", "admin"):
        text = store.create([held])[1]
        answer = client.call(method, path, headers={"Authorization": f"Bearer {text}"})
        assert (answer.status_code == 403) is (held != scope)
        if held != scope:
            refusal(answer, 403)
            assert f'error="insufficient_scope", scope="{scope}"' in answer.headers["www-authenticate"]


def test_no_token_at_all_gets_a_plain_challenge(client: Client) -> None:
    client.headers.clear()
    answer = client.post(DECIDE, payment())
    assert refusal(answer, 401)["given"] == "no token"
    assert answer.headers["www-authenticate"] == 'Bearer realm="decalog"'


def test_a_token_of_another_system_is_refused(client: Client, store: TokenStore) -> None:
    text = store.create(["decide"], systems=["ads"])[1]
    problem = refusal(client.post(DECIDE, payment(), headers={"Authorization": f"Bearer {text}"}), 403)
    assert problem["expected"] == "a token for fraud"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_probes_and_the_document_take_no_token(client: Client, path: str) -> None:
    client.headers.clear()
    assert client.get(path).status_code == 200


def test_a_champion_that_cannot_be_used_is_told_by_the_probe(client: Client, host: Host) -> None:
    assert client.get("/healthz").json() == {"status": "alive", "problems": {}}
    host.services["fraud"].problem = "champion 0123456789ab: damaged"
    assert client.get("/healthz").json() == {
        "status": "alive",
        "problems": {"fraud": "champion 0123456789ab"},
    }


@pytest.mark.parametrize("name", ["127.0.0.1:8000", "localhost", "[::1]:9", "LOCALHOST:80"])
def test_without_tokens_loopback_names_are_answered(open_client: Client, name: str) -> None:
    for _ in range(2):
        assert open_client.get("/metrics", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[fe80::1]", "", "\xff"])
def test_without_tokens_other_names_are_refused(open_client: Client, name: str) -> None:
    headers = {b"Host": name.encode("latin-1")}
    assert refusal(open_client.get("/healthz", headers=headers), 403)["where"] == "request, Host"


def test_metrics_count_requests_by_route_and_status(client: Client) -> None:
    client.post(DECIDE, payment())
    client.post(DECIDE, payment(currency="EURO"))
    client.get("/nowhere")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'decalog_http_request_seconds_count{route="decide",status="200"} 1.0',
        'decalog_http_request_seconds_count{route="decide",status="422"} 1.0',
        'decalog_http_request_seconds_count{route="unknown",status="404"} 1.0',
        'decalog_decisions_total{action="allow",mode="live",system="fraud"} 1.0',
    ):
        assert line in answer.text


def test_what_nobody_foresaw_shows_nothing_of_the_inside(
    client: Client, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(system: str, raw: bytes) -> None:
        raise KeyError("card 4111 1111 1111 1111")

    monkeypatch.setattr(host, "decide", broken)
    with caplog.at_level(logging.WARNING):
        answer = client.post(DECIDE, payment())
    assert refusal(answer, 500)["where"] == "server"
    assert "4111" not in answer.text + caplog.text
    assert "unexpected error: route=decide error=KeyError at=broken:" in caplog.text
    assert 'decalog_http_unexpected_errors_total{error="KeyError"} 1.0' in client.get("/metrics").text


def test_a_log_that_takes_nothing_gets_503_with_the_time_to_retry(
    client: Client, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(entries: object) -> None:
        raise LogUnavailableError(where="0.sqlite", given="disk full", expected="a commit", fix="Free disk space.")

    monkeypatch.setattr(host.log.store, "append", full)
    first = client.post(DECIDE, payment())
    assert refusal(first, 503)["given"] == "disk full"
    for path, body in ((DECIDE, payment()), (EVENTS, [payment()]), (OUTCOMES, [outcome()])):
        answer = client.post(path, body)
        assert refusal(answer, 503)["given"] == "a log that failed"
        assert answer.headers["retry-after"] == "1"
    assert refusal(client.get("/readyz"), 503)["given"] == "a log that failed"
    assert client.get("/healthz").status_code == 200


def test_before_it_is_started_a_host_is_not_ready(client: Client, host: Host, runner: asyncio.Runner) -> None:
    runner.run(host.stop())
    assert refusal(client.get("/readyz"), 503)["given"] == "no open log"
    assert refusal(client.post(DECIDE, payment()), 503)["given"] == "a log that takes nothing now"


def test_a_draining_server_refuses_what_is_new_and_answers_probes(client: Client) -> None:
    client.app.draining = True
    answer = client.post(DECIDE, payment())
    assert refusal(answer, 503)["given"] == "a server on its way out"
    assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
    assert refusal(client.get("/readyz"), 503)["given"] == "a server on its way out"
    assert [client.get(path).status_code for path in ("/healthz", "/metrics")] == [200, 200]


def test_more_at_once_than_allowed_is_refused(client: Client) -> None:
    client.app.in_flight = client.app.settings.in_flight
    assert refusal(client.post(DECIDE, payment()), 503)["given"] == "more requests than can be at work at once"
    assert client.get("/healthz").status_code == 200


def test_websockets_are_refused_and_lifespan_is_answered(standing: Client, standing_runner: asyncio.Runner) -> None:
    sent: list[Any] = []
    messages = [{"type": "websocket.connect"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> dict[str, str]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    for kind in ("websocket", "lifespan"):
        standing_runner.run(standing.app({"type": kind}, receive, send))
    assert sent == ["websocket.close", "lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (HttpSettings(host="0.0.0.0", tokens=False), "authentication off while listening on 0.0.0.0"),  # noqa: S104 - refused
        (HttpSettings(burst=0, port=70_000, rate_per_s=-1), "rate_per_s -1, burst 0, port 70000"),
        (HttpSettings(rate_per_s=float("nan")), "rate_per_s nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(host: Host, settings: HttpSettings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        App(host, settings, access=None)


def test_a_server_that_needs_tokens_takes_a_store_of_them(host: Host) -> None:
    with pytest.raises(ConfigError, match="tokens are needed, but there is nothing that verifies them"):
        App(host, HttpSettings(), access=None)


def test_readyz_counts_features_whose_rows_fell_silent_and_stays_ready(client: Client, host: Host) -> None:
    watched = [feature for feature in host.services["fraud"].system.features.aggregates if feature.staleness]
    assert client.get("/readyz").json()["stale"] == 0
    assert isinstance(host.log.clock, ManualClock)
    host.log.clock.set(host.log.clock.now_us() + DAY)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["stale"]) == (200, len(watched))
    assert 'decalog_feature_stale{feature="card_payments_1h",system="fraud"} 1.0' in client.get("/metrics").text
    client.post(DECIDE, payment())
    assert client.get("/readyz").json()["stale"] == 0
