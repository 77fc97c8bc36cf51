"""`decalog up`: train a system on its world, serve it, and drive the server with the world's live traffic.

Fraud comes first, and trains on real payments beside it; once it is live, the others follow, each by an `up`.
Training and serving are processes of their own, started here and ended here, by their ids.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

import msgspec

from decalog.clock import rfc3339
from decalog.control_room.knobs import driven
from decalog.control_room.mischief import Mischief
from decalog.driving import BEHIND_US, Driver, remind
from decalog.errors import DecalogError, LogUnavailableError
from decalog.home import Home
from decalog.registry import Registry
from decalog.simulation import world_of
from decalog.system import SYSTEMS, find_system

FIRST = "fraud"
"""The first system that `decalog up` brings up, and the one that real payments are trained for."""
REAL_SET = "ulb-creditcard"
_EVERY_S = 2.0
_ROOM_PORT = 8080
_BEHIND = 10
"""Priority of the real training: the first live system must not wait for it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `decalog up` was asked for; see its options. Days and scale are the system's own where they are None."""

    home: Path
    port: int
    days: int | None
    scale: float | None
    speed: float
    seed: int
    seconds: float
    real: bool
    system: str = FIRST
    others: bool = False

    @property
    def size(self) -> tuple[int, float]:
        """Days of history and scale of the world."""
        days, scale = find_system(self.system).tryout
        return self.days or days, self.scale or scale


def bring_up(plan: Plan) -> int:
    """Trains, serves and drives until stopped by SIGINT or SIGTERM; returns the exit code. No process outlives it."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _bring_up(plan)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _bring_up(plan: Plan) -> int:
    screen = Screen()
    home = Home(plan.home / plan.system)
    real = _start_real(plan, screen) if plan.real and plan.system == FIRST else None
    try:
        if home.exists and not _is_trained(home, plan.system):
            aside = home.root.with_name(f"{home.root.name}-interrupted-{time.time_ns() // 10**9}")
            home.root.rename(aside)
            screen.say("world", f"an earlier start was interrupted: what it left lies in {aside}, beginning again")
        if home.exists:
            screen.say("world", f"{home.root} holds a log already: going on with it")
        elif not _train_on_world(plan, home, screen):
            return 1
        return _serve_and_drive(plan, home, screen)
    finally:
        if real is not None:
            real.stop()


def _train_on_world(plan: Plan, home: Home, screen: Screen) -> bool:
    days, scale = plan.size
    size = ("--world-days", str(days), "--world-scale", str(scale), "--seed", str(plan.seed))
    world = _decalog("train", plan.system, "--brief", *size, home=home.root)
    try:
        return screen.follow("world", world)
    finally:
        world.terminate()
        world.wait(timeout=30)


class Screen:
    """Lines on standard output, each with the seconds since the start and whose it is."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, who: str, line: str) -> None:
        """Prints a line."""
        with self._lock:
            sys.stdout.write(f"{time.monotonic() - self._started:6.1f} s  {who:6} {line}\n")
            sys.stdout.flush()

    def follow(self, who: str, process: subprocess.Popen[str]) -> bool:
        """Prints a process's lines until it ends; progress at most every two seconds, its report whole."""
        assert process.stdout is not None  # noqa: S101 - started with a pipe
        with process.stdout as lines:
            self._tell(who, lines)
        return process.wait() == 0

    def _tell(self, who: str, lines: Iterable[str]) -> None:
        last, skipped = 0.0, ""
        for line in lines:
            text = line.rstrip()
            is_progress = text.startswith(("day ", "row "))
            if is_progress and time.monotonic() - last < _EVERY_S:
                skipped = text
                continue
            if not is_progress and skipped:
                self.say(who, skipped)
                skipped = ""
            last = time.monotonic() if is_progress else last
            self.say(who, text)
        if skipped:
            self.say(who, skipped)


