"""A snapshot gives back the state that it was taken of, bit for bit, or says why it does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import Writer, features, retains, steps

from decalog.errors import CorruptLogError, DataError, LogUnavailableError
from decalog.features import kernel, packed, snapshot
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.offline import fold
from decalog.features.online import OnlineState
from decalog.features.snapshot import check_snapshot, read_manifest, read_snapshot, write_snapshot
from decalog.runtime import this_code

FEATURES = features()
HASH = bytes(range(32))


def hash_at(_position: int) -> bytes:
    return HASH


def folded(changes: Sequence[Change], *, at_once: bool = False, declared: FeatureSet = FEATURES) -> OnlineState:
    state = OnlineState(declared)
    if at_once:
        state.apply_many(changes)
    else:
        for change in changes:
            state.apply(change)
    return state


def saved(state: OnlineState, path: Path) -> bytes:
    write_snapshot(path, state, position=state.position, log_hash=HASH)
    return path.read_bytes()


def restored(path: Path, declared: FeatureSet = FEATURES) -> OnlineState:
    return read_snapshot(path, declared, hash_at=hash_at)[1]


def assert_alike(one: OnlineState, other: OnlineState, changes: Sequence[Change]) -> None:
    """Asserts that two states and the offline fold give the same bits at every time from the oldest admissible one."""
    for state in (one, other):  # a snapshot holds rows alone
        state.use_tables(change.table for change in changes if change.table is not None)
    assert (one.position, one.watermark) == (other.position, other.watermark)
    assert one.stats().unusable == other.stats().unusable
    last = one.watermark or 0
    points = [
        Point(one.position, time, entities={"card": card, "device": device})
        for time in range(last - 6, last + 4)
        for card, device in ((1, 1), (2, 2), (1, 3))
    ]
    expected = fold(one.features, changes, points=points)
    for point, want in zip(points, expected, strict=True):
        assert one.vector(point).tobytes() == other.vector(point).tobytes() == want.tobytes()
    early = Point(one.position, last - 7, entities={"card": 1})
    assert one.refused(early) is other.refused(early) is (one.watermark is not None)


def cut_at(changes: Sequence[Change], share: float) -> int:
    """Returns where a log is cut: never between two changes of one record."""
    cut = int(len(changes) * share)
    while 0 < cut < len(changes) and changes[cut].seq == changes[cut - 1].seq:
        cut += 1
    return cut


@given(drawn=steps, shares=st.lists(st.floats(0, 1), min_size=1, max_size=3), at_once=st.booleans(), retain=retains)
def test_a_restored_state_goes_on_as_the_one_that_never_stopped(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[object, ...]],
    shares: list[float],
    at_once: bool,
    retain: int,
) -> None:
    """Cut anywhere, again and again; both go on with the rest, step by step, and end in the same snapshot."""
    declared, changes = features(retain=retain), Writer().write(drawn).changes
    path = tmp_path_factory.mktemp("state") / "cut.snapshot"
    unbroken, cut, done = OnlineState(declared), OnlineState(declared), 0
    for share in (*sorted(shares), 1.0):
        upto = cut_at(changes, share)
        for change in changes[done:upto]:
            unbroken.apply(change)
        if at_once:
            cut.apply_many(changes[done:upto])
        else:
            for change in changes[done:upto]:
                cut.apply(change)
        done = upto
        content = saved(cut, path)
        cut = restored(path, declared)
        assert content == saved(unbroken, path) == saved(cut, path)
        assert content == saved(folded(changes[:upto], at_once=not at_once, declared=declared), path)
        assert_alike(cut, unbroken, changes[:upto])


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def payment(seq: int, time: int, card: int = 1) -> Change:
    return Change(seq, time, None, Fact(seq, time, "payment", {"card": card, "device": 1}, {"cents": 5}))


def card_count(state: OnlineState, card: int = 1) -> float:
    point = Point(state.position, state.watermark or 0, entities={"card": card})
    return float(state.vector(point)[FEATURES.names.index("card_count__30us_1_payment")])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "test" / "a.snapshot"


def test_a_row_withdrawn_before_its_token_left_the_block_stays_withdrawn(path: Path) -> None:
    """The token's array moves when a row comes; the block still holds what it was, and may never answer again."""
    changes = [payment(0, 100), payment(1, 101), payment(2, 101, card=2)]
    saved(folded(changes), path)
    state = restored(path)
    for change in (
        Change(3, 102, changes[1].plus, None),
        payment(4, 103),
        Change(5, 104, payment(4, 103).plus, None),
        Change(6, 104, changes[0].plus, None),
    ):
        state.apply(change)
        changes.append(change)
    assert card_count(state) == 0.0
    # A dead token is dropped when others come; its block must not bring it back.
    for seq in range(7, 12):
        changes.append(payment(seq, 104, card=seq))
        state.apply(changes[-1])
    assert (card_count(state), card_count(state, card=2)) == (0.0, 1.0)
    assert_alike(state, folded(changes), changes)
    assert saved(state, path) == saved(folded(changes), path)
    with pytest.raises(DataError, match="the withdrawal of root 1, which is not live"):
        state.apply(Change(12, 104, payment(1, 101).plus, None))


