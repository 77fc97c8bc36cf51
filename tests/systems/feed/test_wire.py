"""Gorse's API where no client has to be asked: labels, times, what feedback is laid at, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gallery import FEATURES, SYSTEM, Gallery, InOrder
from tests.http.callers import Client, replay_nothing
from tests.slate_log import HEADS, Params

from decalog.clock import DAY, HOUR, ManualClock, rfc3339
from decalog.decisions import Versions, decode_decision
from decalog.errors import ConfigError, LogUnavailableError
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.ingest import Ingest, Rates
from decalog.judging import Serving
from decalog.meter import Meter
from decalog.models.base import Floats, Model
from decalog.outcomes import decode_outcome
from decalog.serving import Service
from decalog.systems.feed import wire_objects
from decalog.systems.feed.wire import WIRE
from decalog.systems.feed.wire_labels import ITEM_FIELDS, fields_of, labels_of
from decalog.systems.feed.wire_messages import read_time
from decalog.systems.feed.wire_writing import types_of

START = 20_000 * DAY
SETTINGS = HttpSettings(tokens=False, batch_rows=200)


class Known:
    """A model that says of each post the same of each head."""

    blocking = False

    def predict(self, rows: Floats) -> Floats:
        return np.full((len(rows), len(HEADS)), 0.25)

    def save(self, folder: Path) -> dict[str, Any]:
        return {}


class Door:
    """A host with Gorse's wire, on a clock that is set by hand."""

    def __init__(self, root: Path, runner: asyncio.Runner, *, model: Model | None = None, shadow: bool = False) -> None:
        self.clock = ManualClock(START)
        self.log = Home(root).writer(self.clock)
        versions = Versions("m", "p", FEATURES.version, 0)
        serving = Serving(model=model, head="+".join(HEADS), policy=InOrder(Params()), versions=versions, shadow=shadow)
        ingest = Ingest(SYSTEM.schema, self.log, rates=Rates())
        service = Service(SYSTEM, ingest, OnlineState(FEATURES), serving=serving, retrieval=Gallery())
        self.host = Host(self.log, {"feed": service}, replay=replay_nothing, meter=Meter(), state=root / "state")
        self.client = Client(runner, App(self.host, SETTINGS, access=None), {})

    def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = self.client.call(method, f"/api/{path}", **({} if body is None else {"json": body}))
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else answer.text

    def items(self, *names: str, **more: Any) -> None:
        self.call("POST", "items", [{"ItemId": name, **more} for name in names])

    def feedback(self, user: str, item: str, type_: str = "read", *, method: str = "POST", **more: Any) -> None:
        self.call(method, "feedback", [{"FeedbackType": type_, "UserId": user, "ItemId": item, **more}])

    @property
    def last(self) -> Any:
        return self.log.get(self.log.position - 1)


@pytest.fixture
def door(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Door]:
    yield from opened(Door(tmp_path, runner), runner)


def opened(made: Door, runner: asyncio.Runner) -> Iterator[Door]:
    runner.run(made.host.start())
    yield made
    runner.run(made.host.stop())
    made.log.close()


# Labels and times

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
LEAVES = TEXTS | st.booleans() | st.integers(-9, 9) | st.none()
OBJECTS = st.dictionaries(
    TEXTS | st.sampled_from([*ITEM_FIELDS, "a.b", "x[]", "y{}"]),
    LEAVES | st.lists(TEXTS, max_size=3) | st.dictionaries(TEXTS, LEAVES, max_size=2),
    max_size=4,
)


@given(labels=st.none() | st.lists(TEXTS, max_size=4) | OBJECTS, more=st.lists(TEXTS, max_size=2))
def test_labels_are_read_as_they_were_written(labels: Any, more: list[str]) -> None:
    said = fields_of(labels, fields=ITEM_FIELDS, words="labels", categories=more)
    assert labels_of(said, fields=ITEM_FIELDS, words="labels") == (labels, more)


