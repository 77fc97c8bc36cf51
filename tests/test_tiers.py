"""Three tiers from the log as it happened: known answers, labels that have not come, checks, arms, and halves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog
from tests.slate_log import HEADS, Best, Clicks, Params, SlateLog, posts
from tests.slate_log import SYSTEM as SLATES
from tests.told_log import MATURITY, START, SYSTEM, Paid, ToldLog, only
from typer.testing import CliRunner

from decalog.cli import app
from decalog.clock import DAY, HOUR
from decalog.errors import ConfigError, DataError
from decalog.figures import Figure, Pricing
from decalog.metrics import Evaluated, Floats, Measurement
from decalog.operations import measure_log
from decalog.slate_metrics import Ranked
from decalog.system import System, find_system
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.tiers import Asked, Group, Tiers, slice_fields, tiers

PRICING = Pricing(FraudPolicy(FraudCosts()))


def measured(
    payments: Iterable[Paid], *, system: System = SYSTEM, until: float = 60, since: float = 30, by: str = ""
) -> Tiers:
    log = ToldLog(payments, until=until)
    return tiers(system, log, asked=Asked(int(since * DAY), log.now, by), pricing=PRICING)


def figure_of(told: Tiers | Group, name: str) -> Figure:
    group = told.groups[0] if isinstance(told, Tiers) else told
    return next(one for one in group.figures if one.metric == name)


# ---- what a room declares ----


def evaluated(seed: int, labels: Floats | None = None, n: int = 300) -> Evaluated:
    rng = np.random.default_rng(seed)
    actions = rng.choice(["allow", "step_up", "review", "block"], size=n)
    amounts = rng.integers(100, 9_000, size=n)
    drawn = (rng.random(n) < 0.3).astype(np.float64)
    y = drawn if labels is None else labels
    policy = FraudPolicy(FraudCosts())
    ends = [
        [policy.cost_minor(str(a), label=label, amount_minor=int(m)) for a, m in zip(actions, amounts, strict=True)]
        for label in (0.0, 1.0)
    ]
    return Evaluated(
        labels=y,
        predictions=rng.random(n),
        amounts=amounts,
        times=START + np.arange(n) * 3_600_000_000,
        actions=actions,
        costs=np.asarray((1 - y) * ends[0] + y * ends[1]),
        weights=rng.choice([1.0, 5.0], size=n),
    )


def ranked(seed: int, labels: Floats | None = None, n: int = 240) -> Ranked:
    rng = np.random.default_rng(seed)
    drawn = (rng.random((n, len(HEADS))) < 0.3).astype(np.float64)
    y = drawn if labels is None else labels
    slates = np.sort(rng.integers(n // 4, size=n))
    return Ranked(
        heads=HEADS,
        labels=y,
        predictions=rng.random((n, len(HEADS))),
        values=rng.random(n),
        worth=Best(Params()).worth(HEADS, y),
        slates=slates,
        users=slates % 7,
        positions=np.zeros(n, np.int64),
        examined=np.ones(n),
        refs=rng.integers(9, size=n),
        times=START + np.arange(n),
        things=9,
    )


def fractions() -> Iterator[tuple[str, str]]:
    for system in ("fraud", "feed"):
        yield from ((system, metric.name) for metric in find_system(system).metrics if metric.sums)


@pytest.mark.parametrize(("system", "name"), list(fractions()))
def test_what_is_declared_as_a_fraction_of_sums_is_what_is_measured(system: str, name: str) -> None:
    rows = evaluated if system == "fraud" else ranked
    metric = next(one for one in find_system(system).metrics if one.name == name)
    assert metric.sums is not None
    for seed in range(3):
        above, below = metric.sums.of(rows(seed))
        assert np.sum(above) / np.sum(below) == pytest.approx(metric.compute(rows(seed)).value)
        # Linear in the labels: what is expected of a chance lies between both ends as the chance does.
        shape = rows(seed).labels.shape
        ends = [np.stack(metric.sums.of(rows(seed, np.full(shape, label)))) for label in (0.0, 1.0)]
        middle = np.stack(metric.sums.of(rows(seed, np.full(shape, 0.25))))
        assert middle == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])
    assert metric.is_of_labels == bool(np.any(ends[0] != ends[1]))


# ---- known answers ----

OLD, YOUNG = 35.0, 50.0
"""Days: labels of the first have matured on day 60, those of the second have not."""


def test_figures_are_of_what_was_done_and_what_came_of_it() -> None:
    """Ten old payments allowed, two of them frauds; four stepped up; nothing is awaited but what step-ups hide."""
    told = measured(
        [
            *(Paid(OLD, person=n + 1, fraud_after=5 if n < 2 else None) for n in range(10)),
            *(Paid(OLD, person=20 + n, action="step_up", fraud_after=9 if n == 0 else None) for n in range(4)),
        ]
    )
    step_up = figure_of(told, "step_up_rate")
    assert step_up.value is not None
    assert step_up.value.value == pytest.approx(4 / 14)
    assert (step_up.value.n, step_up.labels) == (14, None)
    vamp = figure_of(told, "vamp_ratio")
    assert vamp.value is not None
    assert vamp.value.value == pytest.approx(2 * 2 / 10)
    assert vamp.labels is not None
    # Three step-ups hide their label, but no allowed payment does.
    assert (vamp.labels.mature, vamp.labels.known, vamp.labels.hidden, vamp.labels.n) == (10, 10, 0, 10)
    assert (vamp.between, vamp.expected) == (None, None)
    recall = figure_of(told, "value_weighted_recall")
    assert recall.labels is not None
    assert (recall.labels.mature, recall.labels.known, recall.labels.hidden, recall.labels.n) == (11, 11, 3, 14)
    assert recall.between is not None
    assert (recall.between[0].value, recall.between[1].value) == pytest.approx((1 / 3, 4 / 6))
    loss = figure_of(told, "net_loss_per_1000").between
    assert loss is not None
    cost = PRICING.policy.cost_minor
    sure = 2 * cost("allow", label=1.0, amount_minor=1_000) + cost("step_up", label=1.0, amount_minor=1_000)
    ends = [3 * cost("step_up", label=label, amount_minor=1_000) for label in (0.0, 1.0)]
    assert loss[0].value == pytest.approx(1_000 * (sure + min(ends)) / 14)
    assert loss[1].value == pytest.approx(1_000 * (sure + max(ends)) / 14)
    assert told.groups[0].decisions == 14


def test_labels_that_have_not_matured_are_never_negatives() -> None:
    """Forty young payments without a word, and one early fraud: no rate of zero, and none of one in one."""
    told = measured([*(Paid(YOUNG, person=n + 1) for n in range(40)), Paid(YOUNG, person=99, fraud_after=1)])
    for name in ("vamp_ratio", "net_loss_per_1000", "value_weighted_recall"):
        assert figure_of(told, name).value is None
        assert figure_of(told, name).lacking == "decisions old enough for silence to count"
    assert figure_of(told, "roc_auc").value is None
    vamp = figure_of(told, "vamp_ratio")
    assert vamp.labels is not None
    assert (vamp.labels.mature, vamp.labels.known) == (0, 1)
    assert vamp.between is not None
    assert (vamp.between[0].value, vamp.between[1].value) == pytest.approx((2 / 41, 2.0))
    assert vamp.expected is not None
    assert vamp.expected.value == pytest.approx(2 * (1 + 40 * 0.1) / 41)
    assert vamp.doubts == ("no earlier expectation has its labels yet, so nothing checks it",)
    assert "vamp_ratio              no value yet: it needs decisions old enough for silence to count" in told.text()
    assert "0 % of 41 labels are mature; between 0.0488 and 2" in told.text()


def test_early_frauds_among_young_payments_do_not_raise_what_has_matured() -> None:
    old = [Paid(OLD, person=n + 1, fraud_after=5 if n % 10 == 0 else None) for n in range(200)]
    young = [Paid(YOUNG, person=300 + n, fraud_after=2 if n < 50 else None) for n in range(100)]
    both, alone = measured([*old, *young]), measured(old)
    for name in ("vamp_ratio", "net_loss_per_1000", "brier"):
        assert figure_of(both, name).value == figure_of(alone, name).value


def test_what_a_block_hides_is_in_the_interval_of_the_matured_value() -> None:
    told = measured(
        [
            *(Paid(OLD, person=n + 1) for n in range(90)),
            *(Paid(OLD, person=200 + n, p=0.6, action="block") for n in range(10)),
        ]
    )
    insult = figure_of(told, "insult_rate")
    assert insult.value is not None
    assert insult.value.low == 0.0
    assert insult.value.high > 10 / 100
    assert insult.value.value == pytest.approx(4 / 94)  # by predictions
    assert insult.labels is not None
    assert (insult.labels.mature, insult.labels.hidden) == (90, 10)
    assert any("10 hidden labels, of which silence says nothing" in doubt for doubt in insult.doubts)
    block = figure_of(told, "block_rate").value
    assert block is not None
    assert block.value == pytest.approx(0.1)


def test_a_block_that_was_let_through_stands_for_others_where_the_model_is_judged() -> None:
    rows = [Paid(OLD, person=n + 1, p=0.1) for n in range(100)]
    drawn = [Paid(OLD, person=200 + n, p=0.9, fraud_after=3, propensity=0.1) for n in range(10)]
    found = figure_of(measured([*rows, *drawn], system=only("brier")), "brier").value
    assert found is not None
    assert found.value == pytest.approx(0.01)
    off = [Paid(OLD, person=200 + n, p=0.5, fraud_after=3, propensity=0.1) for n in range(10)]
    found = figure_of(measured([*rows, *off], system=only("brier")), "brier").value
    assert found is not None
    assert found.value == pytest.approx((100 * 0.01 + 100 * 0.25) / 200)


def test_decisions_of_another_system_count_as_it_took_them_and_not_where_nobody_told() -> None:
    shadow = [Paid(OLD, person=n + 1, action="block", mode="shadow", taken="allow") for n in range(8)]
    untold = [Paid(OLD, person=20 + n, mode="shadow") for n in range(3)]
    told = measured([*shadow, *untold, Paid(2, person=40, mode="shadow"), Paid(OLD, mode="imported", taken="allow")])
    assert (told.groups[0].decisions, told.untold) == (8, 3)
    block = figure_of(told, "block_rate").value
    assert block is not None
    assert block.value == 0.0
    assert "3 decisions are left out: nobody told what was done" in told.text()


def test_decisions_without_a_prediction_count_in_money_and_not_for_the_model() -> None:
    rows = [Paid(OLD, person=n + 1, p=0.2) for n in range(50)]
    without = [Paid(OLD, person=100 + n, p=None, fraud_after=4) for n in range(50)]
    told = measured([*rows, *without])
    brier, vamp = figure_of(told, "brier").value, figure_of(told, "vamp_ratio").value
    assert brier is not None
    assert vamp is not None
    assert (brier.n, vamp.n) == (50, 100)
    assert (brier.value, vamp.value) == pytest.approx((0.04, 1.0))


def test_nothing_is_expected_where_nothing_was_predicted() -> None:
    told = measured([Paid(YOUNG, person=n + 1, p=None) for n in range(40)])
    vamp = figure_of(told, "vamp_ratio")
    assert (vamp.value, vamp.expected) == (None, None)
    assert vamp.between is not None


# ---- expectations and their check ----


def shop(seed: int, *, days: int = 110, told: float = 1.0, people: int = 3_000, a_day: int = 60) -> list[Paid]:
    """Payments whose frauds are predicted at `told` times their odds, reported after some days."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(days * a_day):
        chance = float(rng.beta(1, 9))
        is_fraud, late = rng.random() < chance, 1 + min(float(rng.exponential(5)), 18)
        p = chance * told / (chance * told + 1 - chance)
        person = int(rng.integers(1, people))
        made.append(Paid(n / a_day, person=person, p=p, fraud_after=late if is_fraud else None))
    return made


