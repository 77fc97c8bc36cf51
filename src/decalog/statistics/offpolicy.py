"""What another policy would have earned on logged traffic, how far to trust that, and what it would take to know.

    weight of a row   w = target probability of the logged action / its propensity
    ips               Σ w r / n                              (Horvitz and Thompson, JASA 47, 1952)
    snips             Σ w r / Σ w                            (Swaminathan and Joachims, NeurIPS 2015)
    dr                Σ (q_target + w (r − q_logged)) / n    (Dudík, Langford and Li, ICML 2011)
    dm                Σ q_target / n                         (the direct method: as good as its model, never a verdict)

Where the log cannot tell, an estimate carries its doubts, and `is_verdict` is false. Of a slate, a row is a slot that
was drawn given the slots above it; `drawn` leaves out the others.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.metrics import Floats, Int64s, Measurement, proportion
from decalog.statistics.clusters import Clustered, Clusters, clusters, ratio, unseen, within
from decalog.statistics.columns import column
from decalog.statistics.distributions import normal_quantile

Estimator = Literal["ips", "snips", "dr", "dm"]

_WHERE = "off-policy estimate"
_MODEL_ALONE = "no logged reward is in it: it is as good as its model"


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the log beside a target policy; arrays have one entry a row, or are empty where optional.

    Args:
        rewards: float64, of the logged action; a cost is negative.
        propensities: float64, (0, 1], how likely the logging policy chose that action.
        targets: float64, [0, 1], how likely the target policy would have.
        modelled: float64, a model's reward of the logged action; for dr. It must not have learnt from these rows.
        expected: float64, Σ over actions of target probability × the model's reward; for dr and dm.
        unsupported: float64, [0, 1], how likely the target policy takes an action that the logging policy never could.
            Without it, it is read from the mean weight, which then no longer tells of wrong propensities.
        entities: int64 tokens of who or what a row is about; rows of one hang together. Below 0, or none: each alone.
        bounds: what a reward can be, (lowest, highest): declare it wherever it is known, since without it a rare
            reward that was not seen leaves no trace in an interval.
    """

    rewards: Floats
    propensities: Floats
    targets: Floats
    modelled: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    expected: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    unsupported: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    entities: Int64s = msgspec.field(default_factory=lambda: np.empty(0, np.int64))
    bounds: tuple[float, float] | None = None

    def take(self, rows: npt.NDArray[np.bool_]) -> Logged:
        """Returns the rows of a mask."""
        columns = ("rewards", "propensities", "targets", "modelled", "expected", "unsupported", "entities")
        taken = {name: getattr(self, name)[rows] for name in columns if len(getattr(self, name))}
        return msgspec.structs.replace(self, **taken)


