"""The payments of the fraud world: ordinary ones and the episodes of four schemes, each with its exact hazard of fraud.

How truth is made. Each payment has a hazard, and its label is one Bernoulli draw from it, independent of everything
visible. An ordinary payment's hazard follows shop, channel, border and amount. An episode (a burst on one address, a
strange session, a shared device, a quiet series) has a hidden severity z, standard normal, and each of its payments z'
= z + noise; the hazard is sigmoid(slope · (z' − cut)), and z and z' also shape what is visible: more cards, smaller
amounts, fresher devices, farther addresses. So each scheme has honest look-alikes (a ticket sale on a campus, a
traveller with a new phone, a family tablet, a spouse's subscription), and the hazard is the best probability that
anyone can give, history included: the oracle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decalog.systems.fraud import world_town as towns
from decalog.systems.fraud.world_params import Mood
from decalog.systems.fraud.world_town import Town
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys, Mask, sigmoid

DAY_US = 86_400_000_000
_MINUTE_US = 60_000_000.0
SCHEMES = ("background", "card_testing", "takeover", "ring", "slow_low")
_SLOTS = 60  # a day's slots in which episodes of one scheme may start
ABSENT = np.uint64(0)  # a device, address or mail the client does not send


class Batch(NamedTuple):
    """Payments, one row each; identities are 64-bit keys, places and shops row numbers of the town.

    `eur` is the amount in euro before conversion, `hazard` the probability of fraud, `scheme` an index of SCHEMES.
    """

    key: Keys
    at_us: Ints
    customer: Keys
    card: Keys
    device: Keys
    ip: Keys
    email: Keys
    merchant: Ints
    channel: Ints
    card_country: Ints
    ip_country: Ints
    billing_country: Ints
    eur: Floats
    hazard: Floats
    scheme: Ints


def join(batches: list[Batch]) -> Batch:
    """Returns all rows of the batches."""
    return Batch._make(np.concatenate(column) for column in zip(*batches, strict=True))


def rows(batch: Batch, where: Mask | Ints) -> Batch:
    """Returns the rows chosen by a mask or by row numbers."""
    return Batch._make(column[where] for column in batch)


def ordinary(town: Town, start_us: int, *, season: Floats, mood: Mood) -> Batch:
    """Returns the ordinary payments of the day that starts; `season` is a factor on their number and one on amounts."""
    params, people, day = town.params, town.customers, start_us // DAY_US
    daily = draws.child(draws.named(people.key, "days"), day)
    who, nth = draws.spread(draws.poisson(daily, "count", rate=people.rate * season[0]))
    keys = draws.child(daily[who], nth)
    here = towns.place(town, who, day=day)
    merchant = towns.shop(town, who, keys=keys, here=here)
    channel = towns.channel(town, keys, merchant=merchant, here=here)
    sd = np.array([c.sd for c in towns.CATEGORIES])[town.merchants.category[merchant]]
    surprise = np.exp(sd * draws.normal(keys, "amount"))
    fresh = draws.uniform(keys, "fresh") < params.fresh_device_share + mood.fresh_device
    device = np.where(fresh, draws.named(keys, "device"), towns.device(town, who, keys=keys, day=day))
    vpn = draws.uniform(keys, "vpn") < params.vpn_share
    exits = draws.child(draws.named(town.key, "exits"), draws.below(keys, "exit", bound=60))
    abroad = town.merchants.country[merchant] != people.country[who]
    eur = town.merchants.price_eur[merchant] * people.level[who] * surprise * season[1]
    return _sent(
        town,
        mood=mood,
        batch=Batch(
            key=keys,
            at_us=towns.moment(keys, start_us, here=here, hours_late=people.hours_late[who]),
            customer=people.key[who],
            card=towns.card(town, who, keys=keys),
            device=device,
            ip=np.where(vpn, exits, towns.address(town, who, keys=keys, day=day, here=here)),
            email=draws.named(people.key[who], "email"),
            merchant=merchant,
            channel=channel,
            card_country=people.country[who],
            ip_country=np.where(vpn, draws.below(exits, "country", bound=len(towns.COUNTRIES)), here),
            billing_country=people.country[who],
            eur=eur * mood.price,
            hazard=_background(town, merchant, channel=channel, abroad=abroad, surprise=surprise),
            scheme=np.zeros(len(who), dtype=np.int64),
        ),
    )


def _background(town: Town, merchant: Ints, *, channel: Ints, abroad: Mask, surprise: Floats) -> Floats:
    """Returns the hazard of ordinary payments: single uses of stolen card data, hardly visible."""
    at_channel = np.array([1.4, 0.15, 2.5])[channel]
    border = np.where(abroad, 2.5, 0.8)
    hazard = town.params.background_hazard * town.merchants.risk[merchant] * at_channel * border
    return np.asarray(np.minimum(hazard * np.clip(surprise, 0.4, 5.0) ** 0.8, 0.5), dtype=np.float64)


def _sent(town: Town, batch: Batch, *, mood: Mood) -> Batch:
    """Returns payments as clients send them: no device, address or mail at the till, no device for some; odds moved."""
    online = batch.channel == towns.ECOM
    missing = town.params.missing_device_share + mood.missing_device
    device = online & (draws.uniform(batch.key, "device missing") >= missing)
    odds = mood.odds * batch.hazard / (1.0 - batch.hazard)
    return batch._replace(
        device=np.where(device, batch.device, ABSENT),
        ip=np.where(online, batch.ip, ABSENT),
        ip_country=np.where(online, batch.ip_country, towns.NOWHERE),
        email=np.where(batch.channel == towns.POS, ABSENT, batch.email),
        hazard=odds / (1.0 + odds),
    )


class _Series(NamedTuple):
    """Payments of a day's new episodes of one scheme: `z` is each episode's severity, `noisy` each payment's."""

    day: int
    episodes: Keys
    z: Floats
    parent: Ints
    nth: Ints
    keys: Keys
    noisy: Floats


