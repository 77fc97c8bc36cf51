"""What a model is watched against: counted by days, bursts and all, with ids no categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.watched_log import FEATURES, SYSTEM, Sums

from decalog.clock import DAY, SECOND
from decalog.events import Event
from decalog.models.base import Floats
from decalog.references import (
    LEAST_DAYS,
    THERE,
    Reference,
    Seen,
    counted,
    flows_of,
    parts_of,
    public_values,
    reference_of,
    thinned,
)
from decalog.statistics.drift import Categories, Numbers

NAMES = FEATURES.names_for("model")


def seen(days: int = 10, a_day: int = 100, *, burst: int = 0) -> Seen:
    """Returns some days of requests, with a burst of large speeds on the third."""
    rng, n = np.random.default_rng(1), days * a_day
    times = np.sort(np.repeat(np.arange(days), a_day) * DAY + rng.integers(0, DAY, n))
    rows = np.column_stack([np.exp(rng.normal(8, 1, n)), rng.exponential(1, n), rng.gamma(2, 30, n), rng.poisson(2, n)])
    rows[2 * a_day : 2 * a_day + burst, 1] += 100
    requests: list[Mapping[str, Any]] = [
        {"channel": "ecom" if place % 3 else "pos", "mcc": str(1_000 + place), "card": THERE} for place in range(n)
    ]
    return Seen(times=times, rows=rows, requests=requests, predictions=Sums().predict(rows).reshape(-1, 1))


def made(of: Seen, **more: Any) -> Reference:
    plain: dict[str, Any] = {"names": NAMES, "heads": ("p_fraud",), "flows": {}, "model": Sums()}
    reference = reference_of(of, SYSTEM.schema, **(plain | more))
    assert reference is not None
    return reference


def test_columns_are_features_heads_and_values_of_the_request() -> None:
    reference = made(seen())
    assert set(reference.columns) == {
        *NAMES,
        "p_fraud",
        *("request.channel", "request.mcc", "request.card"),
    }
    assert isinstance(reference.columns["amount"].grid("amount"), Numbers)
    assert isinstance(reference.columns["request.channel"].grid("channel"), Categories)
    assert reference.columns["request.channel"].values == ("ecom", "pos")
    assert sum(reference.columns["amount"].counts) == reference.rows == 1_000
    assert (reference.since, reference.until) == (int(seen().times[0]), int(seen().times[-1]) + 1)


def test_an_id_is_no_category_and_only_its_absence_counts() -> None:
    column = made(seen()).columns["request.mcc"]
    assert column.values == (THERE,)
    assert counted("request.mcc", column, values=["9999", None, "1"]).tolist() == [2, 0, 1]


def test_a_burst_of_the_reference_is_usual_later() -> None:
    quiet, bursting = made(seen()), made(seen(burst=5))
    assert quiet.columns["speed"].worst["new values"] < 0.03
    assert bursting.columns["speed"].worst["new values"] == pytest.approx(0.05, abs=0.02)
    column = bursting.columns["speed"]
    assert bursting.floor(column, "new values", least=0.005) == pytest.approx(
        2.4 * column.worst["new values"], rel=0.01
    )
    long = msgspec.structs.replace(bursting, until=bursting.since + 60 * DAY)
    assert long.floor(column, "new values", least=0.005) == pytest.approx(1.5 * column.worst["new values"])
    assert long.floor(column, "nulls", least=0.01) == 0.01


def test_new_is_what_lies_far_beyond_all_that_was() -> None:
    of = seen()
    column = made(of).columns["amount"]
    most = float(np.max(of.rows[:, 0]))
    cells = counted("amount", column, values=np.array([most, 1.5 * most, 2.5 * most, -2 * most]))
    grid = column.grid("amount")
    assert [int(cells[place]) for place in grid.new] == [1, 1]


def test_days_that_differ_are_seen_in_the_inflation() -> None:
    plain = seen(30)
    shifting = plain.rows.copy()
    shifting[:, 0] *= 1 + 9 * (plain.times // DAY % 3)
    assert made(plain).columns["amount"].inflation < 1.3
    assert made(msgspec.structs.replace(plain, rows=shifting)).columns["amount"].inflation > 10


def test_too_few_days_are_no_reference() -> None:
    too_few = seen(LEAST_DAYS - 1)
    kept = reference_of(too_few, SYSTEM.schema, names=NAMES, heads=("p_fraud",), flows={}, model=None)
    assert kept is None
    assert flows_of([("chargeback", DAY, DAY)], too_few.times) == {}


def test_flows_are_those_of_whole_days() -> None:
    of = seen(8)
    reports = [("chargeback", day * DAY + 5, 2 * DAY) for day in range(8) for _ in range(3**day)]
    (flow,) = flows_of(reports, of.times).values()
    assert (flow.reports, flow.decisions) == (sum(3**day for day in range(1, 7)), 600)
    assert flow.inflation > 1
    assert flow.delays is not None
    assert flow.delays.edges[-1] == pytest.approx(2 * DAY / SECOND)


def test_parts_are_shares_with_the_error_of_days() -> None:
    parts = parts_of(Sums(), seen(), names=NAMES, head="p_fraud")
    assert sum(part.share for part in parts.values()) == pytest.approx(1)
    assert parts["age"].share == 0
    assert 0 < parts["speed"].error < 0.1
    assert made(seen(), model=None).parts == {}


def test_predictions_of_nothing_have_no_parts() -> None:
    class Sometimes(Sums):
        def contributions(self, rows: Floats) -> Floats:
            found = super().contributions(rows).copy()
            found[::3, 0] = -np.inf
            return found

    class Never(Sums):
        def contributions(self, rows: Floats) -> Floats:
            return np.full((len(rows), len(NAMES) + 1), -np.inf)

    parts = parts_of(Sometimes(), seen(), names=NAMES, head="p_fraud")
    assert sum(part.share for part in parts.values()) == pytest.approx(1)
    assert parts["amount"].share == pytest.approx(made(seen(), model=Sums()).parts["amount"].share, rel=0.1)
    assert parts_of(Never(), seen(), names=NAMES, head="p_fraud") == {}


def test_a_reference_is_read_back_as_it_was_written() -> None:
    reference = made(seen())
    assert msgspec.json.decode(msgspec.json.encode(reference), type=Reference) == reference
    assert len(msgspec.json.encode(reference)) < 20_000


def test_few_of_many_are_spread_evenly() -> None:
    assert thinned(seen(10), 100).times.tolist() == seen(10).times[::10].tolist()
    assert len(thinned(seen(10), 1_000).times) == 1_000


def test_of_a_request_its_entities_count_by_being_there() -> None:
    request = Event("p", "payment", 0, 1, {"card": 1, "merchant": 2}, {"merchant": "shop", "channel": "pos"})
    assert public_values(request) == {"card": THERE, "merchant": "shop", "channel": "pos"}