def test_views_say_what_a_state_takes_before_and_after_a_snapshot(path: Path) -> None:
    changes = [payment(seq, 100 + seq, card=seq % 3 + 1) for seq in range(9)]
    state = folded(changes)
    saved(state, path)
    again = restored(path)
    for more in range(9, 12):
        for one in (state, again):
            one.apply(payment(more, 100 + more))
        before, after = (
            [(v.entity, v.tokens, v.rows, sorted(v.recent), v.width, v.oldest) for v in one.views(recent_us=4)]
            for one in (state, again)
        )
        assert before == after
    card = {view.entity: view for view in again.views(recent_us=4)}["card"]
    assert (card.tokens, card.rows, card.recent.tolist(), card.oldest) == (3, 12, [3, 0, 1], 100)
    empty = {view.entity: view for view in OnlineState(FEATURES).views(recent_us=4)}["card"]
    assert (empty.tokens, empty.rows, len(empty.recent), empty.bytes, empty.oldest) == (0, 0, 0, 0, None)


def test_a_manifest_says_what_a_snapshot_is_of(path: Path) -> None:
    changes = [payment(seq, 100 + seq, card=seq % 3 + 1) for seq in range(9)]
    made = write_snapshot(path, folded(changes), position=77, log_hash=HASH)
    assert read_manifest(path) == check_snapshot(path, hash_at=hash_at) == made
    assert (made.system, made.features, made.position, made.seq) == ("generated", FEATURES.version, 77, 8)
    assert [part.entity for part in made.parts] == ["all", "card", "card+device", "device", "device+card"]
    assert (made.rows, made.tokens) == (45, 11)
    assert 0 < made.size < path.stat().st_size < made.size + 2_000
    assert path.stat().st_mode & 0o077 == 0
    assert names(path.parent) == ["a.snapshot"]


# What is refused


@pytest.fixture
def made(path: Path) -> Path:
    saved(folded([payment(seq, 100 + seq, card=seq % 3 + 1) for seq in range(9)]), path)
    return path


FIX = "Take a new one with `decalog snapshot`; until then a start folds the whole log."
CUT = "a file that was cut short or changed after it was written. Expected the bytes that were written"


def refusal(path: Path, log: snapshot.HashAt = hash_at) -> str:
    with pytest.raises(CorruptLogError) as caught:
        read_snapshot(path, FEATURES, hash_at=log)
    return str(caught.value)


def test_no_changed_bit_and_no_cut_goes_unseen(made: Path) -> None:
    whole = made.read_bytes()
    words = {CUT, "a file that is no snapshot. Expected one that `decalog snapshot` wrote"}
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        made.write_bytes(changed)
        said = refusal(made)
        assert said.endswith(FIX)
        if place >= 24:
            assert said == f"snapshot a.snapshot: {CUT}. {FIX}"
            with pytest.raises(CorruptLogError):
                check_snapshot(made, hash_at=hash_at)
    for size in (*range(0, len(whole), 101), len(whole) - 1):
        made.write_bytes(whole[:size])
        assert refusal(made) in {f"snapshot a.snapshot: {word}. {FIX}" for word in words}
    for longer in (whole + b"\0", whole[:24] + bytes(8) + whole[24:]):
        made.write_bytes(longer)
        assert CUT in refusal(made)
    text = b"\xc0"  # sealed, and no manifest
    made.write_bytes(whole[:24] + text + (1).to_bytes(8, "little") + snapshot._seal(whole[:24], text))
    assert CUT in refusal(made)
    made.write_bytes(whole)
    assert restored(made).position == 9


