from __future__ import annotations

from pathlib import Path

import pytest
from tests.demand_log import DemandLog

from decalog.clock import DAY
from decalog.decisions import unpack_features
from decalog.parity import Parity
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.models import GROWN, YOUNG
from decalog.systems.demand.simulate import World
from decalog.systems.demand.world.params import WorldParams


def test_a_like_is_found_by_the_days_that_its_series_told(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    for day in range(10):
        log.sold(day, 24, like="s1/i1")
        log.sold(day, 60, series="s1/i2", like="s1/i2")
    service = log.service
    places = {name: place for place, name in enumerate(FEATURES.names)}

    def rate(name: str, **more: str) -> float:
        lead = log.decide(service, 9, name, series="s1/i9", **more).lead
        assert lead is not None
        return float(unpack_features(lead.features)[places["like_plain_rate_lately"]])

    assert rate("a", like="s1/i1") == pytest.approx(2.0)
    assert rate("b", like="s1/i2") == pytest.approx(5.0)
    assert rate("c") == rate("d", like="s1/i3") == -1.0, "no like, and one that told nothing"
    log.log.commit()
    found = Parity(log.log, "demand", notes_for=lambda _: ()).last()
    log.log.close()
    assert found.identical == found.compared == 4, "offline gives the same bits"


def test_what_stands_for_no_past_is_what_features_say_of_a_new_item(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.sold(0, 24)
    lead = log.decide(log.service, 0, "new", series="s1/i9").lead
    assert lead is not None
    values = dict(zip(FEATURES.names, unpack_features(lead.features).tolist(), strict=True))
    log.log.close()
    assert {name: values[name] for name in YOUNG.hidden} == dict(YOUNG.hidden)
    model = set(FEATURES.names_for("model"))
    assert {YOUNG.like, YOUNG.rate, YOUNG.exposed} <= model
    assert {name for age in YOUNG.ages for name in (age.rate, *age.known) if name} <= set(YOUNG.hidden)
    assert GROWN.young is YOUNG


def test_planners_name_likes_where_the_world_is_told_to_and_nothing_else_changes() -> None:
    plain, liked = World(3, scale=0.2), World(3, WorldParams(likes=1.0), scale=0.2)
    until = plain.start_us + 3 * DAY
    said = [[one.body for one in world.advance(until, alone=True)] for world in (plain, liked)]
    assert not any("like" in body for body in said[0])
    assert [{name: value for name, value in body.items() if name != "like"} for body in said[1]] == said[0]
    for body in said[1]:
        if "lead_days" in body and "like" in body:
            store, item = body["like"].split("/")
            assert store == body["store"]
            assert item != body["item"]
            assert not liked.shops.begins[int(item[1:]) - 1]
