from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import pytest

from decalog.clock import DAY, HOUR
from decalog.errors import ConfigError, ConflictError, RequestError, UnknownRecordError
from decalog.parsing import SchemaParser
from decalog.systems.demand.schema import ORDER, PARTS, SCHEMA
from decalog.systems.demand.simulate import World
from decalog.systems.demand.world.days import Calendar, Shelves
from decalog.systems.demand.world.params import SWITCHES, WorldParams
from decalog.systems.demand.world.shops import easter, holidays, is_closed, is_eve, settle
from decalog.systems.demand.world.totals import Totals
from decalog.testing.worlds import Message

SCALE = 0.12
NONE: frozenset[str] = frozenset()


def lived(days: int, *, seed: int = 3, on: str = "", scale: float = SCALE) -> tuple[World, list[Message]]:
    world = World(seed, scale=scale)
    if on:
        world.switch(on, on=True)
    return world, world.advance(world.start_us + days * DAY - 1, alone=True)


def of_kind(messages: list[Message], kind: str) -> list[Message]:
    return [message for message in messages if message.kind == kind]


def ordered(world: World, message: Message, units: int) -> None:
    world.react(message.body["id"], ORDER, at_us=message.at, refs=(str(units),))


def test_a_seed_is_a_world() -> None:
    assert lived(5)[1] == lived(5)[1]
    assert lived(5)[1] != lived(5, seed=4)[1]


def test_what_is_asked_for_in_steps_is_what_is_asked_for_at_once() -> None:
    world = World(3, scale=SCALE)
    steps = [m for hour in range(1, 5 * 24 + 1) for m in world.advance(world.start_us + hour * HOUR - 1, alone=True)]
    assert steps == lived(5)[1]


def test_all_that_it_tells_is_of_the_schema() -> None:
    parser = SchemaParser(SCHEMA)
    _, messages = lived(12)
    doors = {"decide": parser.request, "event": parser.event, "outcome": parser.outcome}
    for message in messages:
        doors[message.kind](message.body)
    assert set(Counter(message.kind for message in messages)) == set(doors)


def test_what_is_wanted_does_not_depend_on_what_is_ordered() -> None:
    alone, _ = lived(8)
    world = World(3, scale=SCALE)
    world.advance(world.start_us + 8 * DAY - 1)  # nobody orders
    assert all((one.wanted == other.wanted).all() for one, other in zip(world.sold, alone.sold, strict=True))
    assert Totals.over(world.days).sold < Totals.over(alone.days).sold


def test_an_order_arrives_after_its_lead_time_and_only_once() -> None:
    world = World(3, scale=SCALE)
    first = next(m for m in world.advance(world.start_us + DAY) if m.kind == "decide" and m.body["lead_days"] == 2)
    series = int(next(n for n in range(world.shops.n) if f"i{n % world.shops.items + 1}" == first.body["item"]))
    ordered(world, first, 6_000)
    ordered(world, first, 6_000)
    world.advance(world.start_us + 2 * DAY - 1)
    assert world.sold[1].left[series] < 6_000
    world.advance(world.start_us + 3 * DAY - 1)
    assert 5_000 < world.sold[2].left[series] < 6_500


def test_another_order_for_the_same_night_is_refused() -> None:
    world, messages = World(3, scale=SCALE), []
    messages = of_kind(world.advance(world.start_us + DAY), "decide")
    ordered(world, messages[0], 12)
    with pytest.raises(ConflictError, match="another quantity than before"):
        ordered(world, messages[0], 13)


@pytest.mark.parametrize(("action", "refs"), [("allow", ("3",)), (ORDER, ()), (ORDER, ("-3",)), (ORDER, ("3", "4"))])
def test_a_reaction_that_is_no_order_is_refused(action: str, refs: tuple[str, ...]) -> None:
    world = World(3, scale=SCALE)
    first = of_kind(world.advance(world.start_us + DAY), "decide")[0]
    with pytest.raises(RequestError, match="one number of units"):
        world.react(first.body["id"], action, at_us=first.at, refs=refs)


def test_an_unknown_request_is_refused() -> None:
    with pytest.raises(UnknownRecordError, match="which it has not sent"):
        World(3, scale=SCALE).truth("ord_0")


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(ConfigError, match="bom"):
        World(3, scale=SCALE).switch("bom", on=True)


