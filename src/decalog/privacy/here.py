"""What people may ask for, done by this process on a home without a server."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TypeVar

from decalog.clock import Clock
from decalog.home import Home
from decalog.privacy.access import account
from decalog.privacy.acts import Corrected, Heard, contest, rectify
from decalog.privacy.erasing import erase, prove
from decalog.privacy.live import SAID, Asked, say
from decalog.privacy.pen import Pen
from decalog.privacy.retention import retain
from decalog.privacy.subjects import find_subject, schemas_of, survey
from decalog.system import System, find_system

_T = TypeVar("_T")


def do(home: Home, name: str, *, asked: Asked, clock: Clock | None = None) -> object:
    """Does what is asked for a person of a system, and returns what came of it; only access tells what is kept.

    Args:
        home: of the deployment; for all but access and prove this process becomes its log's writer.
        name: of the system.
        asked: what is.
        clock: of the log's stamps.

    Raises:
        RequestError: what is asked does not fit the system.
        ConfigError: there is no log.
        LogUnavailableError: a server runs on the home: ask that.
    """
    if asked.act in SAID:
        return _turn(home, name, partial(say, asked=asked), clock)
    home.check()
    doing: dict[str, Callable[[], object]] = {
        "erase": lambda: erase(home, name, person=asked.person, entity=asked.entity, clock=clock),
        "prove": lambda: prove(home, name, person=asked.person, entity=asked.entity, more=asked.more),
        "access": lambda: account(home, name, person=asked.person, entity=asked.entity),
        "rectify": lambda: _turn(home, name, lambda one, pen: _rectified(one, pen, asked), clock),
        "retention": lambda: retain(home, name, days=asked.days, clock=clock),
    }
    return doing[asked.act]()


def contest_here(home: Home, name: str, *, decision: str, said: str = "", clock: Clock | None = None) -> Heard:
    """Logs that a person wants a human to look at a decision; see `acts.contest`."""
    home.check()
    return _turn(home, name, lambda system, pen: contest(system, pen, decision=decision, said=said), clock)


def _turn(home: Home, name: str, act: Callable[[System, Pen], _T], clock: Clock | None) -> _T:
    system = find_system(name)
    with closing(home.writer(clock)) as log:
        done = act(system, Pen(log, by=getpass.getuser()))
        log.commit()
        return done


def _rectified(system: System, pen: Pen, asked: Asked) -> Corrected:
    subject = find_subject(system, pen.log, person=asked.person, entity=asked.entity)
    if subject is None:
        return Corrected(records=0)
    roots = survey(pen.log, subject, schemas=schemas_of(system)).records.get(system.name, ())
    return rectify(system, pen, roots=roots, values=asked.values, most=len(roots))
