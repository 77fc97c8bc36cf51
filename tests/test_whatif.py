"""What-if on logs: outcomes that belong to a payment, slots that were drawn, and no change that shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import START, FraudLog
from tests.homes import add_model, rule
from tests.slate_log import HEADS, Clicks, SlateLog, posts
from tests.slate_log import SYSTEM as SLATES

from decalog.clock import DAY
from decalog.deployment import Deployment
from decalog.errors import ConfigError
from decalog.examples import UNKNOWN, History
from decalog.home import Home
from decalog.system import System
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.slate.exploration import slot_propensities
from decalog.systems.feed.whatif import WHATIF as FEED_TELLS
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.system import SYSTEM
from decalog.systems.fraud.whatif import WHATIF, shows
from decalog.whatif import Asked, Change, Replay, Side, asked_of, changed_params, what_if
from decalog.whatif_slots import MOST_BEYOND, DrawnSlot, bounds_of, drawn_slots, slots_told
from decalog.whatif_verdict import judged

COSTS = FraudCosts(reviews_per_day=0)

# ---- outcomes that belong to the request ----


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """1,200 payments of 97 cards; those above 30.00 are thought frauds, and every third of them up to 50.00 is one."""
    root = tmp_path_factory.mktemp("whatif")
    log = FraudLog(root)
    for i in range(1_200):
        dear = i % 4 == 0
        amount = 4_000 if dear and i % 8 else 7_000 if dear else 1_000
        log.pay(f"p{i}", i / 20, card=f"card-{i % 97}", amount_minor=amount)
        if amount == 4_000 and i % 3 == 0:
            log.report(f"cb{i}", f"p{i}", i / 20 + 0.01)
    log.records(until_day=130)
    champion = add_model(root, rule(limit=3_000), parameters={"trained_at": START})
    add_model(root, rule(limit=5_000), promote=False, name="other", parameters={"trained_at": START + 5 * DAY})
    made = Deployment(Home(root), "fraud", log.log)
    made.tables.put("fraud", "policy", content=COSTS)
    assert made.registry.current("fraud") == champion
    yield made
    log.log.close()


def other(deployment: Deployment) -> str:
    (found,) = [one.id for one in deployment.registry.list("fraud") if one.manifest.name == "other"]
    return found


def test_no_change_shows_nothing(deployment: Deployment) -> None:
    found = what_if(deployment, Change())
    assert found.answer == "nothing changes"
    assert (found.change, found.system, found.currency) == ("no change", "fraud", "EUR")


def test_another_model_is_worth_what_its_actions_would_have_cost(deployment: Deployment) -> None:
    """All labels are known here, so the estimate is a plain mean, and can be counted by hand."""
    found = what_if(deployment, Change(candidate=other(deployment)[:12]))
    policy = FraudPolicy(COSTS)
    history = History(deployment.log.read(), SYSTEM.schema, features=SYSTEM.features).now
    there = history.times >= START + 5 * DAY  # after the training of either
    assert found.changes.n == int(there.sum())
    saved = []
    for label, amount in zip(history.labels[there].tolist(), history.amounts[there].tolist(), strict=True):
        # At 0.3 a fraud, a payment is stepped up or blocked; at 0.001 it is let through.
        costs = {a: policy.cost_minor(a, label=label, amount_minor=amount) for a in ("allow", "step_up", "block")}
        saved.append(costs["step_up"] - costs["allow"] if amount == 4_000 else 0)
    assert found.moves == {"step_up → allow": len(saved) - saved.count(0)}
    assert found.findings["dr"].brings.value == pytest.approx(1_000 * np.mean(saved))
    assert found.answer == "worse"
    assert "step_up is modelled: 8 % of frauds pass" in found.text()
    assert f"model {other(deployment)[:12]}" in found.change


def test_money_can_be_counted_by_the_changed_parameters(deployment: Deployment) -> None:
    params = changed_params(deployment.policy_params(), ["step_up_fee_minor=2000"])
    ours = what_if(deployment, Change(params=params))
    theirs = what_if(deployment, Change(params=params, in_its_money=True))
    assert ours.moves == theirs.moves != {}
    assert "step_up_fee_minor = 2000" in ours.change
    assert ours.findings["dr"].brings.value < theirs.findings["dr"].brings.value


def test_only_the_newest_are_looked_at_if_asked_for(deployment: Deployment) -> None:
    assert what_if(deployment, Change(last=100)).changes.n == 100


def test_a_home_without_champion_and_a_system_that_tells_nothing_are_refused(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    with pytest.raises(ConfigError, match="no champion, so nothing that a change could be compared with"):
        what_if(Deployment(Home(tmp_path), "fraud", log.log), Change())
    mute = msgspec.structs.replace(SYSTEM, whatif="")
    with pytest.raises(ConfigError, match="does not say what its log tells of other choices"):
        what_if(Deployment(Home(tmp_path), mute, log.log), Change())
    log.log.close()


def test_parameters_are_set_one_by_one() -> None:
    made = changed_params(COSTS, ["goodwill_minor=900", "rules = \"Block if :card_country: = 'XX'\"", "explore_bp = 0"])
    assert isinstance(made, FraudCosts)
    assert (made.goodwill_minor, made.explore_bp, made.reviews_per_day) == (900, 0, 0)
    assert made.rules == "Block if :card_country: = 'XX'"
    assert changed_params(FeedWeights(), ["rerank=mmr"]) == FeedWeights(rerank="mmr")
    with pytest.raises(ConfigError, match="name=value with 'goodwill_minor'"):
        changed_params(COSTS, ["goodwil_minor=900"])
    with pytest.raises(ConfigError, match="goodwill_minor"):
        changed_params(COSTS, ["goodwill_minor=much"])


def replays(rows: list[tuple[str, float, float]], *, amount: int = 2_000) -> tuple[Replay, Replay]:
    """Returns two replays, all blocked and all let through, of payments that met (action, propensity, label)."""
    acted, propensities, labels = zip(*rows, strict=True)
    n = len(rows)
    examples: Any = msgspec.structs.replace(
        History([], SYSTEM.schema, features=SYSTEM.features).now,
        ids=("",) * n,
        times=np.arange(n),
        labels=np.array(labels, np.float64),
        bounds=np.zeros(len(labels), np.bool_),
        acted=acted,
        propensities=np.array(propensities),
        amounts=np.full(n, amount),
    )
    p = np.full(n, 0.5)
    return Replay(examples, np.array(["block"] * n), p), Replay(examples, np.array(["allow"] * n), p)


def test_what_was_blocked_leans_on_what_was_drawn() -> None:
    blocks, draws = [("block", 0.8, UNKNOWN)] * 400, [("allow", 0.2, 0)] * 90 + [("allow", 0.2, 1)] * 10
    now, then = replays([*blocks, *draws])
    told = WHATIF.told(now, then, people=np.arange(500), unit="payment", money=FraudPolicy(COSTS))
    assert told.rows.propensities[400:].tolist() == [0.2] * 100
    assert told.rows.unsupported.sum() == 0
    assert told.doubts == ()
    assert (told.drawn.units, told.drawn.observed) == (500, 100)
    saved = 0.9 * (160 + 500) - 0.1 * (2_000 + 1_500)  # a good one's margin and goodwill; a fraud and its fee
    assert judged(told).findings["snips"].brings.value == pytest.approx(1_000 * saved)


def test_what_a_block_hid_with_certainty_is_not_guessed() -> None:
    now, then = replays([("block", 1.0, UNKNOWN)] * 500)
    found = judged(WHATIF.told(now, then, people=np.arange(500), unit="payment", money=FraudPolicy(COSTS)))
    assert found.answer == "no verdict"
    untold = replays([("untold", 1.0, 1)] * 500)
    found = judged(WHATIF.told(*untold, people=np.arange(500), unit="payment", money=FraudPolicy(COSTS)))
    assert found.answer == "no verdict"


def test_a_fraud_that_passed_a_step_up_stands_for_those_that_did_not() -> None:
    assert shows(COSTS)["step_up"] == (0.92, 0.08)
    rows = [("step_up", 1.0, 0)] * 460 + [("step_up", 1.0, 1)] * 8 + [("step_up", 1.0, UNKNOWN)] * 132
    told = WHATIF.told(*replays(rows), people=np.arange(600), unit="payment", money=FraudPolicy(COSTS))
    assert told.rows.propensities[[0, 460]].tolist() == pytest.approx([0.92, 0.08])
    assert told.rows.unsupported.sum() == 0
    weights = told.rows.targets / told.rows.propensities
    assert weights.sum() == pytest.approx(600)
    assert weights[460:468].sum() == pytest.approx(100)


def test_rare_frauds_of_which_few_would_show_are_a_doubt() -> None:
    now, then = replays([("allow", 1.0, 0)] * 600)
    rare = [replay._replace(predictions=np.full(600, 0.002)) for replay in (now, then)]
    told = WHATIF.told(rare[0], rare[1], people=np.arange(600), unit="payment", money=FraudPolicy(COSTS))
    assert told.doubts == (
        "by predictions the log shows as much as 1.2 positives of equal weight among them, fewer than 30",
    )


# ---- slots that were drawn ----

PARAMS = FeedWeights(
    hide_per_1000_minor=0,
    report_per_1000_minor=0,
    explore_bp=5_000,
    explore_slots=(1, 2),
    pool_best=3,
    pool_fresh=0,
    half_gain_age_s=0,
    author_cap=9,
    topic_cap_bp=10_000,
)


@pytest.fixture
def slates(tmp_path: Path) -> Iterator[tuple[SlateLog, System]]:
    """40 slates of six posts, decided by feed's own policy with drawn slots; every second reader clicks the second."""
    log = SlateLog(tmp_path, model=Clicks())
    system = msgspec.structs.replace(SLATES, policy=FeedPolicy, policy_params=FeedWeights)
    log.service.adopt(msgspec.structs.replace(log.serving, policy=FeedPolicy(PARAMS)))
    posts(log, 6, authors=6)
    for number in range(40):
        decision = log.ask(10 + number, user=f"reader-{number % 8}", size=4)
        if number % 2:
            log.said("click", 10.1 + number, decision.request.id, ref=decision.choice.slots[1].ref)
    log.add("post", 400, post="late", author="a0", topic="t")  # all has matured by then
    log.log.commit()
    yield log, system
    log.log.close()


