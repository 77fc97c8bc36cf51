"""What a system's log tells of a change that nobody has met yet: another model, another policy, or both.

A system declares, in the room `whatif`, which of two kinds of evidence its log gives:

- `Revealed`: an outcome that belongs to the request and not to the action. Whoever let the payment through saw it, and
  any policy can be priced on it. What an action hid is told by draws alone; what it showed in part by declared shares.
- `Slots` (`whatif_slots.py`): things shown in slots. A slot that was drawn from a logged pool tells what another choice
  in it would have brought, the slots above as they were. Whole slates are not judged: nobody saw them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from decalog.censoring import Heard, heard_of
from decalog.deployment import Deployment
from decalog.errors import ConfigError, near
from decalog.evaluation import Outlook, complete_until, replayed
from decalog.examples import Examples, Floats, History
from decalog.fitting import model_rows
from decalog.histories import history_of
from decalog.impressions import subject_of
from decalog.metrics import Int64s
from decalog.models.base import Model
from decalog.policy import Policy, policy_version
from decalog.registry import SIBLING
from decalog.statistics.offpolicy import Logged
from decalog.system import System, load
from decalog.whatif_verdict import Drawn, Evidence, WhatIf, judged

LEAST_POSITIVES = 30
"""Of equal weight, that the log should show of what changes. Fewer than about fifteen make intervals too narrow;
predictions name up to twice as many as there are, where a change goes by the same predictions."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be judged.

    Args:
        candidate: id of a model, or at least 12 of its first digits; "" keeps the champion.
        params: of the policy; None keeps those in force.
        in_its_money: whether the money on both sides is counted by the changed parameters and not by those in force.
        last: units that are looked at, the newest.
    """

    candidate: str = ""
    params: msgspec.Struct | None = None
    in_its_money: bool = False
    last: int = 20_000


class Side(NamedTuple):
    """One of the two that are compared: a model on its feature set, and a policy."""

    system: System
    model: Model
    head: str
    version: str
    trained_at: int
    policy: Any


class Asked(NamedTuple):
    """What evidence is gathered for.

    Attributes:
        deployment: with the log.
        now: what is in force.
        then: what would be.
        money: the policy by whose parameters outcomes are worth something.
        change: as it was asked for.
    """

    deployment: Deployment
    now: Side
    then: Side
    money: Any
    change: Change


class Unlearnt(msgspec.Struct, frozen=True, kw_only=True):
    """Units that neither side learnt from, as both sides predict them, and what was heard of them.

    Args:
        unit: what a row is about.
        heads: what is predicted.
        heard: of each, n × heads.
        now, then: float64, n × heads, in [0, 1]: what is in force predicts, and what would be.
        weights: float64, > 0: how many units each stands for.
        people: int64 tokens: whose; below 0 nobody's.
        facts: public values of each, for slices.
    """

    unit: str
    heads: tuple[str, ...]
    heard: Heard
    now: Floats
    then: Floats
    weights: Floats
    people: Int64s
    facts: tuple[Mapping[str, Any], ...]


class UnlearntQuantities(msgspec.Struct, frozen=True, kw_only=True):
    """Requests whose label is a quantity, that neither side learnt from, as both sides predict them.

    Args:
        unit: what a row is about.
        heads: a mean, and quantiles.
        drawn: float64, what came, with a draw of what stands behind bounds.
        now, then: float64, n × heads: what is in force predicts, and what would be.
        people: int64 tokens: whose.
        facts: public values of each, for slices.
    """

    unit: str
    heads: tuple[str, ...]
    drawn: Floats
    now: Floats
    then: Floats
    people: Int64s
    facts: tuple[Mapping[str, Any], ...]


class Telling(Protocol):
    """How a system's log tells of a change."""

    def evidence(self, asked: Asked) -> Evidence:
        """Returns what the log says."""

    def unlearnt(self, asked: Asked) -> tuple[Unlearnt | UnlearntQuantities, Evidence]:
        """Returns how both sides predict what neither learnt from, and what the log says."""


def what_if(deployment: Deployment, change: Change) -> WhatIf:
    """Returns what a change would have brought on what the log of a deployment holds.

    Raises:
        ConfigError: the system does not declare what its log tells, there is no champion, or the policy refuses its
            parameters.
        ModelError: a model is missing or damaged.
        DataError: no request is left to look at.
    """
    telling, asked = telling_of(deployment.system), asked_of(deployment, change)
    return named_verdict(judged(telling.evidence(asked)), asked)


def telling_of(system: System) -> Telling:
    """Returns how a system's log tells of a change.

    Raises:
        ConfigError: the system does not declare it.
    """
    telling: Telling | None = load(system.whatif)
    if telling is None:
        raise ConfigError(
            where=f"what-if of {system.name}",
            given="a system that does not say what its log tells of other choices",
            expected="`whatif` in SYSTEM: the dotted path of a `Revealed` or `Slots`",
            fix="Declare it; docs/howto/whatif.md says how.",
        )
    return telling


