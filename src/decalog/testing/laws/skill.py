"""Law 9: in its own world the champion's kind beats every baseline by the lead it states, and not the oracle.

What counts is money: of what lies between the best baseline and the oracle, the champion takes at least `System.lead`.
Where the label is a quantity, doing nothing is what the policy's fallback chooses, and worth is the mean over the true
distribution. Where slots hold things, each model orders anew what slates showed. A slate brings what its things are
truly worth to the policy, those further down less, by 1 / log2(1 + place). The world knows each thing's true
probabilities, so no slate is judged that nobody saw, and no draw adds noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.evaluation import Outlook, Split, replay_policy, split
from decalog.examples import Floats
from decalog.fitting import model_rows, training_set
from decalog.impressions import ImpressionHistory
from decalog.quantities import QuantityHistory
from decalog.quantity_metrics import levels_of
from decalog.quantity_training import Judge, QuantityPolicy
from decalog.slate_training import Parts, SlatePolicy, ranked_by, split_slates
from decalog.system import System
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Joined, Stage, Step, Trial, history_of, world_of
from decalog.testing.worlds import World, truth_of
from decalog.training import truths


class Asked(NamedTuple):
    """How many requests a world is made for, by what is learnt of them: labels, slates or quantities."""

    requests: int
    slates: int
    quantities: int

    def of(self, system: System) -> int:
        """Returns how many of a system's kind."""
        if system.schema.slate_of:
            return self.slates
        return self.quantities if system.schema.label.of else self.requests


_ASKED = Asked(requests=120_000, slates=6_000, quantities=12_000)
"""The world is made so large that it asks for about so many: skill shows on more than bits need."""
_MATURITIES, _FEWEST_DAYS = 3.5, 14
"""History, in maturities of the label and days at least: a part to learn from, a gap, and a part to be judged on."""
_TEST_SHARE = 0.3

Saved = Mapping[str, float]
"""Who → what it is expected to save over doing nothing, or to bring, minor units a 1,000 requests."""


_IDLE, _AS_SHOWN = "doing nothing", "the order that was shown"
_GRID = 0.02
"""Steps between the levels of a true distribution, over which worth is averaged."""


def check(trial: Trial) -> Verdict:
    """Returns whether the champion's kind, trained on the system's world, has the skill that the system states."""
    larger = sized(trial, _ASKED)
    stage, world = Stage(larger, "skill", repeatable=True), world_of(larger)
    try:
        play(stage, world)
        joined = history_of(stage.system, stage.records())
    finally:
        stage.close()
    count, saved = _saved(stage.system, joined, world=world, rng=np.random.default_rng(trial.seed))
    champion = stage.system.models[-1].name
    return proven(
        count,
        list(_breaches(stage.system, saved, champion)),
        sabotages={
            "a champion that guesses": list(_breaches(stage.system, saved, "guesses")),
            "a champion that knows more than there is to know": list(
                _breaches(stage.system, {**saved, "oracle": saved["guesses"]}, champion)
            ),
        },
    )


def days_of(system: System) -> int:
    """Returns how many days of history show what a model can learn."""
    signals = [signal.maturity_us for signal in system.schema.signals]
    longest = max(signals, default=system.schema.label.maturity_us)
    return max(_FEWEST_DAYS, round(_MATURITIES * longest / DAY))


def sized(trial: Trial, wished: Asked) -> Trial:
    """Returns the trial on a world of its kind that asks for about so many in `days_of` it, by its first week."""
    world = world_of(trial)
    asked = sum(message.kind == "decide" for message in world.advance(world.start_us + 7 * DAY, alone=True))
    scale = trial.scale * wished.of(trial.system) * 7 / (max(asked, 1) * days_of(trial.system))
    return msgspec.structs.replace(trial, scale=scale)


def play(stage: Stage, world: World) -> None:
    """Plays history: nothing was decided here, so every label shows."""
    for day in range(1, days_of(stage.system) + 1):
        for message in world.advance(world.start_us + day * DAY, alone=True):
            stage.send(Step(message.at, "outcome" if message.kind == "outcome" else "event", message.history))
    stage.log.commit()


def _saved(system: System, joined: Joined, *, world: World, rng: np.random.Generator) -> tuple[int, Saved]:
    """Returns on how many requests or things models are judged, and what each is expected to save or to bring."""
    if isinstance(joined, ImpressionHistory):
        slates = split_slates(joined, test_share=_TEST_SHARE)
        asked = [joined.shown[place].record.id for place in slates.test.places.tolist()]
        return slates.test.n, _brought_by_slates(system, slates, asked=asked, world=world, rng=rng)
    if isinstance(joined, QuantityHistory):
        return _brought_by_quantities(system, joined, world=world, rng=rng)
    requests = split(joined, test_share=_TEST_SHARE)
    return requests.test.n, _saved_on_requests(system, requests, world=world, rng=rng)


