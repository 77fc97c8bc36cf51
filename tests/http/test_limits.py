from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.http.limits import DEPTH, RateLimit, caller_of, check_rows, is_deep, is_json
from decalog.http.problems import Refusal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a\n', max_size=50),
    lambda inner: (
        st.lists(inner, max_size=40) | st.dictionaries(st.text(alphabet='[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=60,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(value=VALUES, extra=st.integers(0, 2 * DEPTH))
def test_depth_is_judged_as_a_parser_would(value: Any, extra: int) -> None:
    for _ in range(extra):
        value = [value]
    assert is_deep(json.dumps(value).encode()) is (depth_of(value) > DEPTH)


@given(raw=st.binary(max_size=300) | st.text(alphabet='[]{}"\\,', max_size=300).map(str.encode))
def test_what_is_no_json_is_judged_without_failing(raw: bytes) -> None:
    is_deep(raw)
    is_json(raw)
    check_rows(raw, most=1_000)


@pytest.mark.parametrize("end", [b"", b"\\", b'"'])
def test_a_string_that_never_closes_is_read_once_and_not_once_a_quote(end: bytes) -> None:
    """Read anew from each quote, this body would hold the event loop for hours."""
    assert is_deep(b"[" * DEPTH + b"{" + b'"' + b'\\"' * 250_000 + b"[" + end)
    assert not is_deep(b"[]" * DEPTH + b'"' + b'\\"' * 250_000 + b"[" * DEPTH + end)


@pytest.mark.parametrize(
    ("raw", "most", "status"),
    [
        (b"[1, 2, 3]", 3, 0),
        (b"[1, 2, 3, 4]", 3, 413),
        (b"1\n2\n3", 3, 0),
        (b"1\n2\n3\n4", 3, 413),
        (b"[" + b"[" * DEPTH + b"]" * DEPTH + b"]", 9, 0),
        (b"[" + b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1) + b"]", 9, 400),
        (b'{"a":\n' * 40 + b"1" + b"}" * 40, 99, 400),
        (b'{"id": "a"}\n' * 40, 99, 0),
        (b"[" * 100_000, 9, 400),
        (b"[{", 9, 0),
        (b"", 9, 0),
    ],
)
def test_batches_are_bounded_in_rows_and_depth(raw: bytes, most: int, status: int) -> None:
    if status:
        with pytest.raises(Refusal, match=r"too many rows|nests too deeply") as caught:
            check_rows(raw, most)
        assert caught.value.status == status
    else:
        check_rows(raw, most)


@given(
    steps=st.lists(st.floats(0, 3), max_size=60),
    per_s=st.floats(0.1, 100),
    burst=st.integers(1, 10),
)
def test_no_window_lets_more_through_than_burst_and_rate(steps: list[float], per_s: float, burst: int) -> None:
    now, passed = 0.0, list[float]()
    limit = RateLimit(per_s, burst, monotonic=lambda: now)
    for step in steps:
        now += step
        wait_s = limit.wait_s("a")
        assert wait_s >= 0
        if not wait_s:
            passed.append(now)
    for first, start in enumerate(passed):
        for last, stop in enumerate(passed[first:], first):
            assert last - first + 1 <= burst + math.ceil((stop - start) * per_s + 1e-6)


def test_waiting_as_long_as_told_is_enough() -> None:
    now = [5.0]
    limit = RateLimit(2, 1, monotonic=lambda: now[0])
    assert limit.wait_s("a") == 0
    now[0] += limit.wait_s("a")
    assert limit.wait_s("a") == 0


def test_a_rate_of_zero_sets_no_limit() -> None:
    limit = RateLimit(0, 1, monotonic=lambda: 0.0)
    assert not any(limit.wait_s("a") for _ in range(1_000))


def test_many_callers_do_not_fill_the_memory() -> None:
    now = [0.0]
    limit = RateLimit(1, 1, monotonic=lambda: now[0])
    for number in range(25_000):
        assert limit.wait_s(str(number)) == 0
    assert len(limit._due) <= 10_000
    assert limit.wait_s("24999") > 0
    assert limit.wait_s("20000") > 0
    now[0] = 10
    assert limit.wait_s("new") == 0
    assert len(limit._due) == 1


@pytest.mark.parametrize(
    ("address", "caller"),
    [("10.0.0.7", "10.0.0.7"), ("2001:db8::1:2", "2001:db8::"), ("fe80::1%eth0", "fe80::"), ("a:b", "a:b"), ("", "")],
)
def test_an_ipv6_site_is_one_caller(address: str, caller: str) -> None:
    assert caller_of(address) == caller
