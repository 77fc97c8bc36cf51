"""The forecast of memory: what the views take now and later, what the machine gives, and when a start is refused."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from decalog.clock import DAY
from decalog.errors import ConfigError
from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import Change, Fact
from decalog.features.online import OnlineState
from decalog.memory import Forecast, Room, check_memory, check_size, forecast, machine_memory, memory_of, size_text

MIB, GIB = 2**20, 2**30
START = 20_000 * DAY
FEATURES = FeatureSet(
    system="shop",
    features=(
        Aggregate(
            name="card_payments_29d",
            meaning="payments of the card in 29 days",
            unit="payments",
            entity="card",
            aggregate="count",
            over=("payment",),
            window="29d",
        ),
    ),
    lateness="1d",
)


def paid(days: float, a_day: int, *, cards: int = 10, retain: int = 100_000) -> OnlineState:
    """Returns a state after so many days of so many payments a day."""
    state = OnlineState(msgspec.structs.replace(FEATURES, retain=retain))
    for seq in range(int(days * a_day)):
        time = START + seq * DAY // a_day
        state.apply(Change(seq, time, None, Fact(seq, time, "payment", {"card": seq % cards}, {})))
    return state


def grown(rows: float, tokens: float) -> int:
    """Returns the most bytes of rows of three columns, by what the module's page says."""
    return round(24 * (rows * 1.5 + tokens * 3) + tokens * 96)


def test_a_young_log_grows_at_its_pace_until_its_windows_are_full() -> None:
    found = forecast(paid(3, 100))
    assert (found.system, found.rows, found.tokens) == ("shop", 300, 10)
    assert found.events_a_day == pytest.approx(100, rel=0.01)
    assert found.then == pytest.approx(grown(100 * 30, 100), rel=0.01)
    assert found.beside == pytest.approx(24 * (3_000 + 100), rel=0.01)
    assert found.now == paid(3, 100).stats().bytes


def test_no_entity_grows_beyond_what_it_may_retain() -> None:
    """Of 100 payments a day one card has half: it stays at its 500, the others go on at their pace."""
    hot = paid(14, 100, retain=500)
    for seq in range(1_400, 2_100):
        time = START + 7 * DAY + (seq - 1_400) * 7 * DAY // 700
        hot.apply(Change(seq, START + 14 * DAY, None, Fact(seq, time, "payment", {"card": 77}, {})))
    found = forecast(hot)
    assert max(view.bytes for view in hot.views()) < 32 * 1.5 * (1_400 + 500 + 11 * 3)  # with a running count a row
    assert found.then == pytest.approx(grown(100 * 30 + 500, 11 * 3_500 / found.rows), rel=0.01)


def test_full_windows_stay_as_they_are() -> None:
    found = forecast(paid(90, 20))
    assert 600 <= found.rows <= 900  # what is too old stays until its run is full
    assert found.events_a_day == pytest.approx(20, rel=0.01)
    assert found.now <= found.then == pytest.approx(grown(600, 10), rel=0.05)
    assert found.then == pytest.approx(forecast(paid(200, 20)).then, rel=0.05)


def test_a_pace_that_fell_asks_for_no_less_than_there_is() -> None:
    state = paid(10, 100)
    time = START + 29 * DAY
    state.apply(Change(1_000, time, None, Fact(1_000, time, "payment", {"card": 1}, {})))
    found = forecast(state)
    assert found.events_a_day == pytest.approx(1 / 7)
    assert found.then == found.now


def test_a_log_of_minutes_is_taken_for_a_day() -> None:
    assert forecast(paid(0.01, 10_000)).events_a_day == 100.0


def test_the_pace_is_that_of_the_last_week() -> None:
    state = paid(10, 10)
    for seq in range(100, 1_500):
        time = START + 10 * DAY + (seq - 100) * DAY // 200
        state.apply(Change(seq, time, None, Fact(seq, time, "payment", {"card": seq % 10}, {})))
    assert forecast(state).events_a_day == pytest.approx(200, rel=0.01)


def test_nothing_takes_nothing() -> None:
    assert forecast(OnlineState(FEATURES)) == Forecast(
        system="shop", rows=0, tokens=0, now=0, then=0, beside=0, events_a_day=0.0
    )
    check_memory([], 0)


def a_forecast(system: str = "fraud", *, then: int = 40 * MIB, beside: int = 4 * MIB) -> Forecast:
    return Forecast(
        system=system, rows=58_000, tokens=12_000, now=5 * MIB - 7, then=then, beside=beside, events_a_day=1_200.4
    )


def test_a_forecast_is_one_line() -> None:
    said = "58,000 rows of 12,000 entities, 5 MiB now, at most 40 MiB at 1,200 events a day"
    assert str(a_forecast()) == said


