"""What the pages of a control room say, and what comes of its buttons; a list of what was asked stands for servers."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.control_room.rooms import catch_up, driven, room
from tests.homes import add_model, decide_live, fill_home, opened, records, rule

from decalog import admin
from decalog.alerts import AlertBook
from decalog.control_room import decisions, knobs, measuring
from decalog.control_room.homes import House, homes_below
from decalog.control_room.measuring import measure, measured
from decalog.decisions import decode_decision
from decalog.errors import ConfigError, DecalogError, LogUnavailableError
from decalog.home import Home
from decalog.readiness import evidence
from decalog.readiness.checks import Result
from decalog.registry import Registry
from decalog.rollout import Rollout, Rollouts
from decalog.tables import Tables
from decalog.watching import Finding

SERVER = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = fill_home(tmp_path_factory.mktemp("pages") / "fraud")
    add_model(made.root, rule(limit=2_000.0))
    decide_live(made)
    catch_up(made)
    measure(made, "fraud")
    return made


class Server:
    """Stands for a system's server: keeps what it was asked and answers what it was told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, Any, str]] = []
        self.answers: dict[str, Any] = {}
        monkeypatch.setattr(admin, "call", self.call)

    def call(self, method: str, url: str, *, raw: bytes | None = None, token: str = "") -> Any:
        path = url.removeprefix(f"{SERVER}/v1/fraud/")
        self.asked.append((method, path, None if raw is None else msgspec.json.decode(raw), token))
        answer = self.answers.get(path, {})
        if isinstance(answer, DecalogError):
            raise answer
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def canary(home: Home) -> str:
    """Puts a canary into the home's log and returns the short id of its challenger."""
    model = add_model(home.root, rule(limit=1_000.0), promote=False)
    with opened(home) as (deployment, _):
        step = Rollout(name="r1", stage="canary", model=model[:12], share_bp=500, why="the gate says so")
        Rollouts(deployment.log, "fraud").put(step, by="me")
        deployment.log.commit()
    return model[:12]


# ---- pages ----


def test_the_house_shows_each_system_with_its_paths_its_alerts_and_its_clock(
    filled: Home, runner: asyncio.Runner
) -> None:
    driven(filled, on=("corrupt_data",))
    finding = Finding(
        monitor="fraud_block_share",
        meaning="payments refused",
        owner="fraud",
        runbook="Look.",
        labels={},
        said="0.2 of 40",
        value=None,
        level=0.03,
        since=1,
        until=2,
        stands=True,
    )
    AlertBook(filled.root).update("fraud", [finding], now_us=2)
    page = runner.run(room(filled.root).get("/")).text
    AlertBook(filled.root).update("fraud", [], now_us=3)
    for words in ("Decide", "Hear", "Improve", "Earn", "1 alert: fraud block share", "trouble on: corrupt data"):
        assert words in page
    assert "World time" in page
    assert "3,600× as fast, simulated" in page
    assert re.search(r"of \d+ in 14 days; silence is a label after \d+\.0 days", page)
    assert re.search(r'aria-label="decisions an? \w+ by action; \d+ in the last whole one"', page)
    assert "alert" not in runner.run(room(filled.root).get("/")).text.split("<main", 1)[1].split("no alert stands")[0]


