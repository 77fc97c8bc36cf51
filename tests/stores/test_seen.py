"""The filter in front of the index: it may never deny a key that is stored."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from decalog.stores import seen as seen_module
from decalog.stores.base import Entry
from decalog.stores.seen import Seen
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault


def test_no_key_that_was_stored_or_added_is_denied_and_nearly_all_others_are() -> None:
    stored, added = [("request", f"old-{n}") for n in range(90_000)], [("request", f"new-{n}") for n in range(150_000)]
    seen = Seen(lambda: iter(stored))
    seen.wait()
    for key in added:
        seen.add(key)
    assert not any(seen.lacks(key) for key in (*stored, *added))
    others = [("request", f"other-{n}") for n in range(20_000)]
    assert sum(seen.lacks(key) for key in others) > 0.93 * len(others)
    seen.close()


def test_tokens_and_numbers_are_keys_too() -> None:
    seen = Seen(lambda: iter((b"\x01" * 16, 2**62 + 7)))
    seen.wait()
    assert not seen.lacks(b"\x01" * 16)
    assert not seen.lacks(2**62 + 7)
    assert seen.lacks(b"\x02" * 16)
    seen.close()


def test_before_all_is_read_nothing_is_denied() -> None:
    reading = threading.Event()

    def slowly() -> Iterator[str]:
        reading.wait()
        yield "a"

    seen = Seen(slowly)
    assert not seen.lacks("b")
    reading.set()
    seen.wait()
    assert seen.lacks("b")
    assert not seen.lacks("a")


def test_what_cannot_be_read_leaves_a_filter_that_denies_nothing() -> None:
    def damaged() -> Iterator[str]:
        yield "a"
        raise sqlite3.DatabaseError("malformed")

    seen = Seen(damaged, sqlite3.Error)
    seen.wait()
    assert not seen.lacks("b")


def test_a_store_that_closes_does_not_wait_for_the_whole_index() -> None:
    asked = threading.Event()

    def without_end() -> Iterator[int]:
        n = 0
        while True:
            asked.set()
            yield (n := n + 1)

    seen = Seen(without_end)
    asked.wait()
    seen.close()
    assert not seen.lacks(-1)


def test_a_store_opened_again_finds_what_was_stored_before_and_after(tmp_path: Path) -> None:
    for first in (0, 5):
        store = SqliteLogStore(tmp_path / "log.sqlite", writer=True)
        assert store._seen is not None
        store._seen.wait()
        keys = [(("request", f"fraud/{n}"),) for n in range(10)]
        assert [bool(store.find(*key)) for (key,) in keys] == [n < first for n in range(10)]
        store.append([Entry(n, b"blob", b"hash", keys[n]) for n in range(first, first + 5)])()
        assert [store.find(*key) for (key,) in keys] == [[n] if n < first + 5 else [] for n in range(10)]
        store.close()


def test_a_vault_opened_again_finds_its_tokens_and_keys(tmp_path: Path) -> None:
    tokens, ciphers = [], []
    for _ in range(2):
        vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
        assert vault._seen is not None
        vault._seen.wait()
        tokens.append([vault.token("card", str(n)) for n in range(20)])
        envelopes = [(cipher := vault.cipher(token)) and cipher.encrypt(b"0" * 12, b"x", None) for token in tokens[-1]]
        ciphers.append(envelopes)
        vault.flush()()
        vault.close()
    assert tokens[0] == tokens[1]
    assert ciphers[0] == ciphers[1]


def test_a_mark_sets_both_of_its_bits() -> None:
    bits = seen_module._Bits(1)
    bits.add(5 | 9 << 32)
    assert bits.may_hold(5 | 9 << 32)
    assert not bits.may_hold(5 | 8 << 32)
    assert not bits.may_hold(4 | 9 << 32)
