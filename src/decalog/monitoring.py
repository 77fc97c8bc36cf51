"""What is watched: a quantity, a level, and who is called; declared once, and watched over the log and by Prometheus.

`decalog watch` (`watching.py`) measures every quantity over the log. Those that a server counts about itself have an
expression over its /metrics too, and `rules_of` gives the rules that Prometheus evaluates between two watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from decalog.clock import DAY, duration_us
from decalog.standing import PEOPLE
from decalog.system import System

Quantity = Literal[
    "action",
    "fallback",
    "late",
    "slow",
    "rejected",
    "reported",
    "prediction",
    "spread",
    "reached",
    "worth",
    "silence",
    "unheard",
    "inputs",
    "predictions",
    "importances",
    "reports",
    "delays",
    "calibration",
    "found",
]
"""What can be watched; `Monitor` says what each is."""


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a person wants to be told about.

    Against a level, by `alert` above or below it:

    | quantity | value | `of` |
    |---|---|---|
    | action | share of decisions that took one of these actions | actions |
    | fallback | share made by the declared fallback, by reason | – |
    | late | share whose retrieval went on without a source | the source |
    | slow | share that took longer than the system's deadline | – |
    | rejected | share of rows that went to quarantine, by kind | – |
    | reported | reports of these kinds a decision that took an action of `among` | kinds of outcomes |
    | prediction | mean of a head | the head |
    | spread | deviation of a head over its mean: of what competes for a slate, or of all requests | head, () first |
    | reached | entities of which a feature reached `least`, a decision: each is counted once | the feature |
    | worth | mean expected value of a decision, minor units of the base currency | – |
    | silence | features whose rows have been silent for longer than they declare | – |
    | found | what a check of the system's own finds in the log | its path: (log, start, stop) → each `Found` |
    | unheard | kinds of outcomes of which nothing came, though the champion's reference had some | kinds; () for all |

    Against the time that the champion was judged on, by `alert` change; `level` is the smallest change that matters:

    | quantity | what changes | `level` |
    |---|---|---|
    | inputs | features, and values of requests: their distribution, nulls, new values | excess PSI |
    | predictions | each head of what was chosen | excess PSI |
    | importances | each feature's part of what moves predictions | difference of that part, 0 to 1 |
    | reports | reports of a kind a decision (`of`: kinds; `above` looks at a rise alone) | relative change |
    | delays | how long reports of a kind take | excess PSI |
    | calibration | observed over predicted, of matured labels | relative change |

    Args:
        name: of the alert.
        meaning: what it says about the system, in the field's words.
        watches: the quantity.
        of: which; see above.
        among: actions; only decisions that took one of them are counted below; () for all.
        alert: which way the level is crossed.
        level: beyond which a person is called.
        window: of decisions or rows that one look takes; looks are as far apart, at most a day.
        slices: public values of the request by which a share or a mean is looked at as well.
        least: value of a feature from which on it is `reached`.
        owner: who is called.
        runbook: what to look at first.
    """

    name: str
    meaning: str
    watches: Quantity
    alert: Literal["above", "below", "change"]
    level: float
    owner: str
    runbook: str
    of: tuple[str, ...] = ()
    among: tuple[str, ...] = ()
    window: str = "1d"
    slices: tuple[str, ...] = ()
    least: float = 0.0

    @property
    def is_change(self) -> bool:
        """Whether it looks for a change of any of many things, which are told together."""
        return self.watches in ("inputs", "predictions", "importances", "reports", "delays", "calibration")

    @property
    def window_us(self) -> int:
        """The window in µs."""
        return duration_us(self.window)

    @property
    def every_us(self) -> int:
        """How far two looks are apart, µs."""
        return min(self.window_us, DAY)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a system's own check says of one thing.

    Args:
        labels: which.
        said: in words.
        value: as measured.
        is_beyond: whether somebody is to be called.
        p_value: of being so by chance.
    """

    labels: dict[str, str]
    said: str
    value: float
    is_beyond: bool
    p_value: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch must notice: a drift of the system's world, and the alert that it raises (conformance 10).

    Args:
        switch: of the world (`World.switch`).
        alert: name of a monitor, one of those that every system has included.
        within: how long after the switch at most; most monitors look at midnight, UTC.
    """

    switch: str
    alert: str
    within: str

    @property
    def within_us(self) -> int:
        """The same in µs."""
        return duration_us(self.within)


