"""A rule set: rules compiled to closures over the facts of a case, each fact read once.

A missing fact makes a comparison unknown, and so does arithmetic that has no finite result; `and`, `or` and `not` are
Kleene's: `false and unknown` is false, `true or unknown` is true, anything else with an unknown is unknown. A rule
matches only where its condition is true (as Radar's rules have done since May 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import add, eq, ge, gt, itemgetter, le, lt, mul, ne, neg, not_, sub, truediv
from typing import Any

import msgspec

from decalog.ingest import Rates
from decalog.policy import Case
from decalog.systems.fraud.rules.facts import Value, facts, vocabulary
from decalog.systems.fraud.rules.language import Node, Rule, parse

_Row = Sequence[Value]
_Step = Callable[[_Row], Value]
_COMPARED: dict[str, Callable[[Any, Any], Value]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_OF_CONSTANT = {"=": "__eq__", "!=": "__ne__", "<": "__gt__", "<=": "__ge__", ">": "__lt__", ">=": "__le__"}
_COUNTED: dict[str, Callable[[Any, Any], float]] = {"+": add, "-": sub, "*": mul, "/": truediv}


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
        known = facts(rates or Rates())
        self.rules = parse(text, vocabulary(known, lists))
        compiler = _Compiler(lists)
        self._conditions = [(rule, compiler.step(rule.condition)) for rule in self.rules]
        self._readers = [known[name].read for name in compiler.names]

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
            # An entity that no list knows has −1.
            return _known(
                lambda lists: lists >= 0 and int(lists) >> bit & 1 == 1, self._fact(f"@{node.parts[0].value}")
            )
        return _inner(node, [self.step(part) for part in node.parts])

    def _fact(self, name: str) -> _Step:
        get: _Step = itemgetter(self.names.setdefault(name, len(self.names)))
        return get


def _inner(node: Node, parts: Sequence[_Step]) -> _Step:
    op, last = node.op, node.parts[-1]
    if op in ("and", "or"):
        return _joined(parts, decisive=op == "or")
    if op in _COMPARED and last.op == "value":
        # The same by a method of the constant: two calls less in what most conditions are.
        return _known(getattr(last.value, _OF_CONSTANT[op]), parts[0])
    if op in _COMPARED or op in _COUNTED:
        return _both(_COMPARED.get(op) or _finite(_COUNTED[op]), parts[0], parts[1])
    if op == "missing":
        return lambda row: parts[0](row) is None
    changes: dict[str, Callable[[Any], Value]] = {"not": not_, "minus": neg}
    return _known(changes.get(op) or frozenset(option.value for option in node.parts[1:]).__contains__, parts[0])


def _joined(parts: Sequence[_Step], *, decisive: bool) -> _Step:
    """Returns `or` where true is decisive, `and` where false is."""

    def step(row: _Row) -> Value:
        whole: Value = not decisive
        for part in parts:
            value = part(row)
            if value is decisive:
                return decisive
            if value is None:
                whole = None
        return whole

    return step


def _both(join: Callable[[Any, Any], Value], left: _Step, right: _Step) -> _Step:
    def step(row: _Row) -> Value:
        one, other = left(row), right(row)
        return None if one is None or other is None else join(one, other)

    return step


def _known(change: Callable[[Any], Value], part: _Step) -> _Step:
    def step(row: _Row) -> Value:
        value = part(row)
        return None if value is None else change(value)

    return step


def _finite(count: Callable[[Any, Any], float]) -> Callable[[Any, Any], Value]:
    def counted(one: float, other: float) -> Value:
        value = math.nan if count is truediv and other == 0 else count(one, other)
        return value if math.isfinite(value) else None

    return counted