def asked_of(deployment: Deployment, change: Change, *, served: bool = False) -> Asked:
    """Returns both sides of a change.

    Args:
        deployment: with the log.
        change: that is asked for.
        served: whether its models are those that would serve, and not their siblings, which learnt from less: only
            these can be judged on what the log holds.

    Raises:
        ConfigError: there is no champion, or the policy refuses its parameters.
        ModelError: a model is missing or damaged.
    """
    system = deployment.system
    champion = deployment.registry.current(system.name)
    if champion is None:
        raise ConfigError(
            where=f"what-if of {system.name}",
            given="no champion, so nothing that a change could be compared with",
            expected="a model in force",
            fix=f"`decalog train {system.name}` trains one.",
        )
    params = deployment.policy_params()
    after = change.params if change.params is not None else params
    now = _side(deployment, champion, params, served=served)
    then = _side(deployment, change.candidate or champion, after, served=served)
    return Asked(deployment, now, then, (then if change.in_its_money else now).policy, change)


def named_verdict(told: WhatIf, asked: Asked) -> WhatIf:
    """Returns a verdict that says what was asked."""
    now, then = asked.now, asked.then
    before, after = now.policy.params, then.policy.params
    return msgspec.structs.replace(
        told,
        system=now.system.name,
        change=_named(then, after, before) if then.version != now.version or after != before else "no change",
        against=f"model {now.version[:12]} and policy {policy_version(before)}",
        currency=asked.deployment.rates().base,
    )


def changed_params(params: msgspec.Struct, settings: Iterable[str]) -> msgspec.Struct:
    """Returns policy parameters with some of them set, each as `name=value`, the value as TOML has it or plain text.

    Raises:
        ConfigError: there is no such parameter, or the value does not fit.
    """
    values, fields = msgspec.to_builtins(params), params.__struct_fields__
    for setting in settings:
        name, _, value = setting.partition("=")
        if name.strip() not in fields:
            raise ConfigError(
                where="what-if, --set",
                given=repr(setting),
                expected=f"name=value with {near(name.strip(), fields)}",
                fix="`decalog policy SYSTEM` shows the parameters.",
            )
        values[name.strip()] = _value(value.strip())
    try:
        return msgspec.convert(values, type(params))
    except msgspec.ValidationError as error:
        raise ConfigError(
            where="what-if, --set",
            given=str(error),
            expected=f"parameters of {type(params).__name__}",
            fix="Mend the value.",
        ) from None


def _value(text: str) -> object:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _side(deployment: Deployment, version: str, params: msgspec.Struct, *, served: bool) -> Side:
    there = deployment.on_set_of(version)
    artefact = there.registry.get(version)
    parameters, policy = artefact.manifest.parameters, there.system.policy(params)
    if SIBLING in parameters and not served:
        model, head = there.model(artefact.id, sibling=True)
        return Side(there.system, model, head, artefact.id, int(parameters[SIBLING]), policy)
    model, head = there.model(artefact.id)
    # A model of another hand has no training date: what it may have learnt from ends with what it was given.
    trained_at = int(parameters.get("trained_at", artefact.manifest.pin.known_time))
    return Side(there.system, model, head, artefact.id, trained_at, policy)


def _named(then: Side, after: msgspec.Struct, params: msgspec.Struct) -> str:
    old, new = msgspec.to_builtins(params), msgspec.to_builtins(after)
    told = [f"{name} = {value!r}"[:80] for name, value in new.items() if value != old[name]]
    return ", ".join([f"model {then.version[:12]}", *told])


