"""What the commands do, as plain functions: the same calls work from a notebook."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from decalog.clock import AcceleratedClock, Clock, ManualClock, SystemClock
from decalog.deployment import Deployment, Setup, replay_aside
from decalog.errors import ConfigError
from decalog.home import Home
from decalog.host import Host, rows_of
from decalog.ingest import Ingest, RowResult
from decalog.meter import Meter
from decalog.money import EXPONENTS, is_rate
from decalog.serving import reply
from decalog.system import find_system

if TYPE_CHECKING:
    from decalog.backfill import Backfilled
    from decalog.data.frames import Source
    from decalog.models.base import ModelSpec
    from decalog.training import TrainingResult, Truth

Say = Callable[[str], None]


def quiet(_line: str) -> None:
    """Says nothing."""


def train_on_world(
    home: Home, name: str, *, days: int, seed: int, scale: float = 1.0, say: Say = quiet
) -> TrainingResult:
    """Fills a new home with a simulated history and trains on it.

    Raises:
        ConfigError: the home already holds a log, which is never mixed with a world; there is no such system; or days
            or scale are not above 0. Nothing was made then.
    """
    from decalog.simulation import fill, rates_of, world_of

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
        head = deployment.system.models[-1].head
        return _train(deployment, seed=seed, say=say, truth=lambda id_: float(world.truth(id_)[head]))
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
        ingest = Ingest(deployment.system.schema, log, rates=deployment.rates())
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


def backfill_features(home: Home, name: str) -> Backfilled:
    """Writes what the present features would have been at every logged request; a server may be writing meanwhile."""
    from decalog.backfill import backfill

    log = home.reader()
    try:
        return backfill(Deployment(home, name, log).system, log, folder=home.backfill)
    finally:
        log.close()


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
    home: Home, names: Iterable[str], *, setups: Mapping[str, Setup] | None = None, clock: Clock | None = None
) -> Host:
    """Returns a host over a home's log, its services ready; this process becomes the log's writer.

    Raises:
        ConfigError: there is no such system; nothing was made or opened then.
        LogUnavailableError: another process is the log's writer.
    """
    systems = {name: find_system(name) for name in names}
    log = home.writer(clock or SystemClock())
    with ExitStack() as undo:
        undo.callback(log.close)
        deployments = [Deployment(home, system, log, (setups or {}).get(name)) for name, system in systems.items()]
        services = {d.system.name: d.service() for d in deployments}
        undo.pop_all()
    paths = {system.name: name for name, system in systems.items()}
    allowed = {d.system.name: d.setup.allowed for d in deployments}
    sealer = Sealer(home)

    def refresh() -> None:
        for deployment in deployments:
            deployment.refresh(services[deployment.system.name])
        sealer.seal_when_due()

    return Host(log, services, replay=replay_aside(home, paths, allowed=allowed), meter=Meter(), refresh=refresh)


class Sealer:
    """Seals the log into Parquet now and then, in a process of its own: a busy thread here would stall replies.

    Args:
        home: whose log is sealed.
        every_s: seconds between two starts.
        at_least: new records below which a start does nothing.
    """

    def __init__(self, home: Home, *, every_s: float = 60.0, at_least: int = 10_000) -> None:
        self._command = [sys.executable, "-m", "decalog.sealing", str(home.root), "--at-least", str(at_least)]
        self._every_s = every_s
        self._due = time.monotonic() + every_s
        self._process: subprocess.Popen[bytes] | None = None

    def seal_when_due(self) -> None:
        """Starts a sealing process if it is time and the last one has ended."""
        if time.monotonic() < self._due or (self._process is not None and self._process.poll() is None):
            return
        self._due = time.monotonic() + self._every_s
        quiet_pipe = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet_pipe, stderr=quiet_pipe)  # noqa: S603 - our own


def decide_here(home: Home, name: str, *, raw: bytes) -> dict[str, Any]:
    """Returns one decision made in this process, durable; for trying out, not for load: it folds the log first."""
    system = find_system(name)
    log = home.writer()
    try:
        service = Deployment(home, system, log).service()
        record, decision, _ = service.decide(raw)
        log.commit()
        return reply(record, decision, noun=service.system.schema.noun)
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
    from decalog.clock import time_us

    if start is None:
        return SystemClock()
    try:
        start_us = time_us(start)
    except (ValueError, OverflowError):
        raise ConfigError(
            where="--clock-start",
            given=repr(start),
            expected="an RFC 3339 time with an offset, such as 2026-03-01T12:00:00Z",
            fix="Add the offset, or leave it out to use the machine's clock.",
        ) from None
    return AcceleratedClock(start_us, speed)


def _train(
    deployment: Deployment, *, seed: int, say: Say, truth: Truth | None = None, own: ModelSpec | None = None
) -> TrainingResult:
    from decalog.training import TrainingPlan, train

    system = deployment.system
    if own is not None:
        system = msgspec.structs.replace(system, models=(*system.models, own))
    plan = TrainingPlan(
        seed=seed,
        policy=deployment.policy_params(),
        currency=deployment.rates().base,
        at_us=SystemClock().now_us(),
    )
    return train(system, deployment.log, registry=deployment.registry, plan=plan, truth=truth, say=say)


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
