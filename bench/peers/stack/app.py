"""The stack that a good team would assemble for fraud: FastAPI, windows in Redis by one Lua function, LightGBM, SQLite.

    FRAUD_STACK=settings.json python -m uvicorn app:app --loop uvloop --http httptools --uds …

Written for little CPU: the body is parsed and checked by pydantic's own JSON parser, all windows come from one FCALL
over a UNIX socket, the model is scored through LightGBM's single-row C interface, and one thread inserts decisions in
groups, each group one fsynced transaction of SQLite; the reply follows it. SQLite, because a database server would add
a process and a protocol to each insert; one worker, because two make smaller groups (a tenth more CPU at 200/s). Redis
persists nothing: what it holds can be rebuilt from the table of decisions.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import math
import os
import sqlite3
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import hiredis
import lightgbm
import numpy as np
import orjson
import redis.asyncio
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from windows import ENTITIES, IDS, WINDOWS, library, place

SETTINGS: dict[str, Any] = orjson.loads(Path(os.environ["FRAUD_STACK"]).read_bytes())
STYLE: Literal["wire", "library", "usual"] = SETTINGS["style"]
"""How it is written: for the least CPU; with Redis's own client; or as the documents of its parts show."""
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
FUTURE_US = 300_000_000
FEATURES = WINDOWS + 11
CARD_MEAN, CUSTOMER_MEAN = place("card", "mean"), place("customer", "mean")
CHANNELS = {name: float(place) for place, name in enumerate(SETTINGS["channels"])}
MCCS = {name: float(place) for place, name in enumerate(SETTINGS["mccs"])}
ROW = struct.Struct(f"<{2 + len(IDS)}d")
AUTHORIZATION = f"Bearer {SETTINGS['token']}"


