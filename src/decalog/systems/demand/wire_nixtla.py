"""TimeGPT's REST API over our own forecasts: Nixtla's unmodified client, with its address and key set to ours.

GET  /validate_api_key, /model_params, /v2/models
POST /v2/forecast, /v2/cross_validation

A frame of the caller's own is forecast here, and forgotten: this is no decision, and nothing of it is logged. The work
is done in a process of its own, one request at a time, so that decisions do not wait for it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import msgspec
from prometheus_client import Counter

from decalog.deployment import run_aside
from decalog.errors import DecalogError, LimitError, RequestError
from decalog.host import Host
from decalog.http.problems import Answer, Refusal, internal
from decalog.http.routes import JSON
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.systems.demand import wire_forecasting

LONGEST_S = 50.0
"""For one answer, with the time that it waits for others; the client gives up after 60."""
MOST_WAITING = 16
"""Further requests are told to come again: the client does, after ten seconds."""
INPUT = 1_000
"""Steps of a series that the client is told to send: what lies further back is not looked at."""
_SEASONS_AHEAD, _LEAST_AHEAD = 4, 12

Parts = dict[str, str]


class Nixtla(JsonWire):
    """TimeGPT's API for one system of a host.

    Args:
        host: whose counters count what was forecast.
        longest_s: see `LONGEST_S`.
    """

    def __init__(self, host: Host, *, longest_s: float = LONGEST_S) -> None:
        self._alone, self._waiting, self._longest_s = asyncio.Semaphore(1), 0, longest_s
        self._values = Counter(
            "decalog_demand_forecast_values", "Values forecast for callers' own frames.", registry=host.meter.registry
        )
        self.routes: tuple[WireRoute, ...] = (
            WireRoute("nixtla_key", "GET", "/validate_api_key", "decide", self._key),
            WireRoute("nixtla_models", "GET", "/v2/models", "decide", self._models),
            WireRoute("nixtla_model", "GET", "/model_params", "decide", self._model),
            *(
                WireRoute(f"nixtla_{task}", "POST", f"/v2/{task}", "decide", partial(self._work, task), batch=True)
                for task in ("forecast", "cross_validation")
            ),
        )

    def speaks(self, headers: dict[bytes, bytes]) -> bool:
        """Whether Nixtla's client sent it."""
        return b"nixtla-client-version" in headers

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as the client shows it: `detail`, and its four parts beside it."""
        error = refusal.error
        parts = {"where": error.where, "given": error.given, "expected": error.expected, "fix": error.fix}
        return Answer(refusal.status, msgspec.json.encode({"detail": str(error), **parts}), JSON + refusal.headers)

    async def _key(self, asked: Asked) -> Answer:  # noqa: ARG002  # of the routes' form
        return _told({"detail": "The token is valid."})

    async def _models(self, asked: Asked) -> Answer:  # noqa: ARG002  # of the routes' form
        return _told({"models": [{"name": name} for name in wire_forecasting.model_names()]})

    async def _model(self, asked: Asked) -> Answer:
        query = parse_qs(asked.query.decode(errors="replace"))
        seasons = wire_forecasting.steps_of((query.get("freq") or [""])[-1]).seasons
        horizon = max(_SEASONS_AHEAD * (seasons[-1] if seasons else 1), _LEAST_AHEAD)
        return _told({"detail": {"input_size": INPUT, "horizon": horizon}})

    async def _work(self, task: str, asked: Asked) -> Answer:
        encoding = asked.headers.get(b"content-encoding", b"identity").lower()
        if encoding not in (b"identity", b"zstd"):
            error = RequestError(
                where="forecast, Content-Encoding",
                given="another compression than the client's",
                expected="zstd, or a body as it is",
                fix="Send it uncompressed.",
            )
            raise Refusal(415, error, ((b"accept-encoding", b"zstd, identity"),))
        if self._waiting >= MOST_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            out = await asyncio.wait_for(self._aside(task, encoding.decode(), asked.body), self._longest_s)
        except TimeoutError:
            raise _too_long(self._longest_s) from None
        finally:
            self._waiting -= 1
        return self._answer(out)

    async def _aside(self, task: str, encoding: str, body: bytes) -> bytes:
        async with self._alone:
            out, _, _ = await run_aside(wire_forecasting.__name__, task, encoding, told=body)
        return out

    def _answer(self, out: bytes) -> Answer:
        head, _, body = out.partition(b"\n")
        if not head:
            raise internal()  # the process ended without a word
        status, count = map(int, head.split())
        self._values.inc(count)
        if status == HTTPStatus.OK:
            return Answer(status, body, JSON)
        raise Refusal(status, DecalogError(**msgspec.json.decode(body, type=Parts)))


def _told(body: Any) -> Answer:
    return Answer(200, msgspec.json.encode(body), JSON)


def _busy() -> Refusal:
    error = LimitError(
        where="forecast",
        given="more requests than wait at once",
        expected=f"at most {MOST_WAITING}: they are worked on one after the other",
        fix="Send it again in some seconds; several series in one request are faster than one in each.",
    )
    return Refusal(429, error, ((b"retry-after", b"10"),))


def _too_long(longest_s: float) -> LimitError:
    return LimitError(
        where="forecast",
        given=f"a request that was not answered within {longest_s:g} s",
        expected="less work at once",
        fix="Send fewer series, take model='seasonal-naive', or ask again when less is asked for.",
    )
