"""A small shop's payments: its mapping and the lines of its file."""

from __future__ import annotations

from decalog.clock import time_us

NOW = time_us("2026-06-01T00:00:00Z")

MAPPING = """
system = "fraud"
max_bad_share = 0.5

[request]
id = "payment"
event_time = { column = "at" }
amount = { column = "amount", unit = "major", currency = { column = "currency" } }
card = "card"
device = "device"
merchant = "shop"
cardholder = "name"

[outcomes.chargeback]
column = "disputed"
values = { "yes" = 1 }
silent = ["no"]
source = "issuer"
delay = "30d"

[signals]
columns = ["basket"]

[rates]
base = "EUR"
USD = "0.5"
JPY = "0.01"
"""
HEADER = "payment,at,amount,currency,card,device,shop,name,disputed,basket"


def payment(number: int, **cells: str) -> str:
    """Returns a line of the shop's CSV."""
    row = {
        "payment": f"p{number}",
        "at": f"2026-01-{1 + number // 24 % 28:02d}T{number % 24:02d}:00:00Z",
        "amount": f"{number + 1}.50",
        "currency": "EUR",
        "card": f"card{number % 7}",
        "device": f"device{number % 5}",
        "shop": f"shop{number % 3}",
        "name": "A. Person",
        "disputed": "no",
        "basket": str(number / 4),
    }
    return ",".join((row | cells).values())
