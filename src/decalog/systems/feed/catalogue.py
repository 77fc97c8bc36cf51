"""The posts that can be shown, as columns: what a post is stands in row `slot` of some arrays.

A post that goes makes its slot free for another. What is remembered of a post for longer (it was shown, it was liked)
is its handle: slot and generation in one number, so that nothing is laid at the door of the slot's next post.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.decisions import Decision
from decalog.events import Event, Record
from decalog.outcomes import Outcome

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TOO_OLD_US = 30 * 86_400_000_000
"""Posts older than this are not shown."""
LATEST = 4_096
"""How many of the posts that came last are looked through for new ones."""

_HOUR_US = 3_600_000_000
_MASKS = 32
_FIRST_ROOM = 1_024
_MATURE, _LIMITED, _SENSITIVE, _REMOVED, _THERE = 1, 2, 4, 8, 16
_VERDICTS = {"limited": _LIMITED, "sensitive": _SENSITIVE, "removed": _REMOVED}
_ADULTS_ONLY = _MATURE | _SENSITIVE
RULES = ("removed", "region", "mature", "too_old")
"""What keeps a post from being shown, whoever asks, in the order in which it is named."""
_SLOT_BITS = 32
_EVERY = slice(None)
_POSTS: Mapping[str, Any] = {
    "token": np.int64,
    "created": np.int64,
    "generation": np.int64,
    "root": np.int64,
    "author": np.int32,
    "topic": np.int32,
    "language": np.int32,
    "regions": np.int32,
    "shown": np.int32,
    "flags": np.uint8,
}
_AUTHORS: Mapping[str, Any] = {"followers": np.int64, "posts": np.int64, "since": np.int64, "newest": np.int64}


class Columns:
    """Arrays that grow together, by name; a new row is zeros."""

    def __init__(self, kinds: Mapping[str, Any]) -> None:
        self.room = 0
        self._arrays = {name: np.zeros(0, kind) for name, kind in kinds.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows."""
        if rows > self.room:
            self.room = max(rows * 3 // 2, _FIRST_ROOM)
            for name, array in self._arrays.items():
                self._arrays[name] = np.concatenate([array, np.zeros(self.room - len(array), array.dtype)])


class Codes:
    """Small numbers for names that recur, which are found by their tokens too; 0 is for no name."""

    def __init__(self) -> None:
        self.names: list[str] = [""]
        self._numbers = Columns({"token": np.int64})
        self._numbers.reserve(1)
        self._codes: dict[int | str, int] = {"": 0, 0: 0}

    def code(self, key: int | str) -> int:
        """Returns the number of a name or a token; 0 for one that never came."""
        return self._codes.get(key, 0)

    def add(self, name: str, token: int = 0) -> int:
        """Returns the number of a name, a new one where it never came; the token is the one it goes by from now on."""
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
            self._numbers.reserve(code + 1)
            self.tokens[code] = token
        if token and code:
            self._codes[token], self.tokens[code] = code, token
        return code

    @property
    def tokens(self) -> Ints:
        """The token that each number goes by; 0 for none."""
        return self._numbers["token"]

    def named(self, codes: npt.NDArray[Any]) -> list[str]:
        """Returns the names of numbers."""
        return [self.names[code] for code in codes.tolist()]

    def mask(self, keys: Iterable[int | str]) -> Mask:
        """Returns for each number whether it is that of one of the names or tokens."""
        mask = np.zeros(len(self.names), np.bool_)
        mask[[self._codes.get(key, 0) for key in keys]] = True
        mask[0] = False
        return mask


class Post(msgspec.Struct, frozen=True):
    """What is known of a post: its names, when it came (µs), where it may be shown, and moderation's verdict."""

    ref: str
    author: str
    topic: str
    language: str
    regions: tuple[str, ...]
    created_us: int
    is_mature: bool
    verdict: str
    shown: int


class Catalogue:
    """Posts, their authors, and masks of what may be shown to whom; it follows the log."""

    def __init__(self) -> None:
        self.posts, self.authors = Columns({**_POSTS, "ref": np.object_}), Columns(_AUTHORS)
        self.author, self.topic, self.language, self.regions = Codes(), Codes(), Codes(), Codes()
        self.labels: dict[int, str] = {}
        self.by_author: dict[int, list[int]] = {}
        self._slots: dict[str, int] = {}
        self._roots: dict[int, int] = {}
        self._free: list[int] = []
        self._named: set[str] = set()
        self._verdicts: dict[str, dict[int, int]] = {}
        self._judged: dict[int, str] = {}
        self._latest = np.full(LATEST, -1, np.int64)
        self._changes, self._newest = 0, (-1, self._latest)
        self._came = self.used = 0
        self._masks: OrderedDict[tuple[str, bool], tuple[int, Mask]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def follow(self, record: Record, body: Event | Decision | Outcome) -> tuple[int, ...]:
        """Takes a record; returns the slots whose post came, changed, or went."""
        if not isinstance(body, Event):
            return ()
        if body.kind == "post":
            changed = self._posted(record, body)
            self._changes += 1
            return changed
        if body.kind == "moderation":
            return self._judge(record, body)
        return ()

    def slot(self, ref: str) -> int:
        """Returns where a post stands, or -1."""
        return self._slots.get(ref, -1)

    def handle(self, ref: str) -> int:
        """Returns what a post is remembered by, or -1 for none."""
        slot = self.slot(ref)
        return slot if slot < 0 else int(self.posts["generation"][slot]) << _SLOT_BITS | slot

    def standing(self, handles: Ints) -> Ints:
        """Returns the slots of remembered posts, in their order; -1 for those that are gone."""
        slots = handles & (2**_SLOT_BITS - 1)
        is_there = handles >= 0
        is_there[is_there] = self.posts["generation"][slots[is_there]] == handles[is_there] >> _SLOT_BITS
        return np.where(is_there, slots, -1)

    def latest(self) -> Ints:
        """Returns the slots of the posts that came last, newest first."""
        changes, newest = self._newest
        if changes != self._changes:
            changes, slots = self._changes, self.standing(self._latest.copy())
            newest = newest_first(self.posts, slots[slots >= 0])
            self._newest = changes, newest
        return newest

    def post(self, ref: str) -> Post | None:
        """Returns a post by its name, or None."""
        slot = self.slot(ref)
        if slot < 0:
            return None
        row = {name: int(self.posts[name][slot]) for name in _POSTS}
        return Post(
            ref,
            self.author.names[row["author"]],
            self.topic.names[row["topic"]],
            self.language.names[row["language"]],
            tuple(self.regions.names[row["regions"]].split()),
            row["created"],
            bool(row["flags"] & _MATURE),
            next((name for name, flag in _VERDICTS.items() if row["flags"] & flag), ""),
            row["shown"],
        )

    def eligible(self, region: str, *, is_adult: bool, now_us: int) -> Mask:
        """Returns for each slot whether its post may be shown there; posts may be up to an hour too old.

        The array belongs to the catalogue and follows it: whoever changes it, or keeps it, copies it.
        """
        # All regions that no post names are alike.
        place = (region if region in self._named else "", is_adult)
        hour = now_us // _HOUR_US
        known = self._masks.get(place)
        if known is None or known[0] != hour:
            known = (hour, self._mask(place[0], is_adult=is_adult, hour=hour))
            self._masks[place] = known
            if len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(place)
        return known[1]

    def ruled_out(self, slots: Ints, region: str, *, is_adult: bool, now_us: int) -> Ints:
        """Returns for each post the first of `RULES` that keeps it from being shown there; their number for none."""
        flags, posts = self.posts["flags"][slots], self.posts
        broken = (
            (flags & (_THERE | _REMOVED)) != _THERE,
            ~self._open_to(region)[posts["regions"][slots]],
            ((flags & _ADULTS_ONLY) != 0) & (not is_adult),
            posts["created"][slots] < now_us - TOO_OLD_US,
        )
        return np.where(np.any(broken, axis=0), np.argmax(broken, axis=0), len(RULES))

    def is_shown(self, slots: Ints) -> Mask:
        """Returns for each slot whether a post stands there that moderation did not remove."""
        shown: Mask = (self.posts["flags"][slots] & (_THERE | _REMOVED)) == _THERE
        return shown

    def count_shown(self, handle: int) -> None:
        """Notes that a post, which is there, was shown once more."""
        self.posts["shown"][handle & (2**_SLOT_BITS - 1)] += 1

    def integrity(self, slots: Ints) -> list[str]:
        """Returns what moderation says of posts that may be shown: `limited`, `sensitive`, or ""."""
        flags = self.posts["flags"][slots] & (_SENSITIVE | _LIMITED)
        words = ("", "limited", "sensitive")
        if not flags.any():
            return [""] * len(slots)
        return [words[code] for code in np.where(flags & _SENSITIVE, 2, flags // _LIMITED).tolist()]

    def code_of_author(self, name: str, token: int) -> int:
        """Returns an author's number, a new one for an author who never wrote."""
        code = self.author.add(name, token)
        self.authors.reserve(code + 1)
        return code

    def _mask(self, region: str, *, is_adult: bool, hour: int, slots: slice | int = _EVERY) -> Mask:
        """Returns for some slots, or one, whether their posts may be shown in an hour."""
        wrong = _REMOVED | (0 if is_adult else _ADULTS_ONLY)
        mask: Mask = (self.posts["flags"][slots] & (wrong | _THERE)) == _THERE
        mask &= self.posts["created"][slots] >= hour * _HOUR_US - TOO_OLD_US
        mask &= self._open_to(region)[self.posts["regions"][slots]]
        return mask

    def _open_to(self, region: str) -> Mask:
        """Returns for each set of regions whether posts of it may be shown there."""
        return np.array([not names or region in names.split() for names in self.regions.names])

    def _touch(self, slot: int) -> None:
        for (region, is_adult), (hour, mask) in self._masks.items():
            mask[slot] = self._mask(region, is_adult=is_adult, hour=hour, slots=slot)

    def _posted(self, record: Record, event: Event) -> tuple[int, ...]:
        gone = self._roots.get(record.root, -1)
        if event.deleted:
            return self._remove(gone)
        ref = str(event.attributes.get("post", ""))
        if not ref:
            return ()
        moved = self._remove(gone) if gone >= 0 and self.posts["ref"][gone] != ref else ()
        known = self.slot(ref)
        is_new = known < 0
        slot = self._place(ref) if is_new else known
        self._roots[record.root] = slot
        self._write(slot, event, is_new=is_new)
        self._roots.pop(int(self.posts["root"][slot]), None)
        self._roots[record.root], self.posts["root"][slot] = slot, record.root
        return (*moved, self._rule(slot))

    def _place(self, ref: str) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self.used
            if slot >= self.posts.room:
                self.posts.reserve(slot + 1)
                self._masks.clear()
            self.used += 1
        self._slots[ref], self.posts["ref"][slot] = slot, ref
        self.posts["shown"][slot], self.posts["root"][slot] = 0, -1
        self._latest[self._came % LATEST] = self.handle(ref)
        self._came += 1
        return slot

    def _write(self, slot: int, event: Event, *, is_new: bool) -> None:
        said, tokens, posts = event.attributes, event.entities, self.posts
        if not is_new:
            self._leave(slot)
        # An edit does not make a post younger.
        created = event.event_time if is_new else min(event.event_time, int(posts["created"][slot]))
        author = self.code_of_author(str(said.get("author", "")), tokens.get("author", 0))
        posts["token"][slot], posts["created"][slot] = tokens.get("post", 0), created
        posts["author"][slot] = author
        posts["topic"][slot] = self.topic.add(str(said.get("topic", "")), tokens.get("topic", 0))
        posts["language"][slot] = self.language.add(str(said.get("language", "")))
        regions = sorted(str(said.get("regions", "")).split())
        posts["regions"][slot] = self.regions.add(" ".join(regions))
        self._named.update(regions)
        posts["flags"][slot] = _THERE | (_MATURE if said.get("is_mature") else 0)
        self.labels.pop(slot, None)
        if said.get("labels"):
            self.labels[slot] = str(said["labels"])
        self.by_author.setdefault(author, []).append(slot)
        since = self.authors["since"][author]
        self.authors["since"][author] = min(since, created) if since else created
        self.authors["newest"][author] = max(self.authors["newest"][author], created)
        self.authors["posts"][author] += 1

    def _leave(self, slot: int) -> None:
        author = int(self.posts["author"][slot])
        self.by_author[author].remove(slot)
        self.authors["posts"][author] -= 1

    def _remove(self, slot: int) -> tuple[int, ...]:
        if slot < 0 or not self.posts["flags"][slot]:
            return ()
        self._leave(slot)
        del self._slots[self.posts["ref"][slot]]
        self._roots.pop(int(self.posts["root"][slot]), None)
        self.posts["flags"][slot] = 0
        self.posts["generation"][slot] += 1
        self._free.append(slot)
        self._touch(slot)
        return (slot,)

    def _judge(self, record: Record, event: Event) -> tuple[int, ...]:
        """Keeps all verdicts on a post, so that the one before holds again where the last is withdrawn."""
        before = self._judged.pop(record.root, "")
        ref = before if event.deleted else str(event.attributes.get("post", ""))
        if before and (event.deleted or before != ref):
            self._verdicts[before].pop(record.root)
        if not event.deleted:
            self._judged[record.root] = ref
            flag = _VERDICTS.get(str(event.attributes.get("verdict", "")), 0)
            self._verdicts.setdefault(ref, {})[record.root] = flag
        return tuple(self._rule(slot) for slot in {self.slot(before), self.slot(ref)} if slot >= 0)

    def _rule(self, slot: int) -> int:
        verdicts = self._verdicts.get(self.posts["ref"][slot])
        flag = list(verdicts.values())[-1] if verdicts else 0
        self.posts["flags"][slot] = self.posts["flags"][slot] & (_THERE | _MATURE) | flag
        self._touch(slot)
        return slot


def newest_first(posts: Columns, slots: Ints) -> Ints:
    """Returns slots by when their posts were made."""
    return slots[np.argsort(-posts["created"][slots], kind="stable")]
