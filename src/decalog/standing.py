"""What the log says of people: whose data was erased, who restricted or opted out, which notice decisions carry.

Each is a table of the log, one version a person, known by token alone. It is a view like any other, folded along the
log, and all that the way of a decision knows of `privacy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from decalog.events import Record, Table, decode_table
from decalog.log import Log

ERASURES, WISHES, NOTICES, CONTESTS = "erasures", "wishes", "notices", "contests"
"""The tables."""
OPTED_OUT: Final = "opted_out"
RESTRICTED: Final = "restricted"
PEOPLE = (OPTED_OUT, RESTRICTED)
"""Wishes of people, each the reason by which `Policy.fall_back` is asked for what is done instead of a prediction."""

Wished = Literal["opted_out", "restricted"]


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """A person's data in one system is gone: who it was, by a token that nothing leads to any more.

    Args:
        subject: whose key was destroyed.
        tokens: of the map, whose entries were destroyed: the subject's own and all that nobody else shares.
        shared: (entity, token) of what others share: it stays.
        records: roots of the erased events, decisions and outcomes.
        models: ids of those that learnt from them.
    """

    subject: int
    tokens: tuple[int, ...] = ()
    shared: tuple[tuple[str, int], ...] = ()
    records: tuple[int, ...] = ()
    models: tuple[str, ...] = ()


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for, from now on; `on` false takes it back."""

    subject: int
    wish: Wished
    on: bool = True
    why: str = ""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people are told of automated decisions: the id of a text of yours, "" for none, and where it can be read."""

    id: str
    url: str = ""


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """A person wants a human to look at a decision; `sealed` is what they said, under their key, in base64."""

    decision: str
    request: str
    seq: int
    sealed: str = ""


class Standing:
    """What one system's log says of its people, as far as it was read.

    Args:
        records: in log order; of all but the tables of this module nothing is read.
        system: its name.

    Attributes:
        erased: root of an erased record → seq of its erasure.
        subjects: token of an erased person → seq of the last erasure.
        position: behind the last erasure, for a training's pin.
    """

    def __init__(self, records: Iterable[Record], system: str) -> None:
        self.erased: dict[int, int] = {}
        self.subjects: dict[int, int] = {}
        self.position = 0
        self._system, self._last = system, -1
        self._wishes: dict[int, dict[str, bool]] = {}
        self._notices: list[tuple[int, str]] = []
        for record in records:
            self.read(record)

    @classmethod
    def of(cls, log: Log, system: str) -> Standing:
        """Returns what a log says, as far as it goes."""
        made = cls((), system)
        made.refresh(log)
        return made

    def refresh(self, log: Log) -> None:
        """Reads what a log says by now and this does not know yet."""
        tables = (log.find("table", f"{self._system}/{table}") for table in _READ)
        for seq in sorted(seq for seqs in tables for seq in seqs if seq > self._last):
            self.read(log.get(seq))

    def read(self, record: Record) -> None:
        """Takes a record that comes next."""
        if record.kind == "table" and record.system == self._system and record.id in _READ:
            _READ[record.id](self, record.seq, decode_table(record.body))
            self._last = record.seq

    def hides(self, record: Record) -> bool:
        """Returns whether a record is of an erased person, or says that one was erased."""
        return record.root in self.erased or (record.kind == "table" and record.id == ERASURES)

    def wish(self, subject: int) -> str:
        """Returns why a person's requests are not to be predicted on: the weightier of their wishes, or ""."""
        wishes = self._wishes.get(subject)
        if not wishes:
            return ""
        return next((wish for wish in (RESTRICTED, OPTED_OUT) if wishes.get(wish)), "")

    def is_restricted(self, subject: int) -> bool:
        """Returns whether nothing may be learnt from a person's data."""
        return self.wish(subject) == RESTRICTED

    def notice(self, seq: int) -> str:
        """Returns the id of the notice that was in force at a record, or ""."""
        return next((id_ for at, id_ in reversed(self._notices) if at < seq), "")

    def _erase(self, seq: int, table: Table) -> None:
        erasure = read_erasure(table)
        self.erased |= dict.fromkeys(erasure.records, seq)
        self.subjects[erasure.subject] = seq
        self.position = seq + 1

    def _wish(self, _seq: int, table: Table) -> None:
        wish = msgspec.json.decode(table.content, type=Wish)
        self._wishes.setdefault(wish.subject, {})[wish.wish] = wish.on

    def _notify(self, seq: int, table: Table) -> None:
        self._notices.append((seq, msgspec.json.decode(table.content, type=Notice).id))


_READ = {ERASURES: Standing._erase, WISHES: Standing._wish, NOTICES: Standing._notify}  # noqa: SLF001 - its own table


def read_erasure(table: Table) -> Erasure:
    """Returns what a version of the table of erasures says."""
    return msgspec.json.decode(table.content, type=Erasure)
