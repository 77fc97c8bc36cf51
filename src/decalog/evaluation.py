"""Judging models as they would have been used: learnt from what was known at a date, tried on what came after it.

    requests in order of time  ───────────────────────────────────────────────────────────────▶
    │ train: labels complete at the training date │ gap: labels still awaited │ test │ awaited at the pin │

The policy is replayed over each model's predictions on the test part, so that models are compared in money too: beside
"always allow" below, and beside the oracle above where a world's truth is given.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate
from decalog.decisions import Choice
from decalog.errors import DataError
from decalog.examples import NO_ENTITY, UNTOLD, Bools, Examples, Floats, History, Int64s
from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import ALL
from decalog.metrics import Evaluated, Measurement, Metric, difference
from decalog.outcomes import NEVER
from decalog.policy import Case, Policy
from decalog.reports import Completeness, Contender, MetricInfo, Report, Role, Support, Unmeasured
from decalog.schema import Schema

AWAITED_SHARE = 0.001
"""Labels count as complete up to the latest time before which at most this share is still awaited.

Not zero, so that a few labels that were lost do not stop training; not more, because beyond the delay only positives
are known, and a part that reached into it would hold too many of them.
"""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A time-ordered split.

    Args:
        trained_at: the training date, µs.
        train: requests decided before it, with their labels.
        test: requests decided after that date, labels as known at the pin.
        gap: requests in between, whose labels were still awaited at the training date.
        delay_left_out: whether `train` holds only what was known at the training date; otherwise its labels are those
            of the pin, as a model of that date could not have known them.
    """

    trained_at: int
    train: Examples
    test: Examples
    gap: int
    delay_left_out: bool


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is compared in: the policy that acts on it, and the measures.

    Args:
        policy: replayed over each model's predictions.
        idle: the action that doing nothing amounts to.
        features: of the system, to know which views the policy itself moves.
        head: name of the prediction.
        metrics: of the system.
        seed: of the bootstrap.
    """

    policy: Policy
    idle: str
    features: FeatureSet
    head: str
    metrics: tuple[Metric, ...]
    seed: int = 0


def split(history: History, *, test_share: float) -> Split:
    """Returns train and test parts with the label delay left out: what a model of the training date could have known.

    Either part is empty where the log is too short for that: then no date has complete labels of earlier requests.

    Args:
        history: read to the pin.
        test_share: of the two parts together that the test part holds, about; in (0, 1).
    """
    now = history.now
    end = complete_until(now)
    date = _training_date(now, end, test_share=test_share)
    then = history.as_of(date)
    until = min(date, complete_until(then))
    return Split(
        trained_at=date,
        train=then.take((then.times < until) & then.labelled),
        test=now.take((now.times >= date) & (now.times < end) & now.labelled),
        gap=int(np.sum((now.times >= until) & (now.times < date))),
        delay_left_out=True,
    )


def plain_split(history: History, *, test_share: float) -> Split:
    """Returns train and test parts by time alone, labels as known at the pin: for logs too short for a gap."""
    now = history.now
    end = complete_until(now)
    known = now.take(now.labelled & (now.times < end))
    date = int(known.times[int(known.n * (1 - test_share))]) if known.n else 0
    before = known.times < date
    return Split(trained_at=date, train=known.take(before), test=known.take(~before), gap=0, delay_left_out=False)


def completeness(examples: Examples, *, are_quantities: bool = False) -> Completeness:
    """Returns how many labels are known, and why the others are not."""
    why = Counter(examples.why)
    return Completeness(
        requests=examples.n,
        labelled=int(np.sum(examples.labelled)),
        positives=int(np.sum(examples.labels == 1)),
        why=dict(sorted(why.items())),
        bounds=int(np.sum(examples.bounds)) if are_quantities else None,
    )


def support(examples: Examples, schema: Schema) -> Support:
    """Returns for which of the requests that were decided here an action was possible that shows the outcome."""
    decided = np.array([bool(acted) and acted != UNTOLD for acted in examples.acted])
    is_shown = np.array([acted in schema.label.observed_after for acted in examples.acted])
    is_drawn = examples.propensities < 1
    hidden = decided & ~is_drawn & np.array([why == "unobserved" for why in examples.why])
    return Support(
        requests=int(np.sum(decided)),
        drawn=int(np.sum(decided & is_shown & is_drawn)),
        hidden=int(np.sum(hidden)),
        amount_minor=int(np.sum(examples.amounts[decided])),
        hidden_minor=int(np.sum(examples.amounts[hidden])),
    )


def contender(name: str, role: Role, *, test: Examples, predictions: Floats, outlook: Outlook) -> Contender:
    """Returns what a model's predictions are worth on the test part, with the policy replayed over them."""
    actions, costs = replay_policy(test, predictions, outlook=outlook)
    rows = _evaluated(test, predictions, outlook=outlook, actions=actions, costs=costs)
    # Against doing nothing only the costs matter; the paired difference needs the same rows, nothing else of them.
    idle = msgspec.structs.replace(rows, costs=_idle_costs(test, outlook))
    return _measured(name, role, rows=rows, metrics=outlook.metrics, reference=idle)


