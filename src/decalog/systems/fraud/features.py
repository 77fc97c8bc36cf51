"""What the model sees of a payment: how fast its card, customer, device, address and mail move, and the payment itself.

Velocity windows are the field's staple: a burst on one IP address shows within a minute, an account takeover within an
hour, a device shared by many accounts within a week. Counts and sums include the payment itself; means and times since
the last one do not, so that they can be compared with it.
"""

from __future__ import annotations

from decalog.features.definition import (
    Aggregate,
    Attribute,
    Calendar,
    Category,
    Feature,
    FeatureSet,
    Lookup,
    Ratio,
    Same,
)
from decalog.systems.fraud.schema import CHANNELS, PAYMENT

LISTS = "_lists"
"""After an entity's name: the table, and the feature, that say on which lists it stands, a bit for each."""

_OWNER = "fraud"
_PAYMENTS = ("payment",)
_AMOUNT = "amount_base_minor"
# A shop sleeps at night; half a day without one payment is a sender that was cut off.
_SILENCE = "12h"
_MONEY = "minor units of the base currency"
_RETAIN = 30_000
"""An address with so many costs a decision a third of a millisecond (`bench/latency/fraud_full_entity.py`); its 60 s
are exact up to 500 payments a second."""

# ISO 18245 codes that fraud rules commonly name; any other code shares the last index.
_MCCS = (
    *("4111", "4511", "4722", "4812", "4814", "4829", "5045", "5311", "5411", "5541", "5651", "5691", "5732", "5734"),
    *("5812", "5814", "5815", "5816", "5912", "5941", "5944", "5945", "5947", "5967", "5968", "5999", "6051", "6211"),
    *("7011", "7273", "7372", "7399", "7801", "7995", "8398"),
)


def _count(entity: str, window: str) -> Aggregate:
    return Aggregate(
        name=f"{entity}_payments_{window}",
        meaning=f"payments of the {entity} in {window}, this one included",
        unit="payments",
        owner=_OWNER,
        entity=entity,
        aggregate="count",
        over=_PAYMENTS,
        staleness=_SILENCE,
        window=window,
    )


def _sum(entity: str, window: str) -> Aggregate:
    return Aggregate(
        name=f"{entity}_amount_{window}",
        meaning=f"money of the {entity}'s payments in {window}, this one included",
        unit=_MONEY,
        owner=_OWNER,
        entity=entity,
        aggregate="sum",
        column=_AMOUNT,
        over=_PAYMENTS,
        staleness=_SILENCE,
        window=window,
    )


def _mean(entity: str, window: str) -> Aggregate:
    return Aggregate(
        name=f"{entity}_mean_amount_{window}",
        meaning=f"mean amount of the {entity}'s earlier payments in {window}",
        unit=_MONEY,
        owner=_OWNER,
        entity=entity,
        aggregate="mean",
        column=_AMOUNT,
        over=_PAYMENTS,
        staleness=_SILENCE,
        window=window,
        own=False,
    )


def _distinct(entity: str, column: str, window: str) -> Aggregate:
    return Aggregate(
        name=f"{entity}_{column}s_{window}",
        meaning=f"different {column}s seen with the {entity} in {window}, this payment's included",
        unit=f"{column}s",
        owner=_OWNER,
        entity=entity,
        aggregate="distinct",
        column=column,
        over=_PAYMENTS,
        staleness=_SILENCE,
        window=window,
    )


def _over_usual(entity: str) -> Ratio:
    return Ratio(
        name=f"amount_over_{entity}_mean",
        meaning=f"amount over the mean of the {entity}'s earlier payments in 30 days",
        unit="1",
        owner=_OWNER,
        numerator="amount",
        denominator=f"{entity}_mean_amount_30d",
    )


def _since(entity: str) -> Aggregate:
    return Aggregate(
        name=f"{entity}_since_last_s",
        meaning=f"time since the {entity}'s payment before this one, −1 where it made none in 30 days",
        unit="s",
        owner=_OWNER,
        entity=entity,
        aggregate="time_since",
        over=_PAYMENTS,
        staleness=_SILENCE,
        window="30d",
        own=False,
    )


def _same(left: str, right: str) -> Same:
    name = f"same_{left}_{right}".replace("_country", "")
    what = f"{left} and {right}".replace("_", " ")
    return Same(name=name, meaning=f"{what} are the same", unit="1", owner=_OWNER, left=left, right=right)


