from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.demand_log import lived
from typer.testing import CliRunner

from decalog.clock import ManualClock
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError, ReplayError, UnknownRecordError
from decalog.home import Home
from decalog.systems.demand import budget
from decalog.systems.demand.promoted import history
from decalog.systems.demand.promotions import app
from decalog.systems.demand.replanned import reordered
from decalog.systems.demand.schema import SCHEMA


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learnt from sixty days and decided for two."""
    root = tmp_path_factory.mktemp("promotions")
    lived(root, days=60, live=2)
    return root


def told(home: Path, *words: str) -> str:
    found = CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def test_the_log_tells_of_sales_promotions_and_prices(home: Path) -> None:
    log = Home(home).reader()
    known = history(log, days=60)
    log.close()
    series, days = known.promoted.sold.shape
    assert (days, len(known.names.stores)) == (60, 4)
    assert series == len(known.promoted.item) == len(known.names.items) * len(known.names.stores)
    assert set(known.names.categories) <= {f"c{number}" for number in range(1, 7)}
    assert np.nanmax(known.promoted.depth) == 0.4
    assert 0 < known.cut < 0.5
    priced = known.price[np.isfinite(known.price)]
    assert len(priced) == len(known.price)
    assert (known.cost < known.price).all()


def test_the_matrix_is_told_with_what_it_rests_on(home: Path) -> None:
    lines = told(home).splitlines()
    assert "(all with the same promotions)" in lines[0]
    assert "at 25% off, 95% intervals" in lines[0]
    assert any(line.startswith("what each other item of the category loses") for line in lines)
    assert lines[-1].startswith("all stores promote alike")
    every = json.loads(told(home, "--json"))
    assert every["across_stores"] is False
    items = {one["item"] for one in every["items"]}
    assert len(every["pairs"]) == len(items) * (len(items) - 1)
    lifts = [one["own"]["value"] for one in every["items"]]
    assert 0.4 < np.mean(lifts) < 1.2
    assert all(one["own"]["low"] < one["own"]["value"] < one["own"]["high"] for one in every["items"])
    item = every["items"][0]
    lines = told(home, "--item", item["item"]).splitlines()
    assert lines[1].startswith(f"{item['item']}: +")
    assert "on its own" in lines[2]


def test_a_plan_says_units_money_and_the_order(home: Path) -> None:
    log = Home(home).reader()
    decision = budget.last_night(log)[0]
    log.close()
    item = str(decision.request.attributes["item"])
    words = ("plan", item, "--discount", "25", "--days", "6", "--from", "2025-03-10")
    lines = told(home, *words, "--request", decision.request.id).splitlines()
    assert lines[0].startswith(f"{item} at 25% off in 4 stores, 2025-03-10 to 2025-03-15; usual sales ")
    assert [line[:8] for line in lines[2:6]] == ["the item", "7 days a", lines[4][:8], "together"]
    assert lines[-1].startswith(f"order {decision.request.id}: {decision.choice.quantity:,.0f} units for a demand of")
    every = json.loads(told(home, *words, "--request", decision.request.id, "--json"))
    assert every["own"]["value"] > 0
    assert every["total"]["value"] == pytest.approx(sum(every[name]["value"] for name in ("own", "after", "others")))
    assert every["order"]["with"]["mean"] > every["order"]["without"]["mean"]
    assert every["order"]["with"]["units"] >= every["order"]["without"]["units"]
    in_one = json.loads(told(home, *words, "--store", "s1", "--json"))
    assert in_one["usual"]["value"] < every["usual"]["value"]


@pytest.mark.parametrize(
    ("words", "error", "given"),
    [
        (("i1", "--discount", "120"), ConfigError, "120 %"),
        (("i1", "--discount", "25", "--from", "2025-01-05"), ConfigError, "'2025-01-05'"),
        (("i1", "--discount", "25", "--from", "soon"), ConfigError, "'soon'"),
        (("i999", "--discount", "25"), UnknownRecordError, "item 'i999'"),
        (("i1", "--discount", "25", "--store", "s9"), UnknownRecordError, "store 's9'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(home: Path, words: tuple[str, ...], error: type, given: str) -> None:
    with pytest.raises(error, match=given):
        told(home, "plan", *words)


def test_an_order_without_a_forecast_cannot_be_asked(home: Path) -> None:
    log = Home(home).reader()
    deployment = Deployment(Home(home), SCHEMA.system, log)
    with pytest.raises(ReplayError):
        reordered(deployment, "nothing", depth=0.25, days=6)
    taken = next(one.id for one in log.read() if one.kind == "decision")
    with pytest.raises(ReplayError, match=r"a decision without a forecast|made elsewhere|another system"):
        reordered(deployment, taken, depth=0.25, days=6)
    log.close()


def test_an_empty_log_says_so(tmp_path: Path) -> None:
    log = Home(tmp_path).writer(ManualClock(0))
    with pytest.raises(DataError, match="a log without a day of sales"):
        history(log, days=60)
    log.close()
