"""A system at work in a folder of its own, on a clock that stands until it is moved; its chance can be repeated."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.clock import ManualClock
from decalog.crypto import digest
from decalog.decisions import Decision
from decalog.deployment import Deployment, Setup
from decalog.errors import ConfigError
from decalog.events import Record
from decalog.examples import History
from decalog.home import ENGINE, Home
from decalog.impressions import ImpressionHistory
from decalog.ingest import Rates, RowResult
from decalog.log import Log
from decalog.models.base import Floats, ModelSpec, QuantitySet, SlateSet, TrainingSet
from decalog.quantities import QuantityHistory
from decalog.registry import Manifest, Pin
from decalog.retrieval import Hurried
from decalog.runtime import this_code
from decalog.serving import Service
from decalog.stores.base import Sync, nothing
from decalog.stores.table import open_log
from decalog.system import System, load
from decalog.testing.worlds import World

REQUESTS, SCALE, SEED = 300, 0.05, 1
"""What a law is tried on if nothing else is said: small enough for a test run."""

FAR_MS = 60_000
"""Deadline of everything on a stage: a law judges bits, and a busy machine must not choose them."""

_GROUP = 50
_LABELLED_SHARE, _COUNTED = 0.4, 9.0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a law tries a system on.

    Args:
        system: that is judged.
        folder: for homes; each name below it is used once.
        requests: about how many; half of them as history, half live.
        scale: size of the system's world.
        seed: of the world, of traffic and of models.
        world: makes another world than the system's, as a system's `world` does: recorded traffic.
    """

    system: System
    folder: Path
    requests: int = REQUESTS
    scale: float = SCALE
    seed: int = SEED
    world: Callable[..., World] | None = None


class Step(msgspec.Struct, frozen=True):
    """Something that reaches the system: when, by which door, and the body as a client sends it.

    `theirs` is what the world saw another system show for the same request, where slots hold things.
    """

    at_us: int
    door: Literal["decide", "event", "outcome"]
    body: Mapping[str, Any]
    theirs: tuple[str, ...] = ()


class Chance:
    """Random bytes that a seed determines, where a deployment takes them from its operating system."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        """Returns the next bytes, at most 64."""
        self._drawn += 1
        return hashlib.blake2b(f"{self._seed} {self._drawn}".encode(), digest_size=size).digest()


class SeededVault:
    """A vault in memory whose tokens, keys and secrets are functions of a seed: for trials, never for people's data."""

    def __init__(self, seed: int) -> None:
        self._seed = hashlib.sha256(f"vault {seed}".encode()).digest()

    def token(self, kind: str, value: str) -> int:
        """See `Vault.token`."""
        return (int.from_bytes(digest(self._seed, b"token", kind.encode(), value.encode(), size=8), "big") >> 1) or 1

    def cipher(self, subject: int) -> AESGCM | None:
        """See `Vault.cipher`."""
        return AESGCM(digest(self._seed, b"key", str(subject).encode(), size=32))

    def secret(self, name: str) -> bytes:
        """See `Vault.secret`."""
        return digest(self._seed, b"secret", name.encode(), size=32)

    def flush(self) -> Sync:
        """See `Vault.flush`."""
        return nothing

    def close(self) -> None:
        """See `Vault.close`."""