def test_what_is_expected_before_labels_come_is_checked_by_what_came_of_an_earlier_time() -> None:
    told = measured(shop(1), until=110, since=15)
    assert all(figure_of(told, name).value is None for name in ("vamp_ratio", "roc_auc"))
    for name in ("vamp_ratio", "net_loss_per_1000", "average_precision", "roc_auc", "brier"):
        one = figure_of(told, name)
        assert one.expected is not None
        assert one.check is not None
        assert one.check.is_covered, name
        assert one.doubts == ()
        assert one.check.n == 15 * 60
    vamp = figure_of(told, "vamp_ratio")
    assert vamp.check is not None
    assert 0.8 < vamp.check.ratio < 1.25
    assert "is not to be trusted" not in told.text()
    assert "times, within chance" in told.text()


def test_expectations_hold_what_comes() -> None:
    """Of 40 shops nine in ten intervals at least hold what the same payments came to once all labels were in."""
    held = dict.fromkeys(("vamp_ratio", "net_loss_per_1000", "roc_auc"), 0)
    for seed in range(40):
        payments = shop(seed, days=70, a_day=30)
        then = measured(payments, system=only(*held), until=70, since=15)
        log = ToldLog(payments, until=70 + MATURITY)
        now = tiers(only(*held), log, asked=Asked((15 + MATURITY) * DAY, log.now), pricing=PRICING)
        for name in held:
            expected, came = figure_of(then, name).expected, figure_of(now, name).value
            assert expected is not None
            assert came is not None
            held[name] += expected.low <= came.value <= expected.high
    assert all(count >= 36 for count in held.values()), held


