"""The rule language: tokens, parser, syntax tree. A text is read, checked and printed here; nothing of it is ever run.

    rules      = one rule a line; blank lines and `# comments` are passed over
    rule       = [ "[" name "]" ] [ "shadow" ] ( "3ds" | "allow" | "block" | "review" ) "if" condition
    condition  = condition "or" condition | condition "and" condition | "not" condition | comparison
    comparison = value ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | value [ "not" ] "in" "(" constant { "," constant } ")" | ":entity:" [ "not" ] "in" "@list"
               | ":name:" "is" [ "not" ] "missing" | "true" | "false" | ":flag:" | "(" condition ")"
    value      = value ( "+" | "-" | "*" | "/" ) value | "-" value | constant | ":name:" | "(" value ")"

Operators bind as in SQL: `or`, `and`, `not`, comparisons, sums, products. Keywords may be in capitals, names may not.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Literal, NamedTuple, NoReturn

import msgspec

from decalog.errors import ConfigError

Kind = Literal["number", "text", "flag", "entity"]

ORDER = ("3ds", "allow", "block", "review")
"""Kinds of rules in the order of evaluation (Stripe, Radar rules reference)."""
MAX_RULES = 500
MAX_LINE = 4_000
"""Characters of one rule."""
MAX_NESTED = 40
MAX_ARITHMETIC = 50
"""Signs + − * / in one rule: each makes the tree one step deeper."""

_MAX_TOLD = 20
_ACTIONS = {"3ds": "step_up"}
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#.*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<word>3[dD][sS]\b|[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9]+(\.[0-9]+)?)
      | (?P<name>:[A-Za-z0-9_]+:)
      | (?P<list>@[A-Za-z0-9_]+)
      | (?P<label>\[[a-z][a-z0-9_]{0,39}\])
      | (?P<sign><=|>=|!=|[=<>+\-*/(),])""",
    re.VERBOSE,
)
_POWERS = {
    **dict.fromkeys(("=", "!=", "<", "<=", ">", ">=", "in", "is"), 4),
    **dict.fromkeys("+-", 5),
    **dict.fromkeys("*/", 6),
    "or": 1,
    "and": 2,
}
"""How tightly an operator binds."""
_NOT, _MINUS = 3, 7
_A = {"number": "a number", "text": "a text", "flag": "a condition", "entity": "an entity"}


class Node(msgspec.Struct, frozen=True):
    """A step of a condition.

    Args:
        op: `value`, `name`, `minus`, `not`, `in`, `listed`, `missing`, or the operator as written.
        parts: what it is made of; of `and` and `or` as many as stand side by side, of `in` the value and its options.
        value: of a constant; the name of a name or list.
        kind: of its result.
    """

    op: str
    parts: tuple[Node, ...] = ()
    value: float | str | bool = ""
    kind: Kind = "flag"

    def __str__(self) -> str:
        return _printed(self)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule.

    Args:
        name: as its writer gave it, or "".
        does: one of ORDER.
        shadow: whether it only notes what it would do.
        condition: when it matches.
        line: of the text, from 1.
    """

    name: str
    does: str
    shadow: bool
    condition: Node
    line: int

    @property
    def title(self) -> str:
        """How people are told of it."""
        return self.name or f"of line {self.line}"

    def after(self, action: str) -> str:
        """Returns the action that it makes of another: 3-D Secure is asked for only where nothing stricter happens."""
        wanted = _ACTIONS.get(self.does, self.does)
        return wanted if self.does != "3ds" or action == "allow" else action

    def __str__(self) -> str:
        label = f"[{self.name}] " if self.name else ""
        return f"{label}{'shadow ' if self.shadow else ''}{self.does} if {self.condition}"


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """What rules may name.

    Args:
        kinds: name → what it is; `@entity` for what can stand on lists.
        lists: names of lists.
        refused: name → why it cannot be named, for names that a writer may well try.
    """

    kinds: Mapping[str, Kind]
    lists: tuple[str, ...]
    refused: Mapping[str, str]


class _Token(NamedTuple):
    kind: str
    text: str
    column: int

    @property
    def shown(self) -> str:
        """How an error names it; what a text holds may be somebody's, and is never told."""
        return {"text": "a text", "end": "the end of the line"}.get(self.kind, f"'{self.text}'")


class _WrongError(Exception):
    """What is wrong in one line: (column, what)."""


