"""The `stripe` library from PyPI, unmodified, with its address set to our server."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.clients.processes import PATIENCE_S, decalog, served
from tests.homes import add_model, fill_home, rule

from decalog.admin import create_token
from decalog.home import Home
from decalog.outcomes import decode_outcome

stripe = pytest.importorskip("stripe", reason="no stripe library: `make test` installs it")

ALLOWED, STEPPED_UP, REVIEWED, BLOCKED = 200, 400, 1_000, 300_000
"""Amounts that the rule of the test's home and its costs decide so."""

COSTS = "step_up_frauds_pass_bp = 6000\ngoodwill_minor = 5000\nmargin_bp = 200\n"
RATES = 'base = "EUR"\n[rates]\nJPY = "0.0061"\nISK = "0.007"\n'
INCOMING = "whsec_of_the_test"
CARD = "4242 4242 4242 4242"


class Shop(NamedTuple):
    """A home, its server, a key that may do everything, and the library's client for them."""

    home: Path
    url: str
    key: str
    client: Any

    def pay(self, amount: int | str, **further: Any) -> Any:
        options = {"idempotency_key": further.pop("key")} if "key" in further else {}
        params = {"amount": amount, "currency": "eur", "payment_method": "pm_1", "confirm": True}
        return self.client.v1.payment_intents.create(params | further, options)

    def decided(self, id_: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/v1/fraud/decisions/{id_}", headers=self.headers)
        body: dict[str, Any] = answer.json()
        return body

    def event(
        self, name: str, body: dict[str, Any], *, secret: str = INCOMING, at: int | None = None
    ) -> httpx.Response:
        raw = json.dumps({"id": "evt_1", "object": "event", "type": name, "created": NOW, "data": {"object": body}})
        shown = stripe.WebhookSignature.generate_signature_header(raw, secret, at)
        return httpx.post(f"{self.url}/v1/stripe/events", content=raw, headers={"Stripe-Signature": shown})

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


NOW = int(time.time())


@contextmanager
def opened(home: Path, key: str) -> Iterator[Shop]:
    words = ("--policy", str(home / "costs.toml"), "--rates", str(home / "rates.toml"))
    with served(home, *words, environ={"STRIPE_WEBHOOK_SECRET": INCOMING}) as server:
        yield Shop(home, server.url, key, stripe.StripeClient(key, base_addresses={"api": server.url}))


def new_home(root: Path) -> tuple[Path, str]:
    fill_home(root, champion=False)
    add_model(root, rule(limit=300.0))
    (root / "costs.toml").write_text(COSTS)
    (root / "rates.toml").write_text(RATES)
    return root, token(root, "decide", "outcomes", "admin")


def token(home: Path, *scopes: str) -> str:
    return create_token(Home(home), scopes, systems=(), note="", lifetime="")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with opened(*new_home(tmp_path_factory.mktemp("stripe") / "home")) as made:
        yield made


def test_an_allowed_payment_succeeds_with_its_outcome(shop: Shop) -> None:
    made = shop.pay(ALLOWED, expand=["latest_charge"], metadata={"mcc": "5411", "ip": "192.0.2.7"})
    assert (made.status, made.amount, made.currency, made.review, made.next_action) == (
        *("succeeded", ALLOWED, "eur"),
        *(None, None),
    )
    outcome = made.latest_charge.outcome
    assert (outcome.type, outcome.risk_level, outcome.risk_score, outcome.rule) == ("authorized", "normal", 0, None)
    assert made.latest_charge.paid
    assert made.metadata.to_dict() == {"channel": "ecom", "mcc": "5411"}
    assert shop.client.v1.charges.retrieve(made.latest_charge.id).to_dict() == made.latest_charge.to_dict()
    assert shop.decided(made.id)["action"] == "allow"


def test_the_older_way_of_calling_the_library_works_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "api_base", shop.url)
    monkeypatch.setattr(stripe, "api_key", shop.key)
    made = stripe.Charge.create(amount=ALLOWED, currency="eur", source="tok_1")
    assert (made.status, made.outcome.type) == ("succeeded", "authorized")
    assert stripe.PaymentIntent.retrieve(made.payment_intent).latest_charge == made.id


