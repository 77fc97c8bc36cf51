"""Why a post was shown or hidden, over HTTP: of a logged slate, or of one that would be shown now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from decalog.decisions import Decision
from decalog.errors import RequestError
from decalog.host import Host
from decalog.http.problems import Answer, Refusal, answer_of
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.judging import Underway
from decalog.policy import Columns
from decalog.serving import Service
from decalog.systems.feed.trace import Why, why
from decalog.systems.feed.why import why_logged
from decalog.systems.feed.wire_messages import told


class WhyWire(JsonWire):
    """Two routes beside our own.

    Args:
        host: decides.
        system: its name.
    """

    def __init__(self, host: Host, system: str) -> None:
        self._host, self._system = host, system
        self._alone = asyncio.Semaphore(1)
        base = f"/v1/{system}"
        self.routes: tuple[WireRoute, ...] = (
            WireRoute("why_logged", "GET", f"{base}/decisions/{{decision}}/why/{{post}}", "decide", self._logged),
            WireRoute("why_now", "GET", f"{base}/why", "decide", self._now),
        )

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as our own JSON has it."""
        return answer_of(refusal)

    async def _logged(self, asked: Asked) -> Answer:
        id_, post = asked.ids
        return _answer(*await why_logged(self._host, id_, post=post, alone=self._alone))

    async def _now(self, asked: Asked) -> Answer:
        """Answers for `?user=…&post=…`: the slate is chosen as for a request, and neither logged nor shown."""
        said = {name: values[-1] for name, values in parse_qs(asked.query.decode(errors="replace")).items()}
        post = said.pop("post", "")
        if not post:
            raise RequestError(
                where=f"{self._system} why, post",
                given="no post",
                expected="?user=…&post=…, by your names for them",
                fix="Name the post; further fields of a request may stand beside it.",
            )
        body = {name: int(value) if name == "size" and value.isdigit() else value for name, value in said.items()}
        return _answer(*await self._host.operate(self._system, lambda service: _asked(service, body, post)))


def _asked(service: Service, body: Mapping[str, Any], post: str) -> tuple[Why, Decision]:
    drafted = service.begin({**body, "id": f"why {service.ingest.log.position}"})
    assert isinstance(drafted, Underway)  # noqa: S101 - its id is new
    service.predict(drafted)
    judge = drafted.judge or service.judge  # a rollout's challenger, where it decides for the reader
    verdict, candidates = judge.choose(drafted, "", draw_secret=b"")
    decision = Decision(
        "",
        drafted.event,
        drafted.state_seq,
        candidates,
        verdict.choice,
        judge.serving.versions,
        fallback=drafted.fallback,
        guardrails=verdict.guardrails,
    )
    places = {name: place for place, name in enumerate(service.system.features.names)}
    columns = None if drafted.features is None else Columns(places, drafted.features)
    policy: Any = judge.serving.policy
    return why(decision, post, policy=policy, columns=columns), decision


def _answer(found: Why, decision: Decision) -> Answer:
    stages = [{"stage": stage, "what": what} for stage, what in found.stages]
    is_shown = found.ref in {slot.ref for slot in decision.choice.slots}
    return told({"post": found.ref, "shown": is_shown, "stages": stages, "text": found.text()})
