"""Stripe's API over fraud's decisions: an unmodified Stripe library, with its address set to us, is served by it.

A payment is decided when it is confirmed; disputes, early fraud warnings and reviews come in as outcomes; what asks for
a reaction goes out as a signed webhook. `docs/systems/fraud.md` has what maps to what.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from decalog.clock import DAY
from decalog.crypto import digest, new_token, opened, seal
from decalog.decisions import WAITS, decode_decision, waiting_key
from decalog.errors import ConflictError, LimitError, RequestError, UnknownRecordError
from decalog.events import Record
from decalog.host import Host
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import JSON, REPLAYED
from decalog.http.webhooks import TOLERANCE_S, Webhooks, is_signed
from decalog.http.wires import Asked, WireRoute
from decalog.outcomes import Outcome, decode_outcome
from decalog.schema import ID_LENGTH
from decalog.systems.fraud import wire_objects as objects
from decalog.systems.fraud.policy import BLOCK, REVIEW, STEP_UP, FraudCosts
from decalog.systems.fraud.review import ReviewQueue
from decalog.systems.fraud.wire_events import Reported, payment_of_outcome, report, report_of, tell
from decalog.systems.fraud.wire_form import Form, amount, canonical, many, payment_of, read_form, whole
from decalog.systems.fraud.wire_objects import CHARGE, CLOSED, REVIEW_ID, Json, Payment
from decalog.tables import Tables

_MOST_LISTED = 100
_MOST_SEEN = 100_000
_SEEN_AT_ONCE = 100
_NEVER_S = 10**12 - 1
_DAYS_SEEN = 366
_REVIEWS = "/v1/reviews"

# How the issuer's 3-D Secure ended (EMV 3DS, transStatus), where the caller ran it: passed, attempted; not, refused.
_ARES = "payment_method_options[card][three_d_secure][ares_trans_status]"
_PASSED = {"Y": 1, "A": 1, "N": 0, "R": 0}
_encode = msgspec.json.Encoder().encode

Making = Callable[[Record], Json | None]


class Stripe:
    """Stripe's API for one system of a host.

    Args:
        host: decides.
        system: its name.
        private_webhooks: whether events may go to addresses of a private network.
        now_s: seconds since the epoch, for signatures.
        environ: holds the secrets of incoming events, `STRIPE_WEBHOOK_SECRET`; several are parted by commas.
    """

    def __init__(
        self,
        host: Host,
        system: str,
        *,
        private_webhooks: bool = False,
        now_s: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._host = host
        self._system = system
        self._now_s = now_s
        self._secrets = tuple(filter(None, environ.get("STRIPE_WEBHOOK_SECRET", "").split(",")))
        self._schema = host.services[system].system.schema
        self._secret = host.log.vault.secret("wire")
        self._queue = ReviewQueue(host.log, host.services[system].ingest.outcome, costs=FraudCosts)
        self._webhooks = Webhooks(
            host, system, tell=partial(tell, host), header="Stripe-Signature", private=private_webhooks, now_s=now_s
        )
        self.routes = self._routes()

    def speaks(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a Stripe library sent it."""
        return b"stripe-version" in headers or headers.get(b"user-agent", b"").startswith(b"Stripe/")

    def authorization(self, headers: dict[bytes, bytes]) -> bytes | None:
        """Returns our token from where Stripe's key stands: a bearer token, or the user of basic authentication."""
        shown = headers.get(b"authorization")
        scheme, _, rest = (shown or b"").partition(b" ")
        if scheme.lower() != b"basic":
            return shown
        try:
            return b"Bearer " + base64.b64decode(rest.strip(), validate=True).partition(b":")[0]
        except ValueError:
            return shown

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as Stripe's error, so that its libraries raise their own classes."""
        return objects.refused(refusal)

    async def run(self) -> None:
        """Delivers webhooks until cancelled."""
        await self._webhooks.run()

    def _routes(self) -> tuple[WireRoute, ...]:
        pays, charges = partial(self._create, told=objects.payment_intent), partial(self._create, told=objects.charge)
        intents, warnings, hooks = "/v1/payment_intents", "/v1/radar/early_fraud_warnings", "/v1/webhook_endpoints"
        listed: Mapping[str, Making] = {
            intents: self._decided(objects.payment_intent),
            "/v1/charges": self._decided(objects.charge),
            _REVIEWS: self._decided(objects.review, only=REVIEW),
            "/v1/disputes": self._reported("chargeback", objects.dispute),
            warnings: self._reported("fraud_warning", objects.early_fraud_warning),
        }
        return (
            WireRoute("stripe_pay", "POST", intents, "decide", pays),
            WireRoute("stripe_confirm", "POST", f"{intents}/{{id}}/confirm", "decide", self._confirm),
            WireRoute("stripe_intent", "GET", f"{intents}/{{id}}", "decide", self._intent),
            WireRoute("stripe_pay", "POST", "/v1/charges", "decide", charges),
            WireRoute("stripe_verdict", "POST", "/v1/charges/{id}", "outcomes", self._judge),
            WireRoute("stripe_approve", "POST", f"{_REVIEWS}/{{id}}/approve", "outcomes", self._approve),
            WireRoute("stripe_dispute", "POST", "/v1/disputes", "outcomes", partial(self._file, prefix="dp_")),
            WireRoute("stripe_warning", "POST", warnings, "outcomes", partial(self._file, prefix="issfr_")),
            WireRoute("stripe_event", "POST", "/v1/stripe/events", None, self._event),
            WireRoute("stripe_endpoints", "POST", hooks, "admin", self._add_endpoint),
            WireRoute("stripe_endpoints", "GET", hooks, "admin", self._list_endpoints),
            WireRoute("stripe_endpoints", "GET", f"{hooks}/{{id}}", "admin", self._endpoint),
            WireRoute("stripe_endpoints", "DELETE", f"{hooks}/{{id}}", "admin", self._remove_endpoint),
            *(
                WireRoute("stripe_list", "GET", path, "decide", partial(self._list, path, making))
                for path, making in listed.items()
            ),
            *(
                WireRoute("stripe_object", "GET", f"{path}/{{id}}", "decide", partial(self._object, making))
                for path, making in listed.items()
                if path != intents
            ),
        )

    async def _create(self, asked: Asked, *, told: Callable[[Payment], Json]) -> Answer:
        form, id_ = read_form(asked.body), self._id("pi_", asked)
        if told is objects.charge or form.get("confirm") == "true":
            if self._held(id_) is not None:
                raise _other_body()
            return await self._decide(id_, form, told=told)
        held = self._held(id_)
        if held is None and not self._host.log.find("request", f"{self._system}/{id_}"):
            await self._hold(id_, form)
        elif held != form:
            raise _other_body()
        return Answer(200, _encode(objects.held_intent(id_, form)), JSON if held is None else REPLAYED)

    async def _confirm(self, asked: Asked) -> Answer:
        form, id_ = read_form(asked.body), asked.ids[0]
        held = self._held(id_)
        if held is None or self._host.log.find("request", f"{self._system}/{id_}"):
            payment = await self._payment(id_)
            passed = _PASSED.get(form.get(_ARES, ""))
            if passed is not None and payment.state == STEP_UP:
                ended = Reported(f"3ds_{payment.id}"[-ID_LENGTH:], payment.id, "authentication", "acs", passed)
                await report(self._host, self._system, reported=ended)
            return _told(await self._payment(id_), objects.payment_intent, many(form, "expand"))
        answer = await self._decide(id_, {**held, **form}, told=objects.payment_intent)
        await self._hand_over(id_)
        return answer

    async def _decide(self, id_: str, form: Form, *, told: Callable[[Payment], Json]) -> Answer:
        body = payment_of(form, id_, kind=self._schema.request)
        try:
            reply = await self._host.decide(self._system, _encode(body), form=canonical(told.__name__, form))
        except ConflictError:
            raise _other_body() from None
        return _told(await self._payment(id_), told, many(form, "expand"), repeated=reply.repeated)

    async def _intent(self, asked: Asked) -> Answer:
        id_, held = asked.ids[0], self._held(asked.ids[0])
        if held is not None and not self._host.log.find("request", f"{self._system}/{id_}"):
            return Answer(200, _encode(objects.held_intent(id_, held)), JSON)
        expand = many(read_form(asked.query), "expand")
        return Answer(200, _encode(objects.payment_intent(await self._payment(id_), expand)), JSON)

    async def _judge(self, asked: Asked) -> Answer:
        said = read_form(asked.body).get("fraud_details[user_report]")
        payment = await self._payment(asked.ids[0])
        if said and said not in ("safe", "fraudulent"):
            raise _no_report("user_report", "safe or fraudulent", "Leave it out to change nothing.")
        if said:
            value = float(said == "fraudulent")
            verdict = Reported(self._id("verdict_", asked), payment.id, "analyst_verdict", "analyst", value)
            await report(self._host, self._system, reported=verdict)
        return Answer(200, _encode(objects.charge(await self._payment(payment.id))), JSON)

    async def _approve(self, asked: Asked) -> Answer:
        payment = await self._payment(asked.ids[0])
        if payment.action != REVIEW or payment.verdict == 1:
            raise RequestError(
                where="fraud review",
                given="a payment that is not in review" if payment.action != REVIEW else "a review closed as a fraud",
                expected="an open review",
                fix="Mark the charge as safe to say otherwise.",
            )
        if payment.decision.mode in ("live", "fallback") and self._queue.case(payment.id).state == "claimed":
            raise RequestError(
                where="fraud review",
                given="a payment that an analyst holds",
                expected="one that waits",
                fix="Let the analyst give the verdict, or wait: claims end by themselves.",
            )
        if payment.verdict is None:
            id_ = f"{REVIEW_ID}{payment.id}{CLOSED}"[-ID_LENGTH:]
            await report(self._host, self._system, reported=Reported(id_, payment.id, "analyst_verdict", "analyst", 0))
        return Answer(200, _encode(objects.review(await self._payment(payment.id))), JSON)

    async def _file(self, asked: Asked, *, prefix: str) -> Answer:
        form = read_form(asked.body)
        payment = await self._payment(form.get("payment_intent") or form.get("charge", ""))
        kind, source, told = (
            ("chargeback", "issuer", objects.dispute)
            if prefix == "dp_"
            else ("fraud_warning", "network", objects.early_fraud_warning)
        )
        if form.get("reason", "fraudulent") != "fraudulent":
            raise _no_report("reason", "fraudulent", "Other disputes say nothing about fraud: do not send them.")
        reported = Reported(self._id(prefix, asked), payment.id, kind, source, 1)
        if kind == "chargeback" and "amount" in form:
            currency = str(payment.decision.request.attributes["currency"])
            reported = msgspec.structs.replace(reported, amount_minor=amount(form, currency), currency=currency)
        await report(self._host, self._system, reported=reported)
        return await self._object(self._reported(kind, told), asked._replace(ids=(reported.id,)))

    async def _event(self, asked: Asked) -> Answer:
        shown = asked.headers.get(b"stripe-signature", b"").decode("latin-1")
        if not is_signed(shown, asked.body, secrets=self._secrets, now_s=self._now_s()):
            raise RequestError(
                where="event, Stripe-Signature",
                given="no signature of this body and of now",
                expected=f"t=<now, within {TOLERANCE_S} s>,v1=<HMAC-SHA256 of time.body by the endpoint's secret>",
                fix="Start the server with STRIPE_WEBHOOK_SECRET=whsec_… of the sender's endpoint; check both clocks.",
            )
        reported = report_of(asked.body, lambda id_: bool(self._host.log.find("request", f"{self._system}/{id_}")))
        if reported is not None:
            await report(self._host, self._system, reported=reported)
        return Answer(200, _encode({"received": True, "logged": reported is not None}), JSON)

    async def _add_endpoint(self, asked: Asked) -> Answer:
        form = read_form(asked.body)
        wanted = many(form, "enabled_events") or ("*",)
        made = await self._webhooks.add(self._id("we_", asked), form.get("url", ""), events=wanted)
        secret = self._webhooks.secret(made.id)
        return Answer(200, _encode(objects.webhook_endpoint(made) | {"secret": secret}), JSON)

    async def _list_endpoints(self, asked: Asked) -> Answer:  # noqa: ARG002  # every route takes the call
        made = [objects.webhook_endpoint(one) for one in self._webhooks.endpoints()]
        return Answer(200, _encode(objects.listed(made, "/v1/webhook_endpoints")), JSON)

    async def _endpoint(self, asked: Asked) -> Answer:
        return Answer(200, _encode(objects.webhook_endpoint(self._webhooks.find(asked.ids[0]))), JSON)

    async def _remove_endpoint(self, asked: Asked) -> Answer:
        await self._webhooks.remove(asked.ids[0])
        return Answer(200, _encode({"id": asked.ids[0], "object": "webhook_endpoint", "deleted": True}), JSON)

    async def _object(self, making: Making, asked: Asked) -> Answer:
        id_ = asked.ids[0]
        made = making(await self._record(id_))
        if made is None or made["id"] != id_:
            raise _missing()
        return Answer(200, _encode(made), JSON)

    async def _list(self, path: str, making: Making, asked: Asked) -> Answer:
        form = read_form(asked.query)
        limit = whole(form, "limit", default=10)
        if not 1 <= limit <= _MOST_LISTED or "ending_before" in form:
            raise RequestError(
                where="fraud list, " + ("ending_before" if "ending_before" in form else "limit"),
                given="a page that is not served",
                expected=f"a limit from 1 to {_MOST_LISTED}, and starting_after to go on",
                fix="List from the newest on.",
            )
        made: list[Json] = []
        try:
            await self._fill(made, form, making=making, records=self._newest(form, waiting=path == _REVIEWS))
            has_more = len(made) > limit
        except LimitError:
            # Who has a part of the page goes on from there.
            if not made:
                raise
            has_more = True
        return Answer(200, _encode(objects.listed(made[:limit], path, has_more=has_more)), JSON)

    async def _fill(self, made: list[Json], form: Form, *, making: Making, records: AsyncIterator[Record]) -> None:
        """Adds the objects of a page and one more, if there is one, to tell that there is."""
        limit = whole(form, "limit", default=10)
        least, most = whole(form, "created[gte]", default=0), whole(form, "created[lte]", default=_NEVER_S)
        async for record in records:
            one = making(record)
            if one is not None and least <= one["created"] <= most:
                made.append(one)
            if len(made) > limit or record.known_time // 1_000_000 < least:
                return

    async def _newest(self, form: Form, *, waiting: bool) -> AsyncIterator[Record]:
        """Yields the records that a list may be about, newest first, and lets others work in between."""
        log, after = self._host.log, form.get("starting_after")
        stop = log.durable if after is None else (await self._record(after)).seq
        about = form.get("payment_intent") or form.get("charge")
        groups = self._reviewed() if waiting else self._all(stop)
        if about:
            payment = await self._payment(about)
            groups = iter([[*(record for record, _ in payment.reports), payment.record]])
        for group in groups:
            for record in sorted(group, key=lambda one: -one.seq):
                if record.seq < stop and self._is_kept(record):
                    yield record
            await asyncio.sleep(0)

    def _is_kept(self, record: Record) -> bool:
        return record.root not in self._host.services[self._system].standing.erased

    def _reviewed(self) -> Iterator[Iterable[Record]]:
        log = self._host.log
        today = log.known_time // DAY
        for day in range(today, today - _DAYS_SEEN, -1):
            yield map(log.get, log.find(WAITS, waiting_key(self._system, day)))

    def _all(self, stop: int) -> Iterator[Iterable[Record]]:
        for end in range(stop, 0, -_SEEN_AT_ONCE):
            if end <= stop - _MOST_SEEN:
                raise LimitError(
                    where="fraud list",
                    given=f"a page that is not filled by the {_MOST_SEEN:,} newest records",
                    expected="a shorter way to what is looked for",
                    fix="Say created[gte], or ask for one payment's.",
                )
            yield self._host.log.read(max(0, end - _SEEN_AT_ONCE), end)

    def _decided(self, told: Callable[[Payment], Json], *, only: str = "") -> Making:
        def making(record: Record) -> Json | None:
            if record.kind != "decision" or record.system != self._system:
                return None
            payment = self._with_reports(record)
            return told(payment) if only in ("", payment.action) else None

        return making

    def _reported(self, kind: str, told: Callable[[Payment | None, Outcome], Json]) -> Making:
        def making(record: Record) -> Json | None:
            if record.kind != "outcome" or record.system != self._system or record.reason:
                return None
            outcome = decode_outcome(record.body)
            if outcome.kind != kind or outcome.id.endswith(CLOSED):
                return None
            return told(payment_of_outcome(self._host, record, before=self._host.log.position), outcome)

        return making

    async def _payment(self, id_: str) -> Payment:
        """Returns the payment of its own id, its charge's or its review's."""
        return self._with_reports((await self._host.logged(self._system, _plain(id_)))[0])

    def _with_reports(self, record: Record) -> Payment:
        return Payment(record, decode_decision(record.body), self._host.outcomes(self._system, record.id))

    async def _record(self, id_: str) -> Record:
        """Returns the record that an object of any kind was made from."""
        log = self._host.log
        found = (log.get(seq) for seq in log.find("outcome", f"{self._system}/{id_}") if seq < log.durable)
        reports = list(filter(self._is_kept, found))
        return reports[0] if reports else (await self._host.logged(self._system, _plain(id_)))[0]

    def _id(self, prefix: str, asked: Asked) -> str:
        """Returns the id of what a request makes: a retry with its Idempotency-Key makes the same again."""
        key = asked.headers.get(b"idempotency-key") or os.urandom(16)
        return prefix + digest(self._secret, prefix.encode(), key, size=12).hex()

    def _held(self, id_: str) -> Form | None:
        """Returns the parameters of an intent that waits for its confirmation, or None."""
        held = Tables(self._host.log).get(self._system, _HELD + id_)
        cipher = held and self._host.log.vault.cipher(held["subject"])
        return opened(cipher, base64.b64decode(held["sealed"]), bound_to=id_) or None if cipher else None  # type: ignore[return-value]  # texts, as they were sealed

    async def _hold(self, id_: str, form: Form) -> None:
        """Keeps an intent in the log, sealed: it is not asked yet what it is decided by."""
        kind, vault = self._schema.request, self._host.log.vault
        body = payment_of(form, id_, kind=kind)
        named = next((vault.token(name, body[name]) for name in kind.subject if body.get(name)), 0)
        is_named = bool(named and vault.cipher(named))
        await self._keep(id_, form, subject=named if is_named else new_token(), is_nobodys=not is_named)

    async def _keep(self, id_: str, form: Form, *, subject: int, is_nobodys: bool) -> None:
        cipher = self._host.log.vault.cipher(subject)
        sealed = seal(cipher, dict(form), bound_to=id_) if cipher else b""
        content = {"subject": subject, "sealed": base64.b64encode(sealed).decode(), "nobodys": is_nobodys}
        await self._host.operate(self._system, lambda service: service.put_table(_HELD + id_, content))

    async def _hand_over(self, id_: str) -> None:
        """Seals what named nobody under the key of whom it was decided for, so that their erasure ends it too."""
        held, form = Tables(self._host.log).get(self._system, _HELD + id_), self._held(id_)
        if form is not None and held.get("nobodys"):
            subject = (await self._payment(id_)).decision.request.subject
            await self._keep(id_, form, subject=subject, is_nobodys=False)
            vault: Any = self._host.log.vault  # every engine's vault erases
            vault.erase([held["subject"]], tokens=[], marks=[])


_HELD = "intent "
"""Leads the name of the table that holds an intent."""


def _plain(id_: str) -> str:
    return id_.removeprefix(CHARGE).removeprefix(REVIEW_ID)


def _told(payment: Payment, told: Callable[..., Json], expand: Sequence[str] = (), *, repeated: bool = False) -> Answer:
    """Returns what became of a payment; one that is blocked is an error, as a declined card is."""
    headers = REPLAYED if repeated else JSON
    if payment.action == BLOCK:
        return Answer(402, _encode(objects.declined(payment)), headers)
    made = told(payment) if told is objects.charge else told(payment, expand)
    return Answer(200, _encode(made), headers)


def _other_body() -> ConflictError:
    return ConflictError(
        where="request, Idempotency-Key",
        given="a key that was used before with other parameters",
        expected="the very same parameters for a retry, or a new key",
        fix="Let the library make the key, or name it after the order and the try.",
    )


def _no_report(param: str, expected: str, fix: str) -> RequestError:
    return RequestError(where=f"fraud report, {param}", given="what reports no fraud", expected=expected, fix=fix)


def _missing() -> UnknownRecordError:
    return UnknownRecordError(
        where="request, path", given="an id that no such object has", expected="one of this kind", fix="Check the id."
    )