def test_a_step_up_requires_action(shop: Shop) -> None:
    made = shop.pay(STEPPED_UP)
    assert (made.status, made.next_action.use_stripe_sdk.type) == ("requires_action", "step_up")
    assert shop.client.v1.payment_intents.confirm(made.id).to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("ended", "status", "outcomes"),
    [("Y", "succeeded", [1.0]), ("N", "requires_payment_method", [0.0]), ("C", "requires_action", [])],
)
def test_how_a_step_up_ended_is_told_when_it_is_confirmed(
    shop: Shop, ended: str, status: str, outcomes: list[float]
) -> None:
    made = shop.pay(STEPPED_UP)
    card = {
        "three_d_secure": {"ares_trans_status": ended, "cryptogram": "", "transaction_id": "t-1", "version": "2.2.0"}
    }
    for _ in range(2):
        told = shop.client.v1.payment_intents.confirm(made.id, {"payment_method_options": {"card": card}})
        assert told.status == status
    charge = shop.client.v1.charges.retrieve(made.latest_charge)
    assert (charge.status, charge.paid) == {
        "Y": ("succeeded", True),
        "N": ("failed", False),
        "C": ("pending", False),
    }[ended]
    with closing(Home(shop.home).reader()) as log:
        found = [decode_outcome(log.get(seq).body) for seq in log.find("target", f"fraud/{made.id}")]
    assert [outcome.value for outcome in found if outcome.kind == "authentication"] == outcomes


def test_a_review_is_listed_and_approved(shop: Shop) -> None:
    made = shop.pay(REVIEWED, expand=["review"])
    assert (made.status, made.amount_capturable, made.review.open) == ("requires_capture", REVIEWED, True)
    assert made.review.id in [one.id for one in shop.client.v1.reviews.list({"limit": 100}).data]
    approved = shop.client.v1.reviews.approve(made.review.id)
    assert (approved.open, approved.closed_reason) == (False, "approved")
    assert shop.client.v1.reviews.approve(made.review.id).to_dict() == approved.to_dict()
    assert shop.client.v1.reviews.retrieve(made.review.id).to_dict() == approved.to_dict()
    with pytest.raises(stripe.InvalidRequestError, match="a payment that is not in review"):
        shop.client.v1.reviews.approve(f"prv_{shop.pay(ALLOWED).id}")


def test_an_analyst_calls_a_payment_a_fraud_and_safe_again(shop: Shop) -> None:
    made = shop.client.v1.charges.retrieve(shop.pay(REVIEWED).latest_charge)
    assert made.mark_as_fraudulent().fraud_details.user_report == "fraudulent"
    with pytest.raises(stripe.InvalidRequestError, match="a review closed as a fraud"):
        shop.client.v1.reviews.approve(made.review)
    assert made.mark_as_safe().fraud_details.user_report == "safe"
    assert made.mark_as_fraudulent().fraud_details.user_report == "fraudulent"
    assert shop.client.v1.reviews.retrieve(made.review).closed_reason == "refunded_as_fraud"


def test_a_blocked_payment_is_a_declined_card(shop: Shop) -> None:
    with pytest.raises(stripe.CardError, match="fraud payment: a payment that is blocked") as caught:
        shop.pay(BLOCKED)
    error = caught.value.error
    assert (error.code, error.decline_code) == ("card_declined", "fraudulent")
    outcome = error.payment_intent.latest_charge.outcome
    assert (outcome.type, outcome.reason, outcome.network_status) == ("blocked", "rule", "not_sent_to_network")
    assert "block is expected to cost" in outcome.seller_message
    again = shop.client.v1.payment_intents.retrieve(error.payment_intent.id)
    assert (again.status, again.last_payment_error.charge) == ("requires_payment_method", again.latest_charge)


def test_a_retry_with_its_key_gets_what_was_logged(shop: Shop) -> None:
    first = shop.pay(ALLOWED, key="order-7", metadata={"order": "7"})
    again = shop.pay(ALLOWED, key="order-7", metadata={"order": "7"})
    assert again.to_dict() == first.to_dict()
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    for further in ({"metadata": {"order": "8"}}, {"currency": "jpy"}, {"confirm": False}):
        with pytest.raises(stripe.IdempotencyError, match="a key that was used before with other parameters") as caught:
            shop.pay(ALLOWED, key="order-7", **{"metadata": {"order": "7"}, **further})
        assert caught.value.http_status == 400
    params: Any = {"amount": ALLOWED, "currency": "eur", "source": "pm_1", "metadata": {"order": "7"}}
    with pytest.raises(stripe.IdempotencyError):
        shop.client.v1.charges.create(params, {"idempotency_key": "order-7"})


