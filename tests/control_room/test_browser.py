"""The control room in a real Chromium: a first visitor's path, the keyboard, and what axe-core finds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.control_room.orders import filled
from tests.homes import add_model, fill_home

from decalog.models.linear import Threshold
from decalog.registry import Registry
from decalog.systems.fraud.system import SYSTEM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
PATIENCE_S = 90.0
PATIENCE_MS = 1_000 * PATIENCE_S
ATTACKED_MS = 10 * PATIENCE_MS
"""An attack begins at the world's next midnight and is a whole day old at the one after; a slow machine lags."""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")


@contextmanager
def running(*words: str, says: str) -> Iterator[str]:
    """Runs a command of decalog until the block ends; gives what stands behind some words of its output."""
    command = [sys.executable, "-m", "decalog", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line)
                found = re.search(rf"{says}(http://\S+?)(?:/openapi.json|\s)", line)
                if found:
                    break
            else:
                raise AssertionError("".join(said))
            os.set_blocking(process.stdout.fileno(), False)
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose present champion looks at amounts alone; the one before knew card testing."""
    made = tmp_path_factory.mktemp("visited")
    fill_home(made / "fraud", champion=False)
    names = SYSTEM.features.names_for("model")
    for name, limit in (("ip_cards_10m", 3.0), ("amount", 60_000.0)):
        add_model(made / "fraud", Threshold(names.index(name), limit, above=0.97, below=0.001, width=len(names)))
    return made


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    words = ("--alone", "--no-real", "--port", "0", "--scale", "0.3", "--speed", "3600", "--home", str(root))
    with (
        running("up", *words, says="live +"),
        running("room", "--no-auth", "--port", "0", "--home", str(root), says="control room on ") as found,
    ):
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    made = context.new_page()
    made.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    elsewhere: list[str] = []
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("request", lambda request: None if "127.0.0.1" in request.url else elsewhere.append(request.url))
    yield made
    context.close()
    assert not [problem for problem in problems if "Failed to fetch" not in problem]
    assert not elsewhere  # no request leaves the machine


def until(page: Page, path: str, selector: str) -> None:
    """Opens a page again until it shows something."""
    page.goto(path)
    page.locator(selector).first.wait_for()


def test_a_first_visitors_path(page: Page, address: str, root: Path) -> None:
    before, now = (change.model for change in Registry(root / "fraud").history("fraud"))
    # Start: the house says what runs, and whose clock that is.
    page.goto(address)
    page.locator("h1", has_text="The house").wait_for()
    page.locator("#clock", has_text="3,600×").wait_for()
    # Why was a payment blocked?
    page.get_by_role("link", name="Decisions").click()
    page.get_by_label("Action").select_option("block")
    page.get_by_role("button", name="Search").click()
    row = page.locator("table.rows tbody tr", has=page.locator(".a-block")).first
    row.wait_for()  # the first live block comes by itself
    row.locator("a").click()
    page.locator("h1", has_text="block").wait_for()
    assert page.locator(".reasons li").count() >= 1
    page.get_by_text("What would have changed it").wait_for()
    page.locator("#why li").first.wait_for()
    page.get_by_role("button", name="Replay it from the log").click()
    page.get_by_text("Identical.").wait_for()
    # Attack: the page says which alert has to come of it, and by when.
    alert = page.locator(".alert", has_text="fraud velocity")
    page.get_by_role("link", name="Overview").click()
    page.locator("#champions").wait_for()
    assert alert.count() == 0
    page.get_by_role("link", name="Trouble").click()
    page.get_by_role("switch", name="card testing attack").click()
    attack = page.locator(".knob.on", has_text="card testing attack")
    attack.get_by_text("The watch has to raise fraud velocity within 2d").wait_for()
    # See the alert that it raises, a day or two of the world's later, and go back to the champion before.
    page.get_by_role("link", name="Overview").click()
    alert.wait_for(timeout=ATTACKED_MS)
    assert re.search(r"reached ip_cards_10m 5: .* level 0\.001", alert.inner_text()), alert.inner_text()
    page.locator("#champions").get_by_label("Why").fill("card testing gets through")
    page.get_by_role("button", name="Roll back to the one before").click()
    page.get_by_text(f"{before[:12]} is the champion again.").wait_for()
    back = Registry(root / "fraud").history("fraud")[-1]
    assert (back.act, back.model, back.why) == ("rollback", before, "card testing gets through (control room)")
    assert now != before
    # The server follows: what is decided from now on names the earlier model.
    page.goto(f"{address}/s/fraud/decisions")
    for _ in range(60):
        page.wait_for_timeout(1_000)
        page.locator("table.rows tbody a").first.click()
        page.locator("h1 .action").wait_for()
        if before[:12] in page.content():
            break
        page.go_back()
    assert before[:12] in page.content()


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A control room over orders; nobody serves them."""
    home = filled(tmp_path_factory.mktemp("ordered") / "demand")
    with running("room", "--no-auth", "--port", "0", "--home", str(home.root), says="control room on ") as found:
        yield found


