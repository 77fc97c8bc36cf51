"""What cannot be measured is said in four parts: by each check for itself, without a server where that is possible."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.homes import add_model, fill_home
from tests.readiness.small import SLO, check_of, subject_of

from decalog.errors import DataError, DecalogError, LogUnavailableError
from decalog.home import Home
from decalog.metrics import Measurement
from decalog.readiness import detection, faults, integrity, latency, machine
from decalog.readiness.loads import Ran
from decalog.readiness.machine import Machine, Pulse
from decalog.readiness.serve import Load, load
from decalog.readiness.slo import FILE
from decalog.readiness.subject import Subject
from decalog.reports import Completeness, Contender, MetricInfo, Report, Support
from decalog.system import find_system
from decalog.testing.laws import crashes
from decalog.testing.laws.law import proven
from decalog.training import REPORT


def refusal(subject: Subject, name: str, fault: str = "") -> str:
    with pytest.raises(DecalogError) as caught:
        check_of(name).measure(subject, fault)
    return str(caught.value)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of history alone: no champion, no decision."""
    return fill_home(Path(tmp_path_factory.mktemp("idle")) / "home", champion=False)


@pytest.fixture
def subject(home: Home) -> Iterator[Subject]:
    with subject_of(home) as made:
        yield made


@pytest.fixture
def quiet(idle: Home) -> Iterator[Subject]:
    with subject_of(idle) as made:
        yield made


def test_a_law_that_overlooks_its_own_sabotage_proves_nothing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "check", lambda _: proven(3, [], sabotages={"a lie": []}))
    found = check_of("torn_log").measure(subject, "")
    assert (found.value, found.said) == (1.0, "sabotage not noticed: a lie")


def test_outcomes_of_other_slates_do_not_calibrate_those_that_are_decided_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, set[str]] = {}

    def watch(system: Any, *_log: Any, only: set[str], **_times: Any) -> None:
        asked[system.name] = only

    monkeypatch.setattr(detection, "watch", watch)
    made: Any = SimpleNamespace(log=SimpleNamespace(known_time=1), begun=0)
    for name in ("fraud", "feed"):
        detection._watched(made, find_system(name), None)  # type: ignore[arg-type]
    assert "calibration" in asked["fraud"]
    assert "calibration" not in asked["feed"]
    assert {"spread", "prediction", "reports"} <= asked["feed"]


def test_what_decided_nothing_yet_decides_on_a_copy_with_its_fault_as_without(tmp_path: Path) -> None:
    home = fill_home(tmp_path / "home")
    (home.root / FILE).write_text(SLO, encoding="utf-8")
    with subject_of(home) as subject:
        found, faulty = (check_of("skew").measure(subject, fault) for fault in ("", "one bit of a feature"))
    assert found.n >= 40
    assert (found.value, faulty.value) == (0.0, 1.0)


def test_a_certificate_covers_as_many_decisions_as_it_has_to(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "_TURNS", 1)
    subject.slo = msgspec.structs.replace(subject.slo, parity_decisions=1_000)
    assert "decisions with features. Expected 1,000. Let it decide more" in refusal(subject, "skew")


def test_without_a_champion_there_is_no_age_and_no_lead(quiet: Subject) -> None:
    assert refusal(quiet, "model_age") == "fraud champion: none. Expected one. `decalog train` makes one."
    assert "fraud champion: no report of its training." in refusal(quiet, "lead")


def test_without_decisions_some_are_made_to_be_replayed_and_there_are_none_to_forge(quiet: Subject) -> None:
    found = check_of("replay").measure(quiet, "")
    assert (found.value, found.n > 20) == (0.0, True)
    assert "log of fraud: no decision with features." in refusal(quiet, "skew", "one bit of a feature")


def test_without_a_budget_no_detection_is_judged(subject: Subject) -> None:
    subject.slo = msgspec.structs.replace(subject.slo, damage_minor=0)
    assert "fraud slo.toml, damage_minor: none. Expected the loss" in refusal(subject, "detection")


def test_detection_is_green_where_nothing_is_lost_and_red_where_nobody_hears(subject: Subject) -> None:
    check = check_of("detection")
    assert check.measure(subject, "").n > 20
    honest = check.measure(subject, "").value
    deaf = check.measure(subject, "monitors that may not alarm").value
    assert deaf >= honest
    assert not check.is_kept(deaf, subject.slo.limit(check.limit))


# ---- loads ----


