"""Privacy on a server whose decisions go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.privacy.people import ADA, READER, SECRETS, Shop, feed_home, fill, of_ada, of_bob, shop

from decalog.deployment import Deployment, Setup, run_aside
from decalog.errors import LogUnavailableError, RequestError, UnknownRecordError
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.meter import Meter
from decalog.privacy.acts import Corrected
from decalog.privacy.erasing import Erased
from decalog.privacy.live import FAILED, Asked, Live
from decalog.privacy.retention import Retained
from decalog.privacy.subjects import find_subject
from decalog.standing import Standing
from decalog.testing.stage import unhurried
from decalog.verification import verify


async def no_replay(_system: str, _id: str, _verb: str) -> dict[str, Any]:
    return {}


@contextmanager
def server(root: Path, runner: asyncio.Runner, *names: str, setup: Setup | None = None) -> Iterator[tuple[Shop, Host]]:
    """Gives a running host over a home."""
    with shop(root, *names, setup=setup) as open_:
        host = Host(open_.log, open_.services, replay=no_replay, meter=Meter(), state=open_.home.state)
        runner.run(host.start())
        try:
            yield open_, host
        finally:
            runner.run(host.stop())


def test_decisions_go_on_while_a_person_is_erased(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner) as (open_, host):

        async def both() -> tuple[Erased, int]:
            erasing = asyncio.ensure_future(Live(host, home).erase("fraud", ADA, by="token 1"))
            decided = 0
            while not erasing.done():
                open_.later()
                await host.decide("fraud", of_bob(f"live-{decided}"))
                if decided < 3:  # she pays while she is forgotten
                    await host.decide("fraud", of_ada(f"during-{decided}"))
                decided += 1
                await asyncio.sleep(0.01)
            return await erasing, decided

        told, decided = runner.run(both())
        assert decided > 3
        assert told.proof is not None
        assert told.proof.holds, told.text()
        assert told.records == {"fraud": 9}
        assert find_subject(open_.fraud.system, open_.log, person=ADA) is None
        with pytest.raises(UnknownRecordError, match="an id that no decision has"):
            runner.run(host.decision("fraud", "ada-1"))
        assert runner.run(host.decision("fraud", "bob-1"))["action"]
    assert verify(home.root).sound
    with shop(home.root) as open_:
        assert len(open_.fraud.standing.erased) == 9


def test_a_retrieval_is_built_anew_beside_decisions(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = feed_home(tmp_path / "var")
    with server(home.root, runner, "feed") as (open_, host):
        before: Any = open_.feed.retrieval
        assert len(before.people) == 2
        told = runner.run(Live(host, home).erase("feed", READER, by="token 1"))
        assert told.proof is not None
        assert told.proof.holds, told.text()
        after: Any = open_.feed.retrieval
        assert after is not before
        assert len(after.people) == 1
        unhurried(open_.feed)
        assert open_.feed.ingest.describe == after.describe
        open_.later()
        raw = msgspec.json.encode({"id": "r-next", "user": "reader_bob_32", "size": 3})
        assert runner.run(host.decide("feed", raw)).body["slots"]
        assert len(after.people) == 1


def test_a_process_that_fails_says_so_and_nothing_is_erased(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")

    async def fails(*_words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
        del told
        return b"", b"Traceback\nKeyError: 'cus_ada_5512'", 1

    with server(home.root, runner) as (open_, host):
        with pytest.raises(LogUnavailableError, match="ended with 1: a fault in it"):
            runner.run(Live(host, home, aside=fails).erase("fraud", ADA, by="t"))
        assert find_subject(open_.fraud.system, open_.log, person=ADA) is not None


def test_an_order_that_cannot_be_done_says_why(tmp_path: Path, runner: asyncio.Runner) -> None:
    order = msgspec.json.encode({"home": str(tmp_path), "verb": "survey", "subject": 1})
    _, err, status = runner.run(run_aside("decalog.privacy.aside", told=order))
    assert status == FAILED
    assert b"a folder without a log" in err
    assert b"Traceback" not in err


def test_each_act_is_done_on_a_server(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner) as (open_, host):
        live = Live(host, home)

        def do(**asked: Any) -> Any:
            return runner.run(live.do("fraud", msgspec.convert(asked, Asked), by="token 1"))

        def decided(id_: str) -> dict[str, Any]:
            open_.later()
            return runner.run(host.decide("fraud", of_ada(id_))).body

        do(act="notice", id="adm-1", url="https://shop.example/adm")
        do(act="opt_out", person=ADA)
        body = decided("a1")
        assert (body["action"], body["fallback"], body["notice"]) == ("review", "opted_out", "adm-1")
        do(act="restrict", person=ADA, why="accuracy")
        assert decided("a2")["fallback"] == "restricted"
        do(act="lift", person=ADA)
        do(act="opt_in", person=ADA)
        assert decided("a3")["fallback"] == "no_model"
        done = do(act="rectify", person=ADA, values={"cardholder": "Ada Byron"})
        assert isinstance(done, Corrected)
        assert done.records == 7
        told = msgspec.json.decode(bytes(do(act="access", person=ADA)))
        assert {one["personal"]["cardholder"] for one in told["records"]} == {"Ada Byron"}
        assert any("token 1: asked for what is kept" in line for line in told["looked"])
        heard = runner.run(live.contest("fraud", "a3", said="I want a person", by="t"))
        assert heard.request == "a3"
        aged = do(act="retention", days={"cardholder": 1})
        assert isinstance(aged, Retained)
        assert (aged.erased, aged.aged) == (0, 0)
        assert not do(act="prove", person="nobody in particular").proof.scan.hits
        with pytest.raises(RequestError, match="fraud privacy, person: nobody"):
            do(act="erase")


def test_what_is_over_age_goes_on_a_server(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner) as (open_, host):
        open_.later(60 * 24 * 40)
        runner.run(host.decide("fraud", of_bob("bob-new")))
        asked = Asked(act="retention", days={"person": 30, "cardholder": 10})
        told: Any = runner.run(Live(host, home).do("fraud", asked, by="t"))
        assert (told.erased, told.aged) == (1, 1)
        assert find_subject(open_.fraud.system, open_.log, person=ADA) is None
        assert len(Standing.of(open_.log, "fraud").subjects) == 1
    assert verify(home.root).sound


def test_a_person_may_wish_before_they_are_seen(tmp_path: Path, runner: asyncio.Runner) -> None:
    with shop(tmp_path / "var") as open_:
        open_.decide(of_bob("bob"))
    home = open_.home
    with server(home.root, runner) as (open_, host):
        runner.run(Live(host, home).do("fraud", Asked(act="opt_out", person=ADA), by="t"))
        assert runner.run(host.decide("fraud", of_ada("first"))).body["fallback"] == "opted_out"
        found = Deployment(home, "fraud", open_.log).replayer().range()
        assert found.identical == found.replayed == 2
    assert SECRETS["customer"] == ADA


def test_an_erased_payment_is_in_no_list_of_the_field_s_protocol(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner) as (_, host):
        app = App(host, HttpSettings(tokens=False), access=None)

        async def listed(path: str) -> set[str]:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                answer = await client.get(path)
                return {one["id"] for one in answer.json().get("data", ())} if answer.status_code == 200 else set()

        before = runner.run(listed("/v1/payment_intents?limit=50")), runner.run(listed("/v1/disputes?limit=50"))
        assert {"ada-1", "bob-1"} <= before[0]
        assert before[1] == {"cb-1"}
        runner.run(Live(host, home).erase("fraud", ADA, by="t"))
        assert {one for one in runner.run(listed("/v1/payment_intents?limit=50")) if one.startswith("ada")} == set()
        assert runner.run(listed("/v1/disputes?limit=50")) == set()