def asked(log: SlateLog, system: System, params: FeedWeights, *, version: str = "m1") -> Asked:
    sides = [
        Side(system, Clicks(), "+".join(HEADS), name, 0, FeedPolicy(of))
        for name, of in (("m1", PARAMS), (version, params))
    ]
    deployment = Deployment(log.home, system, log.log)
    return Asked(deployment, sides[0], sides[1], sides[0].policy, Change(last=1_000))


def test_the_same_policy_chooses_as_was_chosen_in_every_slot(slates: tuple[SlateLog, System]) -> None:
    log, system = slates
    found = list(drawn_slots(asked(log, system, PARAMS), slot_propensities))
    assert len(found) == 80
    assert {one.position for one in found} == {1, 2}
    assert all(one.choice == one.refs[0] for one in found)
    assert any(one.ref != one.refs[0] for one in found)  # some were drawn
    assert sum(one.worth for one in found) == pytest.approx(20 * 0.05)
    assert judged(FEED_TELLS.evidence(asked(log, system, PARAMS))).answer == "nothing changes"


def test_the_same_model_under_another_name_predicts_and_chooses_the_same(slates: tuple[SlateLog, System]) -> None:
    """Features are folded, candidates described and predicted anew: to the same choices."""
    log, system = slates
    found = list(drawn_slots(asked(log, system, PARAMS, version="m2"), slot_propensities))
    assert len(found) == 80
    assert all(one.choice == one.refs[0] for one in found)


