"""Features as data: what is computed, over which rows, in which window, and what stands for a missing value.

A declaration is a frozen, hashable value with a JSON form. Online and offline read the same declaration, and its
version names it in every decision.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from decalog.clock import duration_us
from decalog.errors import ConfigError, near
from decalog.features.declared import (
    RESERVED_TABLES,
    Aggregate,
    AggregateName,
    Attribute,
    Calendar,
    Category,
    Condition,
    Cross,
    Derived,
    Feature,
    Lookup,
    Part,
    Rate,
    Ratio,
    Same,
    Use,
    ZScore,
    duration_problems,
)
from decalog.features.facts import ALL
from decalog.schema import Schema

__all__ = [
    "RESERVED_TABLES",
    "Aggregate",
    "AggregateName",
    "Attribute",
    "Calendar",
    "Category",
    "Condition",
    "Cross",
    "Derived",
    "Feature",
    "FeatureSet",
    "Lookup",
    "Part",
    "Rate",
    "Ratio",
    "Reads",
    "Same",
    "Use",
    "ZScore",
    "joined",
    "lookups",
    "table_keys",
]

_MOST_RETAIN = 2**31
_MOST_KINDS = _MOST_ENTITIES = 62
"""A kind is one bit of an int64; entity names were too."""
_INT64 = 2**63
_UNIT_WEIGHT = 2**20
_FLOATS = ("missing", "crowded")
_OUTCOME_ROWS = ("outcome.", "labelled.")
DECISION_ROWS = ("decision.", "drawn.")
"""What the kind of a decision's rows begins with; its action follows. Only what was drawn has the second row."""
SHOWN = "shown"
"""Kind of the rows of what a slate showed, where slots hold things: one a slot."""


class Reads(msgspec.Struct, frozen=True):
    """What a feature set reads of the log besides events and decisions.

    Args:
        outcomes: whether rows of outcomes.
        tables: names of lookup tables; None for all.
        shown: names of what is said of things that were shown; None for all.
    """

    outcomes: bool = False
    tables: frozenset[str] | None = frozenset()
    shown: frozenset[str] | None = None


def joined(reads: Iterable[Reads]) -> Reads:
    """Returns what any of several feature sets reads."""
    parts = list(reads)
    tables, shown = (_all_of([getattr(part, name) for part in parts]) for name in ("tables", "shown"))
    return Reads(any(part.outcomes for part in parts), tables, shown)