class Others:
    """The other systems, each brought up by a process of its own once the first is live."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        names = [name for name in SYSTEMS if name != plan.system] if plan.others else []
        self._running = [self._start(plan, name, place) for place, name in enumerate(names, 1)]
        for name, process in zip(names, self._running, strict=True):
            threading.Thread(target=screen.follow, args=(name, process), daemon=True).start()

    def _start(self, plan: Plan, name: str, place: int) -> subprocess.Popen[str]:
        port = plan.port + place if plan.port else 0
        words = ("--port", str(port), "--speed", str(plan.speed), "--seed", str(plan.seed), "--no-real", "--alone")
        process = _decalog("up", name, *words, home=plan.home)
        os.setpriority(os.PRIO_PROCESS, process.pid, _BEHIND)
        return process

    def stop(self) -> None:
        """Ends them."""
        _end(self._running)


class RealTraining:
    """Fetching and training on the real set, beside everything else; what fails there is said and stops nothing."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self._plan, self._screen = plan, screen
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends what still runs."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        from decalog.data.fetch import fetch, packaged_mapping

        home = Home(self._plan.home / "real")
        if _is_trained(home, FIRST):
            self._screen.say("real", f"{home.root} holds a log already: see `decalog models list fraud --home …`")
            return
        try:
            data = fetch(REAL_SET, self._plan.home / "data", say=lambda line: self._screen.say("real", line))
        except DecalogError as error:
            self._screen.say("real", f"{error} Going on with the world alone.")
            return
        mapping = str(packaged_mapping(REAL_SET))
        if not self._stopped:
            self._process = _decalog("train", FIRST, "--brief", "--data", str(data), "--map", mapping, home=home.root)
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _BEHIND)
            self._screen.follow("real", self._process)


def _is_trained(home: Home, system: str) -> bool:
    return home.exists and Registry(home.root).current(system) is not None


def _start_real(plan: Plan, screen: Screen) -> RealTraining:
    return RealTraining(plan, screen)


def _serve_and_drive(plan: Plan, home: Home, screen: Screen) -> int:
    name, system = plan.system, find_system(plan.system)
    world = world_of(system, plan.seed, scale=plan.size[1])
    log = home.reader()
    start_us = log.known_time
    remind(world, log.read(), system=name)
    log.close()
    world.advance(start_us)
    beside: list[Others | Beside] = []
    server = Server(plan, home, screen)
    try:
        server.start(start_us + BEHIND_US)
        screen.say(
            "live", f"{server.address}/openapi.json; the clock runs up to {plan.speed:g} times as fast; Ctrl-C ends it"
        )

        def restart() -> None:
            server.kill()
            server.start(driver.now_us)
            driver.connect(server.address)

        mischief = Mischief(home, system.schema, world, restart=restart)
        driver = Driver(world, server.address, name, shaped=mischief.shaped, hold=server.hold)
        if plan.others:
            beside = [Beside(plan, screen), Others(plan, screen)]
        end = time.monotonic() + plan.seconds if plan.seconds else float("inf")
        with closing(driver):
            while time.monotonic() < end and server.is_running:
                mischief.turn(
                    url=server.address, speed=plan.speed if driver.speed is None else driver.speed, line=driver.line()
                )
                driver.run(min(_EVERY_S, max(0.0, end - time.monotonic())))
                screen.say("live", driver.line())
    except KeyboardInterrupt:
        screen.say("live", "stopping: what was acknowledged is in the log")
    finally:
        for one in beside:
            one.stop()
        code = server.stop()
    screen.say("live", f"`decalog replay {name} --all --home {home.root}` proves every decision of it")
    return code