class Standards(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimate must have to be a verdict; the defaults are where simulated intervals cover what they say.

    Args:
        effective: rows that the weights amount to, at least.
        contributions: entities that the spread rests on, at least: three rare purchases are three, of however many.
        max_share: of all weight that one entity holds, at most.
        unsupported: share of what the target policy would do that was never tried, at most.
        clipped: share of all weight that clipping took away, at most.
        chance: below which a mean weight so far from 1 is no accident, and the propensities are wrong.
    """

    effective: float = 50.0
    contributions: float = 3.0
    max_share: float = 0.1
    unsupported: float = 0.01
    clipped: float = 0.05
    chance: float = 0.001


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """How far logged actions speak of the target policy.

    Args:
        effective: rows that the weights amount to, (Σ w)² / Σ w² (Kish, Survey Sampling, 1965), of whole entities.
        contributions: entities that the spread of the estimate rests on.
        max_share: of all weight that one entity holds.
        mean_weight: 1 less the unsupported share, if the propensities are right.
        chance: how likely a mean weight this far from that is.
        unsupported: share of the target policy's actions that the logging policy never took.
        clip: weights above it count as it.
        clipped_rows: share of rows that it cut.
        clipped: share of all weight that it took away.
    """

    mean_weight: Measurement
    chance: float
    unsupported: Measurement
    effective: float
    contributions: float
    max_share: float
    clip: float
    clipped_rows: float
    clipped: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the target policy would have earned a row, beside what was earned.

    Args:
        estimator: that made it.
        value: mean reward of the target policy.
        logged: mean reward as it was.
        lift: value − logged, on the same rows, so what both share cancels.
        overlap: how far the rows speak of the target.
        doubts: why this is no verdict, one sentence each; none where it is one.
    """

    estimator: Estimator
    value: Measurement
    logged: Measurement
    lift: Measurement
    overlap: Overlap
    doubts: tuple[str, ...]

    @property
    def is_verdict(self) -> bool:
        """Whether the interval can be taken at its word."""
        return not self.doubts


def estimate(
    logged: Logged, estimator: Estimator = "snips", *, clip: float = math.inf, standards: Standards | None = None
) -> Estimate:
    """Returns what the target policy would have earned, with 95 % intervals by `clusters.Clustered.measured`.

    Args:
        logged: the rows.
        estimator: snips needs no model and shrugs off a common factor in the propensities; dr is the sharpest with a
            good model; ips alone is unbiased for any number of rows.
        clip: weights above it count as it. That biases the estimate towards what the logging policy did, by at most
            the clipped share of weight × the range of rewards.
        standards: of a verdict.

    Raises:
        DataError: a column is missing, misshapen or out of its bounds, or nothing of the target policy was logged.
    """
    _check(logged, estimator, clip)
    n = len(logged.rewards)
    rows = clusters(logged.entities, n=n, where=f"{_WHERE}, entities")
    full = logged.targets / logged.propensities
    weights = np.minimum(full, clip)
    target = _target(logged, weights, rows=rows, estimator=estimator)
    earned = ratio(logged.rewards, np.ones(n), rows=rows, where=_WHERE)
    overlap = _overlap(logged, rows, full=full, weights=weights, contributions=target.contributions)
    might = unseen(target.value, logged.bounds, effective=overlap.effective)
    might_have = unseen(earned.value, logged.bounds, effective=rows.count)
    return Estimate(
        estimator=estimator,
        value=within(target.measured(might), logged.bounds),
        logged=within(earned.measured(might_have), logged.bounds),
        lift=target.minus(earned).measured(tuple(np.subtract(might, might_have))),
        overlap=overlap,
        doubts=(*([_MODEL_ALONE] if estimator == "dm" else []), *_doubts(overlap, standards or Standards())),
    )


def drawn(logged: Logged) -> tuple[Logged, Measurement]:
    """Returns the rows whose action was drawn, and the share they are of all: an estimate concerns them alone.

    A propensity of 1 says that nothing else could have come; such rows tell of no other policy, and whether a row is
    one was fixed before its draw, so that leaving it out biases nothing. Of slates these are the randomised slots: what
    is then estimated is another choice in them, the slots above as they were.

    Raises:
        DataError: no action was drawn.

    >>> rows = Logged(rewards=np.ones(3), propensities=np.array([1.0, 0.9, 0.1]), targets=np.ones(3))
    >>> drawn(rows)[0].propensities.tolist(), round(drawn(rows)[1].value, 3)
    ([0.9, 0.1], 0.667)
    """
    told = column(logged.propensities, f"{_WHERE}, propensities", low=0.0, high=1.0) < 1.0
    if not np.any(told):
        raise DataError(
            where=f"{_WHERE}, propensities",
            given=f"1 in each of {len(told)} rows",
            expected="actions that were drawn",
            fix="Explore: `Exploration.share_needed` says how much.",
        )
    return logged.take(told), proportion(int(np.sum(told)), len(told))


def decisions_needed(estimate: Measurement, half_width: float) -> int:
    """Returns how many rows like the logged ones an interval of ± half_width takes.

    Raises:
        DataError: half_width is not above 0.

    >>> decisions_needed(Measurement(0.5, 0.4, 0.6, 1_000), 0.05)
    4000
    """
    _above_zero(half_width, "half-width")
    return math.ceil(round(estimate.n * ((estimate.high - estimate.low) / (2 * half_width)) ** 2, 6))


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that draws one of `actions` evenly on a share of decisions, and a target that often wants another.

    Args:
        actions: to choose from, ≥ 2.
        disagreement: share of decisions where the target policy takes another action than the greedy one, (0, 1].
        deviation: standard deviation of a reward; (highest − lowest) / 2 where nothing is known.
    """

    actions: int
    disagreement: float
    deviation: float

    def half_width(self, decisions: int, *, share: float) -> float:
        """Returns the half-width of a 95 % interval of snips, z σ √(E[w²] / n).

        Args:
            decisions: n, > 0.
            share: of decisions that are explored, in (0, 1].

        Raises:
            DataError: one of them lies outside.
        """
        _above_zero(decisions, "decisions")
        if not 0 < share <= 1:
            raise DataError(
                where="exploration",
                given=f"share {share:g}",
                expected="one in (0, 1]",
                fix="Give a share of decisions.",
            )
        greedy = 1 - share * (1 - 1 / self.actions)
        square = self.disagreement * self.actions / share + (1 - self.disagreement) / greedy
        return normal_quantile(0.975) * self.deviation * math.sqrt(square / decisions)

    def decisions_needed(self, half_width: float, *, share: float) -> int:
        """Returns how many decisions an interval of ± half_width takes when a share of them is explored."""
        _above_zero(half_width, "half-width")
        return math.ceil((self.half_width(1, share=share) / half_width) ** 2)

    def share_needed(self, half_width: float, *, decisions: int) -> float | None:
        """Returns the smallest explored share that gives ± half_width on so many decisions; None where none does."""
        _above_zero(half_width, "half-width")
        rest = 1 - 1 / self.actions
        # Where E[w²] is smallest: more exploration than this only costs.
        best = min(1.0, 1 / (rest + math.sqrt((1 - self.disagreement) * rest / (self.disagreement * self.actions))))
        if self.half_width(decisions, share=best) > half_width:
            return None
        low, high = 0.0, best
        while high - low > best * 1e-9:
            middle = (low + high) / 2
            if self.half_width(decisions, share=middle) > half_width:
                low = middle
            else:
                high = middle
        return high


def _check(logged: Logged, estimator: Estimator, clip: float) -> None:
    lowest, highest = logged.bounds or (-math.inf, math.inf)
    n = len(column(logged.rewards, f"{_WHERE}, rewards", low=lowest, high=highest))
    # Below the smallest float that has an inverse a weight would be infinite.
    column(logged.propensities, f"{_WHERE}, propensities", low=float(np.finfo(np.float64).tiny), high=1.0, n=n)
    column(logged.targets, f"{_WHERE}, targets", low=0.0, high=1.0, n=n)
    if len(logged.unsupported):
        column(logged.unsupported, f"{_WHERE}, unsupported", low=0.0, high=1.0, n=n)
    if estimator == "dr":
        column(logged.modelled, f"{_WHERE}, modelled", n=n)
    if estimator in {"dr", "dm"}:
        column(logged.expected, f"{_WHERE}, expected", n=n)
    _above_zero(clip, "clip")
    if not np.any(logged.targets > 0):
        raise DataError(
            where=f"{_WHERE}, targets",
            given=f"0 in each of {n} rows",
            expected="a logged action that the target policy would take",
            fix="Explore: `Exploration.share_needed` says how much.",
        )


def _above_zero(number: float, name: str) -> None:
    if not number > 0:
        raise DataError(
            where=_WHERE, given=f"{name} {number:g}", expected="a number above 0", fix=f"Give a positive {name}."
        )


def _target(logged: Logged, weights: Floats, *, rows: Clusters, estimator: Estimator) -> Clustered:
    above = weights * logged.rewards
    if estimator == "dr":
        above = logged.expected + weights * (logged.rewards - logged.modelled)
    if estimator == "dm":
        above = logged.expected
    return ratio(above, weights if estimator == "snips" else np.ones(len(weights)), rows=rows, where=_WHERE)


def _overlap(logged: Logged, rows: Clusters, *, full: Floats, weights: Floats, contributions: float) -> Overlap:
    n = len(full)
    ones = np.ones(n)
    mean = ratio(full, ones, rows=rows, where=_WHERE)
    weight = mean.measured()
    unsupported = Measurement(1 - weight.value, 1 - weight.high, 1 - weight.low, n)
    chance = mean.p_value(1.0)
    if len(logged.unsupported):
        unsupported = ratio(logged.unsupported, ones, rows=rows, where=_WHERE).measured()
        chance = ratio(full + logged.unsupported, ones, rows=rows, where=_WHERE).p_value(1.0)
    return Overlap(
        mean_weight=weight,
        chance=chance,
        unsupported=within(unsupported, (0.0, 1.0)),
        effective=rows.effective(weights),
        contributions=contributions,
        max_share=float(np.max(rows.sums(weights)) / np.sum(weights)),
        clip=float(np.max(weights)),
        clipped_rows=float(np.mean(full > weights)),
        clipped=1 - float(np.sum(weights) / np.sum(full)),
    )


def _doubts(overlap: Overlap, standards: Standards) -> tuple[str, ...]:
    mean, unsupported = overlap.mean_weight, overlap.unsupported
    more = math.ceil(mean.n * standards.effective / overlap.effective)
    told = (
        (
            overlap.chance < standards.chance,
            f"the mean weight is {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}): propensities or targets are off",
        ),
        (
            unsupported.low > standards.unsupported,
            f"{100 * unsupported.value:.1f} % of what the target policy would do was never tried",
        ),
        (
            overlap.effective < standards.effective,
            f"the rows weigh as much as {overlap.effective:.1f}, fewer than {standards.effective:g}; {more:,} would do",
        ),
        (
            overlap.contributions < standards.contributions,
            f"the spread rests on {overlap.contributions:.1f} rows or entities, fewer than {standards.contributions:g}",
        ),
        (
            overlap.max_share > standards.max_share,
            f"one row or entity holds {100 * overlap.max_share:.1f} % of all weight",
        ),
        (
            overlap.clipped > standards.clipped,
            f"clipping at {overlap.clip:g} took {100 * overlap.clipped:.1f} % of all weight away",
        ),
    )
    return tuple(doubt for holds, doubt in told if holds)