def test_labels_stand_as_plain_words_where_they_can() -> None:
    said = fields_of(["jazz", "be bop"], fields=ITEM_FIELDS, words="labels", categories=["news"])
    assert said == {"labels": "jazz be%20bop #news"}
    said = fields_of(
        {"author": "a1", "regions": ["DE", "AT"], "is_mature": True, "genre": ["x"], "year": 1999},
        fields=ITEM_FIELDS,
        words="labels",
    )
    assert said == {"author": "a1", "regions": "DE AT", "is_mature": True, "labels": "genre[]=x year{}=1999"}


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2022-08-07T00:26:46Z", "2022-08-07T00:26:46+00:00"),
        ("2022-08-07 00:26:46.5", "2022-08-07T00:26:46.500000+00:00"),
        ("2022-08-07T02:26:46+02:00", "2022-08-07T02:26:46+02:00"),
        ("1659832006", "2022-08-07T00:26:46Z"),
        ("1659832006123", "2022-08-07T00:26:46.123000Z"),
        ("0001-01-01T00:00:00Z", None),
        (None, None),
    ],
)
def test_times_of_several_forms_are_read(text: str | None, time: str | None) -> None:
    assert read_time(text) == time


def test_types_of_feedback_are_a_setting() -> None:
    types = types_of(" purchase = share, * = like,")
    assert [types[type_] for type_ in ("read", "purchase", "*", "dwell")] == ["click", "share", "like", "dwell"]
    with pytest.raises(ConfigError, match="'buy', which nobody does with a post"):
        types_of("purchase=buy")