def test_a_home_without_a_model_and_a_folder_without_homes_say_so(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill_home(tmp_path / "fraud", champion=False)
    assert "No system has a model here yet" in runner.run(room(home.root).get("/")).text
    assert "No system has a model here yet" in runner.run(room(tmp_path / "none").get("/")).text


def test_a_folder_of_homes_shows_them_all(filled: Home) -> None:
    assert [home.root for home in homes_below([filled.root.parent])] == [filled.root]
    assert [home.root for home in homes_below([filled.root])] == [filled.root]


def test_an_address_that_is_none_is_refused(filled: Home) -> None:
    with pytest.raises(ConfigError, match=r"no address for fraud. Expected system=http://host:port"):
        House([filled.root], {"fraud": "localhost:8000"})


def test_a_driver_may_not_name_a_server_on_another_machine(filled: Home) -> None:
    driven(filled, url="http://evil.example:80")
    assert House([filled.root], {}).place("fraud").url == ""
    driven(filled, url="http://127.0.0.1:8123")
    assert House([filled.root], {}).place("fraud").url == "http://127.0.0.1:8123"
    assert House([filled.root], {"fraud": SERVER + "/"}).place("fraud").url == SERVER


def test_a_system_shows_what_was_measured_with_its_age(filled: Home, runner: asyncio.Runner) -> None:
    page = runner.run(room(filled.root).get("/s/fraud")).text
    found = measured(filled, "fraud")
    assert found is not None
    figures = found.tiers["groups"][0]["figures"]
    for one in figures:
        if one["value"] is not None or one["expected"] is not None:
            assert f">{one['metric'].replace('_', ' ')} <" in page
    assert "measured" in page
    assert "fraud inputs" in page
    for artefact in Registry(filled.root).list("fraud"):
        assert artefact.id[:12] in page


def test_what_was_not_measured_and_what_could_not_be_is_said(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fill_home(tmp_path / "fraud")
    assert "Not measured yet" in runner.run(room(home.root).get("/s/fraud")).text
    monkeypatch.setattr(measuring, "SPAN", 1)
    assert isinstance(measure(home, "fraud").tiers, str)
    page = runner.run(room(home.root).get("/s/fraud")).text
    assert "no decision from" in page


def test_readiness_and_privacy_show_nothing_that_is_not_there(filled: Home, runner: asyncio.Runner) -> None:
    assert "Not measured yet" in runner.run(room(filled.root).get("/s/fraud/readiness")).text
    assert "The log holds no request" in runner.run(room(filled.root).get("/s/fraud/privacy")).text


def test_readiness_shows_what_was_measured_and_what_to_do(filled: Home, runner: asyncio.Runner) -> None:
    current = {"policy": "", "features": "", "code": "", "model": ""}
    red = Result(
        name="p99",
        section="latency",
        status="red",
        value=26.1,
        limit=25.0,
        unit="ms",
        said="993 decisions at 200/s",
        anchor="law 8",
        fix="Look at the stages.",
        at_us=time.time_ns() // 1_000,
        versions=current,
    )
    evidence.write(filled.root, evidence.Evidence(system="fraud").with_([red]))
    page = runner.run(room(filled.root).get("/s/fraud/readiness")).text
    assert "score 0 %" in page
    assert "not measured" in page  # of another model than the champion it says nothing, nor do all the others
    (filled.root / "readiness" / "fraud.json").unlink()


def test_privacy_shows_what_people_asked_for_by_token_alone(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill_home(tmp_path / "fraud")
    add_model(home.root, rule(limit=2_000.0))
    with closing(home.writer()) as log:
        tables = Tables(log)
        tables.put("fraud", "wishes", content={"subject": 77, "wish": "opted_out", "on": True, "why": "a letter"})
        tables.put("fraud", "erasures", content={"subject": 78, "records": [1, 2], "models": ["m"]})
        tables.put("fraud", "contests", content={"decision": "d", "request": "pay-9", "seq": 3})
        tables.put("fraud", "notices", content={"id": "n-1", "url": "https://shop.example/n"})
        log.commit()
    page = runner.run(room(home.root).get("/s/fraud/privacy")).text
    for words in (
        "opted out",
        "#77",
        "in force",
        "2 records are gone; 1 models",
        "pay-9",
        "n-1 https://shop.example/n",
    ):
        assert words in page
    assert "a letter" not in page


def test_a_decision_shows_every_feature_as_logged(filled: Home, runner: asyncio.Runner) -> None:
    decision = decode_decision(records(filled, "decision")[-1].body)
    for id_ in (decision.id, decision.request.id):
        page = runner.run(room(filled.root).get(f"/s/fraud/decisions/{id_}")).text
        assert page.count("<code>card_payments_1h</code>") == 1
        for reason in decision.choice.reasons:
            assert reason in page
        assert "sealed, and not opened here" in page or not decision.request.sealed
        assert decision.versions.model[:12] in page


def test_lists_go_on_where_they_ended(filled: Home, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_ON_A_PAGE", 2)

    async def ask() -> list[str]:
        browser, path, found = room(filled.root), "/s/fraud/decisions?action=allow", list[str]()
        while path:
            page = (await browser.get(path)).text
            found += re.findall(r'decisions/([0-9a-f-]{36})"', page)
            older = re.search(r'rel="next" href="([^"]*)"', page)
            path = "/s/fraud/decisions" + older[1].replace("&amp;", "&") if older else ""
        return found

    allowed = [decode_decision(record.body) for record in records(filled, "decision")]
    expected = [decision.id for decision in allowed if decision.choice.action == "allow"]
    assert len(expected) > 4
    assert runner.run(ask()) == expected[::-1]


def test_a_time_that_is_none_is_refused(filled: Home, runner: asyncio.Runner) -> None:
    answer = runner.run(room(filled.root).get("/s/fraud/decisions?since=yesterday"))
    assert (answer.status_code, "what is no time" in answer.text) == (422, True)


# ---- buttons ----


def test_why_and_replay_are_the_servers_with_the_callers_token(
    filled: Home, runner: asyncio.Runner, server: Server
) -> None:
    because = {"feature": "amount", "meaning": "amount of it", "value": 9.0, "said": "9 EUR", "log_odds": -1.2}
    changed = {"meaning": "country", "instead": "DE", "was": "US"}
    flip = {"facts": [changed], "action": "allow", "predictions": {}, "distance": 0.1}
    why = {"explanation": [because], "would_change": [flip], "nothing_else": "", "bands": {}, "slots": []}
    server.answers["decisions/d1/explanation"] = why
    difference = {"name": "p_fraud", "logged": "1", "replayed": "2"}
    same: dict[str, Any] = {"features": {"a": 1}, "predictions": {"p": 1}, "differences": [], "notes": []}
    server.answers["decisions/d1/replay"] = same

    async def ask() -> None:
        browser = room(filled.root, url=SERVER)
        await browser.get("/s/fraud")
        page = (await browser.get("/s/fraud/decisions/d1/why")).text
        assert "amount of it" in page
        assert "× 0.3" in page
        assert "<strong>DE</strong> instead of US" in page
        assert "Identical." in (await browser.post("/s/fraud/decisions/d1/replay")).text
        server.answers["decisions/d1/replay"] = same | {"differences": [difference]}
        assert "1 differences." in (await browser.post("/s/fraud/decisions/d1/replay")).text

    runner.run(ask())
    asked = [(method, path) for method, path, *_ in server.asked]
    assert asked == [("GET", "decisions/d1/explanation"), *[("POST", "decisions/d1/replay")] * 2]


def test_without_an_address_nothing_is_asked_and_it_is_said_how(
    filled: Home, runner: asyncio.Runner, server: Server
) -> None:
    driven(filled, wall=time.time() - 3600)
    answer = runner.run(room(filled.root).get("/s/fraud/cases"))
    assert answer.status_code == 503
    assert "--url fraud=http://host:port" in answer.text
    assert server.asked == []


def test_a_server_that_is_away_is_said(filled: Home, runner: asyncio.Runner, server: Server) -> None:
    server.answers["cases"] = LogUnavailableError(where="x", given="no answer", expected="a server", fix="Start it.")
    answer = runner.run(room(filled.root, url=SERVER).get("/s/fraud/cases"))
    assert (answer.status_code, "no answer" in answer.text) == (503, True)


CASE: dict[str, Any] = {
    "payment": "pay_1",
    "decision": "d1",
    "since": "2026-01-07T00:00:00Z",
    "amount_minor": 12_345,
    "p_fraud": 0.25,
    "worth_minor": 900,
    "reasons": ["rule new_device"],
    "state": "waiting",
    "by": "",
    "verdict": None,
    "explanation": [],
    "would_change": [],
    "nothing_else": "no fact",
}


def test_a_case_is_claimed_and_closed_in_the_callers_name(filled: Home, runner: asyncio.Runner, server: Server) -> None:
    server.answers["cases"] = [CASE, CASE | {"payment": "pay_2", "state": "closed"}]
    server.answers["cases/figures"] = {"claimed": 0, "closed": 3, "service_s": 120.0}
    server.answers["cases/pay_1"] = CASE

    async def ask() -> None:
        browser = room(filled.root, url=SERVER)
        page = (await browser.get("/s/fraud/cases")).text
        assert "pay_1" in page
        assert "pay_2" not in page
        assert "123.45 EUR" in page
        assert "25 %" in (await browser.get("/s/fraud/cases/pay_1")).text
        for act, goes in (("claim", "/s/fraud/cases/pay_1"), ("genuine", "/s/fraud/cases")):
            assert (await browser.post("/s/fraud/cases/pay_1", {"act": act})).headers["location"] == goes
        assert "pay_1: genuine." in (await browser.get("/s/fraud/cases")).text
        refused = await browser.post("/s/fraud/cases/pay_1", {"act": "burn"})
        assert (refused.status_code, "no act on a case" in refused.text) == (422, True)

    runner.run(ask())
    done = [(path, body) for method, path, body, _ in server.asked if method == "POST"]
    by = {"by": "control room"}
    assert done == [("cases/pay_1/claim", by), ("cases/pay_1/verdict", by | {"fraud": False})]


def test_the_next_step_of_a_rollout_is_approved_and_stopped_on_the_server(
    tmp_path: Path, runner: asyncio.Runner, server: Server
) -> None:
    home = fill_home(tmp_path / "fraud")
    model = canary(home)

    async def ask() -> None:
        browser = room(home.root, url=SERVER)
        page = (await browser.get("/s/fraud")).text
        assert f"canary of model <code>{model}</code>, for 5.0 % of the people" in page
        await browser.post("/s/fraud/rollout", {"act": "widen", "share": "12.5", "why": "looks well"})
        await browser.post("/s/fraud/rollout", {"act": "stop", "why": ""})
        for form, words in (({"act": "widen", "share": "101"}, "no share"), ({"act": "jump"}, "no step")):
            answer = await browser.post("/s/fraud/rollout", form)
            assert (answer.status_code, words in answer.text) == (422, True)

    runner.run(ask())
    (_, path, wide, _), (_, _, stop, _) = server.asked
    assert path == "rollout"
    assert wide == {"name": "r1", "stage": "canary", "share_bp": 1_250, "why": "looks well (control room)"}
    assert stop == {"name": "r1", "stage": "stopped", "why": "by hand (control room)"}


def test_a_champion_is_rolled_back_and_promoted_with_who_and_why(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill_home(tmp_path / "fraud")
    first = Registry(home.root).current("fraud")
    second = add_model(home.root, rule(limit=2_000.0))

    async def ask() -> None:
        browser = room(home.root)
        await browser.get("/s/fraud")
        answer = await browser.post("/s/fraud/champion", {"act": "rollback", "why": "blocks too much"})
        assert answer.headers["location"] == "/s/fraud"
        assert f"{(first or '')[:12]} is the champion again." in (await browser.get("/s/fraud")).text
        await browser.post("/s/fraud/champion", {"act": "promote", "model": second[:12]})
        answer = await browser.post("/s/fraud/champion", {"act": "promote", "model": "0" * 12})
        assert answer.status_code == 404
        answer = await browser.post("/s/fraud/rollout", {"act": "stop"})
        assert (answer.status_code, "where no rollout is under way" in answer.text) == (422, True)

    runner.run(ask())
    back, forth = Registry(home.root).history("fraud")[-2:]
    assert (back.act, back.model, back.why, back.by) == (
        "rollback",
        first,
        "blocks too much (control room)",
        "control room",
    )
    assert (forth.act, forth.model) == ("promote", second)
    assert back.at_us == forth.at_us > 0  # of the log's clock


def test_a_knob_is_turned_for_the_driver_that_is_there_and_for_no_other(filled: Home, runner: asyncio.Runner) -> None:
    driven(filled)

    async def ask() -> None:
        browser = room(filled.root)
        page = (await browser.get("/s/fraud/trouble")).text
        assert page.count('aria-checked="false"') == 5
        assert (await browser.post("/s/fraud/trouble", {"knob": "card_testing_wave", "on": "1"})).status_code == 303
        assert "waits for the driver" in (await browser.get("/s/fraud/trouble")).text
        refused = await browser.post("/s/fraud/trouble", {"knob": "flood", "on": "1"})
        assert (refused.status_code, "a knob that this world does not have" in refused.text) == (422, True)
        assert knobs.wished(filled, "fraud", driver="d1") == ("card_testing_wave",)
        assert knobs.wished(filled, "fraud", driver="d2") == ()
        await browser.post("/s/fraud/trouble", {"knob": "card_testing_wave", "on": "0"})
        assert knobs.wished(filled, "fraud", driver="d1") == ()
        driven(filled, wall=time.time() - 3600)
        gone = await browser.get("/s/fraud/trouble")
        assert (gone.status_code, "a system that no simulated world drives" in gone.text) == (404, True)
        assert "Trouble" not in (await browser.get("/s/fraud")).text

    runner.run(ask())


def test_a_system_of_two_homes_has_two_names(tmp_path: Path) -> None:
    for name in ("real", "fraud", "other"):
        add_model(fill_home(tmp_path / name).root, rule(limit=2_000.0))
    house = House([tmp_path], {})
    assert [(place.name, place.home.root.name) for place in house.places()] == [
        ("fraud", "fraud"),
        ("fraud-other", "other"),
        ("fraud-real", "real"),
    ]
    assert house.place("fraud-real").system == "fraud"


def test_both_homes_of_a_system_have_pages_of_their_own(tmp_path: Path) -> None:
    for name in ("real", "fraud"):
        made = fill_home(tmp_path / name)
        add_model(made.root, rule(limit=2_000.0))
        catch_up(made)
    with asyncio.Runner() as runner:
        page = runner.run(room(tmp_path).get("/")).text
        assert '<section class="card" id="card-fraud-real"' in page
        assert runner.run(room(tmp_path).get("/s/fraud-real/decisions")).status_code == 200
