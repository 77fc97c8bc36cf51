"""The fraud world: the same seed is the same world, its truth is calibrated, its schemes look as they should."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score

from decalog.errors import ConfigError, ConflictError, RequestError, UnknownRecordError
from decalog.money import convert
from decalog.systems.fraud import world_params
from decalog.systems.fraud.simulate import START_US, World, delay_days, trivial_score
from decalog.systems.fraud.world_params import SWITCHES, WorldParams
from decalog.systems.fraud.world_payments import DAY_US, SCHEMES
from decalog.testing import worlds
from decalog.testing.worlds import Message

DAYS = 40
SMALL = WorldParams(customers=300, merchants=80, payments_day=200.0)


class Seen(NamedTuple):
    """A world run for `DAYS` with nothing decided, its requests and their truth."""

    world: World
    messages: list[Message]
    requests: list[Message]
    truth: list[dict[str, Any]]
    fraud: npt.NDArray[np.float64]
    oracle: npt.NDArray[np.float64]


def watch(world: World, days: int) -> Seen:
    messages = world.advance(world.start_us + days * DAY_US - 1)
    requests = [m for m in messages if m.kind == "decide"]
    truth = [dict(world.truth(m.body["id"])) for m in requests]
    fraud = np.array([t["is_fraud"] for t in truth])
    return Seen(world, messages, requests, truth, fraud, np.array([t["p_fraud"] for t in truth]))


@pytest.fixture(scope="module")
def seen() -> Seen:
    return watch(World(1), DAYS)


def digest(messages: list[Message]) -> str:
    return hashlib.sha256(msgspec.json.encode(messages)).hexdigest()


def outcomes_of(messages: list[Message], request_id: str) -> list[dict[str, Any]]:
    return [m.body for m in messages if m.kind == "outcome" and m.body["payment"] == request_id]


def at_us(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


# The same world again


def test_same_seed_gives_the_same_bytes_whatever_the_steps() -> None:
    whole = World(3, SMALL).advance(START_US + 20 * DAY_US)
    world, pieces = World(3, SMALL), list[Message]()
    for hour in range(7, 20 * 24 + 7, 7):
        pieces += world.advance(START_US + min(hour * DAY_US // 24, 20 * DAY_US))
    assert digest(whole) == digest(pieces)
    assert digest(whole) != digest(World(4, SMALL).advance(START_US + 20 * DAY_US))


def test_messages_are_ordered_and_ids_never_repeat(seen: Seen) -> None:
    times = [m.at for m in seen.messages]
    assert times == sorted(times)
    ids = Counter(m.body["id"] for m in seen.messages)
    assert ids.most_common(1)[0][1] == 1


def test_it_is_a_world_of_the_spine() -> None:
    world: worlds.World = World(1, SMALL)
    assert world.params_hash == SMALL.digest()


def test_the_hash_follows_every_setting() -> None:
    assert World(1, SMALL).params_hash == World(2, SMALL).params_hash
    changed = msgspec.structs.replace(SMALL, review_minutes=26.0)
    assert changed.digest() != SMALL.digest()


# Truth


def test_fraud_rate_lies_in_the_stated_band(seen: Seen) -> None:
    assert 0.003 < seen.fraud.mean() < 0.008


def test_the_oracle_is_calibrated(seen: Seen) -> None:
    for low, high in ((0.0, 0.01), (0.01, 0.3), (0.3, 0.9), (0.9, 1.0)):
        inside = (seen.oracle > low) & (seen.oracle <= high)
        p, n = seen.oracle[inside].mean(), inside.sum()
        assert abs(seen.fraud[inside].mean() - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_the_oracle_is_far_above_the_trivial_rule_and_below_certainty(seen: Seen) -> None:
    trivial = average_precision_score(seen.fraud, [trivial_score(m.body) for m in seen.requests])
    oracle = average_precision_score(seen.fraud, seen.oracle)
    assert trivial > 2 * seen.fraud.mean()
    assert trivial + 0.4 < oracle < 0.95


def test_every_scheme_has_frauds_and_honest_look_alikes(seen: Seen) -> None:
    kinds = Counter((t["context"], t["is_fraud"]) for t in seen.truth)
    for scheme in SCHEMES:
        assert kinds[scheme, 1.0] >= 10, scheme
        assert kinds[scheme, 0.0] >= 10, scheme


def test_loss_is_the_amount_of_what_would_be_lost(seen: Seen) -> None:
    for message, truth in zip(seen.requests, seen.truth, strict=True):
        lost = truth["scheme"] != "none"
        assert truth["loss_minor"] == (message.body["amount_minor"] if lost else 0)


# What the schemes look like


def frauds_of(seen: Seen, scheme: str) -> list[Message]:
    return [m for m, t in zip(seen.requests, seen.truth, strict=True) if t["scheme"] == scheme]


def test_card_testing_sends_many_cards_and_small_amounts_from_one_address_within_a_minute(seen: Seen) -> None:
    by_ip = defaultdict(list)
    for message in frauds_of(seen, "card_testing"):
        by_ip[message.body["ip"]].append(message)
    burst = max(by_ip.values(), key=len)
    within = [m for m in burst if m.at < burst[0].at + 60_000_000]
    assert len(within) >= 10
    assert len({m.body["card"] for m in within}) >= 10
    assert len({m.body["device"] for m in within if "device" in m.body}) <= len(within) // 2
    assert np.median([trivial_score(m.body) for m in burst]) < 25


def test_takeover_uses_a_device_that_is_new_to_the_customer(seen: Seen) -> None:
    first_us: dict[tuple[str, str | None], int] = {}
    for message in seen.requests:
        first_us.setdefault((message.body["customer"], message.body.get("device")), message.at)
    frauds = [m for m in frauds_of(seen, "takeover") if "device" in m.body]
    new = [m.at - first_us[m.body["customer"], m.body["device"]] < DAY_US for m in frauds]
    assert np.mean(new) > 0.75
    abroad = [m.body["ip_country"] != m.body["card_country"] for m in frauds_of(seen, "takeover")]
    assert np.mean(abroad) > 0.5


def test_rings_share_one_device_among_many_accounts(seen: Seen) -> None:
    members = defaultdict(set)
    for message in frauds_of(seen, "ring"):
        members[message.body.get("device")].add(message.body["customer"])
    members.pop(None, None)
    assert max(len(customers) for customers in members.values()) >= 5


def test_slow_and_low_stays_below_fifty_euro_on_one_card_for_weeks(seen: Seen) -> None:
    series = defaultdict(list)
    for message in frauds_of(seen, "slow_low"):
        series[message.body["card"]].append(message)
        assert message.body["currency"] != "EUR" or message.body["amount_minor"] < 5_000
    longest = max(series.values(), key=len)
    assert len(longest) >= 5
    assert longest[-1].at - longest[0].at > 7 * DAY_US


def test_weekends_differ_and_paydays_raise_the_count(seen: Seen) -> None:
    days = Counter(m.body["event_time"][:10] for m in seen.requests)
    assert days["2026-01-17"] > 1.15 * days["2026-01-18"]  # a Saturday and its Sunday
    assert days["2026-01-30"] > 1.05 * days["2026-01-16"]  # two Fridays, one after payday


# Outcomes


def test_chargebacks_come_five_to_sixty_days_late() -> None:
    world = World(5, SMALL)
    messages = world.advance(START_US + 120 * DAY_US)
    sent = {m.body["id"]: m for m in messages if m.kind == "decide"}
    reports = [m for m in messages if m.body.get("kind") == "chargeback"]
    delays = np.array([m.at - sent[m.body["payment"]].at for m in reports]) / DAY_US
    assert len(delays) > 100
    assert delays.min() >= 5
    assert delays.max() <= 60
    assert 14 < delays.mean() < 21
    for report in reports:
        payment = sent[report.body["payment"]].body
        assert (report.body["source"], report.body["value"]) == ("issuer", 1)
        assert (report.body["amount_minor"], report.body["currency"]) == (payment["amount_minor"], payment["currency"])
        assert 0 <= report.at - at_us(report.body["event_time"]) <= DAY_US // 4


def test_the_delay_distribution_reaches_both_ends() -> None:
    draws = np.array([1e-12, 0.25, 0.5, 0.9, 1 - 1e-12])
    # The independent answer: an exponential of mean 14 beyond 5 days, given that it ends by 60.
    days = scipy.stats.truncexpon(b=55 / 14, loc=5, scale=14).ppf(draws)
    assert delay_days(WorldParams(), draws) == pytest.approx(days, abs=1e-6)


def test_warnings_come_days_before_their_chargeback(seen: Seen) -> None:
    first = {m.body["payment"]: m.at for m in seen.messages if m.body.get("kind") == "fraud_warning"}
    charged = {m.body["payment"]: m.at for m in seen.messages if m.body.get("kind") == "chargeback"}
    both = first.keys() & charged.keys()
    assert len(both) > 20
    assert all(charged[payment] - first[payment] >= 3 * DAY_US for payment in both)
    assert all(seen.world.truth(payment)["is_fraud"] == 1 for payment in first)


def test_some_frauds_are_never_reported_and_some_honest_payments_are(seen: Seen) -> None:
    old = START_US + (DAYS - 31) * DAY_US
    charged = {m.body["payment"] for m in seen.messages if m.body.get("kind") == "chargeback"}
    frauds = [m.body["id"] for m, y in zip(seen.requests, seen.fraud, strict=True) if y and m.at < old]
    assert 0.6 < np.mean([i in charged for i in frauds]) < 0.95
    friendly = {m.body["id"] for m in frauds_of(seen, "friendly")}
    assert friendly & charged
    assert all(i in friendly or seen.world.truth(i)["is_fraud"] for i in charged)


# Reactions


def run(action_of: dict[str, str], days: int = 90) -> tuple[World, list[Message]]:
    """Reacts day by day with the given actions and lets everything else through untold."""
    world, messages = World(5, SMALL), list[Message]()
    for day in range(days):
        new = world.advance(START_US + (day + 1) * DAY_US - 1)
        messages += new
        for message in new:
            if message.body["id"] in action_of:
                world.react(message.body["id"], action_of[message.body["id"]], at_us=message.at + 50_000)
    return world, messages


@pytest.fixture(scope="module")
def untouched() -> tuple[World, list[Message]]:
    return run({})


@pytest.fixture(scope="module")
def reported(untouched: tuple[World, list[Message]]) -> list[str]:
    """Payments of the first thirty days that are charged back, later than a day after."""
    charged = [m.body["payment"] for m in untouched[1] if m.body.get("kind") == "chargeback"]
    early = {m.body["id"] for m in untouched[1] if m.kind == "decide" and m.at < START_US + 30 * DAY_US}
    return sorted(set(charged) & early)


def test_a_blocked_payment_is_never_charged_back(reported: list[str]) -> None:
    world, messages = run(dict.fromkeys(reported, "block"))
    assert len(reported) > 20
    assert not [body for i in reported for body in outcomes_of(messages, i)]
    assert {world.truth(i)["settled"] for i in reported} == {0.0}


def test_one_reaction_changes_only_what_follows_from_it(
    untouched: tuple[World, list[Message]], reported: list[str]
) -> None:
    target = reported[0]
    _, messages = run({target: "block"})
    rest = [m for m in untouched[1] if m.body.get("payment") != target]
    assert digest(messages) == digest(rest)
    assert len(rest) < len(untouched[1])


def test_an_analyst_answers_a_review_and_a_payment_let_go_may_still_be_charged_back(reported: list[str]) -> None:
    world, messages = run(dict.fromkeys(reported, "review"))
    verdicts, services = [], []
    sent = {m.body["id"]: m.at for m in messages if m.kind == "decide"}
    for request_id in reported:
        found = outcomes_of(messages, request_id)
        assert [b["kind"] for b in found].count("analyst_verdict") == 1
        verdict = found[0]
        assert (verdict["kind"], verdict["source"]) == ("analyst_verdict", "analyst")
        charged = any(b["kind"] == "chargeback" for b in found)
        assert charged == (verdict["value"] == 0)
        assert world.truth(request_id)["settled"] == 1.0 - verdict["value"]
        if world.truth(request_id)["is_fraud"]:
            verdicts.append(verdict["value"])
        services.append((at_us(verdict["event_time"]) - sent[request_id]) / 60e6)
    assert 0.7 < np.mean(verdicts) < 1.0
    # Reviews are told at the day's end here, so the verdicts wait for the world's next step.
    assert min(services) > 1.0


def test_a_review_takes_about_its_median_time() -> None:
    world = World(5, SMALL)
    first = world.advance(START_US + 14 * 3_600_000_000)[-1]
    world.react(first.body["id"], "review", at_us=first.at)
    assert world.truth(first.body["id"])["settled"] == -1.0
    verdict = outcomes_of(world.advance(START_US + DAY_US), first.body["id"])[0]
    assert 3 < (at_us(verdict["event_time"]) - first.at) / 60e6 < 250


def test_step_up_stops_most_thieves_and_few_customers(
    untouched: tuple[World, list[Message]], reported: list[str]
) -> None:
    honest = [m.body["id"] for m in untouched[1][:800] if m.kind == "decide" and m.body["id"] not in reported]
    world, _ = run(dict.fromkeys([*reported, *honest], "step_up"), days=31)
    passed: dict[float, list[float]] = {0.0: [], 1.0: []}
    for request_id in [*reported, *honest]:
        truth = world.truth(request_id)
        passed[float(truth["is_fraud"])].append(float(truth["settled"]))
    assert 0.85 < np.mean(passed[0.0]) < 0.95
    assert np.mean(passed[1.0]) < 0.3


def test_a_report_that_falls_due_during_a_review_waits_for_the_verdict(
    untouched: tuple[World, list[Message]], reported: list[str]
) -> None:
    verdicts = set()
    for friendly in [i for i in reported if untouched[0].truth(i)["scheme"] == "friendly"]:
        due_us = next(m.at for m in untouched[1] if m.body.get("payment") == friendly)
        world = World(5, SMALL)
        world.advance(due_us - 1)
        world.react(friendly, "review", at_us=due_us - 1)
        verdict, *rest = outcomes_of(world.advance(due_us + 2 * DAY_US), friendly)
        assert [body["kind"] for body in rest] == (["chargeback"] if verdict["value"] == 0 else [])
        verdicts.add(verdict["value"])
    assert 0 in verdicts


def test_telling_the_same_reaction_twice_changes_nothing() -> None:
    world = World(5, SMALL)
    first = world.advance(START_US + DAY_US)[0]
    for _ in range(2):
        world.react(first.body["id"], "review", at_us=first.at)
    assert len(outcomes_of(world.advance(START_US + 3 * DAY_US), first.body["id"])) == 1


# Switches


def count(world: World, days: int, context: str) -> int:
    seen = watch(world, days)
    return sum(t["context"] == context for t in seen.truth)


@pytest.mark.parametrize(
    ("switch", "context", "factor"),
    [
        ("card_testing_wave", "card_testing", 3),
        ("card_testing_attack", "card_testing", 30),
        ("takeover_wave", "takeover", 3),
    ],
)
def test_an_attack_multiplies_its_scheme(switch: str, context: str, factor: int) -> None:
    attacked = World(5, SMALL)
    attacked.switch(switch, True)
    assert count(attacked, 15, context) > factor * count(World(5, SMALL), 15, context)


def test_of_two_attacks_of_one_kind_the_stronger_counts() -> None:
    both = world_params.mood(frozenset({"card_testing_wave", "card_testing_attack", "price_drift"}))
    assert both == world_params.mood(frozenset({"card_testing_attack"}))._replace(price=1.4)


def switched(name: str) -> tuple[Seen, Seen]:
    world = World(5, SMALL)
    world.switch(name, True)
    return watch(World(5, SMALL), 15), watch(world, 15)


def test_base_rate_drift_multiplies_the_odds_and_changes_nothing_visible() -> None:
    calm, drifted = switched("base_rate_drift")
    assert digest(calm.requests) == digest(drifted.requests)
    odds = [seen.oracle / (1 - seen.oracle) for seen in (calm, drifted)]
    assert odds[1] == pytest.approx(2.5 * odds[0], rel=1e-6)
    assert drifted.fraud.sum() > calm.fraud.sum()


def test_new_device_drift_sends_honest_people_from_devices_never_seen_again() -> None:
    calm, drifted = (
        Counter(m.body["device"] for m in seen.requests if "device" in m.body) for seen in switched("new_device_drift")
    )
    once = [sum(n == 1 for n in devices.values()) / devices.total() for devices in (calm, drifted)]
    assert once[1] > once[0] + 0.15


def test_price_drift_raises_ordinary_amounts() -> None:
    calm, drifted = (
        [m.body["amount_minor"] for m, t in zip(s.requests, s.truth, strict=True) if t["context"] == "background"]
        for s in switched("price_drift")
    )
    assert np.median(drifted) == pytest.approx(1.4 * np.median(calm), rel=0.01)


def test_device_outage_takes_the_device_from_most_online_payments() -> None:
    shares = [
        np.mean(["device" in m.body for m in seen.requests if m.body["channel"] == "ecom"])
        for seen in switched("device_outage")
    ]
    assert shares[0] > 0.9
    assert 0.3 < shares[1] < 0.42


def test_yen_with_minor_units_are_a_hundred_times_too_large() -> None:
    calm, drifted = (
        [m.body["amount_minor"] for m in seen.requests if m.body["currency"] == "JPY"]
        for seen in switched("jpy_minor_units")
    )
    assert drifted == pytest.approx([100 * amount for amount in calm], abs=50)


def test_a_switch_works_from_the_next_day_and_can_be_switched_off() -> None:
    calm, world = World(5, SMALL), World(5, SMALL)
    parts = []
    for day, on in enumerate((False, True, False)):
        world.switch("price_drift", on)
        parts.append(
            (
                digest(calm.advance(START_US + (day + 1) * DAY_US - 1)),
                digest(world.advance(START_US + (day + 1) * DAY_US - 1)),
            )
        )
    assert [a == b for a, b in parts] == [True, False, True]


def test_every_switch_declares_its_effect() -> None:
    for name in SWITCHES:
        assert world_params.mood(frozenset({name})) != world_params.Mood(), name


# Bodies


def test_bodies_are_flat_json_with_what_the_channel_can_know(seen: Seen) -> None:
    for message in seen.messages:
        assert json.loads(json.dumps(message.body)) == message.body
        assert all(isinstance(value, str | int) for value in message.body.values())
        assert message.body["event_time"].endswith("Z")
    for message in seen.requests:
        body = message.body
        assert at_us(body["event_time"]) == message.at
        assert type(body["amount_minor"]) is int
        assert body["amount_minor"] > 0
        online = body["channel"] == "ecom"
        assert online == ("ip" in body) == ("ip_country" in body)
        assert online or "device" not in body
        assert ("email" in body) == (body["channel"] != "pos")
    missing = np.mean(["device" not in m.body for m in seen.requests if m.body["channel"] == "ecom"])
    assert 0.02 < missing < 0.06


def test_currencies_are_mostly_euro_and_yen_are_whole(seen: Seen) -> None:
    amounts = defaultdict(list)
    for message in seen.requests:
        amounts[message.body["currency"]].append(message.body["amount_minor"])
    assert set(amounts) == {"EUR", "USD", "JPY"}
    assert len(amounts["EUR"]) > 0.85 * len(seen.requests)
    # A median purchase of some 30 euro is some 3,000 cents and, at 160, some 5,000 yen.
    assert 2_000 < np.median(amounts["EUR"]) < 6_000
    assert 2_000 < np.median(amounts["JPY"]) < 12_000


def test_the_trivial_rule_counts_borders_and_converts() -> None:
    body = {"amount_minor": 1_600, "currency": "JPY", "card_country": "DE", "merchant_country": "JP"}
    assert trivial_score(body) == 20.0
    assert trivial_score({**body, "ip_country": "US"}) == 30.0
    assert trivial_score({**body, "ip_country": "DE", "merchant_country": "DE"}) == 10.0


def test_the_world_publishes_the_rates_it_counts_with(seen: Seen) -> None:
    assert seen.world.base == "EUR"
    assert set(seen.world.rates) == {"USD", "JPY"}
    for message in seen.requests[:200]:
        amount, currency = message.body["amount_minor"], message.body["currency"]
        country = message.body["card_country"]
        home = message.body | {"merchant_country": country, "ip_country": country}
        assert convert(amount, currency, base="EUR", rates=seen.world.rates) == pytest.approx(
            100 * trivial_score(home), abs=1
        )


# Settings


def test_every_setting_has_a_meaning_and_a_range() -> None:
    metas = WorldParams.metas()
    assert list(metas) == list(WorldParams.__struct_fields__)
    for name, meta in metas.items():
        assert meta.description, name
        assert meta.ge <= getattr(WorldParams(), name) <= meta.le, name


def test_perturbed_settings_differ_by_seed_stay_in_range_and_keep_the_rate_in_a_wider_band() -> None:
    one, two = WorldParams().perturbed(1), WorldParams().perturbed(2)
    assert len({WorldParams().digest(), one.digest(), two.digest(), WorldParams().perturbed(1).digest()}) == 3
    assert one.customers == WorldParams().customers
    for seed in range(200):
        WorldParams().perturbed(seed).checked()
    assert 0.002 < watch(World(1, one), 10).fraud.mean() < 0.012


def test_a_scaled_town_is_of_the_same_kind_and_another_size() -> None:
    whole, half = WorldParams(), WorldParams().scaled(0.5)
    sizes = {name for name in WorldParams.metas() if getattr(half, name) != getattr(whole, name)}
    episodes = {name for name in WorldParams.metas() if name.endswith("_per_day")}
    assert sizes == {"customers", "merchants", "payments_day"} | episodes
    assert all(getattr(half, name) == getattr(whole, name) / 2 for name in sizes)
    assert type(half.customers) is type(half.merchants) is int
    assert whole.scaled(1.0) == whole
    assert len({whole.digest(), half.digest(), whole.scaled(2.0).digest()}) == 3


@pytest.mark.parametrize("share", [1e-9, 1e9])
def test_a_scaled_town_stays_within_the_ranges_of_its_settings(share: float) -> None:
    scaled = WorldParams().scaled(share)
    assert scaled.checked() == scaled
    meta = WorldParams.metas()["customers"]
    assert scaled.customers == (meta.ge if share < 1 else meta.le)


def test_a_world_of_a_scale_sends_that_share_of_payments_and_says_so_in_its_hash() -> None:
    tenth = World(1, scale=0.1)
    assert tenth.params == WorldParams().scaled(0.1)
    assert tenth.params_hash == WorldParams().scaled(0.1).digest() != World(1).params_hash
    counts = [len(watch(world, 10).requests) for world in (tenth, World(1, scale=0.2))]
    assert counts[0] / 2_450 == pytest.approx(1.0, rel=0.15)
    assert counts[1] / counts[0] == pytest.approx(2.0, rel=0.15)


# What is refused, and how


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_world_without_size_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError) as caught:
        World(1, scale=scale)
    assert str(caught.value) == (
        f"size of the fraud world, scale: {scale}. Expected a finite number above 0, as a share of the default world. "
        "Use 1 for the default world, 0.1 for a tenth of it."
    )


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"WorldParams: .*<= 1.0 - at `\$.report_share`"):
        World(1, msgspec.structs.replace(SMALL, report_share=1.5))


def test_a_start_off_midnight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"start_us=….: 1, which is no midnight UTC.*Round down"):
        World(1, SMALL, start_us=1)


def test_time_does_not_run_back() -> None:
    world = World(1, SMALL)
    world.advance(START_US + 10)
    with pytest.raises(RequestError, match=r"until_us 1767571200000009, before 1767571200000010"):
        world.advance(START_US + 9)


def test_an_unknown_switch_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown name 'card_testing'. Expected 'card_testing_wave'"):
        World(1, SMALL).switch("card_testing", True)


def test_reactions_that_cannot_be_are_refused() -> None:
    world = World(5, SMALL)
    first, second, *_ = world.advance(START_US + DAY_US)
    with pytest.raises(UnknownRecordError, match="payment 'pay_0', which it has not sent"):
        world.react("pay_0", "allow", at_us=first.at)
    with pytest.raises(RequestError, match=r"unknown action 'blok'\. Expected 'block'"):
        world.react(first.body["id"], "blok", at_us=first.at)
    with pytest.raises(RequestError, match="before the payment at"):
        world.react(second.body["id"], "block", at_us=second.at - 1)
    world.react(first.body["id"], "allow", at_us=first.at)
    with pytest.raises(ConflictError, match="'block' after 'allow'"):
        world.react(first.body["id"], "block", at_us=first.at)


def test_a_reaction_after_the_report_is_refused(untouched: tuple[World, list[Message]], reported: list[str]) -> None:
    with pytest.raises(ConflictError, match="'block' after its outcome was reported"):
        untouched[0].react(reported[0], "block", at_us=START_US + 90 * DAY_US)


def test_truth_of_a_payment_not_sent_yet_is_refused() -> None:
    world, ahead = World(5, SMALL), World(5, SMALL)
    later = ahead.advance(START_US + DAY_US - 1)[-1].body["id"]
    world.advance(START_US)
    with pytest.raises(UnknownRecordError, match="which it has not sent"):
        world.truth(later)
