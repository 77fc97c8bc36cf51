"""Training: from a pinned log position to a registered model and its report; the same inputs and seed, the same bytes.

It reads the log and writes the registry, so it runs in another process than the server. Every kind of model that the
system offers is fitted and judged on the part that came later; the chosen kind is registered as it was judged, never
refitted on the test part.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from decalog.censoring import Heard, heard_of
from decalog.errors import ConfigError, DataError, near
from decalog.evaluation import (
    Outlook,
    Split,
    complete_until,
    completeness,
    contender,
    do_nothing,
    plain_split,
    report,
    split,
)
from decalog.examples import Examples, Floats, History
from decalog.fitting import fit_on_all, model_rows, training_set
from decalog.histories import history_of
from decalog.log import LogReader
from decalog.models.base import Model, ModelSpec
from decalog.references import REFERENCE, Reference, Seen, flows_of, public_values, reference_of
from decalog.registry import DECLARED, SIBLING, Manifest, Pin, Registry
from decalog.reports import Contender, Report, Role
from decalog.runtime import this_code
from decalog.system import System, load

REPORT = "report.json"
"""The report's file beside the model's own: what it was judged by is part of what it is."""

Truth = Callable[[str], Sequence[float]]
"""Request id → what is true of it, head by head, where a simulated world knows it."""

Say = Callable[[str], None]
_MOST_TESTED = 1 / 3
_HELD_BACK = 60


class Pinned(Protocol):
    """What was read of a log: up to which position, when its last record was known, µs, and which erasures it heeds."""

    position: int
    known_time: int
    erasures: int


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided before a training.

    Args:
        seed: of every fit and bootstrap.
        position: read the log up to here; None for all that is durable.
        model: kind to register; "" for the system's champion kind, the last of its MODELS.
        policy: parameters that the money is counted with; None for the system's defaults.
        test_share: of the labelled requests, the latest, that models are judged on.
        test_positives: where above 0, what holds the latest so many positives, and at most a third of all, takes the
            place of that share: what models are judged on, and have not learnt from, then does not grow with the log.
        least_positives: in the training part.
        least_test_positives: in the test part.
        refit: whether the chosen kind, once it is reported on, learns again from all that the log says by the pin. What
            is registered so is judged by a sibling (`registry.SIBLING`) that is put beside it.
        way_back: whether a first champion gets one before it that can be rolled back to: the last of the baselines, as
            the report compares it. Where labels are yes or no.
        currency: of the money in the report, ISO 4217.
        at_us: when the training runs, µs; only the history of aliases keeps it.
        by: who runs it.
    """

    seed: int = 0
    position: int | None = None
    model: str = ""
    policy: msgspec.Struct | None = None
    test_share: float = 0.2
    test_positives: int = 0
    least_positives: int = 30
    least_test_positives: int = 10
    refit: bool = False
    way_back: bool = False
    currency: str = "EUR"
    at_us: int = 0
    by: str = "training"

    def share_of(self, labels: Floats) -> float:
        """Returns the share of requests, or of things shown, that models are judged on.

        Args:
            labels: of all whose label is known, in order of time.

        >>> early, late = np.repeat([0.0, 1.0, 0.0], [50, 50, 100]), np.repeat([0.0, 1.0], [150, 50])
        >>> [round(TrainingPlan(test_positives=20).share_of(labels), 4) for labels in (early, late)]
        [0.3333, 0.1]
        """
        if not self.test_positives:
            return self.test_share
        positives = np.flatnonzero(labels == 1)[-self.test_positives :]
        return min(_MOST_TESTED, 1 - int(positives[0]) / len(labels)) if len(positives) else _MOST_TESTED


class TrainingResult(msgspec.Struct, frozen=True):
    """What a training gave.

    Args:
        model: id of the registered model.
        report: of the evaluation.
        promoted: whether it became the champion, because there was none.
    """

    model: str
    report: Report
    promoted: bool

    def text(self) -> str:
        """Returns the report and what became of the model."""
        return f"{self.report.markdown()}\n{self._fate()}\n"

    def brief(self) -> str:
        """Returns the report in a dozen lines, and what became of the model."""
        return f"{self.report.brief()}\n{self._fate()} `decalog models show {self.model[:12]}` prints all of it.\n"

    def _fate(self) -> str:
        what = "became champion" if self.promoted else "registered; `decalog models promote` makes it the champion"
        return f"Model {self.model[:12]}: {what}."


def quietly(_line: str) -> None:
    """Says nothing."""