class Payment(BaseModel):
    """A payment that asks for authorisation."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=128)
    event_time: AwareDatetime | None = None
    amount_minor: int = Field(ge=0, le=10**12)
    currency: str = Field(min_length=3, max_length=3)
    card: str | None = Field(None, min_length=1, max_length=128)
    customer: str | None = Field(None, min_length=1, max_length=128)
    device: str | None = Field(None, min_length=1, max_length=256)
    ip: str | None = Field(None, min_length=1, max_length=128)
    email: str | None = Field(None, min_length=1, max_length=254)
    merchant: str | None = Field(None, min_length=1, max_length=128)
    channel: Literal["ecom", "moto", "pos"] | None = None
    mcc: str | None = Field(None, max_length=4)
    card_country: str | None = Field(None, max_length=2)
    ip_country: str | None = Field(None, max_length=2)
    billing_country: str | None = Field(None, max_length=2)
    merchant_country: str | None = Field(None, max_length=2)
    cardholder: str | None = Field(None, max_length=256)


class Decision(BaseModel):
    """What the caller is told."""

    decision_id: str
    payment: str
    action: str
    predictions: dict[str, float]
    reasons: list[str]
    expected_minor: int
    currency: str
    versions: dict[str, str]
    known_time: datetime


class Clock:
    """Microseconds since the epoch, in a world whose time runs faster than ours."""

    def __init__(self, start_us: int, speed: float) -> None:
        self._start_us, self._speed, self._began_ns = start_us, speed, time.monotonic_ns()

    def now_us(self) -> int:
        """Returns now."""
        return self._start_us + int((time.monotonic_ns() - self._began_ns) * self._speed) // 1_000


class Model:
    """LightGBM's booster, scored a row at a time without Python's layers, and its sigmoid."""

    def __init__(self, folder: Path) -> None:
        self._booster = lightgbm.Booster(model_file=folder / "model.txt")
        curve = orjson.loads((folder / "calibration.json").read_bytes())
        self._slope, self._shift = curve["slope"], curve["shift"]
        # PyDLL keeps the GIL: the call takes microseconds.
        library = ctypes.PyDLL(lightgbm.basic._LIB._name)  # noqa: SLF001 - no public name
        self.row = np.zeros((1, FEATURES))
        self._score = np.zeros(1)
        self._length, config = ctypes.c_int64(), ctypes.c_void_p()
        handle = self._booster._handle  # noqa: SLF001 - no public name
        raw_score, double = 1, 1
        status = library.LGBM_BoosterPredictForMatSingleRowFastInit(
            *(handle, raw_score, 0, -1, double, FEATURES, b"num_threads=1", ctypes.byref(config))
        )
        if status:
            raise RuntimeError("LightGBM refuses the model")
        self._call = library.LGBM_BoosterPredictForMatSingleRowFast
        at = [ctypes.c_void_p(array.ctypes.data) for array in (self.row, self._score)]
        self._arguments = (config, at[0], ctypes.byref(self._length), at[1])

    def predict(self) -> float:
        """Returns the calibrated probability for what stands in `row`."""
        if STYLE == "usual":
            score = self._booster.predict(self.row, raw_score=True, num_threads=1)[0]
        elif self._call(*self._arguments):
            raise RuntimeError("LightGBM cannot score the row")
        else:
            score = self._score[0]
        x = float(score) * self._slope + self._shift
        p = 1.0 / (1.0 + math.exp(-x)) if x >= 0 else 1.0 - 1.0 / (1.0 + math.exp(max(x, -700.0)))
        return min(max(p, 2.0**-40), 1.0 - 2.0**-40)


class Policy:
    """The action of least expected cost, in exact integers: minor units × 10¹⁷."""

    order = ("allow", "step_up", "review", "block")

    def __init__(self, costs: dict[str, int]) -> None:
        self.__dict__.update(costs)
        self.review = round(costs["review_minutes"] * costs["analyst_hour_minor"] / 60) * 10**17

    def decide(self, p: float, amount: int, reviews: float) -> tuple[str, int, dict[str, int]]:
        """Returns the action, what it is expected to cost, and what each would, in minor units."""
        c: Any = self
        fraud = round(p * 10**9)
        good = 10**9 - fraud
        loss, sale = (amount + c.chargeback_fee_minor) * 10_000, amount * c.margin_bp
        insult = sale + c.goodwill_minor * 10_000
        step_up = fraud * c.step_up_frauds_pass_bp * loss + good * c.step_up_gives_up_bp * sale
        review = fraud * c.review_misses_bp * loss + good * c.review_refuses_bp * insult
        costs = {
            "allow": fraud * loss * 10_000,
            "step_up": c.step_up_fee_minor * 10**17 + step_up,
            "review": c.review + review,
            "block": good * insult * 10_000,
        }
        ranked = sorted(self.order, key=costs.__getitem__)
        action = ranked[1] if ranked[0] == "review" and reviews >= c.reviews_per_day else ranked[0]
        minor = {name: (cost + 5 * 10**16) // 10**17 for name, cost in costs.items()}
        return action, minor[action], minor


class Table:
    """Decisions, inserted in groups by one thread; a group is one transaction and one fsync of the write-ahead log."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[tuple[Any, ...], asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def insert(self, row: tuple[Any, ...]) -> asyncio.Future[None]:
        """Returns what is done once the row is on the disk."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((row, future))
        return future

    def close(self) -> None:
        """Writes what waits, and ends."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;"
            "CREATE TABLE IF NOT EXISTS decisions (seq INTEGER PRIMARY KEY, payment TEXT UNIQUE NOT NULL,"
            " decision TEXT NOT NULL, event_time INTEGER NOT NULL, request BLOB NOT NULL, amount INTEGER NOT NULL,"
            " features BLOB NOT NULL, p_fraud REAL NOT NULL, action TEXT NOT NULL, expected_minor INTEGER NOT NULL,"
            " reason TEXT NOT NULL, model TEXT NOT NULL)"
        )
        while (item := self._queue.get()) is not None:
            group = [item]
            while not self._queue.empty() and (item := self._queue.get()) is not None:
                group.append(item)
            error = _written(connection, [row for row, _ in group])
            self._loop.call_soon_threadsafe(_tell, [future for _, future in group], error)
            if item is None:
                break
        connection.close()


