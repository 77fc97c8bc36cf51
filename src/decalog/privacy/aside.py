"""What privacy does beside a server: it reads whole logs and files; ordered and told as JSON, by pipes alone."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from decalog.errors import DecalogError
from decalog.home import Home
from decalog.privacy.access import account
from decalog.privacy.erasing import proven
from decalog.privacy.live import FAILED, Order, Surveyed
from decalog.privacy.retention import due
from decalog.privacy.subjects import marks_of, models_of, survey


def done(order: Order) -> object:
    """Returns what an order asks for."""
    home = Home(Path(order.home))
    if order.verb == "prove":
        return proven(home, order.values)
    if order.verb == "access":
        return account(home, order.system, person=order.person, entity=order.entity)
    with closing(home.reader()) as log:
        if order.verb == "due":
            schemas = list(order.schemas)
            return due(log, system=order.system, days=order.days, at_us=order.at_us, schemas=schemas)
        found = survey(log, order.subject, schemas=order.schemas)
        return Surveyed(found, models_of(home, found), tuple(marks_of(log, found.tokens)))


def main() -> int:
    """Does what standard input orders; returns 0, or FAILED with why as its last words."""
    os.nice(5)
    try:
        sys.stdout.buffer.write(msgspec.json.encode(done(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))))
    except DecalogError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
