"""Who gets into a control room, what its answers allow a browser, and what it refuses."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.control_room.rooms import Browser, driven, room
from tests.homes import add_model, decide_live, fill_home, opened, records, rule

from decalog.access import TokenStore
from decalog.clock import ManualClock, SystemClock
from decalog.control_room import lanes, signing
from decalog.control_room.app import ROUTES
from decalog.control_room.sessions import COOKIE, Sessions
from decalog.decisions import Decision, decode_decision
from decalog.home import Home
from decalog.http.limits import RateLimit
from decalog.registry import Registry

EVIL = "<script>alert(1)</script>\"'"
PAGES = ("/", "/s/fraud", "/s/fraud/decisions", "/s/fraud/readiness", "/s/fraud/privacy", "/s/fraud/trouble")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = fill_home(tmp_path_factory.mktemp("room") / "fraud")
    add_model(made.root, rule(limit=2_000.0))
    decide_live(made, hours=4)
    with opened(made) as (deployment, _):
        service = deployment.service()
        body = {"id": EVIL, "amount_minor": 500_000, "currency": "EUR", "card": "card-canary-42", "merchant": EVIL}
        service.decide(body)
        deployment.log.commit()
    return made


@pytest.fixture(autouse=True)
def fresh(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_TRIES", RateLimit(1.0, 10, monotonic=lambda: 0.0))
    driven(home)


def token_of(home: Home, *scopes: str, **parts: Any) -> str:
    with closing(TokenStore(home.root / "control.sqlite", SystemClock())) as store:
        return store.create(scopes, **parts)[1]


async def signed_in(home: Home, *scopes: str, **parts: Any) -> Browser:
    browser = room(home.root, asks=True)
    await browser.get("/login")
    answer = await browser.post("/login", {"token": token_of(home, *scopes, **parts)})
    assert answer.headers["location"] == "/"
    return browser


def evil(home: Home) -> Decision:
    made = [decode_decision(record.body) for record in records(home, "decision")]
    return next(decision for decision in made if decision.request.id == EVIL)


# ---- tokens ----


def test_without_a_session_every_page_leads_to_the_form_and_shows_nothing(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = room(home.root, asks=True)
        for path in PAGES:
            answer = await browser.get(path)
            assert (answer.status_code, answer.headers["location"], answer.text) == (303, "/login", "")
            assert "fraud" not in answer.text
        form = await browser.get("/login")
        assert form.status_code == 200
        assert "champion" not in form.text
        assert "/s/fraud" not in form.text

    runner.run(ask())


def test_a_cookie_holds_nothing_but_a_random_id_and_no_script_or_other_site_gets_it(
    home: Home, runner: asyncio.Runner
) -> None:
    async def ask() -> None:
        browser = room(home.root, asks=True, https=True)
        before = await browser.get("/login")
        first = re.fullmatch(
            rf"{COOKIE}=([0-9a-f]{{64}}); Path=/; HttpOnly; SameSite=Strict; Secure", before.headers["set-cookie"]
        )
        assert first
        browser.client.cookies.set(COOKIE, first[1])
        token = token_of(home, "admin")
        after = await browser.post("/login", {"token": token})
        second = re.search(rf"{COOKIE}=([0-9a-f]{{64}});", after.headers["set-cookie"])
        assert second
        assert second[1] != first[1]  # what was known before signing in opens nothing afterwards
        assert token.rpartition("_")[2] not in after.headers["set-cookie"]

    runner.run(ask())


def test_a_wrong_token_is_refused_without_saying_which_part_and_tries_are_bounded(
    home: Home, runner: asyncio.Runner
) -> None:
    async def ask() -> None:
        browser = room(home.root, asks=True)
        await browser.get("/login")
        good = token_of(home, "admin")
        for wrong in ("", "x", good[:-1] + ("0" if good[-1] != "0" else "1"), EVIL):
            answer = await browser.post("/login", {"token": wrong})
            assert answer.status_code == 401
            assert "a token that no home here knows" in answer.text
            assert EVIL not in answer.text
        for _ in range(20):
            answer = await browser.post("/login", {"token": "x"})
        assert answer.status_code == 429
        assert "too many tries" in answer.text

    runner.run(ask())


def test_a_token_that_is_revoked_ends_its_sessions(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = await signed_in(home, "admin")
        assert (await browser.get("/s/fraud")).status_code == 200
        with closing(TokenStore(home.root / "control.sqlite", ManualClock(1))) as store:
            for token in store.tokens():
                store.revoke(token.id)
        for access in browser.client._transport.app._doors._known.values():  # type: ignore[attr-defined]
            access._checked_s = float("-inf")  # a second later
        assert (await browser.get("/s/fraud")).headers["location"] == "/login"

    runner.run(ask())


@pytest.mark.parametrize("scope", ["decide", "outcomes", "admin"])
def test_a_scope_opens_its_own_pages_and_no_others(home: Home, runner: asyncio.Runner, scope: str) -> None:
    async def ask() -> None:
        browser = await signed_in(home, scope)
        for route in ROUTES:
            if route.scope is None or "{id}" in route.path:
                continue
            path = route.path.replace("{system}", "fraud")
            answer = await (browser.get(path) if route.method == "GET" else browser.post(path))
            if route.scope == scope:
                assert answer.status_code != 401, path
            else:
                assert answer.status_code == 401, path
                assert f"scope {route.scope}" in answer.text

    runner.run(ask())


def test_a_token_for_another_system_opens_none_of_this_one(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = await signed_in(home, "admin", "decide", systems=("feed",))
        house = await browser.get("/")
        assert "/s/fraud" not in house.text
        assert (await browser.get("/s/fraud")).status_code == 401

    runner.run(ask())


def test_signing_out_forgets_the_session(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = await signed_in(home, "admin")
        await browser.get("/")
        assert (await browser.post("/logout")).headers["location"] == "/login"
        assert (await browser.get("/")).headers["location"] == "/login"

    runner.run(ask())


def test_sessions_end_when_they_idle_and_those_without_a_token_make_room_first() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    kept, idle = sessions.open("t"), sessions.open("")
    for _ in range(1_500):
        sessions.open("")
    assert sessions.find(kept.id) is kept
    assert sessions.find(idle.id) is None
    now[0] += 13 * 3600
    assert sessions.find(kept.id) is None


# ---- forms ----


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.method == "POST"])
def test_no_form_is_taken_that_no_page_of_ours_made(home: Home, runner: asyncio.Runner, path: str) -> None:
    async def ask() -> None:
        browser = room(home.root)
        await browser.get("/")
        history = Registry(home.root).history("fraud")
        path_ = path.replace("{system}", "fraud").replace("{id}", "x")
        for form in ({"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "é"}):
            answer = await browser.post(path_, {"act": "rollback", "token": "x", "knob": "corrupt_data"} | form)
            assert answer.status_code == 403
            assert "a form that no page of this session made" in answer.text
        foreign = await browser.post(path_, {"act": "rollback"}, origin="http://evil.example")
        assert foreign.status_code == 403
        assert Registry(home.root).history("fraud") == history

    runner.run(ask())


def test_a_form_of_another_session_is_refused(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        mine, theirs = room(home.root), room(home.root)
        await mine.get("/s/fraud")
        await theirs.get("/s/fraud")
        answer = await mine.post("/s/fraud/champion", {"csrf": theirs.csrf, "act": "rollback"})
        assert answer.status_code == 403

    runner.run(ask())


def test_only_forms_of_bounded_size_are_read(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = room(home.root)
        await browser.get("/s/fraud")
        answer = await browser.client.post("/s/fraud/champion", json={"csrf": browser.csrf})
        assert (answer.status_code, "another media type" in answer.text) == (415, True)
        answer = await browser.post("/s/fraud/champion", {"why": "x" * 70_000})
        assert answer.status_code == 413

    runner.run(ask())


# ---- what a browser may do ----


def test_without_tokens_only_names_of_this_machine_are_answered(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = room(home.root)
        for name, status in (("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:8080", 200)):
            assert (await browser.get("/", host=name)).status_code == status
        for name in ("evil.example", "192.168.0.7", ""):
            answer = await browser.get("/", host=name)
            assert answer.status_code == 403
            assert "loopback" in answer.text

    runner.run(ask())


class Inline(HTMLParser):
    """Finds what a policy without unsafe-inline would not run, and what a page asks of other machines."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.wrong += [f"{tag} {name}" for name in named if name == "style" or name.startswith("on")]
        self.wrong += [tag] if tag == "style" or (tag == "script" and not named.get("src")) else []
        for name in ("src", "href", "action"):
            value = named.get(name) or "/"
            self.wrong += [] if value.startswith(("/", "#", "?")) and not value.startswith("//") else [f"{tag} {value}"]


