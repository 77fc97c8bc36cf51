"""Tables, policy and changes over HTTP: hot, durable, audited, and closed to those without the scope."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http.callers import Client, make_host, payment, refusal
from tests.http.test_openapi import validator
from tests.own_tables import WITH_TABLES

from decalog.access import Access, TokenStore
from decalog.clock import ManualClock
from decalog.host import Host
from decalog.http import App, HttpSettings

TABLES, POLICY, CHANGES = "/v1/fraud/tables", "/v1/fraud/policy", "/v1/fraud/changes"


@pytest.fixture
def host(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Host]:
    made = make_host(tmp_path, WITH_TABLES)
    runner.run(made.start())
    yield made
    runner.run(made.stop())


def put(client: Client, path: str, body: object, **parts: object) -> object:
    answer = client.call("PUT", path, json=body, **parts)
    assert answer.status_code == 200, answer.text
    assert validator(client.get("/openapi.json").json(), "Policy" if path == POLICY else "Table").is_valid(
        answer.json()
    ), answer.text
    return answer.json()


def listed(client: Client, card: str) -> float:
    told = client.post("/v1/fraud/decide", payment(id=f"of {card}", card=card)).json()
    found: float = client.get(f"/v1/fraud/decisions/{told['decision_id']}").json()["features"]["card_lists"]
    return found


def test_a_list_counts_from_the_next_request_on_and_is_durable(client: Client, host: Host) -> None:
    state = put(client, f"{TABLES}/card_lists", {"card-1": 3, "card-2": 4})
    assert isinstance(state, dict)
    assert host.log.durable == host.log.position == 2
    assert (state["table"], state["key"], state["entries"], state["seq"]) == ("card_lists", "card", 2, 0)
    assert [listed(client, card) for card in ("card-1", "card-2", "card-3")] == [3.0, 4.0, -1.0]
    shown = client.get(f"{TABLES}/card_lists").text + client.get(TABLES).text + client.get(CHANGES).text
    assert "card-1" not in shown
    assert client.get(f"{TABLES}/card_lists").json()["counts"] == {"3": 1, "4": 1}


def test_a_table_of_public_values_is_read_back_now_and_as_of_a_record(client: Client) -> None:
    for number in (1, 2):
        put(client, f"{TABLES}/mcc_risk", {"5411": number / 4})
    assert client.get(f"{TABLES}/mcc_risk").json()["numbers"] == {"5411": 0.5}
    assert client.get(f"{TABLES}/mcc_risk?seq=1").json()["numbers"] == {"5411": 0.25}
    assert client.get(f"{TABLES}/mcc_risk?seq=2").json()["numbers"] == {"5411": 0.5}
    entries = {row["table"]: row["entries"] for row in client.get(TABLES).json()}
    assert (entries["card_lists"], entries["mcc_risk"]) == (0, 1)


def test_a_listed_card_is_blocked_by_the_next_request_and_let_go_when_it_comes_off(client: Client, host: Host) -> None:
    put(client, POLICY, {"lists": ["trusted", "stolen"], "rules": "[gone] block if :card: in @stolen"})
    assert client.post("/v1/fraud/decide", payment(id="before")).json()["action"] == "allow"
    path = f"{TABLES}/card_lists"
    added = client.call("PATCH", path, json={"list": "stolen", "add": ["card-1", "card-2"]})
    assert added.status_code == 200, added.text
    assert validator(client.get("/openapi.json").json(), "Table").is_valid(added.json())
    assert (added.json()["entries"], added.json()["changed"]) == (2, "stolen: 2 added, 0 removed")
    assert host.log.durable == host.log.position
    told = client.post("/v1/fraud/decide", payment(id="listed")).json()
    assert (told["action"], told["reasons"][0]) == ("block", "rule gone (line 1): block, without rules allow")
    assert client.call("PATCH", path, json={"list": "stolen", "remove": ["card-1"]}).status_code == 200
    assert client.post("/v1/fraud/decide", payment(id="after")).json()["action"] == "allow"
    state = client.get(path).json()
    assert validator(client.get("/openapi.json").json(), "Table").is_valid(state)
    assert state["lists"] == {"trusted": 0, "stolen": 1}
    changes = client.get(CHANGES).json()
    assert validator(client.get("/openapi.json").json(), "Changes").is_valid(changes)
    assert [change["what"] for change in changes] == ["", "stolen: 2 added, 0 removed", "stolen: 0 added, 1 removed"]


def test_members_that_do_not_fit_are_refused(client: Client, host: Host) -> None:
    path = f"{TABLES}/card_lists"
    problem = refusal(client.call("PATCH", path, json={"list": "stolen", "add": ["card-1"]}), 422)
    assert problem["given"] == "a list that does not stand in it"
    assert refusal(client.call("PATCH", f"{TABLES}/lists", json={"list": "stolen", "add": ["card-1"]}), 404)
    assert refusal(client.call("PATCH", path, content=b"{", headers={"Content-Type": "application/json"}), 400)
    assert refusal(client.call("PATCH", path, json={"list": "stolen"}), 422)
    assert host.log.position == 0


def test_a_policy_counts_from_the_next_request_on(client: Client) -> None:
    before = client.post("/v1/fraud/decide", payment(id="a")).json()
    assert before["versions"]["policy"] == "p"
    told = put(client, POLICY, {"goodwill_minor": 7})
    assert isinstance(told, dict)
    assert told["content"]["goodwill_minor"] == 7
    assert client.get(POLICY).json() == told
    after = client.post("/v1/fraud/decide", payment(id="b")).json()
    assert after["versions"] == before["versions"] | {"policy": told["version"]}


@pytest.mark.parametrize("body", [{"goodwill_minor": -1, "margin_bp": 10_001, "typo": 1}, [1]])
def test_a_policy_that_does_not_fit_changes_nothing(client: Client, host: Host, body: object) -> None:
    kept = host.services["fraud"].serving
    problem = refusal(client.call("PUT", POLICY, json=body), 422)
    if isinstance(body, dict):
        assert "goodwill_minor: " in problem["given"]
        assert "margin_bp: " in problem["given"]
        assert "1 unknown parameters" in problem["given"]
    assert host.services["fraud"].serving is kept
    assert host.log.position == 0
    assert refusal(client.call("PUT", POLICY, content=b"{", headers={"Content-Type": "application/json"}), 400)


def test_a_table_that_does_not_fit_is_refused(client: Client, host: Host) -> None:
    problem = refusal(client.call("PUT", f"{TABLES}/card_lists", json={"card-1": "much"}), 422)
    assert problem["given"] == "1 of 1 entries that do not fit, the first is entry 1"
    assert refusal(client.call("PUT", f"{TABLES}/lists", json={}), 404)["fix"].startswith("Mend the name")
    assert refusal(client.get(f"{TABLES}/lists"), 404)
    assert refusal(client.call("PUT", f"{TABLES}/mcc_risk", content=b"{}"), 415)
    assert host.log.position == 0


def test_a_table_may_not_be_too_large(runner: asyncio.Runner, host: Host) -> None:
    app = App(host, HttpSettings(tokens=False, table_bytes=20), access=None)
    client = Client(runner, app, {})
    assert client.call("PUT", f"{TABLES}/mcc_risk", json={"5411": 0.25}).status_code == 200
    refusal(client.call("PUT", f"{TABLES}/mcc_risk", json={"5411": 0.25, "5732": 0.5}), 413)
    assert [change["by"] for change in client.get(CHANGES).json()] == ["no token"]


def test_a_long_list_lets_decisions_through_between_its_entries(client: Client, host: Host) -> None:
    async def race() -> list[str]:
        done: list[str] = []

        async def note(name: str, waiting: object) -> None:
            await waiting  # type: ignore[misc]  # a coroutine
            done.append(name)

        async def scenario(caller: object) -> None:
            many = {f"card {number}": 1 for number in range(2_000)}
            await asyncio.gather(
                note("list", caller.put(f"{TABLES}/card_lists", json=many)),  # type: ignore[attr-defined]
                note("payment", caller.post("/v1/fraud/decide", json=payment())),  # type: ignore[attr-defined]
            )

        import httpx

        transport = httpx.ASGITransport(app=client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=client.headers) as one:
            await scenario(one)
        return done

    assert client._runner.run(race()) == ["payment", "list"]
    assert host.log.position == 3


def test_who_changed_what_is_kept_with_the_tokens_name(runner: asyncio.Runner, host: Host, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens.sqlite", ManualClock(0))
    token, text = store.create(["admin", "decide"], note="risk team")
    client = Client(runner, App(host, HttpSettings(), access=Access(store)), {"Authorization": f"Bearer {text}"})
    put(client, f"{TABLES}/mcc_risk", {"5411": 1})
    put(client, POLICY, {})
    changes = client.get(CHANGES).json()
    assert validator(client.get("/openapi.json").json(), "Changes").is_valid(changes)
    assert [(change["table"], change["by"]) for change in changes] == [
        ("mcc_risk", f"token {token.id} (risk team)"),
        ("policy", f"token {token.id} (risk team)"),
    ]
    assert all(change["known_time"].startswith("2026-03-01T12") for change in changes)
    _, narrow = store.create(["decide"])
    other = Client(runner, client.app, {"Authorization": f"Bearer {narrow}"})
    for method, path in (
        ("GET", TABLES),
        ("PATCH", f"{TABLES}/card_lists"),
        ("PUT", f"{TABLES}/mcc_risk"),
        ("GET", POLICY),
        ("GET", CHANGES),
    ):
        refusal(other.call(method, path), 403)
    store.close()


@pytest.mark.parametrize("query", ["seq=", "seq=-1", "seq=1&x=1", "version=1"])
def test_a_query_names_a_record_or_nothing(client: Client, query: str) -> None:
    assert refusal(client.get(f"{TABLES}/mcc_risk?{query}"), 400)["expected"] == "seq=<number of a record> alone"
    assert refusal(client.get(f"{TABLES}?seq=1"), 400)["expected"].startswith("none")


def test_another_method_is_told_those_that_there_are(client: Client) -> None:
    assert client.call("DELETE", POLICY).headers["allow"] == "GET, HEAD, PUT"
    assert client.call("POST", f"{TABLES}/mcc_risk").headers["allow"] == "GET, HEAD, PUT, PATCH"


def test_nothing_is_put_into_a_log_that_failed(client: Client, runner: asyncio.Runner, host: Host) -> None:
    runner.run(host.stop())
    for path in (POLICY, f"{TABLES}/mcc_risk"):
        refusal(client.call("PUT", path, json={}), 503)
    assert host.log.position == 0