class Server:
    """The server of one system, on a clock that is given to it; it may die and be started again where it was."""

    def __init__(self, plan: Plan, home: Home, screen: Screen) -> None:
        self._plan, self._home, self._screen = plan, home, screen
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, at_us: int) -> None:
        """Starts it at a time, µs; it answers when this returns, a second time where it did the first.

        Raises:
            LogUnavailableError: it ended before it listened.
        """
        port = urlsplit(self.address).port if self.address else self._plan.port
        clock = ("--clock-start", rfc3339(at_us), "--clock-speed", str(self._plan.speed), "--clock-led")
        words = ("serve", self._plan.system, "--port", str(port), "--no-auth", *clock)
        self._process = _decalog(*words, home=self._home.root, stdin=subprocess.PIPE)
        self.address = _await_listening(self._process, self._screen)

    def hold(self, until_us: int) -> None:
        """Lets its clock run until then, µs; a server that has ended is not told."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{rfc3339(until_us)}\n")
                self._process.stdin.flush()

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            _ended(self._process)

    def stop(self) -> int:
        """Ends it and returns its exit code."""
        if self._process is None:
            return 1
        self._process.terminate()
        return _ended(self._process)


class Beside:
    """The control room, and the loop of each system that is driven, at low priority: processes of their own."""

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self._plan, self._screen = plan, screen
        self._running: list[subprocess.Popen[str]] = []
        self._ended = threading.Event()
        room = self._begin("room", "--no-auth", "--port", str(_ROOM_PORT if plan.port else 0), home=plan.home)
        self._threads = [threading.Thread(target=target) for target in (lambda: self._open(room), self._begin_loops)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them."""
        self._ended.set()
        self._threads[1].join()
        _end(self._running)
        self._threads[0].join()

    def _begin(self, *words: str, home: Path) -> subprocess.Popen[str]:
        process = _decalog(*words, home=home)
        self._running.append(process)
        return process

    def _open(self, room: subprocess.Popen[str]) -> None:
        """Says where the control room is, and shows it where there is a display."""
        assert room.stdout is not None  # noqa: S101 - started with a pipe
        with room.stdout as lines:
            for line in lines:
                address = line.partition("control room on ")[2].strip()
                self._screen.say("open", f"{address}  <- the control room" if address else line.rstrip())
                if address and (
                    sys.platform == "darwin" or os.environ.get("DISPLAY", os.environ.get("WAYLAND_DISPLAY"))
                ):
                    webbrowser.open(address)

    def _begin_loops(self) -> None:
        """Begins a system's loop when its server is there; a minute of ours is days of its clock."""
        waiting = {*SYSTEMS}
        while waiting and not self._ended.wait(1.0):
            for name in sorted(waiting):
                home = Home(self._plan.home / name)
                told = driven(home, name, now_s=time.time())
                if told is not None:
                    waiting.discard(name)
                    loop = self._begin("loop", name, "--url", told.url, "--every", "1m", home=home.root)
                    os.setpriority(os.PRIO_PROCESS, loop.pid, _BEHIND)
                    threading.Thread(target=self._screen.follow, args=("loop", loop), daemon=True).start()


def _await_listening(server: subprocess.Popen[str], screen: Screen) -> str:
    assert server.stdout is not None  # noqa: S101 - started with a pipe
    for line in server.stdout:
        screen.say("serve", line.rstrip())
        if line.startswith("listening on "):
            threading.Thread(target=_drain, args=(server.stdout, screen), daemon=True).start()
            return line.removeprefix("listening on ").strip()
    server.stdout.close()
    raise LogUnavailableError(
        where="decalog serve",
        given=f"a server that ended with {server.wait()} before it listened",
        expected="a server that answers",
        fix="Its last lines above say why; another port: `decalog up --port 0`.",
    )


def _drain(stream: IO[str], screen: Screen) -> None:
    with stream as lines:
        for line in lines:
            screen.say("serve", line.rstrip())


def _ended(server: subprocess.Popen[str]) -> int:
    assert server.stdin is not None  # noqa: S101 - started with a pipe
    code = server.wait(timeout=30)
    with suppress(BrokenPipeError):  # what it was not told in time
        server.stdin.close()
    return code


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends processes, all at once; each ends what it started."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)


def _decalog(*words: str, home: Path, stdin: int | None = None) -> subprocess.Popen[str]:
    command: Sequence[str] = (sys.executable, "-m", "decalog", *words, "--home", str(home))
    return subprocess.Popen(  # noqa: S603 - our own
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
