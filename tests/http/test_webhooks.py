"""Deliveries of webhooks where endpoints refuse, are away or hang, and where positions are lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest
from tests.http.callers import make_host, payment

from decalog.clock import DAY, ManualClock
from decalog.errors import LimitError, RequestError, UnknownRecordError
from decalog.events import Record
from decalog.host import Host
from decalog.http import webhooks as rooms
from decalog.http.webhooks import MOST_ENDPOINTS, Event, Webhooks, is_signed, signature

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_WAIT_S", "_LOOK_S"):
        monkeypatch.setattr(rooms, name, 0.0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path)
    yield made
    made.log.close()


def hooks(host: Host) -> Webhooks:
    def tell(record: Record) -> Event | None:
        return Event("decided", record.id.encode()) if record.kind == "decision" else None

    return Webhooks(host, "fraud", tell=tell, header="X-Signature", private=False)


class Endpoint:
    """Keeps the bodies that it took; `answers` gives the status of each try, 0 for none."""

    def __init__(self, answers: Callable[[bytes], int]) -> None:
        self.answers = answers
        self.tries: list[bytes] = []
        self.took: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""
        self.open: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        body = await reader.readexactly(int(size.partition(b":")[2]))
        self.tries.append(body)
        status = self.answers(body)
        if status:
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        if status == 200:
            self.took.put_nowait(body)
        if status:
            writer.close()

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.took.get(), PATIENCE_S)


@asynccontextmanager
async def listening(answers: Callable[[bytes], int]) -> Any:
    endpoint = Endpoint(answers)
    async with await asyncio.start_server(endpoint.serve, "127.0.0.1", 0) as server:
        endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}?a=1"
        yield endpoint
        for writer in endpoint.open:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def delivering(host: Host, scenario: Callable[[Webhooks], Awaitable[None]]) -> None:
    """Runs a scenario with webhooks that are delivered meanwhile."""

    async def inside() -> None:
        await host.start()
        webhooks = hooks(host)
        task = asyncio.create_task(webhooks.run())
        try:
            await scenario(webhooks)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await host.stop()

    asyncio.run(inside())


async def decide(host: Host, *names: str) -> None:
    for name in names:
        await host.decide("fraud", msgspec.json.encode(payment(id=name)))


def counted(host: Host, result: str) -> float:
    lines = generate_latest(host.meter.registry).decode().splitlines()
    return next((float(line.split()[1]) for line in lines if f'webhooks_total{{result="{result}"' in line), 0.0)


@pytest.mark.parametrize("status", [302, 400, 410])
def test_an_event_that_is_refused_ten_times_is_passed_over(host: Host, status: int) -> None:
    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda body: status if body == b"p-1" else 200) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("decided",))
            await decide(host, "p-1", "p-2")
            assert await endpoint.next() == b"p-2"
            assert endpoint.tries == [b"p-1"] * 10 + [b"p-2"]

    delivering(host, scenario)
    assert (counted(host, "refused"), counted(host, "dropped"), counted(host, "delivered")) == (10, 1, 1)


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_is_away_is_waited_for(host: Host, status: int) -> None:
    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda _: 200 if len(endpoint.tries) > 25 else status) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("*",))
            await decide(host, "p-1")
            assert await endpoint.next() == b"p-1"

    delivering(host, scenario)
    assert counted(host, "dropped") == 0


def test_an_endpoint_that_never_answers_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_ANSWER_S", 0.05)

    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda _: 200 if len(endpoint.tries) > 1 else 0) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("*",))
            await decide(host, "p-1")
            assert await endpoint.next() == b"p-1"

    delivering(host, scenario)


def test_events_of_more_than_three_days_are_passed_over(host: Host) -> None:
    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda body: 503 if body == b"p-1" else 200) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("*",))
            await decide(host, "p-1")
            clock = host.log.clock
            assert isinstance(clock, ManualClock)
            clock.set(clock.now_us() + 3 * DAY)
            await decide(host, "p-2")
            assert await endpoint.next() == b"p-2"

    delivering(host, scenario)
    assert counted(host, "dropped") == 1


def test_only_what_an_endpoint_wants_is_sent_and_a_removed_one_gets_nothing(host: Host) -> None:
    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda _: 200) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("other",))
            await webhooks.add("we_2", endpoint.url, events=("decided",))
            await decide(host, "p-1")
            assert await endpoint.next() == b"p-1"
            await webhooks.remove("we_2")
            await webhooks.add("we_3", endpoint.url, events=("*",))
            await decide(host, "p-2")
            assert await endpoint.next() == b"p-2"
            assert endpoint.tries == [b"p-1", b"p-2"]

    delivering(host, scenario)


@pytest.mark.parametrize("kept", [b"", b'{"we_1": "x"}'])
def test_an_endpoint_whose_position_is_lost_gets_everything_again(host: Host, kept: bytes) -> None:
    keep_position(host, kept)

    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda _: 200) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("*",))
            await decide(host, "p-1", "p-2")
            assert [await endpoint.next(), await endpoint.next()] == [b"p-1", b"p-2"]

    delivering(host, scenario)


def test_a_position_beyond_a_restored_log_is_its_end(host: Host) -> None:
    keep_position(host, b'{"we_1": 999999}')

    async def scenario(webhooks: Webhooks) -> None:
        async with listening(lambda _: 200) as endpoint:
            await webhooks.add("we_1", endpoint.url, events=("*",))
            for number in itertools.count():
                await decide(host, f"p-{number}")
                if not endpoint.took.empty():
                    break
            await webhooks.remove("we_1")  # before its endpoint goes: what is under way then ends here
            for _ in range(100):
                await asyncio.sleep(0)

    delivering(host, scenario)


def keep_position(host: Host, kept: bytes) -> None:
    assert host.folder is not None
    host.folder.mkdir()
    (host.folder / "fraud-webhooks.json").write_bytes(kept)


def test_a_position_is_kept_now_and_then_though_nothing_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_RECORDS_A_MARK", 2)
    assert host.folder is not None
    path = host.folder / "fraud-webhooks.json"

    async def scenario(webhooks: Webhooks) -> None:
        await webhooks.add("we_1", "http://127.0.0.1:9/", events=("other",))
        await decide(host, "p-1", "p-2", "p-3")
        while not path.exists() or msgspec.json.decode(path.read_bytes())["we_1"] < 2:  # noqa: ASYNC110 - a file wakes nobody
            await asyncio.sleep(0)

    delivering(host, scenario)


def test_endpoints_are_bounded_and_found_by_id(host: Host) -> None:
    async def scenario(webhooks: Webhooks) -> None:
        for number in range(MOST_ENDPOINTS):
            await webhooks.add(f"we_{number}", "http://127.0.0.1:9/", events=("*",))
        with pytest.raises(LimitError, match=r"webhook endpoint: one more\. Expected at most 16"):
            await webhooks.add("we_more", "http://127.0.0.1:9/", events=("*",))
        with pytest.raises(UnknownRecordError, match="webhook endpoint: an id that none has"):
            await webhooks.remove("we_more")
        for url, message in (
            ("https://[::1", "an address that cannot be called"),
            ("http://127.0.0.1:99999/", "an address that cannot be called"),
            ("http:///", "a host in a private network|an address that cannot be called"),
        ):
            with pytest.raises(RequestError, match=message):
                await webhooks.add("we_other", url, events=("*",))

    delivering(host, scenario)


@pytest.mark.parametrize(
    ("shown", "now", "signed"),
    [
        (signature("s", b"body", at_s=1_000), 1_300, True),
        (signature("s", b"body", at_s=1_000), 1_301, False),
        (signature("s", b"body", at_s=1_301), 1_000, False),
        (signature("s", b"other", at_s=1_000), 1_000, False),
        (signature("t", b"body", at_s=1_000) + "," + signature("s", b"body", at_s=1_000)[7:], 1_000, True),
        (signature("s", b"body", at_s=1_000) + ",t=1000", 1_000, False),
        (signature("s", b"body", at_s=1_000).replace("v1", "v0"), 1_000, False),
        ("t=99999999999999999999,v1=0", 1_000, False),
        ("t=1000,v1=é", 1_000, False),
        ("", 1_000, False),
    ],
)
def test_a_signature_is_of_this_body_and_of_now(shown: str, now: int, signed: bool) -> None:
    assert is_signed(shown, b"body", secrets=("old", "s"), now_s=now) is signed
    assert not is_signed(shown, b"body", secrets=(), now_s=now)
