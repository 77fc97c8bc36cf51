"""Pages of a system whose label is a quantity: one thing, its decisions, and those that somebody should look at."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.control_room.orders import DAYS, filled
from tests.control_room.rooms import Browser, catch_up, room
from tests.homes import fill_home, records

from decalog.control_room import notable
from decalog.control_room.homes import index_of
from decalog.control_room.index import Index
from decalog.control_room.notable import WHY, Seen, judged
from decalog.control_room.quantities import forecast_of, quantity_of, schema_of
from decalog.decisions import Decision, decode_decision
from decalog.home import Home
from decalog.systems.demand.schema import SCHEMA


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = filled(tmp_path_factory.mktemp("things") / "demand")
    catch_up(made)
    return made


@pytest.fixture
def browser(home: Home) -> Browser:
    return room(home.root)


@pytest.fixture
def index(home: Home) -> Iterator[Index]:
    with closing(Index(index_of(home))) as found:
        yield found


def orders(home: Home) -> dict[str, Decision]:
    """Returns request id → decision."""
    logged = (decode_decision(record.body) for record in records(home, "decision"))
    return {one.request.id: one for one in logged}


def path_of(home: Home, request: str = "order-6") -> str:
    return f"/s/demand/of/{orders(home)[request].request.entities['series']}"


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.split("<main", 1)[1])))


# ---- one thing ----


def test_a_thing_shows_each_decision_about_it_and_no_other(
    home: Home, browser: Browser, runner: asyncio.Runner
) -> None:
    page = runner.run(browser.get(path_of(home))).text
    about = [one for one in orders(home).values() if one.request.attributes["series"] == "s1/i1"]
    assert set(re.findall(r"/s/demand/decisions/([0-9a-f-]{36})", page)) == {one.id for one in about}
    assert len(about) == DAYS - 6 + 1
    assert page.count('<rect class="narrow"') == len(about)
    text = text_of(page)
    assert "s1/i1 series" in text
    assert "item i1" in text
    for one in about:
        assert f"{one.choice.slots[0].value:g}" in text


def test_what_was_told_is_said_as_a_bound_where_it_is_one(home: Home, browser: Browser, runner: asyncio.Runner) -> None:
    page = runner.run(browser.get(path_of(home))).text
    assert "≥ 90" in page
    assert "told at least 90" in unescape(page)
    assert page.count('<svg class="told bound"') == 1
    assert page.count('<circle class="told"') == 2
    assert "override 30" in page
    assert "told 20;" in page
    assert "told 21" not in page  # it was corrected


def test_promotions_are_marked_by_what_the_schema_declares(
    home: Home, browser: Browser, runner: asyncio.Runner
) -> None:
    page = runner.run(browser.get(path_of(home))).text
    assert page.count('class="marked"') == 2  # in each of two charts
    assert "promo days 1" in page
    assert "discount 25 %" in page


def test_charts_are_told_to_who_does_not_see_them(home: Home, browser: Browser, runner: asyncio.Runner) -> None:
    page = runner.run(browser.get(path_of(home))).text
    for id_ in re.findall(r'aria-labelledby="(\w+)-title \w+-text"', page):
        assert re.search(rf'<title id="{id_}-title">[^<]+</title><desc id="{id_}-text">[^<]+</desc>', page)
    assert "7 decisions from" in page
    assert "Told exactly 2 times" in page
    assert "1 times only a lower bound was told" in page
    assert " style=" not in page


def test_older_decisions_follow(
    home: Home, browser: Browser, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decalog.control_room import things

    monkeypatch.setattr(things, "_ON_A_PAGE", 4)
    first = runner.run(browser.get(path_of(home))).text
    (older,) = re.findall(r'rel="next" href="([^"]*)"', first)
    second = runner.run(browser.get(path_of(home) + older)).text
    found = [set(re.findall(r"/s/demand/decisions/([0-9a-f-]{36})", page)) for page in (first, second)]
    assert [len(ids) for ids in found] == [4, 3]
    assert not found[0] & found[1]


@pytest.mark.parametrize("what", ["nobody's", "no number", "a store's"])
def test_what_no_decision_is_about_is_not_there(
    home: Home, browser: Browser, runner: asyncio.Runner, what: str
) -> None:
    token = {"nobody's": "123", "no number": "s1", "a store's": orders(home)["order-6"].request.entities["store"]}[what]
    answer = runner.run(browser.get(f"/s/demand/of/{token}"))
    assert answer.status_code == 404
    assert "no decision here is about as its series" in answer.text


def test_a_system_without_quantities_has_no_such_pages(tmp_path: Path, runner: asyncio.Runner) -> None:
    browser = room(fill_home(tmp_path / "fraud").root)
    for path in ("/s/fraud/exceptions", "/s/fraud/of/1"):
        answer = runner.run(browser.get(path))
        assert answer.status_code == 404
        assert "a system whose label is a quantity" in answer.text
    assert "Exceptions" not in runner.run(browser.get("/s/fraud/decisions")).text


def test_the_list_of_decisions_says_how_much_and_leads_to_the_thing(
    home: Home, browser: Browser, runner: asyncio.Runner
) -> None:
    page = runner.run(browser.get("/s/demand/decisions")).text
    assert page.count(path_of(home)) == 7
    assert f"order {orders(home)['other'].choice.slots[0].value:g}" in page
    answer = runner.run(browser.post("/s/demand/decisions", {"kind": "series", "value": "s1/i1"}))
    assert answer.headers["location"] == path_of(home)
    answer = runner.run(browser.post("/s/demand/decisions", {"kind": "store", "value": "s1"}))
    assert "?token=" in answer.headers["location"]


# ---- a decision ----


def test_a_decision_shows_its_forecast_and_what_it_comes_to(
    home: Home, browser: Browser, runner: asyncio.Runner
) -> None:
    decision = orders(home)["order-8"]
    page = runner.run(browser.get(f"/s/demand/decisions/{decision.id}")).text
    text = text_of(page)
    found = quantity_of(decision, SCHEMA)
    assert found.forecast is not None
    assert found.held is not None
    assert f"come to {found.held:g} units" in text
    assert f"enough in {found.forecast.enough(found.held)} cases" in text
    assert "Sales: 20 units" in text
    assert "promo days 1, discount 25 %" in text
    assert path_of(home) in page
    assert page.count('class="curve"') == 1
    assert "demand q02" not in page
    at_least = runner.run(browser.get(f"/s/demand/decisions/{orders(home)['order-6'].id}")).text
    assert "Sales: at least 90 units" in text_of(at_least)


def test_guardrails_stand_on_the_page_of_their_decision(home: Home, browser: Browser, runner: asyncio.Runner) -> None:
    decision = orders(home)["order-9"]
    (rail,) = decision.guardrails
    page = text_of(runner.run(browser.get(f"/s/demand/decisions/{decision.id}")).text)
    assert f"{rail.before} became {rail.after}, {rail.why}" in page


def test_a_quantity_is_for_the_days_that_follow(home: Home) -> None:
    decision = orders(home)["order-week"]
    found = quantity_of(decision, SCHEMA)
    assert found.begins > decision.request.event_time
    assert (found.ends - found.begins) // 86_400_000_000 == 14
    assert found.there == (("on_hand", 5.0),)
    assert found.unit_minor == 200


def test_other_predictions_are_no_distribution() -> None:
    assert forecast_of({}) is None
    assert forecast_of({"p_fraud": 0.5}) is None
    assert forecast_of({"p_click": 0.5, "p_like": 0.1}) is None
    assert schema_of("fraud") is None
    assert schema_of("nobody's") is None


# ---- exceptions ----


def test_exceptions_are_listed_with_the_most_money_first(home: Home, browser: Browser, runner: asyncio.Runner) -> None:
    page = runner.run(browser.get("/s/demand/exceptions")).text
    stakes = [float(one) for one in re.findall(r"<strong>([\d.,]+) EUR</strong>", page)]
    assert stakes == sorted(stakes, reverse=True)
    named = re.findall(r"/s/demand/decisions/[0-9a-f-]{36}\">([\w-]+)<", page)
    assert set(named) == {"order-6", "order-7", "order-9", "order-week"}
    text = text_of(page)
    assert "told at least 90" in text
    assert "room: " in text
    assert "usually" in text
    overview = text_of(runner.run(browser.get("/s/demand")).text)
    assert f"{stakes[0]:.2f} EUR at stake: s1/i1" in overview


@pytest.mark.parametrize(
    ("why", "requests"),
    [
        ("above", {"order-6"}),
        ("below", {"order-7"}),
        ("guardrail", {"order-9"}),
        ("short", {"order-9"}),
        ("large", {"order-week"}),
        ("fallback", set[str]()),
    ],
)
def test_exceptions_of_one_reason(index: Index, why: str, requests: set[str]) -> None:
    rows = index.notable.latest("demand", since=0, why=why, most=50)
    assert {one.request for one in index.of(row.seq for row in rows).values()} == requests


def test_a_reason_that_is_none_is_refused(browser: Browser, runner: asyncio.Runner) -> None:
    answer = runner.run(browser.get("/s/demand/exceptions?why=mood"))
    assert (answer.status_code, "no reason to look" in answer.text) == (422, True)


def test_exceptions_are_of_late(home: Home, browser: Browser, runner: asyncio.Runner, index: Index) -> None:
    assert index.first("demand", 1 << 62) > index.progress().position
    assert index.notable.latest("demand", since=index.progress().position, most=50) == []


PLAIN = Seen(
    seq=1,
    system="demand",
    token=1,
    thing="s1/i1",
    chosen=10.0,
    held=30.0,
    usual=8.0,
    mean=20.0,
    low=5.5,
    high=40.5,
    unit=100.0,
    fallback="",
    guardrail="",
)


@pytest.mark.parametrize(
    ("changes", "why", "stake"),
    [
        ({}, "", 0.0),
        ({"told": 41.0}, "", 0.0),
        ({"told": 42.0}, "above", 2_200.0),
        ({"told": 42.0, "bound": True}, "above", 2_200.0),
        ({"told": 4.0}, "below", 1_600.0),
        ({"told": 4.0, "bound": True}, "", 0.0),
        ({"held": 4.0}, "short", 1_600.0),
        ({"chosen": 24.0}, "", 0.0),
        ({"chosen": 25.0}, "large", 1_700.0),
        ({"chosen": 25.0, "usual": None}, "", 0.0),
        ({"guardrail": "room: 4 became 2"}, "guardrail", 2_000.0),
        ({"fallback": "deadline", "mean": None, "low": None, "high": None, "told": 99.0}, "fallback", 1_000.0),
        ({"told": 4.0, "chosen": 25.0}, "below large", 1_700.0),
    ],
)
def test_what_makes_a_decision_notable(changes: dict[str, Any], why: str, stake: float) -> None:
    found = judged(PLAIN._replace(**changes))
    assert (found.why, found.stake) == (why, stake)
    assert found.reasons == [WHY[one] for one in why.split()]


def test_a_thing_is_looked_up_by_an_index(index: Index, home: Home) -> None:
    plans = {
        "SELECT chosen FROM quantities WHERE token = 1 AND chosen > 0 ORDER BY seq DESC LIMIT 12": "by_thing",
        "SELECT * FROM quantities WHERE system = 'demand' AND seq >= 5 AND why <> '' ORDER BY seq DESC": "by_why",
    }
    with closing(sqlite3.connect(index_of(home))) as sql:
        for asked, used in plans.items():
            (row,) = sql.execute(f"EXPLAIN QUERY PLAN {asked}").fetchall()
            assert f"USING INDEX {used}" in row[3]


def test_an_index_of_an_older_layout_is_empty_until_it_is_built(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(Index(path, writes=True)) as made, closing(home.reader()) as log:
        made.take(log, stop=log.position)
    with closing(sqlite3.connect(path)) as sql:
        sql.executescript("DROP TABLE quantities; PRAGMA user_version = 1")
    with closing(Index(path)) as found:
        assert found.progress().position == 0
        assert found.notable.latest("demand", since=0, most=5) == []


def test_what_is_usual_takes_some_choices_to_know(index: Index) -> None:
    rows = index.notable.of(range(1_000))
    known = [row.usual for row in rows.values() if row.thing == "s1/i1"]
    assert len(known) > notable._USUAL_FROM
    assert known[: notable._USUAL_FROM] == [None] * notable._USUAL_FROM
    assert all(one is not None for one in known[notable._USUAL_FROM + 1 :])
