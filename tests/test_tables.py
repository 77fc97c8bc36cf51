from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from decalog.clock import ManualClock
from decalog.events import decode_table, make_table
from decalog.home import Home
from decalog.log import Log
from decalog.tables import Tables


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Home(tmp_path).writer(ManualClock(5))
    yield made
    made.close()


def test_what_was_never_put_is_none(log: Log) -> None:
    assert Tables(log).get("fraud", "policy") is None
    assert Tables(log).version("fraud", "policy", version="0123456789ab") is None


def test_the_latest_version_counts_and_the_same_again_appends_nothing(log: Log) -> None:
    tables = Tables(log)
    seqs = [
        tables.put("fraud", "policy", content=content) for content in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2})
    ]
    assert seqs == [0, 0, 1]
    assert log.position == 2
    assert tables.get("fraud", "policy") == {"a": 2}
    assert tables.put("fraud", "policy", content={"a": 1, "b": 2}) == 2


def test_a_position_sees_what_was_in_force_there(log: Log) -> None:
    tables = Tables(log)
    for number in range(3):
        tables.put("fraud", "policy", content={"a": number})
    assert [tables.get("fraud", "policy", before=seq) for seq in range(4)] == [None, {"a": 0}, {"a": 1}, {"a": 2}]


def test_a_version_is_found_by_its_hash_however_old(log: Log) -> None:
    tables = Tables(log)
    for number in range(3):
        tables.put("fraud", "policy", content={"a": number})
    wanted = make_table("policy", {"a": 0}).version
    assert tables.version("fraud", "policy", version=wanted) == {"a": 0}
    assert tables.version("fraud", "rates", version=wanted) is None
    assert tables.version("ads", "policy", version=wanted) is None


def test_each_system_has_its_own_tables(log: Log) -> None:
    tables = Tables(log)
    tables.put("", "rates", content={"base": "EUR"})
    tables.put("fraud", "rates", content={"base": "USD"})
    assert (tables.get("", "rates"), tables.get("fraud", "rates")) == ({"base": "EUR"}, {"base": "USD"})


def test_a_table_is_a_record_like_any_other(log: Log, tmp_path: Path) -> None:
    Tables(log).put("fraud", "policy", content={"b": 1, "a": 2})
    log.commit()
    reader = Home(tmp_path).reader()
    (record,) = reader.read()
    reader.close()
    assert (record.kind, record.system, record.id, record.known_time) == ("table", "fraud", "policy", 5)
    assert decode_table(record.body).content == '{"a":2,"b":1}'
    assert Tables(log).get("fraud", "policy") == {"a": 2, "b": 1}
