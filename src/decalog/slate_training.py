"""Training where slots hold things: from what slates showed to a registered model of several heads and its report.

    things shown in order of time  ────────────────────────────────────────────────────────────▶
    │ train: labels matured at the training date │ gap: still awaited │ test │ awaited at the pin │

Models are compared by how they would have ordered what was shown: whole slates that nobody saw have no outcome, so the
log cannot tell what they would have brought. What people did stands in the row of the slates as they were shown.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np

from decalog.evaluation import described, measure
from decalog.examples import Floats
from decalog.impressions import ImpressionHistory
from decalog.log import LogReader
from decalog.models.base import Model, ModelSpec, SlateSet
from decalog.policy import Policy
from decalog.references import Reference, Seen, public_values, reference_of
from decalog.registry import Registry
from decalog.reports import Completeness, Contender, Report, Role, Support
from decalog.slate_metrics import Ranked
from decalog.system import System, load
from decalog.training import (
    Fitted,
    Say,
    TrainingPlan,
    TrainingResult,
    chosen_kind,
    files_of,
    manifest_of,
    quietly,
    registered,
    too_few,
    uncollected,
)

SHOWN = "as shown"
"""Name of the row of the slates as they were shown."""


@runtime_checkable
class Ranking(Protocol):
    """A model with parts of its own beside the features, such as embeddings: rows alone do not say what it predicts."""

    def rank(self, data: SlateSet) -> Floats:
        """Returns predictions for things shown, n × heads, as serving would have made them."""


class SlatePolicy(Policy, Protocol):
    """A policy whose slots hold things."""

    def worth(self, heads: tuple[str, ...], rows: Floats) -> Floats:
        """Returns what things are worth, minor units, by what is predicted or known of them: (n, heads) → (n,)."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A time-ordered split of what was shown: see `evaluation.Split`."""

    trained_at: int
    train: SlateSet
    test: SlateSet
    gap: int


def train_slates(
    system: System,
    log: LogReader,
    *,
    registry: Registry,
    plan: TrainingPlan | None = None,
    say: Say = quietly,
) -> TrainingResult:
    """Fits, judges and registers a model of a system whose slots hold things.

    Args:
        system: whose.
        log: to read; a server may be writing to it meanwhile.
        registry: takes the model.
        plan: what is decided before.
        say: told of progress.

    Raises:
        ConfigError: the plan names an unknown model.
        DataError: too little was shown, or too few labels have matured.
    """
    plan = plan or TrainingPlan()
    chosen = chosen_kind(system, plan)
    say("joining what was shown with its outcomes")
    with uncollected():
        records, retrieval = log.read(0, plan.position), load(system.retrieval)
        history = ImpressionHistory(records, system.schema, features=system.features, retrieval=retrieval)
        parts = split_slates(history, test_share=plan.share_of(history.labels(history.known_time)[:, 0]))
    _check_enough(parts, plan, system=system)
    policy: Any = system.policy(plan.policy if plan.policy is not None else system.policy_params())
    models: dict[str, Model] = {}
    for spec in system.models:
        say(f"fitting {spec.name}")
        models[spec.name] = spec.fit(parts.train, plan.seed)
    judge = _Judge(history, parts.test, policy=policy, system=system, model=models[chosen.name])
    contenders = [judge.as_shown(), *(judge.contender(spec, models[spec.name]) for spec in system.models)]
    if system.found:
        say("asking retrieval anew")
        contenders = load(system.found)(contenders, name=chosen.name, model=models[chosen.name], test=parts.test)
    made = _report(history, parts, contenders=contenders, system=system, currency=plan.currency)
    manifest = manifest_of(system, history, chosen=chosen, plan=plan, made=made)
    files = files_of(made, _reference(system, history, since=parts.trained_at), system=system)
    fitted = Fitted(models[chosen.name], parts.trained_at)
    if plan.refit:
        say(f"fitting {chosen.name} to all that is known")
        matured = history.part(history.complete, known_by=history.known_time)
        fitted = Fitted(chosen.fit(matured, plan.seed), history.known_time, *fitted[:2])
    return registered(manifest, fitted, made=made, registry=registry, files=files, plan=plan)


def split_slates(history: ImpressionHistory, *, test_share: float) -> Parts:
    """Returns train and test parts: what a model of the training date could have known, and what came after it."""
    longest, times = history.maturity_us, history.times
    complete = times[history.complete]
    date = int(complete[int(len(complete) * (1 - test_share))]) if len(complete) else 0
    before, after = times <= date - longest, (times >= date) & history.complete
    return Parts(
        trained_at=date,
        train=history.part(before, known_by=date),
        test=history.part(after, known_by=history.known_time),
        gap=int(np.sum((times > date - longest) & (times < date))),
    )


