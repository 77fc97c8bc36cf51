"""Training on quantities: what is reported of a small world, and what a refit learns from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.demand_log import DemandLog, played

from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.models.base import Model, QuantitySet
from decalog.quantity_training import NO_MODEL, quantities_of
from decalog.registry import SIBLING, Registry
from decalog.systems.demand.models import MODELS
from decalog.systems.demand.schema import HEADS
from decalog.systems.demand.system import SYSTEM
from decalog.trainers import train_system
from decalog.training import TrainingPlan, TrainingResult

PLAN = TrainingPlan(seed=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantities")


@pytest.fixture(scope="module")
def result(home: Path) -> TrainingResult:
    world = played(home, days=70)
    log = Home(home).reader()
    made = train_system(
        SYSTEM,
        log,
        registry=Registry(home),
        plan=PLAN,
        truth=lambda id_: [float(world.truth(id_)[head]) for head in HEADS],
    )
    log.close()
    return made


def test_the_report_says_what_was_known_and_how(result: TrainingResult) -> None:
    report = result.report
    assert report.labels.bounds is not None
    assert 0 < report.labels.bounds < report.labels.labelled < report.labels.requests
    text = report.markdown()
    assert "as a lower bound" in text
    assert "positive" not in text


def test_beside_the_models_stand_no_model_and_the_oracle(result: TrainingResult) -> None:
    names = [one.name for one in result.report.contenders]
    assert names == [NO_MODEL, *(spec.name for spec in MODELS), "oracle"]
    by_name = {one.name: one for one in result.report.contenders}
    assert set(by_name[NO_MODEL].values) == {m.name for m in SYSTEM.metrics if m.tier != "model"}
    crps = {name: one.values["scaled_crps"].value for name, one in by_name.items() if name != NO_MODEL}
    assert crps["oracle"] < crps["grown"] < min(crps["average"], crps["weekday"])
    saved = by_name["oracle"].saved_per_1000
    assert saved is not None
    assert saved.low > 0
    worth = {name: one.values["profit_per_1000"].value for name, one in by_name.items()}
    assert saved.value == pytest.approx(worth["oracle"] - worth[NO_MODEL])


def test_the_model_serves_with_its_heads(result: TrainingResult, home: Path) -> None:
    manifest = Registry(home).get(result.model).manifest
    assert manifest.head == "+".join(HEADS)
    assert result.promoted


def test_the_same_log_and_seed_give_the_same_model(result: TrainingResult, home: Path, tmp_path: Path) -> None:
    log = Home(home).reader()
    again = train_system(SYSTEM, log, registry=Registry(tmp_path), plan=PLAN)
    log.close()
    files = [
        {
            path.name: path.read_bytes()
            for path in Registry(root).get(made.model).folder.iterdir()
            if path.suffix == ".txt"
        }
        for root, made in ((home, result), (tmp_path, again))
    ]
    assert files[0] == files[1]


def test_a_refit_learns_from_all_that_is_known(home: Path, result: TrainingResult, tmp_path: Path) -> None:
    seen: list[QuantitySet] = []

    def fit(data: QuantitySet, seed: int) -> Model:
        seen.append(data)
        return MODELS[0].fit(data, seed)

    system = msgspec.structs.replace(SYSTEM, models=(msgspec.structs.replace(MODELS[0], fit=fit),))
    log = Home(home).reader()
    made = train_system(system, log, registry=Registry(tmp_path), plan=TrainingPlan(refit=True))
    log.close()
    judged, refitted = seen
    assert judged.n < refitted.n == made.report.labels.labelled
    parameters = Registry(tmp_path).get(made.model).manifest.parameters
    assert parameters[SIBLING] == made.report.trained_at < parameters["trained_at"]


def test_too_little_is_refused_and_an_unknown_kind_named(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    for day in range(20):
        log.asked(day)
        log.told(day + 2, f"order-{day}", 5)
    log.records(30)
    with pytest.raises(DataError, match="requests with a label in the training part"):
        train_system(SYSTEM, log.log, registry=Registry(tmp_path))
    with pytest.raises(ConfigError, match="'grow'"):
        train_system(SYSTEM, log.log, registry=Registry(tmp_path), plan=TrainingPlan(model="grow"))


def test_no_slot_is_no_quantity() -> None:
    from decalog.decisions import Choice, Slot

    made = [Choice((Slot("a", value=4.0),), verb="order"), Choice((), verb="order"), Choice((Slot("b"),), verb="order")]
    assert quantities_of(made).tolist() == [4.0, 0.0, 0.0]
    assert made[0].contents == ("4.0",)
    assert [one.is_slate for one in made] == [False, True, True]
    assert np.all(np.isfinite(quantities_of(made)))
