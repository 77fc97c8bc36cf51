"""Drift: what stays silent on data that did not change, what speaks on data that did, and how large it says that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from decalog.errors import DataError
from decalog.metrics import Floats
from decalog.statistics.drift import (
    Grid,
    Shift,
    categories,
    compare,
    effects,
    jensen_shannon,
    numbers,
    overdispersion,
    population_stability,
    reference_of_categories,
    reference_of_numbers,
)
from decalog.statistics.screening import FLOORS, adjusted, day_p_value, findings, online_levels

DAYS = 365
LEVEL = 2 / DAYS


def kinds(shifts: tuple[Shift, ...]) -> dict[str, Shift]:
    return {shift.kind: shift for shift in shifts}


def compared(reference: Any, current: Any, *, inflation: float = 1.0) -> dict[str, Shift]:
    grid: Grid
    if isinstance(reference, list):
        grid, counts = reference_of_categories("a", reference)
    else:
        grid, counts = reference_of_numbers("a", reference)
    return kinds(compare(grid, counts, current=grid.count(current), inflation=inflation))


# ---- counting ----


def test_cells_hold_equal_shares_and_what_is_beyond_or_missing_has_its_own() -> None:
    grid = numbers("age_s", np.arange(1.0, 101.0), cells=4)
    assert grid.edges.tolist() == [np.nextafter(1.0, 0), 25.0, 50.0, 75.0, 100.0, np.inf]
    assert grid.count(np.arange(1.0, 101.0)).tolist() == [0, 25, 25, 25, 25, 0, 0]
    assert grid.count([-np.inf, 0.5, 1.0, 25.0, 25.1, 100.0, 100.1, np.inf, np.nan]).tolist() == [2, 2, 1, 0, 1, 2, 1]
    assert grid.count([]).tolist() == [0] * 7


def test_a_value_that_would_fill_several_cells_has_one() -> None:
    reference = np.concatenate([np.zeros(900), np.arange(100.0)])
    grid = numbers("spent", reference, cells=10)
    assert grid.count(reference)[1] == 901
    assert grid.count([0.0, -1.0]).tolist()[:2] == [1, 1]


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(size=1_000)
    rows[::7] = np.nan
    grid = numbers("a", rows)
    assert (grid.count(rows[:300]) + grid.count(rows[300:])).tolist() == grid.count(rows).tolist()
    words: list[str | None] = ["de", "fr", None, "", "de", "xx"]
    named = categories("country", words, cells=2)
    assert named.values == ("de", "fr")
    assert named.count(words).tolist() == [2, 1, 1, 2]


def test_a_reference_needs_values() -> None:
    with pytest.raises(DataError, match="reference of a: an array of shape"):
        numbers("a", [np.nan, np.nan])
    with pytest.raises(DataError, match="reference of a: 1 of 2 values"):
        numbers("a", [1.0, np.inf])
    with pytest.raises(DataError, match="no row with a category"):
        categories("a", ["", None])


# ---- how large ----


def test_sizes_of_shifts_are_those_of_the_textbooks() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    exact = float(np.sum((q - p) * np.log(q / p)))
    assert population_stability(p * 1e9, q * 1e9) == pytest.approx(exact, rel=1e-6)
    from scipy.spatial.distance import jensenshannon

    assert jensen_shannon(p, q) == pytest.approx(float(jensenshannon(p, q, base=2)) ** 2)
    assert jensen_shannon(p * 7, p) == 0.0


def test_a_move_of_half_a_deviation_has_the_ks_and_wasserstein_distance_of_normals() -> None:
    rng = np.random.default_rng(1)
    found = compared(rng.normal(size=200_000), rng.normal(0.5, 1, size=200_000))["distribution"]
    assert found.measures["kolmogorov_smirnov"] == pytest.approx(2 * stats.norm.cdf(0.25) - 1, abs=0.006)
    assert found.measures["wasserstein"] == pytest.approx(1.12 * 0.5 / (2 * stats.norm.ppf(0.75)), rel=0.03)
    assert found.effect == pytest.approx(0.25, rel=0.05)  # δ² in the limit of fine cells
    assert found.p_value < 1e-300 or found.p_value == 0.0


def test_without_drift_the_excess_is_about_nothing_for_any_number_of_rows() -> None:
    rng = np.random.default_rng(2)
    for rows in (100, 1_000, 100_000):
        found = [compared(rng.normal(size=rows), rng.normal(size=rows))["distribution"] for _ in range(40)]
        expected = np.mean([one.measures["psi_expected"] for one in found])
        assert abs(np.mean([one.effect for one in found])) < 0.35 * expected


def test_nulls_and_new_values_are_shares_of_their_own() -> None:
    reference: list[str | None] = ["de"] * 1000 + ["fr"] * 960 + [None] * 40  # every second row lays the grid
    current: list[str | None] = ["de"] * 450 + ["fr"] * 400 + [None] * 120 + ["xx"] * 30
    found = compared(reference, current)
    assert found["nulls"].measures == {"reference": 0.02, "current": 0.12}
    assert found["nulls"].effect == pytest.approx(0.1)
    assert found["new values"].measures["current"] == pytest.approx(30 / 880)
    table = [[20, 980], [120, 880]]
    likelihood = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    assert found["nulls"].p_value == pytest.approx(likelihood.pvalue, rel=1e-6)
    beyond = compared(np.arange(100.0), np.arange(10.0, 110.0))["new values"]
    assert beyond.measures["current"] == 0.1


def test_without_any_value_only_nulls_are_compared() -> None:
    assert set(compared(np.arange(100.0), np.full(50, np.nan))) == {"nulls"}


def test_counts_that_are_none_are_told() -> None:
    grid = numbers("a", np.arange(100.0), cells=4)
    counts = grid.count(np.arange(100.0))
    with pytest.raises(DataError, match="drift of a, current counts: no rows"):
        compare(grid, counts, current=grid.count([]))
    with pytest.raises(DataError, match="drift of a, reference counts: an array of shape"):
        compare(grid, counts[:3], current=counts)


# ---- how sure ----


def levels_of(p_values: list[float]) -> float:
    return float(np.mean(np.array(p_values) <= 0.05))


@pytest.mark.parametrize("rows", [60, 2_000])
def test_without_drift_p_values_are_below_a_level_as_rarely_as_it_says(rows: int) -> None:
    rng = np.random.default_rng(3)
    found = [compared(rng.lognormal(size=5_000), rng.lognormal(size=rows)) for _ in range(400)]
    for kind in ("distribution", "nulls", "new values"):
        assert levels_of([one[kind].p_value for one in found]) < 0.085, kind
    words = [
        compared(list(rng.choice(list("abcdef"), 2_000)), list(rng.choice(list("abcdef"), rows))) for _ in range(200)
    ]
    assert levels_of([one["distribution"].p_value for one in words]) < 0.1


def test_the_pace_of_what_was_never_seen_is_no_drift() -> None:
    """Values beyond a reference's ends, and categories out of a long tail, come at a pace of their own."""
    rng = np.random.default_rng(10)
    tail = [compared(rng.standard_t(2, size=500), rng.standard_t(2, size=5_000))["new values"] for _ in range(300)]
    assert np.mean([one.measures["current"] for one in tail]) > 0.003
    assert levels_of([one.p_value for one in tail]) < 0.085


