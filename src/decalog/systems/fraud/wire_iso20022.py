"""ISO 20022 as Tazama's transaction monitoring takes it: a transfer is decided, a status that says fraud is an outcome.

Messages are JSON by the elements' names, without attributes: an amount is `{"Amt": {"Amt": 12.34, "Ccy": "EUR"}}`.
Sources: ISO 20022 pacs.008.001.10 and pacs.002.001.12, ExternalStatusReason1Code; Tazama's tms-service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from decalog.errors import RequestError
from decalog.host import Host
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import JSON
from decalog.http.wires import Asked, JsonWire, WireRoute
from decalog.money import to_minor
from decalog.systems.fraud.policy import ALLOW
from decalog.systems.fraud.wire_events import Reported, report

_TRANSFER = "FIToFICstmrCdtTrf.CdtTrfTxInf"
_STATUSES = ("FIToFIPmtSts.TxInfAndSts", "FIToFIPmtStsRpt.TxInfAndSts")
"""Where a status stands: in Tazama's messages, and by the standard's own name."""

_AMOUNT = f"{_TRANSFER}.IntrBkSttlmAmt.Amt"
_IDS, _NO_ID = ("EndToEndId", "UETR", "TxId", "InstrId"), "NOTPROVIDED"
"""Elements that name a transfer, the first that does; and what stands in the first where its sender gave none."""
_FRAUD = "FRAD"
"""Reason of a status: the transaction was, or is suspected to be, a fraud."""

# Field of the payment → element. The creditor is left out: `merchant` is public, and a creditor may be a person.
_FIELDS: Mapping[str, str] = {
    "card": f"{_TRANSFER}.DbtrAcct.Id.Othr.Id",
    "customer": f"{_TRANSFER}.Dbtr.Id.PrvtId.Othr.Id",
    "cardholder": f"{_TRANSFER}.Dbtr.Nm",
    "currency": f"{_AMOUNT}.Ccy",
    "event_time": "FIToFICstmrCdtTrf.GrpHdr.CreDtTm",
}


class Iso20022(JsonWire):
    """Tazama's two routes for one system of a host.

    Args:
        host: decides.
        system: its name.
    """

    def __init__(self, host: Host, system: str) -> None:
        self._host = host
        self._system = system
        base = "/v1/evaluate/iso20022"
        self.routes = (
            WireRoute("iso20022_transfer", "POST", f"{base}/pacs.008.001.10", "decide", self._transfer),
            WireRoute("iso20022_status", "POST", f"{base}/pacs.002.001.12", "outcomes", self._status),
        )

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal in the form of Tazama's server."""
        words = HTTPStatus(refusal.status).phrase
        told = {"statusCode": refusal.status, "error": words, "message": str(refusal.error)}
        return Answer(refusal.status, msgspec.json.encode(told), JSON + refusal.headers)

    async def _transfer(self, asked: Asked) -> Answer:
        message = _read(asked.body)
        body = {name: text for name, path in _FIELDS.items() if (text := _at(message, path)) is not None}
        body |= _id_of(_at(message, f"{_TRANSFER}.PmtId"))
        if not re.search(r"(Z|[+-]\d\d:\d\d)$", str(body.get("event_time", ""))):
            body.pop("event_time", None)
        try:
            body["amount_minor"] = to_minor(str(_at(message, f"{_AMOUNT}.Amt")), str(body.get("currency")))
        except ValueError as error:
            raise _no_message(f"no amount of money ({error})", _AMOUNT) from None
        reply = await self._host.decide(self._system, msgspec.json.encode(body))
        told = reply.body
        status = "NALT" if told["action"] == ALLOW else "ALRT"
        result = {"evaluationID": told["decision_id"], "status": status, "timestamp": told["known_time"]}
        return _valid(message, report=result | {name: told[name] for name in ("action", "predictions", "reasons")})

    async def _status(self, asked: Asked) -> Answer:
        message = _read(asked.body)
        told = _at(message, _STATUSES[0]) or _at(message, _STATUSES[1])
        id_ = _id_of(told, "Orgnl").get("id")
        if not isinstance(id_, str):
            raise _no_message("no payment", f"{_STATUSES[0]}.OrgnlEndToEndId")
        if _at(told, "StsRsnInf.Rsn.Cd") == _FRAUD:
            reported = Reported(f"pacs.002.{id_}", id_, "fraud_warning", "network", 1)
            await report(self._host, self._system, reported=reported)
        return _valid(message)


def _valid(message: Any, **further: Any) -> Answer:
    told = {"message": "Transaction is valid", "data": message, **further}
    return Answer(200, msgspec.json.encode(told), JSON)


def _read(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _no_message("no JSON in UTF-8", "FIToFICstmrCdtTrf or FIToFIPmtSts") from None


def _at(message: Any, path: str) -> Any:
    """Returns what stands at a path of elements, None where it is not there; of several the first.

    >>> _at({"Id": {"Othr": [{"Id": "7"}, {"Id": "8"}]}}, "Id.Othr.Id")
    '7'
    """
    for name in path.split("."):
        message = message[0] if isinstance(message, list) and message else message
        message = message.get(name) if isinstance(message, dict) else None
    return message


def _id_of(message: Any, before: str = "") -> dict[str, Any]:
    """Returns what names a transfer as the id of its payment, nothing where nothing does.

    >>> _id_of({"EndToEndId": "NOTPROVIDED", "TxId": "t-1"})
    {'id': 't-1'}
    """
    told = (_at(message, before + name) for name in _IDS)
    return next(({"id": id_} for id_ in told if id_ not in (None, _NO_ID)), {})


def _no_message(given: str, expected: str) -> RequestError:
    return RequestError(where="ISO 20022 message", given=given, expected=expected, fix="Send it as Tazama takes it.")