def train(
    system: System,
    log: LogReader,
    *,
    registry: Registry,
    plan: TrainingPlan | None = None,
    truth: Truth | None = None,
    say: Say = quietly,
) -> TrainingResult:
    """Fits, judges and registers a model of a system.

    Args:
        system: whose.
        log: to read; a server may be writing to it meanwhile.
        registry: takes the model.
        plan: what is decided before.
        truth: of a simulated world, for the oracle.
        say: told of progress.

    Raises:
        ConfigError: the plan names an unknown model.
        DataError: too few labels have matured; the message says how many there are and how many are needed.
    """
    plan = plan or TrainingPlan()
    chosen = chosen_kind(system, plan)
    say("joining requests with their outcomes")
    with uncollected():
        history = history_of(log, system, position=plan.position)
        parts = _parts(history, plan)
    outlook = _outlook(system, plan, head=chosen.head)
    models, contenders = _contend(system, parts, outlook=outlook, refit=plan.refit, truth=truth, say=say)
    fitted = Fitted(models[chosen.name], parts.trained_at)
    if plan.refit:
        say(f"fitting {chosen.name} to all that is known")
        fitted = _on_all(system, history, chosen=chosen, plan=plan, params=outlook.policy.params)
    made = report(history, parts, contenders=contenders, metrics=system.metrics, currency=plan.currency)

    def put(kind: ModelSpec, one: Fitted) -> TrainingResult:
        manifest = manifest_of(system, history, chosen=kind, plan=plan, made=made)
        reference = reference_for(system, history, since=parts.trained_at, model=one.model, head=kind.head)
        files = files_of(made, reference, system=system)
        return registered(manifest, one, made=made, registry=registry, files=files, plan=plan)

    simpler = [spec for spec in system.models if spec.baseline and spec.name != chosen.name][-1:]
    if not (plan.way_back and simpler and registry.current(system.name) is None):
        return put(chosen, fitted)
    put(simpler[0], Fitted(models[simpler[0].name], parts.trained_at))
    result = put(chosen, fitted)
    why = f"the champion's kind; {simpler[0].name} is the way back"
    registry.promote(system.name, result.model, by=plan.by, why=why, at_us=plan.at_us)
    return msgspec.structs.replace(result, promoted=True)


class Fitted(NamedTuple):
    """A model, until when it learnt, µs, and its sibling (`registry.SIBLING`) with its time, where it has one."""

    model: Model
    until: int
    sibling: Model | None = None
    sibling_until: int = 0


def registered(
    manifest: Manifest,
    fitted: Fitted,
    *,
    made: Report,
    registry: Registry,
    files: Mapping[str, bytes],
    plan: TrainingPlan,
) -> TrainingResult:
    """Returns the result of a training whose model was put into the registry; the first one becomes the champion."""
    system = manifest.system
    parameters = manifest.parameters | {"trained_at": fitted.until}
    if fitted.sibling is not None:
        parameters[SIBLING] = fitted.sibling_until
    manifest = msgspec.structs.replace(manifest, parameters=parameters)
    id_ = registry.put(manifest, _writer_of(fitted, files))
    promoted = registry.current(system) is None
    if promoted:
        registry.promote(system, id_, by=plan.by, why="the first model", at_us=plan.at_us)
    return TrainingResult(id_, made, promoted)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps the garbage collector out: it would walk millions of records again and again, and finds no cycle there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def chosen_kind(system: System, plan: TrainingPlan) -> ModelSpec:
    """Returns the kind of model that a plan registers.

    Raises:
        ConfigError: it names an unknown one.
    """
    kinds = {spec.name: spec for spec in system.models}
    name = plan.model or system.models[-1].name
    if name not in kinds:
        raise ConfigError(
            where=f"training of {system.name}, model",
            given=f"'{name}'",
            expected=near(name, kinds),
            fix="Name a kind of the system's MODELS.",
        )
    return kinds[name]


def _parts(history: History, plan: TrainingPlan) -> Split:
    """Returns the honest split; where that has too few positives, the split by time alone, which the report says."""
    now = history.now
    end = complete_until(now)
    share = plan.share_of(now.labels[now.labelled & (now.times < end)].astype(np.float64))
    parts = split(history, test_share=share)
    if not _shortage(parts, plan):
        return parts
    parts = plain_split(history, test_share=share)
    short = _shortage(parts, plan)
    if short:
        raise too_few(f"{short}; {completeness(history.now).text()}", plan, system=history.schema.system)
    return parts


def too_few(given: str, plan: TrainingPlan, *, system: str, of: str = "positives") -> DataError:
    """Returns the error that says what a training lacks, and of what."""
    return DataError(
        where=f"training of {system}",
        given=given,
        expected=f"at least {plan.least_positives} {of} to learn from and {plan.least_test_positives} later "
        "ones to be judged on",
        fix="Wait until more labels mature, or import older history with its outcomes; fewer teach noise.",
    )


def _shortage(parts: Split, plan: TrainingPlan) -> str:
    """Returns in words what the parts lack; "" where they hold enough."""
    train, test = (int((part.labels == 1).sum()) for part in (parts.train, parts.test))
    enough = train >= plan.least_positives and test >= plan.least_test_positives
    return "" if enough else f"{train} matured positive labels in the training part and {test} in the test part"


