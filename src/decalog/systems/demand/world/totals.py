"""What came of days in shops: units, money, and how much was wanted in vain."""

from __future__ import annotations

from typing import Self

import numpy as np

from decalog.systems.demand.world.days import Sold
from decalog.systems.demand.world.params import WorldParams
from decalog.systems.demand.world.shops import Shops
from decalog.testing.counts import Counts
from decalog.testing.draws import Floats

_BP = 10_000


class Totals(Counts):
    """Counts over one or more days; `minor` is what sales earned beyond their cost, less waste and holding."""

    wanted: int = 0
    sold: int = 0
    wasted: int = 0
    sold_out: int = 0
    series: int = 0
    minor: float = 0.0

    @classmethod
    def of(cls, shops: Shops, sold: Sold, *, discount: Floats, params: WorldParams) -> Self:
        """Returns what came of a day."""
        price, cost = np.tile(shops.price * (1 - discount), shops.stores), np.tile(shops.cost, shops.stores)
        units = sold.units.sum(axis=1)
        holding = params.holding_bp / _BP * cost * sold.left
        return cls(
            wanted=int(sold.wanted.sum()),
            sold=int(units.sum()),
            wasted=int(sold.wasted.sum()),
            sold_out=int(np.sum(sold.empty[:, -1])),
            series=shops.n,
            minor=float(np.sum(units * (price - cost) - sold.wasted * cost - holding)),
        )

    def __str__(self) -> str:
        sold_out, wasted = self.sold_out / max(1, self.series), self.wasted / max(1, self.sold + self.wasted)
        return (
            f"{self.sold:,} of {self.wanted:,} units wanted were sold  sold out {sold_out:.1%}  wasted {wasted:.1%}"
            f"  earned {self.minor / 100:,.0f}"
        )
