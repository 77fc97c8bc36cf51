"""Which training a system asks for: by what its labels are, yes or no, things in slots, or quantities."""

from __future__ import annotations

from decalog.log import LogReader
from decalog.quantity_training import train_quantities
from decalog.registry import Registry
from decalog.slate_training import train_slates
from decalog.system import System
from decalog.training import Say, TrainingPlan, TrainingResult, Truth, quietly, train


def train_system(
    system: System,
    log: LogReader,
    *,
    registry: Registry,
    plan: TrainingPlan | None = None,
    truth: Truth | None = None,
    say: Say = quietly,
) -> TrainingResult:
    """Fits, judges and registers a model of a system; see `training.train` for the arguments and errors."""
    if system.schema.slate_of:
        return train_slates(system, log, registry=registry, plan=plan, say=say)
    fit = train_quantities if system.schema.label.of else train
    return fit(system, log, registry=registry, plan=plan, truth=truth, say=say)