def test_an_intent_is_decided_when_it_is_confirmed(shop: Shop) -> None:
    held = shop.pay(STEPPED_UP, confirm=False, payment_method="", key="basket-1")
    assert held.status == "requires_payment_method"
    assert shop.pay(STEPPED_UP, confirm=False, payment_method="", key="basket-1").to_dict() == held.to_dict()
    assert shop.client.v1.payment_intents.retrieve(held.id).to_dict() == held.to_dict()
    with pytest.raises(stripe.IdempotencyError):
        shop.pay(ALLOWED, confirm=False, payment_method="", key="basket-1")
    with pytest.raises(stripe.IdempotencyError):
        shop.pay(STEPPED_UP, key="basket-1")
    assert "payment" not in shop.decided(held.id)
    made = shop.client.v1.payment_intents.confirm(held.id, {"payment_method": "pm_2"})
    assert (made.id, made.status) == (held.id, "requires_action")
    assert shop.client.v1.payment_intents.retrieve(held.id).to_dict() == made.to_dict()


def test_lists_go_on_to_the_last_page(shop: Shop) -> None:
    ids = [shop.pay(ALLOWED).id for _ in range(5)]
    since = shop.client.v1.payment_intents.retrieve(ids[0]).created
    page = shop.client.v1.payment_intents.list({"limit": 2, "created": {"gte": since}})
    assert (len(page.data), page.has_more) == (2, True)
    seen = [one.id for one in page.auto_paging_iter()]
    assert seen[:5] == ids[::-1]
    assert len(set(seen)) == len(seen)
    for params in ({"limit": 0}, {"limit": 101}, {"ending_before": ids[0]}):
        with pytest.raises(stripe.InvalidRequestError, match="a page that is not served"):
            shop.client.v1.payment_intents.list(params)
    (only,) = shop.client.v1.charges.list({"payment_intent": ids[0]}).data
    assert only.payment_intent == ids[0]


def test_refusals_are_the_librarys_own_errors(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="an id that no decision has") as caught:
        shop.client.v1.payment_intents.retrieve("pi_nobodys")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="an id that no such object has"):
        shop.client.v1.disputes.retrieve(shop.pay(ALLOWED).id)
    with pytest.raises(stripe.InvalidRequestError, match="fraud payment, amount: no amount") as caught:
        shop.client.v1.payment_intents.create({"currency": "eur", "confirm": True})
    assert (caught.value.param, caught.value.code) == ("amount", "parameter_missing")
    with pytest.raises(stripe.InvalidRequestError, match="no whole number") as caught:
        shop.pay("12.5")
    assert caught.value.param == "amount"
    with pytest.raises(stripe.InvalidRequestError, match="no ISO 4217 code"):
        shop.pay(ALLOWED, currency="eux")
    with pytest.raises(stripe.InvalidRequestError, match="request, path"):
        shop.client.v1.customers.list()
    with pytest.raises(stripe.InvalidRequestError, match="Expected POST, GET"):
        shop.client.raw_request("delete", "/v1/payment_intents")


