"""What the commands do, as plain functions: the same calls work from a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from decalog.changeover import Follower
from decalog.clock import AcceleratedClock, Clock, ManualClock, SystemClock, time_us
from decalog.deployment import Deployment, Setup, admission, replay_aside
from decalog.errors import ConfigError, LogUnavailableError
from decalog.feature_catalog import Catalog, catalog, measure
from decalog.features.facts import Point
from decalog.features.online import OnlineState
from decalog.features.snapshot import Manifest
from decalog.folding import changes, point
from decalog.home import Home
from decalog.host import Host, rows_of
from decalog.ingest import RowResult, request_of
from decalog.levers import Levers
from decalog.log import Log
from decalog.memory import Room, check_size, forecast, machine_memory, size_text
from decalog.meter import Meter
from decalog.money import EXPONENTS, is_rate
from decalog.serving import Service, reply
from decalog.system import System, find_system
from decalog.views import follow, last_position, snapshot_path, write_down

if TYPE_CHECKING:
    from decalog.backfill import Backfilled
    from decalog.data.frames import Source
    from decalog.histories import Histories
    from decalog.models.base import ModelSpec
    from decalog.tails import Champion
    from decalog.tiers import Tiers
    from decalog.training import TrainingResult, Truth
    from decalog.views import Views
    from decalog.watching import Watch

Say = Callable[[str], None]


def quiet(_line: str) -> None:
    """Says nothing."""


def train_on_world(
    home: Home, name: str, *, days: int, seed: int, scale: float = 1.0, say: Say = quiet
) -> TrainingResult:
    """Fills a new home with a simulated history and trains on it; there is then a champion before the first.

    Raises:
        ConfigError: the home already holds a log, which is never mixed with a world; there is no such system; or days
            or scale are not above 0. Nothing was made then.
    """
    from decalog.simulation import fill, rates_of, world_of
    from decalog.testing.worlds import truth_of

    if home.exists:
        raise ConfigError(
            where=f"home {home.root}",
            given="a home that already holds a log",
            expected="a new home for a simulated world",
            fix="Train on what it holds (leave --world-days out), or name another --home.",
        )
    if days < 1:
        raise ConfigError(
            where="days of the world", given=f"{days}", expected="1 or more", fix="180 give frauds enough to learn."
        )
    world = world_of(find_system(name), seed, scale=scale)
    clock = ManualClock(world.start_us)
    log = home.writer(clock)
    try:
        deployment = Deployment(home, name, log, Setup(rates=rates_of(world)))
        fill(world, deployment.prepare(), clock=clock, days=days, say=say)
        truth = truth_of(world, deployment.system.models[-1].head.split("+"))
        return _train(deployment, seed=seed, way_back=True, say=say, truth=truth)
    finally:
        log.close()


def train_on_data(
    home: Home, name: str, *, data: Source, mapping: Path, seed: int = 0, say: Say = quiet
) -> TrainingResult:
    """Imports a user's own data by a mapping and trains on it; importing the same rows again adds nothing.

    Args:
        home: of the deployment; made if it is not there.
        name: of the system.
        data: a CSV or Parquet file, or any frame that speaks Arrow.
        mapping: TOML file; `decalog data inspect` drafts one.
        seed: of the training.
        say: told of progress.
    """
    from decalog.data.importing import import_rows
    from decalog.data.mapping import load_map

    plan = load_map(mapping, find_system(name).schema)
    log = home.writer()
    try:
        deployment = Deployment(home, name, log, Setup(rates=plan.rates, signals=plan.signal_fields()))
        if log.position == 0:
            # Before the history, and stamped so: amounts must never stand in a log that does not say in which currency.
            log.clock = ManualClock(0)
        deployment.tables.put("", "rates", content=deployment.rates())
        log.commit()
        log.clock = SystemClock()
        # `prepare` comes after: what it appends is known now, and history behind it would be known no earlier.
        ingest = admission(deployment.system, log, rates=deployment.rates())[0]
        report = import_rows(data, plan, ingest=ingest, on_progress=lambda rows: say(f"row {rows:,}"))
        deployment.prepare()
        say(report.text())
        return _train(deployment, seed=seed, say=say)
    finally:
        log.close()


def train_on_log(
    home: Home, name: str, *, seed: int = 0, own: ModelSpec | None = None, say: Say = quiet
) -> TrainingResult:
    """Trains on what the log of a home holds; a server may be writing to it meanwhile.

    Args:
        home: of the deployment.
        name: of the system.
        seed: of the training.
        own: a model of the user's (`own_model`), judged beside the system's and registered in their place.
        say: told of progress.
    """
    log = home.reader()
    try:
        return _train(Deployment(home, name, log), seed=seed, say=say, own=own)
    finally:
        log.close()


def retrain(home: Home, name: str, *, test_positives: int, histories: Histories, seed: int = 0) -> str:
    """Trains on what the log of a home holds now, as a loop does, and returns the model's id.

    Args:
        home: of the deployment; its server may run.
        name: of the system.
        test_positives: see `TrainingPlan`.
        histories: of its log that were read before.
        seed: of the training.

    Raises:
        DataError: the log holds too little.
    """
    from decalog.histories import Followed

    with closing(home.reader()) as log:
        deployment = Deployment(home, name, log).as_served()
        deployment.reading = Followed(log, histories)
        return _train(deployment, seed=seed, say=quiet, test_positives=test_positives, refit=True).model


def backfill_features(home: Home, name: str) -> Backfilled:
    """Writes what the present features would have been at every logged request; a server may be writing meanwhile."""
    from decalog.backfill import backfill

    log = home.reader()
    try:
        return backfill(Deployment(home, name, log).system, log, folder=home.backfill)
    finally:
        log.close()


def watch_log(home: Home, name: str, *, since_us: int, now_us: int | None = None) -> Watch:
    """Returns what a system's monitors find in its log; a server may be writing meanwhile.

    Args:
        home: of the deployment.
        name: of the system.
        since_us: how far back to look.
        now_us: the present; None for the log's last record.

    Raises:
        ConfigError: there is no such system, or no log.
    """
    from decalog.watching import watch

    with closing(home.reader()) as log:
        deployment = Deployment(home, name, log).as_served()
        now = log.known_time if now_us is None else now_us
        return watch(deployment.system, log, champion=watched_champion(deployment), since_us=since_us, now_us=now)


def measure_log(home: Home, name: str, *, since_us: int, by: str = "") -> Tiers:
    """Returns a system's measures in three tiers of what it decided; a server may be writing meanwhile.

    Args:
        home: of the deployment.
        name: of the system.
        since_us: how far back decisions count from the log's last record on.
        by: what groups them: arm, model, day, week, half, a public field of requests; "" for nothing.

    Raises:
        ConfigError: there is no such system, no log, or nothing of that name to group by.
        DataError: nothing was decided in that time.
    """
    from decalog.figures import Pricing
    from decalog.tiers import Asked, tiers

    with closing(home.reader()) as log:
        deployment = Deployment(home, name, log).as_served()
        champion, system = watched_champion(deployment), deployment.system
        seen = getattr(champion.model, "examination", {}).get(champion.heads[0], ()) if champion.heads else ()
        pricing = Pricing(system.policy(deployment.policy_params()), tuple(seen) or (1.0,))
        return tiers(system, log, asked=Asked(since_us, log.known_time, by), pricing=pricing)


def watched_champion(deployment: Deployment) -> Champion:
    """Returns what a watch of a deployment measures changes from."""
    from decalog.tails import champion_of

    return champion_of(deployment.system, deployment.registry, load=deployment.model)


def own_model(name: str, *, onnx: Path | None = None, path: str = "", files: Path | None = None) -> ModelSpec:
    """Returns a user's own model as a kind of model of a system: an ONNX file, or a class of theirs.

    Args:
        name: of the system.
        onnx: the file.
        path: dotted path `my_module:MyModel` of a class with `load(folder)` and `predict(rows)`; naming it allows it.
        files: folder that the class loads from.

    Raises:
        ConfigError: neither is given, or both.
    """
    from decalog.models import onnx as graphs
    from decalog.models import own as classes

    head = find_system(name).models[-1].head
    if onnx is not None and not path:
        return graphs.spec(onnx, head=head)
    if onnx is None and path and files is not None:
        return classes.spec(path, files, head=head, allowed=(path,))
    raise ConfigError(
        where="own model",
        given="both a file and a class" if onnx is not None else "a class without its folder, or nothing",
        expected="an ONNX file, or a class and the folder it loads from",
        fix="--onnx model.onnx, or --own my_module:MyModel --files folder.",
    )


def open_host(
    home: Home,
    names: Iterable[str],
    *,
    setups: Mapping[str, Setup] | None = None,
    clock: Clock | None = None,
    memory: int | None = None,
    say: Say = quiet,
) -> Host:
    """Returns a host over a home's log, its services ready; this process becomes the log's writer.

    Args:
        home: of the deployment.
        names: of the systems.
        setups: name → its settings.
        clock: of the log's stamps.
        memory: bytes that the views may count on; None for what the machine has.
        say: told what the views began with and what they will need.

    Raises:
        ConfigError: there is no such system, and nothing was made or opened then; or the views will not fit.
        LogUnavailableError: another process is the log's writer.
    """
    systems = {name: find_system(name) for name in names}
    log = home.writer(clock or SystemClock())
    room = Room(machine_memory() if memory is None else memory)
    with ExitStack() as undo:
        undo.callback(log.close)
        plain = [Deployment(home, system, log, (setups or {}).get(name)) for name, system in systems.items()]
        deployments = [deployment.as_served() for deployment in plain]
        services = _services(deployments, room=room, say=say)
        undo.pop_all()
    paths = {system.name: name for name, system in systems.items()}
    allowed = {d.system.name: d.setup.allowed for d in deployments}
    followers = [Follower(d, services[d.system.name], room=room, say=say).follow for d in deployments]
    beside = [*followers, sealing_aside(home).start_when_due, *_snapshots_beside(home, systems)]
    beside += _explainers_beside(home, services, paths=paths, allowed=allowed)
    replay = replay_aside(home, paths, allowed=allowed)
    host = Host(log, services, replay=replay, meter=Meter(), beside=beside, state=home.state)
    host.paths = paths
    return host


def _snapshots_beside(home: Home, names: Iterable[str]) -> list[Callable[[], None]]:
    return [snapshot_aside(home, name).start_when_due for name in names]


def _explainers_beside(
    home: Home, services: Mapping[str, Service], *, paths: Mapping[str, str], allowed: Mapping[str, Sequence[str]]
) -> list[Callable[[], None]]:
    return [
        explaining_aside(home, paths[name], service=service, allowed=allowed[name])
        for name, service in services.items()
        if service.system.explained_at_once
    ]


def _services(deployments: Iterable[Deployment], *, room: Room, say: Say) -> dict[str, Service]:
    """Returns the services by system, their views up to date and known to fit."""
    services = {}
    for deployment in deployments:
        name = deployment.system.name
        path = snapshot_path(deployment.home.state, deployment.system.features)
        if path.is_file():
            check_size(name, path.stat().st_size, memory=room.memory)
        services[name] = deployment.service()
        views = cast("Views", deployment.views)  # the service has just brought them up
        if deployment.setup.state:
            say(f"views of {name}: on another server, {views}")
            continue
        made = forecast(views.state)
        say(f"views of {name}: {views}: {made}")
        if views.problem:
            say(views.problem)
        room.take(made)
    return services


def take_snapshot(home: Home, name: str, *, at_least: int = 1) -> str:
    """Writes a snapshot of a system's views at the log's position, beside a server or without one, and says so.

    Args:
        home: of the deployment; its server may run.
        name: of the system.
        at_least: records after the last snapshot below which nothing is done.

    Raises:
        ConfigError: there is no such system, or no log.
        LogUnavailableError: another process writes one, or the disk does not take it.
    """
    log = home.reader()
    try:
        deployment = Deployment(home, name, log).as_served()
        features = deployment.system.features
        last = last_position(features, log, path=snapshot_path(home.state, features))
        if log.durable - last < at_least:
            return (
                f"{deployment.system.name}: {log.durable - last:,} records after the snapshot at {last:,}: left alone"
            )
        views = follow(deployment.begin(), log)
        made = write_down(views.state, log, folder=home.state)
        return _snapshot_text(made, features.system) + f"; {views}" + (f"\n{views.problem}" if views.problem else "")
    finally:
        log.close()


def keep_snapshots(home: Home, host: Host, *, at_least: int = 10_000, say: Say = quiet) -> None:
    """Writes snapshots of a host that has stopped; what cannot be written is said and stops nothing.

    Args:
        home: of the host.
        host: stopped; its log open still.
        at_least: records after the last snapshot below which nothing is done: folding them again takes no time.
        say: told of each.
    """
    if host.log.failed is not None or host.log.durable != host.log.position:
        return
    for name, service in host.services.items():
        if not service.state.is_here:
            continue
        path = snapshot_path(home.state, service.system.features)
        if host.log.durable - last_position(service.system.features, host.log, path=path) < at_least:
            continue
        try:
            say(_snapshot_text(write_down(service.state, host.log, folder=home.state), name))
        except LogUnavailableError as error:
            say(str(error))


def _snapshot_text(made: Manifest, name: str) -> str:
    held = f"{made.rows:,} rows of {made.tokens:,} entities, {size_text(made.size)}"
    return f"snapshot of {name} at record {made.position:,}: {held}"


def sealing_aside(home: Home, *, every_s: float = 60.0, at_least: int = 10_000) -> Aside:
    """Returns what seals a home's log into Parquet now and then; fewer than `at_least` new records stay unsealed."""
    return Aside("decalog.sealing", str(home.root), "--at-least", str(at_least), every_s=every_s)


