"""The child process of spine_crash: a writer as production has it, which tells a file each record that is durable."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import msgspec

from decalog.clock import SECOND, ManualClock
from decalog.committing import Committer
from decalog.crypto import digest, seal
from decalog.errors import LogUnavailableError
from decalog.events import Event, Record, decode_event, encode
from decalog.log import Draft, Log
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault

SYSTEM = "crash"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the child does.

    Args:
        records: how many it appends.
        seed: of sizes, groups, and the clock, which also jumps back.
        checkpoint_pages: how long the WAL may grow; small values put crashes into checkpoints.
        restarts: how often it closes and opens everything again.
        resume: begin after what an earlier child left, and tell its records first, as a retry of their callers would.
        sabotage: `log_sync` and `vault_sync` leave that file's syncs out, `early_reply` tells before the commit.
    """

    records: int
    seed: int
    checkpoint_pages: int = 1_000
    restarts: int = 1
    resume: bool = False
    sabotage: str = ""


class Ack(msgspec.Struct, frozen=True):
    """What a caller was told: this record is durable; `token` stands for `card`, `note` is sealed in it."""

    seq: int
    id: str
    digest: bytes
    card: str
    token: int
    note: str


class _Writer:
    def __init__(self, home: Path, acks: int, plan: Plan, clock: ManualClock) -> None:
        self.store = SqliteLogStore(home / "log" / "0.sqlite", writer=True)
        self.vault = SqliteVault(home / "vault.sqlite", writer=True)
        for port, name in ((self.store, "log_sync"), (self.vault, "vault_sync")):
            writer = port._writer  # noqa: SLF001  # sabotage and small checkpoints need the engine itself
            if writer is not None:
                writer.checkpoint_pages = plan.checkpoint_pages
                if plan.sabotage == name:
                    writer.connection.execute("PRAGMA synchronous=OFF")
        self.log = Log(self.store, self.vault, clock)
        self.told = self.log.position
        self.waiting: dict[int, Ack] = {}
        self.acks = acks
        self.committer = Committer(self.log, self._tell)

    def append(self, number: int, rng: random.Random, plan: Plan) -> Record:
        """Stamps one event with a personal note under its card's key, and tells the committer."""
        card, note = _card(number), f"note {number}"
        token = self.vault.token("card", card)
        cipher = self.vault.cipher(token)
        id_ = f"event {number}"
        sealed = seal(cipher, {"note": note}, bound_to=id_) if cipher is not None else b""
        pad = "x" * rng.choice((0, 100, 700, 6_000))
        event = Event(id_, "payment", 0, token, {"card": token}, {"number": number, "pad": pad}, sealed)
        mark = digest(b"bodies", id_.encode())
        body = encode(event)
        draft = Draft(kind="event", system=SYSTEM, id=id_, digest=mark, event_time=None, body=body)
        record = self.log.stamp(draft)
        self.waiting[record.seq] = Ack(record.seq, id_, mark, card, token, note)
        if plan.sabotage == "early_reply":
            self._tell(record.seq + 1, 0)
        self.committer.notify()
        return record

    def tell_again(self) -> None:
        """Tells every record found in the log: whoever retries a request that was logged is answered from the log."""
        for record in self.log.read():
            number, token = int(record.id.split()[1]), decode_event(record.body).subject
            ack = Ack(record.seq, record.id, record.digest, _card(number), token, f"note {number}")
            os.write(self.acks, msgspec.json.encode(ack) + b"\n")

    async def close(self) -> None:
        await self.committer.stop()
        self.store.close()
        self.vault.close()

    def _tell(self, position: int, _waited: int) -> None:
        lines = b""
        for seq in range(self.told, position):
            lines += msgspec.json.encode(self.waiting.pop(seq)) + b"\n"
        if lines:
            os.write(self.acks, lines)
        self.told = max(self.told, position)


async def run(root: Path, plan: Plan) -> int:
    """Writes the plan's records into `root`/home and each acknowledgement into `root`/acks.

    Returns 0, or 3 where the log became unavailable and stayed so.
    """
    rng = random.Random(plan.seed)
    clock = ManualClock(1_700_000_000 * SECOND)
    acks = os.open(root / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    number, again = 0, plan.resume
    for part in range(plan.restarts):
        try:
            writer = _Writer(root / "home", acks, plan, clock)
        except LogUnavailableError:
            return 3
        if again:
            writer.tell_again()
            number, again = writer.log.position, False
        stop = plan.records * (part + 1) // plan.restarts
        try:
            while number < stop:
                group = min(rng.choice((1, 1, 2, 7, 20)), stop - number)
                for _ in range(group):
                    clock.advance(rng.randint(-3, 5) * SECOND)
                    last = writer.append(number, rng, plan)
                    number += 1
                    # Whoever comes round meanwhile: a group is written between two records, or after the last.
                    await asyncio.sleep(rng.choice((0, 0, 0.001)))
                await writer.committer.until_durable(last.seq)
        except LogUnavailableError:
            return await _stays_unavailable(writer, rng, plan)
        await writer.close()
    return 0


def _card(number: int) -> str:
    # Two records a card: each group brings new tokens and keys, and each key is used again.
    return f"card {number // 2}"


async def _stays_unavailable(writer: _Writer, rng: random.Random, plan: Plan) -> int:
    for _ in range(3):
        try:
            writer.append(-1, rng, plan)
        except LogUnavailableError:
            continue
        return 4
    await writer.close()
    return 3


if __name__ == "__main__":
    sys.exit(asyncio.run(run(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Plan))))
