"""Replay: the same bits from the log alone, or the first difference by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import FraudLog, payment
from tests.homes import LATER, add_model, decide_live, fill_home, opened, records, rule

from decalog import replay
from decalog.clock import HOUR, SECOND, rfc3339
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment, Setup
from decalog.errors import ReplayError
from decalog.features.definition import FeatureSet
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.ingest import Ingest
from decalog.judging import Serving, Underway
from decalog.models.linear import Prior
from decalog.policy import Case, Verdict
from decalog.replay import Range, Replayer, range_text, trace_text
from decalog.system import System
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.simulate import START_US
from decalog.systems.fraud.system import SYSTEM


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[Decision]]:
    home = fill_home(tmp_path_factory.mktemp("home"))
    return home, decide_live(home)


@pytest.fixture
def deployment(made: tuple[Home, list[Decision]]) -> Iterator[Deployment]:
    log = made[0].reader()
    yield Deployment(made[0], "fraud", log)
    log.close()


def altered(deployment: Deployment, system: System | None = None, **changes: Any) -> Replayer:
    """Returns a replayer that decides with something else than what the decisions name."""
    replayer = deployment.replayer()
    honest = replayer._serving_for

    def serving_for(decision: Decision) -> tuple[System, Serving]:
        past, serving = honest(decision)
        return system or past, msgspec.structs.replace(serving, **changes)

    replayer._serving_for = serving_for
    return replayer


# The same again


def test_every_decision_comes_out_identical(made: tuple[Home, list[Decision]], deployment: Deployment) -> None:
    found = deployment.replayer().range()
    assert found == Range(len(made[1]), len(made[1]), None)
    assert found.text() == range_text(found) == f"{len(made[1])}/{len(made[1])} identical"
    assert {decision.choice.action for decision in made[1]} == {"allow", "step_up"}


def test_the_log_is_folded_once_however_decisions_overtook_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded anew for each that thought longer than its neighbours, a range would cost the square of its length."""
    log = FraudLog(tmp_path)
    for i in range(5):
        slow = log.service.begin(payment(f"slow-{i}", 0))
        assert isinstance(slow, Underway)
        for name in ("quick", "next"):
            log.decide(f"{name}-{i}", 0)
        log.service.predict(slow)
        log.service.finish(slow)
    log.log.commit()
    serving = log.service.serving
    secret = log.log.vault.secret("draws")
    folded: list[FeatureSet] = []

    class Counted(OnlineState):
        def __init__(self, features: FeatureSet) -> None:
            folded.append(features)
            super().__init__(features)

    monkeypatch.setattr(replay, "OnlineState", Counted)
    replayer = Replayer(
        log.log, "fraud", serving_for=lambda _: (SYSTEM, serving), draw_secret=secret, notes_for=lambda _: ()
    )
    assert replayer.range().text() == "15/15 identical"
    assert len(folded) == 1
    assert replayer.one("slow-4").state_seq == 12
    log.log.close()


def test_a_trace_holds_every_intermediate(made: tuple[Home, list[Decision]], deployment: Deployment) -> None:
    decision = made[1][3]
    trace = deployment.replayer().one(decision.id)
    assert trace == deployment.replayer().one(decision.request.id)
    assert (trace.identical, trace.differences, trace.notes) == (True, (), ())
    assert (trace.action, trace.reasons) == (decision.choice.action, decision.choice.reasons)
    assert trace.predictions == decision.candidates[0].predictions
    assert list(trace.features) == list(SYSTEM.features.names)
    assert trace.versions["model"] == decision.versions.model
    text = trace_text(trace)
    assert text.splitlines()[0] == f"decision {decision.id} (seq {trace.seq}, views at {decision.state_seq}, live)"
    assert text.splitlines()[-1] == "identical"
    for word in (*trace.features, "p_fraud", "action", "expected_minor", "because", "version of model"):
        assert f"\n  {word}" in text


def test_a_part_of_the_log_is_replayed_alone(made: tuple[Home, list[Decision]], deployment: Deployment) -> None:
    seqs = [record.seq for record in records(made[0], "decision")]
    replayer = deployment.replayer()
    assert replayer.range(seqs[2], seqs[5]).replayed == 3
    assert replayer.range(seqs[-1] + 1) == Range(0, 0, None)


# What differs is named