@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/static/room.css", "/static/room.js", "/static/../app.py"])
def test_every_answer_says_what_a_browser_may_do_and_keeps_to_it(home: Home, runner: asyncio.Runner, path: str) -> None:
    async def ask() -> None:
        answer = await room(home.root).get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"  # without any, a form's Origin would be null
        found = Inline()
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert answer.headers["cache-control"] == "no-store"
            found.feed(answer.text)
        assert not found.wrong

    runner.run(ask())


def test_what_callers_sent_is_shown_as_text_and_never_run(home: Home, runner: asyncio.Runner) -> None:
    decision = evil(home)

    async def ask() -> None:
        browser = room(home.root)
        paths = ("/s/fraud/decisions", f"/s/fraud/decisions/{decision.id}", "/s/fraud/decisions?id=" + EVIL)
        for path in paths:
            answer = await browser.get(path)
            assert answer.status_code == 200
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
            assert "<script>alert" not in answer.text
        for path in (f"/s/{EVIL}", "/s/fraud/decisions?before=" + EVIL, f"/s/fraud/decisions/{EVIL}x"):
            answer = await browser.get(path)
            assert answer.status_code in (404, 422)
            assert "<script>alert" not in answer.text

    runner.run(ask())


def test_no_page_shows_a_personal_value_and_what_is_searched_for_goes_nowhere(
    home: Home, runner: asyncio.Runner
) -> None:
    decision = evil(home)

    async def ask() -> None:
        browser = room(home.root)
        page = await browser.get("/s/fraud/decisions")
        for path in (*PAGES, f"/s/fraud/decisions/{decision.id}"):
            assert "card-canary-42" not in (await browser.get(path)).text
        found = await browser.post("/s/fraud/decisions", {"kind": "card", "value": "card-canary-42"})
        token = decision.request.entities["card"]
        assert found.headers["location"] == f"/s/fraud/decisions?token={token}"
        page = await browser.get(found.headers["location"])
        assert "&lt;script&gt;" in page.text
        assert page.text.count("<tr>") == 2  # the head, and the one decision about it
        unknown = await browser.post("/s/fraud/decisions", {"kind": "card", "value": "card-canary-43"})
        assert unknown.headers["location"] == "/s/fraud/decisions"
        page = await browser.get("/s/fraud/decisions")
        assert "No card of that value was ever seen here." in page.text
        assert "canary" not in page.text
        refused = await browser.post("/s/fraud/decisions", {"kind": "shoe", "value": "card-canary-43"})
        assert (refused.status_code, "an entity that requests do not name" in refused.text) == (422, True)
        assert "canary" not in refused.text

    runner.run(ask())
    kept = b"".join(path.read_bytes() for path in (home.root / "room").rglob("*") if path.is_file())
    assert b"canary" not in kept


def test_pages_that_there_are_not_and_other_methods_are_refused_in_words(home: Home, runner: asyncio.Runner) -> None:
    async def ask() -> None:
        browser = room(home.root)
        for method, path, status in (("GET", "/x", 404), ("PUT", "/", 405), ("GET", "/s/shoes", 404)):
            answer = await browser.client.request(method, path)
            assert answer.status_code == status
            assert "Expected" in answer.text
        head = await browser.client.head("/")
        assert (head.status_code, head.text) == (200, "")
        assert int(head.headers["content-length"]) > 1_000
        late = await browser.get("/static/room.css")
        again = await browser.get("/static/room.css", **{"if-modified-since": late.headers["last-modified"]})
        assert (again.status_code, again.text) == (304, "")
        assert (await browser.get("/static/none.css")).status_code == 404

    runner.run(ask())


def test_an_error_that_nobody_foresaw_shows_nothing_of_the_inside(
    home: Home, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("card-canary-42")

    monkeypatch.setattr(lanes, "of", fails)

    async def ask() -> None:
        answer = await room(home.root).get("/s/fraud")
        assert answer.status_code == 500
        assert "canary" not in answer.text
        assert "RuntimeError" not in answer.text

    runner.run(ask())
