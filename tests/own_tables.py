"""Fraud with a lookup table of public values beside its lists, as a system of a user's own."""

from __future__ import annotations

import msgspec

from decalog.features.declared import Lookup
from decalog.systems.fraud.system import SYSTEM as FRAUD

RISK = Lookup(name="mcc_risk", meaning="risk of the category", unit="1", table="mcc_risk", key="mcc")
WITH_TABLES = msgspec.structs.replace(FRAUD.features, features=(*FRAUD.features.features, RISK))
SYSTEM = msgspec.structs.replace(FRAUD, features=WITH_TABLES)

WITHOUT_TABLES = msgspec.structs.replace(
    FRAUD,
    features=msgspec.structs.replace(
        FRAUD.features, features=tuple(f for f in FRAUD.features.features if not isinstance(f, Lookup))
    ),
)
