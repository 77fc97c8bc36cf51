"""Erasure of a person, step by step, so that one that was cut short anywhere is completed by beginning again.

    survey ─▶ record in the log ─▶ ledger beside the home ─▶ derived files go ─▶ vault: key and entries ─▶ proof

The vault comes last: until then the person is found by their value, and whatever is lacking is done again. Once the
record is durable every view follows it, on a server too, whose views take the person's rows out as the log says.
"""

from __future__ import annotations

import getpass
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from decalog.clock import Clock
from decalog.errors import CorruptLogError
from decalog.events import decode_table
from decalog.features.snapshot import SUFFIX, read_manifest
from decalog.home import ENGINE, Home
from decalog.host import EXPLAINED
from decalog.log import Log
from decalog.privacy import ledger
from decalog.privacy.ledger import Entry, Holding
from decalog.privacy.pen import Pen
from decalog.privacy.scan import Scan, scan
from decalog.privacy.subjects import (
    Survey,
    Told,
    erasure_of,
    find_subject,
    marks_of,
    models_of,
    person_entity,
    schemas_of,
    survey,
    surveys,
)
from decalog.standing import ERASURES, Erasure, Standing, read_erasure
from decalog.stores.table import shed_vault
from decalog.system import System, find_system
from decalog.verification import verify

