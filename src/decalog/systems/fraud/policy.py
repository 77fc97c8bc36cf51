"""Allow, step up, review or block: whichever is expected to cost least, in integer minor units of the base currency.

With p the probability of fraud, A the amount, F the chargeback fee, M the margin, G the goodwill of a good customer:

    allow    p (A + F)
    step up  fee + p · share of frauds that pass · (A + F) + (1 − p) · share of honest who give up · M
    review   minutes × rate + p · share of frauds missed · (A + F) + (1 − p) · share of honest refused · (M + G)
    block    (1 − p) (M + G)

So a payment is blocked rather than allowed iff p > (M + G) / (M + G + A + F) (Elkan, "The foundations of cost-sensitive
learning", IJCAI 2001, equation 2): dearer payments are stopped at lower probabilities. Costs are compared exactly and
rounded once, half to even, when one is logged.

Rules come before costs: what one of them says stands whatever the model thinks, within the analysts' capacity.

A blocked payment has no outcome, so a model would learn only from what was let through. A small share of blocks, drawn
and logged with its propensity, is let through instead: up to an amount, and within a budget for 24 hours. What is
learnt from it holds for payments up to that amount and for no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from decalog.decisions import WAITS, Choice, GuardrailVerdict, Slot
from decalog.errors import ConfigError
from decalog.ingest import Rates
from decalog.money import MAX_MINOR
from decalog.policy import Case, Verdict
from decalog.standing import PEOPLE
from decalog.systems.fraud.rules import facts
from decalog.systems.fraud.rules.ruleset import RuleSet, Ruling

ALLOW, STEP_UP, REVIEW, BLOCK = "allow", "step_up", "review", "block"
BY_FRICTION = (ALLOW, STEP_UP, REVIEW, BLOCK)
"""Least friction first: where two actions cost the same, the gentler one is chosen."""

HEAD, AMOUNT = facts.HEAD, facts.AMOUNT
REVIEWS = "reviews_1d"
EXPLORED = "explored_amount_1d"

_PPB = 10**9
_BP = 10**4
_SCALE = _PPB * _BP * _BP
"""Costs inside are integers: minor units × probability in 1e-9 × two shares in 1e-4."""

_REVIEW = Slot(REVIEW, attributes={WAITS: True})

Money = Annotated[int, Meta(ge=0, le=MAX_MINOR)]
Share = Annotated[int, Meta(ge=0, le=_BP)]
ListName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,39}$")]


class FraudCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each mistake costs this merchant, and the rules that come before any weighing of costs.

    `_minor` is minor units of the base currency, `_bp` hundredths of a percent.
    The defaults are an example of a mid-size online shop; set your own before you trust the money in a report.

    Args:
        chargeback_fee_minor: F, charged by the acquirer for each chargeback, beside the amount.
        margin_bp: M as a share of the amount: what a lost sale would have earned.
        goodwill_minor: G, future business lost with a good customer who is refused.
        review_minutes: of an analyst for one payment.
        analyst_hour_minor: cost of an analyst's hour.
        review_misses_bp: frauds that an analyst lets go.
        review_refuses_bp: good payments that an analyst refuses.
        reviews_per_day: how many payments the analysts can look at in 24 hours.
        step_up_fee_minor: price of one 3-D Secure authentication.
        step_up_gives_up_bp: honest customers who do not finish a step-up.
        step_up_frauds_pass_bp: frauds that pass a step-up.
        fallback_block_above_minor: without a prediction and without review capacity, payments above it are blocked.
        rules: in the language of `decalog.systems.fraud.rules.language`, one a line.
        lists: names of the lists that rules may test; bit i of the feature `<entity>_lists` is the list of place i.
        rates: for rules on amounts in other currencies. A deployment puts its own here, whatever a file says.
        explore_bp: blocks that are let through to see their outcome; 0 for none.
        explore_up_to_minor: only up to this amount.
        explore_budget_minor: amounts let through so in 24 hours, together.
    """

    chargeback_fee_minor: Money = 1_500
    margin_bp: Share = 800
    goodwill_minor: Money = 500
    review_minutes: Annotated[int, Meta(ge=0, le=1_440)] = 4
    analyst_hour_minor: Money = 3_000
    review_misses_bp: Share = 1_000
    review_refuses_bp: Share = 300
    reviews_per_day: Annotated[int, Meta(ge=0, le=1_000_000)] = 40
    step_up_fee_minor: Money = 5
    step_up_gives_up_bp: Share = 800
    step_up_frauds_pass_bp: Share = 800
    fallback_block_above_minor: Money = 50_000
    rules: Annotated[str, Meta(max_length=200_000)] = ""
    lists: Annotated[tuple[ListName, ...], Meta(max_length=50)] = ()
    rates: Rates = Rates()
    explore_bp: Share = 200
    explore_up_to_minor: Money = 5_000
    explore_budget_minor: Money = 20_000

    @property
    def review_minor(self) -> int:
        """What one review costs, rounded to the minor unit."""
        return _rounded(self.review_minutes * self.analyst_hour_minor, 60)