def test_an_expectation_by_predictions_that_are_off_is_not_to_be_trusted() -> None:
    told = measured(shop(2, told=2.0), until=110, since=15)
    for name in ("vamp_ratio", "net_loss_per_1000", "brier"):
        one = figure_of(told, name)
        assert one.check is not None
        assert not one.check.is_covered
        assert "an earlier expectation was off by more than chance" in one.doubts
    assert "is not to be trusted; of 900 before" in told.text()


def test_a_model_of_which_no_label_has_matured_checks_nothing() -> None:
    rows = [msgspec.structs.replace(paid, model="m2" if paid.day > 100 else "m1") for paid in shop(3)]
    vamp = figure_of(measured(rows, until=110, since=15), "vamp_ratio")
    assert len(vamp.doubts) == 1
    assert "% of it rests on models of which no label has matured" in vamp.doubts[0]
    alone = measured(rows, until=110, since=15, by="model")
    assert [group.name for group in alone.groups] == ["m2", "m1"]
    assert figure_of(alone.groups[0], "vamp_ratio").check is None
    assert figure_of(alone.groups[1], "vamp_ratio").doubts == ()


def test_delays_are_learnt_from_what_was_known_then() -> None:
    """Half of all labels come on the tenth day: silence for longer halves what is expected."""
    payments = [
        Paid(n / 20, person=n + 1, p=0.5, fraud_after=(2.0 if n % 4 == 0 else 10.0) if n % 2 == 0 else None)
        for n in range(20 * 60)
    ]
    vamp = figure_of(measured(payments, system=only("vamp_ratio"), until=60, since=8), "vamp_ratio")
    # Young ones of two days and more had half their frauds told: 1/4 known, 3/4 · p(1 − F)/(1 − pF) with F = 1/2.
    assert vamp.expected is not None
    assert vamp.expected.value / 2 == pytest.approx(0.25 + 0.75 / 3, abs=0.03)


