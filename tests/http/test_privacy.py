"""The routes of privacy: what they take, and that no refusal repeats whom it was about."""

from __future__ import annotations

import json

import pytest
from tests.http.callers import Client

PERSON = "cus-ada-lovelace"


def body(id_: str) -> dict[str, object]:
    return {"id": id_, "amount_minor": 1_000, "currency": "EUR", "customer": PERSON, "cardholder": "Ada Lovelace"}


def test_a_wish_a_notice_and_a_contest_go_over_http(client: Client) -> None:
    assert client.post("/v1/fraud/privacy", {"act": "notice", "id": "adm-1"}).json()["id"] == "adm-1"
    told = client.post("/v1/fraud/privacy", {"act": "opt_out", "person": PERSON})
    assert told.status_code == 200
    assert PERSON not in told.text
    made = client.post("/v1/fraud/decide", body("p1")).json()
    assert (made["action"], made["fallback"], made["notice"]) == ("review", "opted_out", "adm-1")
    assert client.post("/v1/fraud/decide", body("p1")).json() == made, "a retry is told the same"
    heard = client.post("/v1/fraud/contest", {"decision": made["decision_id"], "said": "why?"})
    assert heard.json() == {
        "decision_id": made["decision_id"],
        "request": "p1",
        "told": "logged; a person will look at it",
    }
    changes = client.get("/v1/fraud/changes").json()
    assert [one["table"] for one in changes] == ["notices", "wishes", "contests"]
    assert "token" in changes[0]["by"]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("privacy", {"act": "destroy", "person": PERSON}),
        ("privacy", {"act": "erase", "persona": PERSON}),
        ("privacy", {"person": PERSON}),
        ("contest", {"decision": 7, "said": PERSON}),
        ("contest", {"said": PERSON}),
    ],
)
def test_what_does_not_fit_is_refused_without_repeating_it(client: Client, path: str, sent: dict[str, object]) -> None:
    refused = client.post(f"/v1/fraud/{path}", sent)
    assert refused.status_code == 422
    assert refused.json()["given"] == "a body that does not fit"
    assert PERSON not in refused.text


def test_each_route_takes_its_scope(client: Client) -> None:
    assert client.post("/v1/fraud/contest", {"decision": "no-such"}).status_code == 404
    assert client.post("/v1/fraud/privacy", {"act": "access"}).status_code == 422
    described = client.get("/openapi.json").json()["paths"]
    assert "admin" in described["/v1/fraud/privacy"]["post"]["description"]
    assert "outcomes" in described["/v1/fraud/contest"]["post"]["description"]
    acts = json.dumps(described["/v1/fraud/privacy"]["post"])
    assert all(act in acts for act in ("erase", "prove", "access", "restrict", "rectify", "retention"))
