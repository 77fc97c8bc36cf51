from __future__ import annotations

from pathlib import Path

import pytest

from decalog.clock import ManualClock, SystemClock
from decalog.errors import ConfigError, LogUnavailableError
from decalog.home import Home
from decalog.tables import Tables


def test_a_home_is_made_by_its_first_writer(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    before = home.exists
    home.writer().close()
    assert (before, home.exists) == (False, True)
    assert sorted(path.name for path in home.root.iterdir()) == ["log", "vault.sqlite"]
    assert home.data == home.root / "data"


def test_a_writer_runs_on_the_clock_it_is_given(tmp_path: Path) -> None:
    clock = ManualClock(7)
    log = Home(tmp_path).writer(clock)
    assert log.clock is clock
    log.close()
    log = Home(tmp_path).writer()
    assert isinstance(log.clock, SystemClock)
    log.close()


def test_a_reader_sees_what_is_durable_beside_the_writer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    writer = home.writer(ManualClock(7))
    Tables(writer).put("fraud", "policy", content=1)
    writer.commit()
    Tables(writer).put("fraud", "policy", content=2)
    reader = home.reader()
    assert Tables(reader).get("fraud", "policy") == 1
    assert (reader.position, reader.known_time) == (1, 7)
    reader.close()
    writer.close()


def test_a_second_writer_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = home.writer()
    vault = home.vault.stat().st_mtime_ns
    with pytest.raises(LogUnavailableError, match=r"0\.lock"):
        home.writer()
    assert home.vault.stat().st_mtime_ns == vault
    log.close()
    home.writer().close()


def test_reading_a_folder_without_a_log_says_what_to_do_and_makes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "empty")
    with pytest.raises(ConfigError) as caught:
        home.reader()
    assert str(caught.value) == (
        "home empty: a folder without a log. Expected the home of a deployment. "
        "Run `decalog up`, or name it with --home or DECALOG_HOME."
    )
    assert not home.root.exists()


def test_a_home_that_cannot_be_a_folder_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LogUnavailableError, match=r"0\.lock"):
        Home(tmp_path / "file").writer()