def ran(p99_ms: float = 5.0, **changes: Any) -> Ran:
    made_load = Load(
        p50_ms=1.0,
        p99_ms=p99_ms,
        p99_9_ms=9.0,
        late_p99_ms=0.1,
        generator_cpu_us=50.0,
        requests=10,
        statuses={"200": 10},
    )
    made = Ran(
        load=made_load,
        stages_p99_ms={"features": 1.0, "model": 1.0},
        cpu_ms=1.0,
        resident=2**20,
        others=0.0,
        stall=0.1,
        start_s=1.0,
        models=("a", "b"),
        rate=20.0,
        speed=1.0,
        tries=1,
    )
    return msgspec.structs.replace(made, **changes)


def loaded(subject: Subject, name: str, made: Ran | DecalogError, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*_args: object, **_named: object) -> Ran:
        if isinstance(made, DecalogError):
            raise made
        return made

    monkeypatch.setattr(latency, "at_declared", run)
    return check_of(name).measure(subject, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"others": 0.6}, "others used 60% of the CPU and a bare sync took 10% of the limit (p99)"),
        ({"stall": 0.7}, "others used 0% of the CPU and a bare sync took 70% of the limit (p99)"),
    ],
)
def test_a_limit_that_is_missed_on_a_machine_that_others_use_or_that_stalls_says_nothing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], said: str
) -> None:
    subject.slo.limits["p99_ms"] = 2.0
    assert loaded(subject, "p99", ran(), monkeypatch).value == 5.0
    subject.kept.clear()
    with pytest.raises(DataError) as caught:
        loaded(subject, "p99", ran(**changes), monkeypatch)
    assert f"p99 5.0 ms while {said}. Expected at most 25% and 50%" in str(caught.value)
    subject.slo.limits["p99_ms"] = 5_000.0
    assert loaded(subject, "p99", ran(**changes), monkeypatch).value == 5.0


