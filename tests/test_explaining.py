"""Why a decision came out as it did: rules, fallbacks, old versions, slates; on demand, at once, and over HTTP."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.homes import add_model, decide_live, fill_home
from tests.http.callers import Client, payment, refusal
from tests.slate_log import SYSTEM as SLATES
from tests.slate_log import Clicks, SlateLog, posts
from tests.test_counterfactuals import Shop, logistic, shop

from decalog import explaining, operations
from decalog.access import Access, TokenStore
from decalog.clock import DAY, ManualClock
from decalog.deployment import Deployment
from decalog.errors import ReplayError
from decalog.explaining import Explainer, explain_at_once
from decalog.home import Home
from decalog.host import explained
from decalog.http import App, HttpSettings
from decalog.models.linear import Prior
from decalog.operations import Aside
from decalog.references import REFERENCE, Column, Reference
from decalog.replay import Replayer
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.simulate import START_US

MODEL = logistic(-9.0, card_payments_1h=1.0)


# What decided


def test_a_rule_decides_and_is_named(tmp_path: Path) -> None:
    rules = "block if not :card: is missing"
    with shop(tmp_path, MODEL, FraudCosts(rules=rules)) as made:
        made.pay(5, card="others", ip="192.0.2.9", amount_minor=5_000)
        made.decide("p-1", 1.0)
        told = made.explain("p-1")
    assert (told.action, told.would_change) == ("block", ())
    assert [band.action for band in told.bands["p_fraud"]] == ["block"]
    assert told.nothing_else.startswith("block whatever is predicted (rule of line 1 (line 1): block")
    assert told.nothing_else.endswith("no fact that was tried changes that")
    (guardrail,) = told.guardrails
    assert (guardrail.before, guardrail.after) == ("allow", "block")
    assert f"guardrail {guardrail.name}: allow → block, {guardrail.why}" in told.text()


def test_a_rule_on_a_fact_is_a_fact_that_may_be_otherwise(tmp_path: Path) -> None:
    with shop(tmp_path, Prior(0.001, len(MODEL.means)), FraudCosts(rules="block if :channel: = 'moto'")) as made:
        for n in range(8):
            made.decide(f"o-{n}", 0.1, channel=("ecom", "moto")[n % 2], card=f"c-{n}")
        made.decide("p-1", 1.0, channel="moto")
        (flip,) = made.explain("p-1").would_change
    assert flip.text() == "allow: Online, by mail or phone, or at a terminal: ecom instead of moto"


def test_a_fallback_is_told_as_what_decided(tmp_path: Path) -> None:
    with shop(tmp_path, None) as made:
        made.pay(4, card="others")
        made.decide("p-1", 1.0)
        told = made.explain("p-1")
        assert (told.mode, told.fallback, told.action, told.bands) == ("fallback", "no_model", "review", {})
        assert told.nothing_else.startswith("review whatever is predicted (the declared fallback decided, no_model)")
        made.clock.set(made.deployment.log.known_time + 3 * DAY)
        made.decide("now", 80.0)
        made.service.decide(payment(id="late", event_time="2024-10-01T00:00:00Z"))
        made.deployment.log.commit()
        late = made.explain("late")
    assert late.fallback == "late_request"
    assert late.nothing_else == "its features are not known (late_request), so no fact was tried"
    assert (late.bands, late.explanation, late.differences) == ({}, (), ())


def test_a_draw_and_an_arm_are_told(tmp_path: Path) -> None:
    with shop(tmp_path, logistic(2.0), FraudCosts(explore_bp=9_999)) as made:
        drawn = made.decide("p-1")
        told = made.explain("p-1")
    assert (drawn.choice.action, told.propensity) == ("allow", 0.9999)
    assert "drawn with probability 0.9999" in told.text()
    assert "arm r1/champion" in msgspec.structs.replace(told, arm="r1/champion").text()


def test_an_old_decision_is_explained_by_the_model_that_made_it(tmp_path: Path) -> None:
    with shop(tmp_path, MODEL) as made:
        decided = made.decide("p-1")
        newer = add_model(tmp_path, Prior(0.9, len(MODEL.means)))
        assert made.deployment.refresh(made.service)
        now = made.decide("p-2", 1.0)
        told = made.explain("p-1")
        assert told.versions["model"] == decided.versions.model != now.versions.model == newer[:12]
        assert (told.predictions, told.differences) == (decided.candidates[0].predictions, ())
        assert [one.feature for one in told.explanation] == ["card_payments_1h"]
        shutil.rmtree(next((tmp_path / "models").glob(f"{decided.versions.model}*")))
        with pytest.raises(ReplayError, match=f"made with model {decided.versions.model}, which is gone"):
            made.explain("p-1")


def test_the_values_of_others_are_those_of_the_models_own_reference(tmp_path: Path) -> None:
    """The log holds this payment alone: without a reference there is no other value to try."""

    class Watched:
        def save(self, folder: Path) -> Mapping[str, Any]:
            column = Column(counts=(0, 5, 5, 5, 0, 0), inflation=1.0, edges=(0.5, 1.0, 2.0, 6.0))
            empty = Column(counts=(9, 0), inflation=1.0, values=("there",))
            columns = {"card_payments_1h": column, "request.card_country": empty, "price": column}
            reference = Reference(since=0, until=DAY, rows=15, columns=columns)
            (folder / REFERENCE).write_bytes(msgspec.json.encode(reference))
            return MODEL.save(folder)

    with shop(tmp_path, Watched()) as made:
        decided = made.pay(1, card="mine", hour=1.0)
        told = made.explain(decided.id)
        others = explaining._Others(made.deployment, made.deployment.system, decided.versions.model)
    assert decided.choice.action == "allow"
    (flip,) = told.would_change
    meaning = "payments of the card in 1h, this one included"
    assert flip.text() == f"step_up: {meaning}: 6 payments instead of 1 payments"
    assert flip.distance == pytest.approx(2 / 3)
    assert others.usual("request.card_country") is None  # only whether there is one was counted
    assert others.usual("amount") is None
    scan = others.scan("price", 2.5)
    assert scan is not None
    assert scan.tolist() == [1.0, 2.0, 2.5, 6.0]
    assert others.scan("unknown", 2.5) is None


def test_what_is_personal_is_neither_told_nor_needed(tmp_path: Path) -> None:
    with shop(tmp_path, MODEL) as made:
        made.pay(5, card="others", ip="192.0.2.9")
        made.decide("p-1", 1.0, card="card-1", cardholder="Ada Lovelace", email="ada@example.org")
        told = made.explain("p-1")
    with sqlite3.connect(tmp_path / "vault.sqlite") as vault:
        assert vault.execute("UPDATE keys SET key = x''").rowcount  # as an erasure leaves it
    vault.close()
    with shop(tmp_path, None) as made:
        assert made.explain("p-1") == told
    text = told.text() + msgspec.json.encode(told).decode()
    for word in ("card-1", "Ada", "ada@example.org", "192.0.2.1", "device-1"):
        assert word not in text


@pytest.mark.parametrize("id_", ["nobody", ""])
def test_an_id_that_no_decision_has_is_refused(tmp_path: Path, id_: str) -> None:
    with shop(tmp_path, MODEL) as made, pytest.raises(ReplayError, match="an id that no decision has"):
        made.explain(id_)


def test_a_decision_made_elsewhere_is_refused(tmp_path: Path) -> None:
    with shop(tmp_path, MODEL) as made:
        made.service.ingest.event({**payment(id="theirs"), "taken": "allow"})
        made.deployment.log.commit()
        with pytest.raises(ReplayError, match="made by another system"):
            made.explain("theirs")


# Slates


def test_what_was_next_in_line_is_what_the_policy_shows_instead(tmp_path: Path) -> None:
    log = SlateLog(tmp_path, model=Clicks())
    posts(log, 5)
    decision = log.ask(6.0)
    log.log.commit()
    secret = log.log.vault.secret("draws")
    replayer = Replayer(
        log.log, "feed", serving_for=lambda _: (SLATES, log.serving), draw_secret=secret, notes_for=lambda _: ()
    )
    first, second = explaining._slots(replayer.again(decision.id, folds=False), secret)
    log.log.close()
    assert [first.ref, second.ref] == [slot.ref for slot in decision.choice.slots]
    # Newest first; the second slot is drawn from the two that are best then.
    assert (first.ref, first.next) == ("p4", "p3")
    assert (second.ref, second.next) in {("p3", "p2"), ("p2", "p1")}
    assert first.predictions["p_click"] > second.predictions["p_click"]
    assert next(first.lines()).startswith("slot 0: p4, p_click ")


def test_a_slate_is_explained_whole(tmp_path: Path) -> None:
    from decalog.systems.feed.system import SYSTEM

    log = Home(tmp_path).writer(ManualClock(START_US))
    service = Deployment(Home(tmp_path), SYSTEM, log).service()
    for n in range(12):
        service.ingest.event({"id": f"post-{n}", "kind": "post", "post": f"p{n}", "author": f"a{n}", "topic": "t"})
    decision = service.decide({"id": "r1", "user": "ada", "size": 3})[1]
    log.commit()
    told = Explainer(Deployment(Home(tmp_path), SYSTEM, log)).explain("r1")
    log.close()
    shown = [slot.ref for slot in decision.choice.slots]
    assert ([slot.ref for slot in told.slots], told.differences) == (shown, ())
    assert all(slot.next and slot.next != slot.ref for slot in told.slots)
    assert told.nothing_else == "a slate: each slot says what was next in line"
    assert f"slot 0: {shown[0]}, ; next in line: {told.slots[0].next}" in told.text()


# At once


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path, MODEL, FraudCosts(rules="review if :amount_in_eur: > 500")) as made:
        made.pay(3, card="others")
        for n in range(3):
            made.decide(f"p-{n}", 1.0 + n, card=f"c-{n}", amount_minor=90_000)
        yield made


def kept(made: Shop) -> list[str]:
    folder = made.deployment.home.state / "explained" / "fraud"
    return sorted(path.stem for path in folder.glob("*.json"))


def test_what_the_system_wants_explained_at_once_is_kept(reviewed: Shop) -> None:
    deployment, state = reviewed.deployment, reviewed.deployment.home.state
    assert reviewed.service.unexplained == 3
    assert (explain_at_once(deployment), explain_at_once(deployment)) == (3, 0)
    ids = [Explainer(deployment).explain(f"p-{n}").decision_id for n in range(3)]
    assert kept(reviewed) == sorted(ids)
    told = explained(state, "fraud", decision_id=ids[0])
    assert msgspec.convert(told, explaining.Explanation) == Explainer(deployment).explain("p-0")
    assert (told["action"], told["would_change"][0]["action"]) == ("review", "allow")
    assert explained(state, "fraud", decision_id="another") == explained(None, "fraud", decision_id=ids[0]) == {}
    later = reviewed.decide("p-3", 5.0, card="c-3", amount_minor=90_000)
    assert explain_at_once(deployment) == 1
    assert kept(reviewed) == sorted([*ids, later.id])


def test_a_burst_is_explained_in_part_and_no_more_is_kept_than_fits(
    reviewed: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "_AT_ONCE", 2)
    assert explain_at_once(reviewed.deployment) == 2
    newest = [Explainer(reviewed.deployment).explain(f"p-{n}").decision_id for n in (1, 2)]
    assert kept(reviewed) == newest
    monkeypatch.setattr(explaining, "_KEPT", 1)
    reviewed.decide("p-3", 5.0, card="c-3", amount_minor=90_000)
    assert explain_at_once(reviewed.deployment) == 1
    assert len(kept(reviewed)) == 1


def test_a_decision_that_cannot_be_explained_holds_up_no_other(reviewed: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    explain, lost = Explainer.explain, Explainer(reviewed.deployment).explain("p-1").decision_id

    def explain_some(self: Explainer, decision_id: str) -> explaining.Explanation:
        if decision_id == lost:
            raise ReplayError(where="replay", given="a model that is gone", expected="it", fix="Restore it.")
        return explain(self, decision_id)

    monkeypatch.setattr(Explainer, "explain", explain_some)
    assert explain_at_once(reviewed.deployment) == 2
    assert lost not in kept(reviewed)


def test_a_server_explains_aside_and_only_where_there_was_something(
    reviewed: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, now = list[list[str]](), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Aside, "start_when_due", lambda self: started.append(self._command))
    home, service = reviewed.deployment.home, reviewed.service
    call = operations.explaining_aside(home, "fraud", service=service, allowed=("mine:Model",), every_s=5)
    call()
    assert (started, service.unexplained) == ([], 3)  # not due yet
    now[0] = 6.0
    call()
    call()
    words = ("decalog", "explain", "fraud", "--at-once", "--home", str(home.root), "--allow-model", "mine:Model")
    assert [command[2:] for command in started] == [list(words)]
    assert service.unexplained == 0


# Over HTTP


def test_an_explanation_is_read_over_http_and_needs_the_scope_of_a_replay(
    tmp_path: Path, runner: asyncio.Runner
) -> None:
    root = fill_home(tmp_path / "home").root
    decided = decide_live(Home(root), hours=3)[0]
    host = operations.open_host(Home(root), ["fraud"], clock=ManualClock(START_US + 3 * DAY))
    runner.run(host.start())
    store = TokenStore(tmp_path / "control.sqlite", ManualClock(0))
    app = App(host, HttpSettings(), access=Access(store))
    clients = {s: Client(runner, app, {"Authorization": f"Bearer {store.create([s])[1]}"}) for s in ("admin", "decide")}
    path = f"/v1/fraud/decisions/{decided.request.id}/explanation"
    assert clients["decide"].get(path).status_code == 403
    told = clients["admin"].get(path)
    assert told.status_code == 200, told.text
    assert msgspec.json.decode(told.content, type=explaining.Explanation).decision_id == decided.id
    folder = host.folder / "explained" / "fraud"  # type: ignore[operator]  # an opened host has one
    folder.mkdir(parents=True)
    (folder / f"{decided.id}.json").write_text('{"kept": true}')
    assert clients["admin"].get(path).json() == {"kept": True}
    refusal(clients["admin"].get("/v1/fraud/decisions/nobody/explanation"), 404)
    refusal(clients["admin"].call("POST", path), 405)
    store.close()
    runner.run(host.stop())
    host.log.close()
