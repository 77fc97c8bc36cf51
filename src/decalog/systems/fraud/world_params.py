"""The settings of the fraud world, each with meaning, unit and range, and the attacks and drifts to switch on.

The figures are invented so that the world is hard in the ways the field is hard; they are not estimates of any real
portfolio.
"""

from __future__ import annotations

import typing
from typing import Annotated, Any, ClassVar

from decalog.testing.settings import Settings, fixed, rate, share

_EPISODES = ("card_testing_per_day", "takeover_per_day", "ring_per_day", "slow_low_per_day")


class WorldParams(Settings, frozen=True, kw_only=True):
    """All settings of the fraud world; meaning, unit and range stand in each field's annotation.

    With the defaults and no switch on, 0.3–0.8 % of payments are frauds.
    """

    world: ClassVar[str] = "fraud"
    sizes: ClassVar[tuple[str, ...]] = ("customers", "merchants", "payments_day", *_EPISODES)

    customers: Annotated[int, fixed("people who pay", least=50, most=100_000)] = 4_000
    merchants: Annotated[int, fixed("shops they pay", least=50, most=10_000)] = 400
    payments_day: Annotated[float, fixed("ordinary payments on a mean day", least=10, most=100_000)] = 2_450.0
    favourite_share: Annotated[float, share("share of payments that go to a shop the customer returns to")] = 0.65
    cross_border_share: Annotated[float, share("share of payments at home that go to a foreign online shop")] = 0.10
    trip_share: Annotated[float, share("share of 45-day cycles in which a customer travels")] = 0.35
    vpn_share: Annotated[float, share("share of online payments through an exit in another country")] = 0.025
    fresh_device_share: Annotated[float, share("share of honest online payments on a device never seen before")] = 0.02
    missing_device_share: Annotated[float, share("share of online payments whose client sends no device")] = 0.04
    device_life_days: Annotated[float, rate("days until a customer replaces a device", 2_000)] = 240.0
    ip_life_days: Annotated[float, rate("days until a home gets another IP address", 365)] = 14.0
    payday_lift: Annotated[float, rate("factor on the number of payments from the 25th to the 2nd", 3)] = 1.15
    background_hazard: Annotated[float, rate("mean probability of fraud of an ordinary payment, about", 0.05)] = 0.0007
    card_testing_per_day: Annotated[float, rate("bursts on one IP started a day, honest crowds included", 50)] = 0.6
    takeover_per_day: Annotated[float, rate("unusual sessions on an account started a day, honest included", 50)] = 9.0
    ring_per_day: Annotated[float, rate("devices shared by many accounts started a day, honest included", 20)] = 0.2
    slow_low_per_day: Annotated[float, rate("small quiet series on a card started a day, honest included", 50)] = 0.5
    scheme_slope: Annotated[float, rate("log-odds of fraud per unit of an episode's severity", 20)] = 4.5
    scheme_cut: Annotated[
        float, fixed("severity (standard normal) at which fraud is an even bet", least=-3, most=3)
    ] = 0.5
    payment_noise: Annotated[float, rate("standard deviation of a payment's severity within its episode", 2)] = 0.35
    friendly_share: Annotated[float, share("share of honest online payments later charged back by their owner")] = (
        0.0007
    )
    report_share: Annotated[float, share("share of frauds that are ever charged back")] = 0.85
    warning_share: Annotated[float, share("share of charged-back frauds the network warns of before")] = 0.5
    delay_mean_days: Annotated[float, rate("mean of the exponential delay beyond the least, before the cut", 60)] = 14.0
    delay_least_days: Annotated[float, fixed("least days from payment to chargeback", least=5, most=30)] = 5.0
    delay_most_days: Annotated[float, fixed("most days from payment to chargeback", least=31, most=120)] = 60.0
    review_minutes: Annotated[float, rate("median minutes from a review decision to the analyst's verdict", 600)] = 25.0
    analyst_sensitivity: Annotated[float, share("probability that an analyst calls a fraud a fraud")] = 0.88
    analyst_specificity: Annotated[
        float, fixed("probability that an analyst lets an honest payment go", least=0, most=1)
    ] = 0.97
    step_up_honest_pass: Annotated[
        float, fixed("probability that an honest customer passes a step-up", least=0, most=1)
    ] = 0.9
    step_up_fraud_pass: Annotated[float, share("probability that a fraudster passes a step-up")] = 0.08


# What can be switched on, with its declared effect.
SWITCHES = {
    "card_testing_wave": "bursts start 12 times as often and their severity rises by 1",
    "card_testing_attack": "a botnet tries stolen cards day and night: bursts start 100 times as often and their "
    "severity rises by 1",
    "takeover_wave": "unusual account sessions start 4 times as often and their severity rises by 0.5",
    "base_rate_drift": "the odds of fraud of every payment are multiplied by 2.5; nothing visible changes",
    "new_device_drift": "honest online payments on a device never seen before rise by 25 percentage points",
    "price_drift": "amounts of ordinary payments are multiplied by 1.4",
    "device_outage": "60 % of online payments arrive without a device",
    "jpy_minor_units": "a client sends yen times 100, as if yen had minor units",
}


class Mood(typing.NamedTuple):
    """What the switches amount to for one day of generation; see SWITCHES for the figures."""

    burst_factor: float = 1.0
    burst_shift: float = 0.0
    takeover_factor: float = 1.0
    takeover_shift: float = 0.0
    odds: float = 1.0
    fresh_device: float = 0.0
    price: float = 1.0
    missing_device: float = 0.0
    jpy_factor: int = 1


_EFFECTS: dict[str, dict[str, Any]] = {
    "card_testing_wave": {"burst_factor": 12.0, "burst_shift": 1.0},
    "card_testing_attack": {"burst_factor": 100.0, "burst_shift": 1.0},
    "takeover_wave": {"takeover_factor": 4.0, "takeover_shift": 0.5},
    "base_rate_drift": {"odds": 2.5},
    "new_device_drift": {"fresh_device": 0.25},
    "price_drift": {"price": 1.4},
    "device_outage": {"missing_device": 0.6},
    "jpy_minor_units": {"jpy_factor": 100},
}


def mood(on: frozenset[str]) -> Mood:
    """Returns the joint effect of the switches that are on; of two attacks of one kind the stronger, the later one."""
    effects = {name: value for switch, does in _EFFECTS.items() if switch in on for name, value in does.items()}
    return Mood()._replace(**effects)
