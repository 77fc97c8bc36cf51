"""Serve a model of your own: a class that loads its own files, or an ONNX file; nothing is ever unpickled.

    python examples/own_model.py                # a class of this file: a scorecard in JSON
    python examples/own_model.py model.onnx     # a file of yours, rows × features in the order printed below

Either is judged beside decalog's own models on the same later payments, registered, promoted, and decides a payment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from decalog import admin, operations
from decalog.deployment import Deployment, Setup
from decalog.examples import History
from decalog.home import Home
from decalog.models.base import TrainingSet
from decalog.training import training_set

CLASS = "own_model:Scorecard"
PAYMENT = b"""{"id": "pay_own_1", "amount_minor": 24900, "currency": "EUR", "card": "card_1", "device": "device_1",
  "channel": "ecom", "card_country": "DE", "ip_country": "US", "merchant_country": "DE"}"""


class Scorecard:
    """Points for a few features, turned into a probability; what any team's first model might be."""

    def __init__(self, places: list[int], points: list[float], start: float) -> None:
        self.places, self.points, self.start = places, points, start

    @classmethod
    def load(cls, folder: Path) -> Scorecard:
        """Reads its own file; decalog only hands over the folder."""
        card = json.loads((folder / "scorecard.json").read_text())
        return cls(card["places"], card["points"], card["start"])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Returns the probability of fraud of each row."""
        score = self.start + (rows[:, self.places] > 0) @ np.array(self.points)
        return 1 / (1 + np.exp(-score))


def fit_scorecard(data: TrainingSet, folder: Path) -> None:
    """Counts how much likelier a fraud is where a feature is set, and writes the points as JSON."""
    base = data.labels.mean()
    seen = [(place, data.rows[:, place] > 0) for place in range(len(data.names))]
    rates = {place: data.labels[mask].mean() for place, mask in seen if 200 < mask.sum() < len(mask) / 2}
    best = sorted(rates, key=lambda place: rates[place])[-5:]
    card = {
        "places": best,
        "points": [float(np.log((rates[place] + base) / (2 * base))) for place in best],
        "start": float(np.log(base / (1 - base))),
    }
    (folder / "scorecard.json").write_text(json.dumps(card))


def main(onnx: Path | None) -> None:
    """Makes a home with simulated history, brings the model in, promotes it, and decides."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        operations.train_on_world(home, "fraud", days=180, seed=3, scale=0.05)

        log = home.reader()
        system = Deployment(home, "fraud", log).system
        data = training_set(system, History(log.read(), system.schema, features=system.features).as_of())
        log.close()
        print(f"{len(data.names)} features, in this order: {', '.join(data.names)}")

        files = Path(folder) / "scorecard"
        files.mkdir()
        fit_scorecard(data, files)
        mine = (
            operations.own_model("fraud", onnx=onnx) if onnx else operations.own_model("fraud", path=CLASS, files=files)
        )
        result = operations.train_on_log(home, "fraud", own=mine)
        print(result.text())

        print(admin.promote(home, "fraud", model=result.model, alias="champion", why="ours"))
        log = home.writer()
        service = Deployment(home, "fraud", log, Setup(allowed=(CLASS,))).service()
        _, decision, _ = service.decide(PAYMENT)
        log.commit()
        log.close()
        print(f"{decision.choice.action} by model {decision.versions.model}, {decision.candidates[0].predictions}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
