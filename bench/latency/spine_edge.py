"""What the HTTP edge itself costs a request, without the server under it and the decision behind it.

    python bench/latency/spine_edge.py [--json]

The peer is the shortest Starlette application that answers the same request: one route, no tokens, no limits, no
metrics. Ours verifies a token, checks head, size, depth and rate, and counts. Keys: edge_us and starlette_us (median of
one call, in microseconds; the runs alternate, so that both meet the same noise).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, cast

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from decalog.access import Access, TokenStore
from decalog.clock import SystemClock
from decalog.host import Host, Reply
from decalog.http import App, HttpSettings
from decalog.meter import Meter

CALLS, ROUNDS = 2_000, 5
BODY = b'{"id":"p-1","amount_minor":1234,"currency":"EUR","card":"card-1","device":"device-1","ip":"203.0.113.7"}'
REPLY = Reply(
    {
        "decision_id": "01a20567-93cd-7efa-913c-07cac25366f9",
        "payment": "p-1",
        "action": "allow",
        "predictions": {"p_fraud": 0.001},
        "reasons": ["p_fraud 0.0010: allow costs least"],
        "expected_minor": -3,
        "currency": "EUR",
    },
    repeated=False,
)

Message = MutableMapping[str, Any]
Scope = dict[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class Ready:
    """A host that has decided already."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.systems = ("fraud",)
        self.services: dict[str, Any] = {}

    async def decide(self, system: str, raw: bytes) -> Reply:
        """Returns the decision."""
        return REPLY if system and raw else Reply({}, repeated=False)


async def starlette_decide(request: Request) -> Response:
    """Answers with the same decision."""
    reply = await Ready.decide(cast("Ready", None), request.path_params["system"], await request.body())
    return Response(msgspec.json.encode(reply.body), media_type="application/json")


def scope_of(token: str) -> Scope:
    """Returns a request's scope as uvicorn makes it."""
    headers = {"host": "127.0.0.1:8000", "authorization": f"Bearer {token}", "content-type": "application/json"}
    headers |= {"content-length": str(len(BODY)), "user-agent": "bench", "accept": "*/*"}
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/fraud/decide", "raw_path": b"/v1/fraud/decide"}
    scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}
    scope |= {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 5000)}
    return scope | {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}


async def median_us(app: Asgi, scope: Scope) -> float:
    """Returns the median time of one call in µs."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    took = []
    for _ in range(CALLS):
        fresh = dict(scope)
        started = time.perf_counter_ns()
        await app(fresh, receive, send)
        took.append(time.perf_counter_ns() - started)
    if {message["status"] for message in sent[::2]} != {200}:
        raise SystemExit("an answer was not 200")
    return statistics.median(took) / 1e3


async def measure(folder: Path) -> tuple[float, float]:
    """Returns the edge's and Starlette's µs a call."""
    store = TokenStore(folder / "control.sqlite", SystemClock())
    _, token = store.create(["decide"])
    settings = HttpSettings(rate_per_s=1e6, burst=1_000_000)
    edge = App(cast("Host", Ready()), settings, access=Access(store))
    peer = Starlette(routes=[Route("/v1/{system}/decide", starlette_decide, methods=["POST"])])
    rounds = [
        (await median_us(cast("Asgi", edge), scope_of(token)), await median_us(cast("Asgi", peer), scope_of(token)))
        for _ in range(ROUNDS)
    ]
    store.close()
    return statistics.median(ours for ours, _ in rounds), statistics.median(theirs for _, theirs in rounds)


def main() -> None:
    """Measures both and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        edge_us, starlette_us = asyncio.run(measure(Path(name)))
    print(f"decalog's edge, everything on    {edge_us:6.1f} µs a request")
    print(f"Starlette, one bare route        {starlette_us:6.1f} µs a request")
    if wanted.json:
        print(json.dumps({"edge_us": edge_us, "starlette_us": starlette_us}))


if __name__ == "__main__":
    main()