def test_keys_are_our_tokens(shop: Shop) -> None:
    with pytest.raises(stripe.AuthenticationError, match="no token of the form"):
        stripe.StripeClient("sk_test_123", base_addresses={"api": shop.url}).v1.payment_intents.list()
    decides = stripe.StripeClient(token(shop.home, "decide"), base_addresses={"api": shop.url})
    assert decides.v1.payment_intents.list({"limit": 1})
    with pytest.raises(stripe.PermissionError, match="Expected scope admin"):
        decides.v1.webhook_endpoints.list()
    answer = httpx.get(f"{shop.url}/v1/payment_intents", params={"limit": 1}, auth=(shop.key, ""))
    assert answer.json()["object"] == "list"
    answer = httpx.get(f"{shop.url}/v1/payment_intents", headers={"Authorization": "Basic %"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")


@pytest.mark.parametrize(("currency", "amount", "minor"), [("jpy", 200, 200), ("isk", 500, 5)])
def test_amounts_are_in_the_currencys_own_unit(shop: Shop, currency: str, amount: int, minor: int) -> None:
    made = shop.pay(amount, currency=currency)
    assert (made.amount, made.currency) == (amount, currency)
    assert shop.decided(made.id)["attributes"]["amount_minor"] == minor


def test_an_amount_that_a_currency_does_not_have_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="an amount that the currency does not have"):
        shop.pay(501, currency="isk")
    with pytest.raises(stripe.InvalidRequestError, match="for which there is no rate") as caught:
        shop.pay(ALLOWED, currency="chf")
    assert caught.value.param == "currency"


def test_large_and_foreign_texts(shop: Shop) -> None:
    assert shop.pay(ALLOWED, description="x" * 1_000_000).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="length <= 256") as caught:
        shop.pay(ALLOWED, metadata={"device": "x" * 1_000_000})
    assert caught.value.param == "device"
    with pytest.raises(stripe.InvalidRequestError, match="a body that is too long"):
        shop.pay(ALLOWED, description="x" * 2_000_000)
    with pytest.raises(stripe.InvalidRequestError, match="too many fields"):
        shop.pay(ALLOWED, metadata={f"m{number}": "1" for number in range(1_001)})
    name = "Zażółć 店 🧾"
    made = shop.pay(ALLOWED, metadata={"merchant": name})
    assert shop.client.v1.payment_intents.retrieve(made.id).metadata["merchant"] == name


def test_nothing_personal_comes_back_and_card_numbers_are_refused(shop: Shop) -> None:
    personal = {"receipt_email": "ada@example.org", "customer": "cus_ada", "payment_method": "pm_ada"}
    billing = {"name": "Ada L.", "address": {"country": "DE"}}
    made = shop.pay(
        REVIEWED,
        **personal,
        payment_method_data={"type": "card", "billing_details": billing},
        metadata={"ip": "192.0.2.99", "device": "device-ada"},
        expand=["latest_charge", "review"],
    )
    told = json.dumps([made.to_dict(), shop.decided(made.id)])
    for value in (*personal.values(), "Ada L.", "192.0.2.99", "device-ada"):
        assert value not in told
    assert made.metadata["billing_country"] == "DE"
    data = {"type": "card", "card": {"number": CARD, "exp_month": 1, "exp_year": 2030}}
    with pytest.raises(stripe.InvalidRequestError, match="what reads like the number of a card") as caught:
        shop.pay(ALLOWED, payment_method_data=data)
    assert caught.value.param == "payment_method_data"
    assert CARD.replace(" ", "") not in str(caught.value)
    for path in shop.home.rglob("*"):
        if path.is_file():
            assert not [secret for secret in (CARD, "ada@example.org") if secret.encode() in path.read_bytes()], path


def test_a_review_that_an_analyst_holds_at_the_desk_is_not_approved_beside_it(shop: Shop) -> None:
    made = shop.pay(REVIEWED)
    for act, status in (("claim", "claimed"), ("release", "waiting")):
        case = httpx.post(f"{shop.url}/v1/fraud/cases/{made.id}/{act}", headers=shop.headers, json={"by": "ana"})
        assert case.json()["state"] == status
        if status == "claimed":
            with pytest.raises(stripe.InvalidRequestError, match="a payment that an analyst holds"):
                shop.client.v1.reviews.approve(made.review)
    assert shop.client.v1.reviews.approve(made.review).closed_reason == "approved"
    case = httpx.get(f"{shop.url}/v1/fraud/cases/{made.id}", headers=shop.headers).json()
    assert (case["state"], case["verdict"]) == ("closed", 0)