_USUAL = (
    Monitor(
        name="slow_share",
        meaning="decisions that took longer than the system's deadline",
        watches="slow",
        alert="above",
        level=0.01,
        window="1h",
        owner="",
        runbook="`stages_us` of a slow decision says which stage; look at the load of the machine.",
    ),
    Monitor(
        name="inputs",
        meaning="what is asked and what features say is not what the champion was judged on",
        watches="inputs",
        alert="change",
        level=0.1,
        owner="",
        runbook="Replay ten decisions of the day, ten of before; look for a sender that changed a unit or a code.",
    ),
    Monitor(
        name="predictions",
        meaning="predictions are distributed otherwise than when the champion was judged",
        watches="predictions",
        alert="change",
        level=0.1,
        owner="",
        runbook="If an input moved with it, begin there; else the mix of requests changed: train again.",
    ),
    Monitor(
        name="importances",
        meaning="other features move the predictions than when the champion was judged",
        watches="importances",
        alert="change",
        level=0.05,
        window="7d",
        owner="",
        runbook="A feature that lost its part may be empty or constant; one that gained it may leak or be broken.",
    ),
    Monitor(
        name="reports",
        meaning="what happens to decisions is reported more or less often than when the champion was judged",
        watches="reports",
        alert="change",
        level=0.5,
        window="7d",
        owner="",
        runbook="Split by sender: one that stopped, or repeats itself, or a true change, for which train again.",
    ),
    Monitor(
        name="unheard",
        meaning="kinds of outcomes of which nothing came any more: training would take silence for an answer",
        watches="unheard",
        alert="above",
        level=0.0,
        window="7d",
        owner="",
        runbook="Look for who reports them; train no model before they are back.",
    ),
    Monitor(
        name="delays",
        meaning="outcomes take longer, or shorter, than when the champion was judged",
        watches="delays",
        alert="change",
        level=0.25,
        window="7d",
        owner="",
        runbook="Ask who reports them. Where they will stay late, lengthen the label's maturity.",
    ),
    Monitor(
        name="calibration",
        meaning="what is predicted happens more or less often than predicted, by labels that have matured",
        watches="calibration",
        alert="change",
        level=0.3,
        window="7d",
        owner="",
        runbook="Train again; until then raise or lower the policy's thresholds by as much.",
    ),
)
USUAL: Mapping[str, Monitor] = {monitor.watches: monitor for monitor in _USUAL}
"""What every system is watched for, by quantity; one that declares it otherwise replaces what it means to change."""
_FLAT = Monitor(
    name="spread",
    meaning="what competes for a slate is predicted almost alike: the order is hardly better than drawn",
    watches="spread",
    alert="below",
    level=0.1,
    window="6h",
    owner="",
    runbook="Replay a decision: features that are all alike or empty mean data, others a model that learnt or loaded "
    "nothing: roll back.",
)
_STALE = Monitor(
    name="feature_stale",
    meaning="features whose rows have been silent for longer than they declare: their windows run empty",
    watches="silence",
    alert="above",
    level=0.0,
    window="15m",
    owner="",
    runbook="`decalog features` says which rows the feature reads; look for their sender.",
)


def monitors_of(system: System) -> tuple[Monitor, ...]:
    """Returns what is watched on a system: what its room declares, and what every system is watched for unless it does.

    >>> from decalog.system import find_system
    >>> [monitor.name for monitor in monitors_of(find_system("fraud"))][-2:]
    ['fraud_calibration', 'fraud_feature_stale']
    """
    own: tuple[Monitor, ...] = system.monitors
    declared = {monitor.watches for monitor in own}
    owner = own[0].owner if own else system.name
    named = [(monitor, owner) for monitor in _usual(system)]
    fed = [feature for feature in system.features.aggregates if feature.staleness]
    if fed:
        named.append((_STALE, ", ".join(sorted({feature.owner for feature in fed if feature.owner})) or owner))
    usual = (
        msgspec.structs.replace(monitor, name=f"{system.name}_{monitor.name}", owner=whose)
        for monitor, whose in named
        if monitor.watches not in declared
    )
    return (*own, *usual)


