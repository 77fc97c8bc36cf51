"""Features' state on a real Redis: after an erasure no key and no value there is a person's, or leads to one."""

from __future__ import annotations

import asyncio
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from tests.privacy.people import ADA, SECRETS, Shop, fill, of_ada, of_bob, shop
from tests.privacy.test_live import server
from tests.redis_server import running

from decalog.deployment import Setup
from decalog.host import Host
from decalog.privacy.erasing import Erased, erase
from decalog.privacy.live import Asked, Live
from decalog.privacy.scan import forms_of, scan_state
from decalog.privacy.subjects import Told

ENTITIES = ("customer", "card", "email")
"""What is Ada's alone; her device is Bob's too."""
_SIGN = 2**63


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.from_url(redis_url) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def setup(redis_url: str, client: redis.Redis) -> Setup:
    return Setup(state=redis_url)


class Traces(NamedTuple):
    """What would lead to Ada: her values, her entities' tokens, and the places of her records."""

    values: tuple[str, ...]
    tokens: tuple[int, ...]
    roots: tuple[int, ...]


def traces(open_: Shop) -> Traces:
    """Returns what leads to her as long as she is known."""
    vault: Any = open_.log.vault
    tokens = tuple(vault.find(name, SECRETS[name]) or 0 for name in ENTITIES)
    hers = [seq for n in range(4) for seq in open_.log.find("request", f"fraud/ada-{n}")]
    return Traces(tuple(SECRETS.values()), tokens, tuple(hers))


def kept(client: Any) -> Iterator[tuple[bytes, bytes]]:
    """Yields every key of the server with its bytes."""
    for key in client.scan_iter():
        yield key, client.get(key) or b""


def found(client: redis.Redis, wanted: Traces) -> set[str]:
    """Returns which traces stand in any key or value, however they are packed."""
    hits = set[str]()
    for key, value in kept(client):
        both = key + b" " + value
        hits |= {text for text in wanted.values if any(form in both for form in forms_of(text))}
        for token in wanted.tokens:
            packed = [struct.pack(order, token) for order in (">q", "<q")] + [(token ^ -_SIGN).to_bytes(8, signed=True)]
            hits |= {f"token {token}"} if str(token).encode() in key or any(one in both for one in packed) else set()
        rows = [int.from_bytes(value[at : at + 8]) - _SIGN for at in range(0, len(value) - 16, 8)]
        hits |= {f"record {root}" for root in wanted.roots if root in rows}
    return hits


async def pay(open_: Shop, host: Host, *names: str) -> None:
    for name in names:
        open_.later()
        await host.decide("fraud", (of_ada if name.startswith("ada") else of_bob)(name))


def test_nobody_is_left_on_redis_once_they_are_erased(
    tmp_path: Path, runner: asyncio.Runner, client: redis.Redis, setup: Setup
) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner, setup=setup) as (open_, host):
        runner.run(pay(open_, host, "bob-new", "ada-new"))
        wanted = traces(open_)
        before = found(client, wanted)
        assert before >= {f"token {token}" for token in wanted.tokens}, before
        assert before & {f"record {root}" for root in wanted.roots}
        assert not before & {*wanted.values}  # values never reach it
        told = runner.run(Live(host, home).erase("fraud", ADA, by="t"))
        assert found(client, wanted) == set()  # at once, without another decision
        assert told.proof is not None
        assert told.proof.holds, told.text()
        assert any(value for _, value in kept(client))  # others' rows stay
        runner.run(pay(open_, host, "bob-later"))
        assert found(client, wanted) == set()


def test_what_earlier_states_left_goes_too(
    tmp_path: Path, runner: asyncio.Runner, client: redis.Redis, setup: Setup
) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root, setup=setup) as open_:
        wanted = traces(open_)
        state = open_.fraud.state
        state.flush()
        # One that was given up for another of the same name, one of another release, and one of somebody else's.
        mark = next(key for key, _ in kept(client) if key.endswith(b"}"))
        other = mark.rpartition(b":")[0] + b":another-release}"
        stranger = b"decalog:{somebody-else:fraud:1:2}"
        client.set(stranger, b"theirs")
        for key, value in [*kept(client)]:
            if key.startswith(mark):
                client.set(other + key.removeprefix(mark), value)
        state.reset()
        state.close()
    assert len({key.partition(b"}")[0] for key, _ in kept(client)}) == 3
    with server(home.root, runner, setup=setup) as (_, host):
        assert found(client, wanted)
        runner.run(Live(host, home).erase("fraud", ADA, by="t"))
    assert found(client, wanted) == set()
    assert client.get(stranger) == b"theirs"
    assert not [key for key, _ in kept(client) if key.startswith(other)]


def test_an_erasure_without_a_server_reaches_redis_with_the_next_start(
    tmp_path: Path, client: redis.Redis, setup: Setup
) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root, setup=setup) as open_:
        wanted = traces(open_)
        open_.fraud.state.close()
    told = erase(home, "fraud", person=ADA)
    assert told.found
    assert found(client, wanted)
    with shop(home.root, setup=setup) as open_:
        assert found(client, wanted) == set()
        open_.fraud.state.close()


def test_a_redis_that_is_away_is_said_and_to_erase_again_completes_it(tmp_path: Path, runner: asyncio.Runner) -> None:
    home = fill(tmp_path / "var")
    with (
        running(tmp_path) as (url, process),
        redis.from_url(url) as client,
        server(home.root, runner, setup=Setup(state=url)) as (open_, host),
    ):
        live, wanted = Live(host, home), traces(open_)
        open_.fraud.state._store._pause_s = 0.0
        process.send_signal(signal.SIGSTOP)
        told = runner.run(live.erase("fraud", ADA, by="t"))
        process.send_signal(signal.SIGCONT)
        assert told.proof is not None
        assert not told.proof.holds
        assert "rows on the server of features' state of fraud, which does not take them" in told.text()
        # What was sent may be taken once it wakes up; nobody relies on it.
        again = runner.run(live.erase("fraud", ADA, by="t"))
        assert not again.found
        assert again.proof is not None
        assert again.proof.holds, again.text()
        assert found(client, wanted) == set()


def test_the_proof_searches_the_server_as_well(
    tmp_path: Path, runner: asyncio.Runner, client: redis.Redis, setup: Setup
) -> None:
    home = fill(tmp_path / "var")
    with server(home.root, runner, setup=setup) as (_, host):
        mark = next(key for key, _ in kept(client) if key.endswith(b"}"))
        client.set(mark + b":left", SECRETS["cardholder"].encode())
        asked = Asked(act="prove", person=ADA, more=(SECRETS["cardholder"],))
        seen = runner.run(Live(host, home).do("fraud", asked, by="t"))
        assert isinstance(seen, Erased)
        assert seen.proof is not None
        assert [hit.file for hit in seen.proof.scan.hits] == ["features' state of fraud"]
    assert scan_state([b"nothing"], [Told("cardholder", SECRETS["cardholder"])], name="x").is_clean
