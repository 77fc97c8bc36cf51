"""A system on a log: what it decides with is read from log and registry, so that replay finds the same again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from decalog.decisions import Decision, Versions
from decalog.errors import ConfigError, ModelError, ReplayError, UnknownRecordError
from decalog.features.definition import FeatureSet
from decalog.features.remote import RemoteState
from decalog.home import Home
from decalog.ingest import Ingest, Rates
from decalog.log import Log
from decalog.models.base import Model
from decalog.models.formats import load_model
from decalog.parity import Parity
from decalog.policy import policy_version, with_rates
from decalog.registry import Registry
from decalog.replay import Replayer
from decalog.runtime import runtime, this_code
from decalog.schema import Field
from decalog.serving import Service, Serving
from decalog.stores.table import open_state
from decalog.system import System, find_system
from decalog.tables import Tables
from decalog.views import Views, bring_up, follow, snapshot_path


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
        plain = find_system(system) if isinstance(system, str) else system
        self._entropy = entropy
        own = self.setup.signals
        stored = self.tables.get(plain.name, "signals")
        self.signals = own if own is not None else msgspec.convert(stored or [], tuple[Field, ...])
        self.system: System = plain.with_signals(self.signals)
        self.system.features.check(self.system.schema)
        self.problem = ""
        self.views: Views | None = None
        self._runtimes: dict[int, dict[str, Any]] = {}

    def prepare(self) -> Ingest:
        """Appends what the deployment decides with to the log, where it is new, and returns its admission.

        Raises:
            ConfigError: the policy cannot be made of its parameters, or the rates are refused; nothing was appended.
        """
        name, rates = self.system.name, self.rates()
        policy = with_rates(self.setup.policy, rates) if self.setup.policy else self.policy_params()
        self.system.policy(policy)  # what it refuses must never come into force, not even for the next start
        self.tables.put(name, "signals", content=self.signals)
        self.tables.put(name, "features", content=msgspec.Raw(self.system.features.to_json()))
        self.tables.put(name, "policy", content=policy, by="the settings of a start" if self.setup.policy else "")
        self.tables.put("", "rates", content=rates)
        self.log.commit()
        return Ingest(self.system.schema, self.log, rates=rates, entropy=self._entropy)

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
        self.views = self._remote_views() if self.setup.state else self.bring_up()
        made = Service(self.system, ingest, self.views.state, serving=self.serving(), entropy=self._entropy)
        made.problem = self.problem
        return made

    def bring_up(self) -> Views:
        """Returns the system's views at the log's position."""
        return bring_up(self.system.features, self.log, folder=self.home.state)

    @property
    def snapshot(self) -> Path:
        """Where the snapshot of its views stands, if there is one."""
        return snapshot_path(self.home.state, self.system.features)

    def serving(self) -> Serving:
        """Returns model, policy and versions in force. A champion that cannot be used leaves the declared fallback."""
        params = self.policy_params()
        model, head, version = self._champion()
        versions = Versions(
            version, policy_version(params), self.system.features.version, self.log.find("table", "/runtime")[-1]
        )
        policy = self.system.policy(params)
        return Serving(model=model, head=head, policy=policy, versions=versions, shadow=self.setup.shadow)

    def refresh(self, service: Service) -> bool:
        """Gives the service the champion of now; returns whether it changed.

        A champion that cannot be used replaces none that works: the old one goes on, and `problem` says why.
        """
        current = self.registry.current(self.system.name) or ""
        if current[:12] == service.serving.versions.model:
            if current:
                self.problem = service.problem = ""
            return False
        if self.problem and current[:12] in self.problem:
            return False
        found = self.serving()
        service.problem = self.problem
        if found.model is None and service.serving.model is not None:
            return False
        service.adopt(found)
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

    def _remote_views(self) -> Views:
        """Returns the views kept on another server, brought up to the log's position."""
        state = self._remote_state()
        start = state.position
        return follow(Views(state, self.log.durable, start, ""), self.log)

    def _remote_state(self) -> RemoteState:
        """Returns the state on another server, as far as it had come; empty where it is not of this log."""
        features = self.system.features
        home = blake2b(self.log.vault.secret("state"), digest_size=8).hexdigest()
        space = f"{home}:{self.system.name}:{features.version}:{this_code().sources[:12]}"
        store = open_state(self.setup.state, space, kept_us=features.lateness_us + features.longest_window_us)
        state = RemoteState(features, store, durable=lambda: self.log.durable)
        last = state.position - 1
        # A log that was restored from a backup may be shorter, or have gone on with other records.
        if last >= 0 and not (last < self.log.durable and self.log.get(last).known_time == state.watermark):
            state.reset()
        return state

    def _holds_amounts(self) -> bool:
        return any(record.kind in ("event", "decision") for record in self.log.read())

    def _champion(self) -> tuple[Model | None, str, str]:
        head = self.system.models[-1].head
        current = self.registry.current(self.system.name)
        if current is None:
            self.problem = "no champion: train one"
            return None, head, ""
        try:
            model, head = self.model(current)
        except (ModelError, ConfigError) as error:
            self.problem = f"champion {current[:12]}: {error}"
            return None, head, ""
        self.problem = ""
        return model, head, current[:12]

    def model(self, version: str, features: str | None = None) -> tuple[Model, str]:
        """Returns a stored model and what it predicts.

        Raises:
            ModelError: it is missing, damaged, or was trained on another feature set.
        """
        try:
            artefact = self.registry.get(version)
        except UnknownRecordError:
            raise ModelError(
                where=f"model {version[:12]}",
                given="a model whose files are gone",
                expected="its folder in models/",
                fix="Restore it from a backup, or promote another.",
            ) from None
        expected = features or self.system.features.version
        if artefact.manifest.feature_set != expected:
            raise ModelError(
                where=f"model {artefact.id[:12]}",
                given=f"a model of feature set {artefact.manifest.feature_set}",
                expected=f"one of feature set {expected}",
                fix="Train again: the declarations changed.",
            )
        manifest = artefact.manifest
        model = load_model(manifest.format, artefact.folder, settings=manifest.settings, allowed=self.setup.allowed)
        return model, manifest.head

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
        features = self._table("features", versions.features)
        params = self._table("policy", versions.policy)
        past = msgspec.structs.replace(system, features=FeatureSet.from_json(msgspec.json.encode(features)))
        policy = system.policy(msgspec.convert(params, system.policy_params))
        model, head = None, system.models[-1].head
        if versions.model:
            try:
                model, head = deployment.model(versions.model, versions.features)
            except ModelError as error:
                raise _gone(system.name, f"model {versions.model}", f"{error.where}: {error.given}") from None
        return past, Serving(model=model, head=head, policy=policy, versions=versions)

    def _table(self, name: str, version: str) -> Any:
        content = self._deployment.tables.version(self._deployment.system.name, name, version=version)
        if content is None:
            raise _gone(self._deployment.system.name, f"{name} {version}", "the log holds no table of that version")
        return content


