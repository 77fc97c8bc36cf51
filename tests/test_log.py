"""The log's stamps, groups, index and chain, on stores in memory and on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.clock import ManualClock
from decalog.errors import CorruptLogError, LogUnavailableError
from decalog.events import Record, chain, decode_record, encode, genesis
from decalog.log import Draft, Log, checked, own_keys, verify_chain
from decalog.stores.base import Entry, Sync

BAD_DISK = LogUnavailableError(where="disk", given="a failed sync", expected="a disk", fix="Mend it.")


class MemoryStore:
    """A LogStore that keeps everything, fails when told, and notes what it was asked."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.groups: list[int] = []
        self.error: Exception | None = None
        self.sync_error: Exception | None = None
        self.may_sync = threading.Event()
        self.may_sync.set()

    def append(self, entries: Sequence[Entry]) -> Sync:
        if self.error is not None:
            raise self.error
        group = list(entries)

        def sync() -> None:
            assert self.may_sync.wait(60)
            if self.sync_error is not None:
                raise self.sync_error
            self.entries += group
            self.groups.append(len(group))

        return sync

    def read(self, start: int, stop: int | None = None) -> Iterator[Entry]:
        return iter(self.entries[max(start, 0) : stop])

    def find(self, index: str, key: str) -> list[int]:
        return [entry.seq for entry in self.entries if (index, key) in entry.keys]

    def head(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    def close(self) -> None:
        return


class NoVault:
    """A Vault of which only `flush` is called."""

    def __init__(self) -> None:
        self.flushed: list[int] = []
        self.error: Exception | None = None
        self.store: MemoryStore | None = None

    def token(self, kind: str, value: str) -> int:
        return 1

    def cipher(self, subject: int) -> None:
        return None

    def secret(self, name: str) -> bytes:
        return b""

    def flush(self) -> Sync:
        if self.error is not None:
            raise self.error
        return lambda: self.flushed.append(0 if self.store is None else len(self.store.entries))

    def close(self) -> None:
        return


def draft(id_: str = "a", **given: object) -> Draft:
    plain = {"kind": "event", "system": "s", "id": id_, "digest": b"", "event_time": None, "body": b"body"}
    return msgspec.convert({**plain, **given}, Draft)


def memory_log(clock: ManualClock | None = None) -> tuple[Log, MemoryStore, NoVault]:
    store, vault = MemoryStore(), NoVault()
    vault.store = store
    return Log(store, vault, clock or ManualClock(100)), store, vault


def test_a_record_is_stamped_with_its_place_and_time() -> None:
    log, _, _ = memory_log(ManualClock(100))
    first, second = log.stamp(draft("a")), log.stamp(draft("b", event_time=7, root=0))
    assert (first.partition, first.seq, first.known_time, first.event_time, first.root) == (0, 0, 100, 100, 0)
    assert (second.seq, second.known_time, second.event_time, second.root) == (1, 100, 7, 0)
    assert (log.position, log.durable) == (2, 0)
    assert log.commit() == log.durable == 2


@given(st.lists(st.integers(-(10**9), 10**9), max_size=30))
def test_known_time_never_goes_back_however_the_clock_jumps(jumps: list[int]) -> None:
    clock = ManualClock(0)
    log, store, _ = memory_log(clock)
    times = []
    for jump in jumps:
        clock.advance(jump)
        record = log.stamp(draft())
        assert record.known_time >= clock.now_us()
        times.append(record.known_time)
        log.commit()
        log = Log(store, NoVault(), clock)
    assert times == sorted(times)


def test_the_vault_is_flushed_before_each_group() -> None:
    log, store, vault = memory_log()
    for count in (2, 1):
        for _ in range(count):
            log.stamp(draft())
        log.commit()
    assert store.groups == [2, 1]
    assert vault.flushed == [0, 2]


def test_an_empty_commit_writes_nothing() -> None:
    log, store, vault = memory_log()
    assert log.write() is None
    assert log.commit() == 0
    assert (store.groups, vault.flushed) == ([], [])


def test_what_is_stamped_between_write_and_sync_is_in_the_next_group() -> None:
    log, store, _ = memory_log()
    log.stamp(draft("a"))
    sync = log.write()
    assert sync is not None
    log.stamp(draft("b"))
    assert (log.durable, store.groups) == (0, [])
    sync()
    assert (log.durable, store.groups) == (1, [1])
    assert log.find("request", "s/b") == [1]
    assert log.commit() == 2
    assert verify_chain(store.read(0)) == 2


def test_unwritten_and_written_records_are_found_alike() -> None:
    log, store, _ = memory_log()
    log.stamp(draft("a", keys=[("target", "t")]))
    assert log.find("request", "s/a") == [0]
    log.commit()
    log.stamp(draft("b", keys=[("target", "t")]))
    assert log.find("target", "t") == [0, 1]
    assert store.find("target", "t") == [0]
    assert [log.get(seq).id for seq in (0, 1)] == ["a", "b"]
    log.commit()
    log.stamp(draft("c"))
    assert log.find("target", "t") == [0, 1]
    assert list(log._unwritten) == [2]
    assert [record.id for record in log.read()] == ["a", "b"]
    assert [record.id for record in log.read(1, 2)] == ["b"]


@given(st.lists(st.sampled_from(["stamp a", "stamp b", "stamp c", "commit"]), max_size=40))
def test_the_index_holds_each_key_once_a_record(steps: list[str]) -> None:
    log, _, _ = memory_log()
    expected: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for step in steps:
        if step == "commit":
            log.commit()
        else:
            expected[step[-1]].append(log.stamp(draft(step[-1])).seq)
        assert {id_: log.find("request", f"s/{id_}") for id_ in expected} == expected


def test_a_seq_that_is_not_there_is_named() -> None:
    log, _, _ = memory_log()
    with pytest.raises(CorruptLogError, match=r"log: no record with seq 3\. Expected a seq below 0"):
        log.get(3)


def test_the_version_before_a_correction_is_found_in_its_chain() -> None:
    log, _, _ = memory_log()
    for id_, root in (("a", -1), ("other", -1), ("a2", 0), ("a3", 0)):
        log.stamp(draft(id_, root=root))
    assert [log.before(0, seq).id for seq in (2, 3, 4)] == ["a", "a2", "a3"]


def record(**given: object) -> Record:
    plain = (1, 0, 4, "event", "s", 1, 1, "a", b"", 4, "", b"")
    return msgspec.structs.replace(Record(*plain), **given)


def test_own_keys_follow_from_the_stamps() -> None:
    assert own_keys(record()) == (("request", "s/a"),)
    assert own_keys(record(kind="decision")) == (("request", "s/a"),)
    assert own_keys(record(kind="outcome")) == (("outcome", "s/a"),)
    assert own_keys(record(root=2)) == (("request", "s/a"), ("root", "2"))
    assert own_keys(record(kind="table")) == (("table", "s/a"),)
    assert own_keys(record(kind="rejected", reason="range")) == ()
    assert own_keys(record(reason="range")) == ()


@pytest.mark.parametrize("id_", ["\ud800", "ok"])
def test_a_record_that_cannot_be_encoded_takes_no_seq_and_no_group_with_it(id_: str) -> None:
    log, store, _ = memory_log()
    log.stamp(draft("good"))
    bad = Draft(kind="event", system="s", id=id_, digest=b"", event_time=2**70, body=b"")
    with pytest.raises((UnicodeEncodeError, OverflowError)):
        log.stamp(bad)
    with pytest.raises(UnicodeEncodeError):
        log.stamp(draft("x", keys=[("target", "\ud800")]))
    log.stamp(draft("next"))
    log.commit()
    assert [decode_record(entry.blob).id for entry in store.entries] == ["good", "next"]
    assert verify_chain(store.read(0)) == 2
    assert log.find("request", "s/x") == []


@pytest.mark.parametrize("where", ["store", "sync", "vault"])
def test_after_a_failed_commit_the_log_takes_nothing_and_retries_nothing(where: str) -> None:
    log, store, vault = memory_log()
    log.stamp(draft("a"))
    store.error, store.sync_error, vault.error = (BAD_DISK if where == w else None for w in ("store", "sync", "vault"))
    with pytest.raises(LogUnavailableError, match="a failed sync"):
        log.commit()
    store.error = store.sync_error = vault.error = None
    for again in (log.commit, lambda: log.stamp(draft("b"))):
        with pytest.raises(LogUnavailableError, match=r"disk: a failed sync\. Expected a disk\. Mend it\."):
            again()
    assert (store.entries, log.durable) == ([], 0)


def test_a_fault_of_our_own_in_a_commit_ends_the_log_as_well() -> None:
    log, store, _ = memory_log()
    log.stamp(draft("a"))
    store.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        log.commit()
    store.error = None
    with pytest.raises(LogUnavailableError, match="a fault that ended the writer"):
        log.commit()


def entries_of(count: int) -> list[Entry]:
    log, store, _ = memory_log()
    for number in range(count):
        log.stamp(draft(str(number)))
        log.clock.advance(1)  # type: ignore[attr-defined]  # it is a ManualClock
        log.commit()
    return store.entries


def rechained(blobs: Sequence[bytes], previous: bytes = b"") -> list[Entry]:
    made, before = [], previous or genesis(0)
    for seq, blob in enumerate(blobs):
        before = chain(before, blob)
        made.append(Entry(seq, blob, before))
    return made


def test_a_whole_chain_verifies() -> None:
    entries = entries_of(4)
    assert verify_chain(entries) == 4
    assert verify_chain([]) == 0
    assert [record.seq for _, record in checked(entries[2:], start=2, before=entries[1].hash)] == [2, 3]


@given(st.data())
def test_any_flipped_bit_is_found_and_named(data: st.DataObject) -> None:
    entries = entries_of(5)
    seq = data.draw(st.integers(0, 4))
    in_blob = data.draw(st.booleans())
    content = bytearray(entries[seq].blob if in_blob else entries[seq].hash)
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    changed = bytes(content)
    entries[seq] = entries[seq]._replace(blob=changed) if in_blob else entries[seq]._replace(hash=changed)
    with pytest.raises(CorruptLogError, match=rf"log record {seq}: a record whose seq or hash does not follow"):
        verify_chain(entries)


@given(st.permutations(range(5)))
def test_any_other_order_is_found(order: list[int]) -> None:
    entries = [entries_of(5)[place] for place in order]
    if order == sorted(order):
        assert verify_chain(entries) == 5
        return
    first = next(place for place, seq in enumerate(order) if place != seq)
    with pytest.raises(CorruptLogError, match=rf"log record {first}: "):
        verify_chain(entries)


@given(st.integers(0, 3))
def test_a_missing_or_doubled_record_is_found(seq: int) -> None:
    entries = entries_of(5)
    for broken in (entries[:seq] + entries[seq + 1 :], [*entries[: seq + 1], *entries[seq:]]):
        with pytest.raises(CorruptLogError, match="Restore from the last backup that verifies"):
            verify_chain(broken)


@pytest.mark.parametrize("changed", [{"seq": 7}, {"partition": 1}, {"known_time": 1}])
def test_stamps_that_do_not_follow_are_found_even_where_the_hashes_fit(changed: dict[str, int]) -> None:
    blobs = [entry.blob for entry in entries_of(3)]
    blobs[2] = encode(msgspec.structs.replace(decode_record(blobs[2]), **changed))
    with pytest.raises(CorruptLogError, match="log record 2: stamps that do not follow from the record before"):
        verify_chain(rechained(blobs))


def test_a_blob_that_is_no_record_is_found_even_where_the_hashes_fit() -> None:
    with pytest.raises(CorruptLogError, match="bytes that do not decode"):
        verify_chain(rechained([b"nonsense"]))


@pytest.mark.parametrize("count", [1, 3])
def test_a_broken_end_is_found_at_start(count: int) -> None:
    store = MemoryStore()
    store.entries = entries_of(count)
    last = store.entries[-1]
    for wrong in (last._replace(hash=bytes(32)), last._replace(blob=last.blob[:-1] + b"\0")):
        store.entries[-1] = wrong
        with pytest.raises(CorruptLogError, match=rf"log record {count - 1}: a last record that does not follow"):
            Log(store, NoVault(), ManualClock())


def test_a_log_of_another_partition_is_not_extended() -> None:
    store = MemoryStore()
    store.entries = entries_of(1)
    with pytest.raises(CorruptLogError, match="a last record that does not follow from the one before"):
        Log(store, NoVault(), ManualClock(), partition=1)
