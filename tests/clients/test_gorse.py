"""The `PyGorse` library from PyPI, unmodified, with its address and key set to our server's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients.feeds import SYSTEM, Feed, reader, serving, token
from tests.clients.processes import decalog

from decalog.decisions import decode_decision
from decalog.events import decode_event
from decalog.outcomes import decode_outcome

gorse = pytest.importorskip("gorse", reason="no PyGorse: `make test` installs it")

DONE = {"RowAffected": 1}


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feed]:
    with serving(tmp_path_factory.mktemp("gorse") / "home") as made:
        yield made


@pytest.fixture
def client(feed: Feed) -> Any:
    return gorse.Gorse(feed.url, feed.key)


def item(name: str, topic: str, hour: int = 0, **more: Any) -> dict[str, Any]:
    return {"ItemId": name, "Categories": [topic], "Timestamp": f"2026-01-01T{hour:02}:00:00Z", **more}


def ids(scores: Any) -> list[str]:
    return [score.id for score in scores]


# Items


def test_an_item_is_read_as_it_was_written(client: Any) -> None:
    written = {
        "ItemId": "round",
        "IsHidden": True,
        "Categories": ["hip hop", "r&b", "#1"],
        "Timestamp": "2022-08-07T00:26:46Z",
        "Labels": {"author": "a 1", "language": "en", "genre": ["x y", "100%"], "n": 3, "o": {"a": [1.5, None]}},
        "Comment": "Eine Überschrift = 店 🧾",
    }
    assert client.insert_item(written) == DONE
    assert client.get_item("round") == written
    lists = {"ItemId": "lists", "Labels": ["a", "b c", "k=v", ""], "Comment": "", "IsHidden": False}
    assert client.insert_item(lists) == DONE
    told = client.get_item("lists")
    assert told.pop("Timestamp") > "2026-"
    assert told == {**lists, "Categories": []}


def test_an_item_is_written_over_patched_and_deleted(client: Any) -> None:
    client.insert_item(item("edited", "edits", Labels=["old"], Comment="first"))
    client.insert_item(item("edited", "edits", Labels=["new"]))
    assert client.update_item("edited", is_hidden=True, comment="third") == DONE
    told = client.get_item("edited")
    assert (told["Labels"], told["Comment"], told["IsHidden"]) == (["new"], "third", True)
    assert told["Timestamp"] == "2026-01-01T00:00:00Z"
    assert client.update_item("edited", categories=["other", "edits"], timestamp="2026-01-02", labels=[]) == DONE
    told = client.get_item("edited")
    assert (told["Categories"], told["Timestamp"]) == (["other", "edits"], "2026-01-02T00:00:00Z")
    assert (told["Labels"], told["IsHidden"]) == ([], True)
    assert client.delete_item("edited") == DONE
    assert client.delete_item("edited") == {"RowAffected": 0}
    for call in (client.get_item, client.update_item):
        with pytest.raises(gorse.GorseException) as caught:
            call("edited")
        assert (caught.value.status_code, caught.value.message[:24]) == (404, "item: an id that none ha")
    assert client.insert_item(item("edited", "again")) == DONE
    assert client.get_item("edited")["Categories"] == ["again"]
    assert not client.get_item("edited")["IsHidden"]


def test_what_is_written_the_same_again_is_logged_once(client: Any, feed: Feed) -> None:
    same = item("same", "x", Labels={"author": "a1"}, Comment="c", IsHidden=True)
    client.insert_item(same)
    with closing(reader(feed)) as log:
        before = log.position
    client.insert_item(same)
    client.update_item("same", comment="c")
    with closing(reader(feed)) as log:
        assert log.position == before


def test_items_are_listed_page_by_page(client: Any) -> None:
    for number in range(5):
        client.insert_item(item(f"zz-page-{number}", "pages"))
    client.delete_item("zz-page-3")
    found, cursor, pages = [], "", 0
    while cursor or not pages:
        items, cursor = client.get_items(2, cursor)
        found += [one["ItemId"] for one in items]
        pages += 1
    assert found == sorted(found)
    assert [name for name in found if name.startswith("zz-")] == [f"zz-page-{number}" for number in (0, 1, 2, 4)]
    with pytest.raises(gorse.GorseException) as caught:
        client.search_items("page")
    assert (caught.value.status_code, caught.value.message.partition(".")[0]) == (501, "items, q: a search")


# Users


def test_a_user_is_read_as_written_and_nothing_personal_stands_in_the_log(client: Any, feed: Feed) -> None:
    ada = {"UserId": "ada@example.org", "Labels": ["jazz", "hip hop"], "Comment": "pays by cheque"}
    assert client.insert_user(ada) == DONE
    assert client.get_user("ada@example.org") == {**ada, "Subscribe": None}
    bob = {"UserId": "bob", "Labels": {"region": "DE", "language": "de", "is_adult": True, "age": 33}}
    assert client.insert_users([bob, {"UserId": "eve"}]) == {"RowAffected": 2}
    assert client.get_user("bob") == {**bob, "Subscribe": None, "Comment": ""}
    client.insert_item(item("seen-by-ada", "private"))
    client.insert_feedback("like", "ada@example.org", "seen-by-ada", "")
    client.get_recommend("ada@example.org", n=3)
    users, cursor = client.get_users(100)
    assert {"ada@example.org", "bob", "eve"} <= {user["UserId"] for user in users}
    assert cursor == ""
    for path in feed.home.rglob("*"):
        if path.is_file():
            assert not [word for word in (b"ada@example", b"cheque") if word in path.read_bytes()], path


def test_a_deleted_user_goes_with_their_feedback(client: Any) -> None:
    client.insert_user({"UserId": "mallory", "Labels": ["x"]})
    client.insert_feedback("like", "mallory", "anything", "2026-01-01")
    assert client.delete_user("mallory") == DONE
    with pytest.raises(gorse.GorseException) as caught:
        client.get_user("mallory")
    assert caught.value.status_code == 404
    assert client.list_feedbacks("like", "mallory") == []
    assert client.delete_user("mallory") == {"RowAffected": 0}


# Feedback


def test_feedback_on_what_a_slate_showed_is_an_outcome_of_it(client: Any, feed: Feed) -> None:
    for number in range(4):
        client.insert_item(item(f"shown-{number}", "shown", number, Labels={"author": "a1"}))
    shown = ids(client.get_recommend("reader", "shown", n=2))
    assert shown == ["shown-3", "shown-2"]
    for type_, name in (("read", "shown-3"), ("star", "shown-3"), ("purchase", "shown-2"), ("read", "shown-0")):
        assert client.insert_feedback(type_, "reader", name, "") == DONE
    with closing(reader(feed)) as log:
        requests = [r for r in log.read() if r.kind == "decision" and r.id.startswith("slate/")]
        request = requests[-1]
        assert [slot.ref for slot in decode_decision(request.body).choice.slots] == shown
        told = [decode_outcome(log.get(seq).body) for seq in log.find("target", f"feed/{request.id}")]
        assert [(one.kind, one.ref, one.value) for one in told] == [
            ("click", "shown-3", 1.0),
            ("like", "shown-3", 1.0),
            ("share", "shown-2", 1.0),
        ]
        last = decode_event(list(log.read())[-1].body)
        assert (last.kind, last.attributes["post"], last.attributes["author"]) == ("click", "shown-0", "a1")
    found = client.list_feedbacks("", "reader")
    assert {(one["FeedbackType"], one["ItemId"]) for one in found} == {
        ("read", "shown-3"),
        ("star", "shown-3"),
        ("purchase", "shown-2"),
        ("read", "shown-0"),
    }
    assert [one["ItemId"] for one in client.list_feedbacks("star", "reader")] == ["shown-3"]


def test_a_key_of_feedback_is_there_once(client: Any, feed: Feed) -> None:
    one = {
        "FeedbackType": "rate",
        "UserId": "critic",
        "ItemId": "film",
        "Timestamp": "2026-01-01T00:00:00Z",
        "Value": 4,
    }
    assert client.insert_feedbacks([one, one, one | {"Value": 1}]) == {"RowAffected": 3}
    assert client.insert_feedbacks([one | {"Value": 2, "Timestamp": "2026-01-03"}]) == DONE
    assert client.list_feedbacks("rate", "critic") == [{**one, "Value": 4.0, "Comment": ""}]
    answer = httpx.put(f"{feed.url}/api/feedback", json=[one | {"Value": 2}], headers={"X-API-Key": feed.key})
    assert answer.json() == DONE
    assert client.list_feedbacks("rate", "critic") == [{**one, "Value": 2.0, "Comment": ""}]
    assert client.delete_feedback("critic", "film") == DONE
    assert client.delete_feedback("critic", "film") == {"RowAffected": 0}
    assert client.list_feedbacks("rate", "critic") == []
    assert client.insert_feedbacks([one]) == DONE
    assert client.list_feedbacks("rate", "critic") == [{**one, "Value": 4.0, "Comment": ""}]


def test_all_feedback_is_listed_page_by_page(client: Any) -> None:
    rows = [
        {"FeedbackType": "read", "UserId": f"many-{n}", "ItemId": "one", "Timestamp": "2026-01-01"} for n in range(120)
    ]
    assert client.insert_feedbacks(rows) == {"RowAffected": 120}
    found, cursor = client.get_feedbacks(50)
    while cursor:
        more, cursor = client.get_feedbacks(50, cursor)
        found += more
    users = [one["UserId"] for one in found]
    assert {row["UserId"] for row in rows} <= set(users)
    assert len({(one["FeedbackType"], one["UserId"], one["ItemId"]) for one in found}) == len(found)


def test_what_cannot_be_taken_is_kept_aside_and_said(client: Any, feed: Feed) -> None:
    rows = [
        {"FeedbackType": "read", "UserId": "u", "ItemId": "i", "Timestamp": time}
        for time in ("2026-01-01", "2099-01-01T00:00:00Z")
    ]
    rows[1]["ItemId"] = "tomorrow's"
    with pytest.raises(gorse.GorseException) as caught:
        client.insert_feedbacks(rows)
    assert caught.value.status_code == 400
    assert caught.value.message.startswith("body, event_time: 1 of 2 rows that were put into quarantine")
    assert [one["ItemId"] for one in client.list_feedbacks("read", "u")] == ["i"]
    with closing(reader(feed)) as log:
        assert any(record.kind == "rejected" and record.reason == "event_time" for record in log.read())


# Recommendations


def test_recommendations_are_decisions_and_go_on_without_repeats(client: Any, feed: Feed) -> None:
    for number in range(6):
        client.insert_item(item(f"rec-{number}", "rec", number))
    client.update_item("rec-5", is_hidden=True)
    first = client.get_recommend("walker", "rec", n=2)
    assert (ids(first), {score.score for score in first}) == (["rec-4", "rec-3"], {0.0})
    again = client.get_recommend("walker", "rec", n=2, offset=2, write_back_type="read", write_back_delay="10m")
    assert ids(again) == ["rec-2", "rec-1"]
    assert client.list_feedbacks("read", "walker") == []
    assert ids(client.get_recommend("walker", "rec", n=10**6)) == ["rec-0"]
    assert client.get_recommend("walker", "nothing") == []
    assert client.get_recommend("walker", n=0) == []
    assert len(client.get_recommend("nobody-was-told-of")) == 10
    headers = {"X-API-Key": feed.key}
    answer = httpx.get(f"{feed.url}/api/recommend/other", params={"category": "rec", "n": 1}, headers=headers)
    assert answer.json() == ["rec-4"]
    with closing(reader(feed)) as log:
        sizes = [decode_decision(r.body).request.attributes["size"] for r in log.read() if r.kind == "decision"]
    assert 100 in sizes


def test_a_session_is_recommended_for_by_what_was_done_in_it(client: Any, feed: Feed) -> None:
    for name in ("s1", "s2", "s3"):
        client.insert_item(item(f"session-{name}", "session"))
    doings = [
        {"FeedbackType": "read", "UserId": "", "ItemId": "session-s2", "Timestamp": "2026-01-01T02:00:00Z"},
        {"FeedbackType": "read", "UserId": "", "ItemId": "session-s1", "Timestamp": "2026-01-01T01:00:00Z"},
        {"FeedbackType": "dislike", "UserId": "", "ItemId": "session-s3", "Timestamp": "2026-01-01T03:00:00Z"},
    ]
    told = client.session_recommend(doings, n=100)
    names = [one["Id"] for one in told]
    assert not {"session-s1", "session-s2"} & set(names)
    assert set(told[0]) == {"Id", "Score"}
    with closing(reader(feed)) as log:
        request = [decode_decision(r.body).request for r in log.read() if r.kind == "decision"][-1]
    assert request.attributes["recent"] == "session-s1 session-s2"
    assert (request.attributes["surface"], request.entities) == ("session", {})


def test_neighbours_are_what_retrieval_finds_alike(client: Any) -> None:
    for name in ("n1", "n2", "n3"):
        client.insert_item(item(name, "near"))
    assert client.get_neighbors("n1") == [{"Id": "n2", "Score": 0.75}, {"Id": "n3", "Score": 0.75}]
    assert client.get_neighbors("n1", n=1, offset=1) == [{"Id": "n3", "Score": 0.75}]
    assert client.get_neighbors("never-written") == []


# Names, keys, bodies


@pytest.mark.parametrize("name", ["店 🧾", "a b", "x" * 128, "per%cent", "ü+&="])
def test_names_of_any_letters(client: Any, name: str) -> None:
    assert client.insert_item(item(name, name)) == DONE
    assert client.insert_user({"UserId": name}) == DONE
    quoted = name.replace("%", "%25")
    assert client.get_item(quoted)["ItemId"] == name
    assert client.get_user(quoted)["UserId"] == name
    assert ids(client.get_recommend(quoted, quoted)) == [name]
    assert client.insert_feedback("read", name, name, "") == DONE
    assert [one["ItemId"] for one in client.list_feedbacks("read", quoted)] == [name]


def test_a_name_with_a_slash_is_found_where_the_client_quotes_it(client: Any) -> None:
    client.insert_item(item("a/b", "slash/ed"))
    assert client.get_item("a%2Fb")["Categories"] == ["slash/ed"]
    assert ids(client.get_recommend("me", "slash%2Fed")) == ["a/b"]
    with pytest.raises(gorse.GorseException) as caught:
        client.get_item("a/b")
    assert (caught.value.status_code, caught.value.message.partition(":")[0]) == (404, "request, path")


def test_wrong_keys_are_refused_in_words(feed: Feed) -> None:
    for key, words in (
        ("", "a header that holds no token"),
        (f"dlg_{'0' * 12}_{'0' * 64}", "a token that is not known"),
    ):
        with pytest.raises(gorse.GorseException) as caught:
            gorse.Gorse(feed.url, key).get_item("x")
        assert (caught.value.status_code, words in caught.value.message) == (401, True)
    decides = gorse.Gorse(feed.url, token(feed.home, "decide"))
    decides.insert_item(item("scoped", "x"))
    for call, given in ((decides.insert_feedback, ("read", "u", "i", "")), (decides.get_users, (1,))):
        with pytest.raises(gorse.GorseException) as caught:
            call(*given)
        assert caught.value.status_code == 403
    assert httpx.get(f"{feed.url}/api/health/live").json()["Ready"]
    assert httpx.get(f"{feed.url}/api/health/ready").json() == {
        "Ready": True,
        "DataStoreError": None,
        "CacheStoreError": None,
        "DataStoreConnected": True,
        "CacheStoreConnected": True,
    }


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"ItemId": ""}, "body, ItemId: what does not fit"),
        ({"ItemId": "x" * 129}, "body, ItemId: what does not fit"),
        ({"ItemId": 7}, "body, ItemId: what does not fit"),
        ({"Comment": "no id"}, "body: what does not fit"),
        ({"ItemId": "x", "Timestamp": "tomorrow"}, "body, Timestamp: no time that is known here"),
        ({"ItemId": "x", "Labels": 5}, "body, Labels: labels of another kind"),
        ({"ItemId": "x", "Labels": ["y" * 600]}, "body, labels: 1 of 1 rows that were put into quarantine"),
        ({"ItemId": "x\u0000"}, "body, post: 1 of 1 rows that were put into quarantine"),
        ({"ItemId": "x", "Timestamp": "2099-01-01"}, "body, event_time: 1 of 1 rows"),
    ],
)
def test_wrong_items_are_refused(client: Any, written: dict[str, Any], words: str) -> None:
    with pytest.raises(gorse.GorseException) as caught:
        client.insert_item(written)
    assert (caught.value.status_code, caught.value.message[: len(words)]) == (400, words)


def test_bodies_that_are_no_json_are_refused(feed: Feed) -> None:
    headers = {"X-API-Key": feed.key}
    for body in (b"", b"{", b'[{"FeedbackType": "read"', b"\xff", b"[" * 100):
        answer = httpx.post(f"{feed.url}/api/feedback", content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8"), body
    answer = httpx.get(f"{feed.url}/api/nothing", headers=headers)
    assert (answer.status_code, answer.text.partition(":")[0]) == (404, "request, path")
    answer = httpx.get(f"{feed.url}/api/recommend/x?n=-1", headers=headers)
    assert (answer.status_code, answer.text[:31]) == (400, "query, n: no such number. Expec")


def test_the_asynchronous_client_works_too(feed: Feed) -> None:
    async def calls() -> Any:
        client = gorse.AsyncGorse(feed.url, feed.key)
        await client.insert_item(item("async", "async"))
        await client.insert_feedback("like", "task", "async", "2026-01-01")
        return await client.list_feedbacks("like", "task"), await client.get_recommend("task", "async")

    feedback, recommended = asyncio.run(calls())
    assert [one["ItemId"] for one in feedback] == ["async"]
    assert ids(recommended) == ["async"]


# What lasts


def test_everything_is_there_after_a_crash(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as feed:
        client = gorse.Gorse(feed.url, feed.key)
        client.insert_user({"UserId": "ada", "Labels": ["x"]})
        client.insert_item(item("kept", "k"))
        assert ids(client.get_recommend("ada")) == ["kept"]
    with serving(tmp_path / "home", feed.key) as feed:
        client = gorse.Gorse(feed.url, feed.key)
        assert client.get_user("ada")["Labels"] == ["x"]
        assert client.get_item("kept")["Categories"] == ["k"]
        client.insert_feedback("read", "ada", "kept", "")
        with closing(reader(feed)) as log:
            last = list(log.read())[-1]
        assert (last.kind, decode_outcome(last.body).ref) == ("outcome", "kept")


def test_decisions_through_the_wire_replay_and_the_log_is_sound(feed: Feed, client: Any) -> None:
    client.get_recommend("last")
    told = json.loads(decalog("replay", SYSTEM, "--all", "--json", "--home", str(feed.home)))
    assert told["replayed"] == told["identical"] > 0
    assert "BAD" not in decalog("verify", "--home", str(feed.home))