def test_another_model_differs_in_its_prediction_first(deployment: Deployment, made: Any) -> None:
    width = len(SYSTEM.features.names_for("model"))
    found = altered(deployment, model=Prior(0.5, width)).range()
    assert (found.identical, found.replayed) == (0, len(made[1]))
    assert found.first is not None
    first = found.first.differences[0]
    assert first.name == "p_fraud"
    assert first.logged.startswith(repr(made[1][0].candidates[0].predictions["p_fraud"]))
    assert first.replayed == "0.5 (3fe0000000000000)"
    assert found.first.decision_id == made[1][0].id
    assert range_text(found).splitlines()[:2] == [f"0/{len(made[1])} identical", "first difference:"]
    assert f"  DIFFERS p_fraud: logged {first.logged}, replayed {first.replayed}" in range_text(found).splitlines()


def test_a_model_that_fails_now_differs_in_the_fallback(deployment: Deployment) -> None:
    found = altered(deployment, model=None).range().first
    assert found is not None
    names = {difference.name: difference for difference in found.differences}
    assert (names["fallback"].logged, names["fallback"].replayed) == ("", "no_model")
    assert names["p_fraud"].replayed == "none"


def test_another_policy_differs_in_the_choice_only(deployment: Deployment) -> None:
    policy = FraudPolicy(FraudCosts(step_up_fee_minor=100_000, review_minutes=1_000))
    found = altered(deployment, policy=policy).range()
    assert found.identical < found.replayed
    assert found.first is not None
    assert {difference.name for difference in found.first.differences} <= {"choice", "expected_minor", "guardrails"}
    assert "choice" in {difference.name for difference in found.first.differences}
    assert trace_text(found.first).splitlines()[-1] == f"{len(found.first.differences)} differences"


def test_another_window_differs_in_that_feature(deployment: Deployment) -> None:
    """The prediction is the same: score replay starts from the logged values."""
    features = tuple(
        msgspec.structs.replace(feature, window="1s") if feature.name == "card_payments_7d" else feature
        for feature in SYSTEM.features.features
    )
    other = msgspec.structs.replace(SYSTEM.features, features=features)
    found = altered(deployment, system=msgspec.structs.replace(SYSTEM, features=other)).range()
    assert found.identical < found.replayed
    assert found.first is not None
    assert {difference.name for difference in found.first.differences} == {"card_payments_7d"}


# What was decided without a prediction, and elsewhere


class Stumbles(FraudPolicy):
    """A policy that cannot decide."""

    def decide(self, case: Case) -> Verdict:
        raise RuntimeError("stumbled")


