"""What a feature says about itself: one frozen, printable value a feature, each with its unit and its missing value.

`definition.py` puts them together in a set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import msgspec

from decalog.clock import DAY, duration_us
from decalog.errors import ConfigError, near
from decalog.features.facts import ALL, HALVING, HALVINGS

AggregateName = Literal[
    "count", "sum", "mean", "min", "max", "std", "first", "last", "decayed", "distinct", "time_since"
]
Use = Literal["model", "policy"]
Part = Literal["hour_of_day", "day_of_week"]
Test = Literal["==", "!=", "<", "<=", ">", ">=", "in"]

ORDERED = ("<", "<=", ">", ">=")
RESERVED_TABLES = frozenset({"changes", "features", "policy", "policy_tried", "rates", "rollout", "runtime", "signals"})
"""Tables of the log that decalog itself keeps."""

_LONGEST_US = 3_660 * DAY
_WINDOWS = ("60s", "5m", "10m", "1h", "6h", "1d", "7d", "30d", "90d")
_PAIR = 2
_FEWEST_BUCKETS, _MOST_BUCKETS = 2, 1_000_000


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What every feature says about itself.

    Args:
        name: of the column, unique in its set, an identifier; the unit stands in it (`card_payments_1h`).
        meaning: one line in the field's words.
        unit: of the value (`payments`, `EUR cents`, `s`, `1` for none).
        use: `model` for the model's input, `policy` for views that only the policy reads.
        owner: who answers for it.
    """

    name: str
    meaning: str
    unit: str
    use: Use = "model"
    owner: str = ""

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        if not self.name.isidentifier():
            yield "its name is not an identifier, expected letters, digits and _ such as card_payments_1h"
        for part in ("meaning", "unit"):
            if not getattr(self, part):
                yield f"no {part}, expected a line that a reader understands (unit 1 for none)"
        if self.use not in get_args(Use):
            yield f"use {self.use!r}, expected {near(str(self.use), get_args(Use))}"


