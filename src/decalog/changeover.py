"""Follows a champion to its feature set: views are built in a process beside the server, then all is swapped.

    a champion of another set ──▶ a process folds the log ──▶ a thread reads the views ──▶ the tail, in steps ──▶ swap
    the champion before it decides ──────────────────────────────────────────────────────────────────────────▶│

The process does what takes the longest. The thread reads bytes and hashes them, for which Python lets others run. The
event loop folds what was logged since, in steps of about 2 ms: only it knows which record is the last. Its last
step and the swap are one turn of the loop, so they stand between two requests. docs/decisions/0025 has the reasons.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from decalog.deployment import Deployment, run_aside
from decalog.errors import DecalogError, StateError
from decalog.features.definition import FeatureSet
from decalog.features.remote import RemoteState, let_go
from decalog.home import Home
from decalog.judging import Serving
from decalog.log import Log
from decalog.memory import Forecast, Room, check_size, forecast
from decalog.serving import Service
from decalog.views import Views, begin, catch_up, follow, snapshot_path, write_down

# After a failure, the next try for the same champion.
_PAUSE_S = 600.0
# What the loop has for replies between two steps of the tail.
_REST_S = 0.002
# Records that the server folds in a second or two; where more came while the process folded, it folds those too.
_LITTLE = 10_000

Say = Callable[[str], None]
Clock = Callable[[], float]


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
        self, deployment: Deployment, service: Service, *, room: Room, say: Say, monotonic: Clock = time.monotonic
    ) -> None:
        self._deployment, self._service = deployment, service
        self._name = deployment.system.name
        self._room, self._say, self._monotonic = room, say, monotonic
        self._followed = deployment.registry.following(self._name)
        self._champion, self._not_before = "", 0.0
        self._next: Deployment | None = None
        self._process: asyncio.Task[tuple[bytes, bytes, int | None]] | None = None

    async def follow(self) -> None:
        """Takes the next step, if there is one; to be called about every second.

        A failure leaves the set in force, is said, stands in the service's `problem`, and is tried again after ten
        minutes, or when the champion changes.
        """
        known = self._service.problem
        await self._step()
        if self._service.problem not in ("", known):
            self._say(f"{self._name}: {self._service.problem}")

    async def _step(self) -> None:
        self._deployment.retrieval = self._service.retrieval  # an erasure may have put another in its place
        champion = self._followed.current() or ""
        if champion != self._champion:
            await self._begin(champion)
        if self._next is None and self._service.state.is_lost:
            self._next = self._deployment  # a server that lost its state gets it anew in the same way
        if self._next is not None and self._monotonic() >= self._not_before:
            try:
                await self._go_on(self._next)
            except (DecalogError, OSError, MemoryError) as error:
                why = error if isinstance(error, DecalogError) else _failed(f"{type(error).__name__}: {error}")
                self._not_before = self._monotonic() + _PAUSE_S
                self._service.problem = f"champion {champion[:12]}: {why}"

    async def _begin(self, champion: str) -> None:
        """Forgets the champion of before; takes the one of now, or says what is to be built for it."""
        if self._process is not None:
            self._process.cancel()
        self._process, self._not_before, self._service.problem = None, 0.0, ""
        other = self._deployment.as_served()
        self._next = None if other is self._deployment else other
        if self._next is None:
            is_new = champion[:12] != self._service.serving.versions.model
            # What a retrieval makes of a model takes seconds: not in the loop. Where the set cannot be, it says why.
            found = await asyncio.to_thread(self._deployment.serving) if is_new else None
            self._deployment.refresh(self._service, found)
        self._champion = champion

    async def _go_on(self, other: Deployment) -> None:
        if self._process is None:
            # By its standard input: the address of a state may hold a password.
            told = (str(other.home.root), other.system.features.to_json().decode(), other.setup.state)
            self._process = asyncio.create_task(run_aside("decalog.changeover", told=msgspec.json.encode(told)))
            self._tell(other, ": its views are built beside")
        if not (await asyncio.wait((self._process,), timeout=0))[0]:
            return
        process, self._process = self._process, None
        _, err, status = process.result()
        if status != 0:
            last = err.decode(errors="replace").strip().rpartition("\n")[2]
            raise _failed(f"a process that ended with {status}: {last[:400].rstrip('.')}")
        await self._swap(other)

    async def _swap(self, other: Deployment) -> None:
        views, serving, wanted = await asyncio.to_thread(self._load, other)
        self._room.take(wanted)
        for _ in catch_up(views, other.log):
            await asyncio.sleep(_REST_S)
        # Nothing waits from the last step of the tail to the end of the swap: it stands between two requests.
        if (self._followed.current() or "") != self._champion:
            return
        before = self._service.state
        other.tables.put(self._name, "features", content=msgspec.Raw(other.system.features.to_json()))
        self._service.change(other.system, views.state, serving=serving.under(self._service.serving))
        if other is self._deployment:
            # A state that is lost again and again must not keep the machine busy.
            self._not_before = self._monotonic() + _PAUSE_S
        self._deployment, self._next, self._service.problem = other, None, ""
        self._tell(other, f" decides from record {other.log.position:,} on")
        for _ in let_go(before):
            await asyncio.sleep(0)

    def _tell(self, other: Deployment, what: str) -> None:
        self._say(
            f"{self._name}: champion {self._champion[:12]} with feature set {other.system.features.version}{what}"
        )

    def _load(self, other: Deployment) -> tuple[Views, Serving, Forecast]:
        """Returns views, what decides with them, and what they will take of this process's memory.

        Runs in a thread: of what the loop changes it only reads the log and the registry.
        """
        if not other.setup.state:
            size = snapshot_path(other.home.state, other.system.features).stat().st_size
            check_size(self._name, size, memory=self._room.memory, beside=self._room.taken)
        views, serving = other.begin(), other.serving()
        if views.position == 0 < other.log.durable:
            raise _failed(views.problem or "a process that built no views")
        if serving.model is None and self._champion:
            raise _failed(other.problem)
        return views, serving, forecast(views.state)


def build(home: Home, features: FeatureSet, *, state: str = "") -> None:
    """Builds the views of a feature set from a home's log, beside its server, and keeps them where a server finds them.

    Args:
        home: of the deployment.
        features: the declarations; no code of the system is asked.
        state: address of the server that keeps them; "" for a snapshot in the home.
    """
    done, came = 0, _LITTLE
    while came >= _LITTLE:
        with closing(home.reader()) as log:
            came, done = log.durable - done, log.durable
            _keep(follow(begin(features, log, folder=home.state, state=state), log), log, folder=home.state)


def _keep(views: Views, log: Log, *, folder: Path) -> None:
    if isinstance(views.state, RemoteState):
        views.state.close()
    else:
        write_down(views.state, log, folder=folder)


def _failed(given: str) -> StateError:
    return StateError(
        where="views of another feature set",
        given=given,
        expected="views at the log's position",
        fix=f"It is tried again in {_PAUSE_S / 60:.0f} minutes, or at once when another model is promoted.",
    )


def main() -> None:
    """Builds what standard input orders; where it fails, its last words say why."""
    os.nice(5)
    home, features, state = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[str, str, str])
    build(Home(Path(home)), FeatureSet.from_json(features), state=state)


if __name__ == "__main__":
    main()
