"""The town of the fraud world: customers and merchants, and where each customer is, pays and connects from.

Nothing here changes with time by being updated: device, address and place of a customer on a day are functions of keys,
so any day can be asked for in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.systems.fraud.world_params import WorldParams
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys

COUNTRIES = ("DE", "FR", "NL", "ES", "IT", "AT", "US", "JP", "BR", "CA", "SG", "AU")
_HOMES = np.array([0.32, 0.2, 0.15, 0.12, 0.1, 0.06, 0.03, 0.02])  # the first eight have customers and shops
_HOURS_EAST = np.array([1, 1, 1, 1, 1, 1, -6, 9, -3, -5, 8, 10])
CURRENCY_OF = (
    "EUR",
    "EUR",
    "EUR",
    "EUR",
    "EUR",
    "EUR",
    "USD",
    "JPY",
    "EUR",
    "EUR",
    "EUR",
    "EUR",
)  # of the shop's country
# Currency → (minor units in one unit, units per euro); the world's own rates, fixed.
CURRENCIES = {"EUR": (100, 1.0), "USD": (100, 1.08), "JPY": (1, 160.0)}
CHANNELS = ("ecom", "pos", "moto")
ECOM, POS, MOTO = 0, 1, 2
# Shares of people, then shares of their payments.
_SINGLE, _TWO_CARDS, _TWO_DEVICES = 0.5, 0.35, 0.5
_ORDERS_HOME, _BY_PHONE, _SECOND_CARD, _TABLET, _SECOND_DEVICE = 0.4, 0.04, 0.25, 0.1, 0.2
_AT_WORK, _MOBILE = 0.12, 0.3
NOWHERE = -1


class Category(NamedTuple):
    """One kind of shop: category code, median price and its log sd, share online, weight, risk, use to thieves."""

    mcc: str
    price_eur: float
    sd: float
    online: float
    weight: float
    risk: float
    use: str


CATEGORIES = (
    Category("5411", 32.0, 0.7, 0.1, 24, 0.3, ""),  # groceries
    Category("5812", 28.0, 0.6, 0.05, 14, 0.3, ""),  # restaurants
    Category("5541", 48.0, 0.4, 0.0, 8, 0.4, ""),  # fuel
    Category("5651", 55.0, 0.6, 0.6, 12, 1.0, ""),  # clothing
    Category("5912", 18.0, 0.6, 0.3, 7, 0.4, ""),  # pharmacies
    Category("5732", 140.0, 0.9, 0.7, 7, 2.2, "resale"),  # electronics
    Category("5947", 40.0, 0.6, 0.8, 4, 2.5, "resale"),  # gift cards
    Category("5816", 9.0, 0.8, 1.0, 11, 1.8, "small"),  # digital goods: games
    Category("5968", 11.0, 0.4, 1.0, 5, 0.8, "small"),  # subscriptions
    Category("8398", 15.0, 0.9, 1.0, 2, 1.0, "small"),  # donations
    Category("4511", 190.0, 0.7, 0.95, 2, 1.8, "resale"),  # airlines
    Category("7011", 150.0, 0.6, 0.7, 4, 0.9, ""),  # hotels
)

# Share of a day's payments by local hour, midnight first: a night trough, a lunch rise, an evening peak.
_RHYTHM = np.array(
    [4, 2, 1, 1, 1, 2, 5, 12, 20, 26, 30, 34, 40, 38, 34, 34, 38, 46, 54, 58, 54, 42, 26, 12], dtype=float
)
_RHYTHM_CDF = np.concatenate([[0.0], np.cumsum(_RHYTHM) / _RHYTHM.sum()])


class Merchants(NamedTuple):
    """Shops, one row each, sorted by country; `cdf` is the country's index plus the cumulative popularity in it."""

    key: Keys
    category: Ints
    country: Ints
    price_eur: Floats
    risk: Floats
    cdf: Floats
    resale: Ints  # row numbers of online shops whose goods thieves sell on
    small: Ints  # row numbers of online shops with small tickets
    online: Ints  # row numbers of all online shops


class Customers(NamedTuple):
    """People, one row each; `rate` is payments a day on a mean day, `level` a factor on prices."""

    key: Keys
    household: Keys
    country: Ints
    level: Floats
    rate: Floats
    hours_late: Floats
    cards: Ints
    favourites: Ints  # (customers, 4) row numbers of merchants


