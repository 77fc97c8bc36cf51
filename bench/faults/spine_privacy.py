"""Canaries in every personal field, then an erasure: where does one show up that should not?

    python bench/faults/spine_privacy.py [--days 120] [--scale 0.1] [--feed-days 14] [--hours 24] [--json] [--short]

A home with fraud and feed is filled by their worlds; every personal value in it, of everybody, holds a marker that
stands nowhere else. Both systems are trained, watched and backfilled, their views are snapshotted, the log is sealed
into Parquet and backed up. A server decides live traffic through its HTTP application; all that it answers (replies,
refusals, explanations, replays, cases, tables, metrics), logs and prints is kept. Then the customer and the reader with
the most records are erased on the running server, and every byte of home, answers and backup is searched. A self-check
plants leaks, plain and packed, and has to find each. At last the backup is restored by the ledger.

Keys: plaintext_hits (values of the erased that were found; 0), canary_leaks (files or answers that hold a marker; 0),
planted, found (leaks of the self-check; equal), restored_keys (keys of the erased in the restored home; 0), proven
(erasures whose own proof holds; 2), records, answers, refusals, files, bytes, values (searched for), erased_records,
erase_seconds (both), scan_seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import io
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import numpy as np
from msgspec.structs import replace

from decalog import operations
from decalog.alerts import AlertBook
from decalog.backup import backup
from decalog.clock import DAY, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.errors import DecalogError
from decalog.explaining import explain_at_once
from decalog.home import Home
from decalog.http import App, HttpSettings
from decalog.ingest import request_of
from decalog.log import Log
from decalog.privacy import ledger
from decalog.privacy.restoring import restore
from decalog.privacy.scan import scan
from decalog.privacy.subjects import Survey, Told, survey
from decalog.schema import Schema
from decalog.sealing import seal
from decalog.simulation import fill, rates_of, world_of
from decalog.stores import parquet
from decalog.system import find_system
from decalog.testing.worlds import Message, World

MARK = "zQ7canary4"
PERSON = {"fraud": "customer", "feed": "user"}
_EVERY = 7


class Size(NamedTuple):
    """Days of history and size of a system's world."""

    days: int
    scale: float