# ---- groups ----


def test_decisions_are_grouped_by_time_model_and_public_values() -> None:
    rows = [Paid(40 + n / 4, person=n + 1, channel="pos" if n % 3 else "ecom") for n in range(80)]
    by_day = measured(rows, system=only("block_rate"), by="day")
    assert len(by_day.groups) == 20
    assert by_day.groups[0].name == "2024-11-13"
    assert [group.decisions for group in by_day.groups] == [4] * 20
    by_week = measured(rows, system=only("block_rate"), by="week")
    assert [(group.name, group.decisions) for group in by_week.groups] == [
        ("2024-11-11", 20),
        ("2024-11-18", 28),
        ("2024-11-25", 28),
        ("2024-12-02", 4),
    ]
    by_channel = measured(rows, system=only("block_rate"), by="channel")
    assert [(group.name, group.decisions) for group in by_channel.groups] == [("pos", 53), ("ecom", 27)]
    many = [Paid(40, person=n + 1, channel=f"c{n % 30:02}") for n in range(90)]
    names = [group.name for group in measured(many, system=only("block_rate"), by="channel").groups]
    assert len(names) == 21
    assert names[0] == "(rest)"
    assert slice_fields(SYSTEM.schema)[:2] == ("currency", "channel")
    assert "cardholder" not in slice_fields(SYSTEM.schema)


