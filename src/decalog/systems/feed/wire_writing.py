"""Gorse's writes as events and outcomes of ours: it says what is to be logged, admission says what of it is right.

What is written again is a correction of what stands; the very same again is nothing. What a user did with an item that
a slate showed them lately is an outcome of that slate, anything else an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from decalog.clock import rfc3339, time_us
from decalog.errors import ConfigError, near
from decalog.events import Event
from decalog.outcomes import Outcome
from decalog.systems.feed.schema import ACTIONS, DWELL
from decalog.systems.feed.wire_labels import ITEM_FIELDS, USER_FIELDS, Json, fields_of
from decalog.systems.feed.wire_messages import Feedback, Item, User, read_time
from decalog.systems.feed.wire_names import Doing
from decalog.systems.feed.wire_shelf import HIDES, Key, Shelf, Space, Version

_ACTS = (*ACTIONS, DWELL)
DEFAULT_TYPES: Mapping[str, str] = {
    **dict(zip(_ACTS, _ACTS, strict=True)),
    "read": "click",
    "star": "like",
    "comment": "reply",
    "dislike": "hide",
    "*": "click",
}
"""Type of feedback → what was done; `*` for any other."""


class Rows(NamedTuple):
    """What is to be logged: events and outcomes, as admission takes them."""

    events: list[Json]
    outcomes: list[Json]

    def add(self, space: Space, row: Json) -> None:
        """Adds a row of a space of ids."""
        (self.outcomes if space == "outcome" else self.events).append(row)


def types_of(text: str) -> Mapping[str, str]:
    """Returns type → what was done, out of a setting such as `purchase=share,skip=hide,*=click`.

    Raises:
        ConfigError: it names nothing that can be done with a post.
    """
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    given = {type_.strip(): kind.strip() for type_, _, kind in pairs}
    wrong = [kind for kind in given.values() if kind not in _ACTS]
    if wrong:
        raise ConfigError(
            where="serve, GORSE_FEEDBACK_TYPES",
            given=f"{wrong[0]!r}, which nobody does with a post",
            expected=near(wrong[0], _ACTS),
            fix="Write GORSE_FEEDBACK_TYPES=purchase=share,skip=hide.",
        )
    return {**DEFAULT_TYPES, **given}


class Translator:
    """Gorse's objects as rows for the log.

    Args:
        shelf: tells what stands.
        types: type of feedback → what was done.
    """

    def __init__(self, shelf: Shelf, types: Mapping[str, str]) -> None:
        self._shelf, self._names, self._types = shelf, shelf.names, types

    def kind(self, type_: str) -> str:
        """Returns what a type of feedback says was done."""
        return self._types.get(type_, self._types["*"])

    def item(self, item: Item, rows: Rows) -> None:
        """Adds what writes an item, over what stands: nothing where that is the same."""
        id_ = self._names.item(item.item_id)
        before = self._shelf.item(id_)
        time = read_time(item.timestamp) or (str(before["Timestamp"]) if before else None)
        categories = [name for name in item.categories or () if name]
        first, *more = categories or ("",)
        labels = fields_of(item.labels, fields=ITEM_FIELDS, words="labels", categories=more)
        row = {"kind": "post", "post": item.item_id, "topic": first, "title": item.comment, "event_time": time}
        if before is None or _facts(before) != (categories, item.labels, item.comment or "", _told(time)):
            rows.events.append(self._version("request", id_, row=row | labels))
        self._hide(item, rows)

    def _hide(self, item: Item, rows: Rows) -> None:
        if self._shelf.is_hidden(item.item_id) != bool(item.is_hidden):
            verdict = {"kind": "moderation", "post": item.item_id, "verdict": HIDES if item.is_hidden else "clear"}
            rows.events.append(self._version("request", self._names.hidden(item.item_id), row=verdict))

    def user(self, user: User, rows: Rows) -> None:
        """Adds what writes a user."""
        id_ = self._names.user(user.user_id)
        before = self._shelf.user(id_)
        if before is None or (before["Labels"], before["Comment"]) != (user.labels, user.comment or ""):
            row = {"kind": "profile", "user": user.user_id, "comment": user.comment}
            labels = fields_of(user.labels, fields=USER_FIELDS, words="interests")
            rows.events.append(self._version("request", id_, row=row | labels))

    def feedback(self, feedback: Feedback, rows: Rows, *, overwrites: bool) -> None:
        """Adds what writes a feedback; one that is there already stays, unless it is to be overwritten."""
        doing, kind, time = feedback.key, self.kind(feedback.feedback_type), read_time(feedback.timestamp)
        value = feedback.value or (0.0 if kind == DWELL else 1.0)
        standing = self._shelf.feedback(doing)
        if standing is not None and _stays(standing, value, time=time, overwrites=overwrites):
            return
        slate = self._slate(doing, time, standing=standing)
        what: Json = {"source": "app", "feed_request": slate, "ref": doing.item} if slate else self._elsewhere(doing)
        row = {"kind": kind, "value": value, "event_time": time, **what}
        space: Space = "outcome" if slate else "request"
        rows.add(space, self._version(space, self._names.feedback(doing), row=row))

    def delete(self, key: Key, rows: Rows) -> None:
        """Adds what withdraws the record of a key: nothing where none stands there."""
        standing = self._shelf.current(key.space, key.id)
        if standing is not None and not standing.deleted:
            kind = {"kind": standing.body.kind} if key.space == "request" else {}
            rows.add(key.space, {"id": _after(standing), "deletes": key.id, **kind})

    def _slate(self, doing: Doing, time: str | None, *, standing: Version | None) -> str:
        """Returns the slate that a feedback is about: the one it was laid at, or the last that showed the item."""
        if standing is not None and (isinstance(standing.body, Event) or standing.body.target):
            return standing.body.target if isinstance(standing.body, Outcome) else ""
        return self._shelf.slate_of(doing, self._shelf.now() if time is None else time_us(time))

    def _elsewhere(self, doing: Doing) -> Json:
        """Returns who did something with which post outside a slate, and what is known of the post."""
        post = self._shelf.current("request", self._names.item(doing.item))
        known = {} if post is None else post.body.attributes
        return {"user": doing.user, "post": doing.item, **{n: known[n] for n in ("author", "topic") if n in known}}

    def _version(self, space: Space, id_: str, *, row: Json) -> Json:
        """Returns a row as the first under an id, or as what corrects what stands there."""
        said = {name: value for name, value in row.items() if value not in (None, "")}
        standing = self._shelf.current(space, id_)
        return {"id": id_, **said} if standing is None else {"id": _after(standing), "corrects": id_, **said}


def _after(standing: Version) -> str:
    # Of the record that it follows, so that it is the same for whoever says it twice at once.
    return f"after/{standing.record.seq}"


def _stays(standing: Version, value: float, *, time: str | None, overwrites: bool) -> bool:
    """Whether a feedback that is written again is left as it stands."""
    is_same = standing.value == value and (time is None or time_us(time) == standing.body.event_time)
    return not standing.deleted and (is_same or not overwrites)


def _facts(item: Json) -> tuple[object, ...]:
    return tuple(item[name] for name in ("Categories", "Labels", "Comment", "Timestamp"))


def _told(time: str | None) -> str | None:
    return None if time is None else rfc3339(time_us(time))
