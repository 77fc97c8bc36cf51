"""A funnel: what finds candidates and what ranks them, in one artefact, so that one version names both.

The ranker's features hold scores of the towers and the neighbours, so neither may be replaced without the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decalog.models import collaborative, heads, kinship, two_tower
from decalog.models.base import Floats, SlateSet
from decalog.models.collaborative import Neighbours
from decalog.models.heads import Heads, SimpleHeads
from decalog.models.kinship import Kinship
from decalog.models.two_tower import TwoTower

FORMAT = "funnel"


class Funnel:
    """Fitted towers, neighbours, kinship and ranker.

    Args:
        towers: vectors of people and things.
        neighbours: of each thing.
        kin: of subjects.
        ranker: calibrated heads over features that hold their scores.
    """

    blocking = False

    def __init__(self, towers: TwoTower, neighbours: Neighbours, kin: Kinship, *, ranker: Heads | SimpleHeads) -> None:
        self.towers, self.neighbours, self.kin, self.ranker = towers, neighbours, kin, ranker
        self.heads = ranker.heads

    @property
    def texts(self) -> tuple[bytes, ...]:
        """LightGBM's model text of each head of the ranker that has trees."""
        return self.ranker.texts if isinstance(self.ranker, Heads) else ()

    @property
    def examination(self) -> dict[str, tuple[float, ...]]:
        """Head → how likely an action at each position is, against 1 at the first."""
        return self.ranker.examination if isinstance(self.ranker, Heads) else {}

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`; n × heads."""
        return self.ranker.predict(rows)

    def rank(self, data: SlateSet) -> Floats:
        """Returns predictions for things shown, described anew by these towers and neighbours."""
        rows = data.rows if data.told is None else data.told.redescribed(self, data.places)
        return self.predict(rows)

    def as_shown(self, predictions: Floats, positions: Any) -> Floats:
        """See `Heads.as_shown`."""
        return self.ranker.as_shown(predictions, positions) if isinstance(self.ranker, Heads) else predictions

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        self.towers.save(folder)
        self.neighbours.save(folder)
        self.kin.save(folder)
        return self.ranker.save(folder)


def load(folder: Path, settings: Mapping[str, Any]) -> Funnel:
    """Returns the model of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    parts = two_tower.load(folder), collaborative.load(folder), kinship.load(folder)
    return Funnel(*parts, ranker=heads.load(folder, settings))
