"""Sources under one deadline: who answers counts, who raises or hangs is late, and nobody holds up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from decalog.searching import AT_ONCE, Search, Sources

LONG_MS = 600_000.0
"""A deadline that no busy machine misses."""
Answer = Callable[[str], str]


@pytest.fixture
def sources() -> Iterator[Sources]:
    made = Sources(("near", "new", "old"), "test-sources")
    yield made
    made.pool.shutdown(wait=True)


def gather(found: Mapping[str, str], took_us: dict[str, int]) -> tuple[list[str], set[str]]:
    return list(found.values()), set(took_us)


def asked(sources: Sources, answer: Answer, deadline_ms: float) -> Search[str, tuple[list[str], set[str]]]:
    return Search(sources, answer, gather, deadline_ms=deadline_ms)


def ends(search: Search[str, tuple[list[str], set[str]]]) -> tuple[list[str], set[str]]:
    while (wait := search.waits()) is not None:
        assert wait.most_s > 0
        wait.here()
    return search.gathered()


def test_what_all_found_comes_in_their_order(sources: Sources) -> None:
    assert ends(asked(sources, str.upper, LONG_MS)) == (["NEAR", "NEW", "OLD"], {"near", "new", "old"})


def test_one_that_raises_is_late_and_may_be_asked_again(sources: Sources) -> None:
    def raises(name: str) -> str:
        if name == "new":
            raise RuntimeError
        return name

    for _ in range(2 * AT_ONCE):
        assert ends(asked(sources, raises, LONG_MS)) == (["near", "old"], {"near", "new", "old"})
    assert ends(asked(sources, str, LONG_MS))[0] == ["near", "new", "old"]


class Hanging:
    """The first source hangs until it is let go."""

    def __init__(self) -> None:
        self.begun, self.gone = threading.Semaphore(0), threading.Event()

    def __call__(self, name: str) -> str:
        if name == "near":
            self.begun.release()
            assert self.gone.wait(60)
        return name


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.gone.set()


def test_another_thread_goes_on_where_one_hangs(sources: Sources, hanging: Hanging) -> None:
    assert ends(asked(sources, hanging, 400.0)) == (["new", "old"], {"new", "old"})


def test_a_source_is_busy_with_so_many_and_late_at_once_for_the_next(sources: Sources, hanging: Hanging) -> None:
    for _ in range(AT_ONCE):
        ends(asked(sources, hanging, 20.0))
    for _ in range(AT_ONCE):
        assert hanging.begun.acquire(timeout=60)
    assert ends(asked(sources, hanging, LONG_MS)) == (["new", "old"], {"near", "new", "old"})
    assert not hanging.begun.acquire(blocking=False)


def test_what_comes_after_the_deadline_changes_nothing(sources: Sources, hanging: Hanging) -> None:
    search = asked(sources, hanging, 20.0)
    found, took = ends(search)
    hanging.gone.set()
    sources.pool.shutdown(wait=True)
    assert "near" not in found
    assert "near" not in took


def test_a_deadline_that_is_over_waits_for_nobody(sources: Sources, hanging: Hanging) -> None:
    search = asked(sources, hanging, 0.0)
    assert search.waits() is None
    assert "near" not in search.gathered()[0]
