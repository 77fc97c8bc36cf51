"""The document is valid, says what the parser does, and the application keeps it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.http.callers import Client, outcome, payment

from decalog.errors import RequestError
from decalog.http import HttpSettings
from decalog.http.openapi import document
from decalog.money import EXPONENTS
from decalog.parsing import SchemaParser
from decalog.schema import EventKind, Field
from decalog.systems.fraud.schema import SCHEMA

Json = dict[str, Any]

OTHER_KIND = EventKind(
    name="login",
    meaning="Somebody logged in.",
    subject=("customer",),
    entities=SCHEMA.request.entities[1:2],
    fields=(
        Field(name="tries", kind="int", meaning="Tries.", required=True, least=0, most=9),
        Field(name="risk", kind="float", meaning="Risk.", least=0.0, most=1.0),
        Field(name="known", kind="flag", meaning="Known device."),
    ),
)
WIDER = msgspec.structs.replace(SCHEMA, events=(OTHER_KIND,))


@pytest.fixture(scope="module")
def spec() -> Json:
    return document([WIDER], HttpSettings())


def validator(spec: Json, name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
    )


def test_the_document_is_valid_openapi(spec: Json) -> None:
    schemathesis.openapi.from_dict(spec).validate()


def test_every_route_of_the_application_is_in_the_document(standing: Client) -> None:
    paths = standing.get("/openapi.json").json()["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} == {
        ("post", "/v1/fraud/decide"),
        ("post", "/v1/fraud/batch"),
        ("post", "/v1/fraud/events"),
        ("post", "/v1/fraud/outcomes"),
        ("get", "/v1/fraud/decisions/{id}"),
        ("post", "/v1/fraud/decisions/{id}/replay"),
        ("get", "/v1/fraud/decisions/{id}/explanation"),
        ("get", "/v1/fraud/tables"),
        ("get", "/v1/fraud/tables/{name}"),
        ("put", "/v1/fraud/tables/{name}"),
        ("patch", "/v1/fraud/tables/{name}"),
        ("get", "/v1/fraud/policy"),
        ("put", "/v1/fraud/policy"),
        ("get", "/v1/fraud/rollout"),
        ("put", "/v1/fraud/rollout"),
        ("get", "/v1/fraud/changes"),
        ("post", "/v1/fraud/privacy"),
        ("post", "/v1/fraud/contest"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
    }


def test_what_needs_a_token_says_so_and_what_does_not_says_that(spec: Json) -> None:
    operations = {o["operationId"]: o for methods in spec["paths"].values() for o in methods.values()}
    free = {name for name, operation in operations.items() if not operation["security"]}
    assert free == {"healthz", "readyz", "openapi"}
    assert "Takes scope `outcomes`." in operations["fraud_outcomes"]["description"]
    without = document([SCHEMA], HttpSettings(tokens=False))
    assert not any(o["security"] for methods in without["paths"].values() for o in methods.values())


def test_examples_are_taken(standing: Client) -> None:
    paths = standing.get("/openapi.json").json()["paths"]
    for verb in ("decide", "events", "outcomes"):
        body = paths[f"/v1/fraud/{verb}"]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert standing.post(f"/v1/fraud/{verb}", body | {"id": f"example-{verb}"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "body", "fits"),
    [
        ("FraudRequest", payment(), True),
        ("FraudRequest", payment(card=None, taken=None, event_time=None, channel=None), True),
        ("FraudRequest", payment(taken="block", channel="pos"), True),
        ("FraudRequest", payment(taken="shoot"), False),
        ("FraudRequest", payment(channel="pigeon"), False),
        ("FraudRequest", payment(amount_minor=None), False),
        ("FraudRequest", payment(amount_minor=10**12 + 1), False),
        ("FraudRequest", payment(currency="XXX"), False),
        ("FraudRequest", payment(card=""), False),
        ("FraudRequest", payment(card="a\tb"), False),
        ("FraudRequest", payment(card="x" * 129), False),
        ("FraudRequest", payment(more=1), False),
        ("FraudRequest", {"id": "p-1", "currency": "EUR"}, False),
        ("FraudOutcome", outcome(), True),
        ("FraudOutcome", outcome(amount_minor=5, currency="EUR"), True),
        ("FraudOutcome", outcome(amount_minor=5), False),
        ("FraudOutcome", outcome(source="analyst"), False),
        ("FraudOutcome", {"id": "o-2", "deletes": "o-1"}, True),
        ("FraudOutcome", outcome(value="much"), False),
        ("FraudEventPayment", payment(corrects="p-0", kind="payment"), True),
        ("FraudEventLogin", {"id": "l", "kind": "login", "tries": 3, "risk": 0.5, "known": True}, True),
        ("FraudEventLogin", {"id": "l", "kind": "login", "tries": 10}, False),
        ("FraudEventLogin", {"id": "l", "kind": "login", "tries": 1, "risk": 1.5}, False),
        ("FraudEventLogin", {"id": "l", "tries": 1}, False),
    ],
)
def test_document_and_parser_agree(spec: Json, *, name: str, body: Json, fits: bool) -> None:
    parser = SchemaParser(WIDER)
    parse = {"FraudRequest": lambda b: parser.request(json.dumps(b).encode()), "FraudOutcome": parser.outcome}
    assert validator(spec, name).is_valid(body) is fits
    try:
        parse.get(name, parser.event)(body)
    except RequestError:
        assert not fits
    else:
        assert fits


def test_a_rejected_batch_fits_the_document(spec: Json, standing: Client) -> None:
    answer = standing.post("/v1/fraud/outcomes", outcome(source="us"))
    assert answer.status_code == 422
    assert validator(spec, "Problem").is_valid(answer.json())


# What the document cannot say, so that a body that fits it may still be refused: times (`date-time` knows no future),
# rates (a currency may have none here), ids that were used before, ids that a correction names.
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


def conforms(client: Client, case: Any, known: str) -> httpx.Response:
    """Sends a generated case with and without its token; returns the answer to the first."""
    bring_nearer(case, known)
    parts = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
    parts = {
        key: value for key, value in parts.items() if key in ("method", "url", "headers", "params", "json", "data")
    }
    data = parts.pop("data", None)
    if data is not None:
        parts["content"] = data
    headers = {name: value.encode() for name, value in dict(parts.pop("headers")).items()}
    try:
        answer = client.call(parts["method"], parts["url"], **_rest(parts), headers=headers)
    except (httpx.InvalidURL, httpx.LocalProtocolError):
        # A path or header that no HTTP client can send.
        return httpx.Response(400)
    assert answer.status_code < 500, answer.text
    response = schemathesis.Response.from_httpx(answer, verify=False)
    case.validate_response(response, checks=CHECKS)
    if case.operation.definition.raw.get("security"):
        wrong = headers | {"Authorization": b"Bearer dlg_0123456789ab_" + b"0" * 64}
        bare = client.call(parts["method"], parts["url"], **_rest(parts), headers=wrong)
        assert bare.status_code in (400, 401, 404, 405), bare.text
    return answer


def bring_nearer(case: Any, known: str) -> None:
    """Mends, in about half of the cases, what the document cannot say, so that success is met too."""
    if "id" in case.path_parameters and len(case.path_parameters["id"]) % 2:
        case.path_parameters["id"] = known
    if isinstance(case.body, dict) and len(case.body) % 2:
        case.headers.pop("Idempotency-Key", None)
        case.body |= {"currency": "EUR"} if case.body.get("currency") in EXPONENTS else {}
        case.body |= {"event_time": None} if isinstance(case.body.get("event_time"), str) else {}


def _rest(parts: Json) -> Json:
    return {key: value for key, value in parts.items() if key not in ("method", "url")}


def explore(client: Client, examples: int) -> set[tuple[str, int]]:
    """Returns which status each operation gave, having checked each answer against the document."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    known = client.post("/v1/fraud/decide", payment(id="known")).json()["decision_id"]
    seen: set[tuple[str, int]] = set()
    for operation in (found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)):
        takes_input = "parameters" in operation.definition.raw or "requestBody" in operation.definition.raw
        for mode in schemathesis.GenerationMode if takes_input else [schemathesis.GenerationMode.POSITIVE]:

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                answer = conforms(client, case, known)
                seen.add((case.operation.definition.raw["operationId"], answer.status_code))

            attempt()
    return seen


def test_the_application_keeps_its_document(standing: Client) -> None:
    seen = explore(standing, 25)
    assert {("fraud_decide", 200), ("fraud_events", 200), ("fraud_outcomes", 200)} <= seen
    # Which operation meets it depends on what else is loaded: hypothesis draws from constants of the modules it sees.
    assert 422 in {status for _, status in seen}


@pytest.mark.slow
def test_the_application_keeps_its_document_for_long(standing: Client) -> None:
    assert len(explore(standing, 300)) > 10


@given(header=st.binary(max_size=120))
@settings(max_examples=50)
def test_no_header_of_random_bytes_is_let_in(standing: Client, header: bytes) -> None:
    try:
        answer = standing.call("GET", "/metrics", headers={"Authorization": header})
    except httpx.LocalProtocolError:
        return
    assert answer.status_code == 401
