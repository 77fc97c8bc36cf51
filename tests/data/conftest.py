"""A small shop's mapping, and a log to import its payments into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.shop import HEADER, MAPPING, NOW

from decalog.clock import ManualClock
from decalog.data.mapping import DataMap, read_map
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.systems.fraud.schema import SCHEMA


@pytest.fixture
def mapping() -> DataMap:
    return read_map(MAPPING, SCHEMA)


@pytest.fixture
def ingest(tmp_path: Path, mapping: DataMap) -> Iterator[Ingest]:
    log = Home(tmp_path / "home").writer(ManualClock(NOW))
    yield Ingest(SCHEMA.with_fields(mapping.signal_fields()), log, rates=mapping.rates or Rates())
    log.store.close()
    log.vault.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_lines(*lines: str | bytes) -> Path:
        path = tmp_path / "payments.csv"
        encoded = [line.encode() if isinstance(line, str) else line for line in (HEADER, *lines)]
        path.write_bytes(b"\n".join(encoded) + b"\n")
        return path

    return write_lines
