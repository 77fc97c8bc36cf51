"""What waits to be told or to be asked, a webhook or an intent, when the person that it is about is erased."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.http.test_webhooks import PATIENCE_S, Endpoint, listening
from tests.privacy.people import ADA, SECRETS, of_ada, of_bob
from tests.privacy.test_live import server

from decalog.events import decode_table
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.http import webhooks as rooms
from decalog.http.webhooks import Webhooks
from decalog.privacy.live import Live
from decalog.privacy.scan import forms_of, scan
from decalog.privacy.subjects import Told
from decalog.systems.fraud.wire_events import tell

VALUES = tuple(Told(name, value) for name, value in SECRETS.items())
FORM = {
    "amount": "2500",
    "currency": "eur",
    "payment_method_data[billing_details][name]": SECRETS["cardholder"],
}


def personal(bodies: list[bytes]) -> set[str]:
    """Returns the names of Ada's values that stand in any body."""
    return {one.name for one in VALUES for body in bodies if any(form in body for form in forms_of(one.value))}


def test_what_waits_for_an_endpoint_is_not_sent_once_its_person_is_erased(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FIRST_WAIT_S", "_LOOK_S"):
        monkeypatch.setattr(rooms, name, 0.0)
    is_tried, is_back = asyncio.Event(), asyncio.Event()

    def answer(_body: bytes) -> int:
        is_tried.set()
        return 200 if is_back.is_set() else 503

    async def scenario(host: Host, live: Live, later: Any) -> tuple[Endpoint, list[dict[str, Any]]]:
        hooks = Webhooks(host, "fraud", tell=partial(tell, host), header="Stripe-Signature", private=False)
        sending = asyncio.create_task(hooks.run())
        try:
            async with listening(answer) as endpoint:
                await hooks.add("we_1", endpoint.url, events=("*",))
                for made in (of_ada("ada-told"), of_bob("bob-told"), of_ada("ada-later")):
                    later()
                    await host.decide("fraud", made)
                await asyncio.wait_for(is_tried.wait(), PATIENCE_S)  # the first waits to be sent again
                told = await live.erase("fraud", ADA, by="t")
                assert told.proof is not None
                assert told.proof.holds, told.text()
                before = len(endpoint.tries)
                is_back.set()
                took = msgspec.json.decode(await endpoint.next())
                later()
                await host.decide("fraud", of_bob("bob-last"))
                last = msgspec.json.decode(await endpoint.next())
                assert b"ada-" not in b"".join(endpoint.tries[before + 1 :])  # one may have been on its way
                return endpoint, [took, last]
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    with server(tmp_path / "var", runner) as (open_, host):
        endpoint, told = runner.run(scenario(host, Live(host, open_.home), open_.later))
        assert [one["data"]["object"]["payment_intent"] for one in told] == ["bob-told", "bob-last"]
        assert personal(endpoint.tries) == set()  # what was sent before holds nothing personal either
        assert (
            host.meter.registry.get_sample_value("decalog_webhooks_total", {"system": "fraud", "result": "erased"}) == 2
        )
        home = open_.home
    assert (home.state / "fraud-webhooks.json").is_file()
    assert scan(home.root, VALUES).is_clean


@pytest.mark.parametrize(
    ("first", "is_confirmed"),
    [
        ({}, True),
        ({"customer": ADA}, True),
        ({"receipt_email": SECRETS["email"]}, True),
        ({"customer": ADA}, False),
        ({"receipt_email": SECRETS["email"]}, False),
    ],
    ids=["nobody named", "the person", "an address", "the person, not confirmed", "an address, not confirmed"],
)
def test_an_intent_that_was_held_cannot_be_read_once_its_person_is_erased(
    tmp_path: Path, runner: asyncio.Runner, first: dict[str, str], is_confirmed: bool
) -> None:
    with server(tmp_path / "var", runner) as (open_, host):
        app = App(host, HttpSettings(tokens=False), access=None)

        async def post(path: str, form: dict[str, str]) -> dict[str, Any]:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                answer = await client.post(path, data=form, headers={"user-agent": "Stripe/v1"})
                assert answer.status_code == 200, answer.text
                told: dict[str, Any] = answer.json()
                return told

        vault: Any = open_.log.vault
        id_ = runner.run(post("/v1/payment_intents", FORM | first))["id"]
        if is_confirmed:
            open_.later()
            runner.run(post(f"/v1/payment_intents/{id_}/confirm", {"customer": ADA, "receipt_email": SECRETS["email"]}))
        held = versions(host, id_)
        assert any(vault.holds(one["subject"]) for one in held)
        entity, person = ("customer", ADA) if is_confirmed or "customer" in first else ("email", SECRETS["email"])
        told = runner.run(Live(host, open_.home).erase("fraud", person, entity=entity, by="t"))
        assert told.found
        assert told.proof is not None
        assert told.proof.holds, told.text()
        assert [one["subject"] for one in held if vault.holds(one["subject"])] == []


def versions(host: Host, id_: str) -> list[dict[str, Any]]:
    """Returns every version of the table that holds an intent."""
    records = (record for record in host.log.read() if record.kind == "table" and record.id == f"intent {id_}")
    return [msgspec.json.decode(decode_table(record.body).content) for record in records]
