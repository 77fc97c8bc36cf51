"""What rules would have done, on payments of the log whose labels have matured: before a rule goes live.

A rule is laid over what was done: a payment that it does not match keeps its action. Payments without a label count as
matches and in the queue, never as good: after a block nobody learns what the payment was. After any stop only reports
count as labels, so that the precision of a rule flatters it where it matches what was stopped already. A payment that
is younger than the label's maturity has no label here, even where a fraud was reported: its good peers are not known.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import DAY, rfc3339
from decalog.decisions import decode_decision
from decalog.errors import DataError
from decalog.evaluation import completeness
from decalog.examples import UNKNOWN, UNTOLD, Bools, Examples, History
from decalog.log import Log
from decalog.metrics import Evaluated, Measurement, difference, proportion
from decalog.money import EXPONENTS
from decalog.policy import Case, Values
from decalog.reports import Completeness
from decalog.systems.fraud.metrics import METRICS
from decalog.systems.fraud.policy import ALLOW, BLOCK, REVIEW, FraudPolicy
from decalog.systems.fraud.rules.language import Rule
from decalog.systems.fraud.rules.ruleset import RuleSet

Actions = npt.NDArray[np.str_]

_ACTION = "U16"
_VALUE_CAUGHT = next(metric.compute for metric in METRICS if metric.name == "value_weighted_recall")


class Payments(msgspec.Struct, frozen=True):
    """Payments of a log as rules meet them, and what became of them.

    Args:
        position: of the log, number of records read.
        examples: with the labels of those old enough.
        cases: one a payment; imported ones have no prediction.
        done: the action that happened; imported payments went through.
    """

    position: int
    examples: Examples
    cases: tuple[Case, ...]
    done: Actions

    def since(self, time: int) -> Payments:
        """Returns the payments decided at a time, µs, or later."""
        later = self.examples.times >= time
        cases = tuple(self.cases[place] for place in np.flatnonzero(later).tolist())
        return Payments(self.position, self.examples.take(later), cases, self.done[later])


class Tried(msgspec.Struct, frozen=True):
    """What one rule would have done, or all of them together.

    Args:
        rule: in the language.
        counts: `matches`; of those `frauds` and `good` by matured labels, `immature` whose label is still awaited,
            `unobserved` whose label nobody will know after what was done; `stopped_before`, which were not simply
            allowed, and `frauds_stopped_before`.
        shares: `precision`, frauds among labelled matches; `value_caught`, of all fraudulent money, in matches that
            would not be allowed; `insulted`, of all good payments, that were allowed and would not be. None where there
            is nothing to share.
        saved_minor: money against what was done, on labelled payments; minor units of the base currency.
        reviews, worst_reviews: what it adds to the queue, a day, and on the worst day.
    """

    rule: str
    counts: dict[str, int]
    shares: dict[str, Measurement | None]
    saved_minor: Measurement
    reviews: float
    worst_reviews: int

    def text(self, currency: str) -> str:
        """Returns it for people."""
        places = EXPONENTS.get(currency, 2)
        money, low, high = (f"{m / 10**places:,.{places}f}" for m in msgspec.structs.astuple(self.saved_minor)[:3])
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.counts.items())
        shares = ", ".join(f"{name.replace('_', ' ')} {_percent(share)}" for name, share in self.shares.items())
        queue = f"reviews {self.reviews:+.1f} a day, at worst {self.worst_reviews:+d}"
        return f"{self.rule}\n  {counts}\n  {shares}\n  saved {money} {currency} ({low} to {high}), {queue}"


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """A backtest, whole.

    Args:
        position: of the log, number of records read.
        first, last: times of the payments, µs.
        labels: how many are known.
        reviews, worst_reviews: that were sent to the analysts, a day, and on the worst day.
        reviews_per_day: the analysts' capacity.
        currency: of the money.
        rules: each by itself, shadow rules too; at last those that act, together.
    """

    position: int
    first: int
    last: int
    labels: Completeness
    reviews: float
    worst_reviews: int
    reviews_per_day: int
    currency: str
    rules: tuple[Tried, ...]

    def text(self) -> str:
        """Returns it for people."""
        queue = f"{self.reviews:.1f} a day, at worst {self.worst_reviews}, capacity {self.reviews_per_day}"
        head = (
            f"fraud at log position {self.position:,}, decided {rfc3339(self.first)} to {rfc3339(self.last)}\n"
            f"Labels: {self.labels.text()}.\n"
            f"Reviews as it was: {queue}. In brackets: 95 % intervals."
        )
        return "\n".join([head, *(tried.text(self.currency) for tried in self.rules)])


def read_payments(history: History, log: Log) -> Payments:
    """Returns the payments of a history, those decided here with what was predicted, which the log tells."""
    now, places = history.now, {name: place for place, name in enumerate(history.features.names)}
    own = (r for r in log.read(0, history.position) if r.kind == "decision" and r.system == history.schema.system)
    decided = {record.seq: decode_decision(record.body) for record in own}
    cases = []
    for seq, image, row in zip(now.seqs.tolist(), now.requests, now.rows, strict=True):
        decision = decided.get(seq)
        request, candidates = (decision.request, decision.candidates) if decision else (image, ())
        cases.append(Case(request, candidates, Values(places, row), lambda _name: 0.0))
    young = now.times > now.known_by - history.schema.label.maturity_us
    why = np.where(young, "immature", np.array(now.why, np.str_)).tolist()
    matured = msgspec.structs.replace(now, labels=np.where(young, UNKNOWN, now.labels), why=tuple(why))
    acted = np.array(now.acted, _ACTION)
    done = np.where(acted == "", ALLOW, acted)
    return Payments(history.position, matured, tuple(cases), done.astype(_ACTION))


def backtest(rules: RuleSet, payments: Payments, *, policy: FraudPolicy) -> Backtest:
    """Returns what rules would have done on payments.

    Args:
        rules: to try; those of the policy count only through what was done.
        payments: to try them on.
        policy: what mistakes cost, and the analysts' capacity.

    Raises:
        DataError: there are no payments.
    """
    examples, done = payments.examples, payments.done
    if not examples.n:
        raise DataError(
            where="backtest of fraud rules",
            given="a part of the log without payments",
            expected="payments that were decided or imported",
            fix="Import history, or decide in shadow for a while.",
        )
    trial = _Trial(payments, policy)
    matched = np.array([rules.matches(case) for case in payments.cases], np.bool_)
    rulings = [rules.ruling(case).acting for case in payments.cases]
    together, hit = done, np.array([bool(acting) for acting in rulings])
    # In the order of `acting`: 3-D Secure, the first of the rules, is laid over at last.
    for rule in reversed(rules.rules):
        together = _laid_over(together, np.array([rule in acting for acting in rulings]), rule)
    each = [
        trial.tried(str(rule), matched=column, after=_laid_over(done, column, rule))
        for rule, column in zip(rules.rules, matched.T, strict=True)
    ]
    reviews, worst = trial.load(done == REVIEW)
    return Backtest(
        position=payments.position,
        first=int(examples.times[0]),
        last=int(examples.times[-1]),
        labels=completeness(examples),
        reviews=reviews,
        worst_reviews=worst,
        reviews_per_day=policy.params.reviews_per_day,
        currency=policy.params.rates.base,
        rules=(*each, trial.tried("all together, in their order", matched=hit, after=together)),
    )


class _Trial:
    """Measures rules on the same payments."""

    def __init__(self, payments: Payments, policy: FraudPolicy) -> None:
        self._examples, self._done, self._policy = payments.examples, payments.done, policy
        self._known = payments.examples.labelled & (payments.done != UNTOLD)
        self._days = payments.examples.times // DAY - payments.examples.times[0] // DAY

    def tried(self, rule: str, *, matched: Bools, after: Actions) -> Tried:
        """Returns the figures of a rule by what it matches, and by what all payments would have met."""
        examples, done = self._examples, self._done
        fraud, good = examples.labels == 1, examples.labels == 0
        immature, stopped = np.array(examples.why) == "immature", ~np.isin(done, (ALLOW, UNTOLD))
        of_matched = {
            "matches": matched,
            "frauds": fraud,
            "good": good,
            "immature": immature,
            "unobserved": ~examples.labelled & ~immature,
            "stopped_before": stopped,
            "frauds_stopped_before": stopped & fraud,
        }
        counts = {name: int(np.sum(matched & mask)) for name, mask in of_matched.items()}
        insulted = int(np.sum(good & (done == ALLOW) & (after != ALLOW)))
        # What a rule lets through it does not catch; what was stopped before it, it catches too.
        flagged = np.where(matched & (after != ALLOW), BLOCK, ALLOW)
        rows, before = (self._evaluated(actions, after != done, flagged=flagged) for actions in (after, done))
        return Tried(
            rule,
            counts,
            {
                "precision": _share(counts["frauds"], counts["frauds"] + counts["good"]),
                "value_caught": _VALUE_CAUGHT(rows) if np.any(rows.amounts[rows.labels > 0]) else None,
                "insulted": _share(insulted, int(np.sum(good))),
            },
            difference(rows, before, statistic=lambda rows, weights: float(np.sum(rows.costs * weights))),
            *self.load((after == REVIEW).astype(np.int64) - (done == REVIEW)),
        )

    def load(self, reviews: npt.NDArray[np.generic]) -> tuple[float, int]:
        """Returns reviews a day, their mean over the days of the payments and the most, from those of each payment."""
        days = np.bincount(self._days, weights=reviews)
        return float(np.mean(days)), int(np.max(days))

    def _evaluated(self, actions: Actions, changed: Bools, *, flagged: Actions) -> Evaluated:
        """Returns the labelled payments with what the actions cost where they changed; elsewhere nothing differs."""
        examples, known, costs = self._examples, self._known, np.zeros(len(actions), np.int64)
        for place in np.flatnonzero(changed & known).tolist():
            label, amount = float(examples.labels[place]), int(examples.amounts[place])
            costs[place] = self._policy.cost_minor(str(actions[place]), label=label, amount_minor=amount)
        return Evaluated(
            labels=examples.labels[known].astype(np.float64),
            predictions=np.zeros(int(np.sum(known))),
            amounts=examples.amounts[known],
            times=examples.times[known],
            actions=flagged[known],
            costs=costs[known],
        )


def _laid_over(done: Actions, matched: Bools, rule: Rule) -> Actions:
    after = done.copy()
    after[matched] = [rule.after(str(action)) for action in done[matched]]
    return after


def _share(part: int, whole: int) -> Measurement | None:
    return proportion(part, whole) if whole else None


def _percent(share: Measurement | None) -> str:
    return "–" if share is None else f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f})"
