"""Each thing that can be wrong is planted, found, and its row and series are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decalog.errors import DataError
from decalog.systems.demand.forecast.checks import Checked, Finding, Rules, checked
from decalog.systems.demand.forecast.frames import Table

DAYS = 300


def table(y: Any, *, steps: Any = None, at_hour: int = 0, **numbers: Any) -> Table:
    """Returns one series of days."""
    values = np.asarray(y, np.float64)
    days = np.arange(len(values)) if steps is None else np.asarray(steps)
    times = (np.datetime64("2026-01-05", "s").astype(np.int64) + days * 86_400 + at_hour * 3_600).astype(
        "datetime64[s]"
    )
    columns = {name: np.asarray(column, np.float64) for name, column in numbers.items()}
    return Table(ids=("milk",), series=np.zeros(len(values), np.int64), times=times, y=values, numbers=columns)


def only(found: Checked) -> Finding:
    assert len(found.findings) == 1, found.findings
    return found.findings[0]


def steady(seed: int = 0, days: int = DAYS) -> Any:
    return np.random.default_rng(seed).poisson(20, days).astype(np.float64) + 1


def test_clean_sales_have_no_findings() -> None:
    found = checked(table([*steady(), 0.0]))
    assert found.findings == ()
    assert found.panel.seasons == (7,)
    assert found.panel.y.shape == (1, DAYS + 1)


def test_a_return_is_no_demand() -> None:
    found = checked(table([3, -2, 0, 4]))
    assert only(found) == Finding("return", "milk", 1, 1, 1, "repaired", "what came back is no demand: taken as 0")
    assert found.panel.y.tolist() == [[3, 0, 0, 4]]


def test_an_infinite_number_is_not_known() -> None:
    found = checked(table([3, np.inf, 0]))
    assert (only(found).reason, only(found).row, only(found).done) == ("not_a_number", 1, "quarantined")
    assert np.isnan(found.panel.y[0, 1])


def test_the_same_row_again_is_counted_once() -> None:
    found = checked(table([3, 5, 5, 0], steps=[0, 1, 1, 2]))
    assert (only(found).reason, only(found).row, only(found).count) == ("duplicate", 1, 1)
    assert found.panel.y.tolist() == [[3, 5, 0]]


@pytest.mark.parametrize(
    ("meaning", "value", "done"), [("sum", 9, "repaired"), ("last", 4, "repaired"), ("unknown", np.nan, "quarantined")]
)
def test_several_values_of_one_day(meaning: Any, value: float, done: str) -> None:
    found = checked(table([3, 5, 4, 0], steps=[0, 1, 1, 2]), Rules(two_values=meaning))
    assert (only(found).reason, only(found).count, only(found).done) == ("two_values", 2, done)
    np.testing.assert_array_equal(found.panel.y, [[3, value, 0]])


def test_closed_is_not_no_sale_and_not_no_stock() -> None:
    sales = table([3, 0, 0, 0, 2, 4], open=[1, 0, 1, 1, 0, 1], stock=[9, 9, 9, 0, 9, 0])
    found = checked(sales, Rules(open="open", stock="stock"))
    by_reason = {finding.reason: finding for finding in found.findings}
    assert {reason: finding.row for reason, finding in by_reason.items()} == {
        "closed": 1,
        "no_stock": 3,
        "sold_while_closed": 4,
    }
    assert by_reason["no_stock"].count == 2
    np.testing.assert_array_equal(found.panel.y, [[3, np.nan, 0, np.nan, 2, np.nan]])


def test_a_day_without_a_row_is_no_sale_only_where_the_frame_leaves_zeros_out() -> None:
    sparse = checked(table([3, 5], steps=[0, 3]))
    assert (only(sparse).reason, only(sparse).step, only(sparse).count) == ("no_sale", 1, 2)
    assert sparse.panel.y.tolist() == [[3, 0, 0, 5]]
    dense = checked(table([3, 0, 5], steps=[0, 1, 3]))
    assert (only(dense).reason, only(dense).step) == ("gap", 2)
    np.testing.assert_array_equal(dense.panel.y, [[3, 0, np.nan, 5]])


def test_a_change_of_unit_is_mended_where_the_price_says_so() -> None:
    y = steady()
    y[200:] *= 12
    price = np.where(np.arange(DAYS) < 200, 12.0, 1.0)
    found = checked(table(y, price=price), Rules(price="price"))
    assert (only(found).reason, only(found).step, only(found).done) == ("unit_change", 200, "repaired")
    assert np.median(found.panel.y[0, :200]) == pytest.approx(np.median(found.panel.y[0, 200:]), rel=0.1)
    blind = checked(table(y))
    assert (only(blind).reason, only(blind).done) == ("unit_change_suspected", "kept")
    assert blind.panel.y[0].tolist() == y.tolist()


def test_growth_is_no_change_of_unit() -> None:
    assert checked(table(steady() * np.linspace(1, 4, DAYS))).findings == ()


def test_a_number_that_came_back_as_another_product_begins_anew() -> None:
    y = steady(days=400)
    y[150:290], y[290:] = 0.0, 5 * y[290:]
    found = checked(table(y))
    assert (only(found).reason, only(found).step, only(found).done) == ("reused", 290, "quarantined")
    assert np.isnan(found.panel.y[0, :290]).all()
    y[290:] /= 5
    assert checked(table(y)).findings == ()


def test_a_flag_written_after_the_fact_is_taken_back() -> None:
    sales = table([3, 9, 8, 0], promo=[0, 1, 1, 0], told=np.array([0, 0, 4e9, 0]))
    found = checked(sales, Rules(flags={"promo": "told"}, known=("promo",)))
    assert (only(found).reason, only(found).row) == ("late_flag", 2)
    assert found.panel.known["promo"].tolist() == [[0, 1, 0, 0]]


def test_a_flag_that_the_future_never_has_is_told() -> None:
    sales = table([3, 9, 0, np.nan, np.nan], promo=[0, 1, 0, 0, 0])
    found = checked(sales, Rules(flags={"promo": ""}, known=("promo",)), ahead=2)
    assert (only(found).reason, only(found).series, only(found).count) == ("flag_without_future", "", 2)
    assert found.panel.y.shape == (1, 3)
    assert found.panel.known["promo"].shape == (1, 5)
    planned = table([3, 9, 0, np.nan, np.nan], promo=[0, 1, 0, 1, 0])
    assert checked(planned, Rules(flags={"promo": ""}), ahead=2).findings == ()


def test_local_days_written_in_utc_are_put_back_on_their_day() -> None:
    found = checked(table([3, 4, 0], at_hour=-1))
    assert (only(found).reason, only(found).count) == ("time_shift", 3)
    assert found.panel.y.tolist() == [[3, 4, 0]]
    assert found.panel.calendar is not None
    assert found.panel.calendar.times(np.array([0]))[0] == np.datetime64("2026-01-05", "s")


def test_a_rule_that_names_no_column_is_refused() -> None:
    with pytest.raises(DataError, match=r"long frame, rules: no column of numbers 'stok'. Expected one of: stock"):
        checked(table([1.0], stock=[1.0]), Rules(stock="stok"))
    with pytest.raises(DataError, match=r"long frame, rules: no row. Expected rows"):
        checked(table([]))