def test_arms_of_one_rollout_are_compared_and_nobody_outside_it() -> None:
    rng = np.random.default_rng(4)

    def arm(name: str, share: float, first: int) -> list[Paid]:
        drawn = rng.random(400) < share
        return [Paid(50, person=first + n, arm=name, action="block" if d else "allow") for n, d in enumerate(drawn)]

    rows = [*arm("r1/champion", 0.05, 1), *arm("r1/challenger", 0.4, 1_000), *arm("", 0.9, 2_000)]
    told = measured(rows, system=only("block_rate", "review_rate"), by="arm")
    assert [group.name for group in told.groups] == ["no rollout", "r1/challenger", "r1/champion"]
    assert [(one.metric, one.of, one.less) for one in told.differences] == [
        ("block_rate", "r1/champion", "r1/challenger"),
        ("review_rate", "r1/champion", "r1/challenger"),
    ]
    block, review = told.differences
    assert block.is_beyond
    assert block.value.low < -0.35 < block.value.high < 0
    assert not review.is_beyond
    assert "1 of 2 beyond chance" in told.text()


# ---- two random halves ----

HALVED = ("block_rate", "vamp_ratio", "net_loss_per_1000")


def clustered_shop(seed: int) -> list[Paid]:
    """People with many payments each, whose outcomes hang together: rows alone would be far too sure."""
    rng = np.random.default_rng(seed)
    made = []
    for person in range(1, 151):
        is_bad, is_odd, count = rng.random() < 0.15, rng.random() < 0.2, 1 + int(rng.exponential(8))
        for _ in range(count):
            late = 3.0 if is_bad and rng.random() < 0.8 else None
            action = "block" if is_odd and rng.random() < 0.7 else "allow"
            made.append(Paid(31 + float(rng.random()) * 8, person=person, action=action, fraud_after=late))
    return made


def test_two_random_halves_show_no_difference_more_often_than_chance() -> None:
    beyond, alarms = 0, dict.fromkeys(HALVED, 0)
    log = ToldLog(clustered_shop(1), until=60)
    for salt in range(100):
        asked = Asked(30 * DAY, log.now, "half", str(salt))
        told = tiers(only(*HALVED), log, asked=asked, pricing=PRICING)
        assert [one.metric for one in told.differences] == list(HALVED)
        beyond += any(one.is_beyond for one in told.differences)
        for one in told.differences:
            alarms[one.metric] += not one.value.low <= 0 <= one.value.high
    # Five of a hundred are nominal; more than twelve come with a chance of one in a thousand.
    assert beyond <= 12, beyond
    assert all(count <= 12 for count in alarms.values()), alarms
    assert alarms["block_rate"] >= 1, alarms  # intervals are not so wide that nothing could ever show
    assert alarms["vamp_ratio"] >= 1, alarms


def test_of_rankings_too_halves_show_no_difference_more_often_than_chance() -> None:
    log = ToldLog(
        [
            msgspec.structs.replace(paid, day=31 + paid.day / 15, action="allow")
            for paid in shop(5, a_day=8, people=200)
        ],
        until=60,
    )
    alarms = 0
    for salt in range(60):
        asked = Asked(30 * DAY, log.now, "half", str(salt))
        (one,) = tiers(only("roc_auc"), log, asked=asked, pricing=PRICING).differences
        alarms += not one.value.low <= 0 <= one.value.high
    assert alarms <= 9, alarms