class Revealed(msgspec.Struct, frozen=True, kw_only=True):
    """A log whose outcome belongs to the request, and shows after some actions and not after others.

    Args:
        shows: parameters in force → action → how likely the outcome shows after it, (where it is negative, where it is
            positive); an action that is left out hides it.
        words: parameters in force → outcome kind → how often it is right, (where it is negative, where it is positive);
            one that is left out is the truth.
        assumes: parameters in force → action → what the money of that action assumes, in words.
    """

    shows: Callable[[Any], Mapping[str, tuple[float, float]]]
    words: Callable[[Any], Mapping[str, tuple[float, float]]] = lambda _params: {}
    assumes: Callable[[Any], Mapping[str, str]]

    def evidence(self, asked: Asked) -> Evidence:
        """See `Telling`. Both sides are replayed over the requests that neither model learnt from."""
        return self.unlearnt(asked)[1]

    def unlearnt(self, asked: Asked) -> tuple[Unlearnt, Evidence]:
        """See `Telling`; a request that was drawn stands for those that were not."""
        histories, schema = _histories(asked), asked.now.system.schema
        now, then = _both(asked, histories)
        people = np.array([subject_of(request, schema) for request in now.rows.requests], np.int64)
        history = histories[asked.now.system.features.version]
        told = self.heard(history, now.rows, params=asked.money.params)
        rows = Unlearnt(
            unit=schema.noun,
            heads=(asked.now.head,),
            heard=Heard(told.odds[:, None], told.chance[:, None]),
            now=now.predictions[:, None],
            then=then.predictions[:, None],
            weights=now.rows.weights,
            people=people,
            facts=tuple(request.attributes for request in now.rows.requests),
        )
        is_complete = now.rows.times < complete_until(history.now)
        replays = (_replay(side, one.take(is_complete)) for side, one in ((asked.now, now), (asked.then, then)))
        return rows, self.told(*replays, people=people[is_complete], unit=schema.noun, money=asked.money)

    def heard(self, history: History, examples: Examples, *, params: Any) -> Heard:
        """Returns what was heard of requests, see `censoring`, under the parameters in force."""
        return heard_of(history, examples, shows=self.shows(params), words=self.words(params))

    def told(self, now: Replay, then: Replay, *, people: Int64s, unit: str, money: Policy) -> Evidence:
        """Returns what outcomes say of two replays.

        Args:
            now: of what is in force; its rows have the outcomes.
            then: of the change, on the same requests.
            people: token of whom each request is from; below 0 nobody's.
            unit: what a request is called.
            money: the policy that prices actions.
        """
        shows = {"": (1.0, 1.0), **self.shows(money.params)}
        changed = now.actions != then.actions
        moves = Counter(zip(now.actions[changed].tolist(), then.actions[changed].tolist(), strict=True))
        seen = _seen(now.rows, shows)
        ends = tuple(_brings(money, now, then, changed=changed, label=label) for label in (0.0, 1.0))
        rows, drawn = _revealed(now, seen, changed=changed, ends=ends)
        positives = _effective(now.predictions[changed], ends[1] - ends[0], chance=seen.positive[changed])
        return Evidence(
            unit=unit,
            entities=people,
            changed=changed,
            rows=msgspec.structs.replace(rows, entities=people[changed]),
            is_difference=True,
            foreseen=rows.expected,
            least=np.minimum(*ends),
            most=np.maximum(*ends),
            drawn=drawn,
            moves={f"{before} → {after}": count for (before, after), count in moves.items()},
            labels=(int(np.sum(now.rows.labelled)), now.rows.n),
            since=int(now.rows.times[0]) if now.rows.n else 0,
            until=int(now.rows.times[-1]) if now.rows.n else 0,
            notes=tuple(_notes(moves, self.assumes(money.params))),
            doubts=tuple(_too_few(positives, rows)),
        )


class Replay(NamedTuple):
    """One side's actions and predictions on the requests that are looked at."""

    rows: Examples
    actions: Any
    predictions: Floats


class _Seen(NamedTuple):
    """Which requests' outcomes are seen, and how likely that was; which never could be; how likely a positive's is."""

    is_seen: Any
    chance: Floats
    is_hidden: Any
    positive: Floats


class _Predicted(NamedTuple):
    """Requests, and what one side predicts of them."""

    rows: Examples
    predictions: Floats

    def take(self, mask: Any) -> _Predicted:
        return _Predicted(self.rows.take(mask), self.predictions[mask])


def _histories(asked: Asked) -> Mapping[str, History]:
    """Returns feature set → the log by it."""
    return {
        side.system.features.version: history_of(asked.deployment.reading, side.system)
        for side in (asked.now, asked.then)
    }


def _both(asked: Asked, histories: Mapping[str, History]) -> tuple[_Predicted, _Predicted]:
    """Returns both sides' predictions of the requests that neither learnt from, and that both can describe."""
    sides = (asked.now, asked.then)
    since = max(side.trained_at for side in sides)
    is_one = asked.now.version == asked.then.version
    found = [
        _predicted(side, histories[side.system.features.version], since=since, last=asked.change.last, is_one=is_one)
        for side in sides
    ]
    both = set(found[0].rows.ids) & set(found[1].rows.ids)
    now, then = (one.take(np.array([id_ in both for id_ in one.rows.ids], np.bool_)) for one in found)
    return now, then


