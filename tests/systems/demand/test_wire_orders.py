"""Planners' files out and in: what stands in them, what becomes of changed quantities, and what is refused."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.systems.demand.doors import NIGHT, Door, opened

from decalog.clock import DAY, HOUR
from decalog.outcomes import decode_outcome
from decalog.systems.demand import wire_sheets
from decalog.systems.demand.wire_orders import COLUMNS, REASONS

PATH = "/v1/demand/orders"
DATE = "date=2026-02-16"
Row = dict[str, str]


@pytest.fixture
def door(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Door]:
    with opened(tmp_path, runner) as made:
        yield made


def rows_of(door: Door, query: str = DATE) -> list[Row]:
    text = door.call("GET", f"{PATH}?{query}").content.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def file_of(rows: list[Row], *, separator: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def posted(door: Door, rows: list[Row], *, status: int = 200, separator: str = ",") -> dict[str, Any]:
    told: dict[str, Any] = door.call("POST", PATH, content=file_of(rows, separator=separator), status=status).json()
    return told


def overrides(door: Door) -> list[tuple[str, float, Any]]:
    """Returns what was reported, in the order of the log: target, value and why."""
    told = [decode_outcome(record.body) for record in door.log.read() if record.kind == "outcome"]
    return [(one.target, one.value, one.attributes["why"]) for one in told]


def test_a_night_has_a_row_for_each_decision(door: Door) -> None:
    told = door.decide("o1", "s1/i1")
    door.decide("o2", "s2/i9", least_cases=90)
    door.clock.set(NIGHT + DAY)
    door.decide("o3", "s1/i1")
    rows = rows_of(door)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["series"] for row in rows] == ["s1/i1", "s2/i9"]
    first, second = rows
    assert (first["item"], first["store"], first["mode"]) == ("i1", "s1", "live")
    assert [first[name] for name in ("mean", "q10", "q50", "q90", "on_hand", "on_order", "pack")] == [
        *("40", "24", "40", "56"),
        *("7", "0", "6"),
    ]
    assert first["decision_id"] == told["decision_id"]
    assert (first["decided_units"], first["units"], first["why"]) == (
        first["units"],
        f"{told['slots'][0]['value']:g}",
        "",
    )
    assert float(first["expected_worth"]) == told["expected_minor"] / 100
    assert first["currency"] == "EUR"
    assert first["reasons"].startswith(told["reasons"][0])
    assert second["units"] == "0"
    assert second["guardrails"].endswith("→ 0 cases, an order has 90 cases at least")
    assert [row["series"] for row in rows_of(door, "date=2026-02-17")] == ["s1/i1"]
    assert [row["series"] for row in rows_of(door, f"{DATE}&store=s2")] == ["s2/i9"]
    assert len(rows_of(door, f"{DATE}&hour=22")) == 1
    assert len(rows_of(door, "date=2026-02-15&hour=22")) == 2
    assert rows_of(door, "date=2026-02-10") == []


def test_changed_quantities_become_overrides_once(door: Door) -> None:
    for number in range(3):
        door.decide(f"o{number}", f"s1/i{number}")
    rows = rows_of(door)
    rows[1] |= {"units": "60", "why": "event"}
    told = posted(door, rows)
    assert (told["accepted"], told["unchanged"], told["rejected"]) == (1, 2, 0)
    assert told["results"][1] == {
        "line": 3,
        "decision_id": rows[1]["decision_id"],
        "status": "accepted",
        "message": "",
    }
    assert overrides(door) == [("o1", 60, "event")]
    again = posted(door, rows)
    assert (again["accepted"], again["unchanged"]) == (0, 3)
    assert [(row["decided_units"] == row["units"], row["why"]) for row in rows_of(door)] == [
        (True, ""),
        (False, "event"),
        (True, ""),
    ]


def test_a_row_says_which_planner_by_a_pseudonym(door: Door) -> None:
    door.decide("o1")
    (row,) = rows_of(door)
    assert row["planner"] == ""
    changed = row | {"units": "60", "why": "event", "planner": "p7"}
    assert posted(door, [changed])["accepted"] == 1
    assert [(one["units"], one["planner"]) for one in rows_of(door)] == [("60", "p7")]
    assert posted(door, [changed | {"planner": "p8"}])["unchanged"] == 1, "whoever says the same changes nothing"
    assert posted(door, [changed | {"units": "66", "planner": "p8"}])["accepted"] == 1
    assert [(one["units"], one["planner"]) for one in rows_of(door)] == [("66", "p8")]
    long = posted(door, [changed | {"units": "72", "planner": "p" * 33}], status=422)
    assert "planner" in str(long)


def test_the_last_word_of_a_planner_stands(door: Door) -> None:
    door.decide("o1")
    (row,) = rows_of(door)
    decided = row["units"]
    for units, why in (("60", "event"), ("0", "supply"), ("60", "event"), (decided, "judgement")):
        assert posted(door, [row | {"units": units, "why": why}])["accepted"] == 1
        assert [(one["units"], one["why"]) for one in rows_of(door)] == [(units, why)]
    assert [value for _, value, _ in overrides(door)] == [60, 0, 60, float(decided)]
    # An old file, in which nothing was changed, takes nothing back.
    posted(door, [row | {"units": "60", "why": "event"}])
    assert posted(door, [row])["unchanged"] == 1
    assert rows_of(door)[0]["units"] == "60"
    assert len(door.host.outcomes("demand", "o1")) == 1


def test_what_another_way_reported_is_corrected_too(door: Door, runner: asyncio.Runner) -> None:
    door.decide("o1")
    raw = b'{"id": "x", "replenishment": "o1", "kind": "override", "source": "planner", "value": 24, "why": "range"}'
    runner.run(door.host.add_outcomes("demand", raw))
    (row,) = rows_of(door)
    assert (row["units"], row["why"]) == ("24", "range")
    assert posted(door, [row])["unchanged"] == 1
    assert posted(door, [row | {"units": "30"}])["accepted"] == 1
    assert [outcome.value for _, outcome in door.host.outcomes("demand", "o1")] == [30]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decision_id": ""}, "planner's file, decision_id: nothing"),
        ({"decision_id": "none"}, "planner's file, decision_id: an id that no decision has"),
        ({"decision_id": "o1"}, "planner's file, decision_id: an id that no decision has"),
        ({"series": "s1/i2"}, "planner's file, series: a series that the decision is not about"),
        ({"units": ""}, "planner's file, units: nothing"),
        ({"units": "-6"}, "planner's file, units: no whole number"),
        ({"units": "1.000"}, "planner's file, units: no whole number"),
        ({"units": "1,200"}, "planner's file, units: no whole number"),
        ({"units": "nan"}, "planner's file, units: no whole number"),
        ({"units": "9999999999"}, "planner's file, units: no whole number"),
        ({"units": "7", "why": "event"}, "planner's file, units: 7 units. Expected whole cases of 6"),
        ({"units": "60", "why": ""}, "planner's file, why: a changed quantity without a reason"),
        ({"units": "60", "why": "weather"}, "planner's file, why: a reason that is none. Expected one of event,"),
    ],
)
def test_a_bad_row_is_refused_alone(door: Door, change: Row, words: str) -> None:
    door.decide("o1", "s1/i1")
    door.decide("o2", "s1/i2")
    bad, good = rows_of(door)
    before = door.log.position
    told = posted(door, [bad | change, good | {"units": "60.0", "why": "Event"}])
    assert (told["accepted"], told["rejected"]) == (1, 1)
    assert told["results"][0]["message"].startswith(f"line 2: {words}")
    assert door.log.position == before + 1
    told = posted(door, [bad | change], status=422)
    assert told["results"][0]["status"] == "rejected"
    assert words in told["detail"]


def test_of_two_rows_of_one_decision_the_first_counts(door: Door) -> None:
    door.decide("o1")
    (row,) = rows_of(door)
    told = posted(door, [row | {"units": units, "why": "event"} for units in ("60", "66")])
    assert [one["status"] for one in told["results"]] == ["accepted", "rejected"]
    assert "the decision of line 2" in told["results"][1]["message"]


def test_what_excel_makes_of_csv_is_read(door: Door) -> None:
    door.decide("o1", category="Käse")
    (row,) = rows_of(door)
    changed = [row | {"units": "60,0", "why": "event"}]
    told = door.call("POST", PATH, content=file_of(changed, separator=";").decode().encode("cp1252", "replace")).json()
    assert told["accepted"] == 1
    only = file_of([{"units": "66", "why": "event", "decision_id": row["decision_id"], "note": "é"}], separator="\t")
    assert door.call("POST", PATH, content=only + b"\t\t\r\n").json()["accepted"] == 1


def test_no_cell_is_a_formula(door: Door) -> None:
    for number, name in enumerate(("=1+1", "@SUM(A1)", "+1", "-1", "'=1")):
        door.decide(f"o{number}", f"{name}/i1")
    raw = [row["series"] for row in rows_of(door)]
    assert raw == ["'=1+1/i1", "'@SUM(A1)/i1", "'+1/i1", "'-1/i1", "''=1/i1"]
    changed = [row | {"units": "60", "why": "event"} for row in rows_of(door)]
    assert posted(door, changed)["accepted"] == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a first line that does not name each column once"),
        (b"units,units\n1,2\n", "a first line that does not name each column once"),
        (b"PK\x03\x04broken", "a workbook that cannot be read"),
        (b'decision_id,units\n"' + b"x" * 140_000, "a CSV file that cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused(door: Door, content: bytes, words: str) -> None:
    told = door.call("POST", PATH, content=content, status=422).json()
    assert words in told["detail"]


def test_a_file_has_its_bounds(door: Door) -> None:
    for number in range(51):
        door.decide(f"o{number}", f"s1/i{number}")
    assert "more than 50" in door.call("GET", f"{PATH}?{DATE}", status=413).json()["detail"]
    rows = [{"decision_id": str(number), "units": "6"} for number in range(51)]
    assert "more than 50" in posted(door, rows, status=413)["detail"]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/workbook.xml", bytes(65 * 1_024 * 1_024))
    assert "grows too large" in door.call("POST", PATH, content=bomb.getvalue(), status=422).json()["detail"]


@pytest.mark.parametrize("query", ["", "date=16.2.2026", f"{DATE}&hour=24", f"{DATE}&format=pdf", f"{DATE}&shop=1"])
def test_a_query_that_means_nothing_is_refused(door: Door, query: str) -> None:
    assert door.call("GET", f"{PATH}?{query}", status=422).json()["where"].startswith("demand, query")


# Excel


def test_a_workbook_comes_back_as_it_went(door: Door) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    door.decide("o1", "=1+1/i1")
    door.decide("o2", "s1/i2")
    raw = door.call("GET", f"{PATH}?{DATE}&format=xlsx")
    assert raw.headers["content-disposition"] == 'attachment; filename="orders-2026-02-16.xlsx"'
    book = openpyxl.load_workbook(io.BytesIO(raw.content))
    sheet = book.active
    assert [cell.value for cell in sheet[1]] == list(COLUMNS)
    assert (sheet["A2"].value, sheet["A2"].data_type) == ("=1+1/i1", "s")
    assert isinstance(sheet["D2"].value, int)
    for line, units in ((2, 60), (3, 60.0)):
        sheet.cell(line, COLUMNS.index("units") + 1, units)
        sheet.cell(line, COLUMNS.index("why") + 1, "promotion")
    changed = io.BytesIO()
    book.save(changed)
    told = door.call("POST", PATH, content=changed.getvalue()).json()
    assert (told["accepted"], overrides(door)) == (2, [("o1", 60, "promotion"), ("o2", 60, "promotion")])
    assert door.call("POST", PATH, content=changed.getvalue()).json()["unchanged"] == 2


def test_without_openpyxl_the_extra_is_named(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for told in (
        door.call("GET", f"{PATH}?{DATE}&format=xlsx", status=501),
        door.call("POST", PATH, content=b"PK\x03\x04", status=501),
    ):
        assert "pip install decalog[demand]" in told.json()["fix"]


def test_a_workbook_that_was_not_made_is_no_fault_of_the_caller(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int]:
        return b"", b"", 9

    pytest.importorskip("openpyxl")
    monkeypatch.setattr(wire_sheets, "run_aside", silent)
    assert door.call("GET", f"{PATH}?{DATE}&format=xlsx", status=500).json()["where"] == "server"


def test_every_reason_of_the_schema_is_taken(door: Door) -> None:
    door.decide("o1")
    (row,) = rows_of(door)
    for units, why in enumerate(REASONS):
        assert posted(door, [row | {"units": str(6 * units), "why": why}])["accepted"] == 1


# Forecasts on the log

FORECAST = "/v1/demand/forecast"


def test_the_latest_forecast_of_a_series_is_told(door: Door) -> None:
    door.decide("o1", "s1/i1")
    door.decide("o2", "s1/i2")
    door.clock.set(NIGHT + DAY)
    last = door.decide("o3", "s1/i1", horizon_days=4)
    told = door.call("GET", f"{FORECAST}?series=s1/i1&series=s1/i2").json()
    frame = told["frame"]
    assert list(frame)[:5] == ["unique_id", "ds", "decalog", "decalog-lo-96", "decalog-hi-96"]
    assert list(frame)[-2:] == ["decalog-lo-20", "decalog-hi-20"]
    assert (frame["unique_id"], frame["ds"]) == (["s1/i1", "s1/i2"], ["2026-02-18", "2026-02-17"])
    assert (frame["decalog"], frame["decalog-lo-80"], frame["decalog-hi-80"]) == ([40, 40], [24, 24], [56, 56])
    assert (told["horizon_days"], told["decision_id"][0]) == ([4, 2], last["decision_id"])
    assert told["asked"][0] == "2026-02-17T21:00:00Z"
    door.clock.set(NIGHT + DAY + HOUR)
    newer = door.decide("o4", "s1/i1")
    assert door.call("GET", f"{FORECAST}?series=s1/i1").json()["decision_id"] == [newer["decision_id"]]


def test_a_night_is_a_frame_that_others_read(door: Door) -> None:
    polars = pytest.importorskip("polars")
    door.decide("o1", "s1/i1")
    door.decide("o2", "s1/i2")
    frame = polars.read_csv(io.BytesIO(door.call("GET", f"{FORECAST}?{DATE}&format=csv").content))
    assert frame.columns[:3] == ["unique_id", "ds", "decalog"]
    assert frame["decalog-hi-90"].to_list() == [58, 58]
    told = polars.DataFrame(door.call("GET", f"{FORECAST}?{DATE}").json()["frame"])
    assert told["unique_id"].to_list() == ["s1/i1", "s1/i2"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 422, "both of series and date, or none"),
        (f"{DATE}&series=s1/i1", 422, "both of series and date, or none"),
        ("series=s9/i9", 404, "1 that no decision with a forecast was made for"),
        ("&".join("series=a" for _ in range(51)), 413, "more than 50"),
    ],
)
def test_a_forecast_that_is_not_there_is_refused(door: Door, query: str, status: int, words: str) -> None:
    assert words in door.call("GET", f"{FORECAST}?{query}", status=status).json()["detail"]
