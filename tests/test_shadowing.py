"""The shadow: what a challenger would decide on the newest requests, and whether it still knows what it claimed to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.homes import add_model, fill_home, rule
from tests.served import Served, served

from decalog import loop as loops
from decalog.gate import Gated
from decalog.hands import Within
from decalog.home import Home
from decalog.loop import Loop, LoopPlan, Move
from decalog.metrics import Measurement
from decalog.models import boosted
from decalog.models.base import TrainingSet
from decalog.registry import Pin
from decalog.shadowing import Shadow, shadowed
from decalog.tails import Champion
from decalog.whatif import Change, asked_of

AGREED = Measurement(0.0, 0.0, 0.01, 600)


def shadow(**given: object) -> Shadow:
    return msgspec.structs.replace(Shadow(decisions=600, changed=AGREED), **given)


def about(value: float, spread: float = 0.1) -> Measurement:
    return Measurement(value, value * (1 - spread), value * (1 + spread), 600)


def test_one_that_claims_less_than_half_of_what_it_claimed_is_stopped() -> None:
    (why,) = shadow(claims=about(0.1)).against(0.25, judged=about(2.0))
    assert why == (
        "of the newest requests it claims to know 0.1 times as much as the champion (at most 0.11), of those it was "
        "judged on 2 times (at least 1.8): it may have learnt from what nobody knows yet when one decides"
    )


@pytest.mark.parametrize(
    ("newest", "judged"),
    [
        (about(0.8), about(1.1)),  # some of it is chance
        (about(1.3), about(5.0)),  # a wave that the champion never met has ended
        (about(0.5, spread=2.0), about(2.0)),  # too few to say
        (about(0.1), None),  # begun by a person: no gate
        (None, about(2.0)),  # a champion that claims nothing
    ],
)
def test_any_other_goes_on(newest: Measurement | None, judged: Measurement | None) -> None:
    assert shadow(claims=newest).against(0.25, judged=judged) == ()


def test_one_whose_trees_part_nothing_here_is_stopped() -> None:
    unmet = {f"clicks_{days}d": 0.04 for days in range(1, 7)}
    (why,) = shadow(unmet=unmet).against(0.25)
    assert why == (
        "24% of what its trees gained is of clicks_1d, clicks_2d, clicks_3d, clicks_4d, clicks_5d, …, which they part "
        "where no newest request is: it may have learnt from values of another unit than are served"
    )
    assert shadow(unmet={"hour": 0.15}).against(0.25) == ()


def test_one_without_predictions_is_not_fit() -> None:
    assert shadow(failed=7).against(0.25) == ("it predicts nothing usable on 7 of 600 requests",)
    assert shadow(failed=6).against(0.25) == ()
    assert Shadow(decisions=0).against(0.25) == (
        "the champion has decided nothing yet, so there is nothing to compare it on",
    )


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Served]:
    root = tmp_path / "filled"
    fill_home(root)
    with served(Home(Path(shutil.copytree(root, tmp_path / "home")))) as made:
        yield made


def challenger(made: Served, *, above: float) -> str:
    """Registers the champion's rule, which is less sure of what it says."""
    made.log.commit()
    model = msgspec.structs.replace(rule(), above=above)
    return add_model(
        made.deployment.home.root, model, promote=False, pin=Pin((made.log.position,), 0, made.clock.now_us())
    )


def paid(made: Served) -> None:
    for number in range(60):
        made.pay(f"card-{number}", amount_minor=4_000 if number % 4 == 0 else 1_000)
    made.log.commit()


def test_it_says_what_both_predict_and_claim(made: Served) -> None:
    paid(made)
    found = shadowed(asked_of(made.deployment, Change(candidate=challenger(made, above=0.01))), last=60)
    assert found.decisions == 60
    was, now = found.predicted["p_fraud"]
    assert (was, now) == pytest.approx((0.25 * 0.3 + 0.75 * 0.001, 0.25 * 0.01 + 0.75 * 0.001))
    assert found.claims is not None
    assert found.claims.high < 0.1


def of_amounts(made: Served, *, unit: float) -> str:
    """Registers trees that learnt from amounts in a unit of their own."""
    made.log.commit()
    names, rng = made.deployment.system.features.names_for("model"), np.random.default_rng(0)
    rows = np.zeros((2_000, len(names)))
    rows[:, names.index("amount")] = amounts = unit * rng.uniform(100, 5_000, 2_000)
    labels = (rng.random(2_000) < 0.8 * (amounts > 3_000 * unit) + 0.02).astype(np.float64)
    data = TrainingSet(tuple(names), rows, labels, np.arange(2_000) * 1_000_000, np.full(2_000, 100))
    model = boosted.fit(data, 1, params=boosted.BoostedParams(trees=20))
    pin = Pin((made.log.position,), 0, made.clock.now_us())
    return add_model(made.deployment.home.root, model, promote=False, pin=pin, format=boosted.FORMAT)


def test_it_says_whether_the_challengers_trees_part_what_is_asked(made: Served) -> None:
    for number in range(400):
        made.pay(f"card-{number % 50}", amount_minor=100 + 12 * number)
    found = {
        unit: shadowed(asked_of(made.deployment, Change(candidate=of_amounts(made, unit=unit))), last=400)
        for unit in (1.0, 100.0)
    }
    assert found[1.0].unmet == {}
    assert found[100.0].unmet == {"amount": pytest.approx(1.0)}
    assert "amount" in found[100.0].against(0.99)[0]
    asked = asked_of(made.deployment, Change(candidate=of_amounts(made, unit=100.0)))
    alike = asked._replace(now=asked.now._replace(model=asked.then.model))
    assert shadowed(alike, last=400).unmet == {}, "the champion's trees do not meet them either"
    few = shadowed(asked_of(made.deployment, Change(candidate=of_amounts(made, unit=100.0))), last=399)
    assert few.unmet == {}


def test_the_loop_holds_it_against_the_gate(made: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it chooses changes by much, so nothing else would stop it before it decides for people."""
    paid(made)
    model = challenger(made, above=0.05)
    passed = Gated(passes=True, because=("it is better",), claims=about(2.0))
    monkeypatch.setattr(loops, "gate", lambda asked, standards: passed)
    plan = LoopPlan(guardrails=(), most_changed=1.0)
    hands = Within(made.deployment, made.service, train=lambda: model)
    loop = Loop(plan, hands, champion=lambda deployment: Champion(version="", features=deployment.system.features))
    moves: list[Move | None] = []
    for _ in range(2):
        made.log.commit()
        moves.append(loop.step(made.deployment, made.clock.now_us()))
    assert [move.act for move in moves if move] == ["shadow", "stop"]
    last = made.steps()[-1]
    assert last.stage == "stopped"
    assert last.why.startswith("of the newest requests it claims to know")
    assert last.evidence["shadow"]["claims"]["high"] < 1