def test_a_person_is_in_one_half_and_decisions_about_nobody_are_drawn_one_by_one() -> None:
    rows = [Paid(50, person=n % 40 + 1) for n in range(400)] + [Paid(50) for _ in range(200)]
    told = measured(rows, system=only("block_rate"), by="half")
    sizes = [group.decisions for group in told.groups]
    assert [group.name for group in told.groups] == ["first half", "second half"]
    assert sum(sizes) == 600
    assert all(200 < size < 400 for size in sizes)
    again = measured(rows, system=only("block_rate"), by="half")
    assert [group.decisions for group in again.groups] == sizes


# ---- slates ----


@pytest.fixture
def slates(tmp_path: Path) -> Iterator[SlateLog]:
    """Twelve slates of two posts; every second reader clicks the first, and every third hides the second."""
    log = SlateLog(tmp_path, model=Clicks())
    posts(log, 6)
    for number in range(12):
        decision = log.ask(10 + number, user=f"reader-{number}")
        first, second = decision.choice.slots
        if number % 2 == 0:
            log.said("click", 10.1 + number, decision.request.id, ref=first.ref)
        if number % 3 == 0:
            log.said("hide", 10.2 + number, decision.request.id, ref=second.ref)
        if number % 4 == 0:
            log.said("return", 10.3 + number, decision.request.id, value=1.0)
    yield log
    log.log.close()


def on_slates(log: SlateLog, *, hour: float, by: str = "") -> Tiers:
    log.add("post", hour, post="late", author="a0", topic="t")
    log.log.commit()
    system = msgspec.structs.replace(SLATES, metrics=find_system("feed").metrics)
    asked = Asked(200 * HOUR, log.log.known_time, by)
    return tiers(system, log.log, asked=asked, pricing=Pricing(Best(Params())))


def test_of_slates_a_row_is_a_thing_shown_with_labels_of_their_own_maturity(slates: SlateLog) -> None:
    told = on_slates(slates, hour=24)
    assert (told.groups[0].decisions, told.groups[0].rows, told.noun) == (12, 24, "shown post")
    clicks, hides = figure_of(told, "click_rate"), figure_of(told, "hides_per_1000")
    assert clicks.value is not None
    assert clicks.value.value == pytest.approx(6 / 24)
    assert clicks.labels is not None
    assert (clicks.labels.mature, clicks.expected, clicks.between) == (24, None, None)  # an hour is enough for a click
    assert hides.value is None  # and a day for a hide is not over
    assert hides.labels is not None
    assert (hides.labels.mature, hides.labels.known) == (0, 4)
    assert hides.between is not None
    assert (hides.between[0].value, hides.between[1].value) == pytest.approx((1_000 * 4 / 24, 1_000))
    returns = figure_of(told, "return_rate").value
    assert returns is not None
    assert (returns.value, returns.n) == (1.0, 3)
    later = on_slates(slates, hour=60)
    hides = figure_of(later, "hides_per_1000")
    assert hides.value is not None
    assert hides.value.value == pytest.approx(1_000 * 4 / 24)
    worth = figure_of(later, "worth_per_1000")
    assert worth.value is not None
    assert worth.value.value == pytest.approx(1_000 * 6 * Params().click_minor / 12)
    assert figure_of(later, "ndcg_10").value is not None


def test_slates_are_grouped_by_public_values_of_what_they_show_and_by_reader(slates: SlateLog) -> None:
    told = on_slates(slates, hour=60, by="half")
    assert sum(group.decisions for group in told.groups) == 12
    assert any(one.metric == "click_rate" for one in told.differences)
    assert "in_network" in slice_fields(SLATES.schema)
    assert "age_s" not in slice_fields(SLATES.schema)


# ---- a real log ----


