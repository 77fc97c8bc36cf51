"""Several methods as one: weighted by what each adds at rolling origins inside the panel, calibrated there too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from decalog.systems.demand.forecast.conformal import Calibration, calibrated
from decalog.systems.demand.forecast.origins import Told, roll
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Method, Panel, season_errors
from decalog.systems.demand.forecast.scores import pinball

Loss = Callable[[Told], float]
Point = Callable[[Floats, Floats], float]
"""A score of (actual, point forecast)."""

_ROUNDS = 20
_POINTS = LEVELS[LEVELS.index(0.2) : LEVELS.index(0.8) + 1]


class Mixture(msgspec.Struct, frozen=True):
    """What rolling origins said.

    Args:
        weights: of each method by name; they sum to 1, and most may be 0.
        calibration: of the mixed intervals; None where too little was known to say.
        point: level of the quantile that is the point forecast; None for the mean of the methods' own.
    """

    weights: Mapping[str, float]
    calibration: Calibration | None = None
    point: float | None = None

    def of(self, forecasts: Mapping[str, Forecast]) -> Forecast:
        """Returns the methods' forecasts as one."""
        mixed = mix(forecasts, self.weights)
        if self.calibration is not None:
            mixed = self.calibration.apply(mixed)
        return mixed if self.point is None else mixed._replace(mean=mixed.at(self.point))


def scaled_pinball(told: Told) -> float:
    """Returns the mean quantile loss, each series over its scale."""
    losses = pinball(told.actual, told.forecast.quantiles).mean(axis=-1)
    return float(np.nanmean(losses / season_errors(told.panel)[:, None]))


def mix(forecasts: Mapping[str, Forecast], weights: Mapping[str, float]) -> Forecast:
    """Returns weighted means of point forecasts and of quantiles, level by level."""
    used = {name: weight for name, weight in weights.items() if weight > 0}
    mean = np.sum([weight * forecasts[name].mean for name, weight in used.items()], axis=0)
    quantiles = np.sum([weight * forecasts[name].quantiles for name, weight in used.items()], axis=0)
    return Forecast(mean, quantiles)


def learnt(
    tolds: Mapping[str, Sequence[Told]], *, loss: Loss = scaled_pinball, point: Point | None = None, blocks: int = 6
) -> Mixture:
    """Returns weights, calibration and point forecast from what methods said at the same origins.

    Weights come from adding one method at a time to a bag, the one with which the bag does best, some twenty times
    (Caruana et al. 2004): few numbers, none negative, and methods that add nothing get none.

    Args:
        tolds: of each method, one an origin.
        loss: what the weights are to make small.
        point: what the point forecast is to make small, by choosing its quantile; None keeps the methods' mean.
        blocks: see `calibrated`.
    """
    weights = _greedy(tolds, loss)
    mixed = _mixed(tolds, weights)
    calibration = calibrated(mixed, blocks=blocks)
    found = Mixture(weights, calibration)
    if point is None:
        return found
    after = [(told.actual, calibration.apply(told.forecast)) for told in mixed]
    best = min(_POINTS, key=lambda level: np.mean([point(actual, made.at(level)) for actual, made in after]))
    return msgspec.structs.replace(found, point=best)


def ensemble(
    members: Sequence[Method],
    *,
    ends: Sequence[int] | None = None,
    loss: Loss = scaled_pinball,
    point: Point | None = None,
) -> Method:
    """Returns a method that weights others anew for every panel, by rolling origins inside it.

    Args:
        members: distinct by name.
        ends: steps back from the panel's end where origins lie; None for two, a horizon apart.
        loss: see `learnt`.
        point: see `learnt`.
    """

    def forecast(panel: Panel, horizon: int) -> Forecast:
        chosen = ends or (horizon, 2 * horizon)
        tolds = {one.name: roll(one, panel, horizon=horizon, ends=chosen) for one in members}
        mixture = learnt(tolds, loss=loss, point=point)
        return mixture.of({one.name: one.forecast(panel, horizon) for one in members if mixture.weights[one.name] > 0})

    return Method(f"ensemble of {', '.join(one.name for one in members)}", forecast)


def _greedy(tolds: Mapping[str, Sequence[Told]], loss: Loss) -> dict[str, float]:
    bag: dict[str, float] = dict.fromkeys(tolds, 0.0)
    best, kept = np.inf, dict(bag)
    for count in range(1, _ROUNDS + 1):
        tried = {}
        for name in tolds:
            trial = {one: (times + (one == name)) / count for one, times in bag.items()}
            tried[name] = float(np.mean([loss(told) for told in _mixed(tolds, trial)]))
        name = min(tried, key=lambda one: tried[one])
        bag[name] += 1
        if tried[name] < best:
            best, kept = tried[name], {one: times / count for one, times in bag.items()}
    return kept


def _mixed(tolds: Mapping[str, Sequence[Told]], weights: Mapping[str, float]) -> list[Told]:
    origins = zip(*tolds.values(), strict=True)
    return [
        Told(
            each[0].panel, mix(dict(zip(tolds, (told.forecast for told in each), strict=True)), weights), each[0].actual
        )
        for each in origins
    ]
