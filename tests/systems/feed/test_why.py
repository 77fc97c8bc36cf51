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

from decalog.clock import DAY, HOUR, ManualClock, rfc3339
from decalog.decisions import decode_decision
from decalog.deployment import Deployment
from decalog.errors import UnknownRecordError
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.meter import Meter
from decalog.models.base import Floats
from decalog.systems.feed.retrieval import FeedRetrieval
from decalog.systems.feed.schema import SCHEMA
from decalog.systems.feed.system import SYSTEM
from decalog.systems.feed.why import app, why_logged

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
        assert isinstance(service.retrieval, FeedRetrieval)
        service.retrieval.deadline_ms = 60_000.0  # on a busy machine sources are late, and nothing is found
        service.adopt(msgspec.structs.replace(service.serving, model=ByAge()))
        self.host = Host(self.log, {"feed": service}, replay=replay_nothing, meter=Meter())
        self.client = Client(runner, App(self.host, HttpSettings(tokens=False), access=None), {})

    def tell(self, door: str, kind: str, **fields: Any) -> None:
        self.clock.set(self.clock.now_us() + HOUR)
        body = {"id": f"{kind}-{self.log.position}", "kind": kind, "event_time": rfc3339(self.clock.now_us()), **fields}
        answer = self.client.call("POST", f"/v1/feed/{door}", json=body)
        assert answer.status_code == 200, answer.text

    def ask(self, id_: str, **fields: Any) -> list[str]:
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


@pytest.fixture
def feed(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Feed]:
    made = Feed(tmp_path / "home", runner)
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


def test_the_command_tells_of_a_logged_slate_what_the_policy_saw(filled: Feed) -> None:
    first, second = filled.ask("r1"), filled.ask("r2")
    assert not set(first) & set(second), "what was seen is not shown again"
    filled.log.commit()
    for request, post in (("r1", first[0]), ("r2", second[-1]), ("r2", first[0])):
        told = CliRunner().invoke(app, [request, post, "--home", str(filled.root)])
        assert told.exit_code == 0, told.output
        over_http = filled.why(f"/v1/feed/decisions/{request}/why/{post}")["stages"]
        for stage in ("filtered", "slot"):
            said = [one["what"] for one in over_http if one["stage"] == stage]
            assert all(words in told.output for words in said)
        assert "note" not in told.output, "with all that the policy saw, the slate comes out as it was logged"
    record = filled.log.get(filled.log.find("request", "feed/r2")[0])
    assert decode_decision(record.body).mode == "live"


def test_a_slate_that_is_not_there_is_refused(filled: Feed) -> None:
    with pytest.raises(
        UnknownRecordError, match=r"decalog why feed: an id that no slate has\. Expected the id of a request"
    ):
        why_logged(filled.log, filled.deployment, request="never", post="p1")
    assert filled.client.call("GET", "/v1/feed/decisions/never/why/p1").status_code == 404
