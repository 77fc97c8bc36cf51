"""A system on a log: what it decides with, and what it says where that cannot be used."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import payment
from tests.gallery import SYSTEM as GALLERY
from tests.homes import LATER, add_model, decide_live, fill_home, opened, records, rule
from tests.slate_log import HEADS
from tests.slate_log import SYSTEM as SLATES

from decalog.clock import ManualClock
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment, Setup, replay_aside
from decalog.errors import ConfigError, ModelError, ReplayError
from decalog.features.definition import FeatureSet
from decalog.home import Home
from decalog.ingest import Rates
from decalog.models.base import Model
from decalog.models.linear import Prior
from decalog.policy import policy_version
from decalog.registry import Registry
from decalog.runtime import runtime
from decalog.schema import Field
from decalog.serving import described, named_features
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.simulate import START_US
from decalog.systems.fraud.system import SYSTEM

SIGNALS = (Field(name="v1", kind="float", meaning="The first of mine."),)
WIDTH = len(SYSTEM.features.names_for("model"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a log in which nothing happened yet."""
    made = Home(tmp_path / "home")
    made.writer(ManualClock(START_US)).close()
    return made


@pytest.fixture
def deployment(home: Home) -> Iterator[Deployment]:
    with opened(home) as (made, clock):
        clock.set(START_US)
        yield made


def ask(deployment: Deployment, name: str = "a", **fields: Any) -> Decision:
    """Decides in a fresh service."""
    return deployment.service().decide(payment(name, 0, event_time=None, **fields))[1]


# What stands in the log


def test_what_it_decides_with_is_put_into_the_log_once(home: Home) -> None:
    names = ["signals", "features", "policy", "rates", "runtime"]
    for _ in range(2):
        with opened(home) as (deployment, _):
            deployment.service()
            assert deployment.tables.get("fraud", "signals") == []
            stored = FeatureSet.from_json(msgspec.json.encode(deployment.tables.get("fraud", "features")))
            assert stored == SYSTEM.features
            assert deployment.tables.get("fraud", "policy") == msgspec.json.decode(msgspec.json.encode(FraudCosts()))
            assert deployment.tables.get("", "rates") == {"base": "EUR", "rates": {}}
            assert deployment.tables.get("", "runtime") == msgspec.to_builtins(dict(runtime()))
        assert [record.id for record in records(home, "table")] == names


def test_settings_stay_in_force_until_others_are_given(home: Home) -> None:
    rates, policy = Rates("USD", {"EUR": "1.1"}), FraudCosts(reviews_per_day=3)
    with opened(home, Setup(rates=rates, policy=policy, signals=SIGNALS)) as (deployment, _):
        deployment.prepare()
    with opened(home) as (deployment, _):
        assert deployment.rates() == rates
        assert deployment.policy_params() == msgspec.structs.replace(policy, rates=rates)
        assert deployment.signals == SIGNALS
        assert deployment.prepare().rates == rates
        assert deployment.system.features.names == (*SYSTEM.features.names, "v1")
    with opened(home, Setup(rates=Rates("JPY"), policy=FraudCosts(), signals=())) as (deployment, _):
        deployment.prepare()
        assert (deployment.rates(), deployment.policy_params()) == (Rates("JPY"), FraudCosts(rates=Rates("JPY")))
        assert deployment.system.features == SYSTEM.features
    assert [record.id for record in records(home, "table")] == ["signals", "features", "policy", "changes", "rates"] * 2


def test_a_list_keeps_its_place_at_a_start_too_while_any_has_members(home: Home) -> None:
    stolen_first = Setup(policy=FraudCosts(lists=("stolen", "friends")))
    friends_first = Setup(policy=FraudCosts(lists=("friends", "stolen")))
    shorter, renamed = (Setup(policy=FraudCosts(lists=lists)) for lists in (("stolen",), ("stolen", "known", "new")))
    for setup in (stolen_first, friends_first, stolen_first):  # nobody stands on any yet
        with opened(home, setup) as (deployment, _):
            deployment.prepare()
    with opened(home) as (deployment, _):
        deployment.tables.put("fraud", "card_lists", content={"4": 2})
        deployment.log.commit()
    before = len(records(home, "table"))
    for setup, named in ((friends_first, "friends, stolen"), (shorter, "stolen")):
        with (
            opened(home, setup) as (deployment, _),
            pytest.raises(
                ConfigError,
                match=f"fraud policy: lists {named}, where members stand on stolen, friends in that order. "
                "Expected each list at its place",
            ),
        ):
            deployment.prepare()
    assert len(records(home, "table")) == before
    with opened(home, renamed) as (deployment, _):
        deployment.prepare()