class Town(NamedTuple):
    """Everybody and every shop, with the settings they were made from."""

    params: WorldParams
    key: Keys
    merchants: Merchants
    customers: Customers


def build(seed: int, params: WorldParams) -> Town:
    """Returns the town of a seed."""
    key = draws.root(f"fraud world {seed}")
    merchants = _merchants(draws.named(key, "merchants"), params.merchants)
    return Town(params, key, merchants, _customers(draws.named(key, "customers"), params, merchants=merchants))


def _pick(weights: npt.ArrayLike, draw: Floats) -> Ints:
    """Returns row numbers drawn in proportion to `weights`."""
    cdf = np.cumsum(weights)
    return np.searchsorted(cdf / cdf[-1], draw).astype(np.int64)


def _merchants(key: Keys, count: int) -> Merchants:
    keys = draws.child(key, np.arange(count))
    country = _pick(_HOMES, draws.uniform(keys, "country"))
    country[: len(_HOMES)] = np.arange(len(_HOMES))  # no country without a shop
    country = np.sort(country)
    category = _pick([c.weight for c in CATEGORIES], draws.uniform(keys, "category"))
    popularity = np.exp(1.2 * draws.normal(keys, "popularity"))
    cdf = np.empty(count)
    for place in range(len(_HOMES)):
        rows = country == place
        cdf[rows] = place + np.cumsum(popularity[rows]) / popularity[rows].sum()
    use = np.array([c.use for c in CATEGORIES])[category]
    online = np.array([c.online for c in CATEGORIES])[category] > 0
    price = np.array([c.price_eur for c in CATEGORIES])[category] * np.exp(0.35 * draws.normal(keys, "price"))
    risk = np.array([c.risk for c in CATEGORIES])[category] * np.exp(0.4 * draws.normal(keys, "risk"))
    rows_of = {name: _some(np.flatnonzero(use == name), online) for name in ("resale", "small")}
    return Merchants(
        keys, category, country, price, risk, cdf, rows_of["resale"], rows_of["small"], np.flatnonzero(online)
    )


def _some(rows: Ints, online: npt.NDArray[np.bool_]) -> Ints:
    """Returns the rows, or any online ones where a tiny town has none of that use."""
    return rows if len(rows) else np.flatnonzero(online)


def _customers(key: Keys, params: WorldParams, *, merchants: Merchants) -> Customers:
    count = params.customers
    keys = draws.child(key, np.arange(count))
    home = np.arange(count) // 3  # three neighbouring rows may be one family and share an address and a tablet
    single = draws.uniform(keys, "single") < _SINGLE
    household = np.where(single, draws.named(keys, "household"), draws.child(draws.named(key, "household"), home))
    family_country = _pick(_HOMES, draws.uniform(draws.child(draws.named(key, "home"), home), "country"))
    rate = np.exp(0.8 * draws.normal(keys, "rate"))
    country = np.where(single, _pick(_HOMES, draws.uniform(keys, "country")), family_country)
    favourite = [np.searchsorted(merchants.cdf, country + draws.uniform(keys, f"favourite {i}")) for i in range(4)]
    return Customers(
        key=keys,
        household=household,
        country=country,
        level=np.exp(0.45 * draws.normal(keys, "level")),
        rate=np.minimum(rate * params.payments_day / rate.sum(), 4.0),
        hours_late=2.0 * draws.normal(keys, "late"),
        cards=1 + (draws.uniform(keys, "cards") < _TWO_CARDS).astype(np.int64),
        favourites=np.stack(favourite, axis=1).clip(0, len(merchants.key) - 1),
    )


def resident(town: Town, country: Ints, *, draw: Floats) -> Ints:
    """Returns row numbers of customers of each country; of all customers where a country has none."""
    order = np.argsort(town.customers.country, kind="stable")
    homes = town.customers.country[order]
    first, last = np.searchsorted(homes, country), np.searchsorted(homes, country, side="right")
    empty = first == last
    first, last = np.where(empty, 0, first), np.where(empty, len(order), last)
    return np.asarray(order[first + (draw * (last - first)).astype(np.int64)], dtype=np.int64)


def place(town: Town, who: Ints, *, day: int) -> Ints:
    """Returns the country each customer is in on a day: home, or where a trip has led them."""
    people = town.customers
    keys = people.key[who]
    cycle, since = np.divmod(day + draws.below(keys, "trip phase", bound=45), 45)
    trips = draws.child(draws.named(keys, "trips"), cycle)
    away = (draws.uniform(trips, "taken") < town.params.trip_share) & (
        since < 3 + draws.below(trips, "length", bound=12)
    )
    return np.where(away, draws.below(trips, "country", bound=len(_HOMES)), people.country[who])


