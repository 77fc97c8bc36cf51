"""Why a post was shown or hidden: over the real rooms of feed, by command and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.http.callers import Client, replay_nothing
from typer.testing import CliRunner

from decalog.clock import DAY, HOUR, MINUTE, ManualClock, rfc3339
from decalog.deployment import Deployment, run_aside
from decalog.errors import ReplayError, UnknownRecordError
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.meter import Meter
from decalog.models.base import Floats
from decalog.systems.feed import why
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.schema import SCHEMA
from decalog.systems.feed.system import SYSTEM

START = 20_000 * DAY
HEADS = tuple(signal.head for signal in SCHEMA.signals)


class ByAge:
    """The younger a post, the likelier it is read; nobody hides or reports."""

    blocking = False

    def predict(self, rows: Floats) -> Floats:
        made = np.zeros((len(rows), len(HEADS)))
        age_h = rows[:, SYSTEM.features.names_for("model").index("age_s")] / 3_600
        made[:, :2] = (1 / (2 + age_h))[:, None]
        return made

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class Feed:
    """A running feed."""

    def __init__(self, root: Path, runner: asyncio.Runner) -> None:
        self.root, self.clock = root, ManualClock(START)
        self.log = Home(root).writer(self.clock)
        self.deployment = Deployment(Home(root), SYSTEM, self.log)
        service = self.deployment.service()
        service.adopt(msgspec.structs.replace(service.serving, model=ByAge()))
        self.host = Host(self.log, {"feed": service}, replay=replay_nothing, meter=Meter(), state=Home(root).state)
        self.asides = 0
        self.client = Client(runner, App(self.host, HttpSettings(tokens=False), access=None), {})

    def tell(self, door: str, kind: str, **fields: Any) -> None:
        self.clock.set(self.clock.now_us() + HOUR)
        body = {"id": f"{kind}-{self.log.position}", "kind": kind, "event_time": rfc3339(self.clock.now_us()), **fields}
        answer = self.client.call("POST", f"/v1/feed/{door}", json=body)
        assert answer.status_code == 200, answer.text

    def ask(self, id_: str, **fields: Any) -> list[str]:
        self.clock.set(self.clock.now_us() + MINUTE)
        answer = self.client.call("POST", "/v1/feed/decide", json={"id": id_, "user": "ada", "size": 5, **fields})
        assert answer.status_code == 200, answer.text
        return [slot["ref"] for slot in answer.json()["slots"]]

    def why(self, path: str) -> dict[str, Any]:
        answer = self.client.call("GET", path)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def stages(self, path: str) -> dict[str, str]:
        return {one["stage"]: one["what"] for one in self.why(path)["stages"]}

    def said_by_both(self, request: str, post: str) -> dict[str, str]:
        """Returns the stages that command and HTTP name, which are the same."""
        by_http = self.stages(f"/v1/feed/decisions/{request}/why/{post}")
        by_command = CliRunner().invoke(why.app, ["--json", "--home", str(self.root), "--", request, post])
        assert by_command.exit_code == 0, by_command.output
        assert dict(msgspec.json.decode(by_command.output)["stages"]) == by_http
        return by_http


@pytest.fixture
def feed(tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    made = Feed(tmp_path / "home", runner)

    async def counted(*words: str) -> tuple[bytes, bytes, int | None]:
        made.asides += 1
        return await run_aside(*words)

    monkeypatch.setattr(why, "run_aside", counted)
    runner.run(made.host.start())
    yield made
    runner.run(made.host.stop())
    made.log.close()


@pytest.fixture
def filled(feed: Feed) -> Feed:
    for number in range(30):
        feed.tell("events", "post", post=f"p{number}", author=f"a{number % 10}", topic=f"t{number % 4}")
    feed.tell("events", "block", user="ada", author="a7")
    return feed


def test_every_stage_of_a_shown_post_is_named(filled: Feed) -> None:
    shown = filled.ask("r1")
    told = filled.why(f"/v1/feed/decisions/r1/why/{shown[0]}")
    assert (told["post"], told["shown"]) == (shown[0], True)
    assert told["text"].startswith(shown[0])
    assert [one["stage"] for one in told["stages"]] == ["retrieval", "score", "value", "rank", "slot"]


def test_what_was_hidden_says_by_what(filled: Feed) -> None:
    shown = filled.ask("r1")
    hidden = next(f"p{n}" for n in range(29, -1, -1) if n % 10 != 7 and f"p{n}" not in shown)
    path = "/v1/feed/decisions/r1/why/"
    assert not filled.why(path + hidden)["shown"]
    assert "blocked" in " ".join(filled.stages(path + "p27").values())
    assert "no source" in " ".join(filled.stages(path + "never").values())


def test_an_adult_by_profile_is_one_for_every_stage_and_in_the_record_alone(filled: Feed) -> None:
    filled.tell("events", "moderation", post="p29", verdict="sensitive")
    assert "p29" not in filled.ask("r1")
    assert filled.stages("/v1/feed/decisions/r1/why/p29")["filter"] == "taken out: mature"
    filled.tell("events", "profile", user="ada", is_adult=True)
    assert "p29" in filled.ask("r2", size=20)
    assert "p29" not in filled.ask("r3", is_adult=False)
    # Both answers come from the record; what the profile says by now does not matter.
    filled.tell("events", "profile", user="ada", is_adult=False)
    told = filled.stages("/v1/feed/decisions/r2/why/p29")
    assert "sensitive posts are shown from slot 3 on" in told["guardrail"]
    assert "note" not in told


def test_a_slate_of_now_answers_without_being_logged(filled: Feed) -> None:
    position = filled.log.position
    told = filled.why("/v1/feed/why?user=ada&post=p29&size=5")
    assert told["shown"] is True
    assert filled.log.position == position
    assert "blocked" in filled.why("/v1/feed/why?user=ada&post=p27")["text"]
    assert "blocked" not in filled.why("/v1/feed/why?user=bob&post=p27")["text"]
    refused = filled.client.call("GET", "/v1/feed/why?user=ada")
    assert refused.status_code == 422
    assert "feed why, post: no post. Expected ?user=…&post=…" in refused.text


def test_command_and_http_say_the_same_with_all_that_was_shown_before(filled: Feed) -> None:
    first, second = filled.ask("r1"), filled.ask("r2")
    assert not set(first) & set(second), "what was seen is not shown again"
    filled.ask("r3")  # the views go on
    for post in (first[0], second[-1], "p27", "p1", "never"):
        told = filled.said_by_both("r2", post)
        assert "note" not in told, "with all that the policy saw, the slate comes out as it was logged"
    assert first[0] == "p29"
    another = next(post for post in ("p19", "p9") if post not in first)  # of its author; chance may have shown one
    assert "author_shown_to_user_1d × 0.99" in filled.said_by_both("r2", another)["value"]
    assert filled.asides == 0, "the live views told all of it"


def test_both_go_by_the_policy_that_decided(filled: Feed) -> None:
    shown = filled.ask("r1")
    before = filled.said_by_both("r1", shown[0])
    filled.host.services["feed"].put_policy(FeedPolicy(FeedWeights(click_per_1000_minor=77_000)))
    filled.tell("events", "post", post="p99", author="a1", topic="t1")  # commits
    assert filled.said_by_both("r1", shown[0]) == before


def test_what_live_views_cannot_tell_any_more_is_folded_anew(filled: Feed) -> None:
    assert filled.ask("r0")[0] == "p29"
    filled.ask("r1")
    asked = filled.clock.now_us()
    before = filled.said_by_both("r1", "p19")
    assert "author_shown_to_user_1d × 0.99" in before["value"]
    # A slate of a minute ago becomes known, as late ones do: the features that the record holds do not count it.
    filled.ask("late", event_time=rfc3339(asked - 1))
    assert filled.said_by_both("r1", "p19") == before
    assert filled.asides == 1
    # Views reach back a day.
    filled.clock.set(asked + 3 * DAY)
    filled.tell("events", "post", post="p99", author="a1", topic="t1")
    assert filled.said_by_both("r1", "p19") == before
    assert filled.asides == 2


def test_a_host_without_a_home_says_what_the_record_says(filled: Feed) -> None:
    filled.ask("r0")
    filled.ask("r1")
    path = "/v1/feed/decisions/r1/why/p19"
    assert "author_shown" in filled.stages(path)["value"]
    filled.clock.set(filled.clock.now_us() + 3 * DAY)
    filled.tell("events", "post", post="p99", author="a1", topic="t1")
    filled.host.folder = None
    assert "author_shown" not in filled.stages(path)["value"]


def test_a_process_that_fails_is_named(tmp_path: Path, runner: asyncio.Runner) -> None:
    with pytest.raises(
        ReplayError, match=r"(?s)decalog why feed: a process that ended with 2: decalog: home .* a folder without a log"
    ):
        runner.run(why.why_aside(tmp_path, request="r1", post="p1"))


def test_the_command_tells_it_for_people(filled: Feed) -> None:
    shown = filled.ask("r1")
    filled.log.commit()
    told = CliRunner().invoke(why.app, ["r1", shown[0], "--home", str(filled.root)])
    assert told.exit_code == 0, told.output
    assert told.output.startswith(f"{shown[0]}\n  retrieval  found by")


def test_a_slate_that_is_not_there_is_refused(filled: Feed) -> None:
    with pytest.raises(
        UnknownRecordError, match=r"decalog why feed: an id that no slate has\. Expected the id of a request"
    ):
        why.why_folded(filled.log, request="never", post="p1")
    assert filled.client.call("GET", "/v1/feed/decisions/never/why/p1").status_code == 404
