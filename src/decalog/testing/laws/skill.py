"""Law 9: in its own world the champion's kind beats every baseline by the lead it states, and not the oracle.

What counts is money: of what lies between the best baseline and the oracle, the champion takes at least `System.lead`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.evaluation import Outlook, Split, replay_policy, split
from decalog.examples import Floats, History
from decalog.system import System
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Step, Trial, world_of
from decalog.testing.worlds import World
from decalog.training import training_set

_REQUESTS = 120_000
"""The world is made so large that it asks for about so many: skill shows on more than bits need."""
_MATURITIES = 3.5
"""Days of history, in maturities of the label: a part to learn from, a gap, and a part to be judged on."""
_TEST_SHARE = 0.3

Saved = Mapping[str, float]
"""Who → what it is expected to save over doing nothing, minor units a 1,000 requests."""


def check(trial: Trial) -> Verdict:
    """Returns whether the champion's kind, trained on the system's world, has the skill that the system states."""
    larger = msgspec.structs.replace(trial, scale=_scale(trial))
    stage, world = Stage(larger, "skill"), world_of(larger)
    try:
        _play(stage, world)
        history = History(stage.log.read(), stage.system.schema, features=stage.system.features)
    finally:
        stage.close()
    parts = split(history, test_share=_TEST_SHARE)
    saved = _saved(stage.system, parts, world=world, guesses=np.random.default_rng(trial.seed).random(parts.test.n))
    champion = stage.system.models[-1].name
    return proven(
        parts.test.n,
        list(_breaches(stage.system, saved, champion)),
        sabotages={
            "a champion that guesses": list(_breaches(stage.system, saved, "guesses")),
            "a champion that knows more than there is to know": list(
                _breaches(stage.system, {**saved, "oracle": saved["guesses"]}, champion)
            ),
        },
    )


def _days(system: System) -> int:
    return round(_MATURITIES * system.schema.label.maturity_us / DAY)


def _scale(trial: Trial) -> float:
    """Returns the size of a world of the trial's kind that asks for about `_REQUESTS`, judged by its first week."""
    world = world_of(trial)
    asked = sum(message.kind == "decide" for message in world.advance(world.start_us + 7 * DAY))
    return trial.scale * _REQUESTS * 7 / (max(asked, 1) * _days(trial.system))


def _play(stage: Stage, world: World) -> None:
    """Plays history: nothing was decided here, so every label shows."""
    for day in range(1, _days(stage.system) + 1):
        for message in world.advance(world.start_us + day * DAY, alone=True):
            stage.send(Step(message.at, "outcome" if message.kind == "outcome" else "event", message.history))
    stage.log.commit()


def _saved(system: System, parts: Split, *, world: World, guesses: Floats) -> Saved:
    """Returns what each model is expected to save, by the true probabilities: drawn labels would add noise alone."""
    test, head, policy = parts.test, system.models[-1].head, system.policy(system.policy_params())
    outlook = Outlook(
        policy=policy, idle=system.schema.label.observed_after[0], features=system.features, head=head, metrics=()
    )
    data, rows = training_set(system, parts.train), test.rows[:, list(system.features.places_for("model"))]
    truth = np.array([float(world.truth(id_)[head]) for id_ in test.ids])
    said = {spec.name: spec.fit(data, 0).predict(rows) for spec in system.models}

    def cost(actions: Sequence[str]) -> int:
        triples = zip(actions, truth.tolist(), test.amounts.tolist(), strict=True)
        return sum(policy.cost_minor(action, label=p, amount_minor=amount) for action, p, amount in triples)

    idle = cost([outlook.idle] * test.n)
    everyone = {**said, "oracle": truth, "guesses": guesses}
    actions = {name: replay_policy(test, predicted, outlook=outlook)[0] for name, predicted in everyone.items()}
    return {name: 1_000 * (idle - cost(chosen.tolist())) / test.n for name, chosen in actions.items()}


def _breaches(system: System, saved: Saved, champion: str) -> Iterator[str]:
    baselines = {"doing nothing": 0.0, **{spec.name: saved[spec.name] for spec in system.models if spec.baseline}}
    best = max(baselines, key=baselines.__getitem__)
    room, lead = saved["oracle"] - baselines[best], saved[champion] - baselines[best]
    if room <= 0:
        yield f"the oracle saves {saved['oracle']:,.0f} a 1,000, no more than {best}: nothing is left to learn"
    elif lead < system.lead * room:
        yield f"{champion} takes {lead / room:.0%} of what {best} leaves of the oracle's, not {system.lead:.0%}"
    if saved[champion] > saved["oracle"]:
        yield f"{champion} saves {saved[champion]:,.0f} a 1,000, more than the oracle: one of them is wrong"