def test_unanswered_requests_break_the_promise_whatever_the_rest_took(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = msgspec.structs.replace(ran().load, statuses={"200": 9, "503": 1})
    found = loaded(subject, "p99", ran(load=refused), monkeypatch)
    assert found.value == float("inf")
    assert "1 were not answered with 200" in found.said


def test_a_stage_that_no_decision_went_through_is_not_measured(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError) as caught:
        loaded(subject, "model_p99", ran(stages_p99_ms={}), monkeypatch)
    assert "stage model: no decision that went through it." in str(caught.value)


def test_a_load_that_fails_is_tried_once_for_all_that_look_at_it(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = DataError(where="a load", given="nothing", expected="an answer", fix="See.")
    for name in ("p99", "features_p99"):
        with pytest.raises(DataError) as caught:
            loaded(subject, name, error, monkeypatch)
        assert caught.value is error


def test_a_swap_that_nobody_saw_is_no_swap(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        loaded(subject, "swapping_p99", ran(models=("a",)), monkeypatch)
    assert "models that change under load: decisions of one model alone." in str(caught.value)


def test_a_training_that_breaks_off_is_said(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        returncode = 2

        def __init__(self, *_args: object, **_named: object) -> None:
            """Has ended already."""

        def poll(self) -> int:
            return self.returncode

        kill = wait = poll

    def run(_subject: Subject, _faults: str, *, limit_ms: float, beside: Any) -> Ran:
        with beside(subject.home):
            return ran()

    monkeypatch.setattr(subprocess, "Popen", Ended)
    monkeypatch.setattr(latency, "at_declared", run)
    with pytest.raises(DataError) as caught:
        check_of("retraining_p99").measure(subject, "")
    assert "training of fraud: one that ended with 2 on a copy." in str(caught.value)


@pytest.mark.parametrize(
    ("ended", "statuses", "said"),
    [
        (None, [], "the server went on after its log had failed"),
        (1, [503], "the server ended with 1, not with 74"),
        (74, [200, 503, 500, 0], "statuses [500] beside 200 and 503"),
        (74, [200, 503, 0], ""),
    ],
)
def test_a_server_whose_log_failed_has_to_end_and_to_answer_503(
    ended: int | None, statuses: list[int], said: str
) -> None:
    class Process:
        def wait(self, timeout: float) -> int:
            if ended is None:
                raise subprocess.TimeoutExpired("decalog", timeout)
            return ended

    served: Any = SimpleNamespace(process=Process())
    callers = faults.Callers(served, "/", iter(()))
    callers.statuses += statuses
    assert faults._ended(served, callers) == said


def test_growth_and_memory_are_reckoned_from_a_tenth_and_the_whole(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.kept[("cost", 0.1, "")] = ran(cpu_ms=1.0, resident=100 * 2**20)
    subject.kept[("cost", 1.0, "")] = ran(cpu_ms=1.5, resident=190 * 2**20)
    assert check_of("data_10x").measure(subject, "").value == 1.5
    assert check_of("memory_10x").measure(subject, "").detail["then"] == pytest.approx(1090 * 2**20, rel=1e-6)


def test_what_others_do_is_told_from_what_this_process_does() -> None:
    assert 0.0 <= Machine().others() <= 1.0


def test_a_pulse_tells_how_long_the_machine_and_its_disk_take_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse, synced, now_s = Pulse(), threading.Event(), [5.0]
    assert pulse.p99_ms == 0.0

    def slow_disk(_: int) -> None:
        now_s[0] += 2.0
        synced.set()

    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(os, "fsync", slow_disk)
    with pulse.beating(tmp_path):
        assert synced.wait(60)
    assert pulse.p99_ms >= 1_960.0  # by a clock that only syncs advance; a beat is due after 40 ms
    assert not list(tmp_path.iterdir())


# ---- the running server ----


@contextmanager
def answering(text: str) -> Iterator[str]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def series(stage: str, counts: dict[str, float]) -> str:
    name = "decalog_stage_seconds_bucket"
    return "".join(
        f'{name}{{le="{bound}",stage="{stage}",system="fraud"}} {count}\n' for bound, count in counts.items()
    )


def test_the_running_server_tells_its_own_p99(subject: Subject) -> None:
    counts = {"0.001": 98.0, "0.005": 99.0, "1.0": 100.0, "+Inf": 100.0}
    with answering(series("features", counts) + series("model", counts)) as subject.url:
        check = check_of("live_p99")
        assert check.measure(subject, "").value == pytest.approx(10.0)
        assert check.measure(subject, check.faults[0]).value == float("inf")


def test_a_server_of_another_system_or_none_is_said(subject: Subject) -> None:
    with answering("") as subject.url:
        assert "no decision of fraud. Expected a server that has decided something." in refusal(subject, "live_p99")
    assert "no metrics (" in refusal(subject, "live_p99")


def test_a_server_that_falls_silent_is_said(subject: Subject) -> None:
    class Gone:
        port = 1

    with pytest.raises(LogUnavailableError) as caught:
        load(Gone(), "fraud", timed=[])  # type: ignore[arg-type]
    assert "load of the check:" in str(caught.value)


# ---- what made the champion ----


def measurement(value: float) -> Measurement:
    return Measurement(value, value - 20.0, value + 20.0, 10) if value > 1 else Measurement(value, value, value, 10)


def report(**saved: float | None) -> Report:
    known = Completeness(10, 10, 1, {})
    metric = MetricInfo("brier", "model", "", "", "", "lower")
    contenders = tuple(
        Contender(
            name=name,
            role="baseline" if name == "prior" else "model",
            values={"brier": measurement(0.1 if name == "rule" else 0.2)},
            missing=(),
            saved_per_1000=None if value is None else measurement(value),
        )
        for name, value in saved.items()
    )
    return Report(
        system="fraud",
        noun="payment",
        position=1,
        known_time=0,
        trained_at=0,
        train=known,
        test=known,
        gap=0,
        delay_left_out=False,
        labels=known,
        support=Support(),
        late=0,
        currency="EUR",
        metrics=(metric,),
        contenders=contenders,
    )


def lead_of(home: Home, folder: Path, told: Report, fault: str = "") -> float:
    own = Home(folder / f"own-{len(list(folder.iterdir()))}")
    shutil.copytree(home.root, own.root)

    class Told:
        def save(self, folder: Path) -> dict[str, Any]:
            (folder / REPORT).write_bytes(msgspec.json.encode(told))
            return {}

    add_model(own.root, Told(), name="rule", seed=3)
    with subject_of(own) as subject:
        return check_of("lead").measure(subject, fault).value


def test_a_champion_leads_by_money_or_else_by_the_first_metric(home: Home, tmp_path: Path) -> None:
    assert lead_of(home, tmp_path, report(prior=100.0, rule=150.0)) == pytest.approx(0.7)
    assert lead_of(home, tmp_path, report(prior=100.0, rule=90.0)) == pytest.approx(0.1)  # it may be chance
    assert lead_of(home, tmp_path, report(prior=100.0, rule=50.0)) == pytest.approx(-0.3)
    assert lead_of(home, tmp_path, report(prior=None, rule=None)) == pytest.approx(0.5)
    assert lead_of(home, tmp_path, report(prior=100.0, rule=50.0), "a champion that is surely the worst of all") < 0.0


def test_a_report_without_baselines_tells_no_lead(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        lead_of(home, tmp_path, report(rule=150.0))
    assert "no saved_per_1000 of champion and baselines." in str(caught.value)


def test_a_home_that_is_served_is_checked_beside_its_server(home: Home) -> None:
    with closing(home.writer()), subject_of(home) as beside:
        assert check_of("log_sound").measure(beside, "").value == 0.0
