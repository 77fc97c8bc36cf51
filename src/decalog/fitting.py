"""From requests and what is known of their labels to a fitted model."""

from __future__ import annotations

import numpy as np

from decalog.censoring import Heard, surmised
from decalog.evaluation import complete_until
from decalog.examples import Examples, Floats
from decalog.models.base import Model, ModelSpec, TrainingSet
from decalog.system import System

_ROUNDS = 2


def training_set(system: System, examples: Examples, *, labels: Floats | None = None) -> TrainingSet:
    """Returns examples as models learn from them: columns of use `model` only.

    One that was drawn is there as often as the requests it stands for, rounded: every kind of model can learn so.

    Args:
        system: whose.
        examples: those without a label are left out, where `labels` is None.
        labels: float64, one an example, in [0, 1]; None for those of the examples.
    """
    if labels is None:
        examples = examples.take(examples.labelled)
        labels = examples.labels.astype(np.float64)
    repeats = examples.weights.round().astype(np.int64)
    return TrainingSet(
        names=system.features.names_for("model"),
        rows=model_rows(system, examples).repeat(repeats, axis=0),
        labels=labels.repeat(repeats),
        times=examples.times.repeat(repeats),
        amounts=examples.amounts.repeat(repeats),
    )


def model_rows(system: System, examples: Examples) -> Floats:
    """Returns the features that models see, float64, requests × columns of use `model`."""
    rows: Floats = examples.rows[:, list(system.features.places_for("model"))]
    return rows


def _complete(system: System, examples: Examples) -> TrainingSet:
    settled = examples.times < complete_until(examples)
    return training_set(system, examples.take(settled & examples.labelled))


def fit_on_all(
    spec: ModelSpec, examples: Examples, *, heard: Heard, system: System, seed: int, first: Model | None = None
) -> Model:
    """Returns a model of a kind that learnt from all requests of which anything was heard.

    Each open label is as likely as the model before says, given what was heard. Twice so where the model before is at
    first one of complete labels; once where one is given that has been through this itself.

    Args:
        spec: the kind.
        examples: with labels as known at a moment.
        heard: of them, by then.
        system: whose.
        seed: of the fits.
        first: says at first how likely open labels are; None for a model of complete labels.

    Raises:
        DataError: see `ModelSpec.fit`.
    """
    fit = spec.surmises or spec.fit
    model = first if first is not None else fit(_complete(system, examples), seed)
    told = heard.odds != 1
    examples, odds = examples.take(told), heard.odds[told]
    rows, rng = model_rows(system, examples), np.random.default_rng(seed)
    for _ in range(_ROUNDS if first is None else 1):
        labels = surmised(model.predict(rows), odds)
        if spec.surmises is None:
            labels = (rng.random(examples.n) < labels).astype(np.float64)
        model = fit(training_set(system, examples, labels=labels), seed)
    return model