def parse(text: str, vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Returns the rules of a text in the order of evaluation; within a kind, in the order of the text.

    Raises:
        ConfigError: something is wrong; the first fault of every line is named, with line and column.
    """
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip() and line.lstrip()[0] != "#"]
    rules, problems, named = list[Rule](), list[str](), dict[str, int]()
    if len(lines) > MAX_RULES:
        problems.append(f"line {lines[MAX_RULES][0]}, column 1: more than {MAX_RULES} rules")
    for line, written in lines[:MAX_RULES]:
        try:
            rule = _Parser(written, vocabulary).rule(line)
        except _WrongError as wrong:
            column, what = wrong.args
            problems.append(f"line {line}, column {column}: {what}")
            continue
        if rule.name and named.setdefault(rule.name, line) != line:
            problems.append(f"line {line}, column 1: the name '{rule.name}' is taken by line {named[rule.name]}")
        rules.append(rule)
    if problems:
        more = len(problems) - _MAX_TOLD
        raise ConfigError(
            where="fraud rules",
            given="; ".join(problems[:_MAX_TOLD]) + (f"; and {more} more" if more > 0 else ""),
            expected="rules such as: [far_away] block if :ip_country: != :card_country: and :amount_minor: > 20000",
            fix="Mend every line named here; no rule of the set was taken.",
        )
    return tuple(sorted(rules, key=lambda rule: ORDER.index(rule.does)))


def _tokens(written: str) -> Iterator[_Token]:
    if len(written) > MAX_LINE:
        raise _WrongError(MAX_LINE + 1, f"more than {MAX_LINE} characters")
    place = 0
    while place < len(written):
        found = _TOKEN.match(written, place)
        if found is None:
            what = "an unclosed or misspelt" if written[place] in "'\":[" else "an unknown sign"
            raise _WrongError(place + 1, f"{what} {written[place]!r}")
        kind, word = str(found.lastgroup), found[0]
        if kind != "blank":
            yield _Token(kind, word.lower() if kind == "word" else word, place + 1)
        place = found.end()
    yield _Token("end", "", len(written) + 1)


class _Parser:
    """Reads one rule by precedence climbing (Pratt, POPL 1973); kinds are checked as it goes."""

    def __init__(self, written: str, vocabulary: Vocabulary) -> None:
        self._tokens = list(_tokens(written))
        self._vocabulary = vocabulary
        self._place = self._nested = self._arithmetic = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def rule(self, line: int) -> Rule:
        name = self._take().text[1:-1] if self._next.kind == "label" else ""
        shadow = self._took("shadow")
        does = self._next
        if does.text not in ORDER:
            self._fail(does, "3ds, allow, block or review", near=_closest(does.text, ORDER))
        self._place += 1
        self._expect("if")
        condition = self._expression("flag")
        if self._next.kind != "end":
            self._fail(self._next, "the end of the rule, `and` or `or`")
        return Rule(name=name, does=does.text, shadow=shadow, condition=condition, line=line)

    def _take(self) -> _Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _took(self, text: str) -> bool:
        """Returns whether a keyword or sign stood here; it is taken then."""
        is_it = self._next.kind in ("word", "sign") and self._next.text == text
        self._place += is_it
        return is_it

    def _expect(self, text: str) -> None:
        if not self._took(text):
            self._fail(self._next, f"'{text}'")

    def _fail(self, token: _Token, expected: str, *, near: str = "") -> NoReturn:
        raise _WrongError(token.column, f"{token.shown} where {expected} is expected{near}")

    def _expression(self, wanted: Kind | None = None, *, above: int = 0) -> Node:
        """Returns what stands here, as far as operators bind more tightly than `above`."""
        first = self._next
        self._nested += 1
        if self._nested > MAX_NESTED:
            raise _WrongError(first.column, f"nested deeper than {MAX_NESTED}")
        node = self._operand()
        while (token := self._operator()) is not None and _POWERS[token.text] > above:
            node = self._joined(node, token, first)
        self._nested -= 1
        return node if wanted is None else _checked(node, wanted, first)

    def _operator(self) -> _Token | None:
        token = self._next
        if token.text == "not" and self._tokens[self._place + 1].text == "in":
            return self._tokens[self._place + 1]
        return token if token.kind in ("word", "sign") and token.text in _POWERS else None

    def _operand(self) -> Node:
        token = self._take()
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            node = self._expression()
            self._expect(")")
            return node
        if token.text == "not":
            return Node("not", (self._expression("flag", above=_NOT),))
        if token.text == "-":
            return _negative(self._expression("number", above=_MINUS))
        return self._constant(token)

    def _constant(self, token: _Token) -> Node:
        if token.kind == "sign" and token.text == "-" and self._next.kind == "number":
            return _negative(self._constant(self._take()))
        if token.kind == "number":
            value = float(token.text)
            if not math.isfinite(value):
                raise _WrongError(token.column, "a number that is too large")
            return Node("value", value=value, kind="number")
        if token.kind == "text":
            return Node("value", value=token.text[1:-1], kind="text")
        if token.text not in ("true", "false"):
            self._fail(token, "a value")
        return Node("value", value=token.text == "true")

    def _named(self, token: _Token) -> Node:
        name, words = token.text[1:-1], self._vocabulary
        if name in words.refused:
            raise _WrongError(token.column, f"{token.text} {words.refused[name]}")
        if name not in words.kinds:
            raise _WrongError(token.column, f"{token.text} is not known{_closest(name, words.kinds)}")
        return Node("name", value=name, kind=words.kinds[name])

    def _joined(self, left: Node, token: _Token, first: _Token) -> Node:
        """Returns `left` with the operator and what stands right of it."""
        op, negated = token.text, self._took("not")
        self._place += 1
        if op == "in":
            node = self._among(left, first)
        elif op == "is":
            negated = self._took("not")
            self._expect("missing")
            if left.op != "name":
                raise _WrongError(first.column, "only of a :name: it can be asked whether it is missing")
            node = Node("missing", (left,))
        else:
            return self._binary(left, token, first)
        return Node("not", (node,)) if negated else node

    def _among(self, left: Node, first: _Token) -> Node:
        if self._next.kind == "list":
            return self._listed(left, first)
        self._expect("(")
        if left.kind not in ("number", "text"):
            raise _WrongError(first.column, f"{_A[left.kind]} where a number or a text is expected")
        options = [self._option(left.kind)]
        while self._took(","):
            options.append(self._option(left.kind))
        self._expect(")")
        return Node("in", (left, *options))

    def _option(self, kind: Kind) -> Node:
        token = self._take()
        return _checked(self._constant(token), kind, token)

    def _listed(self, left: Node, first: _Token) -> Node:
        token, words = self._take(), self._vocabulary
        if left.op != "name" or f"@{left.value}" not in words.kinds:
            raise _WrongError(first.column, "only entities stand on lists, such as :card: or :ip:")
        if token.text[1:] not in words.lists:
            raise _WrongError(token.column, f"there is no list {token.text}{_closest(token.text[1:], words.lists)}")
        return Node("listed", (left,), token.text[1:])

    def _binary(self, left: Node, token: _Token, first: _Token) -> Node:
        op, right_first = token.text, self._next
        right = self._expression(above=_POWERS[op])
        kind: Kind = "flag" if op in ("and", "or") else "number"
        if op in ("=", "!="):
            # An entity equals nothing that a rule could know.
            kind = left.kind if left.kind != "entity" else "text"
        _checked(left, kind, first)
        _checked(right, kind, right_first)
        if op in ("and", "or"):
            return Node(op, (*(left.parts if left.op == op else (left,)), right))
        if op not in "+-*/":
            return Node(op, (left, right))
        self._arithmetic += 1
        if self._arithmetic > MAX_ARITHMETIC:
            raise _WrongError(token.column, f"more than {MAX_ARITHMETIC} of the signs + - * /")
        return Node(op, (left, right), kind="number")


def _checked(node: Node, wanted: Kind, first: _Token) -> Node:
    if node.kind != wanted:
        hint = ", which only `in @list` and `is missing` can test," if node.kind == "entity" else ""
        raise _WrongError(first.column, f"{_A[node.kind]}{hint} where {_A[wanted]} is expected")
    return node


def _negative(node: Node) -> Node:
    if node.op == "value" and isinstance(node.value, float):
        return Node("value", value=-node.value, kind="number")
    return Node("minus", (node,), kind="number")


def _closest(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name[:64], [word for word in known if word[0] != "@"], n=1)
    return f", closest is {match[0]}" if match else ""


def _printed(node: Node, above: int = 0) -> str:
    """Returns a condition as the language writes it, in brackets where something around it binds more tightly."""
    parts, op = node.parts, node.op
    power = _NOT if op == "not" else _POWERS.get(op, _MINUS if op in ("value", "name", "minus") else _POWERS["is"])
    first = _printed(parts[0], power) if parts else ""
    if len(parts) > 1 and op != "in":
        text = f" {op} ".join([first, *(_printed(part, power + 1) for part in parts[1:])])
    else:
        text = {
            "value": constant_text(node.value),
            "name": f":{node.value}:",
            "minus": f"-{first}",
            "not": f"not {first}",
            "missing": f"{first} is missing",
            "listed": f"{first} in @{node.value}",
            "in": f"{first} in ({', '.join(map(_printed, parts[1:]))})",
        }[op]
    return f"({text})" if power < above else text


def constant_text(value: float | str | bool) -> str:  # noqa: FBT001 - a constant of the language may be a flag
    """Returns a constant as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if "'" in value else f"'{value}'"
    return format(Decimal(repr(value)), "f").removesuffix(".0")
