"""What Gorse's clients send: bodies, queries and times, checked before anything of them is taken."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta

from decalog.clock import rfc3339
from decalog.errors import LimitError, RequestError, UnknownRecordError
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import JSON
from decalog.systems.feed.wire_labels import ITEM_FIELDS, USER_FIELDS, Json, fields_of
from decalog.systems.feed.wire_names import Doing

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Type = Annotated[str, Meta(min_length=1, max_length=64)]

DEFAULT_N = 10
_NEVER = "0001-01-01"
"""How Go writes a time that nobody gave."""
_UNITS = {10: 1_000_000, 13: 1_000, 16: 1}
"""Digits of a Unix time → microseconds in one."""
_MOST_DIGITS = 9
_T = TypeVar("_T")


class ItemPatch(msgspec.Struct, rename="pascal", kw_only=True):
    """What changes of an item; what is left out stays."""

    is_hidden: bool | None = None
    categories: list[str] | None = None
    timestamp: str | None = None
    labels: Any = None
    comment: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be taken, before anything is."""
        read_time(self.timestamp)
        fields_of(self.labels, fields=ITEM_FIELDS, words="labels")


class Item(ItemPatch, kw_only=True):
    """An item as it is written; what is left out is nothing."""

    item_id: Id

    @property
    def key(self) -> str:
        """What it is known by."""
        return self.item_id


class UserPatch(msgspec.Struct, rename="pascal", kw_only=True):
    """What changes of a user; what is left out stays."""

    labels: Any = None
    subscribe: list[str] | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be taken, before anything is."""
        fields_of(self.labels, fields=USER_FIELDS, words="interests")
        if self.subscribe:
            raise RequestError(
                where="body, Subscribe",
                given="what a user subscribes to",
                expected="none: labels say what they are interested in",
                fix="Send `follow` events for authors and topics.",
            )


class User(UserPatch, kw_only=True):
    """A user as it is written; what is left out is nothing."""

    user_id: Id

    @property
    def key(self) -> str:
        """What it is known by."""
        return self.user_id


class Feedback(msgspec.Struct, rename="pascal"):
    """What a user did with an item; type, user and item are its key."""

    feedback_type: Type
    user_id: Id
    item_id: Id
    timestamp: str | None = None
    value: float | None = None
    comment: str | None = None

    @property
    def key(self) -> Doing:
        """What it is known by: there is one of each key."""
        return Doing(self.user_id, self.item_id, self.feedback_type)

    def __post_init__(self) -> None:
        """Refuses what cannot be taken, before anything is."""
        read_time(self.timestamp)
        if self.comment:
            raise RequestError(
                where="body, Comment", given="a comment", expected="none: there is no place for it", fix="Leave it out."
            )


class SessionDoing(msgspec.Struct, rename="pascal"):
    """A feedback of a session, whose user need not be named."""

    item_id: Id
    feedback_type: str = ""
    timestamp: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be taken."""
        read_time(self.timestamp)


def read(body: bytes, kind: Any) -> Any:
    """Returns a body as its kind; names that Gorse does not know are passed over, as Gorse does.

    Raises:
        RequestError: it is no JSON, or does not fit.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__ from None
        where = re.search(r"at `\$(?:\[\.*\d*\])?\.?(\w*)", str(error))
        raise RequestError(
            where=", ".join(filter(None, ("body", where and where[1]))),
            given=f"what does not fit ({str(error).partition(' - at ')[0]})",
            expected="JSON as Gorse's clients send it",
            fix="Nothing was taken: mend it and send it whole.",
        ) from None


def read_rows(body: bytes, kind: type[_T], *, most: int) -> list[_T]:
    """Returns the rows of a body; one that is an object is a row.

    Raises:
        RequestError: as for `read`; LimitError for more than `most`.
    """
    given = read(body, list[kind] | kind)  # type: ignore[valid-type]  # a type at run time
    rows: list[_T] = given if isinstance(given, list) else [given]
    if len(rows) > most:
        raise LimitError(
            where="body", given=f"{len(rows)} rows", expected=f"at most {most}", fix="Send them in several requests."
        )
    return rows


def read_time(text: str | None) -> str | None:
    """Returns a time as RFC 3339, or None where none is given; one without an offset is in UTC.

    >>> [read_time(text) for text in ("2022-08-07", "1659832006", "")]
    ['2022-08-07T00:00:00+00:00', '2022-08-07T00:26:46Z', None]

    Raises:
        RequestError: it is no time.
    """
    if not text or text.startswith(_NEVER):
        return None
    if text.isascii() and text.isdigit() and len(text) in _UNITS:
        return rfc3339(int(text) * _UNITS[len(text)])
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            where="body, Timestamp",
            given="no time that is known here",
            expected="RFC 3339, such as 2022-08-07T00:26:46Z, or a Unix time",
            fix="Nothing was taken: mend it and send it whole.",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).isoformat()


class Query:
    """The parameters of a request's query, by names in small letters: some clients write `Cursor`.

    Args:
        raw: behind the question mark.
    """

    def __init__(self, raw: bytes) -> None:
        pairs = parse_qs(raw.decode(errors="replace"), keep_blank_values=True)
        self._given: Mapping[str, Sequence[str]] = {name.lower(): values for name, values in pairs.items()}

    def text(self, name: str) -> str:
        """Returns a parameter, "" where it is not there."""
        return self._given.get(name, ("",))[-1]

    def whole(self, name: str, default: int) -> int:
        """Returns a number of 0 or more.

        Raises:
            RequestError: it is none.
        """
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise RequestError(
                where=f"query, {name}",
                given="no such number",
                expected="0 or more",
                fix="Leave it out for the default.",
            )
        return int(text)

    def category(self, in_path: str = "") -> str:
        """Returns the one category that is asked for, or "".

        Raises:
            RequestError: there are several.
        """
        named = {name for name in (in_path, *self._given.get("category", ())) if name}
        if len(named) > 1:
            raise RequestError(
                where="query, category",
                given="several categories",
                expected="one: a post has one topic here",
                fix="Ask for each of them.",
            )
        return next(iter(named), "")


def told(body: object, status: int = 200) -> Answer:
    """Returns what is answered."""
    return Answer(status, msgspec.json.encode(body), JSON)


def not_done(where: str, *, given: str, fix: str) -> Refusal:
    """Returns the refusal of what Gorse does and this does not."""
    return Refusal(501, RequestError(where=where, given=given, expected="what docs/howto/gorse.md lists", fix=fix))


def known(found: Json | None, what: str) -> Json:
    """Returns what was found.

    Raises:
        UnknownRecordError: it is not there.
    """
    if found is None:
        raise UnknownRecordError(
            where=what, given="an id that none has", expected="one that was written", fix="Write it first."
        )
    return found


def patched(before: Json, patch: ItemPatch | UserPatch, *, kind: type[_T]) -> _T:
    """Returns what was written before as it is to be written now."""
    changes = {name: value for name, value in msgspec.to_builtins(patch).items() if value is not None}
    return msgspec.convert({**before, **changes}, kind)
