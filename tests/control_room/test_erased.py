"""A decision whose person was erased is in no list, search or page of the control room, and its index lets go of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.control_room.orders import filled
from tests.control_room.rooms import catch_up, room
from tests.homes import add_model
from tests.privacy.people import ADA, fill

from decalog.control_room.homes import index_of
from decalog.control_room.index import Filter, Index
from decalog.events import Record
from decalog.home import Home
from decalog.privacy.erasing import erase
from decalog.standing import ERASURES, Erasure
from decalog.tables import Tables


def decisions(home: Home) -> list[Record]:
    with closing(home.reader()) as log:
        return [record for record in log.read() if record.kind == "decision"]


@pytest.mark.parametrize("is_followed", [True, False], ids=["the index knows", "the index is behind"])
def test_no_list_and_no_page_has_it(tmp_path: Path, runner: asyncio.Runner, is_followed: bool) -> None:
    home = fill(tmp_path / "fraud")
    add_model(home.root)  # without one a system is not shown
    browser = room(home.root)  # its index has come to the log's end
    hers = [record.id for record in decisions(home) if record.id.startswith("ada-")]
    assert len(hers) == 4

    async def shown(id_: str) -> int:
        return (await browser.get(f"/s/fraud/decisions/{id_}")).status_code

    async def pages() -> list[int]:
        return [await shown(id_) for id_ in (*hers, "bob-1")]

    assert runner.run(pages()) == [200] * 5
    assert erase(home, "fraud", person=ADA).found
    if is_followed:
        catch_up(home)
    assert runner.run(pages()) == [404] * 4 + [200]

    async def listed() -> str:
        return (await browser.get("/s/fraud/decisions")).text

    if is_followed:
        page = runner.run(listed())
        assert "bob-1" in page
        assert not [id_ for id_ in hers if id_ in page]


def test_the_index_keeps_sums_and_nothing_else(tmp_path: Path) -> None:
    home = fill(tmp_path / "fraud")
    catch_up(home)
    with closing(Index(index_of(home))) as index:
        before = index.series("fraud", 86_400_000_000, since=0)
    told = erase(home, "fraud", person=ADA)
    assert told.records == {"fraud": 6}
    catch_up(home)
    erased = {record.seq for record in decisions(home) if record.id.startswith("ada-")}
    with closing(Index(index_of(home))) as index:
        assert {row.request for row in index.decisions("fraud", Filter(), most=99)} == {f"bob-{n}" for n in range(4)}
        assert index.series("fraud", 86_400_000_000, since=0) == before
        assert all(index.is_erased(seq) for seq in erased)
    with closing(sqlite3.connect(index_of(home))) as sql:
        assert not erased & {row[0] for row in sql.execute("SELECT seq FROM touched")}
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"ada-" not in index_of(home).read_bytes()


def test_one_that_is_built_anew_has_no_more(tmp_path: Path) -> None:
    home = fill(tmp_path / "fraud")
    erase(home, "fraud", person=ADA)
    catch_up(home)
    with closing(Index(index_of(home))) as index:
        assert {row.request[:3] for row in index.decisions("fraud", Filter(), most=99)} == {"bob"}


def test_a_quantity_goes_too(tmp_path: Path) -> None:
    home = filled(tmp_path / "demand")
    catch_up(home)
    gone = decisions(home)[0]
    with closing(home.writer()) as log:
        Tables(log).put("demand", ERASURES, content=Erasure(subject=1, records=(gone.seq,)))
        log.commit()
    catch_up(home)
    with closing(Index(index_of(home))) as index:
        assert index.notable.of([gone.seq]) == {}
        assert index.of([gone.seq]) == {}
