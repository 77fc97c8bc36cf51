"""The pages that look at whole systems: the house, a system, its readiness, its privacy requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from decalog.admin import list_models
from decalog.alerts import Alert, AlertBook
from decalog.clock import time_us
from decalog.control_room import lanes
from decalog.control_room.homes import Place
from decalog.control_room.measuring import Measured, measured
from decalog.control_room.things import worst
from decalog.control_room.tiering import shown_tiers
from decalog.control_room.views import currency_of, log_of, words
from decalog.control_room.web import Ask, Page
from decalog.log import Log
from decalog.rollout import TABLE, Rollout, Rollouts
from decalog.standing import CONTESTS, ERASURES, NOTICES, WISHES
from decalog.system import find_system
from decalog.tables import Tables

PEOPLES = (ERASURES, WISHES, CONTESTS, NOTICES)
"""Tables of what people asked for."""
_CHANGES = ("inputs", "predictions", "importances", "calibration", "reports", "delays")


def house(ask: Ask) -> Page:
    """All systems at a glance."""
    places = [place for place in ask.view.house.places() if "admin" in ask.view.doors.scopes(ask.session, place)]
    return Page("house.html", {"title": "The house", "cards": [_card(place) for place in places]})


def system(ask: Ask) -> Page:
    """One system: what runs, what it came to, what is tried, and what can be done about it."""
    place, by = ask.at, ask.query.get("by", "")
    found, listed = measured(place.home, place.system), list_models(place.home, place.system)
    values: dict[str, Any] = {
        "title": place.name,
        "lanes": lanes.of(place, found),
        "measured": found,
        "tiers": None if found is None else shown_tiers(found, currency_of(place.home)),
        "drift": None if found is None else _drift(place, found),
        "models": listed.models[::-1],
        "history": listed.history[::-1][:20],
        "by": by,
        "worst": worst(place, most=3),
    }
    with log_of(place) as log:
        tables = Tables(log)
        values |= {"steps": _steps(tables, place.system), "changes": tables.changes(place.system)[::-1][:10]}
        return Page("system.html", values | _state(place, log))


def readiness(ask: Ask) -> Page:
    """What `decalog check` measured last, as far as it still says something."""
    from decalog.readiness.evidence import read
    from decalog.readiness.page import figure
    from decalog.readiness.running import Wanted, standing

    values: dict[str, Any] = {"title": f"{ask.at.name}: readiness", "found": None, "figure": figure}
    if read(ask.at.home.root, ask.at.system).results:
        found = standing(ask.at.home, Wanted(system=ask.at.system))
        values["found"] = found
        values["worst"] = [one for name in found.worst for one in found.results if one.name == name]
    return Page("readiness.html", values)


def privacy(ask: Ask) -> Page:
    """What people asked of their data, as the log says: by tokens, the newest first."""
    with log_of(ask.at) as log:
        tables = Tables(log)
        stored = [(name, one) for name in PEOPLES for one in tables.history(ask.at.system, name)]
    said = [(time_us(one.known_time), *_asked(name, one.content)) for name, one in stored]
    return Page("privacy.html", {"title": f"{ask.at.name}: privacy", "requests": sorted(said, reverse=True)})


def _asked(table: str, content: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns what was asked, of whom, and what came of it."""
    whom = f"#{content['subject']}" if "subject" in content else ""
    if table == ERASURES:
        gone, models = len(content.get("records", ())), len(content.get("models", ()))
        return "erased", whom, f"{gone:,} records are gone; {models:,} models had learnt from them"
    if table == WISHES:
        return words(content["wish"]), whom, "in force" if content.get("on", True) else "taken back"
    if table == NOTICES:
        return "notice", "", " ".join(filter(None, (content["id"], content.get("url", "")))) or "none from now on"
    return "contested", content["request"], "a person looks at it"


def _card(place: Place) -> dict[str, Any]:
    """Returns what the house shows of a system."""
    with log_of(place) as log:
        return {"place": place, "lanes": lanes.of(place, measured(place.home, place.system)), **_state(place, log)}


def _state(place: Place, log: Log) -> dict[str, Any]:
    """Returns what is the matter with a system: alerts that stand and those of before, and the rollout under way."""
    alerts = AlertBook(place.home.root).untold(place.system)
    last = Rollouts(log, place.system).last()
    return {
        "standing": [_told(alert) for alert in alerts if alert.ended is None][::-1],
        "ended": [_told(alert) for alert in alerts if alert.ended is not None][::-1][:10],
        "rollout": last if last is not None and not last.is_over else None,
        "currency": currency_of(place.home),
    }


def _told(alert: Alert) -> dict[str, Any]:
    labels = {name: value for name, value in alert.labels.items() if name not in ("alertname", "system", "owner")}
    return {
        "name": alert.labels["alertname"],
        "owner": alert.labels.get("owner", ""),
        "slice": ", ".join(f"{name} {value}" for name, value in labels.items()),
        "since": alert.started,
        "ended": alert.ended,
        **alert.annotations,
    }


def _steps(tables: Tables, system: str) -> list[tuple[int, Rollout]]:
    """Returns the steps of rollouts with their times, the newest first."""
    stored = tables.history(system, TABLE)
    return [(time_us(one.known_time), msgspec.convert(one.content, Rollout)) for one in stored[::-1][:20]]


def _drift(place: Place, found: Measured) -> list[dict[str, Any]]:
    """Returns what the latest look of each monitor of changes read, the largest first."""
    if isinstance(found.watch, str):
        return []
    from decalog.monitoring import monitors_of

    told = []
    for monitor in monitors_of(find_system(place.system)):
        readings = found.watch["latest"].get(monitor.name, [])
        if monitor.watches in _CHANGES:
            ordered = sorted(readings, key=lambda one: (not one["is_beyond"], one["p_value"]))
            told.append({"monitor": monitor, "readings": ordered[:4], "more": max(0, len(ordered) - 4)})
    return told
