"""What the world tells of posts and people, as clients would write it: facts, ties, clicks elsewhere, and fakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from decalog.clock import DAY, HOUR, MINUTE, rfc3339
from decalog.systems.feed.world.behaviour import Ask
from decalog.systems.feed.world.town import DEVICES, EVERYWHERE, LANGUAGES, NEVER, REGIONS, Town, word
from decalog.testing import draws
from decalog.testing.draws import Ints, Keys

_SAYS = 0.6  # share of readers who name their interests


class Told(NamedTuple):
    """An event and when it is sent, µs."""

    at_us: int
    body: dict[str, Any]


def name(kind: str, key: int) -> str:
    """Returns the name of a reader, an author or a post; the fakes' look as readers' do."""
    return f"{kind}_{key:016x}"


def event(kind: str, id_: str, *, at_us: int, values: Mapping[str, Any]) -> Told:
    """Returns an event that is sent when it happens."""
    return Told(at_us, {"id": id_, "kind": kind, "event_time": rfc3339(at_us), **values})


def about(town: Town, row: int) -> dict[str, str]:
    """Returns the post, its author and its topic, by name."""
    posts = town.posts
    author = name("author", int(town.authors.key[posts.author[row]]))
    return {"post": name("post", int(posts.key[row])), "author": author, "topic": word(int(posts.topic[row]))}


def of_posts(town: Town, rows: Ints) -> Iterator[Told]:
    """Yields what is told of new posts: that they appear, are corrected, judged and withdrawn."""
    posts, keys = town.posts, town.posts.key[rows]
    edited = draws.uniform(keys, "edited") < town.params.edited
    edited_us = posts.created_us[rows] + draws.below(keys, "edited when", bound=DAY)
    for place, row in enumerate(rows.tolist()):
        key, gone_us, judged_us = int(posts.key[row]), int(posts.gone_us[row]), int(posts.judged_us[row])
        first = _post(town, row)
        yield first
        if edited[place] and edited_us[place] < gone_us:
            edit = {"id": name("ed", key), "corrects": first.body["id"], "title": first.body["title"] + ", corrected"}
            yield Told(int(edited_us[place]), first.body | edit)
        if judged_us != NEVER:
            verdict = "removed" if judged_us == gone_us else ("limited", "sensitive")[key % 2]
            judged = {"post": name("post", key), "verdict": verdict}
            yield event("moderation", name("mod", key), at_us=judged_us, values=judged)
        if gone_us not in (NEVER, judged_us):
            yield Told(gone_us, {"id": name("del", key), "deletes": first.body["id"]})


def _post(town: Town, row: int) -> Told:
    posts, key = town.posts, int(town.posts.key[row])
    told = event("post", name("ev", key), at_us=int(posts.created_us[row]), values=about(town, row))
    language, title = LANGUAGES[posts.language[row]], f"On {told.body['topic']}, {key % 10_000}"
    told.body.update(language=language, is_mature=bool(posts.mature[row]), title=title)
    if posts.region[row] != EVERYWHERE:
        told.body["regions"] = REGIONS[posts.region[row]]
    return told


def reader_facts(town: Town, row: int) -> dict[str, Any]:
    """Returns what is known of a reader with each request and in their profile."""
    people, user = town.readers, name("reader", int(town.readers.key[row]))
    language, region = LANGUAGES[people.language[row]], REGIONS[people.region[row]]
    return {"user": user, "region": region, "language": language, "is_adult": bool(people.adult[row])}


def request(town: Town, id_: str, *, ask: Ask, read: list[str], later: bool) -> dict[str, Any]:
    """Returns the request of a reader who has read so far in the session, where it is a later one of it."""
    device = DEVICES[int(town.readers.key[ask.reader]) % len(DEVICES)]
    where = {"surface": "session" if later else "home", "device": device, "size": ask.size}
    recent = {"recent": " ".join(read)} if read else {}
    return {"id": id_, "event_time": rfc3339(ask.at_us)} | where | reader_facts(town, ask.reader) | recent


def outcome(request_id: str, kind: str, *, value: float, event_us: int, ref: str) -> dict[str, Any]:
    """Returns what the app reports of a request, or of a post that was shown for it."""
    id_ = f"{request_id}_{kind}" + (f"_{ref}" if ref else "")
    body = {"id": id_, "feed_request": request_id, "kind": kind, "source": "app", "value": value}
    return body | {"event_time": rfc3339(event_us)} | ({"ref": ref} if ref else {})


def of_newcomers(town: Town, rows: Ints, *, start_us: int) -> Iterator[Told]:
    """Yields the profiles of readers who join, some with their interests, and whom they follow from the start."""
    people = town.readers
    says = draws.uniform(people.key, "says") < _SAYS
    for row in rows.tolist():
        key, at_us = int(people.key[row]), start_us + int(people.key[row]) % MINUTE
        told = event("profile", name("prof", key), at_us=at_us, values=reader_facts(town, row))
        if says[row]:
            closest = np.argsort(-(town.topics @ people.taste[row]))[:3]
            told.body["interests"] = " ".join(word(int(topic)) for topic in closest)
        yield told
        for author in np.flatnonzero(people.follows[row]).tolist():
            yield tie("follow", town, reader=row, author=author, at_us=at_us + 1 + author)


def tie(kind: str, town: Town, *, reader: int, author: int, at_us: int, on: bool = True) -> Told:
    """Returns the event of a reader who follows, blocks or mutes an author, or no longer does."""
    key, other = int(town.readers.key[reader]), int(town.authors.key[author])
    values = {"user": name("reader", key), "author": name("author", other), "on": on}
    return event(kind, f"{name(kind, key ^ other)}_{at_us:x}", at_us=at_us, values=values)


def elsewhere(town: Town, *, start_us: int) -> Iterator[Told]:
    """Yields posts of the two days before that readers open elsewhere, mostly to their taste."""
    posts, people = town.posts, town.readers
    rows = np.flatnonzero((posts.created_us >= start_us - 2 * DAY) & (posts.created_us < start_us))
    keys = draws.child(draws.named(people.key, "elsewhere"), start_us // DAY)
    rate = np.full(len(keys), town.params.elsewhere if len(rows) else 0.0)
    who, nth = draws.spread(draws.poisson(keys, "count", rate=rate))
    keys = draws.child(keys[who], nth)
    for key, reader in zip(keys, who.tolist(), strict=True):
        found = rows[draws.below(draws.child(key, np.arange(6)), "post", bound=len(rows))]
        row = int(found[(posts.place[found] @ people.taste[reader]).argmax()])
        at_us = start_us + int(draws.below(key[None], "when", bound=DAY)[0])
        yield _opened("click", int(key), at_us=at_us, user=int(people.key[reader]), what=about(town, row))


def _opened(kind: str, key: int, *, at_us: int, user: int, what: dict[str, str]) -> Told:
    return event(kind, name(kind, key), at_us=at_us, values={"user": name("reader", user), **what, "value": 1})


def fakes(town: Town) -> Keys:
    """Returns the keys of the accounts that like together."""
    return draws.child(draws.named(town.key, "fakes"), np.arange(town.params.fakes))


def coordinated(town: Town, rows: Ints) -> Iterator[Told]:
    """Yields what the fakes do with the five poorest posts of a day, within the hour after each appears."""
    posts, everyone = town.posts, fakes(town)
    poorest = rows[np.argsort(posts.quality[rows], kind="stable")[:5]]
    for row in poorest.tolist():
        keys = everyone ^ posts.key[row]
        delays = draws.below(keys, "delay", bound=HOUR).tolist()
        for key, fake, delay_us in zip(keys.tolist(), everyone.tolist(), delays, strict=True):
            at_us = int(posts.created_us[row]) + MINUTE + delay_us
            for kind in ("click", "like"):
                yield _opened(kind, key, at_us=at_us, user=fake, what=about(town, row))
        posts.clicks[row] += len(everyone)