def test_a_newer_format_says_so(made: Path) -> None:
    whole = made.read_bytes()
    made.write_bytes(whole[:16] + (2).to_bytes(8, "little") + whole[24:])
    assert refusal(made) == (
        f"snapshot a.snapshot: a file of format 2. Expected format 1, the newest that this decalog knows. {FIX}"
    )


def test_a_snapshot_of_another_log_or_of_a_longer_one_is_refused(made: Path) -> None:
    assert refusal(made, lambda position: bytes(32)) == (
        f"snapshot a.snapshot: a state of another log: the hashes at record 9 differ. Expected this log's. {FIX}"
    )
    assert refusal(made, lambda position: None) == (
        f"snapshot a.snapshot: a state at record 9, where the log is shorter. Expected a log that went on. {FIX}"
    )


def test_a_snapshot_of_other_declarations_or_other_code_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = features(lateness="7us")
    with pytest.raises(CorruptLogError) as caught:
        read_snapshot(made, other, hash_at=hash_at)
    assert str(caught.value) == (
        f"snapshot a.snapshot: a state of generated, feature set {FEATURES.version}. "
        f"Expected generated, feature set {other.version}. {FIX}"
    )
    newer = msgspec.structs.replace(this_code(), sources="f" * 64)
    monkeypatch.setattr(snapshot, "this_code", lambda: newer)
    assert refusal(made) == (
        f"snapshot a.snapshot: a state that other code folded. Expected one of the code ffffffffffff. {FIX}"
    )
    assert check_snapshot(made, hash_at=hash_at).position == 9


def test_a_file_that_cannot_be_read_says_so(path: Path) -> None:
    path.mkdir(parents=True)
    assert (
        refusal(path)
        == f"snapshot a.snapshot: a file that cannot be read (Is a directory). Expected one that can. {FIX}"
    )


# Writing


def test_one_process_writes_at_a_time(made: Path) -> None:
    before = made.read_bytes()
    with snapshot._alone(made), pytest.raises(LogUnavailableError) as caught:
        saved(OnlineState(FEATURES), made)
    assert str(caught.value) == (
        "snapshot a.snapshot: another process that is writing one. Expected one at a time. "
        "Wait for it; what it writes serves as well."
    )
    assert made.read_bytes() == before


def test_a_disk_that_is_full_leaves_what_was_there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made.read_bytes()

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LogUnavailableError) as caught:
        saved(OnlineState(FEATURES), made)
    assert str(caught.value) == (
        "snapshot a.snapshot: the system says: [Errno 28] No space left on device. Expected a folder that can be "
        "written, on a disk with room. Make room or mend the folder's rights; without a snapshot a start folds the "
        "whole log."
    )
    assert (made.read_bytes(), names(made.parent)) == (before, ["a.snapshot"])


def test_what_an_interrupted_writer_left_is_written_over(made: Path) -> None:
    whole = made.read_bytes()
    shutil.copy(made, made.with_suffix(".draft"))
    made.unlink()
    state = folded([payment(seq, 100 + seq, card=seq % 3 + 1) for seq in range(9)])
    assert saved(state, made) == whole
    assert names(made.parent) == ["a.snapshot"]


# The block


def test_blocks_are_ordered_by_token_and_pruned_by_time() -> None:
    def rows(*times: int) -> kernel.Int64s:
        return kernel.with_room(np.array([[time, time, 1] for time in times], np.int64).reshape(-1, 3))

    both = packed.pack({5: rows(1, 9), 1: rows(4), 2: rows(7), 4: rows()}, width=3)
    assert (both.tokens.tolist(), both.counts.tolist()) == ([1, 2, 4, 5], [1, 1, 0, 2])
    assert both.block[:, 0].tolist() == [1, 4, 1, 7, 0, 2, 1, 9]
    left = both.after(4)
    head = [1, kernel.BEFORE_ALL, 0]
    assert (left.tokens.tolist(), left.block.tolist()) == ([2, 5], [head, [7, 7, 1], head, [9, 9, 1]])
    assert left.after(4) is left
    nothing = packed.pack({}, width=3)
    assert len(left.after(9).tokens) == len(nothing.after(0).tokens) == 0