def do_nothing(test: Examples, outlook: Outlook) -> Contender:
    """Returns what always taking the outlook's idle action costs; it predicts nothing, so no model metric."""
    actions, costs = np.full(test.n, outlook.idle), _idle_costs(test, outlook)
    rows = _evaluated(test, np.zeros(test.n), outlook=outlook, actions=actions, costs=costs)
    metrics = tuple(metric for metric in outlook.metrics if metric.tier != "model")
    return _measured(f"always {outlook.idle}", "baseline", rows=rows, metrics=metrics, reference=rows)


def replay_policy(
    test: Examples, predictions: Floats, *, outlook: Outlook
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Returns the action for each request, as `replayed` does, and what it cost once the label was known, minor units.

    Requests without a label are not replayed, so the replay uses a little less capacity than it would live.
    """
    actions, cost = replayed(test, predictions, outlook=outlook), _cost(outlook, test)
    return actions, np.array([cost(action, place) for place, action in enumerate(actions.tolist())], np.int64)


def replayed(test: Examples, predictions: Floats, *, outlook: Outlook) -> npt.NDArray[np.str_]:
    """Returns the action that the policy, without exploration, takes on each request.

    Counts of the policy's own decisions (reviews of the last day) are those of the replay; other views are as the log
    had them.
    """
    actions = [choice.action for choice in choices(test, predictions[:, None], outlook=outlook)]
    return np.array(actions, np.str_)


def choices(test: Examples, predictions: Floats | None, *, outlook: Outlook) -> Iterator[Choice]:
    """Yields what the policy, without exploration, chooses on each request, as `replayed` does.

    Args:
        test: the requests.
        predictions: float64, requests × heads; None for the policy's fallback, which has none.
        outlook: with the policy; its head names the heads, joined by "+".
    """
    views, heads = _OwnViews(outlook.features), outlook.head.split("+")
    columns = {name: column for column, name in enumerate(outlook.features.names)}
    policy = outlook.policy.greedy
    times, predicted = test.times.tolist(), [] if predictions is None else predictions.tolist()
    for place, request in enumerate(test.requests):
        features = _RowView(columns, test.rows[place], views.at(times[place]))
        said = dict(zip(heads, predicted[place], strict=True)) if predicted else {}
        case = Case(request, (Candidate(request.id, "request", said),), features, _no_draw)
        choice = (policy.decide(case) if predicted else policy.fall_back(case, "no_model")).choice
        views.note(times[place], choice.action)
        yield choice


def report(
    history: History, parts: Split, *, contenders: Sequence[Contender], metrics: tuple[Metric, ...], currency: str
) -> Report:
    """Returns the report of an evaluation."""
    schema = history.schema
    known = partial(completeness, are_quantities=bool(schema.label.of))
    return Report(
        system=schema.system,
        noun=schema.noun,
        position=history.position,
        known_time=history.known_time,
        trained_at=parts.trained_at,
        train=known(parts.train),
        test=known(parts.test),
        gap=parts.gap,
        delay_left_out=parts.delay_left_out,
        labels=known(history.now),
        support=Support() if schema.label.of else support(history.now, schema),
        late=history.late,
        currency=currency,
        metrics=described(metrics),
        contenders=tuple(contenders),
    )


def described(metrics: Iterable[Metric]) -> tuple[MetricInfo, ...]:
    """Returns metrics as reports describe them."""
    return tuple(MetricInfo(m.name, m.tier, m.meaning, m.formula, m.unit, m.better) for m in metrics)


class _RowView(Mapping[str, float]):
    """A row by feature name, with the replay's own views instead of the log's; nothing is copied."""

    def __init__(self, columns: Mapping[str, int], row: Floats, own: Mapping[str, float]) -> None:
        self._columns, self._row, self._own = columns, row, own

    def __getitem__(self, name: str) -> float:
        return self._own[name] if name in self._own else float(self._row[self._columns[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class _OwnViews:
    """The policy's views over its own decisions: counts of `decision.<action>` rows over everybody."""

    def __init__(self, features: FeatureSet) -> None:
        own = [feature for feature in features.aggregates if feature.use == "policy" and _counts_decisions(feature)]
        self._views = [(f.name, f.window_us, frozenset(f.over), deque[int]()) for f in own]

    def at(self, time: int) -> dict[str, float]:
        """Returns the counts in each window that ends at `time`; times must not run back."""
        for _, window, _, seen in self._views:
            while seen and seen[0] <= time - window:
                seen.popleft()
        return {name: float(len(seen)) for name, _, _, seen in self._views}

    def note(self, time: int, action: str) -> None:
        """Adds a decision."""
        for _, _, over, seen in self._views:
            if f"decision.{action}" in over:
                seen.append(time)


def _counts_decisions(feature: Aggregate) -> bool:
    return (
        feature.aggregate == "count" and feature.entity == ALL and all(k.startswith("decision.") for k in feature.over)
    )


def complete_until(examples: Examples, *, date: int | None = None) -> int:
    """Returns the latest time before which at most AWAITED_SHARE of the labels are still awaited at a date.

    Labels that silence never gives (after a block) are not awaited: nobody knows whether they will come.

    Args:
        examples: in order of time.
        date: µs; None for the moment that their labels are known at.
    """
    date, times = examples.known_by if date is None else date, examples.times
    knowable = examples.settled != NEVER
    awaited = knowable & (examples.settled > date)
    share = np.cumsum(awaited) / np.maximum(np.cumsum(knowable), 1)
    beyond = np.flatnonzero((share <= AWAITED_SHARE) & (times <= date))
    return int(times[beyond[-1]]) + 1 if len(beyond) else 0


def _training_date(now: Examples, end: int, *, test_share: float) -> int:
    """Returns the date at which the test part is about `test_share` of what train and test hold together."""
    dates = np.unique(now.times[now.times < end])
    # As the date moves on, the training part grows and the test part shrinks: a bisection finds the balance.
    low, high = 0, len(dates)
    while low < high:
        middle = (low + high) // 2
        trained, tested = _sizes(now, int(dates[middle]), end=end)
        if tested > test_share * (trained + tested):
            low = middle + 1
        else:
            high = middle
    return int(dates[low]) if low < len(dates) else end


def _sizes(now: Examples, date: int, *, end: int) -> tuple[int, int]:
    until = min(date, complete_until(now, date=date))
    trained = int(np.sum(now.labelled & (now.times < until)))
    return trained, int(np.sum(now.labelled & (now.times >= date) & (now.times < end)))


def _evaluated(
    test: Examples, predictions: Floats, *, outlook: Outlook, actions: npt.NDArray[np.str_], costs: Int64s
) -> Evaluated:
    return Evaluated(
        labels=test.labels.astype(np.float64),
        predictions=predictions,
        amounts=test.amounts,
        times=test.times,
        actions=actions,
        costs=costs,
        entities={name: tokens for name, tokens in test.entities.items() if _is_there(tokens)},
        weights=test.weights if np.any(test.propensities < 1) else np.empty(0),
        seed=outlook.seed,
    )


def _is_there(tokens: Int64s) -> Bools | bool:
    return bool(np.any(tokens != NO_ENTITY))


def _idle_costs(test: Examples, outlook: Outlook) -> Int64s:
    cost = _cost(outlook, test)
    return np.array([cost(outlook.idle, place) for place in range(test.n)], np.int64)


def _cost(outlook: Outlook, test: Examples) -> Callable[[str, int], int]:
    """Returns the function (action, place) → what it cost; equal amounts with equal labels are asked for once."""
    labels, amounts = test.labels.tolist(), test.amounts.tolist()
    known: dict[tuple[str, int, int], int] = {}

    def cost(action: str, place: int) -> int:
        key = (action, labels[place], amounts[place])
        if key not in known:
            known[key] = outlook.policy.cost_minor(action, label=float(key[1]), amount_minor=key[2])
        return known[key]

    return cost


def _measured(
    name: str, role: Role, *, rows: Evaluated, metrics: tuple[Metric, ...], reference: Evaluated
) -> Contender:
    values, missing = measure(metrics, rows)
    saved = difference(rows, reference, statistic=_cost_per_1000)
    mass, every = rows.mass, float(np.sum(rows.mass))
    return Contender(
        name=name,
        role=role,
        values=values,
        missing=missing,
        saved_per_1000=saved,
        actions={str(one): float(np.sum(mass[rows.actions == one])) / every for one in np.unique(rows.actions)},
    )


def measure(metrics: Iterable[Metric], rows: Any) -> tuple[dict[str, Measurement], tuple[Unmeasured, ...]]:
    """Returns what metrics measure on rows, and which of them the rows cannot give."""
    values: dict[str, Measurement] = {}
    missing: list[Unmeasured] = []
    for metric in metrics:
        try:
            values[metric.name] = metric.compute(rows)
        except DataError as error:
            missing.append(Unmeasured(metric.name, error.expected))
    return values, tuple(missing)


def _cost_per_1000(rows: Evaluated, weights: Floats) -> float:
    return float(1_000 * np.sum(rows.costs * weights) / np.sum(weights))


def _no_draw(name: str) -> float:
    raise DataError(
        where="policy replay over a test part",
        given=f"a draw {name!r}",
        expected="none: `greedy` is the policy without exploration",
        fix="Mend the policy's `greedy`.",
    )