def episodes(town: Town, start_us: int, *, mood: Mood) -> Batch:
    """Returns all payments, also those of later days, of the episodes that start on a day."""
    params, day = town.params, start_us // DAY_US
    burst_rate = params.card_testing_per_day * mood.burst_factor
    burst = _begin(town, "card_testing", day=day, rate=burst_rate, shift=mood.burst_shift)
    takeover_rate = params.takeover_per_day * mood.takeover_factor
    takeover = _begin(town, "takeover", day=day, rate=takeover_rate, shift=mood.takeover_shift)
    ring = _begin(town, "ring", day=day, rate=params.ring_per_day)
    quiet = _begin(town, "slow_low", day=day, rate=params.slow_low_per_day)
    made = [
        _card_testing(town, burst, start_us=start_us),
        _takeover(town, takeover, start_us=start_us),
        _ring(town, ring, start_us=start_us),
        _slow_low(town, quiet, start_us=start_us),
    ]
    return join([_sent(town, batch, mood=mood) for batch in made])


def _begin(town: Town, scheme: str, *, day: int, rate: float, shift: float = 0.0) -> _Series:
    """Returns the day's new episodes of a scheme with their severities and payments."""
    day_key = draws.child(draws.named(town.key, scheme), day)
    # Slots of equal small rate: a raised rate then adds episodes and keeps those that were there.
    slots = draws.child(day_key, np.arange(_SLOTS))
    slot, again = draws.spread(draws.poisson(slots, "count", rate=np.full(_SLOTS, rate / _SLOTS)))
    started = draws.child(slots[slot], again)
    z = draws.normal(started, "severity") + shift
    place, order = draws.spread(_length(scheme, started, z=z))
    keys = draws.child(started[place], order)
    noisy = z[place] + town.params.payment_noise * draws.normal(keys, "severity")
    return _Series(day, started, z, place, order, keys, noisy)


