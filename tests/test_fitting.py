"""Learning from what is not known yet: nearer to the truth than from labels alone, whether or not a kind surmises."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog

from decalog.censoring import Heard, heard_of
from decalog.examples import Examples, Floats, History
from decalog.fitting import fit_on_all, model_rows, training_set
from decalog.models.base import TrainingSet
from decalog.models.linear import Prior, fit_prior
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

BOOSTED = SYSTEM.models[-1]
DEAR, EARLY, CHEAP = 0.4, 0.08, 0.02
"""How often a payment is a fraud: a dear one since day 70, and before; a cheap one."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    log, rng = FraudLog(tmp_path_factory.mktemp("fitting")), Random(4)
    due: list[tuple[float, str]] = []
    for i in range(3_000):
        day = i / 25
        while due and min(due)[0] <= day:
            when, target = min(due)
            due.remove((when, target))
            log.report(f"cb-{target}", target, when)
        is_dear = i % 2 == 0
        log.pay(f"p{i}", day, card=f"c{i}", amount_minor=15_000 if is_dear else 2_000, device=None, ip=None)
        if rng.random() < ((DEAR if day > 70 else EARLY) if is_dear else CHEAP):
            due.append((day + 1 + rng.expovariate(1 / 12), f"p{i}"))
    return History(log.records(until_day=120), SCHEMA, features=SYSTEM.features)


def lately(examples: Examples, predictions: Floats) -> tuple[float, float]:
    """Returns the mean prediction of the last days' dear payments, and of the cheap ones."""
    is_late = examples.times > examples.known_by - 20 * 24 * 3_600 * 10**6
    is_dear = examples.amounts > 10_000
    return float(predictions[is_late & is_dear].mean()), float(predictions[is_late & ~is_dear].mean())


@pytest.mark.parametrize("surmises", [True, False])
def test_it_knows_what_changed_before_labels_have_matured(history: History, *, surmises: bool) -> None:
    now = history.now
    spec = BOOSTED if surmises else msgspec.structs.replace(BOOSTED, surmises=None)
    heard = heard_of(history, now, shows={}, words={})
    model = fit_on_all(spec, now, heard=heard, system=SYSTEM, seed=1)
    dear, cheap = lately(now, model.predict(model_rows(SYSTEM, now)))
    assert 1.5 * EARLY < dear < 0.6
    assert cheap < 0.1
    silent = msgspec.structs.replace(now, labels=np.nan_to_num(now.labels))
    naive = (spec.surmises or spec.fit)(training_set(SYSTEM, silent), 1)
    assert lately(now, naive.predict(model_rows(SYSTEM, now)))[0] < dear


def test_the_same_inputs_give_the_same_model(history: History, tmp_path: Path) -> None:
    heard = heard_of(history, history.now, shows={}, words={})
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fit_on_all(BOOSTED, history.now, heard=heard, system=SYSTEM, seed=1).save(tmp_path / name)
        texts.append((tmp_path / name / "model.txt").read_bytes())
    assert texts[0] == texts[1]


def test_what_nothing_was_heard_of_is_left_out_and_another_model_may_be_first(history: History) -> None:
    seen: list[TrainingSet] = []

    def fit(data: TrainingSet, seed: int) -> Prior:
        seen.append(data)
        return fit_prior(msgspec.structs.replace(data, labels=np.round(data.labels)), seed)

    now = history.now
    odds = np.where(np.arange(now.n) < 100, np.where(np.arange(now.n) < 30, np.inf, 0.0), 1.0)
    heard = Heard(odds, np.isin(odds, (0.0, np.inf)).astype(np.float64))
    spec = msgspec.structs.replace(BOOSTED, surmises=fit)
    fit_on_all(spec, now, heard=heard, system=SYSTEM, seed=1, first=Prior(0.5, len(SYSTEM.features.names_for("model"))))
    assert [len(data.labels) for data in seen] == [100]  # once: who is given has been through this
    assert seen[0].labels.sum() == 30


def test_a_shop_whose_analysts_alone_tell_has_no_certain_label_and_learns_all_the_same(history: History) -> None:
    now = history.now
    is_bad = now.amounts > 10_000
    heard = Heard(np.where(is_bad, 30.0, 0.1), np.zeros(now.n))
    first = Prior(0.1, len(SYSTEM.features.names_for("model")))
    model = fit_on_all(BOOSTED, now, heard=heard, system=SYSTEM, seed=1, first=first)
    p = model.predict(model_rows(SYSTEM, now))
    assert p[is_bad].mean() > 0.5
    assert p[~is_bad].mean() < 0.1