@pytest.fixture
def fraud(tmp_path: Path) -> Iterator[FraudLog]:
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0, fallback_block_above_minor=5_000))
    for n in range(30):
        log.decide(f"p{n}", 10 + n / 10, card=f"card-{n}", amount_minor=9_000 if n % 10 == 9 else 1_000)
    log.report("cb1", "p1", 20)
    log.report("cb2", "p2", 20)
    log.withdraw("cb2-away", "cb2", 21)
    yield log
    log.log.close()


def test_corrections_deletions_and_withdrawn_outcomes_count_as_they_stand(fraud: FraudLog) -> None:
    fraud.event(22, id="p3-gone", deletes="p3")
    fraud.event(
        22, id="p4-new", kind="payment", corrects="p4", event_time="2024-10-14T10:00:00Z",
        amount_minor=3_000, currency="EUR", card="card-4", channel="pos",
    )  # fmt: skip
    fraud.report("cb4", "p4-new", 23)
    fraud.records(until_day=100)
    fraud.log.commit()
    asked = Asked(100 * DAY, fraud.log.known_time)
    told = tiers(find_system("fraud"), fraud.log, asked=asked, pricing=PRICING)
    assert told.groups[0].decisions == 29
    vamp, block = figure_of(told, "vamp_ratio").value, figure_of(told, "block_rate").value
    assert vamp is not None
    assert block is not None
    assert vamp.value == pytest.approx(2 * 2 / 26)
    assert block.value == pytest.approx(3 / 29)
    by_channel = tiers(
        find_system("fraud"),
        fraud.log,
        asked=Asked(100 * DAY, fraud.log.known_time, "channel"),
        pricing=PRICING,
    )
    assert [(group.name, group.decisions) for group in by_channel.groups] == [("ecom", 28), ("pos", 1)]


def test_the_command_prints_text_and_json(fraud: FraudLog, tmp_path: Path) -> None:
    fraud.records(until_day=100)
    fraud.log.close()
    words = ["metrics", "fraud", "--since", "100d", "--home", str(tmp_path)]
    text = CliRunner().invoke(app, words).stdout
    assert "30 decisions; labels mature after 60 days" in text
    assert "\n  product\n" in text
    assert "    block_rate              0.1 (" in text
    told = json.loads(CliRunner().invoke(app, [*words, "--by", "half", "--json"]).stdout)
    assert [group["name"] for group in told["groups"]] == ["first half", "second half"]
    assert measure_log_error(tmp_path, by="cardholder").startswith(
        "metrics of fraud, --by: 'cardholder'. Expected one of: arm, billing_country, card_country, channel, "
    )
    assert "Expected 'channel' (closest match)" in measure_log_error(tmp_path, by="chanel")


def measure_log_error(root: Path, *, by: str) -> str:
    from decalog.home import Home

    with pytest.raises(ConfigError) as caught:
        measure_log(Home(root), "fraud", since_us=DAY, by=by)
    return str(caught.value)


@pytest.mark.parametrize(
    ("since", "text"),
    [("30 days", "duration: '30 days'. Expected a whole number and a unit"), ("1d", "metrics of fraud: no decision")],
)
def test_a_time_that_is_none_or_holds_nothing_is_told(fraud: FraudLog, tmp_path: Path, since: str, text: str) -> None:
    fraud.records(until_day=100)
    fraud.log.close()
    found = CliRunner().invoke(app, ["metrics", "fraud", "--since", since, "--home", str(tmp_path)])
    assert isinstance(found.exception, ConfigError | DataError)
    assert text in str(found.exception)


def test_an_interval_is_of_the_people(tmp_path: Path) -> None:
    """A hundred payments of one person say as much as one: the interval knows."""
    many = [Paid(50, person=n % 4 + 1, action="block" if n % 4 == 0 else "allow") for n in range(400)]
    each = [Paid(50, person=n + 1, action="block" if n % 4 == 0 else "allow") for n in range(400)]
    few, all_ = (figure_of(measured(rows, system=only("block_rate")), "block_rate").value for rows in (many, each))
    assert isinstance(few, Measurement)
    assert isinstance(all_, Measurement)
    assert few.value == all_.value == pytest.approx(0.25)
    assert few.high - few.low > 5 * (all_.high - all_.low)
