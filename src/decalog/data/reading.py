"""A TOML table that is read key by key and remembers everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from decalog.errors import near

_T = TypeVar("_T", bound=str)


class Table:
    """A table of a TOML file. What is asked for is known; `close` reports every other key with its near match.

    Args:
        place: how the table is called in messages: `[request]`, or `[request] amount` for an inline one.
        raw: its keys and values.
        problems: where problems are collected; shared by all tables of a file.
    """

    def __init__(self, place: str, raw: dict[str, Any], problems: list[str]) -> None:
        self._place = place
        self._raw = raw
        self._problems = problems
        self._asked: dict[str, None] = {}

    def problem(self, key: str, words: str) -> None:
        """Notes that something is wrong with a key."""
        self._problems.append(f"{self._place} {key}: {words}".strip())

    def raw(self, key: str) -> Any:
        """Returns what stands under a key, or None."""
        self._asked[key] = None
        return self._raw.get(key)

    def text(self, key: str, default: str | None) -> str:
        """Returns a text; a default of None makes it required, and "" stands for it once that is noted."""
        value = self.raw(key)
        if value is None and default is None:
            self.problem(key, "not there, expected a text in quotes")
        elif value is not None and not (isinstance(value, str) and value):
            self.problem(key, f"{type(value).__name__}, expected a text in quotes")
        return value if isinstance(value, str) else default or ""

    def choice(self, key: str, choices: Sequence[_T], *, default: _T | None) -> _T:
        """Returns one of the choices; a default of None makes it required."""
        value = self.text(key, default)
        found = next((choice for choice in choices if choice == value), None)
        if found is None and value and value != default:
            self.problem(key, f"{value!r}, expected {near(value, choices)}")
        return found if found is not None else choices[0] if default is None else default

    def number(self, key: str, default: float) -> float:
        """Returns a finite number."""
        value = self.raw(key)
        if value is None:
            return default
        if _is_number(value):
            return float(value)
        self.problem(key, f"{type(value).__name__}, expected a number")
        return default

    def texts(self, key: str) -> dict[str, str]:
        """Returns an inline table of texts; empty where there is none."""
        made = {}
        for name, value in self._inline(key).items():
            if isinstance(value, str):
                made[name] = value
            else:
                self.problem(f"{key}, {name}", f"{type(value).__name__}, expected a text in quotes")
        return made

    def numbers(self, key: str) -> dict[str, float]:
        """Returns an inline table of numbers; empty where there is none."""
        made = {}
        for name, value in self._inline(key).items():
            if _is_number(value):
                made[name] = float(value)
            else:
                self.problem(f"{key}, {name}", f"{type(value).__name__}, expected a number")
        return made

    def list_of_texts(self, key: str) -> tuple[str, ...]:
        """Returns an array of texts; empty where there is none."""
        value = self.raw(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.problem(key, 'not an array of texts, expected one such as ["V1", "V2"]')
            return ()
        doubled = sorted({item for item in value if value.count(item) > 1})
        if doubled:
            self.problem(key, f"holds {', '.join(doubled)} twice, expected each once")
        return tuple(value)

    def table(self, key: str, *, required: bool = False) -> Table | None:
        """Returns a table under this one, or None where it is not there and need not be."""
        value = self.raw(key)
        place = f"[{key}]" if not self._place else f"{self._place[:-1]}.{key}]"
        if value is not None and not isinstance(value, dict):
            self._problems.append(f"{place}: {type(value).__name__}, expected a table of keys")
        if value is None and not required:
            return None
        return Table(place, value if isinstance(value, dict) else {}, self._problems)

    def cell(self, key: str, *, required: bool = False) -> Table | None:
        """Returns the inline table of a column; a bare text is short for `{ column = text }`."""
        value = self.raw(key)
        if isinstance(value, str):
            value = {"column": value}
        if isinstance(value, dict):
            return Table(f"{self._place} {key},", value, self._problems)
        if value is not None:
            self.problem(key, f'{type(value).__name__}, expected the name of a column, or {{ column = "…" }}')
        elif required:
            self.problem(key, "not there, expected the column that holds it")
        return None

    def others(self) -> list[str]:
        """Returns the keys that were not asked for yet."""
        return [key for key in self._raw if key not in self._asked]

    def close(self) -> None:
        """Notes every key that nothing asked for."""
        for key in self.others():
            self.problem(key[:64], f"unknown, expected {near(key[:64], self._asked)}")

    def _inline(self, key: str) -> dict[str, Any]:
        value = self.raw(key)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self.problem(key, f'{type(value).__name__}, expected an inline table {{ "…" = … }}')
        return {}


def _is_number(value: object) -> bool:
    # TOML's integers are not bounded, a float is.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