class Stage:
    """One system at work.

    Args:
        trial: what it is tried on.
        name: of its home below the trial's folder.
        system: what really runs, where that differs from what is judged.
        repeatable: draw tokens, keys and secrets from the trial's seed and keep them in memory.
    """

    def __init__(self, trial: Trial, name: str, *, system: System | None = None, repeatable: bool = False) -> None:
        self.trial = trial
        self.system = msgspec.structs.replace(system or trial.system, deadline_ms=FAR_MS)
        self.home = Home(trial.folder / name)
        world = world_of(trial)
        self.clock = ManualClock(world.start_us)
        self._setup = Setup(rates=Rates(world.base, dict(world.rates)))
        if repeatable:
            store = open_log(ENGINE, self.home.log, writer=True)
            self.log = Log(store, SeededVault(trial.seed), self.clock)
        else:
            self.log = self.home.writer(self.clock)
        self._chance = Chance(trial.seed)
        self.decided: list[Decision] = []
        self._since_commit = 0
        self.open()

    def open(self) -> None:
        """Makes the service anew from what is durable, as after a restart."""
        self.log.commit()
        self.deployment = Deployment(self.home, self.system, self.log, self._setup, entropy=self._chance)
        self.service: Service = unhurried(self.deployment.service())

    def send(self, step: Step) -> RowResult | None:
        """Brings one step to its door at its time; returns what became of a row."""
        self.clock.set(step.at_us)
        self._since_commit += 1
        if self._since_commit >= _GROUP:
            self.log.commit()
            self._since_commit = 0
        if step.door != "decide":
            return self.service.ingest.admit(step.door, step.body)
        _, decision, repeated = self.service.decide(msgspec.json.encode(step.body))
        if not repeated:
            self.decided.append(decision)
        return None

    def play(self, steps: Iterable[Step]) -> None:
        """Brings steps to their doors, in order."""
        for step in steps:
            self.send(step)
        self.log.commit()

    def records(self) -> list[Record]:
        """Returns every durable record."""
        self.log.commit()
        return list(self.log.read())

    def crown(self, spec: ModelSpec) -> None:
        """Fits a kind of model on drawn labels and makes it the champion: laws ask for bits, not for skill."""
        registry, system = self.deployment.registry, self.system
        history = history_of(system, self.records())
        model = spec.fit(_with_drawn_labels(system, history, seed=self.trial.seed), self.trial.seed)
        manifest = Manifest(
            system=system.name,
            name=spec.name,
            format=spec.format,
            head=spec.head,
            features=system.features.names_for("model"),
            feature_set=system.features.version,
            pin=Pin((history.position,), history.erasures, history.known_time),
            code=this_code(),
            seed=self.trial.seed,
        )
        id_ = registry.put(manifest, model.save)
        registry.promote(system.name, id_, by="trial", why=f"a {spec.name} to decide with", at_us=self.clock.now_us())
        self.deployment.refresh(self.service)

    def close(self) -> None:
        """Releases the log."""
        self.log.close()


def unhurried(service: Service) -> Service:
    """Returns a service whose retrieval takes all the time that it needs."""
    retrieval: object = service.retrieval
    if isinstance(retrieval, Hurried):
        retrieval.deadline_ms = FAR_MS
    return service


def world_of(trial: Trial) -> World:
    """Returns the judged system's world at its start.

    Raises:
        ConfigError: the system names none.
    """
    made = trial.world or load(trial.system.world)
    if made is None:
        raise ConfigError(
            where=f"{trial.system.name} world",
            given=f"{trial.system.world!r}",
            expected="a dotted path module:Class of a simulated world",
            fix="Name the world in SYSTEM: conformance takes its requests from there.",
        )
    world: World = made(trial.seed, scale=trial.scale)
    return world


def parts_of(steps: list[Step], count: int) -> Iterator[list[Step]]:
    """Yields steps in so many runs of about the same length."""
    bounds = [len(steps) * part // count for part in range(count + 1)]
    for first, last in itertools.pairwise(bounds):
        yield steps[first:last]


Joined = History | ImpressionHistory
"""What a system's models learn from: its requests or, where slots hold things, what was shown."""


def history_of(system: System, records: list[Record]) -> Joined:
    """Returns a system's join of requests, or of what was shown, with what became of it."""
    schema, features = system.schema, system.features
    if schema.slate_of:
        return ImpressionHistory(records, schema, features=features, retrieval=load(system.retrieval))
    if schema.label.of:
        return QuantityHistory(records, schema, features=features, recover=load(system.recovered))
    return History(records, schema, features=features)


def _with_drawn_labels(system: System, history: Joined, *, seed: int) -> TrainingSet | SlateSet | QuantitySet:
    if isinstance(history, ImpressionHistory):
        shown = history.part(np.ones(len(history.shown), np.bool_), known_by=history.known_time)
        return msgspec.structs.replace(shown, labels=_drawn_labels(shown.labels.shape, seed))
    examples, features = history.now, system.features
    if isinstance(history, QuantityHistory):
        counts = np.random.default_rng(seed).poisson(_COUNTED, examples.n).astype(np.float64)
        none = np.zeros(examples.n, np.bool_)
        plain = history.part(msgspec.structs.replace(examples, labels=counts, bounds=none), seed=seed)
        return msgspec.structs.replace(plain, expected=counts, drawn=counts)
    return TrainingSet(
        names=features.names_for("model"),
        rows=examples.rows[:, list(features.places_for("model"))],
        labels=_drawn_labels((examples.n,), seed),
        times=examples.times,
        amounts=examples.amounts,
    )


def _drawn_labels(shape: tuple[int, ...], seed: int) -> Floats:
    return (np.random.default_rng(seed).random(shape) < _LABELLED_SHARE).astype(np.float64)
