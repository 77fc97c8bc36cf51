"""The analysts' desk as JSON: what waits, who holds it, why the model said so, and the verdict.

GET  /v1/fraud/cases            waiting, claimed and closed payments, the most worth looking at first
GET  /v1/fraud/cases/figures    how the queue is doing
GET  /v1/fraud/cases/{id}       one payment, with the reasons of its prediction, and what would have changed its way
POST /v1/fraud/cases/{id}/claim, /release      {"by": "ana"}
POST /v1/fraud/cases/{id}/verdict              {"by": "ana", "fraud": true}
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta

from decalog.clock import rfc3339
from decalog.errors import ReplayError, RequestError, near
from decalog.host import Host, explained
from decalog.http.problems import Answer, Refusal, answer_of
from decalog.http.routes import JSON
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.review import ReviewCase, ReviewQueue, because, ranked

_STATES = ("waiting", "claimed", "closed")
_TIMES = ("since", "claimed", "until", "closed")
_REASONS = 10
_AT_ONCE = 50

Analyst = Annotated[str, Meta(min_length=1, max_length=100)]


class _By(msgspec.Struct, forbid_unknown_fields=True):
    by: Analyst


class _Verdict(msgspec.Struct, forbid_unknown_fields=True):
    by: Analyst
    fraud: bool


class Desk(JsonWire):
    """The routes of one host's review queue.

    Args:
        host: decides.
        system: name of the system.
    """

    def __init__(self, host: Host, system: str) -> None:
        self._host, self._system = host, system
        service = host.services[system]
        self._queue = ReviewQueue(host.log, service.ingest.outcome, costs=self._costs)
        base, one = f"/v1/{system}/cases", f"/v1/{system}/cases/{{id}}"
        self.routes = (
            WireRoute("cases", "GET", base, "outcomes", self._list),
            WireRoute("cases_figures", "GET", f"{base}/figures", "outcomes", self._figures),
            WireRoute("case", "GET", one, "outcomes", self._case),
            WireRoute("case_claim", "POST", f"{one}/claim", "outcomes", self._claim),
            WireRoute("case_release", "POST", f"{one}/release", "outcomes", self._release),
            WireRoute("case_verdict", "POST", f"{one}/verdict", "outcomes", self._close),
        )

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as our own JSON has it."""
        return answer_of(refusal)

    async def _list(self, asked: Asked) -> Answer:
        state = (parse_qs(asked.query.decode(errors="replace")).get("state") or [""])[-1]
        if state and state not in _STATES:
            raise RequestError(
                where="fraud cases, state",
                given="a state that no payment is in",
                expected=near(state[:40], _STATES),
                fix="Leave it out for all.",
            )
        found = [case for case in await self._each() if state in ("", case.state)]
        return _told([_case(case) for case in ranked(found)])

    async def _figures(self, asked: Asked) -> Answer:  # noqa: ARG002  # of the routes' form
        return _told(self._queue.figures(await self._each()))

    async def _each(self) -> list[ReviewCase]:
        """Returns all payments of the queue, and lets decisions go on in between: thousands take a second."""
        found = []
        for case in self._queue.each():
            found.append(case)
            if len(found) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def _case(self, asked: Asked) -> Answer:
        case = self._queue.case(asked.ids[0])
        return _told(_case(case) | await self._why(case.decision))

    async def _claim(self, asked: Asked) -> Answer:
        by = _read(asked, _By).by
        return await self._done(lambda: self._queue.claim(asked.ids[0], by=by))

    async def _release(self, asked: Asked) -> Answer:
        by = _read(asked, _By).by
        return await self._done(lambda: self._queue.release(asked.ids[0], by=by))

    async def _close(self, asked: Asked) -> Answer:
        said = _read(asked, _Verdict)
        return await self._done(lambda: self._queue.close(asked.ids[0], by=said.by, is_fraud=said.fraud))

    async def _done(self, act: Callable[[], ReviewCase]) -> Answer:
        """Returns the case after an act on it, once that is durable."""
        return _told(_case(await self._host.operate(self._system, lambda _service: act())))

    async def _why(self, decision_id: str) -> dict[str, Any]:
        """Returns why a payment came here and what would have changed that, as it was explained at once.

        In the seconds before that, the reasons of the prediction alone; of what another model made, by another process.
        """
        told = explained(self._host.folder, self._system, decision_id=decision_id)
        _, decision = await self._host.logged(self._system, decision_id)
        service = self._host.services[self._system]
        made, now = decision.versions, service.serving.versions
        if not told and (made.model, made.features) == (now.model, now.features):
            told = {"explanation": because(decision, service.serving.model, features=service.system.features)}
        with suppress(ReplayError):  # what it would need is gone: a case is worked on without reasons too
            told = told or await self._host.replay(self._system, decision_id, verb="explain")
        known = {"explanation": (), "would_change": None, "nothing_else": ""} | told
        return {"explanation": known["explanation"][:_REASONS]} | {
            name: known[name] for name in ("would_change", "nothing_else")
        }

    def _costs(self) -> FraudCosts:
        params = self._host.services[self._system].serving.policy.params
        return params if isinstance(params, FraudCosts) else FraudCosts()


def _read(asked: Asked, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(asked.body, type=kind)
    except msgspec.DecodeError as error:
        raise RequestError(
            where="fraud case",
            given=f"a body that does not fit: {error}",
            expected="an object with " + " and ".join(kind.__struct_fields__),
            fix="`by` is an id of yours that names nobody; `fraud` is true or false.",
        ) from None


def _case(case: ReviewCase) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(case)
    return told | {name: rfc3339(told[name]) if told[name] else None for name in _TIMES}


def _told(body: object) -> Answer:
    return Answer(200, msgspec.json.encode(body), JSON)