def _usual(system: System) -> Iterator[Monitor]:
    """Yields what a system is watched for by its kind of label."""
    for monitor in (*_USUAL, *((_FLAT,) if system.schema.slate_of else ())):
        # Quantities that are lower bounds would look as if too much had been predicted.
        if not (monitor.watches == "calibration" and system.schema.label.of):
            yield monitor


# ---- what Prometheus can watch ----


def expression_of(monitor: Monitor, system: str) -> str:
    """Returns a quantity over the series of /metrics, as Prometheus evaluates it; "" where only the log knows it.

    >>> blocks = Monitor(name="blocks", meaning="", watches="action", of=("block",), alert="above", level=0.03,
    ...                  window="15m", owner="fraud", runbook="")
    >>> expression_of(blocks, "fraud").split(" / ")[0]
    'sum(rate(decalog_decisions_total{system="fraud",action=~"block"}[15m]))'
    """
    made = _SERIES.get(monitor.watches)
    return made(monitor, f'system="{system}"') if made else ""


def rules_of(system: System) -> dict[str, Any]:
    """Returns alerting rules for Prometheus: JSON, which it reads as YAML.

    Source: prometheus.io/docs/prometheus/latest/configuration/alerting_rules.
    """
    signs = {"above": ">", "below": "<"}
    rules = [
        {
            "alert": monitor.name,
            "expr": f"{expression} {signs[monitor.alert]} {monitor.level:g}",
            "labels": labels_of(monitor, system.name),
            "annotations": {"summary": monitor.meaning, "runbook": monitor.runbook},
        }
        for monitor in monitors_of(system)
        if (expression := expression_of(monitor, system.name))
    ]
    return {"groups": [{"name": f"decalog {system.name}", "rules": rules}]}


def labels_of(monitor: Monitor, system: str) -> dict[str, str]:
    """Returns what an alert is told apart by, whoever watches, and routed by."""
    return {"system": system, "owner": monitor.owner}


def _per_decision(monitor: Monitor, mine: str, *, series: str, by: str = "") -> str:
    every = f"sum(rate(decalog_decisions_total{{{mine}}}[{monitor.window}]))"
    split = f" by ({by}) / ignoring({by})" if by else " /"
    return f"sum(rate({series}[{monitor.window}])){split} {every}"


def _reported(monitor: Monitor, mine: str) -> str:
    kinds, actions = "|".join(monitor.of), "|".join(monitor.among) or ".+"
    return (
        f'sum(increase(decalog_reported_total{{{mine},kind=~"{kinds}"}}[{monitor.window}])) / '
        f'sum(increase(decalog_decisions_total{{{mine},action=~"{actions}"}}[{monitor.window}]))'
    )


def _prediction(monitor: Monitor, mine: str) -> str:
    head = f'{{{mine},head="{monitor.of[0]}"}}[{monitor.window}]'
    return f"sum(rate(decalog_prediction_sum{head})) / sum(rate(decalog_prediction_count{head}))"


def _rejected(monitor: Monitor, mine: str) -> str:
    window = monitor.window
    refused = f'sum(rate(decalog_rows_total{{{mine},status="rejected"}}[{window}])) by (kind)'
    return f"{refused} / sum(rate(decalog_rows_total{{{mine}}}[{window}])) by (kind)"


_SERIES: Mapping[str, Callable[[Monitor, str], str]] = {
    "action": lambda monitor, mine: _per_decision(
        monitor, mine, series=f'decalog_decisions_total{{{mine},action=~"{"|".join(monitor.of)}"}}'
    ),
    "fallback": lambda monitor, mine: _per_decision(
        monitor, mine, series=f'decalog_fallbacks_total{{{mine},reason!~"{"|".join(PEOPLE)}"}}', by="reason"
    ),
    "late": lambda monitor, mine: _per_decision(
        monitor, mine, series=f'decalog_stage_seconds_count{{{mine},stage="{monitor.of[0]} late"}}'
    ),
    "rejected": _rejected,
    "reported": _reported,
    "prediction": _prediction,
    "silence": lambda _, mine: f"max(decalog_feature_stale{{{mine}}}) by (feature)",
}
