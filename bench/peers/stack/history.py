"""Fills Redis with payments of the past, by the function that serves them, and saves it: `python history.py FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import redis
from app import SETTINGS, Payment, asked, in_base, time_us
from windows import library

GROUP = 1_000


def main() -> None:
    """Adds each payment of a file, one JSON object a line, in its order."""
    client = redis.Redis(unix_socket_path=SETTINGS["redis"])
    client.function_load(library(), replace=True)
    pipeline = client.pipeline(transaction=False)
    for line in Path(sys.argv[1]).read_bytes().splitlines():
        payment = Payment.model_validate_json(line)
        if payment.event_time is None:
            sys.exit("history: a payment without its time")
        amount = in_base(payment.amount_minor, payment.currency)
        pipeline.fcall("windows", 6, *asked(payment, amount, time_us(payment.event_time)))
        if len(pipeline) == GROUP:
            pipeline.execute()
    pipeline.execute()
    client.save()


if __name__ == "__main__":
    main()
