"""Steps of a rollout on a running service: a challenger is loaded beside decisions, then one record makes it decide.

    a step ──▶ `ready`, in a thread: model, policy, what a retrieval searches in ──▶ `roll`, between two requests
    the champion decides ─────────────────────────────────────────────────────────▶│ each arm's own

A step that ends a rollout has nothing to load: it is taken at once.
"""

from __future__ import annotations

import msgspec

from decalog.errors import ConfigError, ConflictError, ModelError
from decalog.judging import Judge, Serving
from decalog.rollout import TRIED, Rollout
from decalog.serving import Service, Trial
from decalog.tables import Stored, Tables


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A step that can be taken.

    Args:
        step: which.
        serving: what its challenger decides with; None where that decides nothing.
        after: seq of the step before.
        champion: the model that decided when it was made.
    """

    step: Rollout
    serving: Serving | None
    after: int
    champion: str


def ready(service: Service, step: Rollout) -> Ready:
    """Returns a step with its challenger loaded and ready to retrieve; it may take seconds, in a thread of its own.

    Raises:
        ModelError: the challenger's model is missing, damaged, of another feature set, or predicts something else.
        ConfigError: its parameters are out of range, it decides already, or nothing can be loaded here.
    """
    now, after = service.serving, service.rollouts.stored().seq
    serving = None if step.is_over else _loaded(service, step, now)
    if serving is not None and service.retrieval is not None and step.is_live:
        service.retrieval.adopt(serving.model, aside=True)
    serving = serving if step.is_live else None
    return Ready(step=step, serving=serving, after=after, champion=now.versions.model)


def _loaded(service: Service, step: Rollout, now: Serving) -> Serving:
    where = f"{service.system.name} rollout {step.name}"
    if service.challenger is None:
        raise ConfigError(
            where=where,
            given="a service that loads no models",
            expected="one that a deployment made",
            fix="Use `Deployment.service`.",
        )
    serving = service.challenger(step, now)
    if serving.versions == now.versions:
        raise ConfigError(
            where=where,
            given="a challenger that decides already",
            expected="another model than the champion, or other parameters than those in force",
            fix="Nothing is to be done: it has the whole.",
        )
    return serving


def roll(service: Service, made: Ready, *, by: str = "") -> Stored:
    """Appends a step and decides by it from the next request on; returns it as stored.

    Args:
        service: decides.
        made: the step.
        by: who takes it.

    Raises:
        ConflictError: another step was taken, or another champion came, since it was made ready.
    """
    now = service.serving
    if (service.rollouts.stored().seq, now.versions.model) != (made.after, made.champion):
        raise ConflictError(
            where=f"{service.system.name} rollout {made.step.name}",
            given="a step that another one overtook, or another champion",
            expected="nothing that happens between its loading and its taking",
            fix="Look at the rollout, and take the step again if it is still wanted.",
        )
    step = msgspec.structs.replace(made.step, champion=made.champion)
    if made.serving is not None and step.policy is not None:
        Tables(service.ingest.log).put(service.system.name, TRIED, content=made.serving.policy.params)
    stored = service.rollouts.put(step, by=by)
    trial = None if made.serving is None else Trial(step, Judge(service.system, made.serving))
    service.trial = None if trial is None else trial.beside(now, service.system)
    return stored


def resume(service: Service) -> None:
    """Goes on, at a start, with the rollout that is under way; ends it where its challenger cannot be loaded."""
    step = service.rollouts.last()
    if step is None or step.is_over:
        return
    try:
        made = ready(service, step)
    except (ModelError, ConfigError) as error:
        made = ready(service, step.ended("stopped", f"at a start: {error}"))
    roll(service, made, by="the server")
