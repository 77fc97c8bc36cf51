"""Training where the label is a quantity: from requests and what was told of them to a registered model and its report.

The split is that of any other label (`evaluation.split`). Models say a mean and quantiles, the policy is replayed over
them, and what it chose is worth what it would have brought, by what stands behind the label where that is a bound.
Beside the models stands what is chosen without any: the policy's own fallback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol, cast

import msgspec
import numpy as np

from decalog.decisions import Choice
from decalog.evaluation import Outlook, Split, choices, measure, report, split
from decalog.events import Event
from decalog.examples import Examples, Floats
from decalog.log import LogReader
from decalog.metrics import Measurement
from decalog.models.base import Model, ModelSpec, QuantitySet
from decalog.policy import Policy
from decalog.quantities import QuantityHistory
from decalog.quantity_metrics import Quantities, over_groups, usual_of
from decalog.registry import Registry
from decalog.reports import Contender, Role
from decalog.system import System, load
from decalog.training import (
    Fitted,
    Say,
    TrainingPlan,
    TrainingResult,
    Truth,
    chosen_kind,
    files_of,
    manifest_of,
    quietly,
    reference_for,
    registered,
    too_few,
    truths,
    uncollected,
)

NO_MODEL = "fallback"
"""Name of the row of what is chosen without predictions."""


class QuantityPolicy(Policy, Protocol):
    """A policy whose choice is a number."""

    def worth(self, request: Event, quantity: float, *, label: float, usual: float) -> float:
        """Returns what a quantity brings once the label is known, minor units.

        Args:
            request: that it was chosen for.
            quantity: chosen.
            label: what is known, or expected, of the request.
            usual: what such a request usually comes to.
        """


def train_quantities(
    system: System,
    log: LogReader,
    *,
    registry: Registry,
    plan: TrainingPlan | None = None,
    truth: Truth | None = None,
    say: Say = quietly,
) -> TrainingResult:
    """Fits, judges and registers a model of a system whose label is a quantity.

    Args:
        system: whose.
        log: to read; a server may be writing to it meanwhile.
        registry: takes the model.
        plan: what is decided before.
        truth: of a simulated world, for the oracle.
        say: told of progress.

    Raises:
        ConfigError: the plan names an unknown model.
        DataError: too few labels are known.
    """
    plan = plan or TrainingPlan()
    chosen = chosen_kind(system, plan)
    say("joining requests with their outcomes")
    with uncollected():
        history = history_of(system, log, position=plan.position)
        parts = split(history, test_share=plan.test_share)
    _check_enough(parts, plan, system=system)
    say("recovering what bounds hide")
    train, test = history.part(parts.train, seed=plan.seed), history.part(parts.test, seed=plan.seed)
    judge = Judge(system, parts.test, test, params=plan.policy)
    contenders, models = [judge.without_model()], dict[str, Model]()
    for spec in system.models:
        say(f"fitting {spec.name}")
        models[spec.name] = spec.fit(train, plan.seed)
        role: Role = "baseline" if spec.baseline else "model"
        contenders.append(judge.contender(spec.name, role, predictions=models[spec.name].predict(test.rows)))
    if truth is not None:
        contenders.append(judge.contender("oracle", "oracle", predictions=truths(parts.test, truth)))
    made = report(history, parts, contenders=contenders, metrics=system.metrics, currency=plan.currency)
    manifest = manifest_of(system, history, chosen=chosen, plan=plan, made=made)
    fitted = Fitted(models[chosen.name], parts.trained_at)
    if plan.refit:
        say(f"fitting {chosen.name} to all that is known")
        fitted = Fitted(_on_all(history, chosen, seed=plan.seed), history.known_time, *fitted[:2])
    reference = reference_for(system, history, since=parts.trained_at, model=fitted.model, head=chosen.head)
    files = files_of(made, reference, system=system)
    return registered(manifest, fitted, made=made, registry=registry, files=files, plan=plan)


def history_of(system: System, log: LogReader, *, position: int | None = None) -> QuantityHistory:
    """Returns the join of a log up to a position."""
    recover = load(system.recovered)
    return QuantityHistory(log.read(0, position), system.schema, features=system.features, recover=recover)


class Judge:
    """What models are compared in: the test part, the policy, and what its choices are worth.

    Args:
        system: whose.
        examples: the test part.
        data: the same as models see it.
        params: of the policy; None for the system's defaults.
    """

    def __init__(
        self, system: System, examples: Examples, data: QuantitySet, *, params: msgspec.Struct | None = None
    ) -> None:
        self._system, self._examples, self._data = system, examples, data
        policy = system.policy(params if params is not None else system.policy_params())
        idle, head = system.schema.actions[0], system.models[-1].head
        self._outlook = Outlook(policy=policy, idle=idle, features=system.features, head=head, metrics=system.metrics)
        self._usual = usual_of(data.expected, data.groups)

    def without_model(self) -> Contender:
        """Returns what the policy's fallback is worth."""
        rows = self._fallback
        values, _ = measure([one for one in self._system.metrics if one.tier != "model"], rows)
        return Contender(name=NO_MODEL, role="baseline", values=values, missing=())

    def contender(self, name: str, role: Role, *, predictions: Floats) -> Contender:
        """Returns what predictions, n × heads, are worth."""
        rows = self.rows(predictions)
        values, missing = measure(self._system.metrics, rows)
        return Contender(name=name, role=role, values=values, missing=missing, saved_per_1000=self._gain(rows))

    def rows(self, predictions: Floats | None) -> Quantities:
        """Returns the test part with what the policy chooses by predictions, or without any, and what that is worth."""
        examples, data, outlook = self._examples, self._data, self._outlook
        heads = tuple(outlook.head.split("+"))
        chosen = quantities_of(choices(examples, predictions, outlook=outlook))
        policy = cast("QuantityPolicy", outlook.policy)
        return Quantities(
            heads=heads,
            labels=data.labels,
            bounds=data.bounds,
            expected=data.expected,
            drawn=data.drawn,
            predictions=np.full((data.n, len(heads)), np.nan) if predictions is None else predictions,
            chosen=chosen,
            worth=worths(policy, examples.requests, chosen=chosen, labels=data.drawn, usual=self._usual),
            groups=data.groups,
            times=data.times,
            facts=tuple(request.attributes for request in examples.requests),
        )

    @cached_property
    def _fallback(self) -> Quantities:
        """The test part with what the policy chooses without predictions."""
        return self.rows(None)

    def _gain(self, rows: Quantities) -> Measurement:
        """Returns what is gained over the fallback, minor units a thousand requests."""
        gain = rows.worth - self._fallback.worth
        return over_groups(lambda one: (1_000 * gain, np.ones(one.n)))(rows)


def quantities_of(made: Iterable[Choice]) -> Floats:
    """Returns the numbers that choices are; 0 where nothing was chosen."""
    return np.array([choice.quantity for choice in made], np.float64)


def worths(
    policy: QuantityPolicy, requests: Sequence[Event], *, chosen: Floats, labels: Floats, usual: Floats
) -> Floats:
    """Returns what each number brings by its label, minor units; see `QuantityPolicy.worth`."""
    rows = zip(requests, chosen.tolist(), labels.tolist(), usual.tolist(), strict=True)
    return np.array([policy.worth(one, units, label=y, usual=mean) for one, units, y, mean in rows], np.float64)


def _check_enough(parts: Split, plan: TrainingPlan, *, system: System) -> None:
    if parts.train.n < plan.least_positives or parts.test.n < plan.least_test_positives:
        told = f"{parts.train.n} requests with a label in the training part and {parts.test.n} in the test part"
        raise too_few(told, plan, system=system.name, of="requests with a label")


def _on_all(history: QuantityHistory, chosen: ModelSpec, *, seed: int) -> Model:
    now = history.now
    return chosen.fit(history.part(now.take(now.labelled), seed=seed), seed)
