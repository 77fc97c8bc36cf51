from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.fraud_log import START, FraudLog

from decalog.admin import show_model
from decalog.clock import rfc3339
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError
from decalog.events import Record
from decalog.examples import History
from decalog.fitting import model_rows
from decalog.home import Home
from decalog.models.formats import load_model
from decalog.references import REFERENCE
from decalog.registry import DECLARED, SIBLING, Registry
from decalog.reports import Report
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.system import SYSTEM
from decalog.training import REPORT, TrainingPlan, TrainingResult, train
from decalog.whatif import Change, asked_of

PAYMENTS = 1_600
DAYS = 200.0
PLAN = TrainingPlan(seed=3, at_us=START, test_share=0.3)


def risk(amount: int, burst: bool) -> float:
    return 0.75 if burst and amount > 5_000 else 0.03


def write(root: Path) -> dict[str, float]:
    """Writes payments that are frauds more often in bursts of dear payments on one card; returns the true risks."""
    log, rng = FraudLog(root), random.Random(11)
    due: list[tuple[float, str]] = []
    truth = {}
    for i in range(PAYMENTS):
        burst = (i // 4) % 5 == 0
        day = (i // 4 * 4 + (i % 4) * (0.001 if burst else 1)) * DAYS / PAYMENTS
        while due and min(due)[0] <= day:
            when, target = min(due)
            due.remove((when, target))
            log.report(f"cb-{target}", target, when)
        amount = rng.randrange(1_000, 20_000)
        name = f"p{i}"
        truth[name] = risk(amount, burst and i % 4 > 0)
        log.pay(name, day, amount_minor=amount, card=f"card-{i // 4 if burst else i}", ip=None, device=None)
        if rng.random() < truth[name]:
            due.append((day + rng.uniform(5, 50), name))
    log.records()
    log.log.close()
    return truth


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    root = tmp_path_factory.mktemp("training")
    return root, write(root)


@pytest.fixture(scope="module")
def trained(written: tuple[Path, dict[str, float]]) -> tuple[TrainingResult, Registry, list[str]]:
    root, truth = written
    said: list[str] = []
    registry = Registry(root / "here")
    log = Home(root).reader()
    result = train(SYSTEM, log, registry=registry, plan=PLAN, truth=lambda id_: [truth[id_]], say=said.append)
    log.close()
    return result, registry, said


def test_the_first_model_becomes_champion_and_is_what_was_judged(
    trained: tuple[TrainingResult, Registry, list[str]],
) -> None:
    result, registry, said = trained
    assert result.promoted
    assert registry.current("fraud") == result.model
    artefact = registry.get(result.model)
    manifest = artefact.manifest
    assert manifest.metrics == result.report.contender("boosted").values
    assert manifest.pin.position == (result.report.position,)
    assert manifest.pin.known_time == result.report.known_time
    assert manifest.features == SYSTEM.features.names_for("model")
    assert manifest.feature_set == SYSTEM.features.version
    assert manifest.parameters["policy"] == msgspec.json.decode(msgspec.json.encode(FraudCosts()))
    assert {"policy", "test_share", "trained_at"} == set(manifest.parameters)
    assert len(manifest.code.lock) == len(manifest.code.sources) == 64
    assert msgspec.json.decode((artefact.folder / REPORT).read_bytes(), type=Report) == result.report
    assert artefact.features() == SYSTEM.features
    assert said == ["joining requests with their outcomes", *(f"fitting {spec.name}" for spec in SYSTEM.models)]
    load_model(manifest.format, artefact.folder, settings=manifest.settings)


def test_every_kind_is_judged_between_doing_nothing_and_the_oracle(
    trained: tuple[TrainingResult, Registry, list[str]],
) -> None:
    report = trained[0].report
    assert report.delay_left_out
    assert [c.name for c in report.contenders] == [
        "always allow",
        *("prior", "amount_rule", "velocity_rule", "logistic", "boosted"),
        "oracle",
    ]
    assert [c.role for c in report.contenders] == ["baseline"] * 5 + ["model", "oracle"]
    loss = {c.name: c.values["net_loss_per_1000"].value for c in report.contenders}
    precision = {c.name: c.values["average_precision"].value for c in report.contenders if c.name != "always allow"}
    assert loss["oracle"] < loss["boosted"] < loss["always allow"]
    # With few frauds in the test part, a draw may rank a model above the true risk, by less than the interval.
    best = report.contender("oracle").values["average_precision"]
    assert precision["prior"] < precision["boosted"] < best.high
    assert precision["prior"] < best.low
    assert "became champion" in trained[0].text()


IN_ANOTHER_PROCESS = """
import json, sys
from pathlib import Path
from decalog.examples import History
from decalog.fitting import model_rows
from decalog.home import Home
from decalog.registry import Registry
from decalog.systems.fraud.system import SYSTEM
from decalog.training import TrainingPlan, train
root, truth = Path(sys.argv[1]), json.loads(sys.argv[2])
plan = TrainingPlan(seed=3, at_us=99, by="someone else", test_share=0.3)
registry = Registry(root / "there")
print(train(SYSTEM, Home(root).reader(), registry=registry, plan=plan, truth=lambda id_: [truth[id_]]).model)
"""


def test_another_process_makes_the_same_bytes(
    written: tuple[Path, dict[str, float]], trained: tuple[TrainingResult, Registry, list[str]]
) -> None:
    """Who ran it and when stands in the history of aliases only, so the manifest's hash is the same too."""
    root, truth = written
    arguments = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(root), msgspec.json.encode(truth).decode()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == trained[0].model
    here, there = (root / side / "models" / trained[0].model for side in ("here", "there"))
    assert {path.name for path in here.iterdir()} == {
        "manifest.json",
        "model.txt",
        "calibration.json",
        REPORT,
        DECLARED,
        REFERENCE,
    }
    for path in here.iterdir():
        assert path.read_bytes() == (there / path.name).read_bytes()


def test_another_seed_or_position_is_another_model_and_the_champion_stays(
    written: tuple[Path, dict[str, float]], trained: tuple[TrainingResult, Registry, list[str]]
) -> None:
    result, registry, _ = trained
    log = Home(written[0]).reader()
    earlier = msgspec.structs.replace(PLAN, position=result.report.position - 50, model="prior")
    second = train(SYSTEM, log, registry=registry, plan=earlier)
    log.close()
    assert not second.promoted
    assert second.model != result.model
    assert registry.current("fraud") == result.model
    assert registry.get(second.model).manifest.name == "prior"
    assert second.report.position == result.report.position - 50
    assert "oracle" not in [contender.name for contender in second.report.contenders]
    assert "`decalog models promote`" in second.text()


class Records:
    """A log that is already read."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def read(self, start: int = 0, stop: int | None = None) -> list[Record]:
        return self._records[start:stop]


def _few(root: Path, days: float) -> Records:
    log = FraudLog(root)
    for i in range(200):
        log.pay(f"p{i}", i / 100)
    for i in range(12):
        log.report(f"cb{i}", f"p{i * 10}", 20)
    return Records(log.records(days))


def test_too_few_matured_positives_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        train(SYSTEM, _few(tmp_path, 70), registry=Registry(tmp_path), plan=TrainingPlan())  # type: ignore[arg-type]
    assert str(caught.value) == (
        "training of fraud: 12 matured positive labels in the training part and 0 in the test part; 100 % of 200 "
        "labels are known, 12 positive (chargeback 12, matured without a report 188). Expected at least 30 positives "
        "to learn from and 10 later ones to be judged on. Wait until more labels mature, or import older history with "
        "its outcomes; fewer teach noise."
    )


def test_nothing_matured_yet_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 matured positive labels in the training part .* still awaited 188"):
        train(SYSTEM, _few(tmp_path, 21), registry=Registry(tmp_path), plan=TrainingPlan())  # type: ignore[arg-type]


def test_a_log_too_short_for_a_gap_is_split_by_time_and_the_report_says_so(tmp_path: Path) -> None:
    plan = TrainingPlan(least_positives=5, least_test_positives=2, model="logistic", test_share=0.6)
    result = train(SYSTEM, _few(tmp_path, 70), registry=Registry(tmp_path), plan=plan)  # type: ignore[arg-type]
    assert not result.report.delay_left_out
    assert "Take the figures as optimistic." in result.report.markdown()
    assert (result.report.train.requests, result.report.test.requests) == (80, 120)


def test_an_unknown_model_is_named_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(SYSTEM, Records([]), registry=Registry(tmp_path), plan=TrainingPlan(model="bosted"))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "training of fraud, model: 'bosted'. Expected 'boosted' (closest match), or one of: amount_rule, boosted, "
        "logistic, prior, velocity_rule. Name a kind of the system's MODELS."
    )


def test_the_models_rows_hold_no_policy_features(trained: tuple[TrainingResult, Registry, list[str]]) -> None:
    artefact = trained[1].get(trained[0].model)
    model = load_model("lightgbm", artefact.folder, settings=artefact.manifest.settings)
    assert "reviews_1d" not in artefact.manifest.features
    assert model.predict(np.zeros((1, len(artefact.manifest.features)))).shape == (1,)


def test_what_is_refitted_learnt_from_all_and_has_a_sibling_that_did_not(
    written: tuple[Path, dict[str, float]], trained: tuple[TrainingResult, Registry, list[str]]
) -> None:
    root, _ = written
    registry, log = Registry(root / "refitted"), Home(root).reader()
    plan = msgspec.structs.replace(PLAN, refit=True, test_positives=20)
    result = train(SYSTEM, log, registry=registry, plan=plan)
    deployment = Deployment(Home(root), "fraud", log)
    deployment.registry = registry
    manifest = registry.get(result.model).manifest
    assert manifest.parameters["trained_at"] == manifest.pin.known_time
    history = History(log.read(), SYSTEM.schema, features=SYSTEM.features)
    until = manifest.parameters[SIBLING]
    assert np.sum(history.now.labels[history.now.times >= until] == 1) == 20
    rows = model_rows(SYSTEM, history.now)
    (model, head), (sibling, of) = deployment.model(result.model), deployment.model(result.model, sibling=True)
    assert head == of == "p_fraud"
    assert not np.array_equal(model.predict(rows), sibling.predict(rows))
    change = Change(candidate=result.model)
    judged, served = asked_of(deployment, change).then, asked_of(deployment, change, served=True).then
    assert (judged.trained_at, served.trained_at) == (until, manifest.pin.known_time)
    assert np.array_equal(judged.model.predict(rows), sibling.predict(rows))
    assert np.array_equal(served.model.predict(rows), model.predict(rows))
    # The report is of the kind on matured labels, as without a refit.
    assert [one.name for one in result.report.contenders] == [
        one.name for one in trained[0].report.contenders if one.name != "oracle"
    ]
    said = show_model(Home(root / "refitted"), result.model)
    assert f"a gate judges its sibling, which learnt from what was known by {rfc3339(until)}." in said
    assert "sibling" not in show_model(Home(root / "here"), trained[0].model)
    log.close()