def _written(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> Exception | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return error
    return None


INSERT = (
    "INSERT INTO decisions (payment, decision, event_time, request, amount, features, p_fraud, action, expected_minor,"
    " reason, model) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _tell(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _id(value: str | None) -> int:
    # 53 bits of a hash: a double holds them, and Lua reads, keeps and looks up numbers for less than strings.
    return 0 if value is None else int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest()) >> 11


def time_us(moment: datetime) -> int:
    """Returns a moment in whole microseconds since the epoch."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def asked(payment: Payment, amount: int, at_us: int) -> tuple[bytes, ...]:
    """Returns keys and argument of the library's function for one payment."""
    ids = {name: _id(getattr(payment, name)) for name in IDS}
    keys = [b"%b%d" % (entity.encode(), ids[entity]) if ids[entity] else b"" for entity in ENTITIES]
    return (b"reviews", *keys, ROW.pack(at_us, amount, *ids.values()))


def _same(left: str | None, right: str | None) -> float:
    return -1.0 if left is None or right is None else float(left == right)


def _over(amount: int, mean: float) -> float:
    return -1.0 if mean <= 0.0 else amount / mean


def in_base(minor: int, currency: str) -> int:
    """Returns an amount in the base currency, rounded half to even."""
    if currency == SETTINGS["base"]:
        return minor
    rate = SETTINGS["rates"].get(currency)
    if rate is None:
        raise HTTPException(422, "no rate for the currency")
    exponents = SETTINGS["exponents"]
    major = Decimal(minor).scaleb(-exponents[currency]) * Decimal(rate)
    return int(major.scaleb(exponents[SETTINGS["base"]]).to_integral_value(rounding=ROUND_HALF_EVEN))


def _of_request(payment: Payment, amount: int, at_us: int) -> tuple[float, ...]:
    return (
        float(amount),
        -1.0 if payment.channel is None else CHANNELS[payment.channel],
        -1.0 if payment.mcc is None else MCCS.get(payment.mcc, float(len(MCCS))),
        _same(payment.card_country, payment.ip_country),
        _same(payment.card_country, payment.billing_country),
        _same(payment.card_country, payment.merchant_country),
        _same(payment.ip_country, payment.merchant_country),
        float(at_us // HOUR_US % 24),
        float((at_us // DAY_US + 3) % 7),  # 1 January 1970 was a Thursday
    )


class Wire(asyncio.Protocol):
    """One connection to Redis on which commands follow each other without waiting: replies come in their order.

    A command through redis.asyncio costs more than the Lua function behind it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def open(self) -> None:
        """Connects."""
        self._loop = asyncio.get_running_loop()
        await self._loop.create_unix_connection(lambda: self, self._path)

    async def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def call(self, *words: bytes) -> asyncio.Future[Any]:
        """Sends a command; returns its reply to come."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        self._transport.write(hiredis.pack_command(words))
        return future

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error or ConnectionError("Redis closed the connection"))


class Library:
    """Redis through its own asynchronous client; `tuned` is one connection and no timer a command."""

    def __init__(self, path: str, *, tuned: bool) -> None:
        more: dict[str, Any] = {"single_connection_client": True, "socket_timeout": None} if tuned else {}
        self._redis = redis.asyncio.Redis(unix_socket_path=path, **more)

    async def open(self) -> None:
        """Connects."""
        await self._redis.initialize()

    async def close(self) -> None:
        """Ends the connections."""
        await self._redis.aclose()

    def call(self, *words: bytes) -> Awaitable[Any]:
        """Sends a command; returns its reply to come."""
        return self._redis.execute_command(*words)


class Stack:
    """What a worker decides with."""

    def __init__(self) -> None:
        self.clock = Clock(SETTINGS["start_us"], SETTINGS["speed"])
        self.model = Model(Path(SETTINGS["model"]))
        self.model_name = Path(SETTINGS["model"]).name[:12]
        self.policy = Policy(SETTINGS["costs"])
        self.table = Table(SETTINGS["database"])
        path = SETTINGS["redis"]
        self.redis = Wire(path) if STYLE == "wire" else Library(path, tuned=STYLE == "library")

    async def start(self) -> None:
        """Loads the library."""
        await self.redis.open()
        await self.redis.call(b"FUNCTION", b"LOAD", b"REPLACE", library().encode())

    async def decide(self, payment: Payment, raw: bytes) -> dict[str, Any]:
        """Returns the reply once the decision is on the disk."""
        at_us = self._time_of(payment)
        amount = in_base(payment.amount_minor, payment.currency)
        windows = await self.redis.call(b"FCALL", b"windows", b"6", *asked(payment, amount, at_us))
        values = np.frombuffer(windows)
        row = self.model.row[0]
        row[:WINDOWS] = values[:WINDOWS]
        usual = (_over(amount, values[CARD_MEAN]), _over(amount, values[CUSTOMER_MEAN]))
        row[WINDOWS:] = _of_request(payment, amount, at_us) + usual
        p_fraud = self.model.predict()
        features = row.tobytes()
        reviews = float(values[WINDOWS])
        action, cost, minor = self.policy.decide(p_fraud, amount, reviews)
        others = ", ".join([f"{name} {minor[name]}" for name in Policy.order if name != action])
        reason = f"p_fraud {p_fraud:.6f}: {action} is expected to cost {cost} minor units; {others}"
        decision = uuid.uuid4().hex
        written = self.table.insert(
            (
                *(payment.id, decision, at_us, raw, amount, features + windows[-8:], p_fraud, action),
                *(-cost, reason, self.model_name),
            )
        )
        if action == "review":
            await self.redis.call(b"ZADD", b"reviews", b"%d" % at_us, payment.id.encode())
        try:
            await written
        except sqlite3.IntegrityError:
            raise HTTPException(409, "this payment was decided before") from None
        return {
            "decision_id": decision,
            "payment": payment.id,
            "action": action,
            "predictions": {"p_fraud": p_fraud},
            "reasons": [reason],
            "expected_minor": -cost,
            "currency": SETTINGS["base"],
            "versions": {"model": self.model_name},
            "known_time": datetime.fromtimestamp(at_us / 1e6, UTC),
        }

    def _time_of(self, payment: Payment) -> int:
        now_us = self.clock.now_us()
        if payment.event_time is None:
            return now_us
        at_us = time_us(payment.event_time)
        if not now_us - DAY_US <= at_us <= now_us + FUTURE_US:
            raise HTTPException(422, "event_time lies in the future or more than a day back")
        return at_us


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens and closes what a worker decides with; what lives long is no work for the garbage collector."""
    stack = app.state.stack = Stack()
    await stack.start()
    gc.collect()
    gc.freeze()
    yield
    await stack.redis.close()
    stack.table.close()


app = FastAPI(lifespan=lifespan)


def _authorise(request: Request) -> None:
    if request.headers.get("authorization") != AUTHORIZATION:
        raise HTTPException(401, "a token is needed")


async def decide(request: Request) -> Response:
    """Decides one payment; pydantic reads the body's bytes, and FastAPI touches neither body nor reply."""
    _authorise(request)
    raw = await request.body()
    try:
        payment = Payment.model_validate_json(raw)
    except ValidationError as error:
        raise HTTPException(422, error.errors(include_url=False, include_input=False)) from None
    return Response(orjson.dumps(await request.app.state.stack.decide(payment, raw)), media_type="application/json")


async def decide_as_documented(payment: Payment, request: Request) -> Decision:
    """Decides one payment; FastAPI reads the body and writes the reply."""
    _authorise(request)
    return Decision(**await request.app.state.stack.decide(payment, payment.model_dump_json().encode()))


app.post("/v1/fraud/decide")(decide_as_documented if STYLE == "usual" else decide)
