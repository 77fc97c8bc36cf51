"""A system on a log: what it decides with is read from log and registry, so that replay finds the same again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import msgspec

from decalog.challengers import resume
from decalog.decisions import Decision, Versions
from decalog.errors import ConfigError, ModelError, ReplayError, UnknownRecordError
from decalog.events import Record
from decalog.features.definition import FeatureSet, lookups
from decalog.folding import body_of
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.judging import Serving
from decalog.log import Log, LogReader
from decalog.models.base import Model
from decalog.models.formats import load_model
from decalog.parity import Parity
from decalog.policy import Policy, policy_version, with_rates
from decalog.registry import SIBLING, Artefact, Registry
from decalog.replay import Replayer
from decalog.retrieval import Retrieval
from decalog.rollout import Rollout, params_of
from decalog.runtime import runtime
from decalog.schema import Field
from decalog.serving import Service
from decalog.system import System, find_system, load
from decalog.tables import Tables
from decalog.views import Views, begin, follow

BITS = "bits"
"""Unit of the features whose tables hold lists: a bit for each of the policy's parameter `lists`, by its place."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment of a system may set; what is None stays as the log has it, or the system's default.

    Args:
        rates: base currency and exchange rates.
        policy: parameters of the policy.
        signals: a user's own numeric request fields.
        shadow: log decisions beside the caller's own system.
        allowed: dotted paths of model classes of the user's own that may be imported.
        state: address of the server that keeps the features' state; "" keeps it in memory.
    """

    rates: Rates | None = None
    policy: msgspec.Struct | None = None
    signals: tuple[Field, ...] | None = None
    shadow: bool = False
    allowed: tuple[str, ...] = ()
    state: str = ""


class Deployment:
    """One system of one home.

    Args:
        home: of the deployment.
        system: its name, the dotted path of a user's own, or the system itself.
        log: of the home; a writer's if `prepare` or `service` is called.
        setup: settings.
        entropy: gives random bytes for decision ids.

    Attributes:
        reading: what trains and judges reads: the log, or by a loop one that is read on (`histories.Followed`).
    """

    def __init__(
        self,
        home: Home,
        system: str | System,
        log: Log,
        setup: Setup | None = None,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.home = home
        self.log = log
        self.setup = setup or Setup()
        self.tables = Tables(log)
        self.registry = Registry(home.root)
        self.reading: LogReader = log
        plain = find_system(system) if isinstance(system, str) else system
        self._entropy = entropy
        own = self.setup.signals
        stored = self.tables.get(plain.name, "signals")
        self.signals = own if own is not None else msgspec.convert(stored or [], tuple[Field, ...])
        self.system: System = plain.with_signals(self.signals)
        self.system.features.check(self.system.schema)
        # What the code's policy reads, whichever feature set is in force.
        self._for_policy = self.system.features.names_for("policy")
        self.problem = ""
        self.views: Views | None = None
        self.retrieval: Retrieval | None = None
        self._runtimes: dict[int, dict[str, Any]] = {}
        self._loaded: dict[tuple[str, str], tuple[Model, str]] = {}

    def prepare(self) -> Ingest:
        """Appends what the deployment decides with to the log, where it is new, and returns its admission.

        Raises:
            ConfigError: the policy cannot be made of its parameters, or the rates are refused; nothing was appended.
        """
        name, rates = self.system.name, self.rates()
        policy = with_rates(self.setup.policy, rates) if self.setup.policy else self.policy_params()
        admitted_policy(
            self.system, policy, tables=self.tables
        )  # what is refused never comes into force at a start either
        self.tables.put(name, "signals", content=self.signals)
        self.tables.put(name, "features", content=msgspec.Raw(self.system.features.to_json()))
        self.tables.put(name, "policy", content=policy, by="the settings of a start" if self.setup.policy else "")
        self.tables.put("", "rates", content=rates)
        self.log.commit()
        ingest, self.retrieval = admission(self.system, self.log, rates=rates, entropy=self._entropy)
        return ingest

    def rates(self) -> Rates:
        """Returns the exchange rates in force.

        Raises:
            ConfigError: the log holds amounts in another base currency.
        """
        stored = msgspec.convert(self.tables.get("", "rates") or {}, Rates)
        rates = self.setup.rates or stored
        if rates.base != stored.base and self.log.find("table", "/rates") and self._holds_amounts():
            raise ConfigError(
                where="rates, base",
                given=f"{rates.base}, where the log holds amounts in {stored.base}",
                expected=f"{stored.base}: sums over windows and costs would mix two currencies",
                fix=f"Give rates to {stored.base}, or begin a new --home.",
            )
        return rates

    def policy_params(self) -> msgspec.Struct:
        """Returns the policy parameters in force: those of the log, which `prepare` gives those of the settings."""
        stored = self.tables.get(self.system.name, "policy")
        return with_rates(msgspec.convert(stored or {}, self.system.policy_params), self.rates())

    def service(self) -> Service:
        """Returns the online service, its views brought up to the log's position."""
        ingest = self.prepare()
        self.tables.put("", "runtime", content=runtime())
        self.log.commit()
        self.views = follow(self.begin(), self.log)
        made = Service(
            self.system,
            ingest,
            self.views.state,
            serving=self.serving(),
            entropy=self._entropy,
            retrieval=self.retrieval,
        )
        made.problem, made.challenger = self.problem, self._challenger
        resume(made)
        return made

    def as_served(self) -> Deployment:
        """Returns it as it decides: on the feature set of its champion; on the code's own where that cannot be used."""
        current = self.registry.current(self.system.name)
        try:
            return self if current is None else self.on_set_of(current)
        except (ModelError, ConfigError):
            return self  # `serving` says why

    def on_set_of(self, model: str) -> Deployment:
        """Returns it on the feature set that a model was trained on; itself where it stands on that already.

        Raises:
            ModelError: the model is missing or damaged, or neither it nor the log holds its declarations.
            ConfigError: they do not fit the system's schema, or lack what its policy reads.
        """
        artefact = self._artefact(model)
        named = artefact.manifest.feature_set
        if named == self.system.features.version:
            return self
        features = artefact.features() or self._logged_set(named)
        if features is None:
            raise _trained_otherwise(artefact, self.system.features.version)
        features.check(self.system.schema)
        missing = [name for name in self._for_policy if name not in features.names]
        if missing:
            raise ConfigError(
                where=f"features of {self.system.name!r}, version {named}",
                given=f"no {' and no '.join(missing)}",
                expected="every feature of use 'policy' that the running code declares: its policy reads them",
                fix="Declare it in the new set and train again, or restart with code whose policy does without.",
            )
        other = copy(self)
        other.system = msgspec.structs.replace(self.system, features=features)
        return other

    def begin(self) -> Views:
        """Returns the system's views as far as they were kept, in the home or on another server."""
        return begin(self.system.features, self.log, folder=self.home.state, state=self.setup.state)

    def serving(self) -> Serving:
        """Returns model, policy and versions in force. A champion that cannot be used leaves the declared fallback."""
        params = self.policy_params()
        model, head, version = self._champion()
        versions = Versions(
            version, policy_version(params), self.system.features.version, self.log.find("table", "/runtime")[-1]
        )
        policy = self.system.policy(params)
        return Serving(model=model, head=head, policy=policy, versions=versions, shadow=self.setup.shadow)

    def refresh(self, service: Service, found: Serving | None = None) -> bool:
        """Gives the service the champion of now; returns whether it changed.

        A champion that cannot be used replaces none that works: the old one goes on, and `problem` says why.

        Args:
            service: that decides.
            found: what `serving` gave in another thread, where that was asked.
        """
        current = self.registry.current(self.system.name) or ""
        if current[:12] == service.serving.versions.model:
            if current:
                self.problem = service.problem = ""
            return False
        found = found or self.serving()
        service.problem = self.problem
        if found.model is None and service.serving.model is not None:
            return False
        service.adopt(found.under(service.serving))  # other parameters may have come while the model was loaded
        return True

    def replayer(self) -> Replayer:
        """Returns the replayer of the system's decisions."""
        return Replayer(
            self.log,
            self.system.name,
            serving_for=_Past(self).serving_for,
            draw_secret=self.log.vault.secret("draws"),
            notes_for=self._notes,
        )

    def parity(self) -> Parity:
        """Returns what compares the system's logged features with the log."""
        return Parity(self.log, self.system.name, notes_for=self._notes)

    def _holds_amounts(self) -> bool:
        return any(record.kind in ("event", "decision") for record in self.log.read())

    def _champion(self) -> tuple[Model | None, str, str]:
        head = self.system.models[-1].head
        current = self.registry.current(self.system.name)
        if current is None:
            self.problem = "no champion: train one"
            return None, head, ""
        try:
            self.on_set_of(current)  # where the set is what is wrong, it says how
            model, head = self._champions_model(current)
            if self.retrieval is not None:
                self.retrieval.adopt(model, aside=True)
        except (ModelError, ConfigError) as error:
            self.problem = f"champion {current[:12]}: {error}"
            return None, head, ""
        self.problem = ""
        return model, head, current[:12]

    def _champions_model(self, version: str) -> tuple[Model, str]:
        """Returns what `model` does; the champion before stays loaded, with its index, so that a way back is short."""
        key = (version, self.system.features.version)
        made = self._loaded.pop(key, None) or self.model(version)
        before = list(self._loaded.items())[-1:]
        self._loaded = dict([*before, (key, made)])
        return made

    def _challenger(self, step: Rollout, champion: Serving) -> Serving:
        """Returns what the challenger of a rollout decides with.

        Raises:
            ModelError: its model is missing, damaged, of another feature set than the champion, or of other heads.
            ConfigError: its parameters do not fit, or the policy refuses them.
        """
        model, version = champion.model, champion.versions.model
        if step.model:
            model, head = self.model(step.model, champion.versions.features)
            version = self._artefact(step.model).id[:12]
            if head != champion.head:
                raise _predicts_otherwise(version, head, champion.head)
        versions = msgspec.structs.replace(champion.versions, model=version)
        made = msgspec.structs.replace(champion, model=model, versions=versions)
        if step.policy is None:
            return made
        try:
            params = with_rates(msgspec.convert(step.policy, self.system.policy_params), self.rates())
        except msgspec.ValidationError as error:
            raise _parameters_misfit(self.system, str(error)) from None
        policy = self.system.policy(params)
        versions = msgspec.structs.replace(versions, policy=policy_version(params))
        return msgspec.structs.replace(made, policy=policy, versions=versions)

    def model(self, version: str, features: str | None = None, *, sibling: bool = False) -> tuple[Model, str]:
        """Returns a stored model and what it predicts, or its sibling (`registry.SIBLING`), where it has one.

        Raises:
            ModelError: it is missing, damaged, or was trained on another feature set.
        """
        artefact = self._artefact(version)
        expected = features or self.system.features.version
        if artefact.manifest.feature_set != expected:
            raise _trained_otherwise(artefact, expected)
        manifest, folder = artefact.manifest, artefact.folder
        settings: Mapping[str, Any] = manifest.settings
        if sibling:
            folder, settings = folder / SIBLING, settings[SIBLING]
        return load_model(manifest.format, folder, settings=settings, allowed=self.setup.allowed), manifest.head

    def _artefact(self, version: str) -> Artefact:
        try:
            return self.registry.get(version)
        except UnknownRecordError:
            raise ModelError(
                where=f"model {version[:12]}",
                given="a model whose files are gone",
                expected="its folder in models/",
                fix="Mend the id, restore it from a backup, or promote another.",
            ) from None

    def _logged_set(self, version: str) -> FeatureSet | None:
        content = self.tables.version(self.system.name, "features", version=version)
        return None if content is None else FeatureSet.from_json(msgspec.json.encode(content))

    def _notes(self, decision: Decision) -> tuple[str, ...]:
        then = self._runtime_at(decision.versions.runtime)
        now = runtime()
        return tuple(
            f"{name}: {then.get(name)} then, {now.get(name)} now"
            for name in ("code", "lock", "cpu")
            if then.get(name) != now.get(name)
        )

    def _runtime_at(self, seq: int) -> dict[str, Any]:
        if seq not in self._runtimes:
            self._runtimes[seq] = self.tables.get("", "runtime", before=seq + 1) or {}
        return self._runtimes[seq]


