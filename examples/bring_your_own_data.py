"""Your own payments, from a file to a first report and a first decision.

    python examples/bring_your_own_data.py

A small shop's CSV is made up here, so that the example runs anywhere; put the path of yours in its place. The same
calls work from a notebook, and a polars, pyarrow or pandas frame will do instead of a file.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
import tempfile
from pathlib import Path

from decalog import operations
from decalog.data.inspect import inspect
from decalog.home import Home
from decalog.system import find_system

START = dt.datetime(2024, 1, 1)  # noqa: DTZ001  # as many shops export it: without an offset
COLUMNS = ["order_id", "created_at", "amount", "currency", "card_token", "device_id", "client_ip", "shop"]
COLUMNS += ["basket_items", "chargeback", "disputed_at"]


def write_payments(path: Path, seed: int = 7) -> None:
    """Writes 120 days of payments: regular customers, and thieves who try many cards on one device within minutes."""
    draw, rows = random.Random(seed), []  # noqa: S311  # payments of nobody
    for day in range(120):
        for _ in range(40):
            customer = draw.randrange(600)
            at = START + dt.timedelta(days=day, seconds=draw.randrange(86_400))
            amount = round(draw.lognormvariate(3.5, 0.6), 2)
            rows.append(
                [at, amount, f"card{customer}", f"device{customer}", f"10.0.{customer // 250}.{customer % 250}", 0]
            )
        if day % 3 == 0:
            at, device = START + dt.timedelta(days=day, seconds=draw.randrange(80_000)), f"thief{day}"
            for _ in range(draw.randrange(4, 12)):
                at += dt.timedelta(seconds=draw.randrange(20, 200))
                rows.append(
                    [at, round(draw.uniform(1, 90), 2), f"stolen{draw.random():.9f}", device, f"172.16.0.{day}", 1]
                )
    rows.sort(key=lambda row: row[0])
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for number, (at, amount, card, device, ip, stolen) in enumerate(rows):
            disputed = at + dt.timedelta(days=draw.randrange(5, 40)) if stolen else ""
            order = [f"o{number}", at, amount, "EUR", card, device, ip, "shop1", draw.randrange(1, 6)]
            lines.writerow([*order, stolen, disputed])
            if number == 1_000:
                file.write("o1000b,2024-02-30,a row that broke on its way\n")


def main(folder: Path) -> None:
    """Inspects, maps, imports, trains, and decides one payment."""
    payments = folder / "payments.csv"
    write_payments(payments)

    # 1. What is in the file, what would be lost, and a drafted mapping. It never prints a value of a personal column.
    inspection = inspect(payments, find_system("fraud"))
    print(inspection.text())

    # 2. Read the draft, decide what it leaves open (it is marked DECIDE), and save it.
    mapping = folder / "payments.toml"
    mapping.write_text(inspection.mapping_toml.replace('source = "issuer"', 'source = "network"'), encoding="utf-8")

    # 3. Import the history in the order in which it was known, train, and print the first report on it.
    home = Home(folder / "home")
    result = operations.train_on_data(home, "fraud", data=payments, mapping=mapping, say=print)
    print(result.text())

    # 4. Decide: the sixth new card on one device within minutes.
    for number in range(6):
        payment = {
            "id": f"new{number}",
            "amount_minor": 4_990,
            "currency": "EUR",
            "card": f"fresh{number}",
            "device": "thief-new",
            "ip": "172.16.9.9",
            "merchant": "shop1",
            "basket_items": 1,
        }
        answer = operations.decide_here(home, "fraud", raw=json.dumps(payment).encode())
    print(f"{answer['action']}: {answer['predictions']}, {', '.join(answer['reasons'])}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