class FraudPolicy:
    """Obeys the rules, else chooses the action of least expected cost; within the analysts' capacity.

    A drawn few of the blocks that no rule asks for are let through.

    Args:
        params: what mistakes cost, and the rules.

    Raises:
        ConfigError: a cost, share or capacity is out of its range, or lines of the rules are wrong; all are named.

    >>> from decalog.candidates import Candidate
    >>> from decalog.events import Event
    >>> payment = Event("p1", "payment", 0, 7, {"card": 7}, {"amount_base_minor": 25_000})
    >>> scored = Candidate("p1", predictions={"p_fraud": 0.02})
    >>> case = Case(request=payment, candidates=(scored,), features={"reviews_1d": 0.0}, draw=lambda name: 0.5)
    >>> verdict = FraudPolicy(FraudCosts()).decide(case)
    >>> verdict.choice.action, verdict.expected_minor
    ('step_up', -204)
    """

    def __init__(self, params: FraudCosts) -> None:
        self.params = checked(params)
        self._rules = RuleSet(params.rules, rates=params.rates, lists=params.lists)

    def decide(self, case: Case) -> Verdict:
        """Returns what the rules say, else the cheapest action; without a usable prediction or amount, the fallback."""
        p_fraud, amount = facts.p_fraud(case), facts.amount_minor(case)
        if amount is None or p_fraud is None:
            return self.fall_back(case, "no_prediction" if amount is not None else "no_amount")
        costs = expected_costs(self.params, p_fraud, amount_minor=amount)
        ranked = sorted(BY_FRICTION, key=costs.__getitem__)
        action = ranked[0]
        guardrails: tuple[GuardrailVerdict, ...] = ()
        if action == REVIEW and not self._can_review(case):
            action = ranked[1]
            guardrails = (self._no_capacity(case, action),)
        minor = {name: in_minor(cost) for name, cost in costs.items()}
        ruling = self._rules.ruling(case)
        reasons = (_reason(p_fraud, minor, action), *(f"{g.name}: {g.why}" for g in guardrails))
        cheapest = Verdict(choice=_choice(action, reasons), expected_minor=-minor[action], guardrails=guardrails)
        verdict = self._ruled(case, cheapest, ruling=ruling, minor=minor)
        return verdict if ruling.acting else self._explored(case, verdict, minor=minor, amount_minor=amount)

    @property
    def greedy(self) -> FraudPolicy:
        """See `Policy.greedy`."""
        return type(self)(msgspec.structs.replace(self.params, explore_bp=0))

    def fall_back(self, case: Case, reason: str) -> Verdict:
        """Returns what the rules say, else review while there is capacity, else allow up to the amount limit, or block.

        Where the number of reviews is unknown too, capacity counts as used: a storm of fallbacks must not bury the
        analysts. Who opted out of automated decisions, or restricted what is done with their data, has a person look.
        """
        if reason in PEOPLE:
            return Verdict(choice=_choice(REVIEW, (f"{reason}: a person decides",)))
        return self._ruled(case, self._unruled_fallback(case, reason), ruling=self._rules.ruling(case), minor={})

    def _unruled_fallback(self, case: Case, reason: str) -> Verdict:
        if self._can_review(case):
            return Verdict(choice=_choice(REVIEW, (f"{reason}: no prediction, so a person looks",)))
        amount, limit = facts.amount_minor(case), self.params.fallback_block_above_minor
        action = ALLOW if amount is not None and amount <= limit else BLOCK
        words = {ALLOW: f"the amount is at most {limit}", BLOCK: f"the amount is above {limit} or not known"}
        guardrail = self._no_capacity(case, action)
        return Verdict(
            choice=_choice(action, (f"{reason}: no prediction; {guardrail.why}; {words[action]} minor units",)),
            guardrails=(guardrail,),
        )

    def _ruled(self, case: Case, plain: Verdict, *, ruling: Ruling, minor: Mapping[str, int]) -> Verdict:
        """Returns the verdict that the rules make of one without them.

        Args:
            case: of both.
            plain: without the rules.
            ruling: what the rules say.
            minor: expected cost of each action; empty where it is not known.
        """
        if not ruling.acting and not ruling.shadows:
            return plain
        action, guardrails, reasons = plain.choice.action, [*plain.guardrails], list[str]()
        for rule in ruling.acting:
            after = rule.after(action)
            reasons.append(f"rule {rule.title} (line {rule.line}): {after}, without rules {plain.choice.action}")
            if after == REVIEW and not self._can_review(case):
                full = self._no_capacity(case, action)
                guardrails += [] if full in guardrails else [full]
                reasons.append(f"{full.name}: {full.why}")
            elif after != action:
                guardrails.append(
                    GuardrailVerdict(f"rule {rule.title}", action, after, f"{rule.does}, line {rule.line}")
                )
                action = after
        shadows = [f"shadow rule {r.title} (line {r.line}): would {r.after(action)}" for r in ruling.shadows]
        return Verdict(
            choice=_choice(action, (*reasons, *plain.choice.reasons, *shadows)),
            expected_minor=-minor[action] if minor else plain.expected_minor,
            guardrails=tuple(guardrails),
        )

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        """Returns what an action costs once it is known whether the payment was a fraud; minor units, rounded once."""
        return in_minor(expected_costs(self.params, label, amount_minor=amount_minor)[action])

    def _explored(self, case: Case, verdict: Verdict, *, minor: Mapping[str, int], amount_minor: int) -> Verdict:
        """Returns the verdict with its propensity: a block may be drawn to be let through, for its outcome to show."""
        params, choice = self.params, verdict.choice
        if choice.action != BLOCK or not params.explore_bp or amount_minor > params.explore_up_to_minor:
            return verdict
        used = case.features.get(EXPLORED, -1.0)
        if not 0 <= used <= params.explore_budget_minor - amount_minor:
            return verdict
        p_allow = params.explore_bp / _BP
        if case.draw("explore") >= p_allow:
            return msgspec.structs.replace(
                verdict, choice=Choice((Slot(BLOCK, propensity=1 - p_allow),), choice.reasons)
            )
        budget = f"{used:.0f} of {params.explore_budget_minor} minor units used in 24 h"
        why = f"explored: a block let through with probability {p_allow}; {budget}"
        drawn = Choice((Slot(ALLOW, propensity=p_allow),), (*choice.reasons, why))
        return Verdict(choice=drawn, expected_minor=-minor[ALLOW], guardrails=verdict.guardrails)

    def _can_review(self, case: Case) -> bool:
        return 0 <= case.features.get(REVIEWS, -1.0) < self.params.reviews_per_day

    def _no_capacity(self, case: Case, after: str) -> GuardrailVerdict:
        used = case.features.get(REVIEWS)
        used_words = "an unknown number of" if used is None else f"{used:.0f}"
        why = f"{used_words} reviews in the last 24 h, capacity {self.params.reviews_per_day}"
        return GuardrailVerdict("review_capacity", REVIEW, after, why)