PAGES = ("/", "/s/fraud", "/s/fraud/decisions", "/s/fraud/cases", "/s/fraud/trouble", "/s/fraud/readiness")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Browser, address: str, scheme: Any) -> None:
    context = chromium.new_context(color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{address}/s/fraud/decisions")
    one = page.locator("table.rows tbody a").first
    one.wait_for()
    decision = one.get_attribute("href")
    found = [problem for path in (*PAGES, decision) for problem in problems(page, f"{address}{path}")]
    context.close()
    assert not found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_a_quantity_is_drawn(chromium: Browser, ordered: str, scheme: Any) -> None:
    context = chromium.new_context(color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    found = [problem for path in things(page, ordered) for problem in problems(page, f"{ordered}{path}")]
    context.close()
    assert not found


def test_charts_of_quantities_fit_a_telephone_and_what_they_show_is_there(chromium: Browser, ordered: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    paths = things(page, ordered)
    for path in paths:
        page.goto(f"{ordered}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    # A band, a dot and a column are as large as they are said to be, and stand within their chart.
    page.goto(f"{ordered}{paths[1]}")
    chart = page.locator("svg.fan").first.bounding_box()
    assert chart is not None
    for shape in ("rect.narrow", "circle.told", "line.held"):
        box = page.locator(f"svg.fan {shape}").first.bounding_box()
        assert box is not None, shape
        assert box["x"] >= chart["x"] - 5, shape
        assert box["x"] + box["width"] <= chart["x"] + chart["width"] + 5, shape
    assert page.locator("svg.fan circle.told").first.evaluate("one => one.getBoundingClientRect().width") < 12
    context.close()


def things(page: Page, address: str) -> list[str]:
    """Returns the paths of the pages that show quantities, once the index has them."""
    page.goto(f"{address}/s/demand/exceptions")
    page.locator("table.rows tbody a").first.wait_for()
    links = [page.locator(f"a[href*='{part}']").first.get_attribute("href") for part in ("/of/", "/decisions/")]
    return ["/s/demand/exceptions", *filter(None, links), "/s/demand/decisions", "/s/demand"]


def problems(page: Page, address: str) -> list[tuple[str, ...]]:
    """Returns what axe-core finds serious on a page."""
    from axe_playwright_python.sync_playwright import Axe

    page.goto(address)
    page.locator("h1").wait_for()
    told = Axe().run(page).response["violations"]
    return [
        (address, one["id"], one["nodes"][0]["html"][:200], one["nodes"][0].get("failureSummary", ""))
        for one in told
        if one["impact"] in ("serious", "critical")
    ]


def test_every_page_fits_a_telephone(chromium: Browser, address: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    for path in PAGES:
        page.goto(f"{address}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    context.close()


def test_pages_live_without_reloading_and_the_theme_is_kept(page: Page, address: str) -> None:
    page.goto(address)
    page.evaluate("window.loadedOnce = true")
    first = page.locator("#clock time").inner_text()
    page.wait_for_function("told => document.querySelector('#clock time').innerText !== told", arg=first)
    assert page.evaluate("window.loadedOnce")
    page.locator("#theme").click()
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.reload()
    assert theme in ("light", "dark")
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_the_queue_is_worked_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    home = fill_home(tmp_path / "fraud")
    names = SYSTEM.features.names_for("model")
    add_model(home.root, Threshold(names.index("amount"), 100.0, above=0.05, below=0.001, width=len(names)))
    where = ("--home", str(home.root), "--no-auth", "--port", "0")
    with running("serve", "fraud", *where, says="listening on ") as server:
        for number in (1, 2):
            body = {"id": f"p{number}", "amount_minor": 300_000, "currency": "EUR", "card": f"card-{number}"}
            answer = httpx.post(f"{server}/v1/fraud/decide", json=body, timeout=PATIENCE_S).json()
            assert answer["action"] == "review", answer
        with running("room", *where, "--url", f"fraud={server}", says="control room on ") as address:
            page.goto(f"{address}/s/fraud/cases")
            page.keyboard.press("j")
            page.keyboard.press("j")
            page.keyboard.press("k")
            name = page.locator("tr[aria-selected='true'] a").inner_text()
            assert name == page.locator("table.rows tbody a").first.inner_text()
            page.keyboard.press("Enter")
            page.locator("h1", has_text=name).wait_for()
            page.keyboard.press("3")
            page.locator("h1", has_text="claimed by control room").wait_for()
            page.keyboard.press("2")
            page.locator(".said", has_text=f"{name}: genuine.").wait_for()
            assert page.url.endswith("/s/fraud/cases")
            assert page.locator("table.rows tbody a").all_inner_texts() == [{"p1": "p2", "p2": "p1"}[name]]
            page.close()  # before its server goes