def _gone(system: str, what: str, why: str) -> ReplayError:
    return ReplayError(
        where=f"{system} replay",
        given=f"a decision made with {what}, which is gone: {why}",
        expected="every version that a decision names",
        fix="Restore it from a backup.",
    )


def replay_aside(
    home: Home, paths: Mapping[str, str], *, allowed: Mapping[str, Sequence[str]] | None = None
) -> Callable[[str, str], Any]:
    """Returns a replay that runs as a process of its own: a busy thread beside the server would stall its replies.

    One runs at a time: each folds the log anew, and so many at once would take the machine from the decisions.

    Args:
        home: of the deployment.
        paths: system name → what `find_system` finds it by: the name, or the dotted path of a user's own.
        allowed: system name → model classes of the user's own that may be imported.
    """
    alone = asyncio.Semaphore(1)

    async def replay(system: str, decision_id: str) -> dict[str, Any]:
        words = [word for path in (allowed or {}).get(system, ()) for word in ("--allow-model", path)]
        async with alone:
            out, err, status = await _run("replay", paths.get(system, system), decision_id, *words, "--json", home=home)
        try:
            report: dict[str, Any] = msgspec.json.decode(out)
        except msgspec.DecodeError:
            raise ReplayError(
                where=f"{system} replay",
                given=f"a replay process that ended with {status}: {err.decode(errors='replace')[-400:]}",
                expected="a report",
                fix="Run `decalog replay` by hand to see more.",
            ) from None
        return report

    return replay


async def _run(*words: str, home: Home) -> tuple[bytes, bytes, int | None]:
    """Runs a command of decalog on a home; returns what it wrote, its errors and its status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "decalog", *words, "--home", str(home.root)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        out, err = await process.communicate()
    finally:
        # Where the server stops meanwhile, nobody waits for the answer any more.
        if process.returncode is None:
            process.kill()
    return out, err, process.returncode