@pytest.mark.parametrize("kept", [True, False])
def test_categories_that_a_reference_kept_are_no_more_frequent_than_in_its_other_rows(kept: bool) -> None:
    """A hundred categories of one frequency: which 32 are kept is chance, and a grid's own rows have more of them."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(200):
        reference, current = ([f"c{word}" for word in rng.integers(100, size=n)] for n in (2_000, 1_000))
        grid, counts = reference_of_categories("a", reference)
        counts = counts if kept else grid.count(reference[::2])
        found.append(kinds(compare(grid, counts, current=grid.count(current))))
    for kind in ("distribution", "new values"):
        share = levels_of([one[kind].p_value for one in found])
        assert share < 0.1 if kept else share > 0.5


def test_few_rows_of_a_share_are_judged_as_fisher_does() -> None:
    reference, current = np.arange(400.0), np.arange(200.0)
    reference[:3] = np.nan
    current[:7] = np.nan
    found = compared(reference, current)["nulls"]
    greater = stats.fisher_exact([[7, 193], [3, 397]], alternative="greater").pvalue
    assert found.p_value == pytest.approx(2 * float(greater))
    assert compared(current, reference)["nulls"].p_value == pytest.approx(found.p_value)
    assert compared(np.arange(50.0), np.arange(50.0))["nulls"].p_value == 1.0


def test_what_lies_beyond_is_judged_by_the_exact_distribution() -> None:
    reference, current = np.arange(100.0), np.array([-1.0, -2.0, 100.0, *range(27)])
    found = compared(reference, current)["new values"]
    assert found.p_value == pytest.approx(float(stats.betabinom.sf(2, 30, 2, 99)), rel=1e-9, abs=0)
    every = compared(reference, np.full(30, -1.0))["new values"]
    assert every.p_value == pytest.approx(float(stats.betabinom.pmf(30, 30, 2, 99)), rel=1e-9, abs=0)
    none = compared(reference, np.arange(30.0))["new values"]
    assert none.p_value == pytest.approx(1.0)
    assert none.effect == 0.0


def test_rows_that_hang_together_alarm_without_their_overdispersion_and_not_with_it() -> None:
    """A hundred customers a day, each with fifty rows of nearly one value."""
    rng = np.random.default_rng(4)

    def day() -> Floats:
        return np.repeat(rng.normal(size=100), 50) + 0.1 * rng.normal(size=5_000)

    reference = [day() for _ in range(30)]
    grid = numbers("a", np.concatenate(reference))
    parts = np.array([grid.count(one) for one in reference])
    inflation = overdispersion(parts)
    assert 35 < inflation < 60
    days = [grid.count(day()) for _ in range(200)]
    blind = [kinds(compare(grid, parts.sum(axis=0), current=one))["distribution"].p_value for one in days]
    aware = [
        kinds(compare(grid, parts.sum(axis=0), current=one, inflation=inflation))["distribution"].p_value
        for one in days
    ]
    assert levels_of(blind) > 0.9
    assert levels_of(aware) < 0.1
    with pytest.raises(DataError, match="1 parts with rows"):
        overdispersion([[1, 2], [0, 0]])


# ---- many comparisons, one budget ----


def watched(rng: np.random.Generator, *, rows: int, moved: float = 0.0) -> list[Shift]:
    """Ten features of one day against their references; the last is moved by so many deviations."""
    shifts: list[Shift] = []
    for feature in range(10):
        reference = rng.normal(size=20_000)
        grid = numbers(f"f{feature}", reference)
        current = rng.normal(moved * (feature == 9), 1, size=rows)
        shifts.extend(compare(grid, grid.count(reference), current=grid.count(current)))
    return shifts


def test_days_without_drift_keep_their_budget_even_without_floors() -> None:
    rng = np.random.default_rng(5)
    nothing = dict.fromkeys(FLOORS, -1.0)
    alarms = sum(bool(findings(watched(rng, rows=2_000), level=0.05, floors=nothing)) for _ in range(100))
    assert alarms <= stats.binom.isf(1e-3, 100, 0.05)
    assert not any(findings(watched(rng, rows=2_000), level=LEVEL) for _ in range(30))


def test_a_moved_feature_is_found_and_only_it() -> None:
    for seed in range(20):
        found = findings(watched(np.random.default_rng(seed), rows=2_000, moved=0.6), level=LEVEL)
        assert {one.shift.feature for one in found} == {"f9"}
        assert found[0].adjusted < 1e-6


def test_a_sure_but_tiny_move_is_no_alarm_and_a_large_one_of_few_rows_neither() -> None:
    rng = np.random.default_rng(6)
    tiny = watched(rng, rows=200_000, moved=0.1)
    assert day_p_value(tiny, floors=dict.fromkeys(FLOORS, 0.0)) < 1e-12
    assert not findings(tiny, level=LEVEL)
    assert not findings(watched(rng, rows=10, moved=0.3), level=LEVEL)


def test_new_categories_and_a_dead_source_are_found_by_their_own_name() -> None:
    rng = np.random.default_rng(7)
    reference = list(rng.choice(["de", "fr", "es"], 5_000))
    current: list[str | None] = [*rng.choice(["de", "fr", "es"], 1_900), *["xx"] * 100]
    grid = categories("country", reference)
    shifts = compare(grid, grid.count(reference), current=grid.count(current))
    assert "new values" in {one.shift.kind for one in findings(shifts, level=LEVEL)}
    dead = compare(grid, grid.count(reference), current=grid.count([None] * 500 + current[:1_500]))
    assert findings(dead, level=LEVEL)[0].shift.kind == "nulls"


def test_adjusted_p_values_are_scipys() -> None:
    raw = np.random.default_rng(8).random(30) ** 3
    np.testing.assert_allclose(adjusted(raw), stats.false_discovery_control(raw, method="by"))
    np.testing.assert_allclose(adjusted(raw, dependent=False), stats.false_discovery_control(raw, method="bh"))
    with pytest.raises(DataError, match="p-values: 1 of 2 values"):
        adjusted([0.5, 1.5])


def test_a_day_finds_exactly_where_its_p_value_reaches_the_level() -> None:
    shifts = watched(np.random.default_rng(9), rows=2_000, moved=0.45)
    p = day_p_value(shifts)
    assert 0 < p < 0.01
    assert findings(shifts, level=p)
    assert not findings(shifts, level=p * 0.999)
    assert day_p_value([]) == 1.0
    assert findings([], level=0.5) == ()


def test_levels_over_days_are_the_papers_and_a_discovery_earns_more() -> None:
    j = np.arange(1, 6)
    gammas = 0.0722 * np.log(np.maximum(j, 2)) / (j * np.exp(np.sqrt(np.log(j))))
    np.testing.assert_allclose(online_levels([1.0, 1.0, 1.0, 1.0]), gammas * 0.025)
    found = online_levels([1.0, 1e-9, 1.0, 1e-9])
    later = gammas * 0.025
    later[2:] += gammas[:3] * 0.025
    later[4:] += gammas[:1] * 0.05
    np.testing.assert_allclose(found, later)
    assert online_levels([]).tolist() == pytest.approx([gammas[0] * 0.025])
    with pytest.raises(DataError, match="p-values of days: 1 of 1 values"):
        online_levels([2.0])


def test_alarms_over_days_are_false_no_more_often_than_promised() -> None:
    """A fifth of the days drifts; of all alarms of a year at most a twentieth may be false on average."""
    false, shares = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        drifts = rng.random(DAYS) < 0.2
        p = np.where(drifts, rng.random(DAYS) * 1e-6, rng.random(DAYS))
        alarms = p <= online_levels(p)[:DAYS]
        false = int(np.sum(alarms & ~drifts))
        shares.append(false / max(int(np.sum(alarms)), 1))
        assert np.sum(alarms & drifts) > 0.8 * np.sum(drifts)
    assert np.mean(shares) <= 0.05


def test_days_of_few_rows_that_differ_are_seen_as_well() -> None:
    """Thirty cells of a hundred rows a day hold too few each for χ²; the sums of cells up to each do not."""
    rng = np.random.default_rng(3)
    alike = rng.multinomial(100, np.full(32, 1 / 32), size=30)
    apart = np.where(np.arange(30)[:, None] % 2 == 0, alike, 0)
    apart[1::2, :16] = rng.multinomial(100, np.full(16, 1 / 16), size=15)
    assert overdispersion(alike) < 1.3
    assert overdispersion(apart) > 5
    assert overdispersion([[5, 0], [7, 0]]) == 1.0


@pytest.mark.parametrize("nulls", [0.0, 0.3])
@pytest.mark.parametrize("is_text", [False, True])
def test_effects_of_many_parts_are_those_of_each(*, is_text: bool, nulls: float) -> None:
    rng = np.random.default_rng(4)

    def drawn(shift: float) -> Any:
        values = rng.normal(shift, 1, 300)
        values[rng.random(300) < nulls] = np.nan
        return [None if np.isnan(one) else f"v{one:.0f}" for one in values] if is_text else values

    parts = [drawn(shift) for shift in (0.0, 0.3, 4.0)]
    first = [*parts[0], *parts[1]] if is_text else np.concatenate(parts[:2])
    grid: Grid = categories("a", first) if is_text else numbers("a", first)
    counts = [grid.count(part) for part in parts]
    reference = grid.count(first)
    together = effects(grid, reference, parts=counts)
    each = [{one.kind: one.effect for one in compare(grid, reference, current=count)} for count in counts]
    assert {kind: found.tolist() for kind, found in together.items()} == {
        kind: [one[kind] for one in each] for kind in each[0]
    }


def test_a_part_without_any_value_has_an_effect_on_nulls_alone() -> None:
    grid = numbers("a", np.arange(100.0))
    counts = [grid.count(np.arange(100.0)), grid.count(np.full(40, np.nan))]
    found = effects(grid, counts[0], parts=counts)
    assert found["nulls"].tolist() == [0.0, 1.0]
    assert len(found["distribution"]) == len(found["new values"]) == 1