def test_what_sold_out_is_a_bound_and_everything_else_is_not() -> None:
    world, messages = lived(40)
    told = {m.body["replenishment"]: m.body for m in of_kind(messages, "outcome")}
    asked = {m.body["id"]: m.body for m in of_kind(messages, "decide")}
    assert 0.02 < np.mean([body["censored"] for body in told.values()]) < 0.6
    for id_, body in told.items():
        store, item = (int(part[1:]) - 1 for part in asked[id_]["series"].split("/"))
        series, first = store * world.shops.items + item, _day_of(world, asked[id_]) + 1
        days = range(first, first + asked[id_]["horizon_days"])
        wanted = sum(int(world.sold[day].wanted[series].sum()) for day in days)
        if not body["censored"]:
            assert body["value"] >= wanted  # what was bought in the place of something else comes on top


def _day_of(world: World, body: dict[str, str]) -> int:
    at = dt.datetime.fromisoformat(body["event_time"])
    return int((at.timestamp() * 1e6 - world.start_us) // DAY)


def test_parts_of_a_day_add_up() -> None:
    _, messages = lived(10)
    days = [m.body for m in of_kind(messages, "event")]
    corrected = {body["corrects"] for body in days if "corrects" in body}
    assert all(body["units"] == sum(body[part] for part in PARTS) for body in days if body["id"] not in corrected)


def test_truth_is_the_mean_of_what_is_wanted() -> None:
    ratios = []
    for seed in range(4):
        world, messages = lived(30, seed=seed)
        for message in of_kind(messages, "decide"):
            truth, body = world.truth(message.body["id"]), message.body
            store, item = (int(part[1:]) - 1 for part in body["series"].split("/"))
            first, series = _day_of(world, body) + 1, store * world.shops.items + item
            if first + body["horizon_days"] < 30:
                days = range(first, first + body["horizon_days"])
                wanted = sum(int(world.sold[day].wanted[series].sum()) for day in days)
                ratios.append((wanted, truth["demand_mean"], truth["demand_sd"]))
    every, mean, spread = (np.array(column, np.float64) for column in zip(*ratios, strict=True))
    assert every.sum() / mean.sum() == pytest.approx(1, abs=0.03)
    assert np.mean(((every - mean) / np.maximum(spread, 1e-9))[spread > 1] ** 2) == pytest.approx(1, abs=0.12)


def test_the_oldest_is_sold_first_and_what_is_too_old_is_thrown_away() -> None:
    shops = settle(3, WorldParams().scaled(SCALE))
    fresh = int(np.flatnonzero(shops.fresh)[0])
    shelves, lasts = Shelves(shops, 0.0), int(shops.shelf_days[fresh])
    put, nothing = np.zeros(shops.n, np.int64), np.zeros((shops.n, 12), np.int64)
    put[fresh] = 10
    offered, luck = np.ones(shops.n, np.bool_), np.zeros((shops.n, 12))
    shelves.deliver(put)
    wasted = [shelves.sell(nothing, luck, offered=offered).wasted[fresh] for _ in range(lasts)]
    assert wasted == [0] * (lasts - 1) + [10]
    shelves.deliver(put)
    shelves.sell(nothing, luck, offered=offered)
    shelves.deliver(put)
    some = nothing.copy()
    some[fresh, 4] = 13
    assert shelves.sell(some, luck, offered=offered).units[fresh].sum() == 13
    later = [shelves.sell(nothing, luck, offered=offered).wasted[fresh] for _ in range(lasts)]
    assert sum(later) == 7
    assert later[lasts - 2] == 7


def test_what_does_not_spoil_stays() -> None:
    shops = settle(3, WorldParams().scaled(SCALE))
    dry = int(np.flatnonzero(~shops.fresh)[0])
    shelves, put = Shelves(shops, 0.0), np.zeros(shops.n, np.int64)
    put[dry] = 10
    shelves.deliver(put)
    for _ in range(20):
        sold = shelves.sell(
            np.zeros((shops.n, 12), np.int64), np.zeros((shops.n, 12)), offered=np.ones(shops.n, np.bool_)
        )
    assert sold.left[dry] == 10
    assert not sold.wasted.any()


def test_what_is_not_there_is_bought_as_something_else() -> None:
    shops = settle(3, WorldParams().scaled(SCALE))
    shelves, put, wanted = Shelves(shops, 0.5), np.zeros(shops.n, np.int64), np.zeros((shops.n, 12), np.int64)
    one = int(np.flatnonzero(shops.other != np.arange(shops.items))[0])
    put[int(shops.other[one])] = 100
    shelves.deliver(put)
    wanted[one, 3] = 40
    sold = shelves.sell(wanted, np.zeros((shops.n, 12)), offered=np.ones(shops.n, np.bool_))
    assert sold.units[one].sum() == 0
    assert sold.units[int(shops.other[one])].sum() == 20


def test_promotions_lift_and_the_week_after_gives_back() -> None:
    params = WorldParams(weather=0.0, fashion=0.0, yearly=0.0, weekly=0.0, trend=0.0, holiday=0.0).scaled(0.4)
    calendar = Calendar(settle(5, params), params, start_us=World(5, scale=SCALE).start_us)
    lifts, dips = [], []
    for day in range(30, 200):
        now, before = calendar.discount(day), calendar.discount(day - 7)
        effect = calendar.promotion(day)
        lifts += effect[now > 0].tolist()
        dips += effect[(now == 0) & (before > 0)].tolist()
    assert np.mean(lifts) > 0.4
    assert np.mean(dips) < -0.1


def test_switches_do_what_they_declare() -> None:
    plain = Calendar(settle(5, WorldParams()), WorldParams(), start_us=World(5, scale=SCALE).start_us)
    rate = plain.rate(20, NONE)
    assert plain.rate(20, frozenset({"slump"})).sum() == pytest.approx(0.65 * rate.sum())
    boom = plain.rate(20, frozenset({"boom"}))[rate > 0] / rate[rate > 0]
    assert {round(float(ratio), 6) for ratio in boom} == {1.0, 1.6}
    early = plain.wanted(20, frozenset({"early_shoppers"}))
    assert early[:, :4].sum() > 1.3 * plain.wanted(20, NONE)[:, :4].sum()
    days = {name: len(of_kind(lived(10, on=name)[1], "event")) for name in ("lost_days", "device") if name in SWITCHES}
    assert 0.55 < days["lost_days"] / len(of_kind(lived(10)[1], "event")) < 0.78


def test_lorries_that_come_late_sell_less() -> None:
    assert Totals.over(lived(40, on="late_lorries")[0].days).sold < Totals.over(lived(40)[0].days).sold


def test_one_store_in_four_may_report_cases() -> None:
    units = {on: sum(m.body["units"] for m in of_kind(lived(6, on=on)[1], "event")) for on in ("", "wrong_unit")}
    assert units["wrong_unit"] < 0.9 * units[""]


def test_promotions_may_be_kept_from_requests() -> None:
    asked = of_kind(lived(40, on="untold_promotions")[1], "decide")
    assert not any(message.body["promo_days"] or message.body["discount_bp"] for message in asked)
    assert any(message.body["promo_days"] for message in of_kind(lived(40)[1], "decide"))


@pytest.mark.parametrize(("year", "date"), [(2024, (3, 31)), (2025, (4, 20)), (2026, (4, 5)), (2038, (4, 25))])
def test_easter_moves(year: int, date: tuple[int, int]) -> None:
    assert easter(year) == dt.date(year, *date)
    assert dt.date(year, *date) + dt.timedelta(days=1) in holidays(year)


def test_stores_are_closed_on_holidays_and_full_before() -> None:
    assert is_closed(dt.date(2025, 12, 25))
    assert not is_closed(dt.date(2025, 12, 24))
    assert is_eve(dt.date(2025, 12, 24))
    assert not is_eve(dt.date(2025, 12, 10))


def test_money_is_what_sales_earn_less_waste_and_holding() -> None:
    assert str(Totals(wanted=10, sold=8, wasted=2, sold_out=1, series=4, minor=1_250.0)) == (
        "8 of 10 units wanted were sold  sold out 25.0%  wasted 20.0%  earned 12"
    )