def snapshot_aside(home: Home, name: str, *, every_s: float = 3600.0, at_least: int = 100_000) -> Aside:
    """Returns what takes a snapshot of a system's views now and then, where `at_least` records came since the last."""
    words = ("snapshot", name, "--home", str(home.root), "--at-least", str(at_least))
    return Aside("decalog", *words, every_s=every_s)


def explaining_aside(
    home: Home, path: str, *, service: Service, allowed: Sequence[str] = (), every_s: float = 30.0
) -> Callable[[], None]:
    """Returns what explains, now and then, what the system wants explained at once, where there was some of it.

    Args:
        home: of the deployment.
        path: what `find_system` finds the system by.
        service: that decides; it counts what waits to be explained.
        allowed: model classes of the user's own that may be imported.
        every_s: seconds between two starts.
    """
    words = [word for dotted in allowed for word in ("--allow-model", dotted)]
    aside = Aside("decalog", "explain", path, "--at-once", "--home", str(home.root), *words, every_s=every_s)

    def start_when_due() -> None:
        if service.unexplained and aside.is_due:
            service.unexplained = 0
            aside.start_when_due()

    return start_when_due


_ASIDE_NICE = 10


class Aside:
    """Runs a module of decalog now and then, in a process of its own: a busy thread here would stall replies.

    Args:
        words: the module and its arguments.
        every_s: seconds between two starts.
    """

    def __init__(self, *words: str, every_s: float) -> None:
        self._command = [sys.executable, "-m", *words]
        self._every_s = every_s
        self._due = time.monotonic() + every_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time, and the last process has ended."""
        return time.monotonic() >= self._due and (self._process is None or self._process.poll() is not None)

    def start_when_due(self) -> None:
        """Starts the process if it is due."""
        if not self.is_due:
            return
        self._due = time.monotonic() + self._every_s
        quiet_pipe = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet_pipe, stderr=quiet_pipe)  # noqa: S603 - our own
        # What runs aside has time; who waits for a decision has none.
        with suppress(ProcessLookupError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _ASIDE_NICE)


def decide_here(home: Home, name: str, *, raw: bytes) -> dict[str, Any]:
    """Returns one decision made in this process, durable; for trying out, not for load: it folds the log first."""
    system = find_system(name)
    log = home.writer()
    try:
        service = Deployment(home, system, log).as_served().service()
        record, decision, _ = service.decide(raw)
        log.commit()
        notice = service.standing.notice(record.seq)
        return reply(record, decision, noun=service.system.schema.noun, notice=notice)
    finally:
        log.close()


def add_here(home: Home, name: str, *, kind: Literal["event", "outcome"], raw: bytes) -> list[RowResult]:
    """Returns what became of each row of a batch of `event`s or `outcome`s, admitted by this process, durable."""
    system = find_system(name)
    log = home.writer()
    try:
        ingest = Deployment(home, system, log).prepare()
        results = [ingest.admit(kind, row) for row in rows_of(raw)]
        log.commit()
        return results
    finally:
        log.close()


@contextmanager
def levers_here(home: Home, name: str, *, puts: bool = False) -> Iterator[Levers]:
    """Gives the levers of a system on its log; what is put by them is durable at the end.

    Raises:
        ConfigError: there is no such system, or no log.
        LogUnavailableError: something is to be put, and another process is the log's writer.
    """
    system = find_system(name)
    with closing(home.writer() if puts else home.reader()) as log:
        deployment = Deployment(home, system, log)
        if puts:
            deployment.prepare()
        yield Levers(deployment.system, log)
        log.commit()


def read_policy(path: Path, params: type[msgspec.Struct]) -> msgspec.Struct:
    """Returns policy parameters from a TOML file; what it leaves out keeps the system's default.

    Raises:
        ConfigError: the file is no TOML, or a parameter is unknown or out of range.
    """
    read: msgspec.Struct = _read_toml(path, params)
    return read


def read_rates(path: Path) -> Any:
    """Returns exchange rates from a TOML file with `base` and `[rates]`.

    Raises:
        ConfigError: the file is no TOML, or a rate is no decimal text.
    """
    from decalog.ingest import Rates

    read: Rates = _read_toml(path, Rates)
    wrong = [f"{code} = {rate!r}" for code, rate in read.rates.items() if code not in EXPONENTS or not is_rate(rate)]
    wrong += [] if read.base in EXPONENTS else [f"base = {read.base!r}"]
    if wrong:
        raise ConfigError(
            where=path.name,
            given=", ".join(wrong),
            expected='ISO 4217 codes, each with its rate to the base as decimal text above 0, such as USD = "0.92"',
            fix="Mend the file.",
        )
    return read


def clock_of(start: str | None, speed: float) -> Clock:
    """Returns the system clock, or an accelerated one that starts at an RFC 3339 time.

    Raises:
        ConfigError: the start is no such time, or the speed is not above 0.
    """
    if start is None:
        return SystemClock()
    fix = "Add the offset, or leave it out to use the machine's clock."
    return AcceleratedClock(_time(start, where="--clock-start", fix=fix), speed)


def lead(clock: Clock, lines: Iterable[bytes], *, say: Say) -> None:
    """Lets an accelerated clock run no further than told; it stands until the first line. A thread reads on.

    Args:
        clock: that somebody else paces, so that a simulated day lasts as long as its traffic takes.
        lines: each an RFC 3339 time.
        say: told of a line that is none, after which the clock stands where it was to stand.

    Raises:
        ConfigError: the clock is the machine's.
    """
    if not isinstance(clock, AcceleratedClock):
        expected, fix = "an accelerated clock", "Give --clock-start as well: the time of the machine cannot be held."
        raise ConfigError(where="--clock-led", given="the machine's clock", expected=expected, fix=fix)
    clock.run_until(clock.now_us())
    Thread(target=_lead, args=(clock, lines, say), daemon=True).start()


def _lead(clock: AcceleratedClock, lines: Iterable[bytes], say: Say) -> None:
    for line in lines:
        try:
            text = line.decode(errors="replace").strip()
            clock.run_until(_time(text, where="--clock-led", fix="Add the offset."))
        except ConfigError as error:
            say(str(error))


def _time(text: str, *, where: str, fix: str) -> int:
    try:
        return time_us(text)
    except (ValueError, OverflowError):
        raise ConfigError(
            where=where,
            given=repr(text),
            expected="an RFC 3339 time with an offset, such as 2026-03-01T12:00:00Z",
            fix=fix,
        ) from None


def _train(
    deployment: Deployment,
    *,
    say: Say,
    truth: Truth | None = None,
    own: ModelSpec | None = None,
    **planned: Any,
) -> TrainingResult:
    """Trains by a `TrainingPlan`, of which `planned` says what the deployment does not."""
    from decalog.trainers import train_system
    from decalog.training import TrainingPlan

    system = deployment.system
    if own is not None:
        system = msgspec.structs.replace(system, models=(*system.models, own))
    plan = TrainingPlan(
        policy=deployment.policy_params(),
        currency=deployment.rates().base,
        at_us=SystemClock().now_us(),
        **planned,
    )
    return train_system(system, deployment.reading, registry=deployment.registry, plan=plan, truth=truth, say=say)


def _read_toml(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, msgspec.ValidationError) as error:
        raise ConfigError(
            where=path.name,
            given=str(error),
            expected=f"TOML with {', '.join(kind.__struct_fields__)}",
            fix="Mend the file.",
        ) from None


_TRIED = 200


def list_features(name: str, home: Home | None = None) -> Catalog:
    """Returns a system's features in words; with a log, for its latest requests and with what they cost there."""
    system = find_system(name)
    if home is None or not home.exists:
        return catalog(system.features, example={}, costs={})
    with closing(home.reader()) as log:
        declared = Deployment(home, system, log).system
        state = OnlineState(declared.features)
        state.apply_many(changes(log.read(), system.name, past=log, reads=declared.features.reads))
        points = [p for p in _latest_points(log, declared) if not state.refused(p)]
        example = state.vector(points[-1]).tolist() if points else []
        named = dict(zip(declared.features.names, example, strict=False))
        return catalog(declared.features, example=named, costs=measure(state, points))


def _latest_points(log: Log, system: System) -> list[Point]:
    """Returns the log's latest requests as points at its end: each sees what a request like it would see now."""
    kinds = ("event", "decision")
    latest = deque((r for r in log.read() if r.kind in kinds and r.system == system.name), maxlen=_TRIED)
    requests = [(record, request_of(record)) for record in latest]
    return [
        point(request, log.position, root=record.root)
        for record, request in requests
        if request.kind == system.schema.request.name and not request.deleted
    ]