POLICY = FraudPolicy
"""Makes the policy from its parameters."""


def checked(params: FraudCosts) -> FraudCosts:
    """Returns the parameters as they are, or raises.

    Raises:
        ConfigError: some are out of range; all are named.
    """
    problems = [problem for field in msgspec.structs.fields(FraudCosts) if (problem := _problem(params, field))]
    if problems:
        raise ConfigError(
            where="fraud policy",
            given="; ".join(problems),
            expected="money in minor units ≥ 0, shares in hundredths of a percent (0 to 10000), whole numbers",
            fix="See decalog.systems.fraud.policy.FraudCosts for what each means.",
        )
    return params


def expected_costs(costs: FraudCosts, p_fraud: float, *, amount_minor: int) -> dict[str, int]:
    """Returns what each action is expected to cost, exactly, in minor units × 10¹⁷ (`in_minor` rounds one).

    With p_fraud 0 or 1 it is what an action costs once the truth is known, its friction and errors at the declared
    shares.

    Args:
        costs: of this merchant.
        p_fraud: probability in [0, 1]; taken to the nearest 10⁻⁹.
        amount_minor: amount in minor units of the base currency, ≥ 0.
    """
    fraud = round(p_fraud * _PPB)
    good = _PPB - fraud
    loss = (amount_minor + costs.chargeback_fee_minor) * _BP
    sale = amount_minor * costs.margin_bp
    insult = sale + costs.goodwill_minor * _BP
    step_up = fraud * costs.step_up_frauds_pass_bp * loss + good * costs.step_up_gives_up_bp * sale
    review = fraud * costs.review_misses_bp * loss + good * costs.review_refuses_bp * insult
    return {
        ALLOW: fraud * loss * _BP,
        STEP_UP: costs.step_up_fee_minor * _SCALE + step_up,
        REVIEW: costs.review_minor * _SCALE + review,
        BLOCK: good * insult * _BP,
    }


def in_minor(cost: int) -> int:
    """Returns a cost of `expected_costs` in minor units, rounded half to even."""
    return _rounded(cost, _SCALE)


def _problem(params: FraudCosts, field: msgspec.structs.FieldInfo) -> str:
    value = getattr(params, field.name)
    try:
        msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        return f"{field.name}: {error}"
    return ""


def _choice(action: str, reasons: tuple[str, ...]) -> Choice:
    return Choice((_slot(action),), reasons)


def _slot(action: str) -> Slot:
    return _REVIEW if action == REVIEW else Slot(action)


def _reason(p_fraud: float, minor: Mapping[str, int], action: str) -> str:
    others = ", ".join([f"{name} {minor[name]}" for name in BY_FRICTION if name != action])
    return f"{HEAD} {p_fraud:.6f}: {action} is expected to cost {minor[action]} minor units; {others}"


def _rounded(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))
