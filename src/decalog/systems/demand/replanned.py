"""How an order on the log would change with a promotion, or without one: its model and policy on other facts.

All that was known stays as it was, but for what the request says of promotions: the days on which the item is
promoted, and how deep. The model answers as it has learnt from promotions so far.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from decalog.deployment import Deployment
from decalog.errors import ReplayError
from decalog.events import Event
from decalog.features.plan import Plan
from decalog.folding import point
from decalog.replay import Again

_BP = 10_000
_FACTS = ("promo_days", "discount_bp", "after_promo_days")


class Reordered(NamedTuple):
    """An order on some facts: days of promotion, share off, expected demand, and units ordered."""

    promo_days: int
    depth: float
    mean: float
    units: float


def reordered(deployment: Deployment, id_: str, *, depth: float, days: int) -> tuple[Event, Reordered, Reordered]:
    """Returns a request, its order without a promotion, and its order with one on so many of its days.

    Args:
        deployment: of demand; its log may be read only.
        id_: of the decision, or of its request.
        depth: share off the price.
        days: of promotion; no more than the order has to last for are taken.

    Raises:
        ReplayError: there is no such decision, it was made elsewhere, or without a forecast.
    """
    again = deployment.replayer().again(id_, folds=False)
    if again.draft.features is None or again.draft.fallback:
        raise ReplayError(
            where=f"order {id_}",
            given=f"a decision without a forecast ({again.draft.fallback or 'no features'})",
            expected="one that a model decided",
            fix="Name another request; the control room and `GET /v1/demand/orders` list them.",
        )
    request, secret = again.decision.request, deployment.log.vault.secret("draws")
    horizon = int(request.attributes.get("horizon_days", days))
    facts = ((0, 0.0), (min(days, horizon), depth))
    plain, promoted = (_one(again, secret, promo_days=count, depth=off) for count, off in facts)
    return request, plain, promoted


def _one(again: Again, secret: bytes, *, promo_days: int, depth: float) -> Reordered:
    draft = again.draft
    told = draft.event.attributes
    after = min(int(told.get("after_promo_days", 0)), int(told.get("horizon_days", 0)) - promo_days)
    said = dict(zip(_FACTS, (promo_days, round(_BP * depth), after), strict=True))
    request = msgspec.structs.replace(draft.event, attributes={**told, **said})
    assert draft.features is not None  # noqa: S101 - asked above
    row = draft.features[0].copy()
    Plan(again.system.features).write_request(point(request, 0), row)
    other = msgspec.structs.replace(draft, event=request, features=row[None], predictions=None, stages_us={})
    again.judge.predict(other)
    verdict, candidates = again.judge.choose(other, again.decision.id, draw_secret=secret)
    mean = candidates[0].predictions.get("demand_mean", np.nan)
    return Reordered(promo_days, depth, float(mean), verdict.choice.quantity)