def shop(town: Town, who: Ints, *, keys: Keys, here: Ints) -> Ints:
    """Returns the row numbers of the shops paid: a favourite, one where the customer is, or a foreign one."""
    home = town.customers.country[who]
    share = town.params.favourite_share
    favourite = (draws.uniform(keys, "favourite") < share) & (here == home)
    # The steeper draw makes the first favourite the most frequent.
    rank = (4 * draws.uniform(keys, "rank") ** 2).astype(np.int64)
    abroad = draws.uniform(keys, "cross border") < town.params.cross_border_share
    country = np.where(abroad, _pick(_HOMES, draws.uniform(keys, "shop country")), here)
    country = np.where((here != home) & (draws.uniform(keys, "at home") < _ORDERS_HOME), home, country)
    other = np.searchsorted(town.merchants.cdf, country + draws.uniform(keys, "shop"))
    return np.where(
        favourite & ~abroad, town.customers.favourites[who, rank], other.clip(0, len(town.merchants.key) - 1)
    )


def channel(town: Town, keys: Keys, *, merchant: Ints, here: Ints) -> Ints:
    """Returns how each payment is made; nobody stands at the till of a shop in another country."""
    online = np.array([c.online for c in CATEGORIES])[town.merchants.category[merchant]]
    away = town.merchants.country[merchant] != here
    choice = np.where(away | (draws.uniform(keys, "channel") < online), ECOM, POS)
    return np.where((choice == ECOM) & (draws.uniform(keys, "moto") < _BY_PHONE), MOTO, choice)


def moment(keys: Keys, day_start_us: int, *, here: Ints, hours_late: Floats) -> Ints:
    """Returns times on a day, int µs UTC, by the local rhythm of day and night."""
    local = np.interp(draws.uniform(keys, "hour"), _RHYTHM_CDF, np.arange(25)) + hours_late
    hours = (local - _HOURS_EAST[here]) % 24.0
    return np.asarray(day_start_us + hours * 3_600e6, dtype=np.int64)


def card(town: Town, who: Ints, *, keys: Keys) -> Keys:
    """Returns the card each customer pays with; the first is used three times in four."""
    second = (draws.uniform(keys, "card") < _SECOND_CARD) & (town.customers.cards[who] > 1)
    return draws.child(draws.named(town.customers.key[who], "card"), second.astype(np.int64))


def device(town: Town, who: Ints, *, keys: Keys, day: int) -> Keys:
    """Returns the device each customer uses on a day: a family tablet, an own or a second one, replaced with age."""
    people = town.customers
    owners = np.where(draws.uniform(keys, "tablet") < _TABLET, people.household[who], people.key[who])
    has_two = draws.uniform(owners, "two devices") < _TWO_DEVICES
    slot = has_two & (draws.uniform(keys, "slot") < _SECOND_DEVICE)
    seats = draws.child(draws.named(owners, "device"), slot.astype(np.int64))
    life = town.params.device_life_days * (0.5 + draws.uniform(seats, "life"))
    return draws.child(seats, np.floor((day + life * draws.uniform(seats, "age")) / life).astype(np.int64))


def address(town: Town, who: Ints, *, keys: Keys, day: int, here: Ints) -> Keys:
    """Returns each customer's IP address on a day: home (it changes), a carrier's shared one, an office, a hotel."""
    people = town.customers
    homes = people.household[who]
    life = town.params.ip_life_days * (0.5 + draws.uniform(homes, "ip life"))
    at_home = draws.child(
        draws.named(homes, "ip"), np.floor(day / life + draws.uniform(homes, "ip age")).astype(np.int64)
    )
    hotel = draws.child(draws.named(people.key[who], "hotel"), day // 5)
    carrier = draws.child(draws.named(town.key, "carrier"), here * 40 + draws.below(keys, "carrier", bound=40))
    office = draws.child(
        draws.named(town.key, "office"), draws.below(people.key[who], "office", bound=1 + len(people.key) // 25)
    )
    draw = draws.uniform(keys, "address")
    settled = np.where(draw < _AT_WORK, office, at_home)
    return np.where(draw > 1.0 - _MOBILE, carrier, np.where(here == people.country[who], settled, hotel))
