"""Follows a champion to its feature set: views are built in a process beside the server, then all is swapped.

    a champion of another set ──▶ a process folds the log ──▶ a thread reads the views ──▶ the tail, in steps ──▶ swap
    the champion before it decides ──────────────────────────────────────────────────────────────────────────▶│

The process does what takes the longest. The thread reads bytes and hashes them, for which Python lets others run. The
event loop folds what was logged since, in steps of about 2 ms: only it knows which record is the last. Its last
step and the swap are one turn of the loop, so they stand between two requests. docs/decisions/0025 has the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from decalog.deployment import Deployment, run_aside
from decalog.errors import ConfigError, DecalogError, ModelError, StateError
from decalog.features.definition import FeatureSet
from decalog.features.online import OnlineState, dissolve
from decalog.features.remote import RemoteState
from decalog.home import Home
from decalog.memory import Room, check_size, forecast
from decalog.serving import Service, Serving
from decalog.views import Views, begin, catch_up, follow, open_remote, snapshot_path, write_down

_PAUSE_S = 600.0
"""After a failure, the next try for the same champion."""
_REST_S = 0.002
"""What the loop has for replies between two steps of the tail."""
_LITTLE = 10_000
"""Records that the server folds in a second; where more came while the process folded, it folds those too."""
_NICE = 10


class Follower:
    """Keeps a service on the champion of now, whatever feature set that was trained on.

    Args:
        deployment: that the service was made by.
        service: follows.
        room: memory of the server.
        say: told what is begun and done.
        monotonic: seconds.
    """

    def __init__(
        self,
        deployment: Deployment,
        service: Service,
        *,
        room: Room,
        say: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment, self._service = deployment, service
        self._name = deployment.system.name
        self._room, self._say, self._monotonic = room, say, monotonic
        self._champion = ""
        self._next: Deployment | None = None
        self._process: asyncio.Task[tuple[bytes, bytes, int | None]] | None = None
        self._not_before = 0.0

    async def follow(self) -> None:
        """Takes the next step, if there is one; to be called about every second.

        A failure leaves the set in force, stands in the service's `problem`, and is tried again after ten minutes, or
        when the champion changes.
        """
        champion = self._deployment.registry.current(self._name) or ""
        if champion != self._champion:
            self._give_up()
            self._champion, self._next, self._not_before = champion, self._other(champion), 0.0
        if self._next is None and self._service.state.is_lost:
            self._next = self._deployment  # a server that lost its state gets it anew in the same way
        if self._next is None:
            self._deployment.refresh(self._service)
        elif self._monotonic() >= self._not_before:
            try:
                await self._go_on(self._next)
            except DecalogError as error:
                self._fail(str(error))
            except (OSError, MemoryError) as error:
                self._fail(str(_failed(self._name, f"{type(error).__name__}: {error}")))

    def _other(self, champion: str) -> Deployment | None:
        """Returns the deployment on the champion's set; None where that is in force, or cannot be."""
        try:
            other = self._deployment.on_set_of(champion) if champion else self._deployment
        except (ConfigError, ModelError):
            return None  # a refresh says why
        return None if other is self._deployment else other

    async def _go_on(self, other: Deployment) -> None:
        if self._process is None:
            order = _Order(str(other.home.root), msgspec.Raw(other.system.features.to_json()), other.setup.state)
            self._process = asyncio.create_task(run_aside("decalog.changeover", told=msgspec.json.encode(order)))
            self._say(f"{self._name}: {self._names(other)}: its views are built beside")
        if not (await asyncio.wait((self._process,), timeout=0))[0]:
            return
        process, self._process = self._process, None
        _, err, status = process.result()
        if status != 0:
            said = err.decode(errors="replace").strip()[-400:]
            raise _failed(self._name, f"a process that ended with {status}{said and ': '}{said}")
        await self._swap(other)

    async def _swap(self, other: Deployment) -> None:
        views, serving = await asyncio.to_thread(self._load, other)
        log, features = other.log, other.system.features
        for _ in catch_up(views, log):
            await asyncio.sleep(_REST_S)
        # Nothing waits from the last step of the tail to the end of the swap: it stands between two requests.
        if (other.registry.current(self._name) or "") != self._champion:
            return
        other.tables.put(self._name, "features", content=msgspec.Raw(features.to_json()))
        position, before = log.position, self._service.state
        self._service.change(other.system, views.state, serving=serving)
        if other is self._deployment:
            # A state that is lost again and again must not keep the machine busy.
            self._not_before = self._monotonic() + _PAUSE_S
        self._deployment, self._next, self._service.problem = other, None, ""
        self._say(f"{self._name}: {self._names(other)} decides from record {position:,} on")
        await _let_go(before)

    def _load(self, other: Deployment) -> tuple[Views, Serving]:
        """Returns views and what decides with them. Runs in a thread: it changes nothing that the loop can see."""
        is_here = not other.setup.state
        if is_here:
            size = snapshot_path(other.home.state, other.system.features).stat().st_size
            check_size(self._name, size, memory=self._room.memory, beside=self._room.taken)
        views = other.begin()
        if views.position == 0 < other.log.durable:
            raise _failed(self._name, views.problem or "a process that built no views")
        if is_here:
            self._room.take(forecast(views.state))
        serving = other.serving()
        if serving.model is None and self._champion:
            raise _failed(self._name, other.problem)
        return views, serving

    def _names(self, other: Deployment) -> str:
        return f"champion {self._champion[:12]} with feature set {other.system.features.version}"

    def _give_up(self) -> None:
        if self._process is not None:
            self._process.cancel()
            self._process = None

    def _fail(self, why: str) -> None:
        self._not_before = self._monotonic() + _PAUSE_S
        self._service.problem = f"champion {self._champion[:12]}: {why}"
        self._say(f"{self._name}: {self._service.problem}")


class _Order(msgspec.Struct, frozen=True):
    """What the process beside is told on its standard input: the address of a state may hold a password."""

    home: str
    features: msgspec.Raw
    state: str


def build(home: Home, features: FeatureSet, *, state: str = "") -> None:
    """Builds the views of a feature set from a home's log, beside its server, and keeps them where a server finds them.

    Args:
        home: of the deployment.
        features: the declarations; no code of the system is asked.
        state: address of the server that keeps them; "" for a snapshot in the home.
    """
    with closing(home.reader()) as log:
        begun = open_remote(features, log, address=state) if state else begin(features, log, folder=home.state)
        views = follow(begun, log)
    behind = _LITTLE
    while behind >= _LITTLE:
        with closing(home.reader()) as log:
            behind = log.durable - views.position
            views = follow(views, log)
            if behind < _LITTLE and not state:
                write_down(views.state, log, folder=home.state)
    if isinstance(views.state, RemoteState):
        views.state.close()


async def _let_go(state: OnlineState) -> None:
    """Ends views that nobody asks any more."""
    if isinstance(state, RemoteState):
        with contextlib.suppress(DecalogError):
            await asyncio.to_thread(state.close)  # what it did not send, the log has
        return
    for _ in dissolve(state):
        await asyncio.sleep(0)


def _failed(system: str, given: str) -> StateError:
    return StateError(
        where=f"views of {system} for another feature set",
        given=given,
        expected="views at the log's position",
        fix=f"It is tried again in {_PAUSE_S / 60:.0f} minutes, or at once when another model is promoted.",
    )


def main() -> int:
    """Builds what standard input orders; returns 0, or 1 with one sentence of four parts."""
    os.nice(_NICE)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    try:
        build(Home(Path(order.home)), FeatureSet.from_json(bytes(order.features)), state=order.state)
    except DecalogError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
