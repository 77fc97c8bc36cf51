"""A challenger decides for a share of the people: who they are, what its decisions say, and how it begins and ends."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog, payment
from tests.homes import add_model, fill_home, rule
from tests.served import CARDS, served
from tests.slate_log import SlateLog

from decalog.challengers import ready, roll
from decalog.decisions import Decision
from decalog.errors import ConfigError, ConflictError, ModelError, ReplayError, RequestError
from decalog.events import Event
from decalog.features.definition import Aggregate
from decalog.home import Home
from decalog.judging import Serving
from decalog.levers import Levers
from decalog.models.linear import Prior, Threshold
from decalog.registry import Registry
from decalog.rollout import CHALLENGER, TRIED, Rollout, Rollouts
from decalog.serving import described
from decalog.systems.fraud.system import SYSTEM
from decalog.tables import Tables

HALF = 5_000


# Whose requests


def asks(person: int, id_: str = "q") -> Event:
    return Event(id_, "payment", 0, person, {}, {})


def canary(name: str = "r1", share_bp: int = HALF) -> Rollout:
    return Rollout(name=name, stage="canary", model="3f9a61c27d04", share_bp=share_bp)


def chosen(step: Rollout, people: range = range(1, 20_001)) -> set[int]:
    return {person for person in people if step.arm(asks(person)) == CHALLENGER}


@pytest.mark.parametrize("share_bp", [0, 1, 100, 500, HALF, 9_999, 10_000])
def test_the_challenger_has_about_the_share_that_is_declared(share_bp: int) -> None:
    share, n = share_bp / 10_000, 20_000
    spread = 4 * (n * share * (1 - share)) ** 0.5
    assert abs(len(chosen(canary(share_bp=share_bp))) - n * share) <= spread


def test_a_share_grows_by_people_who_join_and_nobody_leaves() -> None:
    arms = [chosen(canary(share_bp=share_bp)) for share_bp in (100, 500, 2_500, HALF, 10_000)]
    assert all(less < more for less, more in itertools.pairwise(arms))


def test_a_person_stays_whatever_they_ask_for_and_whatever_the_challenger_is() -> None:
    step = canary()
    other = Rollout(name="r1", stage="canary", policy={}, share_bp=HALF)
    assert {step.arm(asks(7, f"q{number}")) for number in range(50)} == {step.arm(asks(7))}
    assert chosen(step) == chosen(other)


def test_another_name_divides_the_people_anew() -> None:
    first, second = chosen(canary("r1")), chosen(canary("r2"))
    assert abs(len(first & second) - 5_000) <= 4 * (20_000 * 0.25 * 0.75) ** 0.5


def test_a_request_about_nobody_is_a_person_of_its_own() -> None:
    step = canary()
    found = [step.arm(asks(0, f"q{number}")) for number in range(2_000)]
    assert found == [step.arm(asks(0, f"q{number}")) for number in range(2_000)]
    assert abs(found.count(CHALLENGER) - 1_000) <= 90


# A service of a home


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("homes") / "filled").root


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Home:
    """A home with history and a champion."""
    return Home(Path(shutil.copytree(filled, tmp_path / "home")))


def by_arm(decisions: list[Decision]) -> dict[str, list[Decision]]:
    arms: dict[str, list[Decision]] = {}
    for decision in decisions:
        arms.setdefault(decision.arm, []).append(decision)
    return arms


def bits(decision: Decision) -> Decision:
    """Returns a decision without where it stands in its log, how long it took, and the nonces of its envelope."""
    request = msgspec.structs.replace(decision.request, sealed=b"")
    return msgspec.structs.replace(decision, state_seq=0, stages_us={}, request=request)


def test_each_arm_is_decided_by_its_own_and_says_so_and_all_replays(home: Home) -> None:
    first = Registry(home.root).current("fraud") or ""
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        (before,) = made.pay("card-0")
        made.take("canary", model=second[:12], share_bp=HALF)
        during = by_arm(made.pay(*CARDS))
        assert before.arm == ""
        assert during.keys() == {"r1/champion", "r1/challenger"}
        for arm, model, p_fraud in (("champion", first, 0.001), ("challenger", second, 0.3)):
            decisions = during[f"r1/{arm}"]
            assert {(one.versions.model, one.versions.policy) for one in decisions} == {
                (model[:12], before.versions.policy)
            }
            assert {one.candidates[0].predictions["p_fraud"] for one in decisions} == {p_fraud}
        assert {one.choice.action for one in during["r1/champion"]} == {"allow"}
        assert "allow" not in {one.choice.action for one in during["r1/challenger"]}
        assert described(made.service)["rollout"] == f"r1: canary, {second[:12]} at 50 %"
        made.check_all_identical()


def test_a_share_that_grows_keeps_its_people(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        arms = []
        for share_bp in (HALF, 10_000):
            made.take("canary", model=second, share_bp=share_bp)
            arms.append({one.request.subject for one in by_arm(made.pay(*CARDS))["r1/challenger"]})
        assert arms[0] < arms[1]
        assert len(arms[1]) == len(CARDS)


def test_parameters_are_tried_under_the_champions_model_and_replay_from_the_log(home: Home) -> None:
    with served(home) as made:
        (before,) = made.pay("card-0")
        made.take("canary", policy={"goodwill_minor": 7}, share_bp=HALF)
        during = by_arm(made.pay(*CARDS))
        assert {one.versions.model for arm in during.values() for one in arm} == {before.versions.model}
        assert {one.versions.policy for one in during["r1/champion"]} == {before.versions.policy}
        (tried,) = {one.versions.policy for one in during["r1/challenger"]}
        stored = Tables(made.log).stored("fraud", TRIED)
        assert (stored.version, stored.content["goodwill_minor"]) == (tried, 7)
        assert Tables(made.log).version("fraud", "policy", version=tried) is None
        made.check_all_identical()


def test_a_tried_policy_that_is_gone_from_the_log_is_named_by_replay(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(home) as made:
        made.take("canary", policy={"goodwill_minor": 7}, share_bp=10_000)
        (tried,) = made.pay("card-0")
        made.log.commit()
        monkeypatch.setattr("decalog.rollout.TRIED", "elsewhere")
        expected = rf"made with policy {tried.versions.policy}, which is gone: the log holds no table of that version\."
        with pytest.raises(ReplayError, match=expected):
            made.deployment.replayer().one(tried.id)


def test_a_stop_counts_from_the_next_request_on_to_the_bits_of_a_server_that_tried_nothing(
    home: Home, tmp_path: Path
) -> None:
    """The challenger predicts otherwise and acts alike: else the views would rightly tell of its actions later."""
    with served(home) as made:
        made.pay(*CARDS)  # both shall know them by the same tokens
    other = Home(Path(shutil.copytree(home.root, tmp_path / "other")))
    second = add_model(home.root, Threshold(*_rule(), above=0.3, below=0.0011, width=_width()), promote=False)
    with served(home) as tried, served(other) as plain:
        tried.take("canary", model=second, share_bp=HALF)
        during, meanwhile = tried.pay(*CARDS), plain.pay(*CARDS)
        assert [one.choice.action for one in during] == [one.choice.action for one in meanwhile]
        pairs = list(zip(during, meanwhile, strict=True))
        assert {bits(one) == msgspec.structs.replace(bits(same), arm=one.arm) for one, same in pairs} == {True, False}
        assert all(
            bits(one) == msgspec.structs.replace(bits(same), arm=one.arm)
            for one, same in pairs
            if one.arm == "r1/champion"
        )
        tried.take("stopped", why="hides rose")
        after = tried.pay(*CARDS)
        assert [one.arm for one in after] == [""] * len(CARDS)
        assert [bits(one) for one in after] == [bits(one) for one in plain.pay(*CARDS)]
        assert tried.service.trial is None
        tried.check_all_identical()


def _width() -> int:
    return len(SYSTEM.features.names_for("model"))


def _rule() -> tuple[int, float]:
    return SYSTEM.features.names_for("model").index("amount"), 3_000.0


def test_a_decision_under_way_ends_with_the_arm_it_began_in(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=10_000)
        begun = made.service.begin(payment("slow", 0, event_time=None, amount_minor=1_000))
        assert not isinstance(begun, tuple)
        made.take("stopped")
        begun.started_ns = 0  # no test is about how long this took
        made.service.predict(begun)
        decision = made.service.finish(begun)[1]
        assert (decision.arm, decision.versions.model) == ("r1/challenger", second[:12])
        made.check_all_identical()


def test_a_decision_that_sees_its_candidates_later_keeps_its_arm_unless_other_views_came(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=10_000)
        begun = [made.service.begin(payment(name, 0, event_time=None), sees=False) for name in ("kept", "turned")]
        made.take("stopped")
        for draft, arm, model in zip(begun, ("r1/challenger", ""), (second[:12], "other"), strict=True):
            assert not isinstance(draft, tuple)
            made.service.see(draft)
            made.service.predict(draft)
            decision = made.service.finish(draft)[1]
            assert (decision.arm, decision.versions.model) == (arm, model)
            versions = msgspec.structs.replace(made.service.serving.versions, model="other", features="other")
            made.service.adopt(msgspec.structs.replace(made.service.serving, versions=versions))


def test_a_rollout_goes_on_after_a_restart_with_the_same_people(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, policy={"goodwill_minor": 7}, share_bp=HALF)
        before = [(one.arm, one.versions) for one in made.pay(*CARDS)]
    with served(home) as made:
        position = made.log.position
        assert [(one.arm, one.versions) for one in made.pay(*CARDS)] == before
        assert len(made.steps()) == 1
        assert position == made.log.position - len(CARDS)
        made.check_all_identical()


def test_what_ended_stays_ended_after_a_restart(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=10_000)
        made.take("stopped")
    with served(home) as made:
        assert {one.arm for one in made.pay(*CARDS)} == {""}
        assert [step.stage for step in made.steps()] == ["canary", "stopped"]


# How it ends by itself


def test_the_promotion_of_the_challenger_ends_it_as_champion(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=HALF, evidence={"gain": 1})
        Registry(home.root).promote("fraud", second, by="me", why="better", at_us=1)
        assert made.deployment.refresh(made.service)
        assert {(one.arm, one.versions.model) for one in made.pay(*CARDS)} == {("", second[:12])}
        last = made.steps()[-1]
        assert (last.stage, last.why, last.share_bp) == ("champion", "its challenger is in force", 0)
        changes = [(change.what, change.by) for change in Tables(made.log).changes("fraud")][-2:]
        assert changes == [("r1: canary", "me"), ("r1: champion", "the server")]
        made.take("champion", evidence={"gain": 2})
        assert made.steps()[-1].evidence == {"gain": 2}
        with pytest.raises(RequestError, match=r"stopped after champion\. Expected shadow or canary or stopped before"):
            made.take("stopped")
        made.check_all_identical()


@pytest.mark.parametrize("stage", ["canary", "shadow"])
def test_the_promotion_of_another_model_stops_it(home: Home, stage: str) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take(stage, model=second, share_bp=HALF if stage == "canary" else 0)
        third = add_model(home.root, rule(limit=2_000.0))
        assert made.deployment.refresh(made.service)
        assert {(one.arm, one.versions.model) for one in made.pay(*CARDS)} == {("", third[:12])}
        assert [(one.stage, one.why) for one in made.steps()[1:]] == [("stopped", "another champion took over")]


@pytest.mark.parametrize(("wins", "stage"), [(True, "champion"), (False, "stopped")])
def test_a_promotion_while_no_server_runs_ends_it_at_the_start(home: Home, stage: str, *, wins: bool) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=HALF)
    third = add_model(home.root, rule(limit=2_000.0), promote=False)
    Registry(home.root).promote("fraud", second if wins else third, by="me", why="test", at_us=1)
    with served(home) as made:
        assert {one.arm for one in made.pay(*CARDS)} == {""}
        assert made.steps()[-1].stage == stage


def test_parameters_that_come_into_force_reach_both_arms_or_end_it_where_they_are_the_challengers(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=HALF)
        made.put_policy(goodwill_minor=7)
        arms = by_arm(made.pay(*CARDS))
        assert {one.versions.policy for arm in arms.values() for one in arm} == {made.service.serving.versions.policy}
        assert {one.versions.model for one in arms["r1/challenger"]} == {second[:12]}
        made.take("stopped")
        made.take("canary", "r2", policy={"goodwill_minor": 8}, share_bp=HALF)
        own = {one.versions.policy for one in by_arm(made.pay(*CARDS))["r2/challenger"]}
        made.put_policy(goodwill_minor=9)
        arms = by_arm(made.pay(*CARDS))
        assert {one.versions.policy for one in arms["r2/challenger"]} == own
        assert {one.versions.policy for one in arms["r2/champion"]} == {made.service.serving.versions.policy}
        made.put_policy(goodwill_minor=8)
        assert {(one.arm, one.versions.policy) for one in made.pay(*CARDS)} == {("", *own)}
        assert (made.steps()[-1].name, made.steps()[-1].stage) == ("r2", "champion")
        made.check_all_identical()


def test_a_challenger_of_model_and_parameters_is_champion_when_both_are_in_force(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, policy={"goodwill_minor": 8}, share_bp=HALF)
        made.put_policy(goodwill_minor=8)
        assert made.steps()[-1].stage == "canary"
        Registry(home.root).promote("fraud", second, by="me", why="test", at_us=1)
        made.deployment.refresh(made.service)
        assert made.steps()[-1].stage == "champion"


def test_a_challenger_that_is_gone_at_a_start_stops_it_and_the_log_says_why(home: Home) -> None:
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=HALF)
    shutil.rmtree(home.root / "models" / second)
    with served(home) as made:
        assert {one.arm for one in made.pay(*CARDS)} == {""}
        assert made.steps()[-1].stage == "stopped"
        assert made.steps()[-1].why.startswith(f"at a start: model {second[:12]}: a model whose files are gone.")


def test_parameters_that_the_code_of_a_start_does_not_know_stop_it(home: Home) -> None:
    with served(home) as made:
        step = Rollout(name="r1", stage="canary", policy={"goodwill_minor": -1}, share_bp=HALF)
        Rollouts(made.log, "fraud").put(step, by="another version")
    with served(home) as made:
        assert made.steps()[-1].stage == "stopped"
        assert made.steps()[-1].why.startswith("at a start: fraud rollout, policy: Expected `int` >= 0 ")


# Steps that are refused


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"stage": "canary", "share_bp": 500}, r"canary without a challenger\. Expected `model`, `policy` or both"),
        ({"stage": "shadow"}, "shadow without a challenger"),
        ({"stage": "canary", "policy": {}}, r"canary with share_bp 0\. Expected 1 to 10,000 for canary, 0 for all"),
        ({"stage": "shadow", "policy": {}, "share_bp": 1}, "shadow with share_bp 1"),
        ({"stage": "canary", "policy": {}, "share_bp": 10_001}, r"Expected `int` <= 10000 - at `\$.share_bp`"),
        ({"stage": "canary", "model": "short", "share_bp": 1}, r"matching regex .* at `\$.model`"),
        ({"stage": "canary", "policy": {"typo": 1}, "share_bp": 1}, "fraud policy: 1 unknown parameters"),
        ({"stage": "ramp"}, "Invalid enum value 'ramp'"),
        (
            {"stage": "stopped"},
            r"stopped after nothing\. Expected shadow or canary or stopped before it\. Name the one",
        ),
        ({"stage": "champion"}, r"champion after nothing\. Expected champion before it\. Promote the challenger"),
        ({"stage": "shadow", "policy": {}, "name": "no name"}, r"at `\$.name`"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(home: Home, parts: dict[str, Any], message: str) -> None:
    with served(home) as made:
        position = made.log.position
        with pytest.raises(RequestError, match=message):
            made.take(**parts)
        assert (made.log.position, made.service.trial) == (position, None)


def test_what_is_no_json_is_refused(home: Home) -> None:
    with served(home) as made:
        levers = Levers(made.deployment.system, made.log)
        with pytest.raises(RequestError, match=r"fraud rollout: .*\. Expected a step of a rollout as JSON\. Mend it"):
            levers.rollouts.read(b"\xff", levers.read_policy)


def test_one_rollout_at_a_time_and_one_challenger_a_name(home: Home) -> None:
    models = [add_model(home.root, rule(limit=limit), promote=False) for limit in (100.0, 200.0)]
    with served(home) as made:
        made.take("canary", model=models[0], share_bp=HALF)
        kept, position = made.service.trial, made.log.position
        tries: tuple[tuple[dict[str, Any], str], ...] = (
            (
                {"name": "r2", "model": models[1]},
                r"rollout r2 while r1 is under way\. Expected one at a time\. Stop r1",
            ),
            (
                {"model": models[1]},
                r"another challenger under the name r1\. .*Take a new name; all goes on as before\.",
            ),
            ({"model": models[0], "policy": {}}, "another challenger under the name r1"),
        )
        for parts, message in tries:
            with pytest.raises(RequestError, match=message):
                made.take(**{"stage": "canary", "share_bp": HALF, **parts})
        assert (made.service.trial, made.log.position) == (kept, position)
        made.take("canary", model=models[0][:12], share_bp=10_000)
        made.take("stopped")
        made.take("shadow", "r2", model=models[1])
        with pytest.raises(RequestError, match="rollout r3 while r2 is under way"):
            made.take("shadow", "r3", model=models[0])
        made.take("stopped", "r2")
        with pytest.raises(RequestError, match="another challenger under the name r1"):
            made.take("canary", "r1", model=models[1], share_bp=HALF)


OTHER_SET = msgspec.structs.replace(
    SYSTEM,
    features=msgspec.structs.replace(
        SYSTEM.features,
        features=(
            *SYSTEM.features.features,
            Aggregate(
                name="merchant_payments_3d",
                meaning="payments to the merchant in three days",
                unit="payments",
                entity="merchant",
                aggregate="count",
                over=("payment",),
                window="3d",
            ),
        ),
    ),
)


@pytest.mark.parametrize("stage", ["canary", "shadow"])
def test_a_challenger_that_cannot_stand_beside_the_champion_is_refused(home: Home, stage: str) -> None:
    champion = Registry(home.root).current("fraud") or ""
    broken = add_model(home.root, rule(limit=1.0), promote=False)
    (home.root / "models" / broken / "manifest.json").write_text("{}")
    challengers = {
        "0" * 12: (ModelError, r"model 0{12}: a model whose files are gone\. Expected its folder in models/"),
        broken: (ModelError, r"file manifest\.json: a file that does not fit its hash"),
        add_model(home.root, rule(OTHER_SET), system=OTHER_SET, promote=False): (
            ModelError,
            rf"a model of feature set {OTHER_SET.features.version}\. Expected one of feature set",
        ),
        add_model(home.root, Prior(0.1, width=_width()), head="p_dispute", promote=False): (
            ModelError,
            r"a model of p_dispute\. Expected one of p_fraud, as the champion\. Train the same kind of model again",
        ),
        champion: (ConfigError, r"fraud rollout r1: a challenger that decides already\. Expected another model"),
    }
    with served(home) as made:
        position = made.log.position
        for model, (kind, message) in challengers.items():
            with pytest.raises(kind, match=message):
                made.take(stage, model=model, share_bp=HALF if stage == "canary" else 0)
        assert (made.log.position, made.service.trial) == (position, None)


def test_a_service_that_nobody_deployed_loads_no_challenger(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    with pytest.raises(ConfigError, match=r"a service that loads no models\. Expected one that a deployment made"):
        ready(log.service, canary())
    log.log.close()


def test_a_step_that_another_overtook_is_refused(home: Home) -> None:
    """Else a stop would be undone by a canary whose model took longer to load than the stop to be taken."""
    second = add_model(home.root, rule(limit=100.0), promote=False)
    with served(home) as made:
        made.take("canary", model=second, share_bp=100)
        slow = ready(made.service, Rollout(**_parts(made.steps()[-1], share_bp=HALF)))
        made.take("stopped")
        with pytest.raises(ConflictError, match=r"a step that another one overtook.* Look at the rollout, and take"):
            roll(made.service, slow)
        slow = ready(made.service, Rollout(**_parts(made.steps()[-1], stage="canary", share_bp=HALF)))
        add_model(home.root, rule(limit=2_000.0))
        made.deployment.refresh(made.service)
        with pytest.raises(ConflictError, match="or another champion"):
            roll(made.service, slow)
        assert (made.service.trial, made.steps()[-1].stage) == (None, "stopped")


def _parts(step: Rollout, **changes: Any) -> dict[str, Any]:
    return {**msgspec.structs.asdict(step), **changes}


def test_parameters_that_come_while_a_model_is_loaded_are_kept(home: Home) -> None:
    with served(home) as made:
        third = add_model(home.root, rule(limit=2_000.0))
        found = made.deployment.serving()
        made.put_policy(goodwill_minor=7)
        assert made.deployment.refresh(made.service, found)
        (decision,) = made.pay("card-0")
        stored = Tables(made.log).stored("fraud", "policy").version
        assert (decision.versions.model, decision.versions.policy) == (third[:12], stored)
        second = add_model(home.root, rule(limit=100.0), promote=False)
        step = Rollout(name="r1", stage="canary", model=second, share_bp=10_000)
        loaded = ready(made.service, step)
        made.put_policy(goodwill_minor=8)
        roll(made.service, loaded)
        (decision,) = made.pay("card-0")
        assert decision.versions.model == second[:12]
        assert decision.versions.policy == Tables(made.log).stored("fraud", "policy").version


# What retrieves


def test_a_challenger_is_made_ready_aside_and_each_arm_retrieves_with_its_own(tmp_path: Path) -> None:
    class Model:
        blocking = False

        def predict(self, rows: Any) -> Any:
            return np.full((len(rows), 6), 0.01)

    log = SlateLog(tmp_path, model=Model())  # type: ignore[arg-type]
    challenger: Any = Model()
    asked: list[Any] = []
    honest = log.shelf.retrieve

    def retrieve(request: Event, model: Any = None) -> Any:
        asked.append(model)
        return honest(request, model)

    log.shelf.retrieve = retrieve  # type: ignore[method-assign]

    def load(step: Rollout, champion: Serving) -> Serving:
        versions = msgspec.structs.replace(champion.versions, model="m2")
        return msgspec.structs.replace(champion, model=challenger, versions=versions)

    log.service.challenger = load
    shadow = Rollout(name="r1", stage="shadow", model="3f9a61c27d04")
    roll(log.service, ready(log.service, shadow))
    assert (log.shelf.aside, log.service.trial) == ([], None)
    roll(log.service, ready(log.service, canary()))
    assert log.shelf.aside == [challenger]
    arms = {log.ask(1, user=f"u{number}").arm for number in range(20)}
    assert arms == {"r1/champion", "r1/challenger"}
    assert {id(model) for model in asked} == {id(log.serving.model), id(challenger)}
    log.log.close()