def test_the_door_reads_the_setting(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GORSE_FEEDBACK_TYPES", "x=buy")
    with pytest.raises(ConfigError, match="GORSE_FEEDBACK_TYPES"):
        WIRE(door.host, "feed", settings=SETTINGS)


# What feedback is laid at


def test_a_slate_answers_for_its_posts_for_a_day(door: Door) -> None:
    door.items("a", "b")
    assert door.call("GET", "recommend/ada") == ["a", "b"]
    slate = door.last.id
    door.clock.advance(2 * HOUR)
    door.feedback("ada", "a")
    first = decode_outcome(door.last.body)
    assert (first.target, first.kind, first.ref) == (slate, "click", "a")
    door.clock.advance(DAY)
    door.feedback("ada", "b")
    assert door.last.kind == "event"
    door.feedback("ada", "b", "like", Timestamp=rfc3339(START + HOUR))
    assert door.last.kind == "outcome", "by when it happened"
    door.feedback("eve", "a")
    assert door.last.kind == "event", "another's slate"


def test_of_two_slates_the_last_that_showed_the_post_answers(door: Door) -> None:
    door.items("a")
    door.call("GET", "recommend/ada")
    door.host.services["feed"].retrieval.seen.clear()  # type: ignore[union-attr]  # the gallery's own
    door.clock.advance(HOUR)
    door.call("GET", "recommend/ada")
    second = door.last.id
    door.clock.advance(HOUR)
    door.call("GET", "recommend/ada")
    door.feedback("ada", "a")
    assert decode_outcome(door.last.body).target == second


def test_what_another_system_showed_answers_and_ours_beside_it_does_not(tmp_path: Path, runner: asyncio.Runner) -> None:
    for door in opened(Door(tmp_path, runner, shadow=True), runner):
        door.items("a")
        assert door.call("GET", "recommend/ada") == ["a"]
        assert decode_decision(door.last.body).mode == "shadow"
        door.feedback("ada", "a")
        assert door.last.kind == "event"


def test_an_outcome_is_corrected_withdrawn_and_said_again(door: Door) -> None:
    door.items("a")
    door.call("GET", "recommend/ada")
    slate = door.last.id
    door.feedback("ada", "a", "dwell", Value=5)
    root = door.last
    door.feedback("ada", "a", "dwell", Value=9)
    assert door.last == root, "inserted again it stays"
    door.feedback("ada", "a", "dwell", method="PUT", Value=9)
    corrected = decode_outcome(door.last.body)
    assert (door.last.root, corrected.value, corrected.target) == (root.seq, 9.0, slate)
    assert door.call("GET", "feedback/dwell/ada/a")["Value"] == 9.0
    assert door.call("DELETE", "feedback/dwell/ada/a") == {"RowAffected": 1}
    assert decode_outcome(door.last.body).deleted
    assert "feedback: an id that none has" in door.call("GET", "feedback/dwell/ada/a", status=404)
    door.feedback("ada", "a", "dwell")
    assert (door.last.root, decode_outcome(door.last.body).value) == (root.seq, 0.0)
    door.call("DELETE", "feedback/ada/a")
    door.clock.advance(2 * DAY)
    door.feedback("ada", "a", "dwell", Value=3)
    assert door.last.kind == "event", "the slate is too long ago now"
    assert [one["Value"] for one in door.call("GET", "feedback/ada/a")] == [3.0]
    assert [one["Value"] for one in door.call("GET", "feedback/dwell")["Feedback"]] == [3.0]


def test_the_score_is_what_was_predicted_of_a_click(tmp_path: Path, runner: asyncio.Runner) -> None:
    for door in opened(Door(tmp_path, runner, model=Known()), runner):
        door.items("a")
        scored = door.client.get("/api/recommend/ada/", headers={"X-API-Version": "2"}).json()
        assert scored == [{"Id": "a", "Score": 0.25}]


# Lists


def test_lists_are_read_from_retrieval_and_no_slate_is_logged(door: Door) -> None:
    for hour, name in enumerate(("old", "new")):
        door.items(name, Categories=["x"], Timestamp=rfc3339(START - DAY + hour * HOUR))
    door.items("other", Categories=["y"], Timestamp=rfc3339(START))
    door.feedback("ada", "old")
    before = door.log.position
    at = START // 1_000_000
    latest = [{"Id": "other", "Score": at}, {"Id": "new", "Score": at - 82_800}, {"Id": "old", "Score": at - 86_400}]
    assert door.call("GET", "latest") == door.call("GET", "non-personalized/latest") == latest
    assert door.call("GET", "latest/x?n=1&offset=1") == door.call("GET", "latest?category=x&n=1&offset=1") == latest[2:]
    popular = door.call("GET", "popular")
    assert popular[0] == {"Id": "old", "Score": 1.0}
    assert door.call("GET", "non-personalized/popular?n=1") == popular[:1]
    near = [{"Id": "new", "Score": 0.75}]
    assert door.call("GET", "item/old/neighbors") == door.call("GET", "item-to-item/neighbors/old") == near
    assert door.call("GET", "item/old/neighbors/y") == []
    found = [{"Id": "old", "Score": 1.0}]
    assert door.call("GET", "collaborative-filtering/ada") == door.call("GET", "intermediate/recommend/ada/x") == found
    assert door.call("GET", "intermediate/recommend/ada/y") == []
    assert door.log.position == before
    assert "list: a name that none has. Expected" in door.call("GET", "non-personalized/trendy", status=404)
    assert "list: a name that none has. Expected" in door.call("GET", "item-to-item/tags/old", status=404)
    for path in ("user-to-user/neighbors/ada", "user/ada/neighbors"):
        assert "user neighbors: readers who are alike" in door.call("GET", path, status=501)


def test_what_a_reader_saw_is_left_out_of_lists_for_them(door: Door) -> None:
    door.items("a", "b")
    door.call("GET", "recommend/ada?n=1")
    assert [one["Id"] for one in door.call("GET", "popular?user-id=ada")] == ["b"]
    assert [one["Id"] for one in door.call("GET", "popular")] == ["a", "b"]


def test_a_session_of_any_length_is_asked_about_by_its_end(door: Door) -> None:
    door.items("a")
    names = [f"{number:04}{'x' * 60}" for number in range(100)]
    door.call("POST", "session/recommend", [{"ItemId": name} for name in ("with blank", *names)])
    recent = str(decode_decision(door.last.body).request.attributes["recent"]).split()
    assert recent == names[-len(recent) :]
    assert len(recent) == 4_000 // 65
    door.call("POST", "session/recommend/", [])
    refused = door.call("POST", "session/recommend?offset=1", [], status=400)
    assert refused.startswith("query, offset: an offset in a session. Expected none")
    assert "1001 rows" in door.call("POST", "session/recommend", [{"ItemId": "a"}] * 1_001, status=413)


# Refusals and bounds


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "user", {"UserId": "u", "Subscribe": ["x"]}, "body, Subscribe: what a user subscribes to"),
        ("PATCH", "user/u", {"Labels": 7}, "body, Labels: labels of another kind"),
        ("PUT", "feedback", {"FeedbackType": "", "UserId": "u", "ItemId": "i"}, "body, FeedbackType: what does not"),
        (
            "POST",
            "feedback",
            [{"FeedbackType": "x", "UserId": "u", "ItemId": "i", "Comment": "!"}],
            "body, Comment: a comment",
        ),
        (
            "POST",
            "feedback",
            [{"FeedbackType": "x", "UserId": "u", "ItemId": "i", "Timestamp": "now"}],
            "body, Timestamp: no time that is known here",
        ),
        ("GET", "items?n=many", None, "query, n: no such number"),
        ("GET", "items?cursor=***", None, "query, cursor: a cursor that was never given"),
        ("GET", "users?cursor=/w==", None, "query, cursor: a cursor that was never given"),
        ("GET", "recommend/u/a?category=b", None, "query, category: several categories"),
        ("GET", "recommend/?n=1", None, "feed feed_request, user"),
    ],
)
def test_what_is_wrong_is_refused_as_gorse_does(door: Door, method: str, path: str, body: Any, words: str) -> None:
    door.items("i")
    door.call("POST", "user", {"UserId": "u"})
    before = door.log.position
    assert door.call(method, path, body, status=400).startswith(words)
    assert door.log.position == before