def test_another_policy_chooses_given_the_slots_above(slates: tuple[SlateLog, System]) -> None:
    log, system = slates
    hated = msgspec.structs.replace(PARAMS, click_per_1000_minor=-50)  # what is likely clicked is now worth least
    found = list(drawn_slots(asked(log, system, hated), slot_propensities))
    assert all(one.choice and one.choice != one.refs[0] for one in found)
    told = slots_told(found, bounds=BOUNDS)
    assert told.changed.all() or len(told.changed) < len(found)
    assert told.doubts == () or "what the slot was not drawn from" in told.doubts[0]


BOUNDS = (-5.0, 5.0)


def test_a_thing_is_worth_no_less_and_no_more_than_all_that_can_be_done_with_it() -> None:
    assert bounds_of(FeedPolicy(FeedWeights()), HEADS) == pytest.approx((-120.0, 7.55))


def slot(number: int, *, ref: str, choice: str, worth: float = 0.0) -> DrawnSlot:
    return DrawnSlot(
        request=f"r{number}",
        decided=number,
        person=number,
        position=1,
        ref=ref,
        refs=("a", "b"),
        propensities=(0.75, 0.25),
        choice=choice,
        worth=worth,
        foreseen={"a": 1.0, "b": 2.0},
    )


def test_only_the_greedy_choice_of_a_draw_is_another() -> None:
    told = slots_told(
        [slot(0, ref="a", choice="b", worth=1.0), slot(1, ref="b", choice="b"), slot(2, ref="a", choice="a")],
        bounds=BOUNDS,
    )
    assert told.changed.tolist() == [True, True, False]
    assert told.rows.propensities.tolist() == [0.75, 0.25]
    assert told.rows.targets.tolist() == [0.25, 0.75]
    assert told.rows.modelled.tolist() == [1.0, 2.0]
    assert told.rows.expected.tolist() == [1.75, 1.75]
    assert told.foreseen.tolist() == [0.5, 0.5]
    assert (told.drawn.units, told.drawn.observed, told.drawn.choices) == (2, 1, 2)


