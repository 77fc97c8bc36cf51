"""Stripe's shapes where no client has to be asked: forms, objects, events, and a log that takes nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import FraudLog
from tests.http.callers import Client, started_host

from decalog.access import Access, TokenStore
from decalog.candidates import Candidate
from decalog.clock import ManualClock
from decalog.errors import LogUnavailableError, RequestError
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.http.webhooks import signature
from decalog.http.wires import Asked
from decalog.outcomes import Outcome
from decalog.schema import Field
from decalog.systems.fraud import wire_objects as objects
from decalog.systems.fraud import wire_stripe
from decalog.systems.fraud.schema import PAYMENT
from decalog.systems.fraud.system import SYSTEM
from decalog.systems.fraud.wire_events import report_of
from decalog.systems.fraud.wire_form import canonical, payment_of, read_form
from decalog.systems.fraud.wire_objects import Payment
from decalog.systems.fraud.wire_stripe import Stripe

PAY = "amount=1234&currency=eur&confirm=true&payment_method=pm_1"


@pytest.fixture
def host(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Host]:
    with started_host(tmp_path, runner, wire=SYSTEM.wire) as made:
        yield made


@pytest.fixture
def client(host: Host, runner: asyncio.Runner, tmp_path: Path) -> Iterator[Client]:
    tokens = TokenStore(tmp_path / "control.sqlite", ManualClock(0))
    key = tokens.create(["decide", "outcomes", "admin"])[1]
    basic = base64.b64encode(f"{key}:".encode()).decode()
    yield Client(runner, App(host, HttpSettings(), access=Access(tokens)), {"Authorization": f"Basic {basic}"})
    tokens.close()


def bearer(client: Client) -> dict[str, str]:
    key = base64.b64decode(client.headers["Authorization"].removeprefix("Basic ")).decode().rstrip(":")
    return {"Authorization": f"Bearer {key}"}


def error_of(answer: Any, status: int) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert answer.status_code == status, error
    return error


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("payment_method=pm_1&source=tok_1", {"card": "pm_1"}),
        ("source=tok_1&metadata[card]=fp_1", {"card": "fp_1"}),
        ("metadata[email]=a%40b.c&receipt_email=x", {"email": "a@b.c"}),
        ("payment_method_data[billing_details][address][country]=DE", {"billing_country": "DE"}),
        ("payment_method_options[card][moto]=true", {"channel": "moto"}),
        ("metadata[channel]=pos&metadata[unknown]=1", {"channel": "pos"}),
        ("on_behalf_of=acct_1&transfer_data[destination]=acct_2", {"merchant": "acct_1"}),
        ("radar_options[session]=rse_1&metadata[ip]=192.0.2.1", {"device": "rse_1", "ip": "192.0.2.1"}),
    ],
)
def test_a_form_becomes_a_payment(sent: str, expected: dict[str, str]) -> None:
    body = payment_of(read_form(f"amount=12&currency=jpy&{sent}".encode()), "pi_1", kind=PAYMENT)
    assert body == {"id": "pi_1", "amount_minor": 12, "currency": "JPY", "channel": "ecom"} | expected


def test_signals_of_a_users_own_are_metadata() -> None:
    fields = (
        Field(name="score", kind="float", meaning="A score."),
        Field(name="tries", kind="int", meaning="Tries."),
        Field(name="known", kind="flag", meaning="Known."),
    )
    kind = msgspec.structs.replace(PAYMENT, fields=PAYMENT.fields + fields)
    sent = "amount=12&currency=eur&metadata[score]=0.5&metadata[tries]=3&metadata[known]=true"
    body = payment_of(read_form(sent.encode()), "pi_1", kind=kind)
    assert (body["score"], body["tries"], body["known"]) == (0.5, 3, True)
    with pytest.raises(RequestError, match=r"fraud payment, metadata\[tries\]: no int\. Expected a number"):
        payment_of(read_form(b"amount=12&currency=eur&metadata[tries]=many"), "pi_1", kind=kind)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("currency=eur", "fraud payment, amount: no amount. Expected the required parameter amount. Send it."),
        ("amount=1", "fraud payment, currency: no currency. Expected the required parameter currency. Send it."),
        ("amount=-1&currency=eur", "fraud payment, amount: no whole number. Expected digits alone"),
        ("amount=1_0&currency=eur", "fraud payment, amount: no whole number."),
        ("amount=٣&currency=eur", "fraud payment, amount: no whole number."),
        ("amount=5&currency=isk", "fraud payment, amount: an amount that the currency does not have"),
        ("amount=1&currency=eur&a=%ff", "request, body: no form in UTF-8, or too many fields"),
        ("amount=1&currency=eur&description=4242+4242+4242+4242", "fraud payment, description: what reads like the"),
        ("amount=1&currency=eur&card[number]=378282246310005", "fraud payment, card: what reads like the number"),
    ],
)
def test_a_form_that_makes_no_payment_is_refused(sent: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        payment_of(read_form(sent.encode()), "pi_1", kind=PAYMENT)
    assert message in str(caught.value)
    assert "4242" not in str(caught.value)


def test_numbers_that_are_no_cards_are_taken() -> None:
    for text in ("4242424242424241", "+4242424242424242", "0000000000000000", "42424242424", "order 4242424242424242"):
        assert read_form(f"a={text}".replace("+", "%2B").encode())


def test_the_same_parameters_in_another_order_are_the_same_request() -> None:
    forms = [read_form(text) for text in (b"a=1&b[]=2&b[]=3", b"b[1]=2&b[2]=3&a=1", b"a=1&b[1]=2", b"a=1&b[1]=2%0a0")]
    texts = [canonical("pay", form) for form in forms]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    assert canonical("pay", {"a": "1\n1 b=2"}) != canonical("pay", {"a": "1", "b": "2"})


def made(log: FraudLog, *, score: float | None, action: str, **changes: Any) -> Payment:
    decision = log.decide(f"p-{score}-{action}", 0)
    candidate = Candidate("p", predictions={} if score is None else {"p_fraud": score})
    choice = msgspec.structs.replace(
        decision.choice, slots=(msgspec.structs.replace(decision.choice.slots[0], ref=action),)
    )
    decision = msgspec.structs.replace(decision, candidates=(candidate,), choice=choice, **changes)
    return Payment(log.log.get(log.log.position - 1), decision, ())


@pytest.mark.parametrize(
    ("score", "action", "expected"),
    [
        (0.80, "block", ("blocked", "highest", 80, "highest_risk_level", False)),
        (0.70, "review", ("manual_review", "elevated", 70, "elevated_risk_level", False)),
        (0.70, "block", ("blocked", "elevated", 70, "rule", True)),
        (0.01, "step_up", ("step_up", "normal", 1, "rule", True)),
        (None, "review", ("manual_review", "unknown", None, "rule", True)),
        (0.90, "allow", ("authorized", "highest", 90, None, False)),
    ],
)
def test_an_outcome_reads_like_radars(tmp_path: Path, score: float | None, action: str, expected: Any) -> None:
    outcome = objects.charge(made(FraudLog(tmp_path), score=score, action=action))["outcome"]
    told = (outcome["type"], outcome["risk_level"], outcome["risk_score"], outcome["reason"], bool(outcome["rule"]))
    assert told == expected


@pytest.mark.parametrize(("taken", "status"), [("", "succeeded"), ("block", "requires_payment_method")])
def test_in_shadow_the_callers_own_action_is_told(tmp_path: Path, taken: str, status: str) -> None:
    payment = made(FraudLog(tmp_path), score=0.9, action="review", mode="shadow", taken=taken)
    told = objects.payment_intent(payment)
    assert (told["status"], told["livemode"], told["review"]) == (status, False, None)


def test_a_verdict_of_neither_0_nor_1_is_none(tmp_path: Path) -> None:
    payment = made(FraudLog(tmp_path), score=0.1, action="allow")
    told = [(payment.record, Outcome("v", payment.id, "analyst_verdict", "analyst", 0, value)) for value in (0, 0.5, 7)]
    assert objects.charge(payment._replace(reports=told))["fraud_details"] == {"user_report": "safe"}
    assert objects.charge(payment._replace(reports=told[1:]))["fraud_details"] == {}


def test_amounts_go_to_stripes_unit_and_back() -> None:
    for currency, amount in (("EUR", 1), ("JPY", 7), ("KWD", 1_230), ("MGA", 3), ("UGX", 500)):
        minor = objects.minor_of(amount, currency)
        assert minor is not None
        assert objects.amount_of(minor, currency) == amount


def test_a_dispute_whose_payment_is_not_logged_tells_its_own_amount() -> None:
    told = Outcome("dp_1", "pi_9", "chargeback", "issuer", 7_000_000, 1.0, 500, "ISK")
    dispute = objects.dispute(None, told)
    assert (dispute["amount"], dispute["currency"], dispute["created"]) == (50_000, "isk", 7)
    assert objects.dispute(None, msgspec.structs.replace(told, amount_minor=None, currency=""))["amount"] == 0
    lost = msgspec.structs.replace(told, id="dp_1.closed")
    assert objects.dispute(None, lost)["status"] == "lost"


BODY = {"id": "dp_1", "created": 100, "reason": "fraudulent", "amount": 5, "currency": "jpy", "charge": "ch_pi_1"}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("charge.dispute.created", {}, ("dp_1", "ch_pi_1", "chargeback", "issuer", 1, 5)),
        ("charge.dispute.created", {"payment_intent": "pi_1"}, ("dp_1", "pi_1", "chargeback", "issuer", 1, 5)),
        ("charge.dispute.created", {"charge": {"id": "ch_known"}}, ("dp_1", "known", "chargeback", "issuer", 1, 5)),
        ("charge.dispute.closed", {"status": "lost"}, ("dp_1.closed", "ch_pi_1", "chargeback", "issuer", 1, 5)),
        ("charge.dispute.closed", {"status": "won"}, ("dp_1.closed", "ch_pi_1", "chargeback", "issuer", 0, 5)),
        ("charge.dispute.closed", {"status": "won", "reason": "duplicate"}, None),
        ("charge.dispute.created", {"status": "warning_needs_response"}, None),
        ("charge.dispute.closed", {"status": "warning_closed"}, None),
        (
            "charge.dispute.funds_withdrawn",
            {"status": "needs_response"},
            ("dp_1", "ch_pi_1", "chargeback", "issuer", 1, 5),
        ),
        ("radar.early_fraud_warning.created", {"reason": ""}, ("dp_1", "ch_pi_1", "fraud_warning", "network", 1, None)),
        (
            "review.closed",
            {"closed_reason": "approved"},
            ("dp_1.closed", "ch_pi_1", "analyst_verdict", "analyst", 0, None),
        ),
        ("review.closed", {"closed_reason": None}, None),
    ],
)
def test_an_event_is_read_as_what_it_reports(name: str, changes: dict[str, Any], expected: Any) -> None:
    raw = msgspec.json.encode({"type": name, "created": 200, "data": {"object": BODY | changes}})
    told = report_of(raw, lambda id_: id_ == "known")
    if expected is None:
        assert told is None
        return
    assert told is not None
    assert (told.id, told.payment, told.kind, told.source, told.value, told.amount_minor) == expected
    assert told.event_time == ("1970-01-01T00:03:20Z" if told.id.endswith(".closed") else "1970-01-01T00:01:40Z")


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"type": 1}', b'{"type": "review.closed", "created": 1, "data": {"object": 1}}', b"\xff"]
)
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match=r"event, body: no event of Stripe's\. Expected JSON with type"):
        report_of(raw, lambda _: True)


def test_a_log_that_takes_nothing_is_stripes_own_503(client: Client, host: Host) -> None:
    host.log.failed = LogUnavailableError(where="log", given="a full disk", expected="room", fix="Make room.")
    answer = client.post("/v1/payment_intents", content=PAY)
    assert error_of(answer, 503)["type"] == "api_error"
    assert answer.headers["retry-after"] == "1"


def test_a_report_that_cannot_be_taken_says_why(host: Host, runner: asyncio.Runner) -> None:
    stripe = Stripe(host, "fraud", now_s=lambda: 1_000.0, environ={"STRIPE_WEBHOOK_SECRET": "old,s"})

    async def send(amount: int) -> None:
        event = {"type": "charge.dispute.created", "created": 200, "data": {"object": BODY | {"amount": amount}}}
        raw = msgspec.json.encode(event)
        shown = {b"stripe-signature": signature("s", raw, at_s=1_000).encode()}
        await stripe._event(Asked(shown, (), b"", raw))

    runner.run(send(5))
    with pytest.raises(RequestError, match=r"fraud report, conflict: a report that was put into quarantine\. Expected"):
        runner.run(send(6))


def test_a_list_that_is_too_long_to_look_through_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_stripe, "_SEEN_AT_ONCE", 2)
    monkeypatch.setattr(wire_stripe, "_MOST_SEEN", 4)
    for _ in range(12):
        assert client.post("/v1/payment_intents", content=PAY).status_code == 200
    assert len(client.get("/v1/payment_intents?limit=3").json()["data"]) == 3
    page = client.get("/v1/payment_intents?limit=9").json()
    assert (len(page["data"]), page["has_more"]) == (4, True)
    message = error_of(client.get("/v1/disputes"), 400)["message"]
    assert "fraud list: a page that is not filled by the 4 newest records" in message


def test_only_stripes_own_callers_get_its_refusals(client: Client) -> None:
    assert "error" in client.get("/v1/nothing", headers={"Stripe-Version": "2026-10-28.endive"}).json()
    assert "error" in client.get("/v1/nothing", headers={"User-Agent": "Stripe/v1 PythonBindings/16.1.0"}).json()
    assert "where" in client.get("/v1/nothing").json()


TRANSFER = {
    "TxTp": "pacs.008.001.10",
    "FIToFICstmrCdtTrf": {
        "GrpHdr": {"MsgId": "m-1", "CreDtTm": "2026-03-01T12:00:00", "NbOfTxs": 1},
        "CdtTrfTxInf": {
            "PmtId": {"InstrId": "i-1", "EndToEndId": "e2e-1"},
            "IntrBkSttlmAmt": {"Amt": {"Amt": 31020.89, "Ccy": "USD"}},
            "Dbtr": {"Nm": "Ada L.", "Id": {"PrvtId": {"Othr": [{"Id": "person-3"}]}}},
            "DbtrAcct": {"Id": {"Othr": [{"Id": "acct-17"}]}},
        },
    },
}


def test_a_transfer_as_tazama_sends_it(client: Client) -> None:
    answer = client.post("/v1/evaluate/iso20022/pacs.008.001.10", TRANSFER, headers=bearer(client))
    told = answer.json()
    assert (answer.status_code, told["message"], told["data"]) == (200, "Transaction is valid", TRANSFER)
    assert told["report"]["status"] in ("ALRT", "NALT")
    logged = client.get("/v1/fraud/decisions/e2e-1", headers=bearer(client)).json()
    assert logged["attributes"]["amount_minor"] == 3_102_089
    assert "Ada" not in str(logged)
    status = {"FIToFIPmtSts": {"TxInfAndSts": {"OrgnlEndToEndId": "e2e-1", "TxSts": "ACCC"}}}
    answer = client.post("/v1/evaluate/iso20022/pacs.002.001.12", status, headers=bearer(client))
    assert answer.json() == {"message": "Transaction is valid", "data": status}


def test_transfers_whose_sender_gave_no_end_to_end_id_are_told_apart_by_another(client: Client, host: Host) -> None:
    for name, told in (("UETR", "u-1"), ("TxId", "t-1"), ("InstrId", "i-9")):
        ids = {"EndToEndId": "NOTPROVIDED", name: told}
        transfer = json.loads(json.dumps(TRANSFER))
        transfer["FIToFICstmrCdtTrf"]["CdtTrfTxInf"]["PmtId"] = ids
        assert client.post("/v1/evaluate/iso20022/pacs.008.001.10", transfer, headers=bearer(client)).status_code == 200
        original = {f"Orgnl{one}": id_ for one, id_ in ids.items()}
        status = {"FIToFIPmtSts": {"TxInfAndSts": original | {"StsRsnInf": {"Rsn": {"Cd": "FRAD"}}}}}
        assert client.post("/v1/evaluate/iso20022/pacs.002.001.12", status, headers=bearer(client)).status_code == 200
        assert [outcome.kind for _, outcome in host.outcomes("fraud", told)] == ["fraud_warning"]
    transfer["FIToFICstmrCdtTrf"]["CdtTrfTxInf"]["PmtId"] = {"EndToEndId": "NOTPROVIDED"}
    answer = client.post("/v1/evaluate/iso20022/pacs.008.001.10", transfer, headers=bearer(client))
    assert answer.status_code == 422
    assert answer.json()["message"] == "fraud payment: no id. Expected the required field id. Send it."


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("pacs.008.001.10", b"{", "ISO 20022 message: no JSON in UTF-8. Expected FIToFICstmrCdtTrf or FIToFIPmtSts"),
        ("pacs.008.001.10", b"[]", "ISO 20022 message: no amount of money (currency is not an ISO 4217 code)"),
        (
            "pacs.002.001.12",
            b'{"FIToFIPmtSts": []}',
            "ISO 20022 message: no payment. Expected FIToFIPmtSts.TxInfAndSts",
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_in_tazamas_form(
    client: Client, name: str, body: bytes, message: str
) -> None:
    answer = client.post(f"/v1/evaluate/iso20022/{name}", content=body, headers=bearer(client))
    told = answer.json()
    assert (answer.status_code, told["statusCode"], told["error"]) == (422, 422, "Unprocessable Entity")
    assert message in told["message"]
    assert client.post(f"/v1/evaluate/iso20022/{name}").json()["statusCode"] == 401