def _length(scheme: str, keys: Keys, *, z: Floats) -> Ints:
    """Returns the number of payments of each episode."""
    draw = draws.uniform(keys, "length")
    length = {
        "card_testing": 6 + 24 * draw * sigmoid(z + 0.5),
        "takeover": 1 + 4 * draw * sigmoid(z),
        "ring": 12 + 40 * draw * sigmoid(z),
        "slow_low": 5 + 14 * draw,
    }[scheme]
    return np.asarray(np.floor(length), dtype=np.int64)


def _base(town: Town, series: _Series, *, scheme: str, owner: Ints, at_us: Ints) -> Batch:
    """Returns the series as its card owners would pay online from home; each scheme then replaces what it changes."""
    people, keys = town.customers, series.keys
    country = people.country[owner]
    everywhere = town.merchants.online
    day = series.day  # devices and addresses as on the first day
    return Batch(
        key=keys,
        at_us=at_us,
        customer=people.key[owner],
        card=towns.card(town, owner, keys=keys),
        device=towns.device(town, owner, keys=keys, day=day),
        ip=towns.address(town, owner, keys=keys, day=day, here=country),
        email=draws.named(people.key[owner], "email"),
        merchant=everywhere[draws.below(keys, "shop", bound=len(everywhere))],
        channel=np.full(len(keys), towns.ECOM),
        card_country=country,
        ip_country=country,
        billing_country=country,
        eur=np.ones(len(keys)),
        hazard=sigmoid(town.params.scheme_slope * (series.noisy - town.params.scheme_cut)),
        scheme=np.full(len(keys), SCHEMES.index(scheme)),
    )


def _with_p(keys: Keys, name: str, *, p: Floats) -> Mask:
    """Returns True with probability `p`, one a key."""
    return draws.uniform(keys, name) < p


def _card_testing(town: Town, series: _Series, *, start_us: int) -> Batch:
    """Many cards on one address within seconds, small amounts; the look-alike is a ticket sale behind one exit."""
    keys, z, whole = series.keys, series.z[series.parent], series.episodes[series.parent]
    long_s = np.clip(45.0 * np.exp(-0.9 * z + 0.3 * draws.normal(whole, "duration")), 4.0, 900.0)
    begin = draws.uniform(whole, "begin") * (DAY_US - 900e6)
    at_us = start_us + (begin + 1e6 * long_s * draws.uniform(keys, "offset")).astype(np.int64)
    from_country = np.where(
        _with_p(whole, "local", p=sigmoid(-z)),
        town.customers.country[draws.below(whole, "local country", bound=len(town.customers.key))],
        draws.below(whole, "country", bound=len(towns.COUNTRIES)),
    )
    neighbour = _with_p(keys, "neighbour", p=sigmoid(0.5 - 1.5 * z))
    anybody = draws.below(keys, "victim", bound=len(town.customers.key))
    owner = np.where(neighbour, towns.resident(town, from_country, draw=draws.uniform(keys, "victim")), anybody)
    base = _base(town, series, scheme="card_testing", owner=owner, at_us=at_us)
    tool = draws.child(draws.named(whole, "device"), draws.below(keys, "which device", bound=2))
    guest = _with_p(keys, "guest", p=sigmoid(1.5 * z))
    return base._replace(
        customer=np.where(guest, draws.named(keys, "guest"), base.customer),
        email=np.where(guest, draws.named(keys, "email"), base.email),
        device=np.where(_with_p(keys, "own device", p=sigmoid(-2.0 * z)), base.device, tool),
        ip=draws.named(whole, "ip"),
        ip_country=from_country,
        merchant=town.merchants.small[draws.below(whole, "shop", bound=len(town.merchants.small))],
        eur=8.0 * np.exp(-0.7 * series.noisy + 0.5 * draws.normal(keys, "amount")),
    )