def test_views_that_will_not_fit_are_refused() -> None:
    both = [a_forecast(), a_forecast("ads", then=70 * MIB, beside=9 * MIB)]
    check_memory(both, 123 * MIB)
    with pytest.raises(ConfigError) as caught:
        check_memory(both, 123 * MIB - 1)
    assert str(caught.value) == (
        "memory for the views of fraud and ads: 110 MiB once the windows have filled (ads: 1,200 events a day), and "
        "13 MiB for the processes that write snapshots. Expected at most 123 MiB together, what this machine or its "
        "control group gives. Take a machine with more, declare a shorter longest window or lateness, or say with "
        "--memory-gib how much the views may count on."
    )


def test_a_snapshot_that_is_larger_than_the_memory_is_not_even_read() -> None:
    check_size("fraud", 10, memory=10)
    with pytest.raises(ConfigError) as caught:
        check_size("fraud", 11 * GIB, memory=10 * GIB)
    assert str(caught.value).startswith(
        "memory for the views of fraud: 11.0 GiB in their snapshot alone. Expected at most 10.0 GiB, what this machine "
        "or its control group gives. Take a machine with more"
    )


def test_a_snapshot_that_does_not_fit_beside_the_views_in_force_is_not_read() -> None:
    check_size("fraud", 4, memory=10, beside=6)
    with pytest.raises(ConfigError) as caught:
        check_size("fraud", 5 * GIB, memory=12 * GIB, beside=8 * GIB)
    assert str(caught.value).startswith(
        "memory for the views of fraud: 5,120 MiB in their snapshot alone, beside 8,192 MiB of the views in force. "
        "Expected at most 12.0 GiB, what this machine or its control group gives. Restart the server: it begins with "
        "the new views alone. Or: Take a machine with more"
    )


def test_room_is_given_in_the_place_of_what_a_system_had_or_not_at_all() -> None:
    room = Room(100)
    one = Forecast(system="one", rows=1, tokens=1, now=1, then=40, beside=10, events_a_day=1.0)
    two = msgspec.structs.replace(one, system="two", then=30)
    room.take(one)
    room.take(two)
    assert room.taken == 70
    with pytest.raises(ConfigError, match="memory for the views of one and two"):
        room.take(msgspec.structs.replace(two, then=60))
    assert room.taken == 70
    room.take(msgspec.structs.replace(two, then=20))
    assert room.taken == 60


# What the machine gives


def machine(root: Path, groups: str | None = None, **limits: str) -> Path:
    """Returns a file system in which control groups say these limits: `__` is a slash, `v1` the old tree."""
    if groups is not None:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        old, _, place = name.partition("__")
        tree, file = ("memory", "memory.limit_in_bytes") if old == "v1" else (".", "memory.max")
        folder = root / "sys/fs/cgroup" / tree / place.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return root


PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        (None, {}, PHYSICAL),
        ("0::/\n", {"v2__": "max\n"}, PHYSICAL),
        ("0::/\n", {"v2__": "7000000\n"}, 7_000_000),
        ("0::/shop/serve\n", {"v2__": "max", "v2__shop__serve": "9000000"}, 9_000_000),
        ("0::/shop/serve\n", {"v2__shop": "8000000", "v2__shop__serve": "max"}, 8_000_000),
        ("0::/seen/from/outside\n", {"v2__": "6000000"}, 6_000_000),
        ("3:cpu,cpuacct:/a\n2:memory:/box\n", {"v1__box": "5000000", "v1__": "9223372036854771712"}, 5_000_000),
        ("nonsense\n", {"v2__": "of another kind"}, PHYSICAL),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str | None, limits: dict[str, str], expected: int) -> None:
    assert machine_memory(machine(tmp_path, groups, **limits)) == expected


def test_a_system_that_does_not_say_its_memory_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_name: str) -> int:
        raise ValueError

    monkeypatch.setattr(os, "sysconf", silent)
    assert machine_memory(tmp_path) == 2**63 - 1


def test_a_user_may_say_what_the_views_count_on() -> None:
    assert memory_of(0.5) == 512 * MIB
    assert memory_of(None) == machine_memory()


@pytest.mark.parametrize("gib", [0.0, -1.0, float("nan"), float("inf")])
def test_an_amount_that_is_none_is_refused(gib: float) -> None:
    with pytest.raises(ConfigError) as caught:
        memory_of(gib)
    assert str(caught.value) == (
        f"--memory-gib: {gib}. Expected a number of GiB above 0. Leave it out to count on what the machine has."
    )


def test_sizes_are_rounded_up() -> None:
    sizes = {0: "0 MiB", 1: "1 MiB", MIB: "1 MiB", MIB + 1: "2 MiB", 10 * GIB: "10.0 GiB"}
    assert {size: size_text(size) for size in sizes} == sizes
