"""The page of the knobs that make trouble in a simulated world; a system that no world drives has none."""

from __future__ import annotations

from typing import Any

from decalog.control_room import knobs as files
from decalog.control_room.homes import Place
from decalog.control_room.knobs import Driven
from decalog.control_room.views import words
from decalog.control_room.web import Ask, Page, Redirect, path_of
from decalog.errors import RequestError, UnknownRecordError, near
from decalog.monitoring import Drift
from decalog.system import find_system


def knobs(ask: Ask) -> Page:
    """The knobs, which are on, and what each has to be noticed by."""
    place = ask.at
    told = _driven(place)
    wanted = files.wished(place.home, place.system, driver=told.driver)
    values = {"title": f"{place.system}: trouble", "driven": told, "knobs": _knobs(place, told, wanted)}
    return Page("trouble.html", values)


def turn(ask: Ask) -> Redirect:
    """Turns a knob on or off.

    Raises:
        RequestError: the world has no such knob.
    """
    place, name, is_on = ask.at, ask.form.get("knob", ""), ask.form.get("on") == "1"
    told = _driven(place)
    if name not in told.knobs:
        raise RequestError(
            where="control room, knob",
            given="a knob that this world does not have",
            expected=near(name[:64], told.knobs),
            fix="Take one of the page.",
        )
    wanted = {*files.wished(place.home, place.system, driver=told.driver)} - {name} | ({name} if is_on else set())
    files.wish(place.home, place.system, wishes=files.Wishes(told.driver, tuple(sorted(wanted))))
    return Redirect(path_of("s", place.name, "trouble"), f"{words(name)}: {'on' if is_on else 'off'}.")


def _driven(place: Place) -> Driven:
    if place.driven is None:
        raise UnknownRecordError(
            where=f"control room, {place.system}",
            given="a system that no simulated world drives",
            expected="one that `decalog up` brought up",
            fix="Nothing can be broken here, and nothing should be.",
        )
    return place.driven


def _knobs(place: Place, told: Driven, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the knobs as the page shows them; what waits for the driver is told apart from what is on."""
    drifts = {drift.switch: drift for drift in find_system(place.system).drifts if isinstance(drift, Drift)}
    return [
        {
            "name": name,
            "effect": effect,
            "is_on": name in told.on,
            "is_wanted": name in wanted,
            "drift": drifts.get(name),
            "is_general": name in files.GENERAL | files.OF_PEOPLE,
        }
        for name, effect in told.knobs.items()
    ]
