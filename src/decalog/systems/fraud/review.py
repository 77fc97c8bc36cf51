"""The analysts' queue: which payments wait for a person, the most worth looking at first, each in one pair of hands.

It holds no state: a payment waits because its decision says so, a claim and a verdict are outcomes in the log, and so
the queue is the same after a restart, and anyone can count afterwards who did what when.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from decalog.clock import DAY, MINUTE, SECOND
from decalog.decisions import WAITS, Decision, decode_decision, unpack_features, waiting_key
from decalog.errors import ConflictError, UnknownRecordError
from decalog.events import Record, decode_table
from decalog.explanations import Because, explain
from decalog.features.definition import FeatureSet
from decalog.ingest import RowResult
from decalog.log import Log
from decalog.outcomes import Outcome, decode_outcome
from decalog.schema import ID_LENGTH
from decalog.standing import CONTESTS, Contest, Standing
from decalog.systems.fraud.policy import AMOUNT, BY_FRICTION, HEAD, REVIEW, FraudCosts, expected_costs, in_minor

CLAIM, VERDICT = "review_claim", "analyst_verdict"
_MOST_MINUTES = 1_440
"""No claim holds longer: what is reported from outside the desk may say any number."""

State = Literal["waiting", "claimed", "closed"]


class ReviewCase(msgspec.Struct, frozen=True, kw_only=True):
    """One payment for the analysts.

    Args:
        payment, decision: ids.
        since: when it was decided, µs.
        amount_minor: in minor units of the base currency.
        p_fraud: as the model said; None for a fallback, where it had nothing to say.
        worth_minor: what looking at it is expected to save over the next best action, in minor units.
        reasons: of the decision.
        state: waiting, claimed, or closed by a verdict.
        by: who holds or closed it; "" for nobody.
        claimed: when that began, µs; 0 for never.
        until: when the claim ends, µs; 0 where there is none.
        closed: when the verdict came, µs; 0 for not yet.
        verdict: 1 fraud, 0 genuine, None for none yet.
    """

    payment: str
    decision: str
    since: int
    amount_minor: int
    p_fraud: float | None
    worth_minor: int
    reasons: tuple[str, ...]
    state: State = "waiting"
    by: str = ""
    claimed: int = 0
    until: int = 0
    closed: int = 0
    verdict: int | None = None


class QueueFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the queue is doing, over the days that it looks back.

    Args:
        waiting, claimed, closed: payments.
        oldest_s: how long the longest waiting one has waited; 0 for none.
        wait_s, service_s: medians from decision to claim, and from claim to verdict; None where nothing was closed.
        frauds: verdicts that said fraud.
        by: analyst → verdicts.
    """

    waiting: int
    claimed: int
    closed: int
    oldest_s: float
    wait_s: float | None
    service_s: float | None
    frauds: int
    by: Mapping[str, int]


