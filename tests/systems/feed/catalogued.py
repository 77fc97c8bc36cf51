"""Records of a small feed, as the log would give them; and a model of plain vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import Event, Record
from decalog.outcomes import Outcome
from decalog.retrieval import Retrieved

Floats = npt.NDArray[np.float32]
DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
DIM = 64


def token(name: str) -> int:
    """Returns the token that a name has in these tests."""
    return int.from_bytes(name.encode()[:7].ljust(7, b"_"), "big") * 31 + sum(name.encode()) + 1


class Told:
    """A log of one feed that tells what follows it (`follow(record, body)`) of each record, in order."""

    def __init__(self, *followers: Any) -> None:
        self.followers = followers
        self.seq = 0
        self.roots: dict[str, int] = {}

    def event(
        self,
        kind: str,
        named: Mapping[str, str],
        *,
        id_: str = "",
        at_us: int = NOW_US,
        corrects: str = "",
        **said: Any,
    ) -> str:
        id_ = id_ or f"e{self.seq}"
        public = {name: value for name, value in named.items() if name != "user"}
        entities = {name: token(value) for name, value in named.items()}
        subject = entities.get("user", 1)
        return self._tell(Event(id_, kind, at_us, subject, entities, {**public, **said}, b"", corrects), "event")

    def withdraw(self, id_: str, kind: str, *, subject: str = "") -> str:
        gone = Event(f"gone-{id_}-{self.seq}", kind, NOW_US, token(subject), {}, {}, b"", id_, deleted=True)
        return self._tell(gone, "event")

    def post(self, ref: str, *, author: str = "ann", topic: str = "art", age_us: int = 0, **said: Any) -> str:
        named = {"post": ref, "author": author, "topic": topic}
        return self.event("post", {k: v for k, v in named.items() if v}, at_us=NOW_US - age_us, **said)

    def slate(self, user: str, *refs: str, id_: str = "", **more: Any) -> str:
        asked = request(user, id_=id_ or f"r{self.seq}", **more.pop("said", {}))
        choice = Choice(tuple(Slot(ref, place) for place, ref in enumerate(refs)), verb="show")
        versions = Versions("m", "p", "f", 0)
        candidates = tuple(Candidate(ref) for ref in refs)
        return self._tell(Decision("d-" + asked.id, asked, self.seq, candidates, choice, versions, **more), "decision")

    def outcome(self, target: str, kind: str, ref: str, *, value: float = 1.0, **more: Any) -> str:
        at_us = more.pop("at_us", NOW_US)
        id_ = f"o{self.seq}"
        return self._tell(Outcome(id_, target, kind, "app", at_us, value, ref=ref, **more), "outcome")

    def withdraw_outcome(self, id_: str) -> str:
        gone = Outcome(f"gone-{id_}", "", "", "", NOW_US, 0.0, corrects=id_, deleted=True)
        return self._tell(gone, "outcome")

    def _tell(self, body: Event | Decision | Outcome, kind: str) -> str:
        id_ = body.request.id if isinstance(body, Decision) else body.id
        corrects = "" if isinstance(body, Decision) else body.corrects
        root = self.roots.setdefault(id_, self.roots[corrects] if corrects else self.seq)
        at_us = body.request.event_time if isinstance(body, Decision) else body.event_time
        record = Record(1, 0, self.seq, kind, "feed", at_us, at_us, id_, b"", root, "", b"")
        self.seq += 1
        for follower in self.followers:
            follower.follow(record, body)
        return id_


def request(user: str = "", *, id_: str = "r", at_us: int = NOW_US, **said: Any) -> Event:
    entities = {"user": token(user)} if user else {}
    return Event(id_, "feed_request", at_us, token(user or "nobody"), entities, said)


def refs(found: Retrieved) -> list[str]:
    return [candidate.ref for candidate in found.candidates if not candidate.dropped]


def dropped(found: Retrieved) -> dict[str, str]:
    return {candidate.ref: candidate.dropped for candidate in found.candidates if candidate.dropped}


class Towers:
    """Each topic is an axis; a post lies close to its topic's, nudged by its name. Readers are the mean of theirs."""

    dim = DIM

    def __init__(self, topics: Sequence[str]) -> None:
        self.axes = {topic: place for place, topic in enumerate(topics)}

    def item_vectors(self, ids: Sequence[str], sides: Mapping[str, Sequence[str]]) -> Floats:
        rows = np.zeros((len(ids), DIM), np.float32)
        for row, (id_, topic) in enumerate(zip(ids, sides["topic"], strict=True)):
            rows[row, 32 + sum(id_.encode()) % 32] = 0.1
            rows[row, self.axes.get(topic, 31)] = 1.0
        return unit(rows)

    def user_vector(self, vectors: Floats, weights: Floats, *, sides: Mapping[str, Sequence[str]]) -> Floats:
        reader = np.full(DIM, 0.001, np.float32)
        reader += (vectors * weights[:, None]).sum(axis=0)
        for topic in sides["interests"]:
            reader[self.axes[topic]] += 0.5
        made: Floats = unit(reader[None])[0]
        return made


class Neighbours:
    def __init__(self, pairs: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        self.pairs = pairs

    def score(self, history: Sequence[str], k: int) -> list[tuple[str, float]]:
        return [pair for ref in reversed(history) for pair in self.pairs.get(ref, ())][:k]


class Funnel:
    """A model with what retrieval takes from it; it predicts nothing."""

    def __init__(self, towers: object, neighbours: object = None) -> None:
        self.towers = towers
        self.neighbours = neighbours or Neighbours({})
        self.kin: object = None

    def predict(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.zeros((len(rows), 7))


def unit(rows: Floats) -> Floats:
    made: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made
