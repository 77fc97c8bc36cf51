"""Results, their age, score and exit status; a check that cannot be measured is neither green nor red."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.readiness.small import contents

from decalog.clock import DAY
from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.operations import quiet
from decalog.readiness import evidence, page, running
from decalog.readiness.catalog import CHECKS, LIVE
from decalog.readiness.checks import SECTIONS, Check, Measured, Result
from decalog.readiness.ml_test_score import ITEMS, NONE, final, scored
from decalog.readiness.slo import LIMITS, Slo
from decalog.readiness.subject import Subject


def measuring(value: float) -> Callable[[Subject, str], Measured]:
    return lambda _, fault: Measured(value=1.0 if fault else value, n=3, said="so it is", detail={"figure": 2.0})


def check(name: str, value: float = 0.0, **changes: object) -> Check:
    made = Check(
        name=name,
        section="data integrity",
        meaning="a count",
        unit="things",
        limit="faults",
        anchor="a paper",
        fix="Mend it.",
        measure=measuring(value),
        faults=("a fault",),
    )
    return msgspec.structs.replace(made, **changes)


def broken(_: Subject, _fault: str) -> Measured:
    raise ZeroDivisionError("of a user's own")


@pytest.fixture
def own(home: Home, tmp_path: Path) -> Home:
    shutil.copytree(home.root, tmp_path / "own")
    return Home(tmp_path / "own")


def of(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> running.Wanted:
    monkeypatch.setattr(running, "CHECKS", checks)
    return running.Wanted(system="fraud")


def test_all_green_is_ready(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found = running.run(own, of(monkeypatch, check("a"), check("b")), say=quiet)
    assert (found.status, found.score, found.worst) == (0, 100, ())
    assert "fraud: ready, the checklist at log position" in page.text(found)
    assert "<p>Nothing is red.</p>" in page.as_html(found)


def test_the_score_is_the_least_of_the_sections_and_the_worst_come_first(
    own: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = (check("a"), check("b", 2.0), check("c", 9.0), check("d", section="latency"), check("e", float("inf")))
    found = running.run(own, of(monkeypatch, *checks), say=quiet)
    assert (found.status, found.score) == (1, 25)
    assert found.worst == ("e", "c", "b")
    assert [section.percent for section in found.sections] == [100, 25]
    text = page.text(found)
    assert "  e: broken, at most 0. Mend it." in text
    assert "    limit from: a paper" in text


def test_what_cannot_be_measured_is_said_and_is_not_green(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found = running.run(own, of(monkeypatch, check("a"), check("b", measure=broken)), say=quiet)
    assert (found.status, found.score) == (2, 50)
    assert found.results[1].said == "ZeroDivisionError: of a user's own"
    assert found.results[1].status == "not measured"


def test_results_are_kept_and_nothing_else_of_the_home_is_touched(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(own.root)
    wanted = of(monkeypatch, check("a"), check("b", measure=broken))
    running.run(own, wanted, say=quiet)
    after = contents(own.root)
    assert after.pop("readiness/fraud.json")
    assert after == before
    kept = running.standing(own, wanted)
    assert [result.status for result in kept.results] == ["green", "not measured"]
    assert kept.results[1].said == "never measured"


def test_old_evidence_counts_as_not_measured(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = of(monkeypatch, check("a"))
    running.run(own, wanted, say=quiet)
    kept = evidence.read(own.root, "fraud")
    old = msgspec.structs.replace(kept.results["a"], at_us=kept.results["a"].at_us - 8 * DAY)
    evidence.write(own.root, kept.with_([old]))
    found = running.standing(own, wanted)
    assert found.status == 2
    assert found.results[0].said == "stale: 8 days old, more than 7; then green, so it is"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"at_us": 10 * DAY}, "10 days old, more than 7"),
        ({"position": 21}, "the log has doubled since"),
        ({"versions": {"model": "m2", "code": "c"}}, "another model decides now"),
    ],
)
def test_evidence_grows_stale_by_age_by_growth_and_by_what_decides(changes: dict[str, object], why: str) -> None:
    kept = result("a", versions={"model": "m", "code": "c"}, position=10)
    now = {"at_us": 1, "position": 11, "versions": {"model": "m", "code": "c"}} | changes
    said = evidence.why_stale(kept, Slo(), now_us=now["at_us"], position=now["position"], versions=now["versions"])  # type: ignore[arg-type]
    assert said == why


def test_a_quick_run_does_not_replace_a_whole_one_that_holds(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = of(monkeypatch, check("a"))
    quick = msgspec.structs.replace(wanted, quick=True)
    running.run(own, quick, say=quiet)
    assert evidence.read(own.root, "fraud").results["a"].quick
    running.run(own, wanted, say=quiet)
    running.run(own, quick, say=quiet)
    assert not evidence.read(own.root, "fraud").results["a"].quick


def test_a_self_test_holds_where_every_fault_turns_its_check_red(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = check("blind", measure=lambda _, fault: Measured(value=0.0, n=1, said="all is well"))
    sound = running.self_test(own, of(monkeypatch, check("a")), say=quiet)
    assert sound.holds
    tried = running.self_test(own, of(monkeypatch, check("a"), blind), say=quiet)
    assert not tried.holds
    assert tried.text().splitlines()[0] == "fraud: 1 of 2 seeded faults turned their check red"
    assert "MISSED  blind" in tried.text()


def test_damaged_evidence_is_refused(own: Home) -> None:
    path = own.root / "readiness" / "fraud.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(DataError) as caught:
        evidence.read(own.root, "fraud")
    assert "Expected what `decalog check` wrote. Delete it, and check again." in str(caught.value)


def test_evidence_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "readiness").write_text("")
    with pytest.raises(DataError) as caught:
        evidence.write(tmp_path, evidence.Evidence(system="fraud"))
    assert "readiness/fraud.json: a file that cannot be written" in str(caught.value)


def test_a_page_that_cannot_be_written_is_said(own: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = running.run(own, of(monkeypatch, check("a")), say=quiet)
    with pytest.raises(DataError) as caught:
        page.write(tmp_path / "none" / "page.html", found)
    assert "Name another with --page." in str(caught.value)
    page.write(tmp_path / "page.html", found)
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_a_page_escapes_what_it_is_told(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    rude = check("a", measure=lambda _, fault: Measured(value=3.0, n=1, said="<script>"))
    told = page.as_html(running.run(own, of(monkeypatch, rude), say=quiet))
    assert "<script>" not in told
    assert "&lt;script&gt;" in told


@pytest.mark.parametrize(("part", "name"), [("section", "latncy"), ("only", "p9")])
def test_a_section_or_check_that_is_not_there_is_refused(part: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        running.Wanted(system="fraud", **{part: name}).check()  # type: ignore[arg-type]
    assert f"--{part}: '{name}'" in str(caught.value)


def test_the_running_server_is_asked_only_where_its_address_is_given() -> None:
    names = [one.name for one in running.Wanted(system="fraud").checks()]
    asked = [one.name for one in running.Wanted(system="fraud", url="http://127.0.0.1:1").checks()]
    assert LIVE not in names
    assert set(asked) - set(names) == {LIVE}
    assert names[-1] == asked[-1] == "ml_test_score"


def test_every_check_has_what_a_check_needs() -> None:
    for one in CHECKS:
        assert one.faults, one.name
        assert one.limit in LIMITS, one.name
        assert all((one.meaning, one.unit, one.anchor, one.fix)), one.name
    assert {one.section for one in CHECKS} == set(SECTIONS)


def result(name: str, status: str = "green", **changes: object) -> Result:
    made = Result(
        name=name, section="latency", status="green", value=1.0, limit=1.0, unit="", said="", anchor="", fix=""
    )
    return msgspec.structs.replace(made, status=status, **changes)


def test_the_ml_test_score_has_28_items_tied_to_checks_that_are_there() -> None:
    names = {one.name for one in CHECKS}
    assert len(ITEMS) == 28
    assert all(set(item.checks) <= names for item in ITEMS)
    assert [item.number for item in ITEMS] == 4 * [1, 2, 3, 4, 5, 6, 7]


def test_an_item_counts_what_was_measured_half_what_was_done_by_hand_and_else_nothing() -> None:
    results = {"flipped_types": result("flipped_types"), "lead": result("lead", "red")}
    points = {one.item: one for one in scored(results, Slo(manual={"data 2": "docs/review.md", "data 1": "x"}))}
    assert points["data 1"].points == 1.0
    assert (points["data 2"].points, points["data 2"].why) == (0.5, "by hand: docs/review.md")
    assert (points["model 5"].points, points["model 5"].why) == (0.0, "not green: lead")
    assert points["model 3"].why == NONE


def test_the_score_is_the_least_of_the_four_sums() -> None:
    every = {one.name: result(one.name) for one in CHECKS}
    found = final(scored(every, Slo()))
    assert found.value == min(found.detail.values()) == 2.0
    assert found.detail == {"data": 4.0, "model": 2.0, "infrastructure": 5.0, "monitoring": 6.0}