class ReviewQueue:
    """The queue over one log. It belongs to the thread that stamps: between a look and a claim nothing comes in.

    Args:
        log: to read.
        admit: takes an outcome's body; of the system's admission.
        costs: policy parameters in force, by which payments are ranked.
        days: how far back it looks; what nobody took on by then is left as it is.
        lease_minutes: how long a claim holds.
        now: what time it is, µs; without it the log's clock.
    """

    def __init__(
        self,
        log: Log,
        admit: Callable[[Mapping[str, Any]], RowResult],
        *,
        costs: Callable[[], FraudCosts],
        days: int = 14,
        lease_minutes: int = 30,
        now: Callable[[], int] | None = None,
    ) -> None:
        self._log = log
        self._admit = admit
        self._costs = costs
        self._days = days
        self._lease_minutes = lease_minutes
        self._standing = Standing((), "fraud")
        self._now = now or (lambda: max(log.known_time, log.clock.now_us()))

    def cases(self, state: State | None = None) -> list[ReviewCase]:
        """Returns the payments of a state, or all; those most worth looking at first, the older first among equals."""
        return ranked(case for case in self.each() if state in (None, case.state))

    def each(self) -> Iterator[ReviewCase]:
        """Yields the payments of the days that it looks back, the older days first, each as it is by then.

        What people contested lately comes before.
        """
        today = self._now() // DAY
        erased = self._erased()
        for seq in contested(self._log, since=(today - self._days + 1) * DAY):
            record = self._log.get(seq)
            decision = decode_decision(record.body)
            if seq not in erased and not _is_for_people(decision):
                yield self._case(record, decision)
        for day in range(today - self._days + 1, today + 1):
            for seq in self._log.find(WAITS, waiting_key("fraud", day)):
                record = self._log.get(seq)
                decision = decode_decision(record.body)
                if seq not in erased and _is_for_people(decision):
                    yield self._case(record, decision)

    def case(self, payment: str) -> ReviewCase:
        """Returns one payment.

        Raises:
            UnknownRecordError: it does not wait for an analyst, and never did.
        """
        seqs = self._log.find("request", f"fraud/{payment}")
        record = self._log.get(seqs[0]) if seqs else None
        decision = decode_decision(record.body) if record is not None and record.kind == "decision" else None
        is_here = decision is not None and (_is_for_people(decision) or seqs[0] in contested(self._log))
        if record is None or decision is None or not is_here or seqs[0] in self._erased():
            raise UnknownRecordError(
                where="fraud review",
                given="a payment that was not sent to the analysts",
                expected="one that was decided as review",
                fix="GET the waiting ones.",
            )
        return self._case(record, decision)

    def claim(self, payment: str, *, by: str) -> ReviewCase:
        """Takes a payment on, or takes it on for longer; returns it.

        Raises:
            UnknownRecordError: it never waited for an analyst.
            ConflictError: another analyst holds it, or it is closed.
        """
        self._check_free(self.case(payment), by)
        return self._report(CLAIM, payment, by=by, value=self._lease_minutes)

    def release(self, payment: str, *, by: str) -> ReviewCase:
        """Gives a payment back; errors as for `claim`."""
        self._check_free(self.case(payment), by)
        return self._report(CLAIM, payment, by=by, value=0)

    def close(self, payment: str, *, by: str, is_fraud: bool) -> ReviewCase:
        """Records the verdict on a payment, once; errors as for `claim`. It is corrected as any outcome is."""
        case = self.case(payment)
        if (case.by, case.verdict) == (by, int(is_fraud)):
            return case
        self._check_free(case, by)
        return self._report(VERDICT, payment, by=by, value=int(is_fraud))

    def figures(self, cases: Sequence[ReviewCase] | None = None) -> QueueFigures:
        """Returns how the queue is doing, by `each` of its payments, which is asked for them if they are not given."""
        cases, now = list(self.each()) if cases is None else cases, self._now()
        states = Counter(case.state for case in cases)
        closed = [case for case in cases if case.state == "closed"]
        held = [case for case in closed if case.claimed]
        return QueueFigures(
            waiting=states["waiting"],
            claimed=states["claimed"],
            closed=states["closed"],
            oldest_s=max((now - case.since for case in cases if case.state == "waiting"), default=0) / SECOND,
            wait_s=_median_s([case.claimed - case.since for case in held]),
            service_s=_median_s([case.closed - case.claimed for case in held]),
            frauds=sum(case.verdict == 1 for case in closed),
            by=dict(sorted(Counter(case.by for case in closed).items())),
        )

    def _erased(self) -> Mapping[int, int]:
        self._standing.refresh(self._log)
        return self._standing.erased

    def _case(self, record: Record, decision: Decision) -> ReviewCase:
        request = decision.request
        p_fraud = decision.candidates[0].predictions.get(HEAD)
        amount = request.attributes.get(AMOUNT)
        amount_minor = amount if isinstance(amount, int) else 0
        case = ReviewCase(
            payment=request.id,
            decision=decision.id,
            since=record.known_time,
            amount_minor=amount_minor,
            p_fraud=p_fraud,
            worth_minor=_worth_minor(self._costs(), p_fraud, amount_minor=amount_minor),
            reasons=decision.choice.reasons,
        )
        for outcome in self._said(request.id):
            case = _after(case, outcome, now=self._now())
        return case

    def _said(self, payment: str) -> list[Outcome]:
        """Returns what analysts did with a payment, in the order of the log; of a corrected report the last version."""
        roots = {self._log.get(seq).root: None for seq in self._log.find("target", f"fraud/{payment}")}
        said = [decode_outcome(self._log.before(root, self._log.position).body) for root in roots]
        return [outcome for outcome in said if outcome.target == payment and outcome.kind in (CLAIM, VERDICT)]

    def _check_free(self, case: ReviewCase, by: str) -> None:
        if case.state == "closed":
            raise ConflictError(
                where="fraud review",
                given="a payment that is closed",
                expected="one that waits",
                fix="Correct its verdict as an outcome, with `corrects`.",
            )
        if case.state == "claimed" and case.by != by:
            raise ConflictError(
                where="fraud review",
                given="a payment that another analyst holds",
                expected="one that waits, or is yours",
                fix="Take the next one; claims end by themselves.",
            )

    def _report(self, kind: str, payment: str, *, by: str, value: int) -> ReviewCase:
        # Named by its place in the log: the same analyst may claim the same payment twice.
        id_ = f"{kind}-{payment}-{self._log.position}"[-ID_LENGTH:]
        body = {"id": id_, "payment": payment, "kind": kind, "source": "analyst", "value": value, "by": by}
        result = self._admit(body)
        if result.status == "rejected":
            raise ConflictError(
                where="fraud review",
                given=f"a report that admission refused: {result.message}",
                expected="an analyst's id of text",
                fix="Mend the id.",
            )
        return self.case(payment)