class Marked:
    """A world whose people's every personal value holds the marker."""

    def __init__(self, world: World, schema: Schema) -> None:
        self._world, self._request = world, schema.request.name
        self._kinds = {kind.name: kind for kind in (schema.request, *schema.events)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def advance(self, until: int, *, alone: bool = False) -> list[Message]:
        """Returns the world's messages, marked."""
        told = self._world.advance(until, alone=alone)
        return [one if one.kind == "outcome" else replace(one, body=self.marked(one.body)) for one in told]

    def marked(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a body with the marker in each personal value; texts that the world leaves out are added."""
        kind = self._kinds[body.get("kind", self._request)]
        values = {one.name: body[one.name] for one in kind.entities if one.privacy != "public" and body.get(one.name)}
        values |= {f.name: body["id"] for f in kind.fields if f.privacy != "public" and f.kind == "text"}
        return {**body, **{name: f"{MARK}-{name}-{value}" for name, value in values.items()}}


class Kept:
    """What a server gave away: its answers, what it logged and printed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._answers = (folder / "answers.txt").open("wb")
        self.statuses: Counter[int] = Counter()

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, body: object = None) -> Any:
        """Returns an answer of JSON, and keeps it."""
        raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if raw is not None else {}
        answer = await client.request(method, path, content=raw, headers=headers)
        self.statuses[answer.status_code] += 1
        self._answers.write(f"{method} {path} {answer.status_code} {dict(answer.headers)}\n".encode() + answer.content)
        try:
            return answer.json()
        except ValueError:
            return {}

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Keeps what is logged and printed meanwhile."""
        printed, handler = io.StringIO(), logging.StreamHandler(io.StringIO())
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                yield
        finally:
            logging.getLogger().removeHandler(handler)
            self._answers.flush()
            with (self._folder / "said.txt").open("a") as file:
                file.write(printed.getvalue() + handler.stream.getvalue())


def make(home: Home, sizes: Mapping[str, Size], kept: Kept) -> dict[str, Marked]:
    """Fills a home with the history of both systems, trains and watches them, and returns their worlds."""
    worlds, clock = {}, ManualClock(0)
    with closing(home.writer(clock)) as log:
        for name, size in sizes.items():
            system = find_system(name)
            worlds[name] = Marked(world_of(system, 7, scale=size.scale), system.schema)
            clock.set(max(worlds[name].start_us, log.known_time))
            ingest = Deployment(home, name, log, Setup(rates=rates_of(worlds[name]))).prepare()
            fill(worlds[name], ingest, clock=clock, days=size.days, say=operations.quiet)
    with kept.heard():
        for name in sizes:
            try:
                print(operations.train_on_log(home, name).text())
            except DecalogError as error:  # too little for a model: its error is an answer too
                print(error)
    return worlds


class Served(NamedTuple):
    """What a server told of its erasures, whose they were, and how long they took."""

    told: dict[str, Any]
    people: dict[str, Survey]
    seconds: float


async def serve(home: Home, worlds: Mapping[str, Marked], kept: Kept, *, until: Mapping[str, int]) -> Served:
    """Lets a server decide live traffic, spoil some, explain it, and erase a person of each system."""
    with closing(home.reader()) as log:
        clock = ManualClock(log.known_time)
    host = operations.open_host(home, worlds, clock=clock)
    transport = httpx.ASGITransport(App(host, HttpSettings(tokens=False), access=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=3_600) as client:
        await host.start()
        with kept.heard():
            for name, world in worlds.items():
                await _live(Calls(client, kept, name), world, clock=clock, until=until[name])
            derive(home, host.log, worlds)
            made = backup(home.root, home.root.with_name("backup"))
            ledger.noted(home.root, home.root.with_name("backup"), made=made)
            people = {name: busiest(host.log, name) for name in worlds}
            started = time.perf_counter()
            told = {}
            for name, found in people.items():
                person = next(one.value for one in found.values if one.name == PERSON[name])
                told[name] = await Calls(client, kept, name).ask("POST", "privacy", {"act": "erase", "person": person})
            took = time.perf_counter() - started
            for path in ("/metrics", "/openapi.json", "/readyz", "/healthz"):
                await kept.ask(client, "GET", path)
        await host.stop()
    host.log.close()
    return Served(told, people, took)


class Calls(NamedTuple):
    """One system of a server, whose answers are kept."""

    client: httpx.AsyncClient
    kept: Kept
    system: str

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Returns an answer of the system."""
        return await self.kept.ask(self.client, method, f"/v1/{self.system}/{path}", body)


async def _live(calls: Calls, world: Marked, *, clock: ManualClock, until: int) -> None:
    for number, message in enumerate(world.advance(until)):
        clock.set(max(clock.now_us(), message.at))
        door = {"decide": "decide", "event": "events", "outcome": "outcomes"}[message.kind]
        told = await calls.ask("POST", door, message.body)
        if message.kind == "decide" and number % _EVERY == 0:
            await _spoil(calls, message.body, f"spoilt-{number}")
            await _read_back(calls, told.get("decision_id", "none"), deeply=number % (_EVERY * 10) == 0)
    for path in ("tables", "changes", "policy", "cases", "cases/figures"):
        await calls.ask("GET", path)


async def _spoil(calls: Calls, body: Mapping[str, Any], id_: str) -> None:
    """Sends what is refused, with personal values wherever an error might repeat them."""
    spoilt = {**body, "id": id_}
    for field, value in body.items():
        await calls.ask("POST", "decide", {**spoilt, field: [value]})
        await calls.ask("POST", "events", [{**spoilt, str(value)[:60]: value}])
    await calls.ask("POST", "decide", json.dumps(spoilt).encode()[:-1])
    await calls.ask("POST", "outcomes", [spoilt])
    await calls.ask("POST", "privacy", {"act": "erase", "persons": [f"{MARK} {id_}"]})


async def _read_back(calls: Calls, id_: str, *, deeply: bool) -> None:
    await calls.ask("GET", f"decisions/{id_}")
    if deeply:
        await calls.ask("POST", f"decisions/{id_}/replay")
        await calls.ask("GET", f"decisions/{id_}/explanation")
        await calls.ask("POST", "contest", {"decision": id_, "said": f"{MARK} was wronged"})


def derive(home: Home, log: Log, names: Iterable[str]) -> None:
    """Makes everything that is derived from a log, and prints what people are told of it."""
    seal(log.store, home.root / "parquet", upto=log.durable)
    for name in names:
        print(operations.take_snapshot(home, name))
        operations.backfill_features(home, name)
        watch = operations.watch_log(home, name, since_us=7 * DAY)
        AlertBook(home.root).update(name, watch.standing, now_us=watch.until)
        print(watch.text())
        try:
            print(operations.measure_log(home, name, since_us=7 * DAY).text())
        except DecalogError as error:
            print(error)
        with closing(home.reader()) as reader:
            explain_at_once(Deployment(home, name, reader).as_served())


def busiest(log: Log, system: str) -> Survey:
    """Returns what there is of the person with the most records."""
    counts: Counter[int] = Counter()
    for record in log.read():
        if record.kind in ("event", "decision") and record.system == system:
            event = request_of(record)
            if event.subject == event.entities.get(PERSON[system]):
                counts[event.subject] += 1
    return survey(log, counts.most_common(1)[0][0], schemas=[find_system(system).schema])


def self_check(folder: Path, value: str) -> tuple[int, int]:
    """Returns how many leaks were planted in a folder, plain and packed, and how many of them a search finds."""
    folder.mkdir()
    (folder / "page.html").write_text(f"<b>{value}</b>")
    (folder / "said.json").write_bytes(msgspec.json.encode({"a": f"é {value}"}))
    (folder / "free.sqlite").write_bytes(bytes(5_000) + value.encode() + bytes(9_000_000))
    (folder / "wide.txt").write_bytes(value.encode("utf-16-le"))
    (folder / "coded.txt").write_bytes(base64.b64encode(b"x" + value.encode() + b"yz"))
    (folder / "query.log").write_text(quote(f"/?q={value}", safe=""))
    np.savez_compressed(folder / "model.npz", users=np.array([value]))
    with gzip.open(folder / "log.gz", "wt") as file:
        file.write(value)
    parquet.write_table(folder / "rows.parquet", {"name": np.array([value] * 9, object)})
    planted = {path.name for path in folder.iterdir()}
    found = scan(folder, [Told("planted", value)])
    return len(planted), len(planted & {hit.file for hit in found.hits})


def restored_keys(home: Home, people: Iterable[Survey]) -> int:
    """Returns how many keys of the erased are in a home that is restored from the backup by the ledger."""
    again = home.root.with_name("again")
    restore(home.root.with_name("backup"), again, erasures=ledger.beside(home.root))
    with closing(Home(again).reader()) as log:
        vault: Any = log.vault
        return sum(vault.holds(found.subject) for found in people)


def measured(folder: Path, sizes: Mapping[str, Size], *, hours: int) -> dict[str, Any]:
    """Returns the figures of one run in an empty folder."""
    home, kept = Home(folder / "var"), Kept(folder / "told")
    worlds = make(home, sizes, kept)
    until = {name: worlds[name].start_us + sizes[name].days * DAY + hours * DAY // 24 for name in worlds}
    served = asyncio.run(serve(home, worlds, kept, until=until))
    aside = [folder / "told", folder / "backup"]
    started = time.perf_counter()
    leaks = scan(home.root, [Told("marker", MARK)], aside=aside)
    values = [value for found in served.people.values() for value in found.values]
    plain = scan(home.root, values, aside=aside)
    took = time.perf_counter() - started
    planted, found = self_check(folder / "planted", str(values[0].value))
    for hit in (*leaks.hits, *plain.hits):
        print(hit.text())
    proofs = {name: told.get("proof") for name, told in served.told.items()}
    with closing(home.reader()) as log:
        records = log.position
    return {
        "plaintext_hits": len(plain.hits),
        "canary_leaks": len(leaks.hits),
        "planted": planted,
        "found": found,
        "restored_keys": restored_keys(home, served.people.values()),
        "proven": sum(bool(proof and proof["sound"] and not proof["scan"]["hits"]) for proof in proofs.values()),
        "records": records,
        "answers": kept.statuses.total(),
        "refusals": sum(count for status, count in kept.statuses.items() if status >= 400),
        "files": plain.files,
        "bytes": plain.bytes,
        "values": plain.values,
        "erased_records": sum(found.count for found in served.people.values()),
        "erase_seconds": round(served.seconds, 1),
        "scan_seconds": round(took, 1),
    }


def main() -> int:
    """Runs the drill; returns 0 where nothing leaked and each planted leak was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=120)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--feed-days", type=int, default=14)
    parser.add_argument("--feed-scale", type=float, default=0.2)
    parser.add_argument("--hours", type=int, default=24, help="of live traffic")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="a few days of small worlds")
    given = parser.parse_args()
    sizes = {"fraud": Size(given.days, given.scale), "feed": Size(given.feed_days, given.feed_scale)}
    hours = given.hours
    if given.short:
        sizes, hours = {"fraud": Size(10, 0.05), "feed": Size(3, 0.05)}, 18
    with tempfile.TemporaryDirectory(prefix="decalog-privacy-") as folder:
        found = measured(Path(folder), sizes, hours=hours)
    for name, figure in found.items():
        print(f"{name:16} {figure:>14,}")
    if given.json:
        print(json.dumps(found))
    is_clean = found["plaintext_hits"] == found["canary_leaks"] == found["restored_keys"] == 0
    return 0 if is_clean and found["planted"] == found["found"] and found["proven"] == len(sizes) else 1


if __name__ == "__main__":
    sys.exit(main())
