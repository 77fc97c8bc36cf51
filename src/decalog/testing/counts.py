"""What came of a simulated time, counted, so that times add up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import msgspec


class Counts(msgspec.Struct):
    """Counts of a day or more: a world declares which, each a number that begins at 0.

    >>> class Sold(Counts):
    ...     units: int = 0
    >>> Sold.over([Sold(2), Sold(3)])
    Sold(units=5)
    """

    @classmethod
    def over(cls, parts: Iterable[Self]) -> Self:
        """Returns the sum of some."""
        made = cls()
        for part in parts:
            made.add(part)
        return made

    def add(self, other: Self) -> None:
        """Counts another's counts in."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