def _all_of(parts: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    named = [part for part in parts if part is not None]
    return frozenset[str]().union(*named) if len(named) == len(parts) else None


class FeatureSet(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The features of a system, in the order of the vector.

    Args:
        system: whose they are.
        features: in the order of the vector.
        lateness: D; a point at t is refused unless t ≥ watermark − D (DESIGN §3a rule 7).
        retain: most rows that one entity holds. With one more, the oldest goes, and all of its event_time; windows that
            begin before that time have their declared `crowded` value, all others stay exact.

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
    retain: int = 100_000

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
        """The longest window with its offset in µs; 0 without aggregates."""
        return max((feature.reach_us for feature in self.aggregates), default=0)

    @cached_property
    def reads(self) -> Reads:
        """What it reads of the log besides events and decisions."""
        kinds = {kind for feature in self.aggregates for kind in feature.over}
        conditions = {condition.attribute for feature in self.aggregates for condition in feature.where}
        return Reads(
            outcomes=any(kind.startswith(_OUTCOME_ROWS) for kind in kinds),
            tables=frozenset(feature.table for feature in lookups(self)),
            shown=frozenset(conditions | {feature.column for feature in self.aggregates}),
        )

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
        problems += _table_problems(self, schema)
        if problems:
            raise ConfigError(
                where=f"features of {self.system!r}",
                given=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: {'; '.join(problems)}",
                expected=f"names that the schema of {schema.system!r} declares, of public values or of entities",
                fix="Mend the feature or the schema.",
            )

    def __str__(self) -> str:
        head = f"features of {self.system}, version {self.version}, lateness {self.lateness}"
        return "\n".join([head, *(f"  {feature}" for feature in self.features)])


def quotients(features: FeatureSet) -> dict[str, tuple[str, str]]:
    """Returns ratio → its numerator and its denominator."""
    return {ratio.name: (ratio.numerator, ratio.denominator) for ratio in features.features if isinstance(ratio, Ratio)}


def absences(features: FeatureSet) -> dict[str, float]:
    """Returns feature → the value that says that there is none."""
    return {feature.name: feature.missing_value for feature in features.features}


def lookups(features: FeatureSet) -> tuple[Lookup, ...]:
    """Returns the features that read a table."""
    return tuple(feature for feature in features.features if isinstance(feature, Lookup))


def table_keys(features: FeatureSet, schema: Schema) -> dict[str, str]:
    """Returns lookup table → the entity whose tokens are its keys; "" where its keys are public values."""
    public = schema.request.attributes
    return {lookup.table: "" if lookup.key in public else lookup.key for lookup in lookups(features)}


def _stated(value: msgspec.Struct) -> dict[str, Any]:
    """Returns the fields that differ from their defaults, with the tag; ints in float fields as floats."""
    config = value.__struct_config__
    stated: dict[str, Any] = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(value):
        given = getattr(value, field.name)
        if given != field.default:
            stated[field.name] = float(given) if field.name in _FLOATS else given
    return stated


def _set_problems(features: FeatureSet) -> Iterator[str]:
    given: object = features.features
    if not (isinstance(given, tuple) and all(isinstance(feature, Feature) for feature in given)):
        yield "features is not a tuple of features, expected one, even for a single feature: (feature,)"
        return
    if not features.system:
        yield "no system, expected its name"
    yield from duration_problems("lateness", features.lateness, least_us=0)
    if not 1 <= features.retain <= _MOST_RETAIN:
        yield f"retain {features.retain}, expected 1 to {_MOST_RETAIN} rows of one entity"
    yield from _repetition_problems(features)
    for feature in features.features:
        yield from (f"feature {feature.name!r}: {found}" for found in _feature_problems(feature, features.retain))
    yield from _derived_problems(features)


def _repetition_problems(features: FeatureSet) -> Iterator[str]:
    for name, times in Counter(feature.name for feature in features.features).items():
        if times > 1:
            yield f"feature {name!r}: declared {times} times, expected once"
    kinds = {kind for feature in features.aggregates for kind in feature.over}
    if len(kinds) > _MOST_KINDS:
        yield f"{len(kinds)} kinds of rows, expected at most {_MOST_KINDS}"
    entities = {feature.entity for feature in features.aggregates}
    if len(entities) > _MOST_ENTITIES:
        yield f"{len(entities)} entity names, expected at most {_MOST_ENTITIES}"


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
    if not isinstance(feature, Aggregate) or feature.aggregate in ("count", "distinct", "time_since"):
        return
    if feature.aggregate == "decayed" and not feature.column:
        return
    most = (_INT64 - 1) // (max(retain, 0) + 1)
    if feature.aggregate == "decayed":
        most //= _UNIT_WEIGHT
    elif feature.aggregate == "std":
        most = math.isqrt(most)
    if not 1 <= feature.bound <= most:
        yield f"bound {feature.bound}, expected 1 to {most}, so that {retain} rows cannot pass 2⁶³"


def _derived_problems(features: FeatureSet) -> Iterator[str]:
    """Yields parts that are not declared before what is derived from them, and rates of what is no sum."""
    before: dict[str, Feature] = {}
    for feature in features.features:
        for part in feature.parts if isinstance(feature, Derived) else ():
            if part not in before:
                yield f"feature {feature.name!r}: part {part!r}, expected one declared before: {near(part, before)}"
        if isinstance(feature, Rate) and feature.of in before:
            of = before[feature.of]
            if not (isinstance(of, Aggregate) and of.aggregate in ("count", "sum")):
                yield f"feature {feature.name!r}: rate of {feature.of!r}, expected a count or sum over a window"
        before[feature.name] = feature


def read_by(feature: Feature) -> dict[str, str]:
    """Returns the attributes that a feature of the request itself reads: part of its declaration → name."""
    return {part: getattr(feature, part) for part in ("attribute", "left", "right") if hasattr(feature, part)}


def _schema_problems(feature: Feature, schema: Schema) -> Iterator[str]:
    if isinstance(feature, Aggregate):
        yield from _aggregate_problems(feature, schema)
        return
    public = schema.request.attributes | {fact.name for fact in schema.candidate}
    for part, name in read_by(feature).items():
        yield from _unknown(part, name, known=public)
    if isinstance(feature, Lookup):
        yield from _unknown("key", feature.key, known=public | {entity.name for entity in schema.request.entities})


def _table_problems(features: FeatureSet, schema: Schema) -> Iterator[str]:
    """Yields tables whose keys would be tokens of one entity and something else as well."""
    keys: dict[str, set[str]] = {}
    for lookup in lookups(features):
        keys.setdefault(lookup.table, set()).add(lookup.key)
    for table, among in keys.items():
        if len(among) > 1 and not among <= schema.request.attributes:
            yield f"table {table!r}: read at {', '.join(sorted(among))}, expected one key where it is an entity's token"


def _aggregate_problems(feature: Aggregate, schema: Schema) -> Iterator[str]:
    kinds = (schema.request, *schema.events)
    entities = {entity.name for kind in kinds for entity in kind.entities}
    columns = frozenset(fact.name for fact in schema.candidate)
    columns = columns.union(*(kind.attributes for kind in kinds), _outcome_columns(schema))
    for row in feature.over:
        yield from _unknown("kind", row, known=_rows_known(schema))
    for entity in feature.entities:
        yield from _unknown("entity", entity, known=entities | {ALL})
    if feature.column:
        known = columns | entities if feature.aggregate == "distinct" else columns
        yield from _unknown("column", feature.column, known=known)
    for condition in feature.where:
        yield from _unknown("where", condition.attribute, known=columns)


def _rows_known(schema: Schema) -> list[str]:
    """Returns the kinds of rows that a system's records may become."""
    rows = [kind.name for kind in (schema.request, *schema.events)]
    rows += [f"{which}{action}" for which in DECISION_ROWS for action in schema.actions]
    rows += [SHOWN] if schema.candidate else []
    return rows + [f"{which}{outcome.name}" for which in _OUTCOME_ROWS for outcome in schema.outcomes]


def _outcome_columns(schema: Schema) -> frozenset[str]:
    """Returns what a row of an outcome may hold: what it reports, its money, and public values of its kind."""
    return frozenset({"value", "amount_minor"}).union(*({f.name for f in kind.fields} for kind in schema.outcomes))


def _unknown(part: str, name: str, *, known: Collection[str]) -> Iterator[str]:
    if name not in known:
        yield f"{part} {name!r}, expected {near(name, known)}"
