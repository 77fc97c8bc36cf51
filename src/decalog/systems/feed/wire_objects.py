"""Gorse's items, users and feedback: written into the log, read back from it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from decalog.access import Scope
from decalog.errors import LimitError, RequestError
from decalog.host import Host
from decalog.http.problems import Answer
from decalog.http.settings import HttpSettings
from decalog.http.wires import Asked, WireRoute
from decalog.ingest import RowResult
from decalog.systems.feed.wire_labels import Json
from decalog.systems.feed.wire_messages import (
    DEFAULT_N,
    Feedback,
    Item,
    ItemPatch,
    Query,
    User,
    UserPatch,
    known,
    not_done,
    patched,
    read,
    read_rows,
    told,
)
from decalog.systems.feed.wire_names import Doing
from decalog.systems.feed.wire_shelf import SPACES, Key, Shelf
from decalog.systems.feed.wire_writing import Rows, Translator

_TOGETHER = 50
"""Objects that are translated and admitted without others in between: each makes two rows at most, and admission lets
others work after a hundred."""
_MOST_LISTED = 1_000
_MOST_LOOKED_AT = 10_000
_MOST_KEYS = 1_000_000
_AT_ONCE = 20
_KEYS_AT_ONCE = 2_000
_T = TypeVar("_T")
Written = TypeVar("Written", Item, User, Feedback)
_encode = msgspec.json.Encoder().encode

Answering = Callable[[Asked], Awaitable[Answer]]
Listing = Callable[[str], Iterator[tuple[str, Json | None]]]
"""Place to begin behind → places, each with what stands there, None where that is not asked for."""


class Objects:
    """The routes of one system's items, users and feedback.

    Args:
        host: logs.
        system: its name.
        shelf: reads.
        translator: says what is to be logged.
        settings: limits.
    """

    def __init__(
        self, host: Host, system: str, *, shelf: Shelf, translator: Translator, settings: HttpSettings
    ) -> None:
        self._host, self._system = host, system
        self._shelf, self._names, self._make = shelf, shelf.names, translator
        self._most = settings.batch_rows

    @property
    def routes(self) -> tuple[WireRoute, ...]:
        """Lists that name users to whoever asks are an operator's; what names its user in the path is not."""
        item, user, feedback = "/api/item/{id}", "/api/user/{id}", "/api/feedback"
        category, one, typed = f"{item}/category/{{name}}", "{user}/{id}", "{type}/{user}/{id}"
        items, users = (
            partial(self._put, kind=Item, make=self._make.item),
            partial(self._put, kind=User, make=self._make.user),
        )
        insert = partial(self._put, kind=Feedback, make=partial(self._make.feedback, overwrites=False), first=True)
        overwrite = partial(self._put, kind=Feedback, make=partial(self._make.feedback, overwrites=True))
        table: tuple[tuple[str, str, Scope, Answering], ...] = (
            ("GET", "/api/items", "decide", self._items),
            ("GET", item, "decide", self._item),
            ("PATCH", item, "decide", self._patch_item),
            ("DELETE", item, "decide", self._delete_item),
            ("PUT", category, "decide", partial(self._categorise, is_there=True)),
            ("DELETE", category, "decide", partial(self._categorise, is_there=False)),
            ("GET", f"{item}/feedback", "admin", self._of_item),
            ("GET", f"{item}/feedback/{{type}}", "admin", self._of_item),
            ("GET", "/api/users", "admin", self._users),
            ("GET", user, "decide", self._user),
            ("PATCH", user, "decide", self._patch_user),
            ("DELETE", user, "decide", self._delete_user),
            ("GET", f"{user}/feedback", "outcomes", self._of_user),
            ("GET", f"{user}/feedback/{{type}}", "outcomes", self._of_user),
            ("GET", feedback, "admin", self._all_feedback),
            ("GET", f"{feedback}/{{type}}", "admin", self._all_feedback),
            ("GET", f"{feedback}/{one}", "outcomes", self._between),
            ("DELETE", f"{feedback}/{one}", "outcomes", self._delete_between),
            ("GET", f"{feedback}/{typed}", "outcomes", self._typed),
            ("DELETE", f"{feedback}/{typed}", "outcomes", self._delete_typed),
        )
        batches: tuple[tuple[str, str, Scope, Answering], ...] = (
            *((method, path, "decide", items) for method in ("POST", "PUT") for path in ("/api/item", "/api/items")),
            *((method, path, "decide", users) for method in ("POST", "PUT") for path in ("/api/user", "/api/users")),
            ("POST", feedback, "outcomes", insert),
            ("PUT", feedback, "outcomes", overwrite),
        )
        return (
            *(WireRoute("gorse_object", method, path, scope, answer) for method, path, scope, answer in table),
            *(WireRoute("gorse_write", *row, batch=True) for row in batches),
        )

    async def _put(
        self, asked: Asked, *, kind: type[Written], make: Callable[[Any, Rows], object], first: bool = False
    ) -> Answer:
        """Writes one object or many; of two under one key the first counts, or else the last."""
        given = read_rows(asked.body, kind, most=self._most)
        by_key = {one.key: one for one in (reversed(given) if first else given)}
        await self._log(list(by_key.values()), make)
        return told({"RowAffected": len(given)})

    # Items

    async def _item(self, asked: Asked) -> Answer:
        return await self._told(self._known_item(asked.ids[0]))

    async def _items(self, asked: Asked) -> Answer:
        if Query(asked.query).text("q"):
            raise not_done("items, q", given="a search", fix="Search where your items are; by id they are found here.")
        return await self._page(asked, "Items", self._listing("item/", self._shelf.item))

    async def _patch_item(self, asked: Asked) -> Answer:
        return await self._patched(asked, read(asked.body, ItemPatch))

    async def _categorise(self, asked: Asked, *, is_there: bool) -> Answer:
        item, category = asked.ids
        before = self._known_item(item)["Categories"]
        added = [*before, *([] if category in before else [category])]
        after = added if is_there else [name for name in before if name != category]
        return await self._patched(asked, ItemPatch(categories=after))

    async def _patched(self, asked: Asked, patch: ItemPatch) -> Answer:
        item = patched(self._known_item(asked.ids[0]), patch, kind=Item)
        await self._log([item], self._make.item)
        return told({"RowAffected": 1})

    async def _delete_item(self, asked: Asked) -> Answer:
        # What people did with it happened: only the item goes.
        return await self._deleted([Key("request", self._names.item(asked.ids[0]))])

    def _known_item(self, item: str) -> Json:
        return known(self._shelf.item(self._names.item(item)), "item")

    # Users

    async def _user(self, asked: Asked) -> Answer:
        return await self._told(self._known_user(asked.ids[0]))

    async def _users(self, asked: Asked) -> Answer:
        return await self._page(asked, "Users", self._listing("user/", self._shelf.user))

    async def _patch_user(self, asked: Asked) -> Answer:
        user = patched(self._known_user(asked.ids[0]), read(asked.body, UserPatch), kind=User)
        await self._log([user], self._make.user)
        return told({"RowAffected": 1})

    async def _delete_user(self, asked: Asked) -> Answer:
        user = asked.ids[0]
        is_there = self._shelf.user(self._names.user(user)) is not None
        feedback = self._shelf.feedback_keys(self._names.feedback_between(user))
        await self._log([Key("request", self._names.user(user)), *feedback], self._make.delete)
        return told({"RowAffected": int(is_there)})

    def _known_user(self, user: str) -> Json:
        return known(self._shelf.user(self._names.user(user)), "user")

    # Feedback

    async def _all_feedback(self, asked: Asked) -> Answer:
        type_ = asked.ids[0] if asked.ids else ""

        def listing(after: str) -> Iterator[tuple[str, Json | None]]:
            for key in self._shelf.feedback_keys("feedback/", after):
                is_asked_for = type_ in ("", key.type)
                yield (
                    f"{key.space} {key.id.removeprefix('feedback/')}",
                    self._shelf.told_feedback(key) if is_asked_for else None,
                )

        return await self._page(asked, "Feedback", listing)

    async def _between(self, asked: Asked) -> Answer:
        user, item = asked.ids
        return await self._listed(self._shelf.feedback_keys(self._names.feedback_between(user, item)), user=user)

    async def _typed(self, asked: Asked) -> Answer:
        type_, user, item = asked.ids
        doing = Doing(user, item, type_)
        keys = (Key(space, self._names.feedback(doing), type=type_) for space in SPACES)
        found = next((one for key in keys if (one := self._shelf.told_feedback(key, user))), None)
        return await self._told(known(found, "feedback"))

    async def _of_user(self, asked: Asked) -> Answer:
        user, *type_ = asked.ids
        keys = self._shelf.feedback_keys(self._names.feedback_between(user))
        return await self._listed(keys, user=user, type_="".join(type_))

    async def _of_item(self, asked: Asked) -> Answer:
        item, *type_ = asked.ids
        mark = self._names.item_mark(item)
        return await self._listed(self._shelf.feedback_keys("feedback/"), item=mark, type_="".join(type_))

    async def _delete_between(self, asked: Asked) -> Answer:
        return await self._deleted(list(self._shelf.feedback_keys(self._names.feedback_between(*asked.ids))))

    async def _delete_typed(self, asked: Asked) -> Answer:
        type_, user, item = asked.ids
        id_ = self._names.feedback(Doing(user, item, type_))
        return await self._deleted([Key(space, id_) for space in SPACES])

    # What they share

    async def _listed(self, keys: Iterable[Key], *, user: str = "", item: str = "", type_: str = "") -> Answer:
        """Returns all feedback of some keys that is by a user, on an item (its mark), of a type."""
        found: list[Json] = []
        for number, key in enumerate(keys, 1):
            if item in ("", key.item) and type_ in ("", key.type):
                one = self._shelf.told_feedback(key, user)
                found += [] if one is None else [one]
            if number % _KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if number > _MOST_KEYS:
                raise LimitError(
                    where="feedback",
                    given=f"a list that is not found among {_MOST_KEYS:,} feedbacks",
                    expected="a shorter way to what is looked for",
                    fix="Ask for one user's.",
                )
        return await self._told(found)

    def _listing(self, prefix: str, make: Callable[[str], Json | None]) -> Listing:
        def listing(after: str) -> Iterator[tuple[str, Json | None]]:
            for id_, _ in self._shelf.ids("request", prefix, after=after):
                yield id_.removeprefix(prefix), make(id_)

        return listing

    async def _page(self, asked: Asked, name: str, listing: Listing) -> Answer:
        """Returns a page and where the next begins; one that is not full is no sign that it is the last."""
        query = Query(asked.query)
        n = min(query.whole("n", DEFAULT_N), _MOST_LISTED)
        found: list[Json] = []
        last = ""
        for number, (place, one) in enumerate(listing(_place(query.text("cursor"))), 1):
            if len(found) >= n or number > _MOST_LOOKED_AT:
                break
            last = place
            found += [] if one is None else [one]
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        else:
            last = ""
        return await self._told({"Cursor": base64.urlsafe_b64encode(last.encode()).decode(), name: found})

    async def _told(self, body: object) -> Answer:
        """Returns what was read, once it is durable: a crash must not take it back."""
        return told(await self._host.operate(self._system, lambda _service: body))

    async def _deleted(self, keys: Sequence[Key]) -> Answer:
        return told({"RowAffected": await self._log(keys, self._make.delete)})

    async def _log(self, ones: Sequence[_T], make: Callable[[_T, Rows], object]) -> int:
        """Logs what is made of objects; returns how many rows that was.

        Raises:
            RequestError: admission put some into quarantine; the others were taken.
        """
        results: list[RowResult] = []
        for start in range(0, len(ones), _TOGETHER):
            rows = Rows([], [])
            for one in ones[start : start + _TOGETHER]:
                make(one, rows)
            for add, some in ((self._host.add_events, rows.events), (self._host.add_outcomes, rows.outcomes)):
                results += await add(self._system, _encode(some)) if some else []
        refused = [result for result in results if result.status == "rejected"]
        if refused:
            raise RequestError(
                where=f"body, {refused[0].reason}",
                given=f"{len(refused)} of {len(results)} rows that were put into quarantine: {refused[0].message}",
                expected="rows that fit; the others were taken",
                fix="Mend them and send all again: what was taken is not doubled.",
            )
        return len(results)


def _place(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise RequestError(
            where="query, cursor",
            given="a cursor that was never given",
            expected="the Cursor of the page before, or none",
            fix="Begin again without one.",
        ) from None
