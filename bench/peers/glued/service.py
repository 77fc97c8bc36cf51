"""Feast's online store and BentoML, put together as their documents do: features are fetched, the model scores them.

    FRAUD_GLUED=settings.json python -m bentoml serve service:Fraud

Features were computed before and materialised; a payment changes none of them, and nothing is stored.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bentoml
import lightgbm
import numpy as np
from feast import FeatureStore
from pydantic import BaseModel

SETTINGS = json.loads(Path(os.environ["FRAUD_GLUED"]).read_bytes())
ENTITIES = ("card", "customer", "device", "ip", "email")


class Payment(BaseModel):
    """A payment that asks for authorisation."""

    id: str
    amount_minor: int
    currency: str
    card: str = ""
    customer: str = ""
    device: str = ""
    ip: str = ""
    email: str = ""
    merchant: str = ""
    channel: str = ""
    mcc: str = ""
    card_country: str = ""
    ip_country: str = ""
    billing_country: str = ""
    merchant_country: str = ""


@bentoml.service(workers=1)
class Fraud:
    """Scores payments."""

    def __init__(self) -> None:
        self.store = FeatureStore(SETTINGS["repository"])
        self.service = self.store.get_feature_service("fraud")
        self.model = lightgbm.Booster(model_file=SETTINGS["model"] + "/model.txt")
        self.names: list[str] = SETTINGS["windows"]
        self.columns: int = SETTINGS["columns"]

    @bentoml.api(route="/v1/fraud/decide")
    def decide(self, payment: Payment, /) -> dict[str, Any]:
        """Returns the model's score of a payment."""
        row = {name: getattr(payment, name) for name in ENTITIES}
        features = self.store.get_online_features(features=self.service, entity_rows=[row]).to_dict()
        values = np.full((1, self.columns), -1.0)
        values[0, : len(self.names)] = [
            features[name][0] if features[name][0] is not None else -1 for name in self.names
        ]
        values[0, len(self.names)] = payment.amount_minor
        p_fraud = float(self.model.predict(values, num_threads=1)[0])
        action = "allow" if p_fraud < SETTINGS["block_above"] else "block"
        return {"payment": payment.id, "action": action, "predictions": {"p_fraud": p_fraud}}