def test_a_dispute_is_filed_and_read_back(shop: Shop) -> None:
    made = shop.pay(ALLOWED)
    answer = shop.client.raw_request("post", "/v1/disputes", payment_intent=made.id)
    filed = shop.client.deserialize(answer, api_mode="V1")
    assert (filed.object, filed.amount, filed.status) == ("dispute", ALLOWED, "needs_response")
    assert shop.client.v1.disputes.retrieve(filed.id).to_dict() == filed.to_dict()
    assert [one.id for one in shop.client.v1.disputes.list({"payment_intent": made.id}).data] == [filed.id]
    assert shop.client.v1.charges.retrieve(made.latest_charge).disputed
    with pytest.raises(stripe.InvalidRequestError, match="an id that no decision has"):
        shop.client.raw_request("post", "/v1/disputes", payment_intent="pi_nobodys")
    answer = shop.client.raw_request("post", "/v1/disputes", payment_intent=made.id, amount=ALLOWED - 1)
    assert shop.client.deserialize(answer, api_mode="V1").amount == ALLOWED - 1
    for wrong in ({"reason": "product_not_received"}, {"amount": "much"}):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            shop.client.raw_request("post", "/v1/disputes", payment_intent=made.id, **wrong)
        assert caught.value.param == next(iter(wrong))
    assert len(shop.client.v1.disputes.list({"payment_intent": made.id}).data) == 2
    with pytest.raises(stripe.InvalidRequestError, match=r"user_report: what reports no fraud\. Expected safe or"):
        shop.client.v1.charges.update(made.latest_charge, {"fraud_details": {"user_report": "unsure"}})
    answer = shop.client.raw_request("post", "/v1/radar/early_fraud_warnings", charge=made.latest_charge)
    warned = shop.client.deserialize(answer, api_mode="V1")
    assert (warned.object, warned.actionable) == ("radar.early_fraud_warning", False)
    assert shop.client.v1.radar.early_fraud_warnings.list({"limit": 5}).data[0].id == warned.id


def test_signed_events_become_outcomes_once(shop: Shop) -> None:
    made = shop.pay(ALLOWED)
    body = {
        "id": f"dp_{made.id}",
        "object": "dispute",
        "charge": made.latest_charge,
        "amount": ALLOWED,
        "currency": "eur",
        "created": NOW,
        "reason": "fraudulent",
        "status": "needs_response",
    }
    for _ in range(2):
        answer = shop.event("charge.dispute.created", body)
        assert answer.json() == {"received": True, "logged": True}
    lost = shop.client.v1.disputes.retrieve(body["id"])
    assert (lost.payment_intent, lost.status, lost.amount) == (made.id, "needs_response", ALLOWED)
    shop.event("charge.dispute.closed", body | {"status": "won", "payment_intent": {"id": made.id}})
    assert shop.client.v1.disputes.retrieve(body["id"]).status == "won"
    assert len(shop.client.v1.disputes.list({"payment_intent": made.id}).data) == 1
    warning = {"id": f"issfr_{made.id}", "created": NOW, "payment_intent": made.id, "fraud_type": "misc"}
    assert shop.event("radar.early_fraud_warning.created", warning).json()["logged"]
    for name, changes in (
        ("charge.dispute.created", {"reason": "product_not_received"}),
        ("charge.dispute.closed", {"status": "warning_closed"}),
        ("customer.created", {}),
    ):
        assert shop.event(name, body | changes).json() == {"received": True, "logged": False}


def test_events_that_are_not_signed_so_are_refused(shop: Shop) -> None:
    body = {"id": "issfr_forged", "created": NOW, "payment_intent": "pi_any"}
    for secret, at in (("whsec_other", None), (INCOMING, NOW - 3_600), (INCOMING, NOW + 3_600)):
        answer = shop.event("radar.early_fraud_warning.created", body, secret=secret, at=at)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    answer = httpx.post(f"{shop.url}/v1/stripe/events", content=b"{}")
    assert "no signature of this body and of now" in answer.json()["error"]["message"]
    with pytest.raises(stripe.InvalidRequestError):
        shop.client.v1.radar.early_fraud_warnings.retrieve("issfr_forged")


class Receiver(NamedTuple):
    """A loopback server that keeps what it is sent: path, signature, body."""

    url: str
    got: queue.Queue[tuple[str, str, bytes]]

    def event(self, secret: str) -> Any:
        _, signature, body = self.got.get(timeout=PATIENCE_S)
        return stripe.Webhook.construct_event(body, signature, secret)


@contextmanager
def receiving(answers: Callable[[int], int] = lambda _number: 200, port: int = 0) -> Iterator[Receiver]:
    got: queue.Queue[tuple[str, str, bytes]] = queue.Queue()
    seen = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(body)
            status = answers(len(seen))
            if status == 200:
                got.put((self.path, self.headers["Stripe-Signature"], body))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its base's name
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Receiver(f"http://127.0.0.1:{server.server_port}/hooks?shop=1", got)
        server.shutdown()
        thread.join()