def _lists(entity: str) -> Lookup:
    return Lookup(
        name=f"{entity}{LISTS}",
        meaning=f"lists that the {entity} stands on, a bit each in the policy's order, −1 where no list knows it",
        unit="bits",
        use="policy",
        owner=_OWNER,
        table=f"{entity}{LISTS}",
        key=entity,
    )


_CARD: tuple[Feature, ...] = (
    *(_count("card", window) for window in ("60s", "10m", "1h", "1d", "7d", "30d")),
    *(_sum("card", window) for window in ("1h", "1d", "7d")),
    _mean("card", "30d"),
    _distinct("card", "merchant", "1d"),
    _distinct("card", "ip", "7d"),
    _distinct("card", "device", "30d"),
    _since("card"),
)
_CUSTOMER: tuple[Feature, ...] = (
    *(_count("customer", window) for window in ("1h", "1d", "30d")),
    _mean("customer", "30d"),
    _distinct("customer", "device", "30d"),
    _distinct("customer", "card", "7d"),
    _since("customer"),
)
_DEVICE: tuple[Feature, ...] = (
    *(_count("device", window) for window in ("10m", "1h", "1d", "30d")),
    *(_distinct("device", "card", window) for window in ("10m", "1h", "1d", "30d")),
    *(_distinct("device", column, "30d") for column in ("customer", "email", "merchant")),
    _mean("device", "30d"),
    _since("device"),
)
_IP: tuple[Feature, ...] = (
    *(_count("ip", window) for window in ("60s", "10m", "1h", "1d")),
    _sum("ip", "1d"),
    *(_distinct("ip", "card", window) for window in ("10m", "1h", "1d")),
    _distinct("ip", "customer", "1d"),
    _distinct("ip", "device", "1h"),
)
_EMAIL: tuple[Feature, ...] = (
    *(_count("email", window) for window in ("1h", "1d", "30d")),
    _distinct("email", "card", "7d"),
)
_REQUEST: tuple[Feature, ...] = (
    Attribute(name="amount", meaning="amount of the payment", unit=_MONEY, owner=_OWNER, attribute=_AMOUNT),
    Category(
        name="channel",
        meaning="online, by mail or phone, or at a terminal",
        unit="index",
        owner=_OWNER,
        attribute="channel",
        vocabulary=CHANNELS,
    ),
    Category(
        name="mcc",
        meaning="merchant category, ISO 18245",
        unit="index",
        owner=_OWNER,
        attribute="mcc",
        vocabulary=_MCCS,
    ),
    _same("card_country", "ip_country"),
    _same("card_country", "billing_country"),
    _same("card_country", "merchant_country"),
    _same("ip_country", "merchant_country"),
    Calendar(name="hour_utc", meaning="hour of the day", unit="h", owner=_OWNER, part="hour_of_day"),
    Calendar(name="weekday_utc", meaning="day of the week, 0 is Monday", unit="d", owner=_OWNER, part="day_of_week"),
)
_USUAL: tuple[Feature, ...] = (_over_usual("card"), _over_usual("customer"))
_POLICY: tuple[Feature, ...] = (
    Aggregate(
        name="reviews_1d",
        meaning="payments sent to the analysts in 24 h: what is used of their capacity",
        unit="reviews",
        use="policy",
        owner=_OWNER,
        entity="all",
        aggregate="count",
        over=("decision.review",),
        window="1d",
        crowded=_RETAIN,  # so many at least
    ),
    Aggregate(
        name="explored_amount_1d",
        meaning="money of blocks that were let through in 24 h to see their outcome: what is used of that budget",
        unit=_MONEY,
        use="policy",
        owner=_OWNER,
        entity="all",
        aggregate="sum",
        column=_AMOUNT,
        over=("drawn.allow",),
        window="1d",
    ),
    *(_lists(entity.name) for entity in PAYMENT.entities),
)

FEATURES = FeatureSet(
    system="fraud",
    # Terminals that were offline send their payments late; a day of lateness costs a day of rows kept.
    lateness="1d",
    retain=_RETAIN,
    features=(*_CARD, *_CUSTOMER, *_DEVICE, *_IP, *_EMAIL, *_REQUEST, *_USUAL, *_POLICY),
)