def ranked_by(model: Model, data: SlateSet) -> Floats:
    """Returns a model's predictions for things shown, n × heads."""
    return (model.rank(data) if isinstance(model, Ranking) else model.predict(data.rows)).reshape(data.n, -1)


def _reference(system: System, history: ImpressionHistory, *, since: int) -> Reference | None:
    """Returns what requests are watched against; what is shown follows from the model: its own first days say that."""
    recent = [one for one in history.shown if one.decided >= since]
    seen = Seen(
        times=np.array([one.decided for one in recent], np.int64),
        rows=np.empty((len(recent), 0)),
        requests=[public_values(one.decision.request) for one in recent],
        predictions=np.empty((len(recent), 0)),
    )
    return reference_of(seen, system.schema, names=(), heads=(), flows={}, model=None)


class _Judge:
    """What models are compared in: the test part, the policy's worth of it, and the measures."""

    def __init__(
        self, history: ImpressionHistory, test: SlateSet, *, policy: SlatePolicy, system: System, model: Model
    ) -> None:
        curve = np.array(getattr(model, "examination", {}).get(test.heads[0], (1.0,)))
        self._test, self._policy, self._metrics = test, policy, system.metrics
        numbers = {ref: number for number, ref in enumerate(dict.fromkeys(test.refs))}
        self._rows = Ranked(
            heads=test.heads,
            labels=test.labels,
            predictions=np.empty(0),
            values=-test.positions.astype(np.float64),
            worth=policy.worth(test.heads, np.nan_to_num(test.labels)),
            slates=test.slates,
            users=test.users,
            positions=test.positions,
            examined=curve[np.minimum(test.positions, len(curve) - 1)],
            refs=np.array([numbers[ref] for ref in test.refs], np.int64),
            times=test.times,
            facts=test.facts,
            things=len({one.slot.ref for one in history.shown}),
            ends=history.ends(test.slates),
        )

    def as_shown(self) -> Contender:
        """Returns what the slates were worth as they were shown."""
        return self._measured(SHOWN, "baseline", self._rows, tiers=("model", "product", "business"))

    def contender(self, spec: ModelSpec, model: Model) -> Contender:
        """Returns how well a model's predictions order what was shown, and how true they are."""
        predictions = ranked_by(model, self._test)
        values = self._policy.worth(self._test.heads, predictions)
        rows = msgspec.structs.replace(self._rows, predictions=predictions, values=values)
        return self._measured(spec.name, "baseline" if spec.baseline else "model", rows, tiers=("model",))

    def _measured(self, name: str, role: Role, rows: Ranked, *, tiers: tuple[str, ...]) -> Contender:
        values, missing = measure([metric for metric in self._metrics if metric.tier in tiers], rows)
        # A slate as it was shown predicts nothing.
        return Contender(name=name, role=role, values=values, missing=() if name == SHOWN else missing)


def _check_enough(parts: Parts, plan: TrainingPlan, *, system: System) -> None:
    train, test = (int(np.nansum(part.labels[:, 0])) if part.n else 0 for part in (parts.train, parts.test))
    if train < plan.least_positives or test < plan.least_test_positives:
        told = f"{train} times {parts.train.heads[0]} in the training part and {test} in the test part"
        raise too_few(told, plan, system=system.name)


def _completeness(part: SlateSet) -> Completeness:
    known = np.isfinite(part.labels[:, 0])
    clicks = int(np.nansum(part.labels[:, 0]))
    why = {"immature": int(np.sum(~known)), part.heads[0]: clicks, "silence": int(np.sum(known)) - clicks}
    return Completeness(
        requests=part.n, labelled=int(np.sum(known)), positives=clicks, why={k: n for k, n in why.items() if n}
    )


def _report(
    history: ImpressionHistory, parts: Parts, *, contenders: list[Contender], system: System, currency: str
) -> Report:
    return Report(
        system=system.name,
        noun=f"shown {system.schema.slate_of}",
        position=history.position,
        known_time=history.known_time,
        trained_at=parts.trained_at,
        train=_completeness(parts.train),
        test=_completeness(parts.test),
        gap=parts.gap,
        delay_left_out=True,
        labels=_completeness(history.part(np.ones(len(history.shown), np.bool_), known_by=history.known_time)),
        support=Support(),
        late=history.late,
        currency=currency,
        metrics=described(system.metrics),
        contenders=tuple(contenders),
    )
