"""What operators turn while a system runs: the numbers of its lookup tables and the parameters of its policy, as JSON.

Each change is a record of the log and counts from the next request on; the table `changes` says who made it. Values of
entities that are not public go in as keys of a table and never come out: the log holds their tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from decalog.errors import ConfigError, RequestError, UnknownRecordError, near
from decalog.features.definition import lookups, table_keys
from decalog.ingest import Rates
from decalog.log import Log
from decalog.policy import Policy, with_rates
from decalog.system import System
from decalog.tables import Stored, TableChange, Tables, Version

_LONGEST_KEY = 1_024
_LARGEST = 2**63


class TableState(Version, frozen=True):
    """A version of a lookup table as an operator sees it.

    Args:
        key: what of the request it is read at.
        entries: how many numbers it holds.
        numbers: by key, where it was asked for and its keys are public values.
        counts: how often each number stands in it, where it was asked for and its keys are tokens.
    """

    key: str = ""
    entries: int = 0
    numbers: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    counts: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class Levers:
    """The lookup tables and the policy of one system, as its log has them.

    Args:
        system: whose.
        log: a writer's, where entries of a table are to be put.
    """

    def __init__(self, system: System, log: Log) -> None:
        self._system, self._log = system, log
        self._tables = Tables(log)
        self._entities = table_keys(system.features, system.schema)
        self._lengths = {entity.name: entity.max_length for entity in system.schema.request.entities}

    def tables(self) -> list[TableState]:
        """Returns the tables that features look up, each in its latest version."""
        return [self.state(name) for name in self._entities]

    def state(self, name: str) -> TableState:
        """Returns the latest version of a table, without what is in it."""
        return self._state(name, self._tables.stored(self._system.name, name))

    def table(self, name: str, seq: int | None = None) -> TableState:
        """Returns what is in a table, now or as it stood at a record of the log; of tokens only how often each number.

        Raises:
            UnknownRecordError: no feature looks it up.
        """
        entity = self._entity(name)
        stored = self._tables.stored(self._system.name, name, before=None if seq is None else seq + 1)
        state, numbers = self._state(name, stored), stored.content or {}
        if not entity:
            return msgspec.structs.replace(state, numbers=numbers)
        counts = Counter(repr(number).removesuffix(".0") for number in numbers.values())
        return msgspec.structs.replace(state, counts=dict(sorted(counts.items())))

    def entries(self, name: str, raw: bytes) -> Iterator[tuple[str, float]]:
        """Yields each entry of a table in JSON as the log will hold it, once all are found to fit.

        Raises:
            UnknownRecordError: no feature looks the table up.
            RequestError: it is no JSON object, or some of it are no keys or no numbers.
        """
        entity = self._entity(name)
        given = self._object(f"table {name}", raw)
        longest = self._lengths.get(entity, _LONGEST_KEY)
        wrong = [place for place, entry in enumerate(given.items(), 1) if not _fits(*entry, longest=longest)]
        if wrong:
            raise RequestError(
                where=f"{self._system.name} table {name}",
                given=f"{len(wrong)} of {len(given)} entries that do not fit, the first is entry {wrong[0]}",
                expected=f'{{"key": number, …}}: keys of 1 to {longest} characters, numbers within ±2⁶³',
                fix="Mend them and put the table whole; the old one stays.",
            )
        token = self._log.vault.token
        return ((str(token(entity, key)) if entity else key, float(number)) for key, number in given.items())

    def policy(self) -> Stored:
        """Returns the policy's parameters; the system's defaults where the log has none yet."""
        stored = self._tables.stored(self._system.name, "policy")
        params = msgspec.convert(stored.content or {}, self._system.policy_params)
        return msgspec.structs.replace(stored, content=msgspec.to_builtins(params))

    def read_policy(self, raw: bytes) -> Policy:
        """Returns the policy of parameters in JSON; what they leave out has the system's default.

        Raises:
            RequestError: some are unknown or do not fit; all are named.
        """
        kind, given = self._system.policy_params, self._object("policy", raw)
        problems = list(_problems(kind, given))
        if not problems:
            try:
                rates = msgspec.convert(self._tables.get("", "rates") or {}, Rates)
                return self._system.policy(with_rates(msgspec.convert(given, kind), rates))
            except ValueError as error:
                problems = [error.given if isinstance(error, ConfigError) else str(error)]
        raise RequestError(
            where=f"{self._system.name} policy",
            given="; ".join(problems),
            expected=f"parameters of {kind.__name__}",
            fix="Mend all of them; the policy of before stays in force.",
        )

    def put_table(self, name: str, raw: bytes, *, by: str) -> TableState:
        """Puts a table in JSON where no server runs, and returns its new version; see `entries`."""
        self._tables.put(self._system.name, name, content=dict(self.entries(name, raw)), by=by)
        return self.state(name)

    def put_policy(self, raw: bytes, *, by: str) -> Stored:
        """Puts parameters in JSON where no server runs, and returns them as stored; see `read_policy`."""
        self._tables.put(self._system.name, "policy", content=self.read_policy(raw).params, by=by)
        return self.policy()

    def changes(self) -> list[TableChange]:
        """Returns who changed what, oldest first."""
        return self._tables.changes(self._system.name)

    def _entity(self, table: str) -> str:
        if table not in self._entities:
            raise UnknownRecordError(
                where=f"{self._system.name} table",
                given="a table that no feature looks up",
                expected=near(table, self._entities) if self._entities else "a Lookup among the features",
                fix="Mend the name, or declare a Lookup feature of it.",
            )
        return self._entities[table]

    def _state(self, name: str, stored: Stored) -> TableState:
        keys = dict.fromkeys(lookup.key for lookup in lookups(self._system.features) if lookup.table == name)
        where = (stored.version, stored.seq, stored.known_time)
        return TableState(name, *where, ", ".join(keys), len(stored.content or ()))

    def _object(self, what: str, raw: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError(
                where=f"{self._system.name} {what}",
                given="what is no JSON object in UTF-8",
                expected='one object: {"name": value, …}',
                fix="Mend it; what was put before stays.",
            ) from None


def _fits(key: str, number: object, *, longest: int) -> bool:
    # A flag is an int to Python, and no number to whoever put it.
    is_number = isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < _LARGEST
    return is_number and 0 < len(key) <= longest


def _problems(kind: type[msgspec.Struct], given: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with parameters, one by one, without their values."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    unknown = [name for name in given if name not in fields]
    if unknown:
        yield f"{len(unknown)} unknown parameters, expected for the first {near(unknown[0], fields)}"
    for name, field in fields.items():
        if name not in given:
            yield from [f"no {name}"] if field.required else ()
            continue
        try:
            msgspec.convert(given[name], field.type)
        except msgspec.ValidationError as error:
            yield f"{name}: {error}"
