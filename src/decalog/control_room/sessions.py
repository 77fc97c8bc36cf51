"""Who looks: sessions behind a cookie that holds nothing but their id, and the tokens that they were opened with.

A token is verified with each request by the home that made it: one that is revoked loses its sessions in a second.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from decalog.access import SCOPES, Access, Scope, Token, require
from decalog.admin import access_of
from decalog.control_room.homes import House, Place
from decalog.errors import AccessError
from decalog.home import Home

COOKIE = "decalog_room"
_IDLE_S = 12 * 3600.0
_MOST = 1_000


class Session(msgspec.Struct):
    """One browser that was let in.

    Args:
        id: what its cookie holds, 256 random bits.
        csrf: what each of its forms has to repeat.
        token: that it was opened with; "" where none is needed.
        used: when it last asked, s.
        said: what the next page tells, once.
        is_told: whether its cookie was sent.
    """

    id: str
    csrf: str
    token: str
    used: float
    said: list[str] = []
    is_told: bool = False


class Sessions:
    """The sessions of one control room; a restart ends them.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._open: OrderedDict[str, Session] = OrderedDict()

    def open(self, token: str) -> Session:
        """Returns a new session; of too many the first goes, those without a token before all others."""
        made = Session(secrets.token_hex(32), secrets.token_hex(32), token, self._monotonic())
        if len(self._open) >= _MOST:
            self.close(next((id_ for id_, one in self._open.items() if not one.token), next(iter(self._open))))
        self._open[made.id] = made
        return made

    def sign_in(self, session: Session, token: str) -> None:
        """Gives a session a token, and another id: nobody may know beforehand what it will be."""
        self.close(session.id)
        session.id, session.csrf = secrets.token_hex(32), secrets.token_hex(32)
        session.token, session.is_told = token, False
        self._open[session.id] = session

    def find(self, id_: str) -> Session | None:
        """Returns the session of a cookie; None where there is none, or it has idled for half a day."""
        found = self._open.get(id_)
        if found is None or self._monotonic() - found.used > _IDLE_S:
            self.close(id_)
            return None
        found.used = self._monotonic()
        return found

    def close(self, id_: str) -> None:
        """Forgets a session."""
        self._open.pop(id_, None)


def check_csrf(session: Session, sent: str) -> None:
    """Returns if a form is one of ours.

    Raises:
        AccessError: it does not repeat what the page gave it.
    """
    if not hmac.compare_digest(session.csrf.encode(), sent.encode()):
        raise AccessError(
            where="control room, form",
            given="a form that no page of this session made",
            expected="the form of a page that was opened here",
            fix="Open the page again and send its form.",
        )


class Doors:
    """What a session may see and do.

    Args:
        house: the systems.
        asks: whether tokens are asked for at all.
    """

    def __init__(self, house: House, *, asks: bool) -> None:
        self.asks = asks
        self._house = house
        self._known: dict[str, Access] = {}
        self._lock = threading.Lock()

    def is_known(self, token: str) -> bool:
        """Whether any of the homes made a token, and still knows it."""
        return any(self._token(place.home, token) is not None for place in self._house.places())

    def scopes(self, session: Session, place: Place) -> tuple[Scope, ...]:
        """Returns what a session may do with a system."""
        if not self.asks:
            return SCOPES
        token = self._token(place.home, session.token)
        is_for = token is not None and (not token.systems or place.system in token.systems)
        return token.scopes if token is not None and is_for else ()

    def require(self, session: Session, place: Place, *, scope: Scope) -> None:
        """Returns if a session may do something with a system.

        Raises:
            AccessError: it may not.
        """
        if not self.asks:
            return
        token = self._token(place.home, session.token)
        if token is None:
            raise AccessError(
                where=f"control room, {place.system}",
                given="a token that this system's home does not know",
                expected=f"a token of it with scope {scope}",
                fix=f"Sign in with one of `decalog tokens create --scope {scope}`.",
            )
        require(token, scope, system=place.system)

    def caller(self, session: Session, place: Place) -> str:
        """Returns in words who acts."""
        token = self._token(place.home, session.token) if self.asks else None
        return "control room" if token is None else token.told

    def _token(self, home: Home, text: str) -> Token | None:
        if not text:
            return None
        with self._lock:
            key = str(home.root)
            if key not in self._known:
                self._known[key] = access_of(home)
            try:
                return self._known[key].verify(f"Bearer {text}".encode())
            except AccessError:
                return None