def test_lists_that_are_too_long_are_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "201 rows" in door.call("POST", "users", [{"UserId": str(n)} for n in range(201)], status=413)
    door.feedback("ada", "a")
    door.feedback("eve", "a")
    monkeypatch.setattr(wire_objects, "_MOST_KEYS", 1)
    refused = door.call("GET", "item/a/feedback", status=413)
    assert refused.startswith("feedback: a list that is not found among 1 feedbacks")


def test_pages_end_where_too_much_was_looked_at(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.items("a", "b", "c", "d")
    for name in ("a", "b", "c"):
        door.call("DELETE", f"item/{name}")
    monkeypatch.setattr(wire_objects, "_MOST_LOOKED_AT", 2)
    page = door.call("GET", "items?n=1")
    assert (page["Items"], bool(page["Cursor"])) == ([], True)
    page = door.call("GET", f"items?n=1&cursor={page['Cursor']}")
    assert [one["ItemId"] for one in page["Items"]] == ["d"]
    assert door.call("GET", "items?n=0") == {"Cursor": "", "Items": []}


def test_a_batch_is_taken_in_parts_that_nothing_comes_between(door: Door) -> None:
    door.items(*(f"i{number:03}" for number in range(130)), IsHidden=True)
    page = door.call("GET", "items?n=200")
    assert [one["IsHidden"] for one in page["Items"]] == [True] * 130
    again = door.log.position
    door.items(*(f"i{number:03}" for number in range(130)), IsHidden=True)
    assert door.log.position == again


def test_who_was_erased_is_nobodys_name_any_more(door: Door) -> None:
    door.call("POST", "user", {"UserId": "ada"})
    door.items("a")
    door.call("GET", "recommend/ada")
    door.feedback("ada", "a")
    door.feedback("ada", "b")
    assert len(door.call("GET", "feedback")["Feedback"]) == 2
    vault = door.log.vault
    vault._ciphers.clear()  # type: ignore[attr-defined]  # as after a restart
    vault._stored_key = lambda _subject: b""  # type: ignore[attr-defined]  # what erasing leaves behind
    assert door.call("GET", "users")["Users"] == []
    assert door.call("GET", "feedback")["Feedback"] == []
    assert "user: an id that none has" in door.call("GET", "user/ada", status=404)


def test_a_log_that_takes_nothing_is_a_503_in_words(door: Door) -> None:
    door.log.failed = LogUnavailableError(where="log", given="a full disk", expected="room", fix="Make room.")
    assert door.call("POST", "item", {"ItemId": "a"}, status=503).startswith("log: a log that failed")
    health = door.client.get("/api/health/ready")
    assert (health.status_code, msgspec.json.decode(health.content)["Ready"]) == (503, False)
