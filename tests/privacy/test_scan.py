"""The search finds a value however it is packed, and nothing where nothing is."""

from __future__ import annotations

import base64
import gzip
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
from tests.privacy.people import SECRETS, fill

from decalog.privacy.scan import SHORTEST, forms_of, scan
from decalog.privacy.subjects import Told
from decalog.stores import parquet
from decalog.tables import Tables

NAME = "Zoë Quintanilla"
PACKERS: dict[str, Callable[[Path], object]] = {
    "plain.txt": lambda path: path.write_text(f"<b>{NAME}</b>", encoding="utf-8"),
    "escaped.json": lambda path: path.write_bytes(NAME.encode("unicode_escape")),
    "wide.txt": lambda path: path.write_bytes(NAME.encode("utf-16-le")),
    "hex.txt": lambda path: path.write_text(NAME.encode().hex()),
    "query.log": lambda path: path.write_text(quote(NAME, safe="")),
    "coded0.txt": lambda path: path.write_bytes(base64.b64encode(NAME.encode())),
    "coded1.txt": lambda path: path.write_bytes(base64.b64encode(b"1" + NAME.encode() + b"11")),
    "coded2.txt": lambda path: path.write_bytes(base64.b64encode(b"22" + NAME.encode() + b"2")),
    "zipped.npz": lambda path: np.savez_compressed(path, names=np.array([NAME])),
    "squeezed.gz": lambda path: path.write_bytes(gzip.compress(NAME.encode())),
    "rows.parquet": lambda path: parquet.write_table(path, {"name": np.array([NAME] * 9, object)}),
    "seam.bin": lambda path: path.write_bytes(bytes((4 << 20) - 5) + NAME.encode()),
}


@pytest.mark.parametrize("name", PACKERS)
def test_a_value_is_found_however_it_is_packed(tmp_path: Path, name: str) -> None:
    PACKERS[name](tmp_path / name)
    found = scan(tmp_path, [Told("cardholder", NAME)])
    assert {(hit.name, hit.file) for hit in found.hits} == {("cardholder", name)}
    assert f"cardholder stands in {name}" in found.text()
    assert NAME not in found.text()
    assert not scan(tmp_path, [Told("cardholder", "Somebody Else")]).hits


@pytest.mark.parametrize("value", [7_316_104_250, 7_316_104_250.5])
@pytest.mark.parametrize("order", "<>")
def test_a_number_is_found_as_bytes_too(tmp_path: Path, value: float, order: str) -> None:
    (tmp_path / "x").write_bytes(b"ab" + struct.pack(f"{order}{'q' if isinstance(value, int) else 'd'}", value))
    assert scan(tmp_path, [Told("account", value)]).hits


def test_what_is_too_short_to_mean_anything_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("Li 7 True")
    found = scan(tmp_path, [Told("name", "Li"), Told("age", 7), Told("is_vip", True), Told("city", "x" * SHORTEST)])
    assert (found.values, found.short, found.is_clean) == (1, 3, True)
    assert "3 too short to search for" in found.text()


def test_a_file_that_is_not_what_it_is_called_is_searched_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text(NAME)
    (tmp_path / "b.npz").write_bytes(zlib.compress(NAME.encode()))
    found = scan(tmp_path, [Told("cardholder", NAME)])
    assert {hit.file for hit in found.hits} == {"a.parquet"}
    assert found.unread == ("a.parquet", "b.npz")
    assert "could be searched as bytes alone: b.npz" in found.text()


def test_nothing_personal_stands_in_a_home_even_before_an_erasure(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    found = scan(home.root, [Told(name, value) for name, value in SECRETS.items()])
    assert found.is_clean
    assert found.files > 2


def test_a_record_over_several_pages_is_searched_as_it_reads(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    public = "a-shop-of-a-name " * 400
    with closing(home.writer()) as log:
        Tables(log).put("fraud", "notes", content={"text": public})
        log.commit()
    found = scan(home.root, [Told("merchant", public)])
    assert next(hit.inside for hit in found.hits).startswith("record ")


def test_forms_are_many_for_texts_and_none_for_flags() -> None:
    assert len(forms_of(NAME)) > 8
    assert forms_of(True) == ()
    assert NAME.encode() in forms_of(NAME)
    assert msgspec.json.encode(NAME)[1:-1] in forms_of(NAME)
