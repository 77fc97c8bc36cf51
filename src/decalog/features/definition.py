"""Features as data: what is computed, over which rows, in which window, and what stands for a missing value.

A declaration is a frozen, hashable value with a JSON form. Online and offline read the same declaration, and its
version names it in every decision.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec

from decalog.clock import DAY, duration_us
from decalog.errors import ConfigError, near
from decalog.features.facts import ALL
from decalog.schema import Schema

AggregateName = Literal["count", "sum", "mean", "distinct", "time_since"]
Use = Literal["model", "policy"]
Part = Literal["hour_of_day", "day_of_week"]

_LONGEST_US = 3_660 * DAY
_MOST_KINDS = 62
_INT64 = 2**63
_WINDOWS = ("60s", "5m", "10m", "1h", "6h", "1d", "7d", "30d", "90d")


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


class Aggregate(Declared, frozen=True, kw_only=True, tag="aggregate"):
    """A number over an entity's rows in the window (t − window, t], exact to the microsecond.

    Empty windows: count 0, sum 0, the rest `missing`. A missing entity gives `missing` for all.

    Args:
        entity: whose rows; `all` is the constant entity that every row belongs to.
        aggregate: count of rows; sum or mean of an int attribute (flags count as 0 and 1); number of distinct entity
            tokens, texts or ints; or time since the newest row, in seconds.
        over: kinds of rows, such as `payment` or `decision.review`.
        window: w, from 1us; `60s`, `10m`, `1h`, `7d`.
        column: attribute (or entity, for distinct) that is aggregated; "" for count and time_since. A row whose column
            is absent, of another type, or beyond `bound` does not enter this aggregate and still enters others.
        own: whether the request's own event is folded first.
        missing: the value where there is none; None means 0 for count and sum, −1 for the rest.
        bound: most |value| of a row in a sum or mean; with the rows an entity may hold it keeps int64 from wrapping.

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
    bound: int = 10**12

    @property
    def window_us(self) -> int:
        """The window in µs."""
        return duration_us(self.window)

    @property
    def missing_value(self) -> float:
        """What stands for a missing value."""
        if self.missing is None:
            return 0.0 if self.aggregate in ("count", "sum") else -1.0
        return float(self.missing)

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the declaration, each with the near match."""
        yield from Declared.problems(self)
        yield from _duration_problems("window", self.window, least_us=1)
        yield from _missing_problems(self.missing)
        if self.aggregate not in get_args(AggregateName):
            yield f"aggregate {self.aggregate!r}, expected {near(str(self.aggregate), get_args(AggregateName))}"
        if not self.entity:
            yield f"no entity, expected the name of one, or {ALL!r}"
        if not self.over or len(set(self.over)) < len(self.over):
            yield f"over {self.over!r}, expected at least one kind of row, each once"
        wants_column = self.aggregate in ("sum", "mean", "distinct")
        wanted = "the name of one" if wants_column else "none"
        if wants_column != bool(self.column):
            yield f"column {self.column!r}, expected {wanted} for {self.aggregate}"
        if self.aggregate == "time_since" and self.unit != "s":
            yield f"unit {self.unit!r}, expected 's': time_since is measured in seconds"

    def __str__(self) -> str:
        what = f"{self.aggregate}({self.column})" if self.column else self.aggregate
        own = "" if self.own else ", own event left out"
        rows = " and ".join(self.over)
        return f"{self.name}: {what} of {rows} rows by {self.entity} in (t − {self.window}, t]{own} [{self.unit}]"


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
        yield from _missing_problems(self.missing)


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


Feature = Aggregate | Attribute | Category | Same | Calendar


class FeatureSet(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The features of a system, in the order of the vector.

    Args:
        system: whose they are.
        features: in the order of the vector.
        lateness: D; a point at t is refused unless t ≥ watermark − D (DESIGN §3a rule 7).
        retain: most rows that one entity may hold in its longest window; a point beyond it is refused.

    Raises:
        ConfigError: something is wrong with the declarations; the message lists every problem.

    >>> features = FeatureSet(system="fraud", features=(
    ...     Aggregate(name="card_payments_1h", meaning="payments of the card in the last hour", unit="payments",
    ...               entity="card", aggregate="count", over=("payment",), window="1h"),
    ...     Attribute(name="amount_minor", meaning="amount", unit="minor units", attribute="amount_minor")))
    >>> features.names, features.version
    (('card_payments_1h', 'amount_minor'), '927e96e6ee53')
    >>> FeatureSet.from_json(features.to_json()) == features
    True
    """

    system: str
    features: tuple[Feature, ...]
    lateness: str = "1h"
    retain: int = 4_000_000

    def __post_init__(self) -> None:
        problems = list(_set_problems(self))
        if problems:
            raise ConfigError(
                where=f"features of {self.system!r}",
                given=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: {'; '.join(problems)}",
                expected="declarations as described in decalog.features.definition",
                fix="Mend every feature named here; nothing was loaded.",
            )

    @cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json()).hexdigest()[:12]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the vector."""
        return tuple(feature.name for feature in self.features)

    def names_for(self, use: Use) -> tuple[str, ...]:
        """Returns the names of the features of one use, in the order of the vector."""
        return tuple(feature.name for feature in self.features if feature.use == use)

    def places_for(self, use: Use) -> tuple[int, ...]:
        """Returns the places in the vector of the features of one use."""
        return tuple(place for place, feature in enumerate(self.features) if feature.use == use)

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The features over windows."""
        return tuple(feature for feature in self.features if isinstance(feature, Aggregate))

    @cached_property
    def lateness_us(self) -> int:
        """D in µs."""
        return duration_us(self.lateness)

    @cached_property
    def longest_window_us(self) -> int:
        """The longest window in µs; 0 without aggregates."""
        return max((feature.window_us for feature in self.aggregates), default=0)

    def with_attributes(self, extra: Iterable[str | Attribute]) -> FeatureSet:
        """Returns the set with a user's own numeric signals at its end; a bare name is an attribute of that name.

        Raises:
            ConfigError: a name is taken or is not an identifier.
        """
        added = tuple(
            Attribute(name=signal, meaning=f"the user's own signal {signal}", unit="as sent", attribute=signal)
            if isinstance(signal, str)
            else signal
            for signal in extra
        )
        return msgspec.structs.replace(self, features=self.features + added)

    def to_json(self) -> bytes:
        """Returns canonical JSON: sorted keys, defaults left out, so that a new option never changes old versions."""
        return msgspec.json.encode(
            {**_stated(self), "features": [_stated(feature) for feature in self.features]}, order="deterministic"
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> FeatureSet:
        """Returns the set of `to_json`.

        Raises:
            ConfigError: the text is no feature set, or its declarations are wrong.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            raise ConfigError(
                where="feature set",
                given=f"JSON that does not fit ({error})",
                expected="what FeatureSet.to_json wrote",
                fix="Read it with the decalog that wrote it, or newer.",
            ) from None

    def check(self, schema: Schema) -> None:
        """Checks that every kind, entity and attribute that is named exists in the system's schema and is public.

        Raises:
            ConfigError: some do not; the message lists all, each with the near match.
        """
        problems = [
            f"feature {feature.name!r}: {problem}"
            for feature in self.features
            for problem in _schema_problems(feature, schema)
        ]
        if problems:
            raise ConfigError(
                where=f"features of {self.system!r}",
                given=f"{len(problems)} unknown name{'s' if len(problems) > 1 else ''}: {'; '.join(problems)}",
                expected=f"names that the schema of {schema.system!r} declares as public",
                fix="Mend the feature or the schema.",
            )

    def __str__(self) -> str:
        head = f"features of {self.system}, version {self.version}, lateness {self.lateness}"
        return "\n".join([head, *(f"  {feature}" for feature in self.features)])


def _stated(value: msgspec.Struct) -> dict[str, Any]:
    """Returns the fields that differ from their defaults, with the tag; ints in float fields as floats."""
    config = value.__struct_config__
    stated: dict[str, Any] = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(value):
        given = getattr(value, field.name)
        if given != field.default:
            stated[field.name] = float(given) if field.name == "missing" else given
    return stated


def _set_problems(features: FeatureSet) -> Iterator[str]:
    given: object = features.features
    if not (isinstance(given, tuple) and all(isinstance(feature, Feature) for feature in given)):
        yield "features is not a tuple of features, expected one, even for a single feature: (feature,)"
        return
    if not features.system:
        yield "no system, expected its name"
    yield from _duration_problems("lateness", features.lateness, least_us=0)
    yield from _repetition_problems(features)
    for feature in features.features:
        yield from (f"feature {feature.name!r}: {found}" for found in _feature_problems(feature, features.retain))


def _repetition_problems(features: FeatureSet) -> Iterator[str]:
    for name, times in Counter(feature.name for feature in features.features).items():
        if times > 1:
            yield f"feature {name!r}: declared {times} times, expected once"
    kinds = {kind for feature in features.aggregates for kind in feature.over}
    if len(kinds) > _MOST_KINDS:
        yield f"{len(kinds)} kinds of rows, expected at most {_MOST_KINDS}"


def _feature_problems(feature: Feature, retain: int) -> Iterator[str]:
    """Yields what is wrong with one feature; where types are, nothing else is looked at."""
    try:
        msgspec.convert(msgspec.to_builtins(feature), type(feature))
    except msgspec.ValidationError as error:
        # `problems` knows better about words outside a closed list: it names the near match.
        if not str(error).startswith("Invalid enum value"):
            yield str(error)
            return
    yield from feature.problems()
    yield from _bound_problems(feature, retain)


def _bound_problems(feature: Feature, retain: int) -> Iterator[str]:
    if not isinstance(feature, Aggregate) or feature.aggregate not in ("sum", "mean"):
        return
    most = (_INT64 - 1) // (max(retain, 0) + 1)
    if not 1 <= feature.bound <= most:
        yield f"bound {feature.bound}, expected 1 to {most}, so that {retain} rows cannot pass 2⁶³"


def _duration_problems(name: str, text: str, *, least_us: int) -> Iterator[str]:
    try:
        length = duration_us(text)
    except ConfigError as error:
        close = near(text.replace(" ", ""), _WINDOWS)
        yield f"{name} {text!r}, expected {error.expected}; {close}"
        return
    if not least_us <= length <= _LONGEST_US:
        yield f"{name} {text!r}, expected {least_us}us to {_LONGEST_US // DAY}d"


def _missing_problems(missing: float | None) -> Iterator[str]:
    if missing is not None and not math.isfinite(missing):
        yield f"missing {missing}, expected a finite number such as -1"


def _schema_problems(feature: Feature, schema: Schema) -> Iterator[str]:
    if isinstance(feature, Aggregate):
        yield from _aggregate_problems(feature, schema)
        return
    public = schema.request.attributes
    for part in ("attribute", "left", "right"):
        if hasattr(feature, part):
            yield from _unknown(part, getattr(feature, part), known=public)


def _aggregate_problems(feature: Aggregate, schema: Schema) -> Iterator[str]:
    kinds = (schema.request, *schema.events)
    rows = [kind.name for kind in kinds] + [f"decision.{action}" for action in schema.actions]
    entities = {entity.name for kind in kinds for entity in kind.entities}
    for row in feature.over:
        yield from _unknown("kind", row, known=rows)
    yield from _unknown("entity", feature.entity, known=entities | {ALL})
    if feature.column:
        public = frozenset().union(*(kind.attributes for kind in kinds))
        columns = public | entities if feature.aggregate == "distinct" else public
        yield from _unknown("column", feature.column, known=columns)


def _unknown(part: str, name: str, *, known: Collection[str]) -> Iterator[str]:
    if name not in known:
        yield f"{part} {name!r}, expected {near(name, known)}"
