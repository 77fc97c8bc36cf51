"""A history that is read on is, bit by bit, one that was read from the first record on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fraud_log import FEATURES, FraudLog, hours, payment

from decalog.clock import DAY
from decalog.events import Record
from decalog.examples import Examples, History
from decalog.histories import Followed, Histories, history_of
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

LONG = 75.0
IMPORTS = 20
"""Records at the beginning among which there are imports."""


class Records:
    """Records that were read before, as a log; counts those that are asked for."""

    def __init__(self, records: list[Record]) -> None:
        self.records, self.read_so_far = records, 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for record in self.records[start:stop]:
            self.read_so_far += 1
            yield record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Imports, decisions, outcomes early, late and withdrawn, corrections and deletions, in a drawn order."""
    log, rng = FraudLog(tmp_path_factory.mktemp("log")), random.Random(3)
    for i in range(12):
        log.pay(f"e{i}", hours(i), card=f"card-{i % 3}", amount_minor=100 + i)
    for i in range(60):
        at = 1 + i * (LONG - 2) / 60
        log.decide(f"d{i}", at, card=f"card-{i % 4}", amount_minor=rng.choice([500, 90_000]), device=f"dev-{i % 5}")
        if rng.random() < 0.3:
            log.report(f"cb{i}", f"d{rng.randrange(i + 1)}", at + 0.01)
        if rng.random() < 0.2:
            log.report(f"v{i}", f"d{i}", at + 0.02, kind="analyst_verdict", source="analyst", value=rng.randrange(2))
        if i % 11 == 5:
            log.event(at + 0.03, **payment(f"fix{i}", at - 0.1, amount_minor=7_000 + i, corrects=f"d{i - 2}"))
        if i % 13 == 7:
            log.event(at + 0.04, id=f"gone{i}", deletes=f"d{i - 3}")
        if i % 17 == 9:
            log.report(f"early{i}", f"d{i + 2}", at + 0.05, kind="fraud_warning", source="network")
    log.withdraw("nothing", next(f"cb{i}" for i in range(60) if _has(log, f"cb{i}")), LONG - 0.5)
    return log.records(LONG)


def _has(log: FraudLog, id_: str) -> bool:
    return bool(log.log.find("outcome", f"{SCHEMA.system}/{id_}"))


def fresh(records: list[Record]) -> History:
    return History(records, SCHEMA, features=FEATURES)


def assert_same(one: History, other: History) -> None:
    assert (one.position, one.known_time, one.erasures, one.late) == (
        other.position,
        other.known_time,
        other.erasures,
        other.late,
    )
    moments = [one.known_time, one.known_time - 3 * DAY, one.known_time - 61 * DAY]
    for moment in moments:
        _same_examples(one.as_of(moment), other.as_of(moment))
        assert one.delays(moment).tobytes() == other.delays(moment).tobytes()
    _same_examples(one.now, other.now)
    assert list(one.reported()) == list(other.reported())


def _same_examples(one: Examples, other: Examples) -> None:
    for name in Examples.__struct_fields__:
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, np.ndarray):
            assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes()), name
        elif name == "entities":
            assert {key: value.tobytes() for key, value in left.items()} == {
                key: value.tobytes() for key, value in right.items()
            }
        else:
            assert left == right, name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_read_on_at_any_places_it_is_the_same_bits(records: list[Record], shares: list[float]) -> None:
    cuts = sorted(IMPORTS + int(share * (len(records) - IMPORTS)) for share in shares)
    history = fresh(records[: cuts[0]])
    for first, end in zip(cuts, [*cuts[1:], len(records)], strict=True):
        history.now  # noqa: B018 - what was made before must not be left over
        assert history.follow(records[first:end])
    assert_same(history, fresh(records))


def test_only_what_is_new_is_read(records: list[Record]) -> None:
    log, histories = Records(records[:-5]), Histories()
    history_of(Followed(log, histories), SYSTEM)
    log.records, log.read_so_far = records, 0
    found = history_of(Followed(log, histories), SYSTEM)
    assert log.read_so_far <= 8
    assert_same(found, fresh(records))


def test_without_histories_it_is_read_from_the_first_record_on(records: list[Record]) -> None:
    assert history_of(Records(records), SYSTEM, position=30).position == 30


def test_an_earlier_position_is_read_anew(records: list[Record]) -> None:
    log = Followed(Records(records), Histories())
    history_of(log, SYSTEM)
    assert_same(history_of(log, SYSTEM, position=40), fresh(records[:40]))
    assert_same(history_of(log, SYSTEM), fresh(records))


def test_another_feature_set_has_a_history_of_its_own(records: list[Record]) -> None:
    log = Followed(Records(records), Histories())
    history_of(log, SYSTEM)
    other = msgspec.structs.replace(SYSTEM, features=msgspec.structs.replace(FEATURES, lateness="2d"))
    found = history_of(log, other)
    assert found.features.version == other.features.version
    assert found.now.rows.tobytes() == fresh(records).now.rows.tobytes()


def test_another_log_is_read_anew(records: list[Record], tmp_path: Path) -> None:
    histories = Histories()
    history_of(Followed(Records(records), histories), SYSTEM)
    log = FraudLog(tmp_path)
    for i in range(len(records) + 3):
        log.decide(f"x{i}", 1 + i / 100)
    others = log.records(2)
    assert_same(history_of(Followed(Records(others), histories), SYSTEM), fresh(others))


def test_what_has_to_be_folded_is_read_anew(tmp_path: Path) -> None:
    """An import, and a correction of one, change what was read before or need all of the log."""
    log, histories = FraudLog(tmp_path), Histories()
    log.pay("first", 0)
    log.decide("d", 1)
    acts: tuple[Callable[[], object], ...] = (
        lambda: log.pay("second", 2),
        lambda: log.event(3, **payment("fixed", 0.5, amount_minor=5, corrects="first")),
        lambda: log.decide("after", 4),
    )
    for act in acts:
        act()
        found = history_of(Followed(Records(log.records()), histories), SYSTEM)
        assert_same(found, fresh(log.records()))


def test_what_was_deleted_and_is_back_is_there_again(tmp_path: Path) -> None:
    log, histories = FraudLog(tmp_path), Histories()
    log.decide("a", 1)
    log.decide("b", 1.5)
    acts: tuple[Callable[[], object], ...] = (
        lambda: log.event(2, id="gone", deletes="a"),
        lambda: log.event(3, **payment("back", 1, amount_minor=5, corrects="a")),
    )
    for act in acts:
        act()
        found = history_of(Followed(Records(log.records()), histories), SYSTEM)
        assert_same(found, fresh(log.records()))