class Condition(msgspec.Struct, frozen=True):
    """A test of one public attribute of a row; a row without the attribute fails it.

    Args:
        attribute: its name.
        test: `==`, `!=`, `in`; `<`, `<=`, `>`, `>=` for numbers, which texts fail.
        value: what it is compared with; several for `in`. Numbers and flags compare as numbers, texts as texts.

    >>> print(Condition("channel", "in", ("ecom", "moto")))
    channel in ('ecom', 'moto')
    """

    attribute: str
    test: Test
    value: int | float | str | tuple[int | float | str, ...]

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the condition."""
        if self.test not in get_args(Test):
            yield f"where {self}: test {self.test!r}, expected {near(str(self.test), get_args(Test))}"
        elif (self.test == "in") != isinstance(self.value, tuple):
            yield f"where {self}: expected several values for 'in' and one for any other test"
        elif self.test in ORDERED and isinstance(self.value, str):
            yield f"where {self}: expected a number for {self.test}"

    def __str__(self) -> str:
        return f"{self.attribute} {self.test} {self.value!r}"


class Aggregate(Declared, frozen=True, kw_only=True, tag="aggregate"):
    """A number over an entity's rows in the window (t − offset − window, t − offset], exact to the microsecond.

    Empty windows: count, sum and decayed 0, the rest `missing`. A missing entity gives `missing` for all.

    Args:
        entity: whose rows; two joined by + for the rows that both have (`card+merchant`); `all` is the constant entity
            that every row belongs to.
        aggregate: count of rows; sum, mean, min, max or std (of the population) of an int attribute (flags count as 0
            and 1); its first or last value; decayed, the sum of its values, or without a column of the rows, each
            weighing half as much after each `half_life`; number of distinct entity tokens, texts or ints; or time
            since the newest row, in seconds.
        over: kinds of rows, such as `payment`, `decision.review`, `outcome.chargeback` (when it was reported) or
            `labelled.chargeback` (the request that it is about, at the request's time).
        window: w, from 1us; `60s`, `10m`, `1h`, `7d`.
        column: attribute (or entity, for distinct) that is aggregated; "" for count, time_since and, where rows are
            counted, decayed. A row whose column is absent, of another type, or beyond `bound` does not enter this
            aggregate and still enters others.
        where: conditions that all have to hold for a row to enter.
        offset: how long before t the window ends: as long as labels take.
        half_life: of decayed; at least a sixteenth of the window, since weights are told apart for 16 half-lives.
        own: whether the request's own event is folded first.
        missing: the value where there is none; None means 0 for count, sum and decayed, −1 for the rest.
        crowded: the value where the entity has had more rows than `FeatureSet.retain` since the window began, so that
            not all of them are held; best a number that no window gives.
        bound: most |value| of a row; with the rows an entity may hold it keeps int64 from wrapping.
        staleness: longest silence of all its kinds of rows before the feature counts as stale; "" for no bound.

    >>> feature = Aggregate(name="card_payments_1h", meaning="payments of the card in the last hour", unit="payments",
    ...                     entity="card", aggregate="count", over=("payment",), window="1h")
    >>> print(feature)
    card_payments_1h: count of payment rows by card in (t − 1h, t] [payments]
    >>> feature.window_us, feature.missing_value
    (3600000000, 0.0)
    """

    entity: str
    aggregate: AggregateName
    over: tuple[str, ...]
    window: str
    column: str = ""
    own: bool = True
    missing: float | None = None
    crowded: float = -2.0
    bound: int = 10**12
    where: tuple[Condition, ...] = ()
    offset: str = ""
    half_life: str = ""
    staleness: str = ""

    @property
    def window_us(self) -> int:
        """The window in µs."""
        return duration_us(self.window)

    @property
    def offset_us(self) -> int:
        """The offset in µs, 0 for none."""
        return duration_us(self.offset) if self.offset else 0

    @property
    def reach_us(self) -> int:
        """How far before t the window begins, µs."""
        return self.offset_us + self.window_us

    @property
    def entities(self) -> tuple[str, ...]:
        """The entities whose rows are aggregated: one, or a pair."""
        return tuple(self.entity.split("+"))

    @property
    def missing_value(self) -> float:
        """What stands for a missing value."""
        if self.missing is None:
            return 0.0 if self.aggregate in ("count", "sum", "decayed") else -1.0
        return float(self.missing)

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from Declared.problems(self)
        yield from duration_problems("window", self.window, least_us=1)
        for name in ("offset", "staleness"):
            if getattr(self, name):
                yield from duration_problems(name, getattr(self, name), least_us=1)
        yield from missing_problems(self.missing)
        if not math.isfinite(self.crowded) or self.crowded in (0, self.missing_value):
            yield f"crowded {self.crowded}, expected a finite number that is neither 0 nor the missing value"
        if self.aggregate not in get_args(AggregateName):
            yield f"aggregate {self.aggregate!r}, expected {near(str(self.aggregate), get_args(AggregateName))}"
        yield from self._row_problems()
        for condition in self.where:
            yield from condition.problems()
        if self.aggregate == "time_since" and self.unit != "s":
            yield f"unit {self.unit!r}, expected 's': time_since is measured in seconds"
        yield from self._decay_problems()

    def _row_problems(self) -> Iterator[str]:
        names = set(self.entities)
        if not all(names) or len(names) < len(self.entities) or len(names) > (1 if ALL in names else _PAIR):
            yield f"entity {self.entity!r}, expected the name of one, two joined by +, or {ALL!r}"
        if not self.over or len(set(self.over)) < len(self.over):
            yield f"over {self.over!r}, expected at least one kind of row, each once"
        if self.aggregate == "decayed":
            return
        wants_column = self.aggregate not in ("count", "time_since")
        if wants_column != bool(self.column):
            wanted = "the name of one" if wants_column else "none"
            yield f"column {self.column!r}, expected {wanted} for {self.aggregate}"

    def _decay_problems(self) -> Iterator[str]:
        if (self.aggregate == "decayed") != bool(self.half_life):
            yield f"half_life {self.half_life!r}, expected one for decayed and none for any other aggregate"
        if not self.half_life:
            return
        found = list(duration_problems("half_life", self.half_life, least_us=HALVING))
        yield from found
        if not found and not list(duration_problems("window", self.window, least_us=1)):
            most_us = HALVINGS * duration_us(self.half_life)
            if self.window_us > most_us:
                yield f"window {self.window!r}, expected at most {HALVINGS} half-lives of {self.half_life}"

    def __str__(self) -> str:
        what = f"{self.aggregate}({self.column})" if self.column else self.aggregate
        what += f" (half-life {self.half_life})" if self.half_life else ""
        where = f" where {' and '.join(map(str, self.where))}" if self.where else ""
        own = "" if self.own else ", own event left out"
        rows = " and ".join(self.over)
        end = f"t − {self.offset}" if self.offset else "t"
        window = f"({end} − {self.window}, {end}]"
        return f"{self.name}: {what} of {rows} rows{where} by {self.entity} in {window}{own} [{self.unit}]"


class _FromRequest(Declared, frozen=True, kw_only=True):
    """A feature of the request alone."""

    missing: float = -1.0

    @property
    def missing_value(self) -> float:
        """What stands for a missing value."""
        return float(self.missing)

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from Declared.problems(self)
        yield from missing_problems(self.missing)


class Attribute(_FromRequest, frozen=True, kw_only=True, tag="attribute"):
    """A number of the request as it is (flags 0 or 1); missing where it is absent, a text, or not finite.

    >>> print(Attribute(name="amount_minor", meaning="amount of the payment", unit="minor units",
    ...                 attribute="amount_minor"))
    amount_minor: attribute amount_minor of the request [minor units]
    """

    attribute: str

    def __str__(self) -> str:
        return f"{self.name}: attribute {self.attribute} of the request [{self.unit}]"


class Category(_FromRequest, frozen=True, kw_only=True, tag="category"):
    """The index of a text of the request in the vocabulary; its length for an unseen one, missing where it is absent.

    >>> print(Category(name="channel", meaning="where the payment came from", unit="index", attribute="channel",
    ...                vocabulary=("web", "app")))
    channel: index of attribute channel among web, app [index]
    """

    attribute: str
    vocabulary: tuple[str, ...]

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from _FromRequest.problems(self)
        if not self.vocabulary or len(set(self.vocabulary)) < len(self.vocabulary):
            yield f"vocabulary {self.vocabulary!r}, expected at least one text, each once"

    def __str__(self) -> str:
        return f"{self.name}: index of attribute {self.attribute} among {', '.join(self.vocabulary)} [{self.unit}]"


class Same(_FromRequest, frozen=True, kw_only=True, tag="same"):
    """1 where two attributes of the request are equal, 0 where they differ, missing where either is absent.

    >>> print(Same(name="same_country", meaning="card and IP address are of one country", unit="1",
    ...            left="card_country", right="ip_country"))
    same_country: 1 if card_country equals ip_country, else 0 [1]
    """

    left: str
    right: str

    def __str__(self) -> str:
        return f"{self.name}: 1 if {self.left} equals {self.right}, else 0 [{self.unit}]"


class Calendar(Declared, frozen=True, kw_only=True, tag="calendar"):
    """The hour of the day (0–23) or the day of the week (0 = Monday … 6) of t, in UTC; never missing.

    >>> print(Calendar(name="hour_utc", meaning="hour of the day", unit="h", part="hour_of_day"))
    hour_utc: hour_of_day of t, UTC [h]
    """

    part: Part

    @property
    def missing_value(self) -> float:
        """What stands in the vector before the value is written."""
        return -1.0

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from Declared.problems(self)
        if self.part not in get_args(Part):
            yield f"part {self.part!r}, expected {near(str(self.part), get_args(Part))}"

    def __str__(self) -> str:
        return f"{self.name}: {self.part} of t, UTC [{self.unit}]"


class Cross(_FromRequest, frozen=True, kw_only=True, tag="cross"):
    """Which of `buckets` a pair of attributes of the request falls into, by their hash; missing where one is absent.

    >>> print(Cross(name="mcc_by_country", meaning="what is bought where", unit="index", left="mcc",
    ...             right="card_country", buckets=64))
    mcc_by_country: one of 64 buckets of (mcc, card_country) of the request [index]
    """

    left: str
    right: str
    buckets: int

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from _FromRequest.problems(self)
        if not _FEWEST_BUCKETS <= self.buckets <= _MOST_BUCKETS:
            yield f"buckets {self.buckets}, expected {_FEWEST_BUCKETS} to {_MOST_BUCKETS}"

    def __str__(self) -> str:
        return f"{self.name}: one of {self.buckets} buckets of ({self.left}, {self.right}) of the request [{self.unit}]"


class Lookup(_FromRequest, frozen=True, kw_only=True, tag="lookup"):
    """What a versioned table of the log, as known at the decision's position, holds for something of the request.

    The table is a JSON object of numbers by text (ints are looked up by their digits). The key is an attribute, or an
    entity that has no public value: a table of such an entity holds numbers by its tokens. Missing where the key is
    absent, or the table has no number for it, or is not there yet.

    >>> print(Lookup(name="mcc_risk", meaning="chargebacks by category, last quarter", unit="1", table="mcc_risk",
    ...              key="mcc"))
    mcc_risk: table mcc_risk at mcc of the request [1]
    """

    table: str
    key: str

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from _FromRequest.problems(self)
        if not self.table.isidentifier() or self.table in RESERVED_TABLES:
            yield f"table {self.table!r}, expected a name of its own; taken are {', '.join(sorted(RESERVED_TABLES))}"

    def __str__(self) -> str:
        return f"{self.name}: table {self.table} at {self.key} of the request [{self.unit}]"


class _Derived(Declared, frozen=True, kw_only=True):
    """A feature of features that are declared before it; missing where one of them is missing or crowded."""

    missing: float = -1.0

    @property
    def missing_value(self) -> float:
        """What stands for a missing value."""
        return float(self.missing)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the features that it is derived from."""
        return ()

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from Declared.problems(self)
        yield from missing_problems(self.missing)


class Ratio(_Derived, frozen=True, kw_only=True, tag="ratio"):
    """One feature divided by another; missing where the divisor is 0 as well.

    A part is missing where it has its declared missing value and that is not 0 (a count of 0 is a number), or its
    crowded value.

    >>> print(Ratio(name="card_pace", meaning="the hour's share of the month", unit="1", numerator="card_payments_1h",
    ...             denominator="card_payments_30d"))
    card_pace: card_payments_1h / card_payments_30d [1]
    """

    numerator: str
    denominator: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the features that it is derived from."""
        return (self.numerator, self.denominator)

    def __str__(self) -> str:
        return f"{self.name}: {self.numerator} / {self.denominator} [{self.unit}]"


class Rate(_Derived, frozen=True, kw_only=True, tag="rate"):
    """A count or sum over a window, per unit of time: value / (window / per).

    >>> print(Rate(name="card_pace_1h", meaning="payments an hour", unit="payments/h", of="card_payments_1d", per="1h"))
    card_pace_1h: card_payments_1d per 1h [payments/h]
    """

    of: str
    per: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the features that it is derived from."""
        return (self.of,)

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from _Derived.problems(self)
        yield from duration_problems("per", self.per, least_us=1)

    def __str__(self) -> str:
        return f"{self.name}: {self.of} per {self.per} [{self.unit}]"


class ZScore(_Derived, frozen=True, kw_only=True, tag="z_score"):
    """How many standard deviations a value lies from a mean; missing where the deviation is 0 as well.

    With a mean and a std over the entity's earlier rows (`own=False`) it says how unusual the request is for whom it
    is about.

    >>> print(ZScore(name="amount_z", meaning="amount against the card's month", unit="1", value="amount",
    ...              mean="card_mean_30d", std="card_std_30d"))
    amount_z: (amount − card_mean_30d) / card_std_30d [1]
    """

    value: str
    mean: str
    std: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the features that it is derived from."""
        return (self.value, self.mean, self.std)

    def __str__(self) -> str:
        return f"{self.name}: ({self.value} − {self.mean}) / {self.std} [{self.unit}]"


Derived = Ratio | Rate | ZScore
Feature = Aggregate | Attribute | Category | Same | Cross | Lookup | Calendar | Ratio | Rate | ZScore


def duration_problems(name: str, text: str, *, least_us: int) -> Iterator[str]:
    """Yields what is wrong with a duration of a declaration."""
    try:
        length = duration_us(text)
    except ConfigError as error:
        close = near(text.replace(" ", ""), _WINDOWS)
        yield f"{name} {text!r}, expected {error.expected}; {close}"
        return
    if not least_us <= length <= _LONGEST_US:
        yield f"{name} {text!r}, expected {least_us}us to {_LONGEST_US // DAY}d"


def missing_problems(missing: float | None) -> Iterator[str]:
    """Yields what is wrong with a missing value."""
    if missing is not None and not math.isfinite(missing):
        yield f"missing {missing}, expected a finite number such as -1"