def test_a_users_own_signal_is_a_request_field_and_a_feature(home: Home) -> None:
    with opened(home, Setup(signals=SIGNALS)) as (deployment, _):
        add_model(home.root, Prior(0.001, WIDTH + 1), system=deployment.system)
        service = deployment.service()
        decision = service.decide(payment("a", 0, event_time=None, v1=2.5))[1]
        assert named_features(service.ingest.log, decision, now=service.system.features)["v1"] == 2.5
        assert decision.mode == "live"
        deployment.log.commit()
        assert deployment.replayer().one("a").identical


def test_a_signal_with_a_name_of_the_schema_is_refused(home: Home) -> None:
    taken = (Field(name="amount_minor", kind="int", meaning="Mine."),)
    with (
        pytest.raises(ConfigError, match="own fields: names that are taken: amount_minor"),
        opened(home, Setup(signals=taken)),
    ):
        pass


def test_the_base_currency_of_the_deployment_is_that_of_its_decisions(home: Home) -> None:
    with opened(home, Setup(rates=Rates("USD", {"EUR": "1.1"}))) as (deployment, clock):
        clock.set(START_US)
        decision = ask(deployment)
        assert (decision.currency, decision.request.attributes["amount_base_minor"]) == ("USD", 1_100)


def test_the_base_currency_stays_that_of_the_amounts_in_the_log(home: Home) -> None:
    """A window that adds cents to yen, or a cost in one compared with an amount in the other, is money made wrong."""
    with opened(home) as (deployment, clock):
        clock.set(START_US)
        ask(deployment)
        deployment.log.commit()
    with opened(home, Setup(rates=Rates("EUR", {"USD": "0.9"}))) as (deployment, _):
        assert deployment.prepare().rates.rates == {"USD": "0.9"}
    with opened(home, Setup(rates=Rates("JPY", {"EUR": "160"}))) as (deployment, _):
        before = deployment.log.position
        with pytest.raises(ConfigError) as caught:
            deployment.service()
        assert str(caught.value) == (
            "rates, base: JPY, where the log holds amounts in EUR. Expected EUR: sums over windows and costs would mix "
            "two currencies. Give rates to EUR, or begin a new --home."
        )
        assert deployment.log.position == before


def test_decisions_name_what_made_them(deployment: Deployment) -> None:
    model = add_model(deployment.home.root)
    versions = ask(deployment).versions
    assert versions.model == model[:12]
    assert versions.policy == policy_version(FraudCosts())
    assert versions.features == SYSTEM.features.version
    assert deployment.log.get(versions.runtime).id == "runtime"


def test_a_restarted_service_goes_on_where_the_views_stood(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER)
        first = deployment.service()
        for i in range(3):
            first.decide(payment(f"a{i}", 0, event_time=None))
        deployment.log.commit()
        last = deployment.service().decide(payment("a3", 0, event_time=None))[1]
        assert named_features(first.ingest.log, last, now=first.system.features)["card_payments_1d"] == 4


# The champion


def test_without_a_champion_every_decision_is_the_fallback_and_it_says_so(deployment: Deployment) -> None:
    decision = ask(deployment)
    assert (decision.fallback, decision.versions.model) == ("no_model", "")
    assert deployment.problem == "no champion: train one"


def test_a_champion_decides_and_there_is_no_problem(deployment: Deployment) -> None:
    add_model(deployment.home.root)
    assert ask(deployment, amount_minor=4_000).candidates[0].predictions == {"p_fraud": 0.3}
    assert deployment.problem == ""


