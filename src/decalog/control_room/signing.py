"""Signing in with a token, and out."""

from __future__ import annotations

import time

from decalog.control_room.web import Ask, Page, Redirect
from decalog.errors import AccessError, LimitError
from decalog.http.limits import RateLimit
from decalog.http.problems import Refusal

_TRIES = RateLimit(1.0, 10, monotonic=time.monotonic)
"""Of all callers together: a token cannot be guessed, so this bounds the work of those who try."""


def form(ask: Ask) -> Page | Redirect:
    """The form that asks for a token."""
    return Page("login.html", {"title": "Sign in"}) if ask.view.doors.asks else Redirect("/")


def sign_in(ask: Ask) -> Page | Redirect:
    """Takes a token; the session that it opens is a new one.

    Raises:
        Refusal: no home knows the token, or too many were tried.
    """
    if _TRIES.wait_s("all"):
        error = LimitError(
            where="control room, sign in", given="too many tries", expected="one a second", fix="Wait a moment."
        )
        raise Refusal(429, error)
    token = ask.form.get("token", "").strip()
    if not ask.view.doors.is_known(token):
        wrong = AccessError(
            where="control room, sign in",
            given="a token that no home here knows",
            expected="dlg_… as `decalog tokens create` printed it",
            fix="Make one: `decalog tokens create --scope admin --scope decide --scope outcomes`.",
        )
        return Page("login.html", {"title": "Sign in", "error": wrong}, 401)
    ask.view.sessions.sign_in(ask.session, token)
    return Redirect("/")


def sign_out(ask: Ask) -> Redirect:
    """Forgets the session and its token."""
    ask.view.sessions.close(ask.session.id)
    return Redirect("/login")
