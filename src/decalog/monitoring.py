"""What is watched: a declaration that points at a series the server exposes, a level, and who is called."""

from __future__ import annotations

from typing import Literal

import msgspec


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a person wants to be told about.

    Args:
        name: of the alert.
        meaning: what it says about the system, in the field's words.
        expression: over the series of /metrics, as Prometheus evaluates it.
        alert: which way the level is crossed.
        level: beyond which a person is called.
        slices: labels by which the expression is split; () for none.
        owner: who is called.
        runbook: what to look at first.
    """

    name: str
    meaning: str
    expression: str
    alert: Literal["above", "below"]
    level: float
    owner: str
    runbook: str
    slices: tuple[str, ...] = ()