def damage(root: Path, model: str) -> str:
    (root / "models" / model / "model.json").write_text("{}")
    return r"file model.json: a file that does not fit its hash"


def remove(root: Path, model: str) -> str:
    (root / "models" / model).rename(root / "away")
    return r"a model whose files are gone\. Expected its folder in models/"


@pytest.mark.parametrize("spoil", [damage, remove])
def test_a_champion_that_cannot_be_used_leaves_the_fallback_and_is_named(deployment: Deployment, spoil: Any) -> None:
    root = deployment.home.root
    model = add_model(root)
    said = spoil(root, model)
    decision = ask(deployment)
    assert (decision.mode, decision.fallback, decision.versions.model) == ("fallback", "no_model", "")
    assert deployment.problem.startswith(f"champion {model[:12]}: model {model[:12]}")
    with pytest.raises(ModelError, match=said):
        deployment.model(model)


def test_a_model_of_features_that_nobody_knows_any_more_is_refused(home: Home) -> None:
    model = add_model(home.root, declared=False)
    with opened(home, Setup(signals=SIGNALS)) as (deployment, clock):
        clock.set(START_US)
        now = deployment.system.features.version
        with pytest.raises(ModelError) as caught:
            deployment.model(model)
        assert str(caught.value) == (
            f"model {model[:12]}: a model of feature set {SYSTEM.features.version}. Expected one of feature set {now}. "
            "Train again: the declarations changed."
        )
        assert ask(deployment).fallback == "no_model"
        assert f"one of feature set {now}" in deployment.problem


def test_a_class_that_the_setup_does_not_allow_is_no_champion(deployment: Deployment) -> None:
    model = add_model(deployment.home.root, format="python", settings={"path": "my_module:Mine", "width": WIDTH})
    assert ask(deployment).fallback == "no_model"
    assert "class 'my_module:Mine', which is not allowed here" in deployment.problem
    assert deployment.problem.startswith(f"champion {model[:12]}: own model")


def test_a_refresh_takes_the_champion_of_now_and_nothing_else(deployment: Deployment) -> None:
    root = deployment.home.root
    service = deployment.service()
    assert not deployment.refresh(service)
    first = add_model(root)
    assert deployment.refresh(service)
    assert not deployment.refresh(service)
    assert described(service)["model"] == first[:12]
    loaded = service.serving.model
    second = add_model(root, rule(limit=1.0), promote=False)
    assert not deployment.refresh(service)
    Registry(root).promote("fraud", second, by="test", why="test", at_us=1)
    assert deployment.refresh(service)
    assert described(service)["model"] == second[:12]
    Registry(root).rollback("fraud", by="test", why="test", at_us=2)
    assert deployment.refresh(service)
    assert described(service)["model"] == first[:12]
    assert service.serving.model is loaded  # the way back loads nothing


def test_a_damaged_champion_replaces_none_that_works_and_is_told_of_until_it_is_gone(deployment: Deployment) -> None:
    root = deployment.home.root
    first = add_model(root)
    service = deployment.service()
    second = add_model(root, rule(limit=1.0))
    damage(root, second)
    for _ in range(2):
        assert not deployment.refresh(service)
        assert described(service)["model"] == first[:12]
        assert second[:12] in described(service)["problem"]
    Registry(root).rollback("fraud", by="test", why="test", at_us=2)
    assert not deployment.refresh(service)
    assert (deployment.problem, described(service)["problem"]) == ("", "")
    add_model(root, rule(limit=2.0))
    assert deployment.refresh(service)


def test_a_start_with_a_damaged_champion_says_so_and_falls_back(deployment: Deployment) -> None:
    root = deployment.home.root
    model = add_model(root)
    damage(root, model)
    service = deployment.service()
    assert described(service)["model"] == ""
    assert model[:12] in described(service)["problem"]