def test_fallbacks_are_replayed_as_the_inputs_they_are(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    with opened(home) as (deployment, clock):
        service = deployment.service()
        begin = START_US + LATER
        clock.set(begin)

        def ask(name: str, at: int) -> None:
            service.decide(payment(name, 0) | {"event_time": rfc3339(at)})

        ask("no model", begin)
        ask("late", begin - SYSTEM.features.lateness_us - SECOND)
        width = len(SYSTEM.features.names_for("model"))
        serving = service.serving
        service.adopt(msgspec.structs.replace(serving, model=Prior(float("nan"), width)))
        ask("no number", begin)
        add_model(tmp_path, Prior(0.1, width))
        champion = deployment.serving()
        service.adopt(msgspec.structs.replace(champion, policy=Stumbles(FraudCosts())))
        ask("no policy", begin)
        deployment.log.commit()
        reasons = [decode_decision(record.body).fallback for record in records(home, "decision")]
        assert reasons == ["no_model", "late_request", "model_not_finite", "policy_error"]
        found = deployment.replayer().range()
        assert (found.replayed, found.first) == (4, None)
        late = deployment.replayer().one("late")
        assert (late.features, late.fallback) == ({}, "late_request")
        assert "fallback                     late_request" in trace_text(late)
        assert deployment.replayer().one("no policy").predictions == {"p_fraud": pytest.approx(0.1)}


def test_a_decision_that_saw_an_earlier_position_than_its_own_is_replayed_there(tmp_path: Path) -> None:
    """A slow model: others were logged while it thought, and were not seen."""
    home = fill_home(tmp_path)
    with opened(home) as (deployment, clock):
        service = deployment.service()
        clock.set(START_US + LATER)
        for i in range(3):
            begun = service.begin(payment(f"slow {i}", 0, event_time=None))
            assert not isinstance(begun, tuple)
            service.decide(payment(f"quick {i}", 0, event_time=None))
            service.predict(begun)
            service.finish(begun)
            clock.advance(HOUR // 2)
        deployment.log.commit()
        found = deployment.replayer().range()
        assert (found.replayed, found.identical) == (6, 6)
        counts = [
            deployment.replayer().one(f"{name} {i}").features["card_payments_1d"]
            for i in (0, 1)
            for name in ("slow", "quick")
        ]
        assert counts == [1, 1, 3, 3]


def test_corrections_and_deletions_count_from_where_they_stand(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    with opened(home) as (deployment, clock):
        service = deployment.service()
        clock.set(START_US + LATER)
        body = payment("a", 0, event_time=None)
        service.decide(body)
        clock.advance(HOUR)
        service.decide(body | {"id": "b"})
        service.ingest.event({"id": "a2", "deletes": "a"})
        service.decide(body | {"id": "c"})
        service.ingest.event(body | {"id": "b2", "corrects": "b", "card": "another"})
        service.decide(body | {"id": "d"})
        deployment.log.commit()
        replayer = deployment.replayer()
        assert replayer.range().identical == 4
        assert [replayer.one(name).features["card_payments_1d"] for name in "abcd"] == [1, 2, 2, 2]


def test_an_imported_decision_is_skipped_and_refused_by_name(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER)
        ingest: Ingest = deployment.service().ingest
        ingest.event(payment("theirs", 0, event_time=None, taken="block"))
        deployment.log.commit()
        assert deployment.replayer().range() == Range(0, 0, None)
        with pytest.raises(ReplayError) as caught:
            deployment.replayer().one("theirs")
        assert str(caught.value) == (
            "fraud decision: an imported decision, made by another system. Expected a decision that was made here. "
            "Its outcome trains models; there is nothing to recompute."
        )


def test_what_no_decision_is_called_is_refused(made: tuple[Home, list[Decision]], deployment: Deployment) -> None:
    history = records(made[0], "event")[0].id
    for id_ in ("never", history):
        with pytest.raises(ReplayError) as caught:
            deployment.replayer().one(id_)
        assert str(caught.value) == (
            "fraud decision: an id that no decision has. Expected the id of a decision or of its request. "
            "`decalog replay SYSTEM --all` walks all of them."
        )


# What is gone is named


def test_a_model_that_is_gone_is_named(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    decision = decide_live(home, hours=3)[0]
    for folder in (home.root / "models").iterdir():
        folder.rename(tmp_path / folder.name)
    with opened(home) as (deployment, _):
        with pytest.raises(ReplayError) as caught:
            deployment.replayer().range()
        version = decision.versions.model
        assert str(caught.value) == (
            f"fraud replay: a decision made with model {version}, which is gone: model {version}: a model whose files "
            "are gone. Expected every version that a decision names. Restore it from a backup."
        )


@pytest.mark.parametrize("name", ["policy", "features"])
def test_a_table_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    home = fill_home(tmp_path, champion=False)
    with opened(home) as (deployment, clock):
        service = deployment.service()
        clock.set(START_US + LATER)
        serving = service.serving
        unknown = msgspec.structs.replace(serving.versions, **{name: "0123456789ab"})
        service.adopt(msgspec.structs.replace(serving, versions=unknown))
        service.decide(payment("a", 0, event_time=None))
        deployment.log.commit()
        expected = rf"made with {name} 0123456789ab, which is gone: the log holds no table of that version\. Expected"
        with pytest.raises(ReplayError, match=expected):
            deployment.replayer().one("a")


def test_old_decisions_replay_under_the_features_policy_and_model_they_name(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    first = len(decide_live(home, hours=3))
    add_model(tmp_path, rule(limit=9_000.0))
    with opened(home, Setup(policy=FraudCosts(reviews_per_day=1, goodwill_minor=9_999))) as (deployment, clock):
        service = deployment.service()
        clock.set(START_US + LATER + 3 * HOUR)
        for i in range(5):
            service.decide(payment(f"p{i}", 0, event_time=None, amount_minor=4_000 * (i + 1)))
        deployment.log.commit()
        versions = {decode_decision(record.body).versions for record in records(home, "decision")}
        assert len(versions) == 2
        found = deployment.replayer().range()
        assert (found.replayed, found.identical) == (first + 5, first + 5)
