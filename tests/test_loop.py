"""The loop: one step at a time from the log and the registry alone, each with its evidence, stopped or promoted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.homes import add_model, fill_home, rule
from tests.served import STOPPED, Served, served

from decalog import loop as loops
from decalog.clock import DAY
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError
from decalog.gate import Gated
from decalog.hands import Within, loop_of, turned
from decalog.home import Home
from decalog.loop import BY, Loop, LoopPlan, Move, plan_of
from decalog.registry import Pin, Registry
from decalog.system import find_system
from decalog.systems.fraud.system import SYSTEM
from decalog.tails import Champion
from decalog.watching import Finding

PEOPLE = [f"card-{number}" for number in range(300)]
PLAN = LoopPlan(
    guardrails=(STOPPED,),
    shares_bp=(5_000, 5_500),
    people=1,
    least="1h",
    most="2d",
    most_changed=0.5,
)


class Acting(Within):
    """Acts on a service, and trains what it is told to."""

    def __init__(self, made: Served, *, trains: Any = None) -> None:
        super().__init__(made.deployment, made.service, train=self._next)
        self._trains = trains

    def _next(self) -> str:
        if self._trains is None:
            raise DataError(where="t", given="3 positives", expected="more", fix="Wait.")
        model: str = self._trains()
        return model


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "home"
    fill_home(root)
    return root


@pytest.fixture
def made(filled: Path, tmp_path: Path) -> Iterator[Served]:
    with served(Home(Path(shutil.copytree(filled, tmp_path / "home")))) as made:
        yield made


def unwatched(deployment: Deployment) -> Champion:
    return Champion(version="", features=deployment.system.features)


def turning(made: Served, plan: LoopPlan = PLAN, *, trains: Any = None) -> Loop:
    return Loop(plan, Acting(made, trains=trains), champion=unwatched)


def stepped(made: Served, loop: Loop, *, later: int = 0) -> Move | None:
    made.clock.set(made.clock.now_us() + later)
    made.log.commit()
    return loop.step(made.deployment, made.clock.now_us())


def newer(made: Served, *, limit: float = 2_999.0) -> str:
    """Registers a model that was trained just now."""
    made.log.commit()
    pin = Pin((made.log.position,), 0, made.clock.now_us())
    return add_model(made.deployment.home.root, rule(limit=limit), promote=False, pin=pin)


def passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens the gate: whether a model is better has its own tests."""
    monkeypatch.setattr(loops, "gate", lambda asked, standards: Gated(passes=True, because=("it is better",)))


def test_a_better_model_goes_through_all_stages_and_each_is_in_the_log(
    made: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    model, loop = newer(made), turning(made)
    acts = [stepped(made, loop), stepped(made, loop)]
    assert [move.act for move in acts if move] == ["shadow", "canary"]
    assert stepped(made, loop) is None  # nobody was decided for yet
    for _ in range(2):
        for _ in range(3):
            made.pay(*PEOPLE)
        acts.append(stepped(made, loop))
    assert [move.act for move in acts if move] == ["shadow", "canary", "canary", "promote"]
    assert made.service.serving.versions.model == model[:12]
    steps = made.steps()
    assert [(one.stage, one.share_bp) for one in steps] == [
        ("shadow", 0),
        ("canary", 5_000),
        ("canary", 5_500),
        ("canary", 5_500),
        ("champion", 0),
    ]
    assert {one.name for one in steps} == {model[:12]}
    assert steps[0].evidence["gate"]["passes"] is True
    assert steps[1].evidence["shadow"]["changed"]["value"] == 0.0
    assert steps[3].evidence["canary"]["looked"][0]["state"] == "safe"
    (change,) = [one for one in Registry(made.deployment.home.root).history("fraud") if one.by == BY]
    assert change.why.startswith("stopped, fallbacks: nothing worse at 55 %")
    assert stepped(made, loop) is None


def test_one_that_harms_is_stopped_at_once_and_decides_nothing_more(
    made: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    before = made.pay("card-1")[0]
    model = newer(made, limit=10.0)
    loop = turning(made, msgspec.structs.replace(PLAN, most_changed=1.0))
    stepped(made, loop)
    stepped(made, loop)
    made.pay(*PEOPLE, amount_minor=1_000)
    move = stepped(made, loop)
    assert move == Move(act="stop", model=model, why=made.steps()[-1].why)
    assert "stopped: harm" in move.why
    assert made.steps()[-1].evidence["canary"]["people"][1] > 0
    after = made.pay(*PEOPLE[:30])
    assert {one.versions.model for one in after} == {before.versions.model}
    assert stepped(made, loop) is None  # it is judged once


def test_the_gate_stops_what_nothing_is_known_of(made: Served) -> None:
    newer(made)
    move = stepped(made, turning(made))
    assert move is not None
    assert move.act == "stop"
    assert "positives were told of since both were made, of 20 needed" in move.why or "cannot be judged" in move.why
    assert [one.stage for one in made.steps()] == ["stopped"]


def test_a_shadow_that_changes_too_much_is_a_question_for_a_person(
    made: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:50], amount_minor=1_000)
    newer(made, limit=10.0)
    loop = turning(made)
    stepped(made, loop)
    move = stepped(made, loop)
    assert move is not None
    assert move.act == "stop"
    assert "it would change 100.0% of what was chosen" in move.why
    assert made.steps()[-1].evidence["shadow"]["moves"] == {"allow → step_up": 50}


def test_a_share_of_too_few_people_to_tell_anything_is_left_out(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:100])
    newer(made)
    loop = turning(made, msgspec.structs.replace(PLAN, shares_bp=(1_000, 4_000, 9_000), people=30))
    stepped(made, loop)
    stepped(made, loop)
    last = made.steps()[-1]
    assert (last.stage, last.share_bp) == ("canary", 4_000)
    assert last.why.endswith("100 people a week")


