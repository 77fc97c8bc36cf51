"""Fraud with two lookup tables, as a system of a user's own."""

from __future__ import annotations

import msgspec

from decalog.features.declared import Lookup
from decalog.systems.fraud.system import SYSTEM as FRAUD

LISTS = Lookup(
    name="card_lists", meaning="lists the card is on", unit="bits", table="card_lists", key="card", missing=0
)
RISK = Lookup(name="mcc_risk", meaning="risk of the category", unit="1", table="mcc_risk", key="mcc")
WITH_TABLES = msgspec.structs.replace(FRAUD.features, features=(*FRAUD.features.features, LISTS, RISK))
SYSTEM = msgspec.structs.replace(FRAUD, features=WITH_TABLES)