_TRIES = 5
_AT_ONCE = 20
"""Records of one version of the table: a server takes their rows out between two requests, and slates have many."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found after an erasure.

    Args:
        scan: of the home.
        verified: hash chain, index, vault and copies, in a line.
        sound: whether they verify.
        left: what could not be done yet, or "".
    """

    scan: Scan
    verified: str
    sound: bool
    left: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing was found, all verifies, and nothing is left to do."""
        return self.sound and self.scan.is_clean and not self.left


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an erasure.

    Args:
        found: whether there was such a person; one who was erased before is as unknown as one who never was.
        records: system → how many of their records were erased.
        tokens: entries of the map that were destroyed.
        shared: entity → how many of theirs stay, because others have them too.
        quarantined: refused rows that cannot be read any more.
        models: system → those that learnt from them; train again, and they are left out.
        backups: known ones, and whether they still hold the key.
        proof: what was found after it; None where that was not asked for.
    """

    found: bool
    records: Mapping[str, int] = {}
    tokens: int = 0
    shared: Mapping[str, int] = {}
    quarantined: int = 0
    models: Mapping[str, tuple[str, ...]] = {}
    backups: tuple[Holding, ...] = ()
    proof: Proof | None = None

    def text(self) -> str:
        """Returns it for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.found:
            counts = ", ".join(f"{count:,} records of {name}" for name, count in self.records.items()) or "no records"
            yield f"erased: {counts}; {self.tokens} entries of the map, 1 key; {self.quarantined} rows in quarantine"
        else:
            yield "nobody of that name is known: never seen, or erased before"
        yield from (f"  stays, since others have it too: {count} {name}" for name, count in self.shared.items())
        for system, models in self.models.items():
            yield from (f"  learnt from them: {system} model {model[:12]}; train again" for model in models)
        yield from (f"  backup {copy.text()}" for copy in self.backups)
        if self.proof is not None:
            yield f"proof: {self.proof.scan.text()}"
            yield f"proof: {self.proof.verified}"
            yield from [f"  not done yet: {self.proof.left}"] if self.proof.left else []


def erase(home: Home, name: str, *, person: str, entity: str = "", by: str = "", clock: Clock | None = None) -> Erased:
    """Erases a person from a home without a server, and proves it.

    Args:
        home: of the deployment; this process becomes its log's writer.
        name: of the system whose words for people are used; their records in all systems of the home are erased.
        person: the value, as requests have it.
        entity: that it is a value of; the first that may be a request's subject, if nothing is said.
        by: who asks, for the log; whoever runs this, if nothing is said.
        clock: of the log's stamps.

    Raises:
        RequestError: the system has no such entity.
        LogUnavailableError: a server runs on the home: ask that.
    """
    system = find_system(name)
    values = asked_for(system, person, entity=entity)
    with closing(home.writer(clock)) as log:
        pen = Pen(log, by=by or getpass.getuser())
        token = find_subject(system, log, person=person, entity=entity)
        finish(home, pen, but=token)
        if token is None:
            return Erased(found=False, proof=proven(home, values))
        found = survey(log, token, schemas=schemas_of(system))
        models = models_of(home, found)
        for part in parts(pen, found, models=models):
            pen.put(part.system, ERASURES, content=part.erasure)
        log.commit()
        finish(home, pen)
    return told(found, models, home=home, proof=proven(home, (*values, *found.values)))


def parts(pen: Pen, found: Survey, *, models: Mapping[str, Iterable[str]]) -> Iterator[Entry]:
    """Yields what the log is to say of an erasure and does not say yet, in parts that a server can take in one turn.

    Args:
        pen: of the writer.
        found: what there is of the person, up to the log's position.
        models: system → those that learnt from them.
    """
    for system in found.records or {"": ()}:
        standing = pen.standing(system)
        whole = erasure_of(found, system, models=models.get(system, ()))
        roots = [root for root in whole.records if root not in standing.erased]
        for start in range(0, max(1, len(roots)), _AT_ONCE):
            part = tuple(roots[start : start + _AT_ONCE])
            if part or found.subject not in standing.subjects:
                erasure = msgspec.structs.replace(whole, records=part)
                yield Entry(system=system, known_time=pen.log.known_time, erasure=erasure)


def erasures(log: Log) -> list[Entry]:
    """Returns all durable erasures of a log, of every system, oldest first."""
    found = []
    for seq in _table_seqs(log, ERASURES):
        if seq < log.durable:
            row = log.get(seq)
            erasure = read_erasure(decode_table(row.body))
            found.append(Entry(system=row.system, known_time=row.known_time, erasure=erasure))
    return found


def _table_seqs(log: Log, table: str) -> list[int]:
    store: Any = log.store  # every engine gives its keys
    keys = store.keys(("table", "", -1), ("table", "\U0010ffff", 0))
    return sorted(seq for _, key, seq in keys if key.rpartition("/")[2] == table)


def finish(home: Home, pen: Pen, *, but: int | None = None) -> None:
    """Does what is lacking of every erasure that the log holds.

    Args:
        home: of the log.
        pen: of the writer; all that is to be heeded is durable.
        but: a person whom the caller sees to.
    """
    log = pen.log
    made = erasures(log)
    ledger.enter(home.root, made)
    due = pending(log, made) - {but}
    if due:
        # What came between the record of an erasure and the end of a key is theirs too.
        for found in surveys(log, due, schemas=schemas_of()).values():
            for part in parts(pen, found, models={}):
                pen.put(part.system, ERASURES, content=part.erasure)
        log.commit()
        made = erasures(log)
        ledger.enter(home.root, made)
    sweep(home, pen, systems={entry.system for entry in made})
    if due:
        some = [entry.erasure for entry in made if entry.erasure.subject in due]
        destroy(log, some, marks=marks_of(log, _tokens(some)))


def pending(log: Log, entries: Iterable[Entry]) -> set[int]:
    """Returns the subjects of erasures whose keys or entries are in the vault still."""
    vault: Any = log.vault
    held = {*vault.subjects(), *vault.tokens()}
    return {entry.erasure.subject for entry in entries if held & _tokens([entry.erasure])}


def destroy(log: Log, made: Iterable[Erasure], *, marks: Iterable[bytes]) -> None:
    """Destroys the keys that erasures name, and entries of the map by their marks; it is durable when this returns.

    A card, or an address, has a key of its own where something was sealed before anybody else was named.
    """
    vault: Any = log.vault
    some = list(made)
    subjects, tokens = {erasure.subject for erasure in some}, _tokens(some)
    more = {one for token in tokens for one in (token, -token) if vault.holds(one)}
    vault.erase(subjects | more, tokens=tokens, marks=list(marks))


def _tokens(made: Iterable[Erasure]) -> set[int]:
    return {token for erasure in made for token in (erasure.subject, *erasure.tokens)}


def sweep(home: Home, pen: Pen, *, systems: Collection[str]) -> None:
    """Deletes what was derived from erased records.

    Snapshots of the views from before the last erasure of their system, explanations that were kept, and backfilled
    features. The copy in Parquet stays: like the log it holds tokens and public values, which lead to nobody.

    Args:
        home: of the log.
        pen: of the writer; every erasure is durable.
        systems: of the erasures.
    """
    for system in {*systems} - {""}:
        standing = pen.standing(system)
        old = [path for path in (home.state / system).glob(f"*{SUFFIX}") if _position(path) < standing.position]
        old += [path for path in (home.backfill / system).rglob("*.parquet") if int(path.stem) < standing.position]
        for path in (home.state / EXPLAINED / system).glob("*.json"):
            seqs = pen.log.find("decision", path.stem)
            old += [path] if seqs and seqs[0] in standing.erased else []
        for path in old:
            path.unlink(missing_ok=True)


def _position(path: Path) -> int:
    try:
        return read_manifest(path).position
    except CorruptLogError:
        return 0  # nobody can use it


def asked_for(system: System, person: str, *, entity: str, more: Iterable[str] = ()) -> tuple[Told, ...]:
    """Returns what is searched for, where nothing of a person is known any more but to whoever asks.

    The value by which they were asked for is, unless its entity is public: that stands in the log for ever.
    """
    own = () if _is_public(system, entity or person_entity(system)) else (Told(entity or "subject", person),)
    return (*own, *(Told(f"value {number}", one) for number, one in enumerate(more, 1)))


def _is_public(system: System, entity: str) -> bool:
    kinds = (system.schema.request, *system.schema.events)
    return {one.privacy for kind in kinds for one in kind.entities if one.name == entity} == {"public"}


def proven(home: Home, values: Iterable[Told]) -> Proof:
    """Returns what a search of a home found, and whether all verifies.

    The vault's WAL is emptied first: its old pages hold the key. Who reads meanwhile may hold that up.
    """
    is_shed = any(shed_vault(ENGINE, home.vault) for _ in range(_TRIES))
    found = verify(home.root)
    checks = "; ".join(f"{check.name} {'ok' if check.sound else 'BAD'}: {check.said}" for check in found.checks)
    left = "" if is_shed else "old pages of the vault's WAL, while somebody reads it: run this again with --proof"
    return Proof(scan=scan(home.root, values), verified=checks, sound=found.sound, left=left)


def prove(home: Home, name: str, *, person: str, entity: str = "", more: Iterable[str] = ()) -> Erased:
    """Searches a home for a person again; what else they were called is known to whoever asks.

    Args:
        home: of the deployment; its server may run.
        name: of the system whose words for people are used.
        person: the value.
        entity: that it is a value of.
        more: further values of theirs.
    """
    return Erased(found=False, proof=proven(home, asked_for(find_system(name), person, entity=entity, more=more)))


def told(found: Survey, models: Mapping[str, tuple[str, ...]], *, home: Home, proof: Proof | None) -> Erased:
    """Returns what became of an erasure, nothing of the person in it."""
    return Erased(
        found=True,
        records={system: len(roots) for system, roots in found.records.items()},
        tokens=len(found.tokens),
        shared=dict(Counter(name for name, _ in found.shared)),
        quarantined=found.quarantined,
        models=models,
        backups=tuple(ledger.holding(home.root, found.subject)),
        proof=proof,
    )


def reapply(home: Home, entries: Iterable[Entry]) -> int:
    """Erases again, in a home that was brought back from a backup, who was erased since; returns how many people.

    Args:
        home: restored; nothing runs on it.
        entries: of the ledger.
    """
    with closing(home.writer()) as log:
        vault: Any = log.vault
        held, again = {*vault.subjects(), *vault.tokens()}, list[Erasure]()
        for entry in entries:
            if not held & _tokens([entry.erasure]):
                continue
            done = Standing.of(log, entry.system).erased
            kept = tuple(root for root in entry.erasure.records if root < log.position and root not in done)
            again.append(msgspec.structs.replace(entry.erasure, records=kept))
            Pen(log, by="a restore").put(entry.system, ERASURES, content=again[-1])
            log.commit()
        destroy(log, again, marks=marks_of(log, _tokens(again)))
    return len({erasure.subject for erasure in again})
