"""What a law is: a check of a system, with sabotages of its own that prove the check can fail."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from decalog.testing.stage import Trial

_SHOWN = 5


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Args:
        checked: how many things were looked at; a check of nothing proves nothing.
        breaches: what breaks the law, in words, the first of them first.
        noticed: sabotages that were noticed.
        missed: sabotages that were not: then the check proves nothing either.
        tried: kind of disorder → how often the trial held it, where a law counts that.
    """

    checked: int
    breaches: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    tried: dict[str, int] = {}

    @property
    def holds(self) -> bool:
        """Whether the law holds, and the check could have said otherwise."""
        return self.checked > 0 and not self.breaches and not self.missed and bool(self.noticed)

    def text(self) -> str:
        """Returns what is wrong in words; "" where nothing is."""
        lines = list(self.breaches[:_SHOWN])
        if len(self.breaches) > _SHOWN:
            lines.append(f"and {len(self.breaches) - _SHOWN} more")
        lines += [f"sabotage not noticed: {name}" for name in self.missed]
        if not self.checked:
            lines.append("nothing was checked")
        return "\n".join(lines)


class Law(msgspec.Struct, frozen=True):
    """One law of DESIGN §6.

    Args:
        number: there.
        name: in words.
        check: trial → verdict.
    """

    number: int
    name: str
    check: Callable[[Trial], Verdict]

    def __str__(self) -> str:
        return f"{self.number}-{self.name.replace(' ', '-')}"


def proven(checked: int, breaches: list[str], *, sabotages: dict[str, list[str]]) -> Verdict:
    """Returns the verdict of a check.

    Args:
        checked: how many things were looked at.
        breaches: found on the honest system.
        sabotages: name of a sabotage → breaches found on the sabotaged system.
    """
    return Verdict(
        checked=checked,
        breaches=tuple(breaches),
        noticed=tuple(name for name, found in sabotages.items() if found),
        missed=tuple(name for name, found in sabotages.items() if not found),
    )
