"""A rule set: rules compiled to closures over the facts of a case, each fact read once.

A missing fact makes a comparison unknown, and so does arithmetic that has no finite result; `and`, `or` and `not` are
Kleene's: `false and unknown` is false, `true or unknown` is true, anything else with an unknown is unknown. A rule
matches only where its condition is true (as Radar's rules have done since May 2024).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from decalog.ingest import Rates
from decalog.policy import Case
from decalog.systems.fraud.rules.facts import LISTS, Fact, Reader, reader, vocabulary
from decalog.systems.fraud.rules.language import Node, Rule, parse

_Step = Callable[[Sequence[Fact]], Fact]
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COUNTED: dict[str, Callable[[Any, Any], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Ruling(msgspec.Struct, frozen=True):
    """What the rules say of a case.

    Args:
        acting: what changes or confirms the action, in the order in which it is applied: the first match of allow,
            block and review, then the first that asks for 3-D Secure.
        shadows: shadow rules that match.
    """

    acting: tuple[Rule, ...] = ()
    shadows: tuple[Rule, ...] = ()


class RuleSet:
    """Rules that can be tried on cases; it never raises on one.

    Args:
        text: of the rules.
        rates: for amounts in other currencies.
        lists: names of the lists, in the order of the bits of `<entity>_lists`.

    Raises:
        ConfigError: something is wrong in the text; all lines are named.

    >>> [str(rule) for rule in RuleSet("Block if :amount_in_eur: >= 500.00 AND :ip: is missing").rules]
    ['block if :amount_in_eur: >= 500 and :ip: is missing']
    """

    def __init__(self, text: str, *, rates: Rates | None = None, lists: tuple[str, ...] = ()) -> None:
        rates = rates or Rates()
        self.rules = parse(text, vocabulary(rates, lists))
        compiler = _Compiler(lists)
        self._conditions = [(rule, compiler.step(rule.condition)) for rule in self.rules]
        self._readers: list[Reader] = [reader(name, rates) for name in compiler.names]

    def matches(self, case: Case) -> list[bool]:
        """Returns for every rule whether it matches, whatever the others say."""
        row = [read(case) for read in self._readers]
        return [holds(row) is True for _, holds in self._conditions]

    def ruling(self, case: Case) -> Ruling:
        """Returns what the rules say: of 3-D Secure the first match counts, and of the other three together."""
        if not self.rules:
            return _SILENT
        row = [read(case) for read in self._readers]
        found: dict[bool, Rule] = {}
        shadows = []
        for rule, holds in self._conditions:
            # True sorts behind: 3-D Secure is asked for after the action is known.
            part = rule.does == "3ds"
            if (rule.shadow or part not in found) and holds(row) is True:
                if rule.shadow:
                    shadows.append(rule)
                else:
                    found[part] = rule
        return Ruling(tuple(found[part] for part in sorted(found)), tuple(shadows))


_SILENT = Ruling()


class _Compiler:
    """Turns conditions into closures; `names` are the facts that they read, by their place in the row."""

    def __init__(self, lists: tuple[str, ...]) -> None:
        self._lists = lists
        self.names: dict[str, int] = {}

    def step(self, node: Node) -> _Step:
        """Returns the closure of a node."""
        if node.op == "value":
            return lambda _row: node.value
        if node.op == "name":
            return self._fact(str(node.value))
        if node.op == "listed":
            bit = self._lists.index(str(node.value))
            return _listed(self._fact(f"{node.parts[0].value}{LISTS}"), bit)
        parts = [self.step(part) for part in node.parts]
        if node.op in ("and", "or"):
            return _any(parts, decisive=node.op == "or")
        if node.op in _COMPARED:
            return _compared(_COMPARED[node.op], parts[0], parts[1])
        if node.op in _COUNTED:
            return _counted(_COUNTED[node.op], parts[0], parts[1])
        if node.op == "in":
            return _known(frozenset(part.value for part in node.parts[1:]).__contains__, parts[0])
        if node.op == "missing":
            return lambda row: parts[0](row) is None
        return _known(operator.not_ if node.op == "not" else operator.neg, parts[0])

    def _fact(self, name: str) -> _Step:
        place = self.names.setdefault(name, len(self.names))
        get: _Step = operator.itemgetter(place)
        return get


def _any(parts: Sequence[_Step], *, decisive: bool) -> _Step:
    """Returns `or` where true is decisive, `and` where false is."""

    def step(row: Sequence[Fact]) -> Fact:
        whole: Fact = not decisive
        for part in parts:
            value = part(row)
            if value is decisive:
                return decisive
            if value is None:
                whole = None
        return whole

    return step


def _compared(compare: Callable[[Any, Any], bool], left: _Step, right: _Step) -> _Step:
    def step(row: Sequence[Fact]) -> Fact:
        one, other = left(row), right(row)
        return None if one is None or other is None else compare(one, other)

    return step


def _counted(count: Callable[[Any, Any], float], left: _Step, right: _Step) -> _Step:
    def step(row: Sequence[Fact]) -> Fact:
        one, other = left(row), right(row)
        if one is None or other is None or (count is operator.truediv and other == 0):
            return None
        value = count(one, other)
        return value if math.isfinite(value) else None

    return step


def _known(change: Callable[[Any], Fact], part: _Step) -> _Step:
    def step(row: Sequence[Fact]) -> Fact:
        value = part(row)
        return None if value is None else change(value)

    return step


def _listed(lists: _Step, bit: int) -> _Step:
    """Returns whether a list's bit is set; an entity that no list knows has −1 and stands on none."""

    def step(row: Sequence[Fact]) -> Fact:
        value = lists(row)
        return None if value is None else isinstance(value, float) and value >= 0 and int(value) >> bit & 1 == 1

    return step