def test_what_is_not_shown_in_time_is_stopped(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    newer(made)
    loop = turning(made)
    stepped(made, loop)
    stepped(made, loop)
    made.pay(*PEOPLE[:5])
    move = stepped(made, loop, later=3 * DAY)
    assert move is not None
    assert move.why.startswith("nothing was shown in 2d of stopped")


def test_what_takes_longest_is_waited_for_at_the_smallest_share_alone(
    made: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    newer(made)
    slow = msgspec.structs.replace(STOPPED, name="slow", after="7d")
    loop = turning(made, msgspec.structs.replace(PLAN, guardrails=(STOPPED, slow), most="28d"))
    acts = [stepped(made, loop), stepped(made, loop)]
    for later in (0, 8 * DAY, 0):
        for _ in range(3):
            made.pay(*PEOPLE)
        acts.append(stepped(made, loop, later=later))
    assert [move.act if move else "" for move in acts] == ["shadow", "canary", "", "canary", "promote"]
    first, second = (step.evidence["canary"] for step in made.steps() if "canary" in step.evidence)
    assert {one["guardrail"]: one["state"] for one in first["looked"]}["slow"] == "safe"
    assert {one["guardrail"]: one["state"] for one in second["looked"]}["slow"] == "open"


def test_growth_does_not_wait_for_what_is_looked_at_for_harm_alone(
    made: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    newer(made)
    watched = msgspec.structs.replace(STOPPED, name="watched", excluded=None, after="7d")
    loop = turning(made, msgspec.structs.replace(PLAN, guardrails=(STOPPED, watched)))
    stepped(made, loop)
    stepped(made, loop)
    for _ in range(3):
        made.pay(*PEOPLE)
    move = stepped(made, loop)
    assert move is not None
    assert move.act == "canary"
    assert move.why.startswith("stopped, fallbacks: nothing worse at 50 %; watched: no harm is shown")
    looked = made.steps()[-1].evidence["canary"]["looked"]
    assert {one["guardrail"]: one["state"] for one in looked}["watched"] == "watched"


def test_another_loop_goes_on_where_one_died(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    passes(monkeypatch)
    made.pay(*PEOPLE[:30])
    newer(made)
    moves = [stepped(made, turning(made)) for _ in range(3)]
    assert [None if move is None else move.act for move in moves] == ["shadow", "canary", None]


def test_a_rollout_of_a_persons_own_is_watched_and_not_widened(made: Served) -> None:
    made.pay(*PEOPLE[:30])
    made.take("canary", name="mine", policy={"rules": "block if :amount_minor: > 1"}, share_bp=5_000)
    loop = turning(made)
    assert stepped(made, loop) is None
    made.pay(*PEOPLE)
    move = stepped(made, loop)
    assert move is not None
    assert (move.act, made.steps()[-1].stage) == ("stop", "stopped")


# What makes it train


def trained_at(made: Served) -> int:
    return max(one.manifest.pin.known_time for one in Registry(made.deployment.home.root).list("fraud"))


def test_it_trains_once_it_is_time_and_no_sooner(made: Served) -> None:
    newer(made)
    loop = turning(made, trains=lambda: newer(made, limit=1_234.0))
    stepped(made, loop)
    assert stepped(made, loop, later=6 * DAY) is None
    move = stepped(made, loop, later=DAY)
    assert move is not None
    assert (move.act, move.why) == ("train", "the last training was 7.0 days ago")


def test_it_trains_on_enough_outcomes(made: Served) -> None:
    (decision,) = made.pay("card-1")
    newer(made)
    loop = turning(made, msgspec.structs.replace(PLAN, outcomes=1), trains=lambda: newer(made, limit=1_234.0))
    stepped(made, loop)
    made.clock.set(made.clock.now_us() + 2 * DAY)
    made.service.ingest.outcome(
        {"id": "c1", "payment": decision.request.id, "kind": "chargeback", "source": "issuer", "value": 1}
    )
    move = stepped(made, loop)
    assert move is not None
    assert (move.act, move.why) == ("train", "1 outcomes came since the last training")


def test_of_models_of_one_moment_each_is_judged_once(made: Served) -> None:
    both = {newer(made), newer(made, limit=1_234.0)}
    loop = turning(made)
    moves = [stepped(made, loop) for _ in range(3)]
    assert {move.model for move in moves[:2] if move} == both
    assert [move.act for move in moves[:2] if move] == ["stop", "stop"]
    assert moves[2] is None or moves[2].act == "wait"


def test_it_waits_where_there_is_too_little_to_learn_from(made: Served) -> None:
    newer(made)
    loop = turning(made)
    stepped(made, loop)
    move = stepped(made, loop, later=8 * DAY)
    assert move is not None
    assert (move.act, move.why) == ("wait", "the last training was 8.0 days ago, but there is 3 positives")
    assert stepped(made, loop) is None
    assert stepped(made, loop, later=DAY) is not None


def standing(monkeypatch: pytest.MonkeyPatch, monitor: str, since: int = 0) -> None:
    """Lets a monitor of the system stand."""
    finding = Finding(
        monitor=monitor,
        meaning="",
        owner="",
        runbook="",
        labels={},
        said="0.5 against 0.1",
        value=None,
        level=0.1,
        since=since,
        until=since,
        stands=True,
    )
    monkeypatch.setattr(
        Loop, "_standing", lambda self, seen, now, of: [(loops.watches_of(seen.system)[finding.monitor], finding)]
    )


def test_drift_makes_it_train_sooner(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(made)
    loop = turning(made, trains=lambda: newer(made, limit=1_234.0))
    stepped(made, loop)
    standing(monkeypatch, "fraud_inputs")
    assert stepped(made, loop, later=DAY // 2) is None
    move = stepped(made, loop, later=DAY)
    assert move is not None
    assert (move.act, move.why) == ("train", "fraud_inputs stands: 0.5 against 0.1")


def test_nothing_is_trained_while_nobody_reports(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    newer(made)
    loop = turning(made, trains=lambda: newer(made, limit=1_234.0))
    stepped(made, loop)
    standing(monkeypatch, "fraud_unheard")
    move = stepped(made, loop, later=8 * DAY)
    assert move is not None
    assert move.act == "wait"
    assert move.why.startswith("nothing is trained while fraud_unheard stands")


def test_a_promoted_model_that_fails_is_rolled_back(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.service.serving.versions.model
    model = newer(made)
    acting = Acting(made)
    acting.promote(model, why="better", at_us=made.clock.now_us())
    assert made.service.serving.versions.model == model[:12]
    standing(monkeypatch, "fraud_fallback_share", since=made.clock.now_us() + 1)
    move = stepped(made, turning(made), later=DAY)
    assert move is not None
    assert (move.act, move.why) == ("roll back", "fraud_fallback_share stands since it decides: 0.5 against 0.1")
    assert made.service.serving.versions.model == first
    assert stepped(made, turning(made)) is None  # and it is not tried again


# How it is declared and run


def test_every_system_says_how_its_loop_goes_round_and_one_that_does_not_is_refused() -> None:
    for name in ("fraud", "feed", "demand"):
        assert plan_of(find_system(name)).guardrails
    with pytest.raises(ConfigError, match=r"loop of fraud: a system that does not say .* `loop` in SYSTEM"):
        plan_of(msgspec.structs.replace(SYSTEM, loop=""))


def test_beside_no_server_it_acts_on_the_home(made: Served) -> None:
    home = made.deployment.home
    newer(made)
    made.log.commit()
    made.log.close()
    moves = list(turned(loop_of(home, "fraud"), home, system="fraud"))
    assert [move.act for move in moves][:1] == ["stop"]
