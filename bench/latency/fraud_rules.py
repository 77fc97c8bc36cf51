"""What rules cost a decision: 50 of them over one payment, and the policy with and without them, µs of CPU.

    python bench/latency/fraud_rules.py --json

One thread, warm; the rules read 16 facts and none of them matches, so that all are evaluated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from decalog.candidates import Candidate
from decalog.events import Event
from decalog.ingest import Rates
from decalog.policy import Case, Values
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.rules.ruleset import RuleSet

RATES = Rates("EUR", {"USD": "0.9"})
SHAPES = (
    "block if :ip_payments_60s: > {0} and not :channel: in ('pos')",
    "block if :ip_country: != :card_country: and :amount_in_eur: > {0}00000",
    "review if :p_fraud: > 0.4 and :amount_in_usd: >= {0}500",
    "block if :device_cards_1d: > {0} and :card_payments_1h: > 3 and :amount: > 10000",
    "review if (:amount: - :card_mean_amount_30d:) / 100 > {0}000 or :card_merchants_1d: > 2{0}",
)


def case() -> Case:
    """Returns a payment that no rule matches."""
    amount = {"amount_minor": 5_000, "amount_base_minor": 5_000}
    texts = {"currency": "EUR", "channel": "ecom", "ip_country": "DE", "card_country": "FR"}
    request = Event("p1", "payment", 0, 7, {"card": 7}, {**amount, **texts})
    places = {name: place for place, name in enumerate(FEATURES.names)}
    values = Values(places, np.full(len(places), 2.0))
    return Case(request, (Candidate("p1", predictions={"p_fraud": 0.01}),), values, lambda _name: 0.5)


def cost_us(work: Callable[[Case], object], times: int) -> float:
    """Returns the CPU time of one call in µs, the least of seven rounds."""
    given, rounds = case(), list[float]()
    for _ in range(7):
        started = time.process_time()
        for _ in range(times):
            work(given)
        rounds.append((time.process_time() - started) / times * 1e6)
    return min(rounds)


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--short", action="store_true")
    asked = options.parse_args()
    times = 200 if asked.short else 5_000
    text = "\n".join(SHAPES[number % len(SHAPES)].format(number + 5) for number in range(50))
    started = time.process_time()
    rules = RuleSet(text, rates=RATES)
    figures = {
        "parse_50_rules_ms": (time.process_time() - started) * 1e3,
        "50_rules_us": cost_us(rules.ruling, times),
        "policy_us": cost_us(FraudPolicy(FraudCosts()).decide, times),
        "policy_with_50_rules_us": cost_us(FraudPolicy(FraudCosts(rules=text, rates=RATES)).decide, times),
    }
    for name, value in figures.items():
        print(f"{name:24} {value:8.1f}")
    if asked.json:
        print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
