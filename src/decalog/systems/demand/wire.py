"""The protocols that demand speaks besides `decide`, `events` and `outcomes`."""

from __future__ import annotations

from decalog.host import Host
from decalog.http.settings import HttpSettings
from decalog.http.wires import Wire
from decalog.systems.demand.wire_nights import Forecasts
from decalog.systems.demand.wire_nixtla import Nixtla
from decalog.systems.demand.wire_orders import Orders


def WIRE(host: Host, system: str, *, settings: HttpSettings) -> tuple[Wire, ...]:  # noqa: N802  # a door, as SYSTEM is
    """Returns the protocols of a host's demand system."""
    return (Nixtla(host), Orders(host, system, settings=settings), Forecasts(host, system, settings=settings))