def _outlook(system: System, plan: TrainingPlan, *, head: str) -> Outlook:
    params = plan.policy if plan.policy is not None else system.policy_params()
    return Outlook(
        policy=system.policy(params),
        idle=system.schema.label.observed_after[0],
        features=system.features,
        head=head,
        metrics=system.metrics,
        seed=plan.seed,
    )


def _contend(
    system: System, parts: Split, *, outlook: Outlook, refit: bool, truth: Truth | None, say: Say
) -> tuple[dict[str, Model], tuple[Contender, ...]]:
    """Returns kind → the model, fitted, and what every contender is worth on the test part."""
    data = training_set(system, parts.train)
    rows = model_rows(system, parts.test)
    contenders, models = [do_nothing(parts.test, outlook)], dict[str, Model]()
    for spec in system.models:
        say(f"fitting {spec.name}")
        fit = spec.surmises if refit and spec.surmises else spec.fit  # the report is of what `fit_on_all` fits again
        models[spec.name] = fit(data, outlook.seed)
        role: Role = "baseline" if spec.baseline else "model"
        predictions = models[spec.name].predict(rows)
        contenders.append(contender(spec.name, role, test=parts.test, predictions=predictions, outlook=outlook))
    if truth is not None:
        best = truths(parts.test, truth)[:, 0]
        contenders.append(contender("oracle", "oracle", test=parts.test, predictions=best, outlook=outlook))
    return models, tuple(contenders)


def _on_all(
    system: System, history: History, *, chosen: ModelSpec, plan: TrainingPlan, params: msgspec.Struct
) -> Fitted:
    """Returns a model of all that is known, and its sibling: all that was known before the latest positives came."""
    telling = load(system.whatif)

    def heard(examples: Examples) -> Heard:
        if telling is None:
            return heard_of(history, examples, shows={}, words={})
        told: Heard = telling.heard(history, examples, params=params)
        return told

    now = history.now
    heard_now = heard(now)
    # Where nobody tells for certain, what analysts say has to do.
    is_told = np.isinf(heard_now.odds) if np.isinf(heard_now.odds).any() else now.labels == 1
    latest = now.times[is_told][-(plan.test_positives or _HELD_BACK) :]
    until = max(int(latest[0]), int(np.quantile(now.times, 1 - _MOST_TESTED)))
    then = history.as_of(until)
    sibling = fit_on_all(chosen, then, heard=heard(then), system=system, seed=plan.seed)
    model = fit_on_all(chosen, now, heard=heard_now, system=system, seed=plan.seed, first=sibling)
    return Fitted(model, history.known_time, sibling, until)


def truths(test: Examples, truth: Truth) -> Floats:
    """Returns what is true of requests, n × heads."""
    return np.array([truth(id_) for id_ in test.ids], np.float64).reshape(test.n, -1)


def manifest_of(system: System, history: Pinned, *, chosen: ModelSpec, plan: TrainingPlan, made: Report) -> Manifest:
    """Returns what the registry says of a model."""
    return Manifest(
        system=system.name,
        name=chosen.name,
        format=chosen.format,
        head=chosen.head,
        features=system.features.names_for("model"),
        feature_set=system.features.version,
        pin=Pin((history.position,), history.erasures, history.known_time),
        code=this_code(),
        seed=plan.seed,
        parameters={
            "test_share": plan.test_share,
            "policy": msgspec.to_builtins(plan.policy if plan.policy is not None else system.policy_params()),
        },
        metrics=made.contender(chosen.name).values,
    )


def files_of(made: Report, reference: Reference | None, *, system: System) -> dict[str, bytes]:
    """Returns what lies beside a model's own files: its report, its features, and what it is watched against."""
    files = {REPORT: made.to_json().encode(), DECLARED: system.features.to_json()}
    return files if reference is None else files | {REFERENCE: msgspec.json.encode(reference)}


def reference_for(system: System, history: History, *, since: int, model: Model, head: str) -> Reference | None:
    """Returns what requests are watched against; `head` names what is predicted, joined by "+"."""
    recent = history.now.take(history.now.times >= since)
    rows = model_rows(system, recent)
    seen = Seen(
        times=recent.times,
        rows=rows,
        requests=[public_values(request) for request in recent.requests],
        predictions=model.predict(rows).reshape(recent.n, -1),
    )
    names = system.features.names_for("model")
    flows = flows_of(history.reported(), recent.times)
    return reference_of(seen, system.schema, names=names, heads=tuple(head.split("+")), flows=flows, model=model)


def _writer_of(fitted: Fitted, files: Mapping[str, bytes]) -> Callable[[Path], Mapping[str, Any]]:
    def write(folder: Path) -> Mapping[str, Any]:
        settings = dict(fitted.model.save(folder))
        if fitted.sibling is not None:
            (folder / SIBLING).mkdir(exist_ok=True)
            settings[SIBLING] = fitted.sibling.save(folder / SIBLING)
        # After the model's own: a user's folder may hold those of an earlier training.
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return settings

    return write
