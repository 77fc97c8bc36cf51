"""The laws catch what can go wrong where slots hold things: feed with one part broken breaks the law that judges it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from decalog.decisions import Slot
from decalog.errors import UnknownRecordError
from decalog.models.base import Floats, ModelSpec, SlateSet
from decalog.outcomes import LabelBook, Outcome
from decalog.policy import Case, Verdict
from decalog.retrieval import Hurried, Retrieved
from decalog.stores import sqlite
from decalog.system import System, find_system
from decalog.systems.feed.policy import FeedPolicy
from decalog.systems.feed.retrieval import FeedRetrieval
from decalog.systems.feed.simulate import World
from decalog.testing import traffic
from decalog.testing.laws import crashes, doors, fallbacks, labels, parity, privacy, propensities, replayed, skill
from decalog.testing.stage import FAR_MS, Stage, Trial

FEED = find_system("feed")
TURN = itertools.count()


def trial(system: System, folder: Path, requests: int = 48) -> Trial:
    return Trial(system=system, folder=folder, requests=requests)


def with_policy(policy: type[FeedPolicy]) -> System:
    return msgspec.structs.replace(FEED, policy=policy)


def with_retrieval(name: str) -> System:
    return msgspec.structs.replace(FEED, retrieval=f"{__name__}:{name}")


def with_schema(**changes: Any) -> System:
    return msgspec.structs.replace(FEED, schema=msgspec.structs.replace(FEED.schema, **changes))


def changed(verdict: Verdict, *slots: Slot) -> Verdict:
    return msgspec.structs.replace(verdict, choice=msgspec.structs.replace(verdict.choice, slots=slots))


# The stage


def test_a_stage_waits_for_every_retriever_and_counts_no_milliseconds(tmp_path: Path) -> None:
    stage = Stage(trial(FEED, tmp_path), "stage")
    retrieval: object = stage.service.retrieval
    assert isinstance(retrieval, Hurried)
    assert retrieval.deadline_ms == FAR_MS == stage.system.deadline_ms
    assert FeedRetrieval().deadline_ms < FEED.deadline_ms
    stage.close()


def test_imports_hold_what_another_system_showed(tmp_path: Path) -> None:
    steps = [*traffic.history(trial(FEED, tmp_path)), *traffic.live(trial(FEED, tmp_path))]
    imported = [step for step in steps if "taken" in step.body]
    assert imported
    assert all(tuple(step.body["slots"]) == step.theirs != () for step in imported)
    reports = traffic.reports(trial(FEED, tmp_path), imported)
    shown = {step.body["id"]: step.theirs for step in imported}
    assert all(step.body["ref"] in shown[step.body["feed_request"]] for step in reports if "deletes" not in step.body)


# 1 doors


class Half(FeedRetrieval):
    describe = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "describe":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Worthless:
    """A policy that cannot say what things are worth."""

    def __init__(self, params: Any) -> None:
        self.params = params

    decide = fall_back = cost_minor = None


SIGNAL = FEED.schema.signals[0]
FACT = FEED.schema.candidate[0]


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (msgspec.structs.replace(FEED, retrieval=""), "retrieval '' names nothing"),
        (with_retrieval("Half"), "the retrieval has no describe"),
        (msgspec.structs.replace(FEED, policy=Worthless), "the policy has no worth"),
        (with_schema(slate_of="user"), "slates are of user, which is no public entity"),
        (with_schema(signals=()), "signals none: there must be some, and no head twice"),
        (with_schema(signals=(SIGNAL, SIGNAL)), "signals p_click, p_click: there must be some"),
        (with_schema(signals=(msgspec.structs.replace(SIGNAL, maturity="0s"),)), "p_click matures at once"),
        (with_schema(signals=(SIGNAL,)), "models predict p_click+p_dwell"),
        (with_schema(signals=(msgspec.structs.replace(SIGNAL, kind="nod"),)), "slates: RequestError: feed outcome"),
        (
            with_schema(candidate=(msgspec.structs.replace(FACT, privacy="personal"),)),
            "author of candidates is not public",
        ),
    ],
)
def test_a_door_of_slates_that_is_wrong_is_named(system: System, said: str, tmp_path: Path) -> None:
    found = doors.check(trial(system, tmp_path))
    assert not found.holds
    assert said in "\n".join(found.breaches)


# 3 replay, 4 propensities


class Mindful(FeedPolicy):
    """Turns the slate round for who asks again."""

    asked: ClassVar[set[str]] = set()

    def fall_back(self, case: Case, reason: str) -> Verdict:
        verdict = super().fall_back(case, reason)
        slots = verdict.choice.slots[:: -1 if case.request.id in self.asked else 1]
        self.asked.add(case.request.id)
        return changed(verdict, *slots)


def test_an_order_that_is_not_a_function_of_the_case_does_not_replay(tmp_path: Path) -> None:
    found = replayed.check(trial(with_policy(Mindful), tmp_path))
    assert not found.holds
    assert "choice: logged" in found.text()


class Coy(FeedPolicy):
    """Says of a slot that is drawn half of how likely it was."""

    def decide(self, case: Case) -> Verdict:
        verdict = super().decide(case)
        return changed(
            verdict,
            *(
                msgspec.structs.replace(slot, propensity=(slot.propensity or 0.0) / 2) if slot.attributes else slot
                for slot in verdict.choice.slots
            ),
        )


def slates(count: int, drawn: Mapping[int, float], *, said: float) -> list[tuple[Slot, ...]]:
    """Returns slates whose second slot holds `b` with some probability at one first slot or another."""
    rng = np.random.default_rng(1)
    made: list[tuple[Slot, ...]] = []
    for _ in range(count):
        first = int(rng.random() < 0.2)
        other = rng.random() < drawn[first]
        made.append((Slot(f"a{first}", 0, (0.8, 0.2)[first]), Slot("bc"[int(other)], 1, (1 - said, said)[int(other)])))
    return made


def test_a_slot_is_judged_given_the_slots_above_it() -> None:
    honest = slates(2_000, {0: 0.3, 1: 0.3}, said=0.3)
    assert list(propensities._misfits(honest)) == []
    off = slates(2_000, {0: 0.5, 1: 0.3}, said=0.3)
    assert any(line.startswith("c in ") and line.endswith("is 0.3") for line in propensities._misfits(off))
    uneven = [slots[: 1 + number % 2] for number, slots in enumerate(honest)]
    assert any("with propensities ['None']" in line for line in propensities._misfits(uneven))


def test_too_few_slates_with_the_same_slots_above_say_nothing() -> None:
    assert list(propensities._misfits(slates(40, {0: 1.0, 1: 1.0}, said=0.3))) == []


# 5 labels


OUTCOMES = LabelBook.outcomes


def _as_they_came(book: LabelBook, target: str, known_by: int | None = None) -> Iterator[tuple[int, Outcome]]:
    for known, outcome in OUTCOMES(book, target, known_by):
        yield known, msgspec.structs.replace(outcome, event_time=known, id="")


def test_labels_of_things_that_go_by_when_outcomes_came_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LabelBook, "outcomes", _as_they_came)
    found = labels.check(trial(FEED, tmp_path, requests=120))
    assert "end in another training set: labels differ, first at req_" in "\n".join(found.breaches)


# 6 fallbacks


def test_a_town_that_tells_of_its_readers_before_anybody_posts_has_something_to_choose_from(tmp_path: Path) -> None:
    large = msgspec.structs.replace(trial(FEED, tmp_path), requests=40, scale=0.4)
    past, live = traffic.history(large), traffic.live(large)
    assert sum(step.body.get("taken") == "show" for step in past) == 20
    assert "post" in {step.body.get("kind") for step in past}
    assert len(live) < len(past)
    assert fallbacks.check(large).holds


class Shameless(FeedPolicy):
    """Shows what was ruled out."""

    def fall_back(self, case: Case, reason: str) -> Verdict:
        verdict = super().fall_back(case, reason)
        return changed(verdict, *(Slot(one.ref, place) for place, one in enumerate(case.candidates) if one.dropped))


class Fragile(FeedPolicy):
    """Falls where nothing was found."""

    def fall_back(self, case: Case, reason: str) -> Verdict:
        assert case.candidates
        return super().fall_back(case, reason)


@pytest.mark.parametrize(
    ("policy", "said"),
    [(Shameless, "was chosen and could not be"), (Fragile, "finds nothing: AssertionError reached the caller")],
)
def test_a_slate_policy_without_a_sound_fallback_is_caught(policy: type[FeedPolicy], said: str, tmp_path: Path) -> None:
    found = fallbacks.check(trial(with_policy(policy), tmp_path))
    assert not found.holds
    assert said in "\n".join(found.breaches)


# 7 privacy, 12 crashes


class Talkative(FeedRetrieval):
    """Describes every post by something that nobody declared."""

    def _gathered(self, *asked: Any) -> Retrieved:
        found = super()._gathered(*asked)
        told = [msgspec.structs.replace(one, attributes={**one.attributes, "mood": 1}) for one in found.candidates]
        return msgspec.structs.replace(found, candidates=tuple(told))


def test_a_fact_of_candidates_that_no_schema_declares_is_caught(tmp_path: Path) -> None:
    found = privacy.check(trial(with_retrieval("Talkative"), tmp_path))
    assert found.breaches == ("mood stands among the facts of candidates, which the schema does not declare",)


def test_a_caller_who_was_told_another_slate_was_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "_KILLS", 0)
    monkeypatch.setattr(crashes, "_IMAGES", 6)
    honest = crashes._answered
    monkeypatch.setattr(crashes, "_answered", lambda decision: f"{honest(decision)} {next(TURN)}")
    found = crashes.check(trial(FEED, tmp_path))
    assert "was told otherwise than it stands in the log" in "\n".join(found.breaches)


def test_what_a_crash_tears_off_was_not_moved_out_of_the_log_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(crashes, "_KILLS", 0)
    monkeypatch.setattr(crashes, "_IMAGES", 1)
    assert crashes.check(trial(FEED, tmp_path)).noticed == ("acknowledged before it was durable",)


# 9 skill


def test_the_world_knows_what_readers_would_do_with_each_post_it_showed() -> None:
    world = World(1, scale=0.05)
    asked = [m for m in world.advance(world.start_us + 86_400_000_000, alone=True) if m.kind == "decide" and m.theirs]
    truth = world.truth(asked[0].body["id"])
    for ref in asked[0].theirs["slots"]:
        click, dwell = (float(truth[f"{head} {ref}"]) for head in ("p_click", "p_dwell"))
        assert 0 < dwell < click < 1
    with pytest.raises(UnknownRecordError, match="feed world"):
        world.truth("nothing of the kind")


class Upside:
    """Knows nothing and says so."""

    def __init__(self, heads: int) -> None:
        self._heads = heads

    def predict(self, rows: Floats) -> Floats:
        return np.full((len(rows), self._heads), 0.5)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {"folder": folder.name}


def test_a_champion_that_orders_nothing_beats_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(data: SlateSet, seed: int) -> Upside:
        return Upside(len(data.heads) + 0 * seed)

    logistic = next(spec for spec in FEED.models if spec.name == "logistic")
    blind = ModelSpec(name="blind", meaning="nothing", fit=fit, format="", head=FEED.models[-1].head)
    monkeypatch.setattr(skill, "_ASKED", skill.Asked(requests=120_000, slates=800, quantities=12_000))
    found = skill.check(trial(msgspec.structs.replace(FEED, models=(logistic, blind)), tmp_path))
    assert found.checked > 0
    assert any(line.startswith("blind takes -") and "logistic leaves" in line for line in found.breaches)


def test_parity_is_tried_on_every_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_EVERY_VALUE", 10)
    assert " candidates logged features, " in parity.check(trial(FEED, tmp_path)).text()


def test_a_drawn_slot_that_is_said_to_be_unlikelier_than_it_is_is_caught(tmp_path: Path) -> None:
    found = propensities.check(trial(with_policy(Coy), tmp_path))
    assert not found.holds
    assert any(" draws, its propensity is 0." in line for line in found.breaches)
