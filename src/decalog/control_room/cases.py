"""The case queue: what waits for a person, worked on by keyboard, through the server that owns the queue."""

from __future__ import annotations

from typing import Any

from decalog.control_room.asking import call
from decalog.control_room.views import currency_of, strongest
from decalog.control_room.web import Ask, Page, Redirect, path_of
from decalog.errors import RequestError

_MOST = 100
_ACTS = ("claim", "release", "fraud", "genuine")


def queue(ask: Ask) -> Page:
    """What waits and what is held, the most worth looking at first."""
    place = ask.at
    cases = call(ask, "GET", "cases")
    values = {
        "title": f"{place.system}: cases",
        "cases": [case for case in cases if case["state"] != "closed"][:_MOST],
        "waiting": sum(case["state"] == "waiting" for case in cases),
        "figures": call(ask, "GET", "cases", "figures"),
        "currency": currency_of(place.home),
        "by": ask.view.doors.caller(ask.session, place),
    }
    return Page("cases.html", values)


def case(ask: Ask) -> Page:
    """One case, why it came here, and what can be done with it."""
    place = ask.at
    told = call(ask, "GET", "cases", ask.parts[0])
    values = {"case": told, "strongest": strongest(told), "currency": currency_of(place.home)}
    return Page("case.html", values | {"title": f"{place.system}: case {ask.parts[0]}"})


def act(ask: Ask) -> Redirect:
    """Claims a case, gives it back or closes it, in the name of the caller.

    Raises:
        RequestError: it is none of these.
    """
    place, id_, what = ask.at, ask.parts[0], ask.form.get("act", "")
    if what not in _ACTS:
        raise RequestError(
            where="control room, case", given="no act on a case", expected=", ".join(_ACTS), fix="Use the page."
        )
    body: dict[str, Any] = {"by": ask.view.doors.caller(ask.session, place)[:100]}
    if what in ("claim", "release"):
        call(ask, "POST", "cases", id_, what, body=body)
        return Redirect(
            path_of("s", place.name, "cases", id_) if what == "claim" else path_of("s", place.name, "cases")
        )
    call(ask, "POST", "cases", id_, "verdict", body=body | {"fraud": what == "fraud"})
    return Redirect(path_of("s", place.name, "cases"), f"{id_}: {what}.")