def test_a_champion_is_made_ready_for_retrieval_aside_and_one_that_cannot_be_replaces_none(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(home) as (plain, _):
        system = msgspec.structs.replace(SLATES, models=GALLERY.models)
        deployment = Deployment(home, system, plain.log)
        add_model(home.root, Prior(0.1, width=9), system=SLATES, head="+".join(HEADS))
        service = deployment.service()
        shelf: Any = service.retrieval
        first = service.serving
        assert (shelf.aside, shelf.adopted, deployment.problem) == ([first.model], [first.model], "")

        def refuse(model: Model | None, *, aside: bool = False) -> None:
            raise ModelError(where="towers", given="nan", expected="numbers", fix="Train again.")

        monkeypatch.setattr(shelf, "adopt", refuse)
        second = add_model(home.root, Prior(0.2, width=9), system=SLATES, head="+".join(HEADS))
        assert not deployment.refresh(service)
        assert service.serving is first
        assert service.problem == f"champion {second[:12]}: towers: nan. Expected numbers. Train again."


def test_a_shadow_decides_beside_another_system(home: Home) -> None:
    add_model(home.root)
    with opened(home, Setup(shadow=True)) as (deployment, clock):
        clock.set(START_US)
        decision = ask(deployment, taken="block")
        assert (decision.mode, decision.acted) == ("shadow", "block")


def test_a_system_that_is_unknown_is_refused(home: Home) -> None:
    log = home.reader()
    with pytest.raises(ConfigError, match=r"system: 'frod'\. Expected 'fraud' "):
        Deployment(home, "frod", log)
    log.close()


# Replay beside the server


def test_another_runtime_is_noted(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    decide_live(home, hours=3)
    with opened(home) as (deployment, clock):
        there = dict(runtime()) | {"cpu": "another machine", "lock": "another lock"}
        deployment.tables.put("", "runtime", content=there)
        service = deployment.service()
        clock.set(START_US + LATER * 2)
        at = deployment.log.find("table", "/runtime")[1]
        versions = msgspec.structs.replace(service.serving.versions, runtime=at)
        service.adopt(msgspec.structs.replace(service.serving, versions=versions))
        service.decide(payment("elsewhere", 0, event_time=None))
        deployment.log.commit()
        assert deployment.replayer().one("elsewhere").notes == (
            f"lock: another lock then, {runtime()['lock']} now",
            f"cpu: another machine then, {runtime()['cpu']} now",
        )
        first = decode_decision(records(home, "decision")[0].body)
        assert deployment.replayer().one(first.id).notes == ()


def test_a_replay_aside_gives_the_report_of_another_process(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    decision = decide_live(home, hours=3)[0]
    replay = replay_aside(home, {"fraud": "fraud"}, allowed={"fraud": ("some_module:Some",)})
    report = asyncio.run(replay("fraud", decision.id, "replay"))
    assert (report["decision_id"], report["differences"]) == (decision.id, [])
    why = asyncio.run(replay("fraud", decision.id, "explain"))
    assert (why["decision_id"], why["request"], why["differences"]) == (decision.id, decision.request.id, [])
    assert next(band["action"] for band in why["bands"]["p_fraud"]) == "allow"


def test_replays_aside_run_one_at_a_time_and_end_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folds the log anew: a burst of them would take memory and both cores from the decisions."""
    running: list[asyncio.subprocess.Process] = []
    begin = asyncio.create_subprocess_exec

    async def endless(*_words: str, **pipes: Any) -> asyncio.subprocess.Process:
        running.append(await begin(sys.executable, "-c", "import signal; signal.pause()", **pipes))
        started.set()
        return running[-1]

    async def play() -> None:
        replay = replay_aside(Home(tmp_path), {})
        asked = [asyncio.create_task(replay("fraud", name, "replay")) for name in "abc"]
        await started.wait()
        await asyncio.sleep(0)
        assert len(running) == 1
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert [await process.wait() for process in running] == [-signal.SIGKILL]

    started = asyncio.Event()
    monkeypatch.setattr(asyncio, "create_subprocess_exec", endless)
    asyncio.run(play())


def test_a_replay_aside_that_fails_says_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(ReplayError) as caught:
        asyncio.run(replay_aside(Home(tmp_path / "nothing"), {})("fraud", "a", "replay"))
    assert str(caught.value).startswith("fraud replay: a process that ended with 2: decalog: home nothing: ")
    assert str(caught.value).endswith(". Expected a report. Run `decalog replay` by hand to see more.")
