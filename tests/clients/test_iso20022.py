"""Messages built by `pyiso20022`, as Tazama's JSON, sent to our server's application."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from tests.http.callers import NOW, Client, started_host

from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.systems.fraud.system import SYSTEM

pytest.importorskip("pyiso20022", reason="no pyiso20022: `make test` installs it")
pytest.importorskip("xsdata", reason="no xsdata, which pyiso20022 needs: `make test` installs it")

from pyiso20022.pacs.pacs_002_001_12 import pacs_002_001_12 as statuses
from pyiso20022.pacs.pacs_008_001_10 import pacs_008_001_10 as transfers
from xsdata.models.datatype import XmlDateTime

BASE = "/v1/evaluate/iso20022"


def as_json(part: Any) -> Any:
    """Returns a message as Tazama has it: by the elements' names, an amount as an object of its own."""
    if dataclasses.is_dataclass(part):
        named = {
            field.metadata["name"]: getattr(part, field.name)
            for field in dataclasses.fields(part)
            if "name" in field.metadata
        }
        told = {name: as_json(value) for name, value in named.items() if value not in (None, [])}
        return {"Amt": {"Amt": float(part.value), **told}} if hasattr(part, "ccy") and hasattr(part, "value") else told
    if isinstance(part, list):
        return [as_json(one) for one in part]
    return part.value if isinstance(part, Enum) else str(part)


def transfer(name: str, amount: str) -> Any:
    bank = transfers.BranchAndFinancialInstitutionIdentification6(
        fin_instn_id=transfers.FinancialInstitutionIdentification18(bicfi="BANKDEFF")
    )
    account = transfers.GenericAccountIdentification1(id="acct-17")
    person = transfers.PersonIdentification13(othr=[transfers.GenericPersonIdentification1(id="person-3")])
    paid = transfers.CreditTransferTransaction50(
        pmt_id=transfers.PaymentIdentification13(end_to_end_id=name, instr_id="i-1"),
        intr_bk_sttlm_amt=transfers.ActiveCurrencyAndAmount(value=Decimal(amount), ccy="EUR"),
        chrg_br=transfers.ChargeBearerType1Code.DEBT,
        dbtr=transfers.PartyIdentification135(nm="Ada L.", id=transfers.Party38Choice(prvt_id=person)),
        dbtr_acct=transfers.CashAccount40(id=transfers.AccountIdentification4Choice(othr=account)),
        dbtr_agt=bank,
        cdtr_agt=bank,
        cdtr=transfers.PartyIdentification135(nm="Shop"),
    )
    head = transfers.GroupHeader96(
        msg_id="m-1",
        cre_dt_tm=XmlDateTime.from_string(NOW),
        nb_of_txs="1",
        sttlm_inf=transfers.SettlementInstruction11(sttlm_mtd=transfers.SettlementMethod1Code.CLRG),
    )
    message = transfers.FitoFicustomerCreditTransferV10(grp_hdr=head, cdt_trf_tx_inf=[paid])
    return as_json(transfers.Document(fito_ficstmr_cdt_trf=message))


def status(name: str, reason: str) -> Any:
    why = statuses.StatusReasonInformation12(rsn=statuses.StatusReason6Choice(cd=reason))
    told = statuses.PaymentTransaction130(orgnl_end_to_end_id=name, tx_sts="RJCT", sts_rsn_inf=[why])
    head = statuses.GroupHeader101(msg_id="m-2", cre_dt_tm=XmlDateTime.from_string(NOW))
    message = statuses.FitoFipaymentStatusReportV12(grp_hdr=head, tx_inf_and_sts=[told])
    return as_json(statuses.Document(fito_fipmt_sts_rpt=message))


@pytest.fixture
def host(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Host]:
    with started_host(tmp_path, runner, wire=SYSTEM.wire) as made:
        yield made


@pytest.fixture
def client(host: Host, runner: asyncio.Runner) -> Client:
    return Client(runner, App(host, HttpSettings(tokens=False), access=None), {})


def test_a_transfer_is_decided_and_a_status_of_fraud_is_a_warning(client: Client, host: Host) -> None:
    sent = transfer("e2e-1", "12.34")
    answer = client.post(f"{BASE}/pacs.008.001.10", sent).json()
    assert (answer["message"], answer["data"], answer["report"]["status"]) == ("Transaction is valid", sent, "NALT")
    logged = client.get("/v1/fraud/decisions/e2e-1").json()
    assert logged["decision_id"] == answer["report"]["evaluationID"]
    assert (logged["attributes"]["amount_minor"], logged["event_time"]) == (1234, NOW)
    for reason, warned in (("AC04", 0), ("FRAD", 1), ("FRAD", 1)):
        assert client.post(f"{BASE}/pacs.002.001.12", status("e2e-1", reason)).status_code == 200
        assert len(host.outcomes("fraud", "e2e-1")) == warned


@pytest.mark.parametrize(("amount", "words"), [("12.345", "more"), ("0.001", "more")])
def test_an_amount_that_is_no_money_is_refused_in_tazamas_form(client: Client, amount: str, words: str) -> None:
    answer = client.post(f"{BASE}/pacs.008.001.10", transfer("e2e-2", amount))
    told = answer.json()
    assert (answer.status_code, told["statusCode"], told["error"]) == (422, 422, "Unprocessable Entity")
    assert told["message"].startswith("ISO 20022 message: no amount of money")
    assert words in told["message"]