def _predicted(side: Side, history: History, *, since: int, last: int, is_one: bool) -> _Predicted:
    """Returns what a side predicts of what came since; where both have one model, of what was ever predicted too.

    Such predictions are taken as they were made: by whatever was in force, before anybody knew the outcome.
    """
    now = history.now
    was_told = np.isfinite(now.predicted) & is_one
    there = was_told | (now.times >= since)
    # As many of those that are complete, and all that came after them.
    complete = np.flatnonzero(there & (now.times < complete_until(now)))[-last:]
    rows = now.take(there & (now.times >= (now.times[complete[0]] if len(complete) else 0)))
    untold = ~(np.isfinite(rows.predicted) & is_one)
    predictions = rows.predicted.copy()
    predictions[untold] = side.model.predict(model_rows(side.system, rows)[untold])
    return _Predicted(rows, predictions)


def _replay(side: Side, predicted: _Predicted) -> Replay:
    outlook = Outlook(
        policy=side.policy,
        idle=side.system.schema.label.observed_after[0],
        features=side.system.features,
        head=side.head,
        metrics=(),
    )
    return Replay(predicted.rows, replayed(*predicted, outlook=outlook), predicted.predictions)


def _seen(rows: Examples, shows: Mapping[str, tuple[float, float]]) -> _Seen:
    actions, place = np.unique(np.array(rows.acted, np.str_), return_inverse=True)
    odds = np.array([shows.get(str(action), (0.0, 0.0)) for action in actions], np.float64).reshape(-1, 2)[place]
    by_label = odds[np.arange(rows.n), np.nan_to_num(rows.labels).astype(np.intp)]
    # What was drawn was drawn to show: an action that hides was drawn against one that does not.
    chance = rows.propensities * by_label
    is_seen = rows.labelled & (chance > 0)
    is_in_part = np.any((odds > 0) & (odds < 1), axis=1)
    is_hidden = ~is_seen & (rows.propensities == 1) & ~is_in_part
    positive = np.where(odds[:, 1] > 0, rows.propensities * odds[:, 1], 1 - rows.propensities)
    return _Seen(is_seen, np.where(is_seen, chance, 1.0), is_hidden, np.where(is_hidden, 0.0, positive))


def _revealed(now: Replay, seen: _Seen, *, changed: Any, ends: tuple[Floats, ...]) -> tuple[Logged, Drawn]:
    """Returns what is known of the changed requests; `ends` is what each brings where it is negative, and positive."""
    good, bad = ends
    p, labels = now.predictions[changed], now.rows.labels[changed]
    foreseen, square = p * bad + (1 - p) * good, p * bad**2 + (1 - p) * good**2
    is_seen, chance = seen.is_seen[changed], seen.chance[changed]
    is_drawn = ~is_seen | (chance < 1)
    drawn = Drawn(
        units=int(np.sum(is_drawn)),
        observed=int(np.sum(is_seen & is_drawn)),
        deviation=float(np.sqrt(np.mean(square[is_drawn]))) if is_drawn.any() else 0.0,
    )
    rows = Logged(
        rewards=np.where(is_seen, np.where(labels == 1, bad, good), 0.0),
        propensities=chance,
        targets=is_seen.astype(np.float64),
        modelled=foreseen,
        expected=foreseen,
        unsupported=seen.is_hidden[changed].astype(np.float64),
    )
    return rows, drawn


def _effective(p: Floats, matters: Floats, *, chance: Floats) -> float:
    """Returns how many positives, of equal weight and money, a log should show: (Σ p m)² / Σ (p m² / chance).

    By predictions and not by what came: verdicts that wait until outcomes look sure are wrong more often than they say.
    """
    told = (chance > 0) & (matters != 0)
    p, matters, chance = p[told], np.abs(matters[told]), chance[told]
    squares = float(np.sum(p * matters**2 / chance))
    return float(np.sum(p * matters)) ** 2 / squares if squares > 0 else 0.0


def _too_few(positives: float, rows: Logged) -> Iterator[str]:
    if len(rows.rewards) and positives < LEAST_POSITIVES:
        yield (
            f"by predictions the log shows as much as {positives:.1f} positives of equal weight among them, fewer than "
            f"{LEAST_POSITIVES}"
        )


def _brings(money: Policy, now: Replay, then: Replay, *, changed: Any, label: float) -> Floats:
    """Returns what each changed request saves, minor units, were its label this one."""
    columns = (now.actions[changed], then.actions[changed], now.rows.amounts[changed])
    cost = cache(partial(money.cost_minor, label=label))
    both = zip(*(column.tolist() for column in columns), strict=True)
    return np.array([cost(a, amount_minor=m) - cost(b, amount_minor=m) for a, b, m in both], np.float64)


def _notes(moves: Iterable[tuple[str, str]], assumes: Mapping[str, str]) -> Iterator[str]:
    met = {action for move in moves for action in move}
    yield from (f"{action} is modelled: {words}" for action, words in assumes.items() if action in met)
    yield "both sides are replayed without exploration, on requests as they came: nobody adapts to the change"
