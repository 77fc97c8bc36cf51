"""What operators turn while a system runs: the numbers of its lookup tables and the parameters of its policy, as JSON.

Each change is a record of the log and counts from the next request on; the table `changes` says who made it. Values of
entities that are not public go in as keys of a table and never come out: the log holds their tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from decalog.deployment import BITS, admitted_policy
from decalog.errors import ConfigError, RequestError, UnknownRecordError, near
from decalog.features.definition import lookups, table_keys
from decalog.ingest import Rates
from decalog.log import Log
from decalog.policy import Policy, with_rates
from decalog.rollout import Rollouts
from decalog.system import System
from decalog.tables import Stored, TableChange, Tables, Version

MOST_MEMBERS = 200_000
"""Entries of a table that members may be added to: each change of some is a version of all."""
_LONGEST_KEY = 1_024
_LARGEST = 2**63


class TableState(Version, frozen=True):
    """A version of a lookup table as an operator sees it.

    Args:
        key: what of the request it is read at.
        entries: how many numbers it holds.
        numbers: by key, where it was asked for and its keys are public values.
        counts: how often each number stands in it, where it was asked for and its keys are tokens.
        lists: how many members each list has, where it was asked for and the table holds lists.
        changed: what of it was changed, where that was just done and less than the whole.
    """

    key: str = ""
    entries: int = 0
    numbers: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    counts: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    lists: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    changed: str | msgspec.UnsetType = msgspec.UNSET


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who goes onto a named list and who comes off it, by the entities' values.

    Args:
        list: one of the names in the policy's parameter `lists`: the place there is the bit in the table's numbers.
        add, remove: values as requests have them.
    """

    list: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class Levers:
    """The lookup tables and the policy of one system, as its log has them.

    Args:
        system: whose.
        log: a writer's, where entries of a table are to be put.
    """

    def __init__(self, system: System, log: Log) -> None:
        self._system, self._log = system, log
        self._tables = Tables(log)
        self.rollouts = Rollouts(log, system.name)
        self._entities = table_keys(system.features, system.schema)
        self._lengths = {entity.name: entity.max_length for entity in system.schema.request.entities}

    def tables(self) -> list[TableState]:
        """Returns the tables that features look up, each in its latest version."""
        return [self.state(name) for name in self._entities]

    def state(self, name: str, what: str = "") -> TableState:
        """Returns the latest version of a table, without what is in it; `what` was changed for it."""
        state = self._state(name, self._tables.stored(self._system.name, name))
        return msgspec.structs.replace(state, changed=what) if what else state

    def table(self, name: str, seq: int | None = None) -> TableState:
        """Returns what is in a table, now or as it stood at a record of the log; of tokens only how often each number.

        Raises:
            UnknownRecordError: no feature looks it up.
        """
        entity = self._entity(name)
        stored = self._tables.stored(self._system.name, name, before=None if seq is None else seq + 1)
        state, numbers = self._state(name, stored), stored.content or {}
        if lists := self._lists(name):
            masks = [max(0, int(number)) for number in numbers.values()]
            members = {of: sum(mask >> bit & 1 for mask in masks) for bit, of in enumerate(lists)}
            state = msgspec.structs.replace(state, lists=members)
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
        longest, given = self._longest(name), self._object(f"table {name}", raw)
        wrong = [place for place, entry in enumerate(given.items(), 1) if not _fits(*entry, longest=longest)]
        if wrong:
            raise RequestError(
                where=f"{self._system.name} table {name}",
                given=f"{len(wrong)} of {len(given)} entries that do not fit, the first is entry {wrong[0]}",
                expected=f'{{"key": number, …}}: keys of 1 to {longest} characters, numbers within ±2⁶³',
                fix="Mend them and put the table whole; the old one stays.",
            )
        return ((key, float(number)) for key, number in zip(self._keys(name, given), given.values(), strict=True))

    def members(self, name: str, raw: bytes) -> tuple[str, Iterator[tuple[str, bool]]]:
        """Returns the list that `Members` in JSON name, and yields each key of the table with whether it is added.

        Raises:
            UnknownRecordError: no feature looks the table up.
            RequestError: the table holds no lists, there is no such list, or something does not fit.
        """
        longest, where = self._longest(name), f"{self._system.name} table {name}"
        try:
            given = msgspec.json.decode(raw, type=Members)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = Members("")
        both = (*given.add, *given.remove)
        if not both or len({*both}) < len(both) or not all(_fits(value, 1, longest=longest) for value in both):
            raise RequestError(
                where=where,
                given="what is no change of a list's members",
                expected=f'{{"list": name, "add": [value, …], "remove": […]}}, once each, of 1 to {longest} characters',
                fix="Mend it; the list is as it was.",
            )
        if given.list not in self._lists(name):
            raise RequestError(
                where=where,
                given="a list that does not stand in it",
                expected=near(given.list, self._lists(name)) if self._lists(name) else "a table that holds lists",
                fix="Mend the name, or append it to the policy's `lists`.",
            )
        adds = [*(True for _ in given.add), *(False for _ in given.remove)]
        return given.list, zip(self._keys(name, both), adds, strict=True)

    def listed(self, name: str, list_: str, *, adds: Mapping[str, bool]) -> tuple[dict[str, float], str]:
        """Returns the table with a list's members changed, and in words what that was; to be put at once.

        Args:
            name: of the table.
            list_: of the list.
            adds: key of the table → whether it goes onto the list or comes off it.

        Raises:
            RequestError: the table would grow beyond MOST_MEMBERS entries.
        """
        before = self._tables.stored(self._system.name, name).content or {}
        bit, after, changed = 1 << self._lists(name).index(list_), dict[str, int](), Counter[bool]()
        for key, is_added in adds.items():
            mask = max(0, int(before.get(key, 0)))
            after[key] = mask | bit if is_added else mask & ~bit
            changed[is_added] += after[key] != mask
        content = {key: float(mask) for key, mask in (before | after).items() if mask or key not in after}
        if len(content) > max(MOST_MEMBERS, len(before)):
            raise RequestError(
                where=f"{self._system.name} table {name}",
                given=f"{len(content):,} entries",
                expected=f"at most {MOST_MEMBERS:,}, where members are added",
                fix="Remove some, or put the table whole.",
            )
        return content, f"{list_}: {changed[True]} added, {changed[False]} removed"

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
                params = with_rates(msgspec.convert(given, kind), rates)
                return admitted_policy(self._system, params, tables=self._tables)
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

    def put_members(self, name: str, raw: bytes, *, by: str) -> TableState:
        """Changes a list's members where no server runs, and returns the table's new version; see `members`."""
        list_, entries = self.members(name, raw)
        content, what = self.listed(name, list_, adds=dict(entries))
        self._tables.put(self._system.name, name, content=content, by=by, what=what)
        return self.state(name, what)

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

    def _keys(self, table: str, values: Iterable[str]) -> Iterator[str]:
        """Yields the keys under which the log holds values in a table: tokens, or public values as they are."""
        entity, token = self._entity(table), self._log.vault.token
        return (str(token(entity, value)) if entity else value for value in values)

    def _longest(self, table: str) -> int:
        return self._lengths.get(self._entity(table), _LONGEST_KEY)

    def _lists(self, table: str) -> Sequence[str]:
        """Returns the lists whose bits a table holds, in their order; none where it holds other numbers."""
        units = {lookup.unit for lookup in lookups(self._system.features) if lookup.table == table}
        return self.policy().content.get("lists", ()) if units == {BITS} else ()

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
