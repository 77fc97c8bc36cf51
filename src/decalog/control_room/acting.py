"""What people do about an experiment and a champion: the next step, a stop, the way back; each with who and why."""

from __future__ import annotations

from typing import Any

from decalog.control_room.asking import call
from decalog.control_room.views import log_of
from decalog.control_room.web import Ask, Redirect, path_of
from decalog.errors import RequestError
from decalog.registry import SHORT, Registry
from decalog.rollout import Rollout, Rollouts

_LONGEST = 1_000


def rollout(ask: Ask) -> Redirect:
    """Takes the next step of a rollout, or stops it, on the system's server.

    Raises:
        RequestError: no rollout is under way, or the step is none.
    """
    place, act = ask.at, ask.form.get("act", "")
    with log_of(place) as log:
        last = Rollouts(log, place.system).last()
    if last is None or last.is_over or act not in ("widen", "stop", "promote"):
        raise RequestError(
            where=f"control room, rollout of {place.system}",
            given="no step" if last is not None and not last.is_over else "a step where no rollout is under way",
            expected="widen, stop or promote, of the rollout under way",
            fix="Open the system's page again.",
        )
    if act == "promote":
        return _promoted(ask, last.model)
    call(ask, "PUT", "rollout", body=_step(last, act, ask.form.get("share", ""), _why(ask)))
    said = "stopped" if act == "stop" else "goes on"
    return Redirect(path_of("s", place.name), f"Rollout {last.name} {said}.")


def champion(ask: Ask) -> Redirect:
    """Goes back to the champion before, or makes a model the champion; the server follows within seconds.

    As for the loop and for `decalog models`, this is the registry's: a server that is down comes up with it.
    """
    if ask.form.get("act") == "promote":
        return _promoted(ask, ask.form.get("model", ""))
    change = Registry(ask.at.home.root).rollback(ask.at.system, **_signed(ask))
    return Redirect(path_of("s", ask.at.name), f"{change.model[:SHORT]} is the champion again.")


def _promoted(ask: Ask, model: str) -> Redirect:
    Registry(ask.at.home.root).promote(ask.at.system, model, **_signed(ask))
    return Redirect(path_of("s", ask.at.name), f"{model[:SHORT]} is the champion.")


def _step(last: Rollout, act: str, share: str, why: str) -> dict[str, Any]:
    if act == "stop":
        return {"name": last.name, "stage": "stopped", "why": why}
    try:
        share_bp = round(float(share) * 100)
    except ValueError:
        share_bp = 0
    if not 0 < share_bp <= 10_000:  # noqa: PLR2004 - hundredths of a percent
        raise RequestError(
            where="control room, share", given="no share", expected="above 0 and up to 100 %", fix="Write 10 for 10 %."
        )
    return {"name": last.name, "stage": "canary", "share_bp": share_bp, "why": why}


def _signed(ask: Ask) -> dict[str, Any]:
    """Returns by whom, why and when by the log's clock, as the registry keeps it."""
    with log_of(ask.at) as log:
        return {"by": ask.view.doors.caller(ask.session, ask.at), "why": _why(ask), "at_us": log.known_time}


def _why(ask: Ask) -> str:
    why = ask.form.get("why", "").strip()[:_LONGEST]
    return f"{why or 'by hand'} ({ask.view.doors.caller(ask.session, ask.at)})"
