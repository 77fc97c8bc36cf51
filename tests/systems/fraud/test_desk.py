"""The analysts' desk: over HTTP on a server, and as commands on the log beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog
from tests.homes import decide_live, fill_home
from tests.http.callers import Client, Constant, make_host, payment, refusal
from typer.testing import CliRunner

from decalog.access import Access, TokenStore
from decalog.clock import SystemClock
from decalog.errors import ReplayError
from decalog.http import App, HttpSettings
from decalog.ingest import Rates
from decalog.models.base import Floats
from decalog.systems.fraud import wire_cases
from decalog.systems.fraud.desk import app as cases_app
from decalog.systems.fraud.desk import rings_app
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.review import ReviewQueue


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Client]:
    """A client that may report outcomes, on a host with three payments in review."""
    with asyncio.Runner() as runner:
        host = make_host(tmp_path, wire="decalog.systems.fraud.wire:WIRE")
        runner.run(host.start())
        rules = "review if :amount_in_eur: > 500"
        host.services["fraud"].put_policy(FraudPolicy(FraudCosts(rules=rules, rates=Rates("EUR"))))
        store = TokenStore(tmp_path / "control.sqlite", SystemClock())
        app = App(host, HttpSettings(), access=Access(store))
        deciding = Client(runner, app, {"Authorization": f"Bearer {store.create(['decide'])[1]}"})
        for n in range(3):
            answer = deciding.post("/v1/fraud/decide", payment(id=f"p-{n}", amount_minor=90_000 + n, card=f"c-{n}"))
            assert answer.json()["action"] == "review", answer.text
        assert deciding.get("/v1/fraud/cases").status_code == 403
        yield Client(runner, app, {"Authorization": f"Bearer {store.create(['outcomes'])[1]}"})
        store.close()
        runner.run(host.stop())


def states(desk: Client) -> dict[str, str]:
    return {case["payment"]: case["state"] for case in desk.get("/v1/fraud/cases").json()}


def test_a_payment_goes_from_waiting_to_closed(desk: Client) -> None:
    assert states(desk) == {"p-0": "waiting", "p-1": "waiting", "p-2": "waiting"}
    claimed = desk.post("/v1/fraud/cases/p-1/claim", {"by": "ana"}).json()
    assert (claimed["state"], claimed["by"]) == ("claimed", "ana")
    assert claimed["until"].endswith("Z")
    refusal(desk.post("/v1/fraud/cases/p-1/claim", {"by": "bo"}), 409)
    refusal(desk.post("/v1/fraud/cases/p-1/verdict", {"by": "bo", "fraud": True}), 409)
    closed = desk.post("/v1/fraud/cases/p-1/verdict", {"by": "ana", "fraud": True}).json()
    assert (closed["state"], closed["verdict"]) == ("closed", 1)
    assert desk.post("/v1/fraud/cases/p-1/verdict", {"by": "ana", "fraud": True}).json() == closed
    desk.post("/v1/fraud/cases/p-0/claim", {"by": "bo"})
    assert desk.post("/v1/fraud/cases/p-0/release", {"by": "bo"}).json()["state"] == "waiting"
    figures = desk.get("/v1/fraud/cases/figures").json()
    assert (figures["waiting"], figures["closed"], figures["frauds"], figures["by"]) == (2, 1, 1, {"ana": 1})
    assert [case["payment"] for case in desk.get("/v1/fraud/cases?state=closed").json()] == ["p-1"]


def test_one_payment_comes_with_its_reasons(desk: Client) -> None:
    told = desk.get("/v1/fraud/cases/p-2").json()
    assert (told["payment"], told["state"], told["explanation"]) == ("p-2", "waiting", [])
    assert told["reasons"][0].startswith("rule of line 1")


@pytest.mark.parametrize("path", ["cases", "cases/figures"])
def test_a_long_queue_lets_decisions_go_on(desk: Client, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(wire_cases, "_AT_ONCE", 1)
    turns = list[str]()

    async def scenario(http: httpx.AsyncClient) -> Any:
        async def count() -> None:
            while True:
                turns.append("turn")
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await asyncio.sleep(0)
        read = ReviewQueue.each

        def each(queue: ReviewQueue) -> Iterator[Any]:
            for case in read(queue):
                turns.append("case")
                yield case

        monkeypatch.setattr(ReviewQueue, "each", each)
        answer = await http.get(f"/v1/fraud/{path}", headers=desk.headers)
        counting.cancel()
        return answer

    assert desk.run(scenario).status_code == 200
    assert [turns[place + 1] for place, turn in enumerate(turns) if turn == "case"] == ["turn"] * 3


def test_reasons_are_those_of_the_model_in_force_and_of_another_by_replay(tmp_path: Path) -> None:
    asked = list[str]()

    class Leaning(Constant):
        def contributions(self, rows: Floats) -> Floats:
            return np.eye(1, rows.shape[1] + 1) * 2.0

    async def replay(_system: str, decision_id: str, _verb: str) -> dict[str, Any]:
        asked.append(decision_id)
        if len(asked) > 1:
            raise ReplayError(where="replay", given="an erased subject", expected="its features", fix="None is left.")
        return {"explanation": [{"feature": "replayed"}], "would_change": [], "nothing_else": "a rule"}

    with asyncio.Runner() as runner:
        host = make_host(tmp_path, wire="decalog.systems.fraud.wire:WIRE")
        host._replay = replay
        runner.run(host.start())
        service = host.services["fraud"]
        service.adopt(msgspec.structs.replace(service.serving, model=Leaning()))
        service.put_policy(FraudPolicy(FraudCosts(rules="review if true", rates=Rates("EUR"))))
        store = TokenStore(tmp_path / "control.sqlite", SystemClock())
        token = store.create(["decide", "outcomes"])[1]
        client = Client(runner, App(host, HttpSettings(), access=Access(store)), {"Authorization": f"Bearer {token}"})
        decided = client.post("/v1/fraud/decide", payment(id="p-1")).json()
        (reason,) = client.get("/v1/fraud/cases/p-1").json()["explanation"]
        assert (reason["feature"], reason["log_odds"], asked) == ("card_payments_60s", 2.0, [])
        versions = msgspec.structs.replace(service.serving.versions, model="next")
        service.adopt(msgspec.structs.replace(service.serving, versions=versions))
        assert client.get("/v1/fraud/cases/p-1").json()["explanation"] == [{"feature": "replayed"}]
        assert asked == [decided["decision_id"]]
        assert client.get("/v1/fraud/cases/p-1").json()["would_change"] is None
        assert client.get("/v1/fraud/cases/p-1").json()["explanation"] == []
        kept = tmp_path / "state" / "explained" / "fraud" / f"{decided['decision_id']}.json"
        kept.parent.mkdir(parents=True)
        kept.write_text('{"explanation": [], "would_change": [{"action": "allow"}], "nothing_else": ""}')
        assert client.get("/v1/fraud/cases/p-1").json()["would_change"] == [{"action": "allow"}]
        store.close()
        runner.run(host.stop())


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("p-0/claim", {}, 422, "fraud case"),
        ("p-0/claim", {"by": ""}, 422, "fraud case"),
        ("p-0/claim", {"by": "x" * 101}, 422, "fraud case"),
        ("p-0/verdict", {"by": "ana", "fraud": "yes"}, 422, "fraud case"),
        ("p-0/verdict", {"by": "ana", "fraud": True, "more": 1}, 422, "fraud case"),
        ("nobody/claim", {"by": "ana"}, 404, "fraud review"),
    ],
)
def test_bad_input_is_refused_in_four_parts(desk: Client, path: str, body: Any, status: int, said: str) -> None:
    told = refusal(desk.post(f"/v1/fraud/cases/{path}", body), status)
    assert told["where"] == said
    assert set(states(desk).values()) == {"waiting"}


def test_an_unknown_state_names_the_nearest(desk: Client) -> None:
    told = refusal(desk.get("/v1/fraud/cases?state=wating"), 422)
    assert "'waiting' (closest match)" in told["expected"]


# Commands


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fill_home(tmp_path_factory.mktemp("desk"), champion=False)
    decide_live(made)
    return made.root


def run(app: Any, *words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_queue_is_listed_with_how_it_does(home: Path) -> None:
    told = json.loads(run(cases_app, "list", "--home", str(home), "--json"))
    text = run(cases_app, "list", "--home", str(home))
    assert len(told["cases"]) == told["figures"]["waiting"] > 0
    assert text.splitlines()[0].startswith(told["cases"][0]["payment"])
    assert text.splitlines()[-1].startswith(f"{told['figures']['waiting']} wait, 0 claimed")


def test_one_payment_is_shown_with_those_most_like_it(home: Path) -> None:
    first = json.loads(run(cases_app, "list", "--home", str(home), "--json"))["cases"][0]["payment"]
    told = json.loads(run(cases_app, "show", first, "--home", str(home), "--json"))
    assert told["case"]["payment"] == first
    assert all(one["payment"] != first for one in told["neighbours"])
    text = run(cases_app, "show", first, "--home", str(home))
    assert "most like it:" in text


def test_a_payment_is_not_among_those_most_like_it(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.pay("before", 0)
    log.decide("asked", 1)
    log.pay("after", 2)
    for name in ("before", "asked", "after"):
        log.report(f"v-{name}", name, 3, kind="analyst_verdict", source="analyst", value=1)
    log.log.commit()
    log.log.close()
    told = json.loads(run(cases_app, "show", "asked", "--home", str(tmp_path), "--json"))
    assert [one["payment"] for one in told["neighbours"]] == ["before"]


def test_rings_are_told_and_written_as_a_table(home: Path, tmp_path: Path) -> None:
    words = ("--home", str(home), "--accounts", "2", "--table", str(tmp_path / "rings.json"))
    told = json.loads(run(rings_app, *words, "--json"))
    table = json.loads((tmp_path / "rings.json").read_text())
    assert {int(device) for device in table} == {device for ring in told for device in ring["devices"]}
    assert run(rings_app, "--home", str(home), "--accounts", "1000").strip() == "no rings"