def contested(log: Log, *, since: int = 0) -> dict[int, None]:
    """Returns the seqs of payments that people want a person to look at, in the order in which they said so.

    Args:
        log: to read.
        since: when they said so at the earliest, µs.
    """
    records = (log.get(seq) for seq in reversed(log.find("table", f"fraud/{CONTESTS}")))
    lately = list(itertools.takewhile(lambda record: record.known_time >= since, records))
    told = (msgspec.json.decode(decode_table(record.body).content, type=Contest) for record in reversed(lately))
    return dict.fromkeys(contest.seq for contest in told)


def ranked(cases: Iterable[ReviewCase]) -> list[ReviewCase]:
    """Returns the payments most worth looking at first, the older first among equals."""
    return sorted(cases, key=lambda case: (-case.worth_minor, case.since))


def because(decision: Decision, model: object, *, features: FeatureSet) -> tuple[Because, ...]:
    """Returns why a model said what it said of a payment, by the features as logged; empty where it said nothing.

    Args:
        decision: on the payment.
        model: that predicted.
        features: that it was decided on.
    """
    row = unpack_features(decision.candidates[0].features)
    is_whole = decision.versions.features == features.version and len(row) == len(features.names)
    return explain(model, row, features=features) if is_whole else ()


def _median_s(durations_us: list[int]) -> float | None:
    return statistics.median(durations_us) / SECOND if durations_us else None


def _is_for_people(decision: Decision) -> bool:
    return decision.mode in ("live", "fallback") and decision.acted == REVIEW


def _worth_minor(costs: FraudCosts, p_fraud: float | None, *, amount_minor: int) -> int:
    """Returns what a review is expected to save; without a prediction the whole amount is at stake."""
    if p_fraud is None:
        return amount_minor
    expected = expected_costs(costs, p_fraud, amount_minor=amount_minor)
    other = min(expected[action] for action in BY_FRICTION if action != REVIEW)
    return in_minor(other - expected[REVIEW])


def _after(case: ReviewCase, outcome: Outcome, *, now: int) -> ReviewCase:
    """Returns a case after something that was reported about it; a verdict of neither 0 nor 1 says nothing."""
    at, by = outcome.event_time, str(outcome.attributes.get("by", ""))
    if outcome.kind == VERDICT and outcome.value not in (0, 1):
        return case
    if outcome.kind == VERDICT:
        claimed = case.claimed if case.by == by else 0
        return msgspec.structs.replace(
            case, state="closed", by=by, claimed=claimed, closed=at, verdict=int(outcome.value)
        )
    if case.state == "closed":
        return case
    until = at + int(min(max(outcome.value, 0), _MOST_MINUTES)) * MINUTE
    if until <= now:
        # It has run out, or was given back.
        return msgspec.structs.replace(case, state="waiting", by="", claimed=0, until=0)
    claimed = case.claimed if case.by == by else at
    return msgspec.structs.replace(case, state="claimed", by=by, claimed=claimed, until=until)
