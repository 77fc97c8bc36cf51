"""One suite over every engine of `stores/table.py`: what a LogStore and a Vault promise, whatever they are built on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from decalog.clock import ManualClock
from decalog.crypto import seal, unseal
from decalog.errors import LogUnavailableError
from decalog.events import chain, genesis
from decalog.log import Draft, Log
from decalog.stores.base import Entry, LogStore, Vault
from decalog.stores.table import ENGINES, open_log, open_vault

OpenLog = Callable[..., LogStore]
OpenVault = Callable[..., Vault]


@pytest.fixture(params=sorted(ENGINES))
def log_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    """Opens one partition again and again; closes what a test leaves open."""
    opened: list[LogStore] = []

    def open_(*, writer: bool = True) -> LogStore:
        opened.append(open_log(request.param, tmp_path / "log" / "0.store", writer=writer))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture(params=sorted(ENGINES))
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenVault]:
    """Opens one vault again and again; closes what a test leaves open."""
    opened: list[Vault] = []

    def open_(*, writer: bool = True) -> Vault:
        opened.append(open_vault(request.param, tmp_path / "vault.store", writer=writer))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def entries(start: int, count: int, *keys: tuple[str, str]) -> list[Entry]:
    return [Entry(seq, f"blob {seq}".encode(), bytes([seq % 256]) * 32, keys) for seq in range(start, start + count)]


def plain(found: Iterator[Entry]) -> list[tuple[int, bytes, bytes]]:
    return [(entry.seq, entry.blob, entry.hash) for entry in found]


def test_an_empty_log_has_no_head_and_no_records(log_store: OpenLog) -> None:
    store = log_store()
    assert store.head() is None
    assert list(store.read(0)) == []
    assert store.find("request", "a") == []


def test_what_is_appended_is_read_back_in_order(log_store: OpenLog) -> None:
    store = log_store()
    store.append(entries(0, 3))()
    store.append(entries(3, 2_500))()
    assert plain(store.read(0)) == plain(iter(entries(0, 2_503)))
    assert plain(store.read(2, 5)) == plain(iter(entries(2, 3)))
    assert plain(store.read(2_502)) == plain(iter(entries(2_502, 1)))
    assert list(store.read(5, 5)) == list(store.read(9_999)) == []
    head = store.head()
    assert head is not None
    assert (head.seq, head.blob) == (2_502, b"blob 2502")


def test_keys_find_their_records_in_order_of_seq(log_store: OpenLog) -> None:
    store = log_store()
    store.append(entries(0, 2, ("request", "a"), ("root", "a")))()
    store.append(entries(2, 1, ("request", "a")))()
    assert store.find("request", "a") == [0, 1, 2]
    assert store.find("root", "a") == [0, 1]
    assert store.find("request", "b") == []


@pytest.mark.parametrize("key", ["", "a/b", "O'Hara; DROP TABLE keys", "Ünïcødé 你好", "with\x00zero", "x" * 10_000])
def test_any_text_is_a_key(log_store: OpenLog, key: str) -> None:
    store = log_store()
    store.append(entries(0, 1, ("request", key)))()
    assert store.find("request", key) == [0]
    assert store.find("request", key + "x") == []


def test_a_second_open_sees_what_was_appended(log_store: OpenLog) -> None:
    store = log_store()
    store.append(entries(0, 4, ("request", "a")))()
    store.close()
    again = log_store()
    assert plain(again.read(0)) == plain(iter(entries(0, 4)))
    assert again.find("request", "a") == [0, 1, 2, 3]


def test_a_reader_beside_the_writer_follows_it(log_store: OpenLog) -> None:
    writer = log_store()
    reader = log_store(writer=False)
    writer.append(entries(0, 1))()
    assert len(list(reader.read(0))) == 1
    writer.append(entries(1, 1))()
    head = reader.head()
    assert head is not None
    assert head.seq == 1


def test_what_is_written_and_not_durable_is_not_read(log_store: OpenLog) -> None:
    store, beside = log_store(), log_store(writer=False)
    store.append(entries(0, 3, ("request", "a")))()
    sync = store.append(entries(3, 2, ("request", "a")))
    for one in (store, beside):
        assert plain(one.read(0)) == plain(iter(entries(0, 3)))
        assert plain(one.read(2, 5)) == plain(iter(entries(2, 1)))
        assert plain(one.read(2, 3)) == plain(iter(entries(2, 1)))
        assert plain(one.read(3, 4)) == plain(one.read(4, 5)) == []
        assert one.find("request", "a") == [0, 1, 2]
        head = one.head()
        assert head is not None
        assert head.seq == 2
    sync()
    for one in (store, beside):
        assert plain(one.read(0)) == plain(iter(entries(0, 5)))
        assert plain(one.read(3, 4)) == plain(iter(entries(3, 1)))
        assert one.find("request", "a") == [0, 1, 2, 3, 4]


def test_there_is_one_writer(log_store: OpenLog) -> None:
    first = log_store()
    with pytest.raises(LogUnavailableError, match="a partition that another process is writing"):
        log_store()
    first.close()
    log_store().append(entries(0, 1))()


def test_a_reader_takes_no_records(log_store: OpenLog) -> None:
    log_store()
    with pytest.raises(LogUnavailableError, match="an append to a store that is closed or read only"):
        log_store(writer=False).append(entries(0, 1))


def test_a_closed_writer_takes_no_records(log_store: OpenLog) -> None:
    store = log_store()
    store.close()
    with pytest.raises(LogUnavailableError, match="an append to a store that is closed or read only"):
        store.append(entries(0, 1))()


def test_a_record_is_never_overwritten_and_a_failed_group_leaves_nothing(log_store: OpenLog) -> None:
    store = log_store()
    store.append(entries(0, 3))()
    with pytest.raises(LogUnavailableError, match=r"a durable commit.*nothing acknowledged is lost"):
        store.append([Entry(3, b"new", b"h" * 32, (("request", "new"),)), Entry(1, b"other", b"h" * 32)])()
    with pytest.raises(LogUnavailableError, match="never retried"):
        store.append(entries(3, 1))()
    assert plain(store.read(0)) == plain(iter(entries(0, 3)))
    assert store.find("request", "new") == []
    store.close()
    again = log_store()
    again.append(entries(3, 1))()
    assert plain(again.read(0)) == plain(iter(entries(0, 4)))


def test_the_log_and_its_hashes_go_on_after_a_restart(log_store: OpenLog, vault: OpenVault) -> None:
    keys = vault()
    for number in range(3):
        store = log_store()
        log = Log(store, keys, ManualClock(number))
        log.stamp(Draft(kind="event", system="s", id=str(number), digest=b"", event_time=None, body=b""))
        log.commit()
        store.close()
    expected = genesis(0)
    for entry in log_store().read(0):
        expected = chain(expected, entry.blob)
        assert entry.hash == expected


def test_a_value_has_one_token_from_the_first_look_on(vault: OpenVault) -> None:
    one = vault()
    token = one.token("card", "4000")
    assert 0 < token < 2**63
    assert one.token("card", "4000") == token
    one.flush()()
    assert one.token("card", "4000") == token
    one.close()
    assert vault().token("card", "4000") == token


def test_tokens_differ_by_kind_and_by_value(vault: OpenVault) -> None:
    one = vault()
    assert len({one.token("card", "a"), one.token("card", "b"), one.token("ip", "a"), one.token("", "carda")}) == 4


def test_what_was_not_flushed_is_not_there_for_others(vault: OpenVault) -> None:
    one = vault()
    lost = one.token("card", "lost")
    one.close()
    assert vault().token("card", "lost") != lost


def test_a_subject_keeps_its_key(vault: OpenVault) -> None:
    one = vault()
    cipher = one.cipher(7)
    assert cipher is not None
    envelope = seal(cipher, {"name": "Ada"}, bound_to="r1")
    one.flush()()
    one.close()
    again = vault().cipher(7)
    assert again is not None
    assert unseal(again, envelope, bound_to="r1") == {"name": "Ada"}


def test_a_reader_makes_no_keys_and_no_tokens(vault: OpenVault) -> None:
    writer = vault()
    token = writer.token("card", "known")
    writer.cipher(token)
    writer.flush()()
    reader = vault(writer=False)
    assert reader.cipher(1) is None
    assert reader.cipher(token) is not None
    assert reader.token("card", "known") == token
    with pytest.raises(LogUnavailableError, match=r"vault, token: a new value of 'card' in a vault opened for reading"):
        reader.token("card", "new")


def test_secrets_last_and_differ(vault: OpenVault) -> None:
    one = vault()
    draws, bodies = one.secret("draws"), one.secret("bodies")
    assert draws != bodies
    assert len(draws) == 32
    one.close()
    assert vault().secret("draws") == draws


def test_a_reader_finds_no_secret_that_no_writer_made(vault: OpenVault) -> None:
    vault()
    with pytest.raises(LogUnavailableError, match="no secret 'unheard' in a vault opened for reading"):
        vault(writer=False).secret("unheard")
