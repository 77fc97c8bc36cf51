"""What the log knows of items, users and feedback, as Gorse tells it. A list is a walk along the log's index of ids."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple, cast

from decalog.clock import DAY, rfc3339
from decalog.crypto import opened
from decalog.decisions import decode_decision
from decalog.events import Event, Record
from decalog.folding import body_of
from decalog.host import Host
from decalog.ingest import request_of
from decalog.log import FUTURE_TOLERANCE_US
from decalog.outcomes import Outcome
from decalog.stores.base import StoredKeys
from decalog.systems.feed.wire_labels import ITEM_FIELDS, USER_FIELDS, Json, labels_of
from decalog.systems.feed.wire_names import Doing, Names

Space = Literal["request", "outcome"]
SPACES: tuple[Space, ...] = ("outcome", "request")
HIDES = "removed"
ATTRIBUTED_US = DAY
"""For so long after a slate, what its user does with an item of it is laid at its door."""

_SLATES_SEEN = 100
_SLATES_CACHED = 20_000
_BEHIND = "\U0010ffff"


class Version(NamedTuple):
    """What stands now under an id: the record that said it last, and its body."""

    record: Record
    body: Event | Outcome

    @property
    def deleted(self) -> bool:
        """Whether it was withdrawn."""
        return self.body.deleted

    @property
    def value(self) -> float:
        """What a feedback says, 1 where it does not."""
        said = self.body.value if isinstance(self.body, Outcome) else self.body.attributes.get("value", 1.0)
        return float(said)


class Key(NamedTuple):
    """Where a record stands, and what the id of a feedback says: the mark of its item, and its type."""

    space: Space
    id: str
    item: str = ""
    type: str = ""


class _Slate(NamedTuple):
    """Who asked, as the log has it, and what was shown."""

    request: Event
    shown: frozenset[str]


class Shelf:
    """Reads for one system of a host.

    Args:
        host: whose log.
        system: its name.
    """

    def __init__(self, host: Host, system: str) -> None:
        self.names = Names(host.log.vault.secret("wire"))
        self._system = system
        self._log = host.log
        self._slate = lru_cache(_SLATES_CACHED)(self._read_slate)

    def now(self) -> int:
        """Returns the log's time, µs."""
        return max(self._log.known_time, self._log.clock.now_us())

    def current(self, space: Space, id_: str) -> Version | None:
        """Returns what stands now under the id of a first record; None where there is none."""
        seqs = self._log.find(space, f"{self._system}/{id_}")
        if not seqs:
            return None
        record = self._log.before(self._log.get(seqs[0]).root, self._log.position)
        body = body_of(record)
        return Version(record, body) if isinstance(body, Event | Outcome) else None

    def ids(self, space: Space, prefix: str, *, after: str = "", before: str = _BEHIND) -> Iterator[tuple[str, int]]:
        """Yields (id, seq) of the durable first records whose id begins with a prefix, in the order of ids.

        Args:
            space: of the ids.
            prefix: of the ids.
            after: what comes behind the prefix lies behind this,
            before: and before this.
        """
        lead = f"{self._system}/"
        # Every log that is served gives its keys: it is verified by them.
        store = cast("StoredKeys", self._log.store)
        begin = (space, lead + prefix + after, 2**62 if after else -1)
        for _, key, seq in store.keys(begin, (space, lead + prefix + before, 0)):
            yield key.removeprefix(lead), seq

    def item(self, id_: str) -> Json | None:
        """Returns the item of a record's id, None where it was deleted."""
        found = self.current("request", id_)
        if found is None or found.deleted:
            return None
        said = found.body.attributes
        labels, categories = labels_of(said, fields=ITEM_FIELDS, words="labels")
        return {
            "ItemId": said["post"],
            "IsHidden": self.is_hidden(str(said["post"])),
            "Categories": [*([said["topic"]] if "topic" in said else []), *categories],
            "Timestamp": rfc3339(found.body.event_time),
            "Labels": labels,
            "Comment": said.get("title", ""),
        }

    def is_hidden(self, item: str) -> bool:
        """Whether an item was hidden through this door."""
        verdict = self.current("request", self.names.hidden(item))
        return verdict is not None and verdict.body.attributes.get("verdict") == HIDES

    def user(self, id_: str) -> Json | None:
        """Returns the user of a record's id, None where it was deleted or erased."""
        found = self.current("request", id_)
        if found is None or not isinstance(found.body, Event):
            return None
        private = self._private(found.body)
        if "user" not in private:
            return None
        labels, _ = labels_of(found.body.attributes, fields=USER_FIELDS, words="interests")
        return {"UserId": private["user"], "Labels": labels, "Subscribe": None, "Comment": private.get("comment", "")}

    def feedback(self, doing: Doing) -> Version | None:
        """Returns a feedback as it stands; of an outcome and an event the one that was not deleted; None for none."""
        id_ = self.names.feedback(doing)
        found = (self.current(space, id_) for space in SPACES)
        return min((one for one in found if one is not None), key=lambda one: one.deleted, default=None)

    def told_feedback(self, key: Key, user: str = "") -> Json | None:
        """Returns a feedback as Gorse tells it; None where it was deleted, or its user erased.

        Args:
            key: of the feedback.
            user: whose it is, where that is known.
        """
        found = self.current(key.space, key.id)
        if found is None or found.deleted:
            return None
        body = found.body
        if isinstance(body, Outcome):
            by, item = user or self._user_asking(body.target), body.ref
        else:
            by, item = user or str(self._private(body).get("user", "")), str(body.attributes["post"])
        if not by:
            return None
        return {
            "FeedbackType": key.type,
            "UserId": by,
            "ItemId": item,
            "Value": found.value,
            "Timestamp": rfc3339(body.event_time),
            "Comment": "",
        }

    def feedback_keys(self, prefix: str, after: str = "") -> Iterator[Key]:
        """Yields the keys of feedback whose id begins with a prefix.

        Args:
            prefix: of the ids.
            after: a space, a blank, and behind what after the prefix to begin; or "".
        """
        begun, _, last = after.partition(" ")
        for space in SPACES[SPACES.index(begun) if begun in SPACES else 0 :]:
            for id_, _ in self.ids(space, prefix, after=last if space == begun else ""):
                _, _, item, type_ = id_.split("/", 3)
                yield Key(space, id_, item, type_)

    def slate_of(self, doing: Doing, at_us: int) -> str:
        """Returns the id of the last slate before a moment that showed an item to a user, or ""."""
        first, last = map(self.names.moment, (at_us - ATTRIBUTED_US, at_us + FUTURE_TOLERANCE_US))
        found = list(self.ids("request", self.names.slates(doing.user), after=first, before=last))
        return next((id_ for id_, seq in reversed(found[-_SLATES_SEEN:]) if doing.item in self._slate(seq).shown), "")

    def _read_slate(self, seq: int) -> _Slate:
        record = self._log.get(seq)
        request = request_of(record)
        happened = decode_decision(record.body).happened if record.kind == "decision" else None
        return _Slate(request, frozenset(slot.ref for slot in happened.slots) if happened else frozenset())

    def _user_asking(self, request: str) -> str:
        seqs = self._log.find("request", f"{self._system}/{request}")
        return str(self._private(self._slate(seqs[0]).request).get("user", "")) if seqs else ""

    def _private(self, event: Event) -> Json:
        """Returns the personal values of an event; none where it withdraws, or whose it is was erased."""
        cipher = self._log.vault.cipher(event.subject) if event.sealed else None
        return opened(cipher, event.sealed, bound_to=event.id)
