"""The fraud world: seeded customers, merchants and thieves, their payments, and what is later reported about them.

>>> world = World(7)
>>> first = world.advance(world.start_us + 3_600_000_000)[0]
>>> first.kind, sorted(first.body)[:4]
('decide', ['amount_minor', 'billing_country', 'card', 'card_country'])
>>> sorted(world.truth(first.body["id"]))
['context', 'is_fraud', 'loss_minor', 'p_fraud', 'scheme', 'settled']

Labels are drawn from the hazard that `truth` publishes as `p_fraud`, so no score can beat it on average; how hazards
are made stands in `world_payments`, and each figure in `world_params`. All of it is invented: results on it are
simulated results.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import ConfigError, ConflictError, RequestError, UnknownRecordError, near
from decalog.money import convert
from decalog.systems.fraud import world_payments as payments
from decalog.systems.fraud import world_town as towns
from decalog.systems.fraud.world_params import SWITCHES, WorldParams, mood
from decalog.systems.fraud.world_payments import DAY_US, SCHEMES, Batch
from decalog.testing import draws
from decalog.testing.clockwork import Clockwork
from decalog.testing.draws import Mask
from decalog.testing.worlds import Message

START_US = 1_767_571_200_000_000  # Monday, 5 January 2026, 00:00 UTC
ACTIONS = ("allow", "block", "review", "step_up")
_EPOCH = date(1970, 1, 1)
_EPOCH_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS = (0.93, 0.92, 0.95, 1.0, 1.15, 1.2, 0.85)  # factor on the number of payments, Monday first
_PAYDAYS = (25, 2)  # from this day of the month to that of the next
_MINUTE_US = 60_000_000
_ANSWERED = {"review": "analyst_verdict", "step_up": "authentication"}
"""What is told, minutes later, of an action that asks somebody."""

State = Literal["through", "stopped", "review"]


class _Payment(msgspec.Struct, gc=False):
    """What the world remembers of one payment."""

    key: int
    at_us: int
    amount_minor: int
    currency: str
    fraud: bool
    friendly: bool
    hazard: float
    context: str
    state: State = "through"
    action: str = ""
    reported: bool = False


class _Due(NamedTuple):
    """What is to reach the system at a time: a request, or an outcome of one."""

    at_us: int
    kind: str
    request_id: str


class World(Clockwork):
    """The fraud world as a `decalog.testing.worlds.World`; see there for what each method promises.

    Args:
        seed: two worlds of one seed, parameters, start and reactions are the same in every byte.
        params: the settings; the defaults if not given.
        scale: size of the town as a share of the settings', > 0.
        start_us: a midnight UTC, int microseconds since the Unix epoch, not before 1970.

    Raises:
        ConfigError: a setting is out of range, the scale is not above 0, or the start is not a midnight.
    """

    def __init__(
        self, seed: int, params: WorldParams | None = None, *, scale: float = 1.0, start_us: int = START_US
    ) -> None:
        self.params = (params or WorldParams()).scaled(scale).checked()
        super().__init__(self.params, SWITCHES, start_us=_midnight(start_us))
        self.base = "EUR"
        per_euro = {code: rate for code, (_, rate) in towns.CURRENCIES.items() if code != self.base}
        self.rates: Mapping[str, str] = {code: f"{1 / rate:.6f}" for code, rate in per_euro.items()}
        self._town = towns.build(seed, self.params)
        self._later: list[Batch] = []  # payments of running episodes on days to come
        self._payments: dict[str, _Payment] = {}
        self._bodies: dict[str, dict[str, Any]] = {}  # requests not yet sent
        self._frauds: list[_Payment] = []  # of those decided on

    def react(
        self,
        request_id: str,
        action: str,
        *,
        at_us: int,
        refs: tuple[str, ...] = (),  # noqa: ARG002 - nothing is shown
    ) -> None:
        """Tells the world the action on a payment: allow, block, review or step_up; without a reaction it goes through.

        Blocked payments and failed step-ups end there. A reviewed one waits for the analyst's verdict, and how a
        step-up ended is told as well. Telling the same again changes nothing.

        Raises:
            UnknownRecordError: no such payment has been sent.
            RequestError: the action is unknown, or lies before the payment.
            ConflictError: another action was told before, or the payment's outcome has already been reported.
        """
        payment = self._sent(request_id)
        _check_reaction(payment, action, at_us=at_us)
        if payment.action == action:
            return
        if payment.action or payment.reported:
            raise ConflictError(
                where=f"react to {request_id}",
                given=f"'{action}' after " + (f"'{payment.action}'" if payment.action else "its outcome was reported"),
                expected="one reaction a payment, told before the world moves on to the payment's outcomes",
                fix="React to each decide message before the next advance.",
            )
        payment.action = action
        payment.state = self._state_after(payment, action)
        if payment.fraud:
            self._frauds.append(payment)
        if action in _ANSWERED:
            due_us = max(at_us + int(self._minutes(payment, action) * _MINUTE_US), self._now_us + 1)
            heapq.heappush(self._due, _Due(due_us, _ANSWERED[action], request_id))

    def truth(self, request_id: str) -> Mapping[str, float | str]:
        """Returns what stood behind one payment.

        `is_fraud` 1 or 0 · `scheme` of the fraud, `friendly` for an honest payment its owner will charge back, else
        `none` · `context`: the kind of traffic it came with, honest look-alikes included · `p_fraud`: the hazard its
        label was drawn from · `loss_minor`: what is lost if it goes through, in minor units of its currency, reported
        or not, without fees · `settled`: 1 went through, 0 did not, −1 waits for an analyst.

        Raises:
            UnknownRecordError: no such payment has been sent.
        """
        payment = self._sent(request_id)
        scheme = payment.context if payment.fraud else "friendly" if payment.friendly else "none"
        return {
            "is_fraud": float(payment.fraud),
            "scheme": scheme,
            "context": payment.context,
            "p_fraud": payment.hazard,
            "loss_minor": float(payment.amount_minor) if payment.fraud or payment.friendly else 0.0,
            "settled": {"through": 1.0, "stopped": 0.0, "review": -1.0}[payment.state],
        }

    def score(self) -> str:
        """Returns how many frauds among the payments that were decided on went through, and the money behind them."""
        held = [payment for payment in self._frauds if payment.state != "through"]
        stopped, lost = (self._money(payments) for payments in (held, self._frauds))
        return (
            f"frauds not let through {len(held):,} of {len(self._frauds):,} "
            f"(simulated: {stopped / 100:,.0f} of {lost / 100:,.0f} {self.base})"
        )

    def _money(self, lost: list[_Payment]) -> int:
        return sum(convert(p.amount_minor, p.currency, base=self.base, rates=self.rates) for p in lost)

    def _minutes(self, payment: _Payment, action: str) -> float:
        """Returns how long an analyst, or the payer at a step-up, takes."""
        key = _key_of(payment)
        if action == "step_up":
            return float(1.0 + 2.5 * draws.uniform(key, "step up time")[0])
        return float(self.params.review_minutes * np.exp(0.6 * draws.normal(key, "service time")[0]))

    def _sent(self, request_id: str) -> _Payment:
        payment = self._payments.get(request_id)
        if payment is None or payment.at_us > self._now_us:
            raise UnknownRecordError(
                where="fraud world",
                given=f"payment '{request_id[:80]}', which it has not sent",
                expected="the id of a decide message that advance has returned",
                fix="Advance the world to the payment first, and pass body['id'] unchanged.",
            )
        return payment

    def _state_after(self, payment: _Payment, action: str) -> State:
        """Returns where an action leaves a payment."""
        if action == "step_up":
            pass_p = self.params.step_up_fraud_pass if payment.fraud else self.params.step_up_honest_pass
            return "through" if draws.uniform(_key_of(payment), "step up")[0] < pass_p else "stopped"
        after: dict[str, State] = {"allow": "through", "block": "stopped", "review": "review"}
        return after[action]

    def _begin_day(self, start_us: int) -> None:
        """Makes a day's payments and plans what will be reported about them."""
        today, now = _EPOCH + timedelta(days=start_us // DAY_US), mood(self._on)
        season = np.array([_WEEKDAYS[today.weekday()], 1.0])
        if today.day >= _PAYDAYS[0] or today.day <= _PAYDAYS[1]:
            season *= [self.params.payday_lift, 1.06]
        ordinary = payments.ordinary(self._town, start_us, season=season, mood=now)
        batch = payments.join([*self._later, ordinary, payments.episodes(self._town, start_us, mood=now)])
        here = batch.at_us < start_us + DAY_US
        self._later = [payments.rows(batch, ~here)]
        self._send(payments.rows(batch, here), jpy_factor=now.jpy_factor)

    def _send(self, batch: Batch, *, jpy_factor: int) -> None:
        """Puts a day's requests and planned reports into the queue."""
        bodies = _bodies(self._town, batch, jpy_factor=jpy_factor)
        fraud = draws.uniform(batch.key, "label") < batch.hazard
        online = batch.channel == towns.ECOM
        friendly = ~fraud & online & (draws.uniform(batch.key, "friendly") < self.params.friendly_share)
        columns = (batch.key, batch.at_us, fraud, friendly, batch.hazard, batch.scheme)
        facts = zip(*(column.tolist() for column in columns), strict=True)
        for body, (key, at_us, is_fraud, is_friendly, hazard, scheme) in zip(bodies, facts, strict=True):
            self._payments[body["id"]] = _Payment(
                key=key,
                at_us=at_us,
                amount_minor=body["amount_minor"],
                currency=body["currency"],
                fraud=is_fraud,
                friendly=is_friendly,
                hazard=hazard,
                context=SCHEMES[scheme],
            )
            self._bodies[body["id"]] = body
            heapq.heappush(self._due, _Due(at_us, "decide", body["id"]))
        self._plan(batch, [body["id"] for body in bodies], fraud=fraud, friendly=friendly)

    def _plan(self, batch: Batch, ids: list[str], *, fraud: Mask, friendly: Mask) -> None:
        """Queues the chargebacks and warnings that come if the payments go through."""
        reported = friendly | (fraud & (draws.uniform(batch.key, "reported") < self.params.report_share))
        warned = fraud & reported & (draws.uniform(batch.key, "warned") < self.params.warning_share)
        days = delay_days(self.params, draws.uniform(batch.key, "delay"))
        # A warning comes at least a day after the payment and three days before the chargeback.
        warn_days = 1.0 + draws.uniform(batch.key, "warning delay") * (days - 4.0)
        for i in np.flatnonzero(reported).tolist():
            at_us = int(batch.at_us[i])
            heapq.heappush(self._due, _Due(at_us + int(days[i] * DAY_US), "chargeback", ids[i]))
            if warned[i]:
                heapq.heappush(self._due, _Due(at_us + int(warn_days[i] * DAY_US), "fraud_warning", ids[i]))

    def _deliver(self, due: _Due, *, alone: bool) -> list[Message]:  # noqa: ARG002 - all is let through
        """Returns the message that is due; none where a report's payment never went through."""
        if due.kind == "decide":
            return [Message(due.at_us, "decide", self._bodies.pop(due.request_id))]
        payment = self._payments[due.request_id]
        if due.kind == "analyst_verdict":
            return [self._verdict(due, payment)]
        if due.kind == "authentication":
            return [_outcome(due, source="acs", value=int(payment.state == "through"), event_us=due.at_us)]
        if payment.state == "review":  # reported once the analyst has let it go
            heapq.heappush(self._due, due._replace(at_us=due.at_us + DAY_US))
        return [self._report(due, payment)] if payment.state == "through" else []

    def _verdict(self, due: _Due, payment: _Payment) -> Message:
        """Returns the analyst's verdict, after which the payment goes through or not."""
        p_called = self.params.analyst_sensitivity if payment.fraud else 1.0 - self.params.analyst_specificity
        called = bool(draws.uniform(_key_of(payment), "verdict")[0] < p_called)
        payment.state = "stopped" if called else "through"
        return _outcome(due, source="analyst", value=int(called), event_us=due.at_us)

    def _report(self, due: _Due, payment: _Payment) -> Message:
        """Returns a chargeback or warning; it was raised up to six hours before its file reaches us."""
        payment.reported = True
        lag_us = int(draws.uniform(_key_of(payment), due.kind + " lag")[0] * DAY_US / 4)
        source = "issuer" if due.kind == "chargeback" else "network"
        message = _outcome(due, source=source, value=1, event_us=due.at_us - lag_us)
        if due.kind == "chargeback":
            message.body.update(amount_minor=payment.amount_minor, currency=payment.currency)
        return message


def trivial_score(body: Mapping[str, Any]) -> float:
    """Returns the trivial rule's score: amount in euro (the world's rates) × 1, 2 or 3 by the borders it crosses.

    The borders are card to shop and card to IP address. Every result on this world is shown beside this rule and the
    oracle.
    """
    minor, per_euro = towns.CURRENCIES[body["currency"]]
    borders = sum(body[other] != body["card_country"] for other in ("merchant_country", "ip_country") if other in body)
    return float(body["amount_minor"] / minor / per_euro * (1 + borders))


def delay_days(params: WorldParams, draw: draws.Floats) -> draws.Floats:
    """Returns days from payment to chargeback: the least plus an exponential delay, cut at the most; by inversion."""
    room = (params.delay_most_days - params.delay_least_days) / params.delay_mean_days
    beyond = -params.delay_mean_days * np.log1p(-draw * (1.0 - np.exp(-room)))
    return np.asarray(params.delay_least_days + beyond, dtype=np.float64)


def rfc3339(at_us: int) -> str:
    """Returns a time in RFC 3339 with microseconds and Z."""
    return (_EPOCH_TIME + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _outcome(due: _Due, *, source: str, value: int, event_us: int) -> Message:
    prefix = {"chargeback": "dp_", "fraud_warning": "efw_", "analyst_verdict": "rv_", "authentication": "au_"}[due.kind]
    body = {"id": prefix + due.request_id.removeprefix("pay_"), "payment": due.request_id, "kind": due.kind}
    return Message(due.at_us, "outcome", body | {"source": source, "value": value, "event_time": rfc3339(event_us)})


def _key_of(payment: _Payment) -> draws.Keys:
    return np.array([payment.key], dtype=np.uint64)


def _midnight(start_us: int) -> int:
    if start_us < 0 or start_us % DAY_US:
        raise ConfigError(
            where="World(start_us=…)",
            given=f"{start_us}, which is no midnight UTC from 1970 on",
            expected="a multiple of 86,400,000,000 microseconds",
            fix="Round down: start_us - start_us % 86_400_000_000.",
        )
    return start_us


def _check_reaction(payment: _Payment, action: str, *, at_us: int) -> None:
    if action not in ACTIONS:
        raise RequestError(
            where="react",
            given=f"unknown action '{action[:80]}'",
            expected=near(action, ACTIONS),
            fix="Pass the action of the logged decision.",
        )
    if at_us < payment.at_us:
        raise RequestError(
            where="react",
            given=f"at_us {at_us}, before the payment at {payment.at_us}",
            expected="a time at or after the payment's",
            fix="Pass the time at which the decision was made, in microseconds UTC.",
        )


def _bodies(town: towns.Town, batch: Batch, *, jpy_factor: int) -> list[dict[str, Any]]:
    """Returns the requests as their clients send them; what a client does not send is absent."""
    shops = town.merchants
    currency = np.array(towns.CURRENCY_OF)[shops.country[batch.merchant]]
    times = np.datetime_as_string(batch.at_us.astype("datetime64[us]"))
    columns = {
        "id": [f"pay_{key:016x}" for key in batch.key.tolist()],
        "event_time": [time + "Z" for time in times.tolist()],
        "amount_minor": _minor(batch.eur, currency, jpy_factor=jpy_factor),
        "currency": currency.tolist(),
        "card": _names("card", batch.card),
        "customer": _names("cus", batch.customer),
        "device": _names("dev", batch.device),
        "ip": [_ip(key) for key in batch.ip.tolist()],
        "email": [f"u{key:016x}@example.com" if key else None for key in batch.email.tolist()],
        "merchant": _names("mer", shops.key[batch.merchant]),
        "mcc": np.array([c.mcc for c in towns.CATEGORIES])[shops.category[batch.merchant]].tolist(),
        "channel": np.array(towns.CHANNELS)[batch.channel].tolist(),
        "card_country": _countries(batch.card_country),
        "ip_country": _countries(batch.ip_country),
        "billing_country": _countries(batch.billing_country),
        "merchant_country": _countries(shops.country[batch.merchant]),
    }
    made = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [{name: value for name, value in body.items() if value is not None} for body in made]


def _minor(eur: draws.Floats, currency: npt.NDArray[np.str_], *, jpy_factor: int) -> list[int]:
    """Returns amounts in minor units, at least one unit of the currency's smallest coin."""
    factor = {code: minor * per_euro for code, (minor, per_euro) in towns.CURRENCIES.items()}
    factor["JPY"] *= jpy_factor
    amounts = eur * np.array([factor[code] for code in currency.tolist()])
    return [int(amount) for amount in np.maximum(np.rint(amounts), 1.0).tolist()]


def _names(prefix: str, keys: draws.Keys) -> list[str | None]:
    return [f"{prefix}_{key:016x}" if key else None for key in keys.tolist()]


def _ip(key: int) -> str | None:
    """Returns an address of the range for documentation (RFC 3849), so that it is nobody's."""
    return f"2001:db8:{key >> 48:x}:{key >> 32 & 0xFFFF:x}::{key >> 16 & 0xFFFF:x}" if key else None


def _countries(rows: draws.Ints) -> list[str | None]:
    return [towns.COUNTRIES[row] if row >= 0 else None for row in rows.tolist()]