def _brought_by_slates(
    system: System, parts: Parts, *, asked: Sequence[str], world: World, rng: np.random.Generator
) -> Saved:
    """Returns what slates would truly bring in each model's order of what they showed."""
    test, policy = parts.test, cast("SlatePolicy", system.policy(system.policy_params()))
    known = {id_: world.truth(id_) for id_ in set(asked)}
    things = zip(asked, test.refs, strict=True)
    truth = np.array([[float(known[id_][f"{head} {ref}"]) for head in test.heads] for id_, ref in things])
    worth = policy.worth(test.heads, truth)

    def brought(values: Floats) -> float:
        order = np.lexsort((test.positions, -values, test.slates))
        _, first, size = np.unique(test.slates[order], return_index=True, return_counts=True)
        places = np.arange(test.n) - np.repeat(first, size)
        return 1_000 * float(worth[order] @ (1 / np.log2(2 + places))) / len(first)

    said = {spec.name: ranked_by(spec.fit(parts.train, 0), test) for spec in system.models}
    everyone = {**said, "oracle": truth, "guesses": rng.random(truth.shape)}
    shown = {_AS_SHOWN: brought(-test.positions.astype(np.float64))}
    return shown | {name: brought(policy.worth(test.heads, rows)) for name, rows in everyone.items()}


def _brought_by_quantities(
    system: System, joined: QuantityHistory, *, world: World, rng: np.random.Generator
) -> tuple[int, Saved]:
    """Returns what each model's choices are expected to bring, by the true distribution of each label."""
    parts = split(joined, test_share=_TEST_SHARE)
    train, test = joined.part(parts.train, seed=0), joined.part(parts.test, seed=0)
    heads = tuple(system.models[-1].head.split("+"))
    truth = truths(parts.test, truth_of(world, heads))
    judge, policy = Judge(system, parts.test, test), cast("QuantityPolicy", system.policy(system.policy_params()))
    grid, levels = np.arange(_GRID / 2, 1, _GRID), levels_of(heads)
    labels = np.array([np.interp(grid, levels, row[1:]) for row in truth]).tolist()

    def brought(predictions: Floats | None) -> float:
        chosen = judge.rows(predictions).chosen.tolist()
        rows = zip(parts.test.requests, chosen, labels, truth[:, 0].tolist(), strict=True)
        each = [
            policy.worth(request, quantity, label=label, usual=mean)
            for request, quantity, among, mean in rows
            for label in among
        ]
        return 1_000 * float(np.mean(each))

    said = {spec.name: spec.fit(train, 0).predict(test.rows) for spec in system.models}
    guessed = np.sort(rng.random(truth.shape) * 2 * float(np.mean(truth[:, 0])), axis=1)
    everyone = {**said, "oracle": truth, "guesses": guessed}
    return test.n, {_IDLE: brought(None)} | {name: brought(rows) for name, rows in everyone.items()}


def _saved_on_requests(system: System, parts: Split, *, world: World, rng: np.random.Generator) -> Saved:
    """Returns what each model is expected to save, by the true probabilities: drawn labels would add noise alone."""
    test, head, policy = parts.test, system.models[-1].head, system.policy(system.policy_params())
    outlook = Outlook(
        policy=policy, idle=system.schema.label.observed_after[0], features=system.features, head=head, metrics=()
    )
    data, rows = training_set(system, parts.train), model_rows(system, test)
    truth = truths(test, truth_of(world, [head]))[:, 0]
    said = {spec.name: spec.fit(data, 0).predict(rows) for spec in system.models}

    def cost(actions: Sequence[str]) -> int:
        triples = zip(actions, truth.tolist(), test.amounts.tolist(), strict=True)
        return sum(policy.cost_minor(action, label=p, amount_minor=amount) for action, p, amount in triples)

    idle = cost([outlook.idle] * test.n)
    everyone = {**said, "oracle": truth, "guesses": rng.random(test.n)}
    actions = {name: replay_policy(test, predicted, outlook=outlook)[0] for name, predicted in everyone.items()}
    saved = {name: 1_000 * (idle - cost(chosen.tolist())) / test.n for name, chosen in actions.items()}
    return {_IDLE: 0.0} | saved


def _breaches(system: System, saved: Saved, champion: str) -> Iterator[str]:
    rivals = [_IDLE, _AS_SHOWN, *(spec.name for spec in system.models if spec.baseline)]
    baselines = {name: saved[name] for name in rivals if name in saved}
    best = max(baselines, key=baselines.__getitem__)
    room, lead = saved["oracle"] - baselines[best], saved[champion] - baselines[best]
    if room <= 0:
        yield f"the oracle takes {saved['oracle']:,.0f} a 1,000, no more than {best}: nothing is left to learn"
    elif lead < system.lead * room:
        yield f"{champion} takes {lead / room:.0%} of what {best} leaves of the oracle's, not {system.lead:.0%}"
    if saved[champion] > saved["oracle"]:
        yield f"{champion} takes {saved[champion]:,.0f} a 1,000, more than the oracle: one of them is wrong"
