from __future__ import annotations

import pytest

from decalog.clock import DAY, MINUTE, SECOND
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import Event
from decalog.features.facts import Change
from decalog.features.offline import fold
from decalog.folding import decision_fact, fact, point
from decalog.systems.fraud.features import FEATURES

NOON = 20_000 * DAY + 12 * 60 * MINUTE  # 20,000 days after 1 January 1970: Friday, 4 October 2024


def payment(name: str, at: int, **changed: object) -> Event:
    entities = {"card": 1, "customer": 2, "device": 3, "ip": 4, "email": 5, "merchant": 6}
    attributes: dict[str, int | float | str | bool] = {
        "amount_base_minor": 1_000,
        "channel": "ecom",
        "mcc": "5732",
        "card_country": "DE",
        "ip_country": "DE",
        "billing_country": "DE",
        "merchant_country": "FR",
    }
    for key, value in changed.items():
        target: dict[str, object] = entities if key in entities else attributes  # type: ignore[assignment]
        if value is None:
            del target[key]
        else:
            target[key] = value
    return Event(name, "payment", at, 2, entities, attributes)


def features_of(*payments: Event) -> dict[str, float]:
    """Features of the last payment, by name, after the others were logged."""
    *earlier, last = payments
    changes = [Change(seq, event.event_time, None, fact(event, seq)) for seq, event in enumerate(earlier)]
    row = fold(FEATURES, changes, points=[point(last, len(earlier))])[0]
    return dict(zip(FEATURES.names, row.tolist(), strict=True))


def test_a_first_payment_counts_itself_and_nothing_else() -> None:
    values = features_of(payment("p1", NOON))
    assert values["card_payments_60s"] == values["card_payments_30d"] == values["ip_payments_1d"] == 1
    assert values["card_amount_1d"] == values["amount"] == 1_000
    assert values["card_mean_amount_30d"] == values["card_since_last_s"] == -1
    assert values["device_cards_1d"] == values["email_cards_7d"] == 1
    assert (values["hour_utc"], values["weekday_utc"]) == (12, 4)
    assert (values["same_card_ip"], values["same_card_merchant"]) == (1, 0)
    assert values["reviews_1d"] == 0


def test_a_burst_of_cards_on_one_address_shows_within_a_minute() -> None:
    burst = [payment(f"p{i}", NOON + i * SECOND, card=100 + i, customer=200 + i, email=300 + i) for i in range(8)]
    values = features_of(*burst)
    assert values["ip_payments_60s"] == values["ip_cards_10m"] == values["device_cards_10m"] == 8
    assert values["device_customers_30d"] == 8
    assert values["card_payments_60s"] == 1


def test_windows_leave_and_means_look_back_only() -> None:
    values = features_of(
        payment("p1", NOON - 2 * DAY, amount_base_minor=500, device=31),
        payment("p2", NOON - 90 * SECOND, amount_base_minor=1_500),
        payment("p3", NOON, amount_base_minor=7_000),
    )
    assert (values["card_payments_60s"], values["card_payments_10m"], values["card_payments_7d"]) == (1, 2, 3)
    assert (values["card_amount_1h"], values["card_amount_7d"]) == (8_500, 9_000)
    assert values["card_mean_amount_30d"] == values["customer_mean_amount_30d"] == 1_000
    assert values["card_since_last_s"] == 90
    assert values["customer_devices_30d"] == 2


def test_an_amount_is_held_against_what_its_owner_usually_pays() -> None:
    before = [payment(f"p{i}", NOON - (3 - i) * DAY, amount_base_minor=1_000) for i in range(3)]
    values = features_of(*before, payment("p4", NOON, amount_base_minor=9_000))
    assert values["amount_over_card_mean"] == values["amount_over_customer_mean"] == 9
    assert features_of(payment("p1", NOON))["amount_over_card_mean"] == -1


def test_a_device_of_many_accounts_shows_in_what_it_did_before() -> None:
    ring = [payment(f"p{i}", NOON + i * MINUTE, customer=200 + i, email=300 + i, merchant=400 + i) for i in range(4)]
    values = features_of(*ring)
    assert values["device_emails_30d"] == values["device_merchants_30d"] == values["ip_customers_1d"] == 4
    assert (values["device_mean_amount_30d"], values["device_since_last_s"], values["ip_devices_1h"]) == (1_000, 60, 1)


def test_what_the_client_does_not_send_has_its_declared_value() -> None:
    values = features_of(payment("p1", NOON, device=None, ip=None, ip_country=None, mcc=None))
    assert values["device_payments_1h"] == values["ip_amount_1d"] == 0
    assert values["device_cards_1h"] == values["same_card_ip"] == values["mcc"] == -1


def test_reviews_of_a_day_are_counted_whoever_they_concern() -> None:
    decisions = [
        Decision(
            id=f"d{i}",
            request=payment(f"p{i}", NOON - i * 13 * 60 * MINUTE, card=50 + i),
            state_seq=i,
            candidates=(),
            choice=Choice((Slot(action),)),
            versions=Versions("", "", "", 0),
        )
        for i, action in enumerate(["review", "review", "block", "review"])
    ]
    changes = [Change(i, NOON, None, decision_fact(decision, i)) for i, decision in enumerate(decisions)]
    row = fold(FEATURES, changes, points=[point(payment("p9", NOON), 9)])[0]
    assert row[FEATURES.names.index("reviews_1d")] == 2


@pytest.mark.parametrize("use", ["model", "policy"])
def test_every_feature_says_what_it_is(use: str) -> None:
    chosen = [feature for feature in FEATURES.features if feature.use == use]
    assert chosen
    assert all(feature.meaning and feature.unit and feature.owner for feature in chosen)
