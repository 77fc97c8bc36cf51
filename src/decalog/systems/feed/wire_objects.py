"""Gorse's items, users and feedback: written into the log, read back from it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

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
    not_done,
    read,
    read_rows,
    told,
    unknown,
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
_AT_ONCE = 100
_KEYS_AT_ONCE = 2_000
_T = TypeVar("_T")
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
        one, typed = f"{feedback}/{{user}}/{{id}}", f"{feedback}/{{type}}/{{user}}/{{id}}"
        category = f"{item}/category/{{name}}"
        lists: tuple[tuple[str, Scope, Answering], ...] = (
            (user, "outcomes", self._of_user),
            (item, "admin", self._of_item),
        )
        return (
            WireRoute("gorse_items", "POST", "/api/item", "decide", self._put_item),
            WireRoute("gorse_items", "POST", "/api/items", "decide", self._put_items, batch=True),
            WireRoute("gorse_items", "GET", "/api/items", "decide", self._items),
            WireRoute("gorse_item", "GET", item, "decide", self._item),
            WireRoute("gorse_items", "PATCH", item, "decide", self._patch_item),
            WireRoute("gorse_items", "DELETE", item, "decide", self._delete_item),
            WireRoute("gorse_items", "PUT", category, "decide", partial(self._categorise, is_there=True)),
            WireRoute("gorse_items", "DELETE", category, "decide", partial(self._categorise, is_there=False)),
            WireRoute("gorse_users", "POST", "/api/user", "decide", self._put_user),
            WireRoute("gorse_users", "POST", "/api/users", "decide", self._put_users, batch=True),
            WireRoute("gorse_users", "GET", "/api/users", "admin", self._users),
            WireRoute("gorse_user", "GET", user, "decide", self._user),
            WireRoute("gorse_users", "PATCH", user, "decide", self._patch_user),
            WireRoute("gorse_users", "DELETE", user, "decide", self._delete_user),
            WireRoute("gorse_feedback", "POST", feedback, "outcomes", self._insert, batch=True),
            WireRoute("gorse_feedback", "PUT", feedback, "outcomes", self._overwrite, batch=True),
            WireRoute("gorse_feedback", "GET", feedback, "admin", self._all_feedback),
            WireRoute("gorse_feedback", "GET", f"{feedback}/{{type}}", "admin", self._all_feedback),
            WireRoute("gorse_feedback", "GET", one, "outcomes", self._between),
            WireRoute("gorse_feedback", "DELETE", one, "outcomes", self._delete_between),
            WireRoute("gorse_feedback", "GET", typed, "outcomes", self._typed),
            WireRoute("gorse_feedback", "DELETE", typed, "outcomes", self._delete_typed),
            *(
                WireRoute("gorse_feedback", "GET", f"{path}/feedback{end}", scope, answer)
                for path, scope, answer in lists
                for end in ("", "/{type}")
            ),
        )

    # Items

    async def _put_item(self, asked: Asked) -> Answer:
        return await self._written([read(asked.body, Item)], self._make.item)

    async def _put_items(self, asked: Asked) -> Answer:
        items = read_rows(asked.body, Item, most=self._most)
        last = {item.item_id: item for item in items}
        return await self._written(list(last.values()), self._make.item, rows=len(items))

    async def _item(self, asked: Asked) -> Answer:
        return told(self._known(asked.ids[0]))

    async def _items(self, asked: Asked) -> Answer:
        if Query(asked.query).text("q"):
            raise not_done("items, q", given="a search", fix="Search where your items are; by id they are found here.")
        return await self._page(asked, "Items", self._listing("item/", self._shelf.item))

    async def _patch_item(self, asked: Asked) -> Answer:
        patch = read(asked.body, ItemPatch)
        self._known(asked.ids[0])
        return await self._written(asked.ids, partial(self._make.patch_item, patch=patch))

    async def _categorise(self, asked: Asked, *, is_there: bool) -> Answer:
        item, category = asked.ids
        kept = [name for name in self._known(item)["Categories"] if is_there or name != category]
        patch = ItemPatch(categories=kept + [category] * (is_there and category not in kept))
        return await self._written([item], partial(self._make.patch_item, patch=patch))

    async def _delete_item(self, asked: Asked) -> Answer:
        # What people did with it happened: only the item goes.
        return await self._deleted([Key("request", self._names.item(asked.ids[0]))])

    def _known(self, item: str) -> Json:
        found = self._shelf.item(self._names.item(item))
        if found is None:
            raise unknown("item")
        return found

    # Users

    async def _put_user(self, asked: Asked) -> Answer:
        return await self._written([read(asked.body, User)], self._make.user)

    async def _put_users(self, asked: Asked) -> Answer:
        users = read_rows(asked.body, User, most=self._most)
        last = {user.user_id: user for user in users}
        return await self._written(list(last.values()), self._make.user, rows=len(users))

    async def _user(self, asked: Asked) -> Answer:
        return told(self._known_user(asked.ids[0]))

    async def _users(self, asked: Asked) -> Answer:
        return await self._page(asked, "Users", self._listing("user/", self._shelf.user))

    async def _patch_user(self, asked: Asked) -> Answer:
        patch = read(asked.body, UserPatch)
        self._known_user(asked.ids[0])
        return await self._written(asked.ids, partial(self._make.patch_user, patch=patch))

    async def _delete_user(self, asked: Asked) -> Answer:
        user = asked.ids[0]
        id_ = self._names.user(user)
        is_there = self._shelf.user(id_) is not None
        feedback = self._shelf.feedback_keys(self._names.feedback_between(user))
        await self._log([Key("request", id_), *feedback], self._make.delete)
        return told({"RowAffected": int(is_there)})

    def _known_user(self, user: str) -> Json:
        found = self._shelf.user(self._names.user(user))
        if found is None:
            raise unknown("user")
        return found

    # Feedback

    async def _insert(self, asked: Asked) -> Answer:
        given = read_rows(asked.body, Feedback, most=self._most)
        first = {one.key: one for one in reversed(given)}
        return await self._written(
            list(first.values()), partial(self._make.feedback, overwrites=False), rows=len(given)
        )

    async def _overwrite(self, asked: Asked) -> Answer:
        given = read_rows(asked.body, Feedback, most=self._most)
        last = {one.key: one for one in given}
        return await self._written(list(last.values()), partial(self._make.feedback, overwrites=True), rows=len(given))

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
        if found is None:
            raise unknown("feedback")
        return told(found)

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
        return told(found)

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
        return told({"Cursor": base64.urlsafe_b64encode(last.encode()).decode(), name: found})

    async def _written(
        self, ones: Sequence[_T], make: Callable[[_T, Rows], object], *, rows: int | None = None
    ) -> Answer:
        await self._log(ones, make)
        return told({"RowAffected": len(ones) if rows is None else rows})

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
