"""What fraud's lists cost: a decision's features without and with entries in all tables, and a change of one member.

    python bench/latency/fraud_lists.py [--json] [--short]

Features are µs of CPU, the least of some rounds over the same payments, in one thread with warm caches. A change is ms
of wall clock from reading the table to its new version in the views: for so long a server answers nobody; the median
of five.

Keys: empty_us, all_us (features of a payment), change_<members>_ms, bytes_<members> (of the record).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from decalog.deployment import Deployment
from decalog.features.facts import Point
from decalog.folding import point
from decalog.home import Home
from decalog.levers import Levers
from decalog.serving import Service
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.schema import PAYMENT

SIZES = (1_000, 10_000, 100_000)
PAYMENTS, ROUNDS, CHANGES = 500, 40, 5


def pay(service: Service, number: int) -> Point:
    """Decides a payment of one of 97 payers; returns where its features are asked for."""
    values = {entity.name: f"{entity.name}-{number % 97}" for entity in PAYMENT.entities}
    decision = service.decide({"id": f"p{number}", "amount_minor": 900, "currency": "EUR", **values})[1]
    return point(decision.request, decision.state_seq)


def features_us(service: Service, points: list[Point], position: int) -> float:
    """Returns the CPU time of one payment's features in µs."""
    asked, rounds = [Point(position, at.time, at.root, at.own) for at in points], list[float]()
    for _ in range(ROUNDS):
        started = time.process_time()
        for at in asked:
            service.state.vector(at)
        rounds.append((time.process_time() - started) / len(asked) * 1e6)
    return min(rounds)


def put(service: Service, levers: Levers, table: str, members: int) -> None:
    """Puts a table of so many members of the first list."""
    raw = json.dumps({f"listed-{number}": 1 for number in range(members)}).encode()
    service.put_table(table, dict(levers.entries(table, raw)))


def change_ms(service: Service, levers: Levers, number: int) -> float:
    """Returns how long one more card on a list takes, in ms."""
    raw = json.dumps({"list": "stolen", "add": [f"new-{number}"]}).encode()
    list_, entries = levers.members("card_lists", raw)
    adds = dict(entries)
    started = time.perf_counter()
    content, what = levers.listed("card_lists", list_, adds=adds)
    service.put_table("card_lists", content, by="bench", what=what)
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="the smallest list alone")
    wanted = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, closing(Home(Path(folder)).writer()) as log:
        deployment = Deployment(Home(Path(folder)), "fraud", log)
        deployment.prepare()
        service, levers = deployment.service(), Levers(deployment.system, log)
        service.put_policy(FraudPolicy(FraudCosts(lists=("stolen",))))
        points = [pay(service, number) for number in range(PAYMENTS)]
        figures["empty_us"] = features_us(service, points, log.position)
        for entity in PAYMENT.entities:
            put(service, levers, f"{entity.name}_lists", SIZES[0])
        figures["all_us"] = features_us(service, points, log.position)
        for members in SIZES[:1] if wanted.short else SIZES:
            put(service, levers, "card_lists", members)
            times = [change_ms(service, levers, number) for number in range(CHANGES)]
            log.commit()
            figures[f"change_{members}_ms"] = statistics.median(times)
            figures[f"bytes_{members}"] = len(log.get(levers.state("card_lists").seq).body)
    for name, value in figures.items():
        print(f"{name:18}{value:14,.1f}")
    if wanted.json:
        print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
