"""A system: the eight rooms assembled. The spine asks every system for the same named parts and nothing more."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from decalog.errors import ConfigError, near
from decalog.features.definition import FeatureSet
from decalog.metrics import Metric
from decalog.models.base import ModelSpec
from decalog.policy import Policy
from decalog.schema import Schema


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One production decision system.

    Args:
        schema: events, requests, actions, outcomes and their maturity.
        features: declarations.
        models: what can be trained, honest baselines first, the champion's kind last.
        policy: makes the policy from its parameters.
        policy_params: type of the parameters; its defaults are the system's.
        metrics: three tiers.
        monitors: what is watched, beside what every system is (`monitoring.monitors_of`).
        drifts: what its world can switch on that a watch must notice, each a `monitoring.Drift`.
        false_alarms_a_week: how many its people put up with, all monitors of a watch together.
        world: dotted path `module:Class` of the simulated world; judged rooms never import it.
        deadline_ms: budget of one decision, from parsed request to stamped record.
        wire: dotted path `module:WIRE` of the protocols that its field speaks besides our JSON, see `http/wires.py`.
        lead: share, in (0, 1], of the money between the best baseline and the oracle of its world that the champion's
            kind takes at least (conformance 9).
        tryout: days of history and size of its world that `decalog up` begins with.
        retrieval: dotted path `module:Class` of what finds the candidates (`retrieval.py`); "" where the request itself
            is the only one.
        found: dotted path `module:function` of what adds to a report how well retrieval finds, (contenders; `name` and
            `model` chosen, `test` part) → contenders with more; "" where nothing does.
        recovered: dotted path `module:function` of what stands behind quantities that are lower bounds,
            (`quantities.Told`; seed) → (expected, drawn), float64, one a request; "" where a bound is taken as it is.
        whatif: dotted path `module:name` of what its log tells of other choices, a `Revealed` or `Slots` (`whatif.py`);
            "" where it does not say.
        loop: dotted path `module:name` of how its loop goes round, a `LoopPlan` (`loop.py`); "" where it has none.
        explained_at_once: actions whose decisions are explained when they are made, aside; all others on demand.
        fixed: features and public request values that no explanation proposes to change, besides who is named.
        commands: verb → dotted path `module:app` of a typer app of the system's own: `decalog VERB SYSTEM …` runs it.
    """

    schema: Schema
    features: FeatureSet
    models: tuple[ModelSpec, ...]
    policy: Callable[[Any], Policy]
    policy_params: type[msgspec.Struct]
    metrics: tuple[Metric, ...]
    monitors: tuple[Any, ...]
    world: str
    drifts: tuple[Any, ...] = ()
    false_alarms_a_week: float = 0.1
    deadline_ms: int = 100
    wire: str = ""
    retrieval: str = ""
    found: str = ""
    recovered: str = ""
    whatif: str = ""
    loop: str = ""
    tryout: tuple[int, float] = (180, 0.25)
    lead: float = 0.01
    explained_at_once: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    commands: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """The system's name."""
        return self.schema.system

    def with_signals(self, signals: tuple[Any, ...]) -> System:
        """Returns the system with a user's own numeric request fields, each also a feature of its model."""
        if not signals:
            return self
        names = tuple(field.name for field in signals)
        return msgspec.structs.replace(
            self, schema=self.schema.with_fields(signals), features=self.features.with_attributes(names)
        )


SYSTEMS: Mapping[str, str] = {name: f"decalog.systems.{name}.system:SYSTEM" for name in ("feed", "fraud", "demand")}
"""Name → dotted path of the systems that come with decalog. A user's own is named by its dotted path."""


def find_system(name: str) -> System:
    """Returns the system of a name, or of a dotted path such as `my_package.system:SYSTEM`.

    Raises:
        ConfigError: there is none.
    """
    found = load(SYSTEMS.get(name, name))
    if not isinstance(found, System):
        raise ConfigError(
            where="system",
            given=repr(name),
            expected=f"{near(name, SYSTEMS)}, or a dotted path such as my_package.system:SYSTEM",
            fix="`decalog new NAME` drafts a system of your own.",
        )
    return found


def find_command(verb: str, system: str, *words: str) -> Callable[[], None] | None:
    """Returns what runs a system's own command on the words that follow, or None where the system brings none."""
    is_known = system in SYSTEMS or ":" in system
    command = load(find_system(system).commands.get(verb, "")) if is_known else None
    return None if command is None else partial(command, words, prog_name=f"decalog {verb} {system}")


def load(path: str) -> Any:
    """Returns what a dotted path `module:name` names, or None where it names nothing.

    Raises:
        ConfigError: the module is there, but lacks a module that it imports.
    """
    module, _, name = path.partition(":")
    if not name or not module or module.startswith("."):
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        lacking = error.name or ""
        if module == lacking or module.startswith(f"{lacking}."):
            return None
        raise ConfigError(
            where=path,
            given=f"a module that imports {lacking}, which is not installed",
            expected="a module that can be imported",
            fix=f"Install {lacking}, or mend the import.",
        ) from error
