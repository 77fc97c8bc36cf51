"""One record for ten systems: the decision and outcomes of each, logged, read back, and asked what the system asks.

`docs/decisions/0001-one-record.md` names each example; `docs/concepts/record.md` shows them in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.candidates import Candidate
from decalog.clock import DAY, HOUR, MINUTE, SECOND, ManualClock
from decalog.crypto import seal, unseal
from decalog.decisions import (
    Choice,
    Decision,
    GuardrailVerdict,
    Slot,
    Versions,
    decode_decision,
    pack_features,
    unpack_features,
)
from decalog.errors import ConfigError, RequestError
from decalog.events import Event, decode_event, encode
from decalog.folding import decision_fact
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.log import Draft, Log
from decalog.outcomes import Outcome, decode_outcome
from decalog.parsing import SchemaParser
from decalog.schema import EventKind, Field, FieldKind, Label, OutcomeKind, Schema
from decalog.sealing import flatten
from decalog.sealing import seal as seal_records
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault
from decalog.verification import verify

T = 1_772_400_000 * SECOND
CIPHER = AESGCM(bytes(32))
VERSIONS = Versions("c0ffee123456", "0badcafe0000", "feedbeef0000", 0)
ADA, BOB, EVE = 11, 12, 13


@dataclass(frozen=True)
class Example:
    """What one system logs: decisions in order, and the outcomes that came later."""

    decisions: tuple[Decision, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def last(self) -> Decision:
        return self.decisions[-1]


def feed() -> Example:
    heads = ("p_click", "p_dwell", "p_reply", "p_hide")
    posts = []
    for n in range(500):
        is_seen = n % 50 == 49
        posts.append(
            Candidate(
                f"post-{n}",
                "following" if n % 3 else "following+similar",
                {} if is_seen else {head: 1 / (n + k + 2) for k, head in enumerate(heads)},
                pack_features(np.array([n, 0.1 * n, -0.0])) if n < 20 else b"",
                {"post": 1_000 + n, "author": 50 + n % 40},
                {"age_s": 60 * n},
                "seen" if is_seen else "",
            )
        )
    slate = (
        Slot("post-0", 0),
        Slot("post-1", 1),
        # The third place explores: 0.9 to the best that is left, 0.1 shared evenly by the next five.
        Slot("post-4", 2, propensity=0.1 / 5),
        Slot("post-2", 3),
    )
    decision = Decision(
        "feed-d1",
        Event("f1", "feed_request", T, ADA, {"user": ADA}, {"surface": "home"}, lists={"muted_words": ("spoiler",)}),
        9_000,
        tuple(posts),
        Choice(slate, ("post-4: exploration",), "show"),
        VERSIONS,
        guardrails=(GuardrailVerdict("one_author_in_a_row", "post-3", "post-2", "same author as post-1"),),
        arm="weights-b",
    )
    outcomes = (
        Outcome("o1", "f1", "click", "app", T + 3 * SECOND, 1.0, ref="post-4"),
        Outcome("o2", "f1", "dwell", "app", T + 15 * SECOND, 12.4, ref="post-4"),
        Outcome("o3", "f1", "hide", "app", T + 20 * SECOND, 1.0, ref="post-1"),
        Outcome("o4", "f1", "return", "app", T + DAY, 1.0),
    )
    return Example((decision,), outcomes)


def ads() -> Example:
    bids = (("ad-a", 40, 0.020, ""), ("ad-b", 30, 0.025, ""), ("ad-c", 20, 0.030, ""), ("ad-d", 90, 0.020, "budget"))
    candidates = tuple(
        Candidate(ref, "campaigns", {"p_click": p}, b"", {"campaign": 70 + n}, {"bid_minor": bid}, dropped)
        for n, (ref, bid, p, dropped) in enumerate(bids)
    )
    # Generalised second price, per click: 30 × 0.025 / 0.020 = 37.5 cents and 20 × 0.030 / 0.025 = 24 cents.
    winners = (
        Slot("ad-a", 0, money_minor=37_500, per=1_000),
        Slot("ad-b", 1, money_minor=24_000, per=1_000),
    )
    request = Event("imp1", "impression", T, ADA, {"user": ADA, "site": 5}, {}, lists={"blocked_categories": ("IAB7",)})
    sold = Decision("ads-d1", request, 40, candidates, Choice(winners, verb="award"), VERSIONS, currency="EUR")
    empty = msgspec.structs.replace(
        sold,
        id="ads-d2",
        request=msgspec.structs.replace(request, id="imp2"),
        candidates=(msgspec.structs.replace(candidates[3], dropped="below_floor"),),
        choice=Choice((), ("nothing above the floor",), "no_bid"),
    )
    outcomes = (
        Outcome("o1", "imp1", "click", "sdk", T + 2 * SECOND, 1.0, 37_500, "EUR", "ad-a", per=1_000),
        Outcome("o2", "imp1", "conversion", "advertiser", T + 9 * DAY, 1.0, 5_990, "EUR", "ad-a"),
    )
    return Example((sold, empty), outcomes)


def search() -> Example:
    found = (("sku-1", 1, 3), ("sku-2", 2, 0), ("sku-3", 0, 1), ("sku-4", 3, 2))
    products = tuple(
        Candidate(
            ref,
            "+".join(leg for leg, rank in (("lexical", lexical), ("dense", dense)) if rank),
            {"p_purchase": 0.1 / (n + 1)},
            entities={"product": 300 + n},
            attributes={"lexical_rank": lexical, "dense_rank": dense},
        )
        for n, (ref, lexical, dense) in enumerate(found)
    )
    query = seal(CIPHER, {"query": "warm boots for Ada"}, bound_to="q1")
    request = Event("q1", "query", T, ADA, {"user": ADA}, {"size": 2}, query, lists={"brands": ("Acme", "Łódź")})
    first = Decision(
        "search-d1",
        request,
        77,
        products,
        Choice((Slot("sku-1", 0), Slot("sku-3", 1, propensity=0.5)), verb="show"),
        VERSIONS,
    )
    second = msgspec.structs.replace(
        first,
        id="search-d2",
        request=msgspec.structs.replace(request, id="q1-page2", sealed=b""),
        choice=Choice((Slot("sku-2", 2), Slot("sku-4", 3)), verb="show"),
        parent="search-d1",
    )
    outcomes = (
        Outcome("o1", "q1", "click", "shop", T + 5 * SECOND, 1.0, ref="sku-3"),
        Outcome("o2", "q1", "cart", "shop", T + 60 * SECOND, 1.0, ref="sku-3"),
        Outcome("o3", "q1", "purchase", "shop", T + 5 * MINUTE, 1.0, 8_999, "EUR", "sku-3"),
        Outcome("o4", "q1", "return", "warehouse", T + 12 * DAY, 1.0, 8_999, "EUR", "sku-3"),
    )
    return Example((first, second), outcomes)


def fraud() -> Example:
    holder = seal(CIPHER, {"cardholder": "Ada Lovelace", "card": "tok_4242"}, bound_to="pay-1")
    entities = {"card": 21, "device": 22, "merchant": 23}
    request = Event("pay-1", "payment", T, ADA, entities, {"amount_minor": 25_000, "currency": "EUR"}, holder)
    asked = Decision(
        "fraud-d1",
        request,
        500,
        (Candidate("pay-1", "request", {"p_fraud": 0.031}, pack_features(np.array([3.0, 120.5, -1.0]))),),
        Choice((Slot("step_up", propensity=0.95),), ("least expected cost",)),
        VERSIONS,
        guardrails=(GuardrailVerdict("review_capacity", "review", "step_up", "the queue is full for today"),),
        expected_minor=-310,
        currency="EUR",
        stages_us={"parse": 20, "features": 9, "model": 33},
    )
    passed = msgspec.structs.replace(
        asked,
        id="fraud-d2",
        request=msgspec.structs.replace(request, id="pay-1-3ds", attributes={"authenticated": True}, sealed=b""),
        choice=Choice((Slot("allow"),), ("authenticated",)),
        guardrails=(),
        parent="fraud-d1",
    )
    outcomes = (
        Outcome("o1", "pay-1-3ds", "chargeback", "issuer", T + 40 * DAY, 1.0, 25_000, "EUR"),
        Outcome("o2", "pay-1-3ds", "chargeback", "issuer", T + 70 * DAY, 0.0, 25_000, "EUR", corrects="o1"),
        Outcome("o3", "pay-1-3ds", "analyst_verdict", "analyst", T + 71 * DAY, 0.0, entities={"analyst": BOB}),
    )
    return Example((asked, passed), outcomes)


def eta() -> Example:
    estimates = ((0, 1_260.0, 1_130, 1_450), (300, 960.0, 860, 1_120), (600, 660.0, 590, 760))
    decisions: list[Decision] = []
    for n, (elapsed_s, shown_s, low_s, high_s) in enumerate(estimates):
        routes = (
            Candidate(
                "route-0",
                "engine",
                {"q10_s": float(low_s), "q50_s": shown_s, "q90_s": float(high_s)},
                b"",
                {"area": 61},
            ),
            Candidate("route-1", "engine", {"q50_s": shown_s + 95}, attributes={"engine_s": shown_s + 40}),
        )
        held = GuardrailVerdict("hold", "1010", "960", "the change is smaller than the band")
        decisions.append(
            Decision(
                f"eta-d{n + 1}",
                Event(f"trip-1/{n}", "estimate", T + elapsed_s * SECOND, ADA, {"rider": ADA, "driver": BOB}, {}),
                800 + n,
                routes,
                Choice((Slot("route-0", value=shown_s, attributes={"low_s": low_s, "high_s": high_s}),), verb="show"),
                VERSIONS,
                guardrails=(held,) if n == 1 else (),
                parent=decisions[-1].id if decisions else "",
            )
        )
    return Example(tuple(decisions), (Outcome("o1", "trip-1/0", "arrival", "driver_app", T + 1_300 * SECOND, 1_300.0),))


def mail() -> Example:
    copies = (("junk", ADA, "m1/ada", 0.91), ("inbox", BOB, "m1/bob", 0.40))
    decisions = tuple(
        Decision(
            f"mail-{id_}",
            Event(
                id_,
                "message",
                T,
                recipient,
                {"recipient": recipient, "sender": EVE},
                {"spf": "pass", "dkim": "fail"},
                seal(CIPHER, {"subject_line": "You won", "from": "eve@example.org"}, bound_to=id_),
                lists={"url_hosts": ("example.org", "example.net")},
                blobs={"message": "sha256-" + "ab" * 32},
            ),
            910,
            (Candidate(id_, "request", {"p_spam": p_spam, "p_phish": 0.02}),),
            Choice((Slot(action),), ("DKIM fails", "new sender")),
            VERSIONS,
            batch="m1",
        )
        for action, recipient, id_, p_spam in copies
    )
    outcomes = (
        Outcome("o1", "m1/ada", "moved", "recipient", T + HOUR, 0.0, attributes={"folder": "inbox"}),
        Outcome("o2", "m1/bob", "reported", "recipient", T + 2 * HOUR, 1.0),
    )
    return Example(decisions, outcomes)


def inspection() -> Example:
    boxes = tuple(
        Candidate(
            f"box-{n}", "detector", {"p_scratch": p}, b"", {}, {"x_px": x, "y_px": 40, "width_px": 12, "height_px": 9}
        )
        for n, (p, x) in enumerate(((0.93, 210), (0.35, 640)))
    )
    part = Candidate("part-7", "request", {"p_defect": 0.88, "severity": 2.4}, pack_features(np.array([0.7, 41.0])))
    decision = Decision(
        "inspection-d1",
        Event(
            "part-7",
            "part",
            T,
            900,
            {"camera": 91, "lot": 92},
            {"sku": "A-17", "exposure_ms": 4.5},
            blobs={"top": "sha256-" + "11" * 32, "side": "sha256-" + "12" * 32},
        ),
        33,
        (part, *boxes),
        Choice((Slot("review", propensity=0.98),), ("box-0: scratch over 2 mm",)),
        VERSIONS,
        guardrails=(GuardrailVerdict("camera_health", "reject", "review", "side view out of focus"),),
        blobs={"anomaly_map": "sha256-" + "13" * 32},
    )
    mask = {"mask": "sha256-" + "14" * 32}
    outcomes = (
        Outcome("o1", "part-7", "verdict", "operator", T + MINUTE, 1.0, ref="box-0", entities={"operator": BOB}),
        Outcome("o2", "part-7", "verdict", "operator", T + HOUR, 0.0, entities={"operator": EVE}, blobs=mask),
        Outcome("o3", "part-7", "returned", "customer", T + 60 * DAY, 1.0, 4_200, "EUR"),
    )
    return Example((decision,), outcomes)


def demand() -> Example:
    quantiles = {"demand_q10": 31.0, "demand_q50": 44.0, "demand_q90": 61.0}
    decisions = []
    for sku in ("milk", "bread"):
        id_ = f"{sku}/store-3/2026-03-02"
        cases = tuple(Candidate(f"{sku}:{n}", "cases", {"p_stockout": 1 / (n / 12 + 1)}) for n in (36, 48, 60))
        decisions.append(
            Decision(
                f"demand-{sku}",
                Event(id_, "replenishment", T, 400, {"sku": 401, "store": 403}, {"on_hand": 7, "promo": False}),
                12_000,
                (Candidate(id_, "forecast", quantiles), *cases),
                Choice((Slot(f"{sku}:48", value=48.0),), ("newsvendor quantile 0.62",), "order"),
                VERSIONS,
                mode="shadow",
                taken="order",
                batch="night-2026-03-02",
                theirs=Choice((Slot(f"{sku}:60", propensity=None, value=60.0),), ("planner",), "order"),
            )
        )
    id_ = decisions[0].request.id
    outcomes = (
        Outcome("o1", id_, "sales", "till", T + DAY, 55.0, attributes={"censored": True, "sold_out_s": 61_200}),
        Outcome("o2", decisions[1].request.id, "sales", "till", T + DAY, 39.0, attributes={"censored": False}),
        Outcome("o3", decisions[1].request.id, "waste", "stock_count", T + 3 * DAY, 9.0, 810, "EUR"),
    )
    return Example(tuple(decisions), outcomes)


def pricing() -> Example:
    ladder = tuple(
        Candidate(f"EUR {cents}", "ladder", {"p_purchase": 0.5 - cents / 10_000}, b"", {}, {"price_minor": cents})
        for cents in (1_799, 1_899, 1_999, 2_199)
    )
    capped = Candidate("EUR 2499", "ladder", {}, b"", {}, {"price_minor": 2_499}, "emergency_cap")
    decision = Decision(
        "pricing-d1",
        Event("quote-1", "quote", T, ADA, {"visitor": ADA, "product": 301}, {"stock": 14, "cost_minor": 1_200}),
        650,
        (*ladder, capped),
        Choice((Slot("EUR 1999", propensity=0.7, money_minor=1_999),), ("highest expected margin",), "offer"),
        VERSIONS,
        guardrails=(GuardrailVerdict("largest_step", "EUR 2199", "EUR 1999", "at most +10 % a day"),),
        expected_minor=240,
        currency="EUR",
    )
    outcomes = (
        Outcome("o1", "quote-1", "purchase", "shop", T + 3 * MINUTE, 1.0, 1_999, "EUR"),
        Outcome("o2", "quote-1", "margin", "books", T + 30 * DAY, 1.0, -120, "EUR"),
        Outcome("o3", "quote-1", "complaint", "service", T + 2 * DAY, 1.0),
    )
    return Example((decision,), outcomes)


PASSAGES = {
    "returns#2": "Boots can be returned within 30 days. The label is in the box.",
    "returns#3": "Refunds reach the card in 5 days.",
    "staff#1": "Goodwill refunds up to 50 EUR need no approval.",
}
ANSWER = "Boots can be returned within 30 days. Refunds reach the card in 5 days."


def support() -> Example:
    groups: dict[str, tuple[str, ...]] = {"groups": ("customers", "de")}
    asked = Decision(
        "support-d1",
        Event("turn-1", "message", T, ADA, {"customer": ADA}, {}, b"1", lists=groups),
        20,
        (),
        Choice((), ("order not named",), "ask"),
        VERSIONS,
    )
    passages = tuple(
        Candidate(ref, "lexical+dense", {"p_answers": 0.8 - 0.2 * n}, dropped="permission" if "staff" in ref else "")
        for n, ref in enumerate(PASSAGES)
    )
    cited = (
        Slot("returns#2", 0, attributes={"answer_from": 0, "answer_to": 37, "from": 0, "to": 37}),
        Slot("returns#3", 1, attributes={"answer_from": 38, "answer_to": 71, "from": 0, "to": 33}),
    )
    answered = Decision(
        "support-d2",
        Event("turn-2", "message", T + MINUTE, ADA, {"customer": ADA}, {}, b"2", lists=groups),
        21,
        passages,
        Choice(cited, ("every sentence is quoted",), "answer"),
        VERSIONS,
        guardrails=(GuardrailVerdict("entailment", "answer", "answer", "one sentence dropped: no span says it"),),
        parent="support-d1",
        sealed=seal(CIPHER, {"answer": ANSWER, "draft": ANSWER + " Ask Bob."}, bound_to="support-d2"),
    )
    comment = seal(CIPHER, {"comment": "Thanks! Ada"}, bound_to="o3")
    outcomes = (
        Outcome("o1", "turn-2", "resolved", "silence", T + DAY, 1.0),
        Outcome("o2", "turn-2", "resolved", "silence", T + 2 * DAY, 0.0, corrects="o1"),
        Outcome("o3", "turn-2", "rating", "customer", T + 3 * HOUR, 4.0, subject=ADA, sealed=comment),
    )
    return Example((asked, answered), outcomes)


EXAMPLES: Mapping[str, Callable[[], Example]] = {
    "feed": feed,
    "ads": ads,
    "search": search,
    "fraud": fraud,
    "eta": eta,
    "mail": mail,
    "inspection": inspection,
    "demand": demand,
    "pricing": pricing,
    "support": support,
}
every_system = pytest.mark.parametrize("system", EXAMPLES)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = open_log(tmp_path)
    yield opened
    opened.close()


def open_log(home: Path) -> Log:
    vault = SqliteVault(home / "vault.sqlite", writer=True)
    return Log(SqliteLogStore(home / "log.sqlite", writer=True), vault, ManualClock(T + 100 * DAY))


def ancestors(decision: Decision, among: tuple[Decision, ...]) -> list[str]:
    """Returns the ids from a decision back along `parent`."""
    by_id = {other.id: other for other in among}
    ids = [decision.id]
    while by_id[ids[-1]].parent:
        ids.append(by_id[ids[-1]].parent)
    return ids


@every_system
def test_decisions_and_outcomes_come_back_as_they_were(system: str) -> None:
    example = EXAMPLES[system]()
    for decision in example.decisions:
        assert decode_decision(encode(decision)) == decision
        assert encode(decode_decision(encode(decision))) == encode(decision)
    assert example.outcomes
    for outcome in example.outcomes:
        assert decode_outcome(encode(outcome)) == outcome


@every_system
def test_they_stand_in_a_log_and_in_its_parquet_columns_without_what_is_personal(
    system: str, log: Log, tmp_path: Path
) -> None:
    example = EXAMPLES[system]()
    for decision in example.decisions:
        id_, body = decision.request.id, encode(decision)
        draft = Draft(kind="decision", system=system, id=id_, digest=b"", event_time=T, body=body)
        log.stamp(draft)
    for outcome in example.outcomes:
        at, body = outcome.event_time, encode(outcome)
        log.stamp(Draft(kind="outcome", system=system, id=outcome.id, digest=b"", event_time=at, body=body))
    log.commit()
    records = list(log.read())
    made = [decode_decision(record.body) for record in records if record.kind == "decision"]
    said = [decode_outcome(record.body) for record in records if record.kind == "outcome"]
    assert (made, said) == (list(example.decisions), list(example.outcomes))
    assert seal_records(log.store, tmp_path / "parquet", upto=len(records))[0].stop == len(records)
    rows = [flatten(record) for record in records]
    assert [row["action"] for row in rows if "action" in row] == [d.choice.action for d in example.decisions]
    assert not any(isinstance(value, bytes | dict) for row in rows for value in row.values())


@every_system
def test_an_outcome_names_a_request_and_a_candidate_of_its_system(system: str) -> None:
    example = EXAMPLES[system]()
    candidates = {d.request.id: {c.ref for c in d.candidates} for d in example.decisions}
    for outcome in example.outcomes:
        assert outcome.target in candidates
        assert not outcome.ref or outcome.ref in candidates[outcome.target]


@every_system
def test_what_a_decision_chose_was_a_candidate_or_an_action(system: str) -> None:
    for decision in EXAMPLES[system]().decisions:
        slots, competed = decision.choice.slots, {c.ref for c in decision.candidates if not c.dropped}
        assert decision.choice.action
        assert {slot.ref for slot in slots} <= competed if decision.choice.verb else len(slots) == 1
        assert all(slot.propensity is None or 0 < slot.propensity <= 1 for slot in slots)
        assert all(guardrail.why for guardrail in decision.guardrails)


def test_lists_addresses_and_further_values_have_columns_of_their_own(log: Log, tmp_path: Path) -> None:
    for decision in mail().decisions:
        id_ = decision.request.id
        log.stamp(Draft(kind="decision", system="mail", id=id_, digest=b"", event_time=T, body=encode(decision)))
    moved = mail().outcomes[0]
    log.stamp(Draft(kind="outcome", system="mail", id=moved.id, digest=b"", event_time=T, body=encode(moved)))
    log.commit()
    seal_records(log.store, tmp_path, upto=3)
    (decisions,) = tmp_path.glob("mail/decision/*.parquet")
    (outcomes,) = tmp_path.glob("mail/outcome/*.parquet")
    read = duckdb.connect().execute
    columns = "action, batch, list_url_hosts, blob_message, attribute_spf"
    found = read(f"SELECT {columns} FROM '{decisions}' ORDER BY seq").fetchall()
    message = "sha256-" + "ab" * 32
    assert found == [(action, "m1", ["example.org", "example.net"], message, "pass") for action in ("junk", "inbox")]
    assert read(f"SELECT attribute_folder, per FROM '{outcomes}'").fetchall() == [("inbox", 1)]


@pytest.mark.parametrize(
    ("kind", "body", "lost"),
    [
        ("outcome", fraud().outcomes[2], "1 tokens and 0 keys"),
        ("outcome", support().outcomes[2], "0 tokens and 1 keys"),
        (
            "decision",
            msgspec.structs.replace(support().last, request=Event("e", "k", T, ADA, {}, {})),
            "0 tokens and 1 keys",
        ),
        (
            "decision",
            msgspec.structs.replace(ads().last, request=Event("e", "k", T, ADA, {}, {})),
            "1 tokens and 0 keys",
        ),
    ],
)
def test_verify_asks_the_vault_for_every_token_and_key_that_a_record_names(
    kind: str, body: msgspec.Struct, lost: str, tmp_path: Path
) -> None:
    log = Home(tmp_path).writer(ManualClock(T))
    log.stamp(Draft(kind=kind, system="x", id="1", digest=b"", event_time=T, body=encode(body)))
    log.commit()
    log.close()
    (vault,) = (check for check in verify(tmp_path).checks if check.name == "vault")
    assert (vault.sound, vault.said) == (False, f"{lost} that records name are not in it")


def test_feed_keeps_a_slate_with_the_propensity_of_each_randomised_slot() -> None:
    decision = feed().last
    slots = decision.choice.slots
    assert len(decision.candidates) == 500
    assert [slot.position for slot in slots] == [0, 1, 2, 3]
    assert [slot.ref for slot in slots if slot.propensity != 1.0] == ["post-4"]
    assert math.prod(slot.propensity or 0.0 for slot in slots) == pytest.approx(0.02)
    assert unpack_features(decision.candidates[19].features).tolist() == [19.0, 19 * 0.1, -0.0]
    assert decision.candidates[20].features == b""
    hidden = {c.ref: c.dropped for c in decision.candidates if c.dropped}
    assert len(hidden) == 10
    assert hidden["post-49"] == "seen"
    # Repetition and author fairness are views over decisions: what was shown has its post's and its author's token.
    tokens = {c.ref: c.entities for c in decision.candidates}
    assert [tokens[slot.ref]["author"] for slot in slots] == [50, 51, 54, 52]
    assert decision_fact(decision, 1).kind == "decision.show"


def test_a_feed_of_five_hundred_posts_stays_below_a_hundred_thousand_bytes() -> None:
    assert len(encode(feed().last)) < 100_000


def test_ads_keep_winners_with_clearing_prices_below_a_cent_and_why_the_others_lost() -> None:
    sold, empty = ads().decisions
    ads_ = {c.ref: c for c in sold.candidates}
    ranked = [c for c in sold.candidates if not c.dropped]
    worth = [int(c.attributes["bid_minor"]) * c.predictions["p_click"] for c in ranked]
    assert worth == sorted(worth, reverse=True)
    for place, slot in enumerate(sold.choice.slots):
        due = worth[place + 1] / ads_[slot.ref].predictions["p_click"]
        assert slot.money_minor is not None
        assert slot.money_minor / slot.per == pytest.approx(due)
    assert ads_["ad-d"].dropped == "budget"
    assert sold.request.lists["blocked_categories"] == ("IAB7",)
    assert (empty.choice.action, empty.choice.slots) == ("no_bid", ())
    spent = [o.amount_minor / o.per for o in ads().outcomes if o.kind == "click" and o.amount_minor is not None]
    assert spent == [37.5]


def test_search_keeps_a_page_from_two_legs_with_each_legs_rank() -> None:
    first, second = search().decisions
    assert [c.source for c in first.candidates] == ["lexical+dense", "lexical", "dense", "lexical+dense"]
    # Reciprocal rank fusion can be computed again from the record alone.
    scores = {c.ref: sum(1 / (60 + int(rank)) for rank in c.attributes.values() if rank != 0) for c in first.candidates}
    assert sorted(scores, key=scores.__getitem__, reverse=True)[:2] == ["sku-1", "sku-4"]
    assert [slot.position for slot in (*first.choice.slots, *second.choice.slots)] == [0, 1, 2, 3]
    assert second.parent == first.id
    assert unseal(CIPHER, first.request.sealed, bound_to="q1") == {"query": "warm boots for Ada"}
    assert [o.kind for o in search().outcomes] == ["click", "cart", "purchase", "return"]


def test_fraud_keeps_an_action_its_cost_and_the_decision_after_the_step_up() -> None:
    asked, passed = fraud().decisions
    assert (asked.choice.action, asked.expected_minor, asked.currency) == ("step_up", -310, "EUR")
    assert (passed.choice.action, passed.parent) == ("allow", asked.id)
    assert asked.guardrails[0].before == "review"
    disputed, won_back, verdict = fraud().outcomes
    assert (won_back.corrects, won_back.value) == (disputed.id, 0.0)
    assert verdict.entities == {"analyst": BOB}


def test_eta_keeps_a_value_with_its_band_and_a_trip_as_a_chain() -> None:
    example = eta()
    (slot,) = example.last.choice.slots
    assert slot.value is not None
    assert slot.attributes["low_s"] < slot.value < slot.attributes["high_s"]  # type: ignore[operator]  # numbers here
    assert ancestors(example.last, example.decisions) == ["eta-d3", "eta-d2", "eta-d1"]
    arrived = example.outcomes[0].event_time
    errors_s = [d.choice.slots[0].value - (arrived - d.request.event_time) / SECOND for d in example.decisions]  # type: ignore[operator]  # set above
    assert errors_s == [-40.0, -40.0, -40.0]
    assert example.decisions[1].guardrails[0].name == "hold"


def test_mail_keeps_one_decision_a_recipient_and_the_message_apart() -> None:
    to_ada, to_bob = mail().decisions
    assert (to_ada.choice.action, to_bob.choice.action) == ("junk", "inbox")
    assert to_ada.batch == to_bob.batch == "m1"
    assert (to_ada.request.subject, to_bob.request.subject) == (ADA, BOB)
    assert to_ada.request.blobs["message"] == to_bob.request.blobs["message"]
    assert mail().outcomes[0].attributes == {"folder": "inbox"}
    for action in ("inbox", "junk", "quarantine", "reject"):
        held = msgspec.structs.replace(to_ada, choice=Choice((Slot(action),)))
        assert decision_fact(decode_decision(encode(held)), 1).kind == f"decision.{action}"


def test_inspection_keeps_images_boxes_map_and_who_judged() -> None:
    decision = inspection().last
    assert set(decision.request.blobs) == {"top", "side"}
    assert set(decision.blobs) == {"anomaly_map"}
    boxes = [c for c in decision.candidates if c.source == "detector"]
    assert [c.attributes["x_px"] for c in boxes] == [210, 640]
    one, other, returned = inspection().outcomes
    assert one.entities != other.entities
    assert one.value != other.value
    assert "mask" in other.blobs
    assert returned.amount_minor == 4_200


def test_demand_keeps_a_quantity_its_quantiles_the_night_and_what_was_not_seen() -> None:
    example = demand()
    assert {d.batch for d in example.decisions} == {"night-2026-03-02"}
    assert len({d.state_seq for d in example.decisions}) == 1
    quantiles = example.last.candidates[0].predictions
    assert quantiles["demand_q10"] < quantiles["demand_q50"] < quantiles["demand_q90"]
    assert example.last.choice.slots[0].value == 48.0
    assert example.last.theirs is not None
    assert example.last.theirs.slots[0].value == 60.0
    assert example.last.acted == "order"
    sold = [o for o in example.outcomes if o.kind == "sales"]
    assert [o.attributes["censored"] for o in sold] == [True, False]


def test_pricing_keeps_a_price_of_a_ladder_with_its_propensity_and_a_loss() -> None:
    decision = pricing().last
    (slot,) = decision.choice.slots
    chosen = next(c for c in decision.candidates if c.ref == slot.ref)
    assert chosen.attributes["price_minor"] == slot.money_minor == 1_999
    assert slot.propensity == 0.7
    assert [c.dropped for c in decision.candidates][-1] == "emergency_cap"
    assert decision.guardrails[0].after == slot.ref
    assert [o.amount_minor for o in pricing().outcomes if o.kind == "margin"] == [-120]


def test_support_keeps_an_answer_whose_every_sentence_is_a_cited_span() -> None:
    asked, answered = support().decisions
    assert (asked.choice.action, answered.choice.action) == ("ask", "answer")
    assert answered.parent == asked.id
    answer = str(unseal(CIPHER, answered.sealed, bound_to=answered.id)["answer"])
    said = []
    for slot in answered.choice.slots:
        span = {name: int(value) for name, value in slot.attributes.items()}
        said.append(answer[span["answer_from"] : span["answer_to"]])
        assert said[-1] == PASSAGES[slot.ref][span["from"] : span["to"]]
    assert " ".join(said) == answer == ANSWER
    assert {c.ref for c in answered.candidates if c.dropped == "permission"} == {"staff#1"}
    rating = support().outcomes[-1]
    assert unseal(CIPHER, rating.sealed, bound_to=rating.id) == {"comment": "Thanks! Ada"}
    assert b"Ada" not in encode(rating) + encode(answered)


@pytest.mark.parametrize("kept", [8, 9])
def test_an_event_written_before_a_field_was_added_is_read_with_its_default(kept: int) -> None:
    whole = Event("e1", "payment", T, 1, {"card": 2}, {"amount_minor": 3}, b"s", "e0", lists={"a": ("b",)})
    parts = msgspec.msgpack.decode(encode(whole))
    shorter = decode_event(msgspec.msgpack.encode(parts[:kept]))
    assert shorter == msgspec.structs.replace(whole, lists={}, blobs={})


def demand_schema(*fields: Field) -> Schema:
    line = EventKind(name="line", meaning="A product in a shop, tonight.", fields=(), entities=(), subject=())
    label = Label(name="sold", meaning="Anything was sold.", maturity="1d", observed_after=("order",))
    kind = OutcomeKind(name="sales", meaning="Units sold.", sources=("till",), labels={}, fields=fields)
    return Schema(
        system="demand", noun="line", request=line, events=(), outcomes=(kind,), actions=("order",), label=label
    )


CENSORED = Field(name="censored", kind="flag", meaning="The shelf was empty before closing.", required=True)
SHARE = Field(name="open_share", kind="float", meaning="Share of the day that the shop was open.", least=0, most=1)
WEIGHT = Field(name="weight_kg", kind="float", meaning="Weight of what was sold.")
NOTE = Field(name="reason", kind="text", meaning="Why the shelf was empty.")
SALES = {"id": "o1", "line": "l1", "kind": "sales", "source": "till", "value": 55}


def test_an_outcome_brings_the_values_that_its_kind_declares(log: Log) -> None:
    ingest = Ingest(demand_schema(CENSORED, SHARE, NOTE), log, rates=Rates())
    sent = SALES | {"censored": True, "open_share": 0.5, "amount_minor": 235, "currency": "EUR", "per": 1_000}
    assert ingest.outcome(sent).status == "accepted"
    assert ingest.outcome(sent).status == "duplicate"
    assert ingest.outcome(sent | {"censored": False}).reason == "conflict"
    outcome = decode_outcome(log.get(0).body)
    assert (outcome.attributes, outcome.per) == ({"censored": True, "open_share": 0.5}, 1_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"censored": "yes"}, r"demand outcome, censored: `str`. Expected `bool`"),
        ({"open_share": 2.0}, r"demand outcome, open_share: .* Expected `float` <= 1"),
        ({"weight_kg": math.inf}, r"demand outcome, weight_kg: a value out of range. Expected a finite number"),
        ({"reason": "a\x00b"}, r"demand outcome, reason: control characters or lone surrogates"),
        ({"ref": "\ud800"}, r"demand outcome, ref: control characters or lone surrogates"),
        ({"corrects": "\n"}, r"demand outcome, corrects: control characters or lone surrogates"),
        ({"per": 0}, r"demand outcome, per: .* Expected `int` >= 1"),
        ({"weather": 1}, r"demand outcome: an unknown field. Expected one of: .*censored"),
        ({"kind": "waste"}, r"demand outcome.*: an unknown"),
    ],
)
def test_a_bad_value_of_an_outcome_is_named(change: dict[str, object], message: str) -> None:
    parser = SchemaParser(demand_schema(CENSORED, SHARE, WEIGHT, NOTE))
    with pytest.raises(RequestError, match=message):
        parser.outcome({**SALES, "censored": False, **change})


def test_a_value_that_the_kind_requires_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"demand outcome: no censored. Expected the required field censored"):
        SchemaParser(demand_schema(CENSORED)).outcome(SALES)


@pytest.mark.parametrize(
    ("name", "kind", "is_personal"),
    [("comment", "text", True), ("price", "amount_minor", False), ("per", "int", False)],
)
def test_an_outcome_declares_no_personal_value_no_money_and_no_name_that_is_taken(
    name: str, kind: FieldKind, is_personal: bool
) -> None:
    field = Field(name=name, kind=kind, meaning="?", privacy="personal" if is_personal else "public")
    with pytest.raises(ConfigError, match=rf"demand schema, outcome sales, field {name}: .* Expected a public one"):
        SchemaParser(demand_schema(field))
