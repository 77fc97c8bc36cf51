"""Wishes, notices, contests and corrections, as the next request meets them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.privacy.people import ADA, BOB, READER, Shop, clock_of, feed_home, fill, of_ada, of_bob, payment, shop

from decalog.clock import DAY
from decalog.crypto import unseal
from decalog.deployment import Deployment
from decalog.errors import RequestError, UnknownRecordError
from decalog.examples import History
from decalog.home import Home
from decalog.host import Host
from decalog.impressions import ImpressionHistory
from decalog.meter import Meter
from decalog.monitoring import rules_of
from decalog.operations import watch_log
from decalog.privacy import here
from decalog.privacy.acts import contest, rectify, wish
from decalog.privacy.erasing import erase
from decalog.privacy.live import Asked
from decalog.privacy.pen import Pen
from decalog.privacy.subjects import Plain, find_subject, images, opened, survey
from decalog.replay import Replayer
from decalog.retrieval import UNPROFILED
from decalog.standing import CONTESTS, OPTED_OUT, RESTRICTED, Contest, Wish, Wished
from decalog.systems.fraud.review import ReviewQueue
from decalog.systems.fraud.system import SYSTEM
from decalog.tables import Tables


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path / "var") as made:
        yield made


def wishes(made: Shop, kind: Wished, subject: str = ADA, *, on: bool = True, system: str = "fraud") -> Wish:
    service = made.services[system]
    pen = Pen(made.log, by="test", services=made.services)
    return wish(service.system, pen, person=subject, asked=Wish(subject=0, wish=kind, on=on, why="said so"))


def replayer(made: Shop, system: str = "fraud") -> Replayer:
    made.log.commit()
    return Deployment(made.home, system, made.log).replayer()


def test_who_opted_out_has_a_person_look_from_the_next_request_on(open_: Shop) -> None:
    before = open_.decide(of_ada("a0"))["decision"]
    assert before.fallback == "no_model"
    wishes(open_, OPTED_OUT)
    made = open_.decide(of_ada("a1"))["decision"]
    assert (made.choice.action, made.mode, made.fallback) == ("review", "fallback", OPTED_OUT)
    assert made.choice.reasons == ("opted_out: a person decides",)
    assert made.candidates[0].features == b"", "nothing was computed of them"
    assert not made.candidates[0].predictions
    assert open_.decide(of_bob("b1"))["decision"].fallback == "no_model"
    wishes(open_, OPTED_OUT, on=False)
    assert open_.decide(of_ada("a2"))["decision"].fallback == "no_model"
    assert replayer(open_).range().text() == "4/4 identical"


def test_reviews_of_who_opted_out_know_no_capacity(open_: Shop) -> None:
    wishes(open_, OPTED_OUT)
    actions = [open_.decide(of_ada(f"a{number}"))["decision"].choice.action for number in range(50)]
    assert {*actions} == {"review"}


def test_wishes_hold_after_a_restart_and_the_weightier_counts(tmp_path: Path) -> None:
    with shop(tmp_path / "var") as made:
        wishes(made, OPTED_OUT)
        wishes(made, RESTRICTED)
    with shop(tmp_path / "var") as made:
        assert made.decide(of_ada("a1"))["decision"].fallback == RESTRICTED
        wishes(made, RESTRICTED, on=False)
        assert made.decide(of_ada("a2"))["decision"].fallback == OPTED_OUT


def test_nothing_is_learnt_from_who_restricted(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root) as made:
        wishes(made, RESTRICTED)
        made.log.commit()
        history = History(made.log.read(), made.fraud.system.schema, features=made.fraud.system.features)
        assert {*history.now.ids} == {f"bob-{number}" for number in range(4)}
        wishes(made, RESTRICTED, on=False)
        made.log.commit()
        lifted = History(made.log.read(), made.fraud.system.schema, features=made.fraud.system.features)
        assert len(lifted.now.ids) == 8


def test_a_reader_who_opted_out_is_shown_what_is_popular_and_fresh(tmp_path: Path) -> None:
    home = feed_home(tmp_path / "var")
    with shop(home.root, "feed") as made:

        def asked(id_: str) -> tuple[set[str], str]:
            raw = msgspec.json.encode({"id": id_, "user": READER, "size": 3, "recent": "post-1"})
            decision = made.decide(raw, system="feed")["decision"]
            sources = {part for one in decision.candidates for part in one.source.split("+")}
            assert UNPROFILED not in decision.request.attributes
            return sources, decision.fallback

        sources, fallback = asked("r1")
        assert "following" in sources
        assert fallback == "no_model"
        wishes(made, OPTED_OUT, READER, system="feed")
        sources, fallback = asked("r2")
        assert sources <= {"popular", "fresh", "explore"}
        assert fallback == OPTED_OUT
        assert replayer(made, "feed").range().text() == "4/4 identical"
        wishes(made, RESTRICTED, READER, system="feed")
        made.log.commit()
        history = ImpressionHistory(made.log.read(), made.feed.system.schema, features=made.feed.system.features)
        assert {one.record.id for one in history.shown} == {"r-bob"}


def test_an_unprofiled_reader_is_still_spared_whom_they_block(tmp_path: Path) -> None:
    home = feed_home(tmp_path / "var")
    with shop(home.root, "feed") as made:
        wishes(made, OPTED_OUT, READER, system="feed")
        blocks = {"id": "b1", "kind": "block", "user": READER, "author": "author-0"}
        assert made.feed.ingest.event(blocks).status == "accepted"
        raw = msgspec.json.encode({"id": "r1", "user": READER, "size": 10})
        shown = made.decide(raw, system="feed")["decision"].choice.slots
        assert {int(slot.ref.removeprefix("post-")) % 2 for slot in shown} <= {1}


def test_decisions_carry_the_notice_that_was_in_force(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    clock = clock_of(home)
    here.do(home, "fraud", asked=Asked(act="notice", id="adm-1", url="https://shop.example/adm"), clock=clock)
    with shop(home.root) as made:
        assert made.fraud.standing.notice(made.log.find("request", "fraud/ada-0")[0]) == ""
        assert made.fraud.standing.notice(made.log.position) == "adm-1"
    here.do(home, "fraud", asked=Asked(act="notice"), clock=clock)
    with shop(home.root) as made:
        assert made.fraud.standing.notice(made.log.position) == ""


def test_a_contested_decision_waits_at_the_desk(tmp_path: Path) -> None:
    with shop(tmp_path / "var") as made:
        made.decide(payment("big", customer=ADA, cardholder="Ada Lovelace", amount_minor=90_000))
        wishes(made, OPTED_OUT, BOB)
        made.decide(of_bob("reviewed"))
        queue = ReviewQueue(made.log, made.fraud.ingest.outcome, costs=lambda: made.fraud.serving.policy.params)  # type: ignore[arg-type, return-value]
        waiting = {case.payment for case in queue.each()}
        pen = Pen(made.log, by="desk", services=made.services)
        heard = contest(made.fraud.system, pen, decision="big", said="I did pay this")
        assert (heard.request, heard.told) == ("big", "logged; a person will look at it")
        contest(made.fraud.system, pen, decision=heard.decision_id)
        assert {case.payment for case in queue.each()} == waiting | {"big"}
        assert len(list(queue.each())) == len(waiting | {"big"}), "twice contested is one case"
        assert queue.claim("big", by="x7").state == "claimed"
        assert queue.close("big", by="x7", is_fraud=False).verdict == 0
        stored = Tables(made.log).history("fraud", CONTESTS)[0]
        told = msgspec.convert(stored.content, Contest)
        subject = find_subject(made.fraud.system, made.log, person=ADA)
        cipher = made.log.vault.cipher(subject or 0)
        assert cipher is not None
        bound = f"contest {heard.decision_id}"
        assert unseal(cipher, base64.b64decode(told.sealed), bound_to=bound) == {"said": "I did pay this"}
        with pytest.raises(UnknownRecordError, match="fraud contest: an id that no decision has"):
            contest(made.fraud.system, pen, decision="nothing")


def test_what_was_erased_is_neither_contested_nor_on_the_desk(tmp_path: Path) -> None:
    with shop(tmp_path / "var") as made:
        wishes(made, OPTED_OUT)
        made.decide(of_ada("a1"))
    erase(made.home, "fraud", person=ADA, clock=clock_of(made.home))
    with shop(made.home.root) as again:
        queue = ReviewQueue(again.log, again.fraud.ingest.outcome, costs=lambda: again.fraud.serving.policy.params)  # type: ignore[arg-type, return-value]
        assert not list(queue.each())
        with pytest.raises(UnknownRecordError, match="a payment that was not sent to the analysts"):
            queue.case("a1")
        with pytest.raises(UnknownRecordError, match="an id that no decision has"):
            contest(again.fraud.system, Pen(again.log, by="t"), decision="a1")


def test_a_correction_is_a_new_sealed_image_and_features_follow_entities(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    right: dict[str, Plain] = {"cardholder": "Augusta Ada King", "email": "ada@lovelace.example"}
    done = here.do(home, "fraud", asked=Asked(act="rectify", person=ADA, values=right), clock=clock_of(home))
    assert done.records == 4  # type: ignore[attr-defined]
    with closing(home.reader()) as log:
        system = Deployment(home, "fraud", log).system
        subject = find_subject(system, log, person=ADA)
        assert subject is not None
        found = survey(log, subject, schemas=[system.schema])
        now = [opened(log, event) for _, event in images(log, found.records["fraud"])]
        assert {(one["cardholder"], one["email"]) for one in now} == {tuple(right.values())}
        assert {one["card"] for one in now} == {"card-4111-ada"}
        email = log.vault.find("email", "ada@lovelace.example")  # type: ignore[attr-defined]
        assert {event.entities["email"] for _, event in images(log, found.records["fraud"])} == {email}
    again = here.do(home, "fraud", asked=Asked(act="rectify", person=ADA, values=right), clock=clock_of(home))
    assert again.records == 0  # type: ignore[attr-defined]
    nobody = here.do(home, "fraud", asked=Asked(act="rectify", person="nobody", values=right), clock=clock_of(home))
    assert nobody.records == 0  # type: ignore[attr-defined]


def test_many_corrections_take_several_turns(open_: Shop) -> None:
    for number in range(5):
        open_.decide(of_ada(f"a{number}"))
    roots = [open_.log.find("request", f"fraud/a{number}")[0] for number in range(5)]
    pen = Pen(open_.log, by="t", services=open_.services)
    counts = []
    for _ in range(3):
        done = rectify(open_.fraud.system, pen, roots=roots, values={"cardholder": "Ada King"}, most=2)
        counts.append((done.records, done.is_done))
    assert counts == [(2, False), (2, False), (1, True)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"amount_minor": 5}, "fraud rectify: a name that is no personal field or entity"),
        ({"cardholder": "x" * 300}, "fraud rectify, cardholder: a value of another kind, or too long"),
        ({"cardholder": 7}, "fraud rectify, cardholder: a value of another kind, or too long"),
        ({"email": ""}, "fraud rectify, email: a value of another kind, or too long"),
    ],
)
def test_what_is_no_correction_is_refused_without_its_value(
    open_: Shop, values: dict[str, int | float | str | bool], said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        rectify(open_.fraud.system, Pen(open_.log, by="t"), roots=[], values=values)
    assert "xxx" not in str(caught.value)


def test_a_host_tells_the_notice_with_each_decision(open_: Shop) -> None:
    open_.decide(of_ada("a0"))
    Pen(open_.log, by="t", services=open_.services).put("fraud", "notices", content={"id": "adm-2"})
    made = open_.decide(of_ada("a1"))
    open_.log.commit()
    host = Host(open_.log, open_.services, replay=no_replay, meter=Meter())
    assert asyncio.run(host.decision("fraud", made["decision"].id))["notice"] == "adm-2"
    assert "notice" not in asyncio.run(host.decision("fraud", "a0"))


async def no_replay(_system: str, _id: str, _verb: str) -> dict[str, object]:
    return {}


def test_a_wish_is_no_failure_to_a_watch(tmp_path: Path) -> None:
    home = Home(tmp_path / "var")
    with shop(home.root) as made:
        wishes(made, OPTED_OUT)
        for number in range(30):
            made.decide(of_ada(f"a{number}"))
            made.decide(of_bob(f"b{number}"))
    watch = watch_log(home, "fraud", since_us=DAY)
    reasons = {one.labels.get("reason") for readings in watch.latest.values() for one in readings}
    assert "no_model" in reasons
    assert OPTED_OUT not in reasons
    rules = [one["expr"] for one in rules_of(SYSTEM)["groups"][0]["rules"] if "fallbacks_total" in one["expr"]]
    assert rules
    assert all('reason!~"opted_out|restricted"' in rule for rule in rules)
