"""The contract of candidate generation: what could be chosen for a request, and what was ruled out and why.

A retrieval is a view of the log like any other: it follows every admitted record, so a new thing can be chosen by the
next request and a withdrawn one by none. What it retrieves depends on time limits and approximate indexes; it is an
input of the decision, logged with it, and replay reads it from there.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from decalog.candidates import Candidate, Candidates
from decalog.decisions import Decision
from decalog.events import Event, Record
from decalog.models.base import Model
from decalog.outcomes import Outcome
from decalog.searching import Search, Wait

UNPROFILED = "unprofiled"
"""Attribute, never logged, of a request whose reader opted out or restricted: no retriever may go by what it knows of
them, but for what they ruled out themselves."""


class Retrieved(msgspec.Struct, frozen=True):
    """What a retrieval found.

    Args:
        candidates: those that compete first, in the order of retrieval; then those that a filter took out, which say by
            `dropped` which one. Hundreds cost less as columns.
        late: names of the retrievers that did not answer in time.
        stages_us: retriever or filter → microseconds it took.
    """

    candidates: tuple[Candidate, ...] | Candidates
    late: tuple[str, ...] = ()
    stages_us: Mapping[str, int] = {}


class Retrieval(Protocol):
    """Finds what could be chosen. `System.retrieval` names its class, which is made without arguments."""

    def follow(self, record: Record, body: Event | Decision | Outcome) -> None:
        """Takes an admitted record of the system, in the order of the log; tables and quarantined rows never come."""

    def adopt(self, model: Model | None, *, aside: bool = False) -> None:
        """Retrieves with what a model learnt from the next request on; with None, without.

        With `aside` only where that very model is asked for, as long as somebody holds it. It may run in another thread
        than all else.
        """

    def retrieve(self, request: Event, model: Model | None = None) -> Retrieved:
        """Returns the candidates of a request, as things stand after the last record that was followed.

        Those that a model finds, where it was adopted; else those of the last that was adopted and not aside.
        """

    def describe(self, request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
        """Returns things by their names as `retrieve` would describe them; a bare candidate where one is unknown."""


@runtime_checkable
class Searching(Protocol):
    """A retrieval that searches in threads of its own: the caller may do other things meanwhile, and admit records."""

    def search(self, request: Event, model: Model | None = None) -> Search[Any, Retrieved]:
        """Begins what `retrieve` does."""


@runtime_checkable
class Hurried(Protocol):
    """A retrieval that waits for its retrievers only so long, ms; a trial lets it wait for all, busy machine or not."""

    deadline_ms: float


def searched(retrieval: Retrieval, request: Event, *, model: Model | None) -> Generator[Wait, None, Retrieved]:
    """Returns what a retrieval finds; yields what there is to wait for meanwhile, where it searches aside."""
    if not isinstance(retrieval, Searching):
        return retrieval.retrieve(request, model)
    search = retrieval.search(request, model)
    while (wait := search.waits()) is not None:
        yield wait
    return search.gathered()