def _takeover(town: Town, series: _Series, *, start_us: int) -> Batch:
    """An account used from a new device, from abroad, for larger amounts; the look-alike is a traveller's new phone."""
    keys, z, whole = series.keys, series.z[series.parent], series.episodes[series.parent]
    gap = 45.0 * _MINUTE_US * np.exp(-0.8 * z)
    begin = draws.uniform(whole, "begin") * DAY_US
    at_us = start_us + (begin + gap * (series.nth + draws.uniform(keys, "gap"))).astype(np.int64)
    owner = draws.below(whole, "victim", bound=len(town.customers.key))
    base = _base(town, series, scheme="takeover", owner=owner, at_us=at_us)
    far = _with_p(whole, "far", p=sigmoid(0.2 + 1.2 * z))
    resale = town.merchants.resale[draws.below(keys, "resale shop", bound=len(town.merchants.resale))]
    merchant = np.where(_with_p(keys, "resale", p=sigmoid(1.3 * series.noisy)), resale, base.merchant)
    size = np.exp(0.45 * series.noisy + 0.4 * draws.normal(keys, "amount"))
    new_mail = _with_p(whole, "new mail", p=0.5 * sigmoid(1.5 * z - 0.5))
    return base._replace(
        email=np.where(new_mail, draws.named(whole, "email"), base.email),
        device=np.where(
            _with_p(whole, "new device", p=sigmoid(1.0 + 1.5 * z)), draws.named(whole, "device"), base.device
        ),
        ip=draws.named(whole, "ip"),
        ip_country=np.where(far, draws.below(whole, "country", bound=len(towns.COUNTRIES)), base.ip_country),
        merchant=merchant,
        eur=town.merchants.price_eur[merchant] * town.customers.level[owner] * size,
    )


def _ring(town: Town, series: _Series, *, start_us: int) -> Batch:
    """One device behind many accounts and cards for weeks; the look-alike is the tablet of a family or a hostel."""
    keys, z, whole = series.keys, series.z[series.parent], series.episodes[series.parent]
    at_us = start_us + (draws.uniform(keys, "offset") * 20 * DAY_US).astype(np.int64)
    seats = 3 + np.floor(9 * sigmoid(1.2 * z) * draws.uniform(whole, "seats")).astype(np.int64)
    members = draws.child(draws.named(whole, "members"), draws.below(keys, "member", bound=seats))
    hub = draws.below(whole, "hub", bound=len(town.customers.key))
    stranger = _with_p(members, "stranger", p=sigmoid(1.5 * z))
    near = towns.resident(town, town.customers.country[hub], draw=draws.uniform(members, "victim"))
    owner = np.where(stranger, draws.below(members, "victim", bound=len(town.customers.key)), near)
    base = _base(town, series, scheme="ring", owner=owner, at_us=at_us)
    made_up = _with_p(members, "made up", p=sigmoid(1.3 * z))
    return base._replace(
        customer=np.where(made_up, draws.named(members, "account"), base.customer),
        email=np.where(made_up, draws.named(members, "email"), base.email),
        device=draws.named(whole, "device"),
        ip=draws.child(draws.named(whole, "ip"), (at_us - start_us) // (4 * DAY_US)),
        ip_country=town.customers.country[hub],
        eur=38.0 * np.exp(0.4 * series.noisy + 0.5 * draws.normal(keys, "amount")),
    )


def _slow_low(town: Town, series: _Series, *, start_us: int) -> Batch:
    """A quiet series on a card for weeks, just below 50 euro; the look-alike is a spouse's device and subscriptions."""
    keys, z, whole = series.keys, series.z[series.parent], series.episodes[series.parent]
    at_us = start_us + (draws.uniform(keys, "offset") * 25 * DAY_US).astype(np.int64)
    owner = draws.below(whole, "victim", bound=len(town.customers.key))
    base = _base(town, series, scheme="slow_low", owner=owner, at_us=at_us)
    below = np.exp(-np.abs(draws.normal(keys, "amount")) * 0.6 * np.exp(-0.9 * series.noisy))
    shops = draws.child(draws.named(whole, "shops"), draws.below(keys, "which shop", bound=2))
    return base._replace(
        card=draws.child(draws.named(base.customer, "card"), 0),
        device=draws.named(whole, "device"),
        ip=np.where(_with_p(keys, "rotated", p=sigmoid(1.5 * z)), draws.named(keys, "ip"), base.ip),
        merchant=town.merchants.small[draws.below(shops, "shop", bound=len(town.merchants.small))],
        eur=49.9 * below,
    )
