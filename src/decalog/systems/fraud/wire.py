"""The protocols that fraud speaks besides `decide`, `events` and `outcomes`."""

from __future__ import annotations

from decalog.host import Host
from decalog.http.settings import HttpSettings
from decalog.http.wires import Wire
from decalog.systems.fraud.wire_cases import Desk
from decalog.systems.fraud.wire_iso20022 import Iso20022
from decalog.systems.fraud.wire_stripe import Stripe


def WIRE(host: Host, system: str, *, settings: HttpSettings) -> tuple[Wire, ...]:  # noqa: N802  # a door, as SYSTEM is
    """Returns the protocols of a host's fraud system."""
    stripe = Stripe(host, system, private_webhooks=settings.private_webhooks)
    return stripe, Iso20022(host, system), Desk(host, system)
