"""The `gorsejs` library from npm, unmodified, under node, with its address and key set to our server's."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clients.feeds import Feed, serving

HERE = Path(__file__).resolve().parent / "gorsejs"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
INSTALL_S = 120
Told = list[Any]
Call = Callable[..., Told]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("gorsejs")
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    try:
        subprocess.run(INSTALL, cwd=folder, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("gorsejs was not installed: `npm ci` in tests/clients/gorsejs needs npm's packages")
    with serving(folder / "home") as feed:
        yield lambda *calls, key=feed.key: run(folder, feed, key, calls=calls)


def run(folder: Path, feed: Feed, key: str, *, calls: tuple[list[Any], ...]) -> Told:
    asked = json.dumps({"endpoint": feed.url, "secret": key, "calls": calls})
    done = subprocess.run(
        ["node", "calls.js"], cwd=folder, input=asked, check=True, capture_output=True, text=True, timeout=INSTALL_S
    )
    told: Told = json.loads(done.stdout)
    return told


def item(name: str, topic: str, **more: Any) -> dict[str, Any]:
    return {"ItemId": name, "IsHidden": False, "Categories": [topic], "Timestamp": "2026-01-01T00:00:00Z", **more}


def feedback(user: str, name: str, type_: str = "read") -> dict[str, Any]:
    return {"FeedbackType": type_, "UserId": user, "ItemId": name, "Timestamp": "2026-01-01T00:00:00.000Z"}


def test_users(call: Call) -> None:
    user = {"UserId": "100", "Labels": ["a", "b", "c"], "Comment": "comment"}
    told = call(
        ["insertUser", user],
        ["getUser", "100"],
        ["updateUser", "100", {"UserId": "100", "Labels": ["d"]}],
        ["getUser", "100"],
        ["insertUsers", [{"UserId": "101"}, {"UserId": "102"}]],
        ["deleteUser", "100"],
        ["getUser", "100"],
    )
    assert told[:6] == [
        1,
        {**user, "Subscribe": None},
        1,
        {**user, "Labels": ["d"], "Subscribe": None},
        2,
        1,
    ]
    assert (told[6]["error"], told[6]["code"], told[6]["message"][:5]) == ("GorseException", 404, "user:")


def test_items(call: Call) -> None:
    written = item("100", "d", IsHidden=True, Labels=["a", "b", "c"], Comment="comment")
    told = call(
        ["upsertItem", written],
        ["getItem", "100"],
        ["insertItemCategory", "100", "e"],
        ["insertItemCategory", "100", "e"],
        ["getItem", "100"],
        ["deleteItemCategory", "100", "d"],
        ["updateItem", "100", {"IsHidden": False}],
        ["getItem", "100"],
        ["upsertItems", [item("101", "x"), item("102", "x")]],
        ["deleteItem", "100"],
        ["getItem", "100"],
        ["insertItemCategory", "100", "e"],
    )
    assert told[:3] == [1, written, 1]
    assert told[4]["Categories"] == ["d", "e"]
    assert (told[7]["Categories"], told[7]["IsHidden"]) == (["e"], False)
    assert told[8:10] == [2, 1]
    assert [one["code"] for one in told[10:]] == [404, 404]


def test_feedback(call: Call) -> None:
    told = call(
        ["insertFeedbacks", [feedback("f1", "i1", "like"), feedback("f1", "i2"), feedback("f2", "i1")]],
        ["insertFeedbacks", [feedback("f1", "i2")]],
        ["upsertFeedbacks", [{**feedback("f1", "i2"), "Timestamp": "2026-01-02T00:00:00.000Z"}]],
        ["getFeedback", {"type": "read", "userId": "f1", "itemId": "i2"}],
        ["getUserFeedback", "f1"],
        ["getUserFeedbackByType", "f1", "like"],
        ["getItemFeedback", "i1"],
        ["getItemFeedbackByType", "i1", "read"],
        ["getFeedbacks", "like"],
        ["deleteFeedback", {"type": "read", "userId": "f1", "itemId": "i2"}],
        ["getFeedback", {"type": "read", "userId": "f1", "itemId": "i2"}],
        ["getFeedbacks", None, {"n": 2}],
    )
    assert told[:3] == [3, 1, 1]
    assert (told[3]["Timestamp"], told[3]["ItemId"]) == ("2026-01-02T00:00:00Z", "i2")
    found = [sorted((one["UserId"], one["ItemId"]) for one in listed) for listed in told[4:8]]
    assert found == [
        [("f1", "i1"), ("f1", "i2")],
        [("f1", "i1")],
        [("f1", "i1"), ("f2", "i1")],
        [("f2", "i1")],
    ]
    assert [one["UserId"] for one in told[8]["Feedback"]] == ["f1"]
    assert told[9] == {"RowAffected": 1}
    assert told[10]["code"] == 404
    assert len(told[11]["Feedback"]) == 2


def test_pages_go_on_from_the_cursor_as_this_client_writes_it(call: Call) -> None:
    call(["upsertItems", [item(f"p{number}", "pages") for number in range(4)]])
    (first,) = call(["getItems", {"n": 2}])
    (second,) = call(["getItems", {"n": 2, "Cursor": first["Cursor"]}])
    names = [one["ItemId"] for page in (first, second) for one in page["Items"]]
    assert len(set(names)) == 4
    (wrong,) = call(["getItems", {"Cursor": "§"}])
    assert (wrong["code"], wrong["message"][:13]) == (400, "query, cursor")


def test_recommendations_and_lists(call: Call) -> None:
    items = [item(f"r{number}", "rec", Timestamp=f"2026-01-0{number}T00:00:00Z") for number in range(1, 4)]
    told = call(
        ["upsertItems", items],
        ["getRecommend", {"userId": "w", "category": "rec", "cursorOptions": {"n": 2}}],
        ["getRecommend", {"userId": "w", "category": "rec", "cursorOptions": {"n": 2, "offset": 2}}],
        ["insertFeedbacks", [{**feedback("w", "r1"), "Timestamp": "2026-01-04"}]],
        ["getLatest", {"category": "rec", "cursorOptions": {"n": 2, "offset": 1}}],
        ["getPopular", {"category": "rec"}],
        ["getSessionRecommend", [feedback("", "r1")], {"category": "rec", "cursorOptions": {"n": 5}}],
        ["getSessionRecommend", [], {"cursorOptions": {"n": 5, "offset": 5}}],
        ["getItemNeighbors", {"itemId": "r1"}],
        ["getUserNeighbors", {"userId": "w"}],
    )
    assert told[1:3] == [["r3", "r2"], ["r1"]]
    assert told[4] == [{"Id": "r2", "Score": 1767312000.0}, {"Id": "r1", "Score": 1767225600.0}]
    assert told[5][0]["Id"] == "r1"
    assert [one["Id"] for one in told[6]] == ["r3", "r2"]
    assert (told[7]["code"], told[7]["message"][:13]) == (400, "query, offset")
    assert [one["Id"] for one in told[8]] == ["r2", "r3"]
    assert (told[9]["code"], told[9]["message"][:14]) == (501, "user neighbors")


def test_a_wrong_key_is_an_exception_of_the_clients_own(call: Call) -> None:
    (told,) = call(["getPopular", {}], key="wrong")
    assert (told["error"], told["code"]) == ("GorseException", 401)
