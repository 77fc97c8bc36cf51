"""The settings of a simulated world: declared figures with meaning and range, their hash, and other worlds of the kind.

A world's settings are a frozen struct below `Settings`, each field annotated with one of `share`, `rate` or `fixed`.
"""

from __future__ import annotations

import hashlib
import math
import typing
from collections.abc import Iterable
from typing import ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from decalog.errors import ConfigError, near
from decalog.testing import draws

# How far `perturbed` moves a setting: the standard deviation of the log of the factor.
_MOVED = {"spread": 0.2}


def share(meaning: str) -> Meta:
    """Returns the annotation of a share in [0, 1]."""
    return Meta(description=meaning, ge=0.0, le=1.0, extra=_MOVED)


def rate(meaning: str, most: float) -> Meta:
    """Returns the annotation of a number in [0, most]."""
    return Meta(description=meaning, ge=0.0, le=most, extra=_MOVED)


def fixed(meaning: str, *, least: float, most: float) -> Meta:
    """Returns the annotation of a number in [least, most] that `perturbed` leaves as it is."""
    return Meta(description=meaning, ge=least, le=most)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the world that is called `world`; `sizes` are those which grow with it."""

    world: ClassVar[str]
    sizes: ClassVar[tuple[str, ...]]

    def digest(self) -> str:
        """Returns the sha256 of the canonical JSON of all settings, in hex."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def perturbed(self, seed: int) -> typing.Self:
        """Returns settings moved by log-normal factors (sd 0.2), kept in range: another world of the same kind."""
        key = draws.root(f"perturbed {self.world} world {seed}")
        moved = {name: self._moved(name, meta, key=key) for name, meta in self.metas().items() if meta.extra}
        return msgspec.structs.replace(self, **moved)

    def scaled(self, share: float) -> typing.Self:
        """Returns a smaller or larger world of the same kind: what stands in `sizes` times `share`, within its range.

        Raises:
            ConfigError: the share is no finite number above 0.
        """
        if not 0 < share < math.inf:
            raise ConfigError(
                where=f"size of the {self.world} world, scale",
                given=f"{share}",
                expected="a finite number above 0, as a share of the default world",
                fix="Use 1 for the default world, 0.1 for a tenth of it.",
            )
        return msgspec.structs.replace(self, **{name: self._sized(name, share) for name in self.sizes})

    def checked(self) -> typing.Self:
        """Returns the settings as they are, or raises.

        Raises:
            ConfigError: a setting is of the wrong type or outside its range.
        """
        try:
            return msgspec.convert(msgspec.to_builtins(self), type(self))
        except msgspec.ValidationError as error:
            raise ConfigError(
                where=type(self).__name__,
                given=str(error),
                expected="each setting within the range its annotation declares",
                fix=f"See {type(self).__module__}.{type(self).__name__}.metas() for meaning and range of each.",
            ) from error

    @classmethod
    def metas(cls) -> dict[str, Meta]:
        """Returns meaning and range of each setting, by name."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}

    def _sized(self, name: str, share: float) -> float:
        bounded = self._bounded(name, getattr(self, name) * share)
        return round(bounded) if isinstance(getattr(self, name), int) else bounded

    def _moved(self, name: str, meta: Meta, *, key: draws.Keys) -> float:
        factor = np.exp((meta.extra or {})["spread"] * draws.normal(key, name)[0])
        return self._bounded(name, getattr(self, name) * float(factor))

    def _bounded(self, name: str, value: float) -> float:
        meta = self.metas()[name]
        return float(np.clip(value, meta.ge, meta.le))


def known_switch(world: str, name: str, *, switches: Iterable[str]) -> str:
    """Returns the name if the world has such a switch.

    Raises:
        ConfigError: there is none; names the closest.
    """
    if name in switches:
        return name
    raise ConfigError(
        where=f"switch of the {world} world",
        given=f"unknown name '{name}'",
        expected=near(name, switches),
        fix="The world's SWITCHES say what each does.",
    )
