"""Labels that are quantities, and lower bounds of them: how they are joined, and what stands behind a bound."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.demand_log import DemandLog

from decalog.examples import Floats
from decalog.outcomes import NEVER, LabelBook
from decalog.quantities import QuantityHistory, Told
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.schema import SCHEMA


def history(log: DemandLog, until_day: float | None = None, **more: object) -> QuantityHistory:
    return QuantityHistory(log.records(until_day), SCHEMA, features=FEATURES, **more)  # type: ignore[arg-type]


def test_a_quantity_is_known_when_it_is_told_and_silence_gives_none(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    for day in range(4):
        log.asked(day)
    log.told(2, "order-0", 7)
    log.told(3, "order-1", 4, censored=True)
    early = history(log, 5).now
    assert early.ids == ("order-0", "order-1", "order-2", "order-3")
    assert early.labels[:2].tolist() == [7.0, 4.0]
    assert np.isnan(early.labels[2:]).all()
    assert early.bounds.tolist() == [False, True, False, False]
    assert early.why == ("sales", "sales", "immature", "immature")
    late = history(log, 40).now
    assert np.isnan(late.labels[2:]).all()
    assert late.why[2:] == ("unobserved", "unobserved")
    assert (late.settled < NEVER).all(), "what nobody told by then is awaited no more"


def test_the_last_word_stands_with_its_flag_and_a_withdrawn_one_says_nothing(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.asked(0)
    log.asked(0, "other", series="s1/i2")
    log.told(2, "order-0", 4, censored=True)
    log.told(2.1, "order-0", 9, id="mended", corrects="sales-order-0")
    log.told(2, "other", 3)
    log.ingest.outcome({"id": "gone", "deletes": "sales-other"})
    now = history(log, 3).now
    assert dict(zip(now.ids, now.labels.tolist(), strict=True))["order-0"] == 9.0
    assert not now.bounds.any()
    assert np.isnan(now.labels[list(now.ids).index("other")])


def test_an_override_is_no_label(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.asked(0)
    log.told(1, "order-0", 30, kind="override", source="planner", why="promotion", id="mine", censored=None)
    assert np.isnan(history(log, 3).now.labels).all()


def test_a_label_can_be_asked_as_of_any_moment(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.asked(0)
    log.told(3, "order-0", 7)
    joined = history(log, 5)
    before, after = joined.as_of(log._at(2, 0)), joined.as_of(log._at(4, 0))
    assert np.isnan(before.labels).all()
    assert after.labels.tolist() == [7.0]


def test_events_stand_as_they_were_known_at_a_moment(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.sold(0, 8)
    log.sold(1, 3)
    log.sold(2, 5)
    log.sold(3, 6, id="mended", corrects="day-s1/i1-1")
    log.ingest.event({"id": "gone", "deletes": "day-s1/i1-2"})
    joined = history(log, 5)

    def units(day: float) -> list[object]:
        return [event.attributes["units"] for event in joined.events(log._at(day, 23))]

    assert units(2) == [8, 3, 5]
    assert units(4) == [8, 6]


def test_what_stands_behind_bounds_is_asked_of_what_was_known_then(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.asked(0)
    log.sold(1, 4, empty_h=6)
    log.told(2, "order-0", 4, censored=True)
    log.sold(3, 5)
    asked: list[tuple[int, int]] = []

    def recover(told: Told, seed: int) -> tuple[Floats, Floats]:
        asked.append((len(told.events), seed))
        return np.where(told.bounds, 2 * told.labels, told.labels), told.labels + seed

    joined = history(log, 5, recover=recover)
    then = joined.part(joined.as_of(log._at(2, 22)), seed=3)
    now = joined.part(joined.now, seed=4)
    assert asked == [(1, 3), (2, 4)]
    assert (then.expected.tolist(), then.drawn.tolist(), then.bounds.tolist()) == ([8.0], [7.0], [True])
    assert now.names == FEATURES.names_for("model")
    assert now.rows.shape == (1, len(now.names))
    plain = history(log).part(joined.now, seed=0)
    assert plain.expected.tolist() == plain.drawn.tolist() == [4.0], "without a recovery a bound is what it is"


def test_a_label_of_yes_or_no_is_read_as_before() -> None:
    label = msgspec.structs.replace(SCHEMA.label, of="", bound="")
    book = LabelBook(msgspec.structs.replace(SCHEMA, label=label))
    state = book.label("nothing", decided=0, acted="order", known_by=10**18)
    assert (state.value, state.why) == (0, "silence")


@pytest.mark.parametrize("field", ["on_hand", "empty_h"])
def test_what_follows_from_orders_says_so(field: str) -> None:
    kinds = (SCHEMA.request, *SCHEMA.events)
    assert all(one.steered for kind in kinds for one in kind.fields if one.name == field)
