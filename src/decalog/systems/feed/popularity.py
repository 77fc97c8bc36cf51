"""What people liked lately, region by region.

Each point counts half as much after HALF_LIFE_US. It is added with the weight 2^(age of the log / half-life) it will
always have beside later ones, so no score is ever touched to let it decay, and late points weigh what they are worth
(forward decay: Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009). Times are those of the events alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

HALF_LIFE_US = 12 * 3_600_000_000
KEPT = 4_096
"""How many posts a region keeps at least. Where twice as many came, the lower half is forgotten and begins anew."""
REGIONS = 256
"""How many regions are kept; points of further ones count for all of them together, the region ""."""

_NONE = np.zeros(0, np.int64)
_SHIFT = 512  # half-lives after which scores are scaled down: float64 holds twice as many


class Popularity:
    """Scores of posts by their handles, for each region and for all of them ("")."""

    def __init__(self) -> None:
        self._boards: dict[str, _Board] = {"": _Board()}
        self._origin_us: int | None = None

    def add(self, region: str, handle: int, *, points: float, at_us: int) -> None:
        """Adds points of a moment; taking them back is adding less than nothing for the same moment."""
        if self._origin_us is None:
            self._origin_us = at_us
        age = (at_us - self._origin_us) / HALF_LIFE_US
        if age > _SHIFT:
            shift = int(age)
            self._origin_us += shift * HALF_LIFE_US
            age -= shift
            for board in self._boards.values():
                board.scores *= 2.0**-shift
        weighed = points * 2.0**age
        if region not in self._boards and len(self._boards) <= REGIONS:
            self._boards[region] = _Board()
        for name in {region, ""} & self._boards.keys():
            self._boards[name].add(handle, weighed)

    def top(self, region: str, k: int) -> Ints:
        """Returns the k best of a region, best first; where it has fewer, those of all regions behind them.

        Some may stand twice then.
        """
        own = self._boards.get(region)
        found = _NONE if own is None else own.top(k)
        return found if len(found) == k or not region else np.concatenate([found, self._boards[""].top(k)])


class _Board:
    def __init__(self) -> None:
        self.handles, self.scores = np.full(2 * KEPT, -1, np.int64), np.zeros(2 * KEPT)
        self._places: dict[int, int] = {}

    def add(self, handle: int, points: float) -> None:
        place = self._places.get(handle)
        if place is None:
            if points <= 0.0:
                return
            if len(self._places) == len(self.handles):
                self._halve()
            place = self._places[handle] = len(self._places)
            self.handles[place], self.scores[place] = handle, 0.0
        self.scores[place] += points

    def top(self, k: int) -> Ints:
        count = len(self._places)
        scores, handles = self.scores[:count], self.handles[:count]
        if count > k:
            least = np.partition(scores, count - k)[count - k]
            kept = scores >= least
            scores, handles = scores[kept], handles[kept]
        order = np.lexsort((handles, -scores))[:k]
        found: Ints = handles[order][scores[order] > 0.0]
        return found

    def _halve(self) -> None:
        kept = np.sort(np.argsort(-self.scores, kind="stable")[:KEPT])
        handles, scores = self.handles[kept], self.scores[kept]
        self.handles[:KEPT], self.scores[:KEPT] = handles, scores
        self._places = {handle: place for place, handle in enumerate(handles.tolist())}