def test_a_change_is_worth_what_the_draws_of_its_choice_brought() -> None:
    """A draw shows `b` to one in four; `b` brings 2, `a` 1."""
    slots = [
        slot(n, ref="a" if n % 4 else "b", choice="b", worth=(1.0 if n % 4 else 2.0) + n // 4 % 2 - 0.5)
        for n in range(800)
    ]
    found = judged(slots_told(slots, bounds=BOUNDS))
    assert found.findings["snips"].brings.value == pytest.approx(1_000 * 0.5)
    assert found.answer == "better"
    assert found.notes[0].startswith("another choice in those slots")
    assert "no whole slate" in found.notes[0]


def test_slots_whose_choice_was_not_in_the_draw_are_left_out_and_many_are_a_doubt() -> None:
    there = [slot(n, ref="a", choice="b") for n in range(8)]
    beyond = [slot(n, ref="a", choice="c") for n in range(8, 10)]
    told = slots_told([*there, *beyond, slot(10, ref="a", choice="")], bounds=BOUNDS)
    assert len(told.changed) == 8
    assert told.doubts == ()
    assert "2 slots are left out: the change would show what the slot was not drawn from" in told.notes
    assert "1 slots are left out: the change would not have the slots above as they were" in told.notes
    assert MOST_BEYOND == 0.2
    more = slots_told([*there, *beyond, slot(11, ref="a", choice="d")], bounds=BOUNDS)
    assert more.doubts == ("in 3 of 11 slots that change, it would show what the slot was not drawn from",)


class Lower(Clicks):
    """Knows that what stands further down is clicked half as often."""

    def as_shown(self, predictions: Any, positions: Any) -> Any:
        return predictions / np.where(positions > 0, 2.0, 1.0)[:, None]


def test_what_has_matured_is_predicted_where_it_stood(slates: tuple[SlateLog, System]) -> None:
    log, system = slates
    plain = asked(log, system, PARAMS)
    then = plain.then._replace(model=Lower(), version="m2")
    found, _ = FEED_TELLS.unlearnt(plain._replace(then=then))
    assert found.now.shape == found.then.shape == (160, len(HEADS))
    assert sorted({round(one, 6) for one in (found.then / found.now)[:, 0].tolist()}) == [0.5, 1.0]
    assert np.mean(found.then[:, 0] == found.now[:, 0]) == 0.25  # the first of four


def test_a_step_up_tells_by_whether_it_was_passed(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    for i, taken in enumerate(("allow", "step_up", "review", "step_up") * 10):
        log.decide(f"p{i}", 10 + i / 50, taken=taken, card=f"card-{i}")
        if taken == "step_up":
            passed = int(i % 4 == 1)
            log.report(f"a{i}", f"p{i}", 10 + i / 50 + 0.01, kind="authentication", source="acs", value=passed)
        if taken == "review":
            log.report(f"a{i}", f"p{i}", 10 + i / 50 + 0.01, kind="analyst_verdict", source="analyst", value=0)
    log.records(until_day=130)
    add_model(tmp_path, rule(limit=3_000), parameters={"trained_at": START})
    made = Deployment(Home(tmp_path), "fraud", log.log)
    found, evidence = WHATIF.unlearnt(asked_of(made, Change()))
    failed = (1 - 0.08) / (1 - 0.92)
    assert found.heard.odds[:, 0].tolist() == pytest.approx([0.0, 0.0, 0.1 / 0.97, failed] * 10)
    assert evidence.labels == (30, 40)
    log.log.close()


class Sure:
    """Predicts one thing of everything."""

    blocking = False

    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), 0.5)


def test_a_change_of_the_policy_alone_is_judged_on_predictions_as_they_were_made(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    log.service.adopt(msgspec.structs.replace(log.service.serving, model=Sure()))
    for i in range(40):
        log.decide(f"p{i}", 10 + i / 50, card=f"card-{i}")
    log.records(until_day=130)
    late = START + 100 * DAY
    here = add_model(tmp_path, rule(limit=3_000), parameters={"trained_at": late})
    other = add_model(tmp_path, rule(limit=2_000), parameters={"trained_at": late}, promote=False)
    made = Deployment(Home(tmp_path), "fraud", log.log)
    alone, _ = WHATIF.unlearnt(asked_of(made, Change(params=FraudCosts(margin_bp=100))))
    assert alone.now[:, 0].tolist() == alone.then[:, 0].tolist() == [0.5] * 40
    assert here != other
    both, _ = WHATIF.unlearnt(asked_of(made, Change(candidate=other)))
    assert len(both.now) == 0  # both learnt from all of it
    log.log.close()