def test_webhooks_are_signed_and_tell_what_asks_for_a_reaction(shop: Shop) -> None:
    with receiving(answers=lambda number: (500, 302, 200)[min(number, 3) - 1]) as receiver:
        endpoint = shop.client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
        shop.pay(ALLOWED)
        reviewed = shop.pay(REVIEWED)
        with pytest.raises(stripe.CardError):
            shop.pay(BLOCKED)
        shop.client.v1.reviews.approve(reviewed.review)
        shop.client.raw_request("post", "/v1/disputes", payment_intent=reviewed.id)
        path, signature, body = receiver.got.get(timeout=PATIENCE_S)
        assert path == "/hooks?shop=1"
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body, signature, "whsec_other")
        first = stripe.Webhook.construct_event(body, signature, endpoint.secret)
        events = [first, *(receiver.event(endpoint.secret) for _ in range(3))]
        assert [event.type for event in events] == [
            *("review.opened", "payment_intent.payment_failed"),
            *("review.closed", "charge.dispute.created"),
        ]
        assert first.data.object.id == reviewed.review
        assert len({event.id for event in events}) == 4
        assert events[2].data.object.closed_reason == "approved"
        shop.client.v1.webhook_endpoints.delete(endpoint.id)
    assert endpoint.id not in [one.id for one in shop.client.v1.webhook_endpoints.list().data]
    with pytest.raises(stripe.InvalidRequestError, match="an id that none has"):
        shop.client.v1.webhook_endpoints.retrieve(endpoint.id)


def test_the_secret_of_an_endpoint_is_shown_once(shop: Shop) -> None:
    params: Any = {"url": "http://127.0.0.1:9/", "enabled_events": ["review.opened"]}
    made = shop.client.v1.webhook_endpoints.create(params, {"idempotency_key": "hook-1"})
    assert made.secret.startswith("whsec_")
    assert shop.client.v1.webhook_endpoints.create(params, {"idempotency_key": "hook-1"}).to_dict() == made.to_dict()
    assert "secret" not in shop.client.v1.webhook_endpoints.retrieve(made.id)
    assert not [
        path for path in shop.home.rglob("*") if path.is_file() and made.secret[6:].encode() in path.read_bytes()
    ]
    shop.client.v1.webhook_endpoints.delete(made.id)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://10.0.0.1/hooks", "a host in a private network"),
        ("http://169.254.169.254/latest", "a host in a private network"),
        ("http://[::ffff:192.168.0.1]/", "a host in a private network"),
        ("ftp://127.0.0.1/", "an address that cannot be called"),
        ("http://user:word@127.0.0.1/", "an address that cannot be called"),
        ("http://127.0.0.1/a b", "an address that cannot be called"),
        ("", "an address that cannot be called"),
    ],
)
def test_webhooks_go_only_where_they_may(shop: Shop, url: str, message: str) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=message):
        shop.client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["*"]})


def test_a_crash_loses_no_webhook_and_no_intent(tmp_path: Path) -> None:
    home, key = new_home(tmp_path / "home")
    with receiving() as once:
        url = once.url
    port = int(url.rpartition(":")[2].partition("/")[0])
    words = ("--policy", str(home / "costs.toml"))
    with served(home, *words) as server:
        shop = Shop(home, server.url, key, stripe.StripeClient(key, base_addresses={"api": server.url}))
        endpoint = shop.client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["review.opened"]})
        wanted = [shop.pay(REVIEWED).review for _ in range(3)]
        held = shop.pay(STEPPED_UP, confirm=False)
        server.kill()
    with receiving(port=port) as receiver, served(home, *words) as server:
        told = [receiver.event(endpoint.secret).data.object.id for _ in wanted]
        client = stripe.StripeClient(key, base_addresses={"api": server.url})
        assert client.v1.payment_intents.confirm(held.id).status == "requires_action"
    assert told == wanted
    assert (Home(home).state / "fraud-webhooks.json").exists()


def test_decisions_through_the_wire_replay(shop: Shop) -> None:
    shop.pay(REVIEWED)
    told = json.loads(decalog("replay", "fraud", "--all", "--json", "--home", str(shop.home)))
    assert told["replayed"] == told["identical"] > 0
    decalog("parity", "fraud", "--home", str(shop.home))
