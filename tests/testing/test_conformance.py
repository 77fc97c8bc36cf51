"""The conformance kit catches systems that break a law, and says which and where."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.own_tables import SYSTEM as WITH_LISTS

from decalog import challengers, serving
from decalog.decisions import Choice, Slot
from decalog.errors import ConfigError
from decalog.judging import Judge
from decalog.levers import Levers
from decalog.log import Log
from decalog.outcomes import LabelBook, Outcome
from decalog.policy import Case, Verdict
from decalog.rollout import CHAMPION, Rollout
from decalog.system import System
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.simulate import World
from decalog.systems.fraud.system import SYSTEM
from decalog.testing import conformance, traffic
from decalog.testing.laws import crashes, doors, fallbacks, labels, privacy, propensities, replayed
from decalog.testing.laws.law import Law, proven
from decalog.testing.laws.law import Verdict as Found
from decalog.testing.stage import Chance, SeededVault, Stage, Trial
from decalog.testing.worlds import Message

SMALL = 48
TURN = itertools.count()


def trial(system: System, folder: Path, requests: int = SMALL) -> Trial:
    return Trial(system=system, folder=folder, requests=requests)


def with_policy(policy: type[FraudPolicy]) -> System:
    return msgspec.structs.replace(SYSTEM, policy=policy)


class Forgetful(FraudPolicy):
    """Decides by something that is not in the case: how often it was asked."""

    def decide(self, case: Case) -> Verdict:
        verdict = super().decide(case)
        action = SYSTEM.schema.actions[next(TURN) % 4]
        return msgspec.structs.replace(verdict, choice=Choice((Slot(action),), verdict.choice.reasons))


class Inventive(FraudPolicy):
    def fall_back(self, case: Case, reason: str) -> Verdict:
        return Verdict(Choice((Slot("shrug"),)))


class Fragile(FraudPolicy):
    def fall_back(self, case: Case, reason: str) -> Verdict:
        raise ZeroDivisionError(reason)


class Gambler(FraudPolicy):
    """Blocks half of what it says it blocks a quarter of."""

    def decide(self, case: Case) -> Verdict:
        action, propensity = ("block", 0.25) if case.draw("coin") < 0.5 else ("allow", 0.75)
        return Verdict(Choice((Slot(action, propensity=propensity),)))


class Unsure(FraudPolicy):
    def decide(self, case: Case) -> Verdict:
        return Verdict(Choice((Slot("allow", propensity=math.nan),)))


class Moody(World):
    """A world that draws from something other than its seed."""

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:
        found = super().advance(until_us, alone=alone)
        return [Message(m.at, m.kind, {**m.body, "id": f"{m.body['id']}-{next(TURN)}"}) for m in found]


def test_a_policy_that_decides_by_something_outside_the_case_does_not_replay(tmp_path: Path) -> None:
    found = replayed.check(trial(with_policy(Forgetful), tmp_path))
    assert not found.holds
    assert "choice: logged" in found.text()


def test_a_challenger_that_decides_under_the_champions_name_does_not_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misnamed(step: Rollout, judge: Judge) -> serving.Trial:
        versions = msgspec.structs.replace(judge.serving.versions, model=step.champion or "")
        return serving.Trial(step, Judge(SYSTEM, msgspec.structs.replace(judge.serving, versions=versions)))

    monkeypatch.setattr(challengers, "Trial", misnamed)
    found = replayed.check(trial(SYSTEM, tmp_path))
    assert re.search(r"first: seq \d+, p_fraud: logged", found.text())


def test_a_rollout_that_nobody_is_in_is_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rollout, "arm", lambda _step, _event: CHAMPION)
    found = replayed.check(trial(SYSTEM, tmp_path))
    assert found.breaches == ("no challenger of a rollout decided anything",)


def test_a_policy_that_draws_otherwise_than_it_says_is_caught(tmp_path: Path) -> None:
    found = propensities.check(trial(with_policy(Gambler), tmp_path))
    assert not found.holds
    assert re.search(r"block in \d+ of 400 draws, its propensity is 0.25", found.text())


def test_a_world_that_its_seed_does_not_determine_is_caught(tmp_path: Path) -> None:
    system = msgspec.structs.replace(SYSTEM, world=f"{__name__}:Moody")
    found = doors.check(trial(system, tmp_path))
    assert "two worlds of one seed send different messages" in found.breaches


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world": "nowhere:World"}, "world 'nowhere:World' names nothing"),
        (
            {"world": "decalog.clock:ManualClock"},
            "world: TypeError: ManualClock.__init__() got an unexpected keyword argument",
        ),
        ({"models": ()}, "models is no tuple of ModelSpec, or an empty one"),
        ({"models": SYSTEM.models[:1]}, "the last model, the champion's kind, is a baseline"),
        ({"models": SYSTEM.models[-1:]}, "models hold no honest baseline"),
        ({"models": (SYSTEM.models[0], SYSTEM.models[0])}, "models has a name twice"),
        ({"metrics": SYSTEM.metrics[:1]}, "no metric of the tier product, business"),
        ({"monitors": list(SYSTEM.monitors)}, "monitors is no tuple of Monitor, or an empty one"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"schema": msgspec.structs.replace(SYSTEM.schema, actions=())}, "actions () are none, or hold one twice"),
        ({"schema": msgspec.structs.replace(SYSTEM.schema, system="ads")}, "features are those of 'fraud'"),
        (
            {
                "schema": msgspec.structs.replace(
                    SYSTEM.schema, outcomes=(msgspec.structs.replace(SYSTEM.schema.outcomes[0], sources=("fraud",)),)
                )
            },
            "its own verdict is never a label",
        ),
    ],
)
def test_a_door_that_is_wrong_is_named(changes: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    found = doors.check(trial(msgspec.structs.replace(SYSTEM, **changes), tmp_path))
    assert not found.holds
    assert said in "\n".join(found.breaches)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Inventive, "'shrug' is no action of the schema"),
        (Fragile, "ZeroDivisionError reached the caller"),
        (Unsure, "holds a propensity that is not finite"),
    ],
)
def test_a_policy_without_a_sound_fallback_is_caught(policy: type[FraudPolicy], said: str, tmp_path: Path) -> None:
    found = fallbacks.check(trial(with_policy(policy), tmp_path))
    assert not found.holds
    assert said in "\n".join(found.breaches)


def test_a_personal_value_that_leaves_is_named_with_its_place(tmp_path: Path) -> None:
    planted = {"merchant": "Zq99merchant"}
    assert privacy.found_in({"the answer": b'{"reasons":["Zq99merchant"]}'}, planted) == [("the answer", "merchant")]
    assert privacy.found_in({"the answer": b'{"reasons":["Zq98merchant"]}'}, planted) == []


@pytest.mark.parametrize("value", ["Zq01naïve", 7_316_104_250_000_001, 7_316_104_250_000_001.5])
def test_a_planted_value_is_found_in_json_in_msgpack_and_in_python(value: str | float) -> None:
    forms = [msgspec.json.encode([value]), msgspec.msgpack.encode([value]), repr([value]).encode(), str(value).encode()]
    for form in forms:
        assert privacy.found_in({"there": form}, {"name": value}) == [("there", "name")], form
        assert not privacy.found_in({"there": form[:-4]}, {"name": value})


def test_every_personal_field_of_fraud_is_planted() -> None:
    parts = privacy.parts_of(SYSTEM.schema.request)
    assert set(privacy.canaries(SYSTEM)) == {part.name for part in parts if part.privacy != "public"}


OUTCOMES = LabelBook.outcomes


def _as_they_came(book: LabelBook, target: str, known_by: int | None = None) -> Iterator[tuple[int, Outcome]]:
    for known, outcome in OUTCOMES(book, target, known_by):
        yield known, msgspec.structs.replace(outcome, event_time=known, id="")


def test_labels_that_go_by_when_outcomes_came_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabelBook, "outcomes", _as_they_came)
    found = labels.check(trial(SYSTEM, tmp_path, requests=120))
    assert "end in another training set: labels differ, first at " in "\n".join(found.breaches)


def test_a_log_that_loses_what_it_acknowledged_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "_KILLS", 0)
    monkeypatch.setattr(Log, "commit", lambda log: log.position)
    found = crashes.check(trial(SYSTEM, tmp_path))
    assert "stands 0 times in the log" in "\n".join(found.breaches)


def test_a_verdict_needs_something_checked_and_every_sabotage_noticed() -> None:
    assert proven(3, [], sabotages={"a": ["seen"]}).holds
    assert not proven(3, ["bad"], sabotages={"a": ["seen"]}).holds
    assert not proven(3, [], sabotages={"a": []}).holds
    assert not proven(0, [], sabotages={"a": ["seen"]}).holds
    assert not proven(3, [], sabotages={}).holds


def test_a_verdict_names_the_first_breaches_and_the_sabotages_that_were_missed() -> None:
    found = proven(0, [f"breach {number}" for number in range(7)], sabotages={"a lie": []})
    assert found.text().splitlines() == [
        *(f"breach {number}" for number in range(5)),
        *("and 2 more", "sabotage not noticed: a lie", "nothing was checked"),
    ]


def test_a_broken_law_fails_its_test_by_name(tmp_path: Path) -> None:
    law = Law(99, "nothing is wrong", lambda _: Found(checked=1, breaches=("something is wrong",)))
    with pytest.raises(AssertionError, match="fraud breaks law 99, nothing is wrong:\nsomething is wrong"):
        conformance.assert_holds(law, SYSTEM, folder=tmp_path)


def test_a_report_says_which_laws_hold() -> None:
    good = Law(1, "one", lambda trial: proven(trial.requests, [], sabotages={"a lie": ["seen"]}))
    bad = Law(2, "two", lambda _: proven(1, ["broken here"], sabotages={"a lie": ["seen"]}))
    report = conformance.run("fraud", laws=(good, bad), requests=7)
    lines = report.text().splitlines()
    assert not report.conforms
    assert lines[0] == "fraud: 1 of 2 laws hold"
    assert lines[1].startswith("   1 holds  one (7 checked, 1 sabotages noticed, ")
    assert lines[2].startswith("   2 BROKEN two (1 checked")
    assert lines[3].strip() == "broken here"
    raising = conformance.run("fraud", laws=(Law(3, "three", lambda trial: 1 / 0), good))  # type: ignore[arg-type, return-value]
    assert [result.verdict.breaches for result in raising.results] == [("ZeroDivisionError: division by zero",), ()]
    assert conformance.run(SYSTEM, laws=(good,)).conforms


def test_a_law_can_be_named_on_a_command_line() -> None:
    assert str(conformance.LAWS[0]) == "1-doors-exist,-and-the-same-seed-gives-the-same-log"


def test_a_world_that_asks_for_too_little_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_MOST_DAYS", 1)
    with pytest.raises(ConfigError, match=r"fraud world: \d+ requests in 1 days at scale 0.05. Expected at least 9999"):
        traffic.messages(trial(SYSTEM, tmp_path, requests=9999))


def test_a_system_without_a_world_cannot_be_staged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fraud world: 'nowhere:World'\. Expected a dotted path module:Class"):
        Stage(trial(msgspec.structs.replace(SYSTEM, world="nowhere:World"), tmp_path), "stage")


def test_live_traffic_holds_every_disorder(tmp_path: Path) -> None:
    steps = traffic.live(trial(SYSTEM, tmp_path, requests=120))
    bodies = [step.body for step in steps if step.door != "outcome"]
    ids = [body["id"] for body in bodies]
    assert {step.door for step in steps} >= {"decide", "event"}
    assert len(set(ids)) < len(ids)
    for part in ("corrects", "deletes", "taken"):
        assert any(part in body for body in bodies), part
    assert any(step.door == "event" and "corrects" not in step.body and "kind" not in step.body for step in steps)
    assert steps == traffic.live(trial(SYSTEM, tmp_path, requests=120))


def test_seeded_chance_and_vault_repeat_themselves_and_differ_between_seeds() -> None:
    assert [Chance(1)(8), Chance(2)(8)] == [Chance(1)(8), Chance(2)(8)]
    assert len({Chance(1)(8), Chance(2)(8)}) == 2
    one = Chance(1)
    assert one(8) != one(8)
    assert SeededVault(1).token("card", "x") == SeededVault(1).token("card", "x") != SeededVault(2).token("card", "x")
    assert SeededVault(1).secret("draws") != SeededVault(1).secret("bodies")
    assert 0 < SeededVault(1).token("card", "x") < 2**63
    assert FraudCosts() == SYSTEM.policy_params()


def test_values_put_into_a_list_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert privacy.check(trial(WITH_LISTS, tmp_path / "held", 24)).holds

    def in_plain(self: Levers, name: str, raw: bytes) -> Iterator[tuple[str, float]]:
        yield from msgspec.json.decode(raw).items()

    monkeypatch.setattr(Levers, "entries", in_plain)
    broken = privacy.check(trial(WITH_LISTS, tmp_path / "broken", 24))
    assert not broken.holds
    assert "card stands in the log's records" in str(broken.breaches)
