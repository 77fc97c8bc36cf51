"""Admission: from a caller's checked values to stamped records.

Here entity values become tokens, personal values go into envelopes, amounts are converted, keys are checked against
what was logged, and corrections find their root. Bad rows of a batch go to quarantine and never stop their neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.candidates import Candidate
from decalog.crypto import digest, new_token, seal
from decalog.decisions import (
    Choice,
    Decision,
    Slot,
    Versions,
    decode_decision,
    decode_request,
    made_elsewhere,
    new_decision_id,
)
from decalog.errors import ConflictError, RequestError
from decalog.events import Event, Record, decode_event, encode, encode_body
from decalog.log import FUTURE_TOLERANCE_US, Draft, Log
from decalog.money import MAX_MINOR, convert
from decalog.outcomes import Outcome
from decalog.parsing import SchemaParser
from decalog.schema import ID_LENGTH, Parsed, Schema
from decalog.standing import Standing

QUARANTINE_BYTES = 65_536
"""How much of a rejected row is kept, sealed."""


class RowResult(msgspec.Struct, frozen=True):
    """What became of one row.

    Args:
        id: the row's own, or "" where it had none that could be read.
        status: accepted; duplicate (logged before with the same body); rejected (in quarantine).
        seq: of its record.
        reason: code of a rejection.
        message: the four-part sentence of a rejection.
    """

    id: str
    status: Literal["accepted", "duplicate", "rejected"]
    seq: int
    reason: str = ""
    message: str = ""


class Rejected(msgspec.Struct, frozen=True, array_like=True):
    """Body of a quarantined row: what it was meant to be, why it was refused, and the row itself, sealed."""

    meant: str
    message: str
    subject: int
    sealed: bytes


class Rates(msgspec.Struct, frozen=True):
    """Base currency and its rates: major units of `base` for one major unit of each currency, as decimal text."""

    base: str = "EUR"
    rates: dict[str, str] = {}


class Ingest:
    """Admits requests, events and outcomes of one system into a log.

    Args:
        schema: of the system.
        log: where they go; the caller commits it.
        rates: for amounts in other currencies.
        entropy: gives random bytes for the ids of imported decisions, and for tokens of subjects without an entity.
    """

    on_record: Callable[[Record, Event | Decision | Outcome], None] | None = None
    """Called with each admitted event, outcome or imported decision, so that live views follow."""
    describe: Callable[[Event, Sequence[str]], tuple[Candidate, ...]] | None = None
    """Returns things that another system showed for a request, by their names, with what is known of them."""

    def __init__(self, schema: Schema, log: Log, *, rates: Rates, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self.schema = schema
        self.parser = SchemaParser(schema)
        self.log = log
        self.rates = rates
        self.standing = Standing.of(log, schema.system)
        self._entropy = entropy
        self._secret = log.vault.secret("bodies")
        self._amounts = {kind.name: tuple(kind.amounts.items()) for kind in (schema.request, *schema.events)}
        self._public_entities = {
            kind.name: frozenset(e.name for e in kind.entities if e.privacy == "public")
            for kind in (schema.request, *schema.events)
        }
        self._subjects = {kind.name: kind.subject for kind in (schema.request, *schema.events)}

    def body_digest(self, parsed: msgspec.Struct, form: bytes = b"") -> bytes:
        """Returns the keyed digest by which a retry is told from a conflict; `form` is a further part of the body."""
        return digest(self._secret, encode(parsed), *((form,) if form else ()))

    def logged(self, space: str, id_: str, *, mark: bytes) -> Record | None:
        """Returns the record that was logged under an id before, or None.

        Args:
            space: `request` for events and decisions, `outcome` for outcomes.
            id_: the caller's key.
            mark: digest of the body.

        Raises:
            ConflictError: the id was used with another body.
        """
        seqs = self.log.find(space, f"{self.schema.system}/{id_}")
        if not seqs:
            return None
        record = self.log.get(seqs[0])
        self._check_kept(space, record.root)
        if record.digest != mark:
            raise ConflictError(
                where=f"{self.schema.system} {space}, id",
                given="an id that was logged before with another body",
                expected="a new id, or the very same body for a retry",
                fix="To change what was logged, send a new id with `corrects` naming the old one.",
            )
        return record

    def build(self, parsed: Parsed) -> Event:
        """Returns the event of a checked request: tokens for entities, personal values sealed, amounts converted.

        Raises:
            RequestError: the time lies in the future, or there is no rate for the currency.
        """
        kind, vault = parsed.kind, self.log.vault
        now = max(self.log.known_time, self.log.clock.now_us())
        event_time = now if parsed.event_time is None else parsed.event_time
        if event_time > now + FUTURE_TOLERANCE_US or event_time < 0:
            raise _future_error(self.schema.system, kind)
        entities = {name: vault.token(name, value) for name, value in parsed.entities.items()}
        public, private = self._split(parsed)
        subject, cipher = self._keyed(entities, kind, is_sealing=bool(private))
        sealed = seal(cipher, private, bound_to=parsed.id) if private and cipher is not None else b""
        return Event(parsed.id, kind, event_time, subject, entities, public, sealed, parsed.corrects)

    def admit(self, kind: Literal["event", "outcome"], row: object) -> RowResult:
        """Admits one row of a batch, whatever it is; what is no object goes to quarantine too."""
        if isinstance(row, Mapping):
            return self.event(row) if kind == "event" else self.outcome(row)
        error = RequestError(
            where=f"{self.schema.system} {kind}",
            given="a row that is no JSON object",
            expected="an object",
            fix="Send one {…} a row.",
        )
        return self.reject(kind, row, error=error)

    def event(self, raw: Mapping[str, Any]) -> RowResult:
        """Admits one event of a batch, or quarantines it; never raises for a bad row."""
        try:
            parsed = self.parser.event(raw)
            mark = self.body_digest(parsed)
            before = self.logged("request", parsed.id, mark=mark)
            if before is not None:
                return RowResult(parsed.id, "duplicate", before.seq)
            event, root = self._event_of(parsed)
        except RequestError as error:
            return self.reject("event", raw, error=error)
        is_import = bool(parsed.taken) and not parsed.corrects
        body: Event | Decision = self._imported(event, parsed) if is_import else event
        record = self.log.stamp(
            Draft(
                kind="event" if body is event else "decision",
                system=self.schema.system,
                id=event.id,
                digest=mark,
                event_time=event.event_time,
                body=encode_body(body),
                root=root,
            )
        )
        if self.on_record is not None:
            self.on_record(record, body)
        return RowResult(event.id, "accepted", record.seq)

    def outcome(self, raw: Mapping[str, Any]) -> RowResult:
        """Admits one outcome of a batch, or quarantines it; its target may arrive later than it does."""
        try:
            parsed = self.parser.outcome(raw)
            mark = self.body_digest(parsed)
            before = self.logged("outcome", parsed.id, mark=mark)
            if before is not None:
                return RowResult(parsed.id, "duplicate", before.seq)
            self._check_target(parsed.target)
            corrected = parsed.corrects or parsed.deletes
            root = self._root("outcome", corrected) if corrected else -1
            now = max(self.log.known_time, self.log.clock.now_us())
            event_time = now if parsed.event_time is None else parsed.event_time
            if event_time > now + FUTURE_TOLERANCE_US or event_time < 0:
                raise _future_error(self.schema.system, "outcome")
        except RequestError as error:
            return self.reject("outcome", raw, error=error)
        outcome = Outcome(
            parsed.id,
            parsed.target,
            parsed.kind,
            parsed.source,
            event_time,
            parsed.value,
            parsed.amount_minor,
            parsed.currency,
            parsed.ref,
            corrected,
            bool(parsed.deletes),
            parsed.attributes,
            parsed.per,
        )
        target = (("target", f"{self.schema.system}/{parsed.target}"),) if parsed.target else ()
        record = self.log.stamp(
            Draft(
                kind="outcome",
                system=self.schema.system,
                id=parsed.id,
                digest=mark,
                event_time=event_time,
                body=encode(outcome),
                root=root,
                keys=target,
            )
        )
        if self.on_record is not None:
            self.on_record(record, outcome)
        return RowResult(parsed.id, "accepted", record.seq)

    def reject(self, meant: str, raw: object, *, error: RequestError) -> RowResult:
        """Puts a bad row into quarantine with its reason, sealed; the same row twice is kept once."""
        packed = _packed(raw)[:QUARANTINE_BYTES]
        mark = digest(self._secret, meant.encode(), packed)
        key = f"{self.schema.system}/{mark.hex()}"
        id_ = str(raw.get("id", ""))[:ID_LENGTH] if isinstance(raw, Mapping) else ""
        reason = reason_code(error)
        seqs = self.log.find("rejected", key)
        if seqs:
            return RowResult(id_, "rejected", seqs[0], reason, str(error))
        subject = self._subject_of(raw)
        cipher = self.log.vault.cipher(subject)
        sealed = b"" if cipher is None else seal(cipher, {"row": packed.decode(errors="replace")}, bound_to=mark.hex())
        body = encode(Rejected(meant, str(error), subject, sealed))
        record = self.log.stamp(
            Draft(
                kind="rejected",
                system=self.schema.system,
                id=mark.hex(),
                digest=mark,
                event_time=None,
                body=body,
                reason=reason,
                keys=(("rejected", key),),
            )
        )
        return RowResult(id_, "rejected", record.seq, reason, str(error))

    def _imported(self, event: Event, parsed: Parsed) -> Decision:
        id_ = new_decision_id(max(self.log.known_time, self.log.clock.now_us()), self._entropy(10))
        describe = self.describe or _undescribed
        versions = Versions("external", "", "", -1)
        return Decision(
            id_,
            event,
            self.log.position,
            describe(event, parsed.slots),
            self._theirs(event, parsed),
            versions,
            mode="imported",
            taken=parsed.taken,
        )

    def _theirs(self, event: Event, parsed: Parsed) -> Choice:
        """Returns what another system chose: things in slots, a number, or an action alone."""
        if self.schema.slate_of:
            return made_elsewhere(parsed.taken, parsed.slots)
        if parsed.quantity is not None:
            return made_elsewhere(parsed.taken, (event.id,), value=parsed.quantity)
        return Choice((Slot(parsed.taken, propensity=None),))

    def _event_of(self, parsed: Parsed) -> tuple[Event, int]:
        if parsed.deletes:
            root = self._root("request", parsed.deletes)
            gone = request_of(self.log.before(root, self.log.position))
            return Event(
                parsed.id, gone.kind, gone.event_time, gone.subject, {}, {}, b"", parsed.deletes, deleted=True
            ), root
        root = self._root("request", parsed.corrects) if parsed.corrects else -1
        if root >= 0 and parsed.taken:
            self._check_taken(root, parsed.taken)
        return self.build(parsed), root

    def _check_taken(self, root: int, taken: str) -> None:
        # An after-image repeats the action; it happened once, so the correction is an event and no second decision.
        first = self.log.get(root)
        if first.kind != "decision" or decode_decision(first.body).taken != taken:
            raise RequestError(
                where=f"{self.schema.system} event, taken",
                given="a correction with another action than the one that was logged as taken",
                expected="the same action, or none: what was done stays done",
                fix="Leave `taken` out of the correction.",
            )

    def _root(self, space: str, id_: str) -> int:
        seqs = self.log.find(space, f"{self.schema.system}/{id_}")
        if not seqs:
            raise RequestError(
                where=f"{self.schema.system} {'outcome' if space == 'outcome' else 'event'}, corrects",
                given="an id that is not in the log",
                expected="the id of what is to be corrected or deleted",
                fix="Send the original first, or leave `corrects` out.",
            )
        root = self.log.get(seqs[0]).root
        self._check_kept(space, root)
        return root

    def _check_target(self, id_: str) -> None:
        if id_ and self.standing.erased:
            for index, key in (("request", f"{self.schema.system}/{id_}"), ("decision", id_)):
                for seq in self.log.find(index, key):
                    self._check_kept("request", self.log.get(seq).root)

    def _check_kept(self, space: str, root: int) -> None:
        if root in self.standing.erased:
            raise ConflictError(
                where=f"{self.schema.system} {space}, id",
                given="the id of what was erased with its person",
                expected="an id that was not used before",
                fix="Send nothing more about it: nobody can be told any more whose it was.",
            )

    def _keyed(self, entities: Mapping[str, int], kind: str, *, is_sealing: bool) -> tuple[int, AESGCM | None]:
        """Returns a row's subject and the cipher of its key; nobody's row with nothing to seal gets no key."""
        vault = self.log.vault
        named = next((entities[name] for name in self._subjects[kind] if name in entities), 0)
        cipher = vault.cipher(named) if named else None
        if cipher is not None:
            return named, cipher
        # Nobody is named, or who is named was erased and comes back: a new person to us, under a new token.
        subject = self._new_token()
        return subject, vault.cipher(subject) if is_sealing else None

    def _split(self, parsed: Parsed) -> tuple[dict[str, Any], dict[str, Any]]:
        open_ = self._public_entities[parsed.kind]
        public: dict[str, Any] = dict(parsed.public)
        private: dict[str, Any] = dict(parsed.private)
        for name, value in parsed.entities.items():
            (public if name in open_ else private)[name] = value
        for minor, base in self._amounts[parsed.kind]:
            if minor in public:
                public[base] = self._in_base(parsed.kind, public[minor], public.get("currency", ""))
        return public, private

    def _in_base(self, kind: str, minor: int, currency: str) -> int:
        try:
            converted = convert(minor, currency, base=self.rates.base, rates=self.rates.rates)
        except ValueError:
            raise RequestError(
                where=f"{self.schema.system} {kind}, currency",
                given=f"{currency}, for which there is no rate to {self.rates.base}",
                expected=f"one of: {', '.join(sorted({self.rates.base, *self.rates.rates}))}",
                fix="Add the rate: `decalog serve --rates rates.toml`, or [rates] in the mapping.",
            ) from None
        if converted > MAX_MINOR:
            raise RequestError(
                where=f"{self.schema.system} {kind}, amount",
                given=f"an amount of more than {MAX_MINOR} minor units of {self.rates.base}",
                expected="an amount within that bound in the base currency as well",
                fix="Check the amount, and the rate of its currency.",
            )
        return converted

    def _subject_of(self, raw: object) -> int:
        # So that erasing a person also makes the rows unreadable that were refused.
        if isinstance(raw, Mapping):
            for name in self._subjects[self.schema.request.name]:
                value = raw.get(name)
                if isinstance(value, str) and 0 < len(value) <= ID_LENGTH and _is_text(value):
                    return self.log.vault.token(name, value)
        return self._new_token()

    def _new_token(self) -> int:
        return new_token(self._entropy)


def request_of(record: Record) -> Event:
    """Returns the event of a record: its own, or the request of a decision, of which nothing else is read."""
    return decode_event(record.body) if record.kind == "event" else decode_request(record.body)


def _undescribed(_request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
    return tuple(Candidate(ref) for ref in refs)


def reason_code(error: RequestError) -> str:
    """Returns a short code for a rejection, stable enough to count by.

    >>> reason_code(RequestError(where="fraud payment, currency", given="x", expected="y", fix="z"))
    'currency'
    """
    if isinstance(error, ConflictError):
        return "conflict"
    field = error.where.rpartition(", ")[2] if ", " in error.where else ""
    if error.given.startswith("no ") and not field:
        return "missing_" + error.given.removeprefix("no ")
    return field or "malformed"


def _packed(raw: object) -> bytes:
    # Rows of a user's own program may hold what JSON cannot; a row that is refused must not stop its neighbours.
    try:
        return msgspec.json.encode(raw, enc_hook=str)
    except (ValueError, TypeError, RecursionError):
        return ascii(raw).encode()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _future_error(system: str, kind: str) -> RequestError:
    return RequestError(
        where=f"{system} {kind}, event_time",
        given="a time in the future, or before 1970",
        expected=f"at most {FUTURE_TOLERANCE_US // 60_000_000} minutes ahead of the log",
        fix="Check the clock and the time zone of the sender.",
    )