def admission(
    system: System, log: Log, *, rates: Rates, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[Ingest, Retrieval | None]:
    """Returns what admits rows, and the system's retrieval: it has followed the log and goes on with what is admitted.

    Args:
        system: whose; its retrieval is None where the request itself is the only candidate.
        log: a writer's.
        rates: for amounts in other currencies.
        entropy: gives random bytes for ids.
    """
    ingest = Ingest(system.schema, log, rates=rates, entropy=entropy)
    if not system.retrieval:
        return ingest, None
    retrieval: Retrieval = load(system.retrieval)()
    for record in log.read():
        tell(retrieval, record, ingest=ingest)
    ingest.describe, ingest.on_record = retrieval.describe, retrieval.follow
    return ingest, retrieval


def tell(retrieval: Retrieval, record: Record, *, ingest: Ingest) -> None:
    """Lets a retrieval follow a record, where it is one of its system's that was admitted and not erased."""
    is_own = record.system == ingest.schema.system and not record.reason and not ingest.standing.hides(record)
    body = body_of(record) if is_own else None
    if body is not None:
        retrieval.follow(record, body)


def retrieve_with(service: Service, retrieval: Retrieval) -> None:
    """Lets a service find candidates with a retrieval that has followed the log to its position, from now on."""
    service.retrieval, service.ingest.describe = retrieval, retrieval.describe
    service.adopt(service.serving)


def admitted_policy(system: System, params: msgspec.Struct, *, tables: Tables) -> Policy:
    """Returns the policy of parameters that may come into force.

    Raises:
        ConfigError: it refuses them, or the members of one list would become another's.
    """
    before = (tables.get(system.name, "policy") or {}).get("lists", ())
    after = tuple(getattr(params, "lists", ()))
    is_kept = all(name not in after or after.index(name) == place for place, name in enumerate(before))
    if is_kept and len(after) >= len(before):
        return system.policy(params)
    if any(tables.get(system.name, lookup.table) for lookup in lookups(system.features) if lookup.unit == BITS):
        raise ConfigError(
            where=f"{system.name} policy",
            given=f"lists {', '.join(after) or 'none'}, where members stand on {', '.join(before)} in that order",
            expected="each list at its place: members stand there, not at a name",
            fix="Append new lists behind the others; a list may be renamed in its place.",
        )
    return system.policy(params)


class _Past:
    """What past decisions were made with, read from the log and the registry by the versions they name."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._known: dict[Versions, tuple[System, Serving]] = {}

    def serving_for(self, decision: Decision) -> tuple[System, Serving]:
        """Returns system and serving of a decision's versions.

        Raises:
            ReplayError: one of them is gone; the message names it.
        """
        versions = decision.versions
        found = self._known.get(versions)
        if found is None:
            found = self._known[versions] = self._load(versions)
        return found

    def _load(self, versions: Versions) -> tuple[System, Serving]:
        deployment = self._deployment
        system = deployment.system
        features = deployment.tables.version(system.name, "features", version=versions.features)
        if features is None:
            raise _lost(system.name, f"features {versions.features}")
        params = params_of(deployment.tables, system.name, version=versions.policy)
        if params is None:
            raise _lost(system.name, f"policy {versions.policy}")
        past = msgspec.structs.replace(system, features=FeatureSet.from_json(msgspec.json.encode(features)))
        policy = system.policy(msgspec.convert(params, system.policy_params))
        model, head = None, system.models[-1].head
        if versions.model:
            try:
                model, head = deployment.model(versions.model, versions.features)
            except ModelError as error:
                raise _gone(system.name, f"model {versions.model}", f"{error.where}: {error.given}") from None
        return past, Serving(model=model, head=head, policy=policy, versions=versions)


def _lost(system: str, what: str) -> ReplayError:
    return _gone(system, what, "the log holds no table of that version")


def _gone(system: str, what: str, why: str) -> ReplayError:
    return ReplayError(
        where=f"{system} replay",
        given=f"a decision made with {what}, which is gone: {why}",
        expected="every version that a decision names",
        fix="Restore it from a backup.",
    )


def _predicts_otherwise(model: str, head: str, expected: str) -> ModelError:
    return ModelError(
        where=f"challenger {model}",
        given=f"a model of {head}",
        expected=f"one of {expected}, as the champion",
        fix="Train the same kind of model again, or promote this one without a rollout.",
    )


def _parameters_misfit(system: System, why: str) -> ConfigError:
    return ConfigError(
        where=f"{system.name} rollout, policy",
        given=why,
        expected=f"parameters of {system.policy_params.__name__}",
        fix="Begin another rollout with parameters of the running code.",
    )


def _trained_otherwise(artefact: Artefact, expected: str) -> ModelError:
    return ModelError(
        where=f"model {artefact.id[:12]}",
        given=f"a model of feature set {artefact.manifest.feature_set}",
        expected=f"one of feature set {expected}",
        fix="Train again: the declarations changed.",
    )


def replay_aside(
    home: Home, paths: Mapping[str, str], *, allowed: Mapping[str, Sequence[str]] | None = None
) -> Callable[[str, str, str], Any]:
    """Returns a replay, or an explanation, that runs as a process of its own: a busy thread here would stall replies.

    One runs at a time: each folds the log anew, and so many at once would take the machine from the decisions.

    Args:
        home: of the deployment.
        paths: system name → what `find_system` finds it by: the name, or the dotted path of a user's own.
        allowed: system name → model classes of the user's own that may be imported.
    """
    alone = asyncio.Semaphore(1)

    async def _again(system: str, decision_id: str, verb: str) -> dict[str, Any]:
        words = [word for path in (allowed or {}).get(system, ()) for word in ("--allow-model", path)]
        async with alone:
            path = paths.get(system, system)
            line = ("decalog", verb, path, decision_id, *words, "--json", "--home", str(home.root))
            out, err, status = await run_aside(*line)
        try:
            report: dict[str, Any] = msgspec.json.decode(out)
        except msgspec.DecodeError:
            raise ReplayError(
                where=f"{system} {verb}",
                given=f"a process that ended with {status}: {err.decode(errors='replace')[-400:]}",
                expected="a report",
                fix=f"Run `decalog {verb}` by hand to see more.",
            ) from None
        return report

    return _again


async def run_aside(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
    """Runs a module of decalog in a process of its own; returns what it wrote, its errors and its status.

    Args:
        words: the module and its arguments.
        told: what it reads from its standard input.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words), stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, "NO_COLOR": "1"}
    )
    try:
        out, err = await process.communicate(told)
    finally:
        # Where the server stops meanwhile, nobody waits for the answer any more.
        if process.returncode is None:
            process.kill()
    return out, err, process.returncode
