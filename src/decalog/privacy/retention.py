"""What is over age: people of whom nothing new came for long, and values of a kind that is kept no longer.

A key is a person's, so one that is to be destroyed takes all of theirs with it. A person whose newest record is over
age is erased. Of one who is still active the values that may stay are sealed anew, record by record, under a next key;
then that takes the place of the old one, and what was sealed under the old one cannot be read any more.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec

from decalog.clock import DAY, Clock
from decalog.errors import RequestError, near
from decalog.events import Event, Record
from decalog.home import Home
from decalog.ingest import request_of
from decalog.log import Log
from decalog.privacy.acts import personal_of, reseal
from decalog.privacy.erasing import finish, parts
from decalog.privacy.pen import Pen
from decalog.privacy.subjects import Plain, Survey, images, models_of, opened, schemas_of, surveys
from decalog.schema import Schema
from decalog.standing import ERASURES, Standing
from decalog.system import System, find_system
from decalog.tables import Tables

RETENTION = "retention"
"""The table of how long what is kept."""
PERSON = "person"
"""Stands, among the names of fields, for all that there is of a person."""
_AT_ONCE = 200
_LONGEST_DAYS = 36_500

Days = Mapping[str, int]
"""Name of a personal field or entity, or PERSON → days that it is kept after it happened."""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Who is over age: people to be erased, and people some of whose values are; `surveys` are of both."""

    people: tuple[int, ...] = ()
    partly: tuple[int, ...] = ()
    surveys: tuple[Survey, ...] = ()


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what was over age: people erased, people whose old values were, images that were sealed anew."""

    days: Days
    erased: int = 0
    aged: int = 0

    def text(self) -> str:
        """Returns it for people."""
        rules = ", ".join(f"{name} {days} days" for name, days in self.days.items()) or "nothing is over age by itself"
        return f"kept: {rules}\n{self.erased:,} people erased, of {self.aged:,} more the values that are over age"


def days_of(log: Log, system: System) -> Days:
    """Returns how long what is kept of people, as the log has it; nothing is over age by itself at first."""
    found: Days = Tables(log).get(system.name, RETENTION) or {}
    return found


def set_days(system: System, pen: Pen, *, days: Days) -> Days:
    """Puts how long what is kept into force, whole.

    Raises:
        RequestError: a name is not personal, or a number of days is out of range.
    """
    known = personal_of(system)
    for name, number in days.items():
        if name not in (PERSON, *known) or not 1 <= number <= _LONGEST_DAYS:
            raise RequestError(
                where=f"{system.name} retention",
                given="days of something else, or out of range",
                expected=f"{near(name[:40], [PERSON, *known])}, 1 to {_LONGEST_DAYS:,} days",
                fix="Mend it; what is kept how long is as it was.",
            )
    pen.put(system.name, RETENTION, content=dict(days))
    return days


def due(log: Log, *, system: str, days: Days, at_us: int, schemas: list[Schema]) -> Due:
    """Returns who is over age; it reads the whole log, so it runs aside of a server.

    Args:
        log: to read; a reader's will do.
        system: whose values are looked at; people are over age if all systems heard nothing new of them.
        days: what is kept how long.
        at_us: now, µs.
        schemas: as for `survey`.
    """
    newest, old = _ages(log, system, days=days, at_us=at_us)
    gone = Standing.of(log, system).subjects
    limit = at_us - days[PERSON] * DAY if PERSON in days else -1
    people = tuple(who for who, at in newest.items() if at < limit and who not in gone)
    partly = tuple(who for who in old if who not in {*people, *gone})
    found = surveys(log, (*people, *partly), schemas=schemas)
    return Due(people=people, partly=partly, surveys=tuple(found.values()))


def _ages(log: Log, system: str, *, days: Days, at_us: int) -> tuple[dict[int, int], dict[int, None]]:
    """Returns when something new was last heard of each person, µs, and those of whom an image holds old values."""
    newest, old = dict[int, int](), dict[int, None]()
    for record in log.read():
        if record.kind in ("event", "decision"):
            event = request_of(record)
            newest[event.subject] = max(newest.get(event.subject, 0), event.event_time)
            if record.system == system and event.subject not in old and any(_aged(log, event, days, at_us=at_us)):
                old[event.subject] = None
    return newest, old


def _aged(log: Log, event: Event, days: Days, *, at_us: int) -> Iterator[str]:
    """Yields the personal values of an image that are over age."""
    over = {name for name, number in days.items() if event.event_time < at_us - number * DAY}
    if over and event.sealed:
        yield from over & opened(log, event).keys()


def aged(pen: Pen, found: Survey, *, system: str, days: Days, at_us: int) -> bool:
    """Takes the next step of taking a person's old values away; returns whether it was the last.

    All that was stamped in earlier steps is durable. Until the last one, what stays can be read under the old key too.
    """
    vault: Any = pen.log.vault  # every engine's vault gives it
    todo = list(islice(_staying(pen.log, found, system=system, days=days, at_us=at_us), _AT_ONCE))
    if not todo:
        vault.rekey(found.subject)
        return True
    for record, event, kept in todo:
        reseal(pen, record, event=event, values=kept, whose=-found.subject)
    return False


def _staying(
    log: Log, found: Survey, *, system: str, days: Days, at_us: int
) -> Iterator[tuple[Record, Event, dict[str, Plain]]]:
    """Yields the images that are under the old key still, with the values that may stay."""
    for name, roots in found.records.items():
        for record, event in images(log, roots):
            values = opened(log, event, whose=found.subject) if event.sealed and not event.deleted else {}
            over = {*_aged(log, event, days, at_us=at_us)} if values and name == system else set()
            if kept := {name: value for name, value in values.items() if name not in over}:
                yield record, event, kept


def retain(home: Home, name: str, *, days: Days | None = None, by: str = "", clock: Clock | None = None) -> Retained:
    """Erases from a home without a server what is over age.

    Args:
        home: of the deployment; this process becomes its log's writer.
        name: of the system.
        days: put into force first; None for those in force.
        by: who asks, for the log.
        clock: of the log's stamps.

    Raises:
        RequestError: as for `set_days`.
        LogUnavailableError: a server runs on the home: ask that.
    """
    system = find_system(name)
    with closing(home.writer(clock)) as log:
        pen = Pen(log, by=by or getpass.getuser())
        rules = days_of(log, system) if days is None else set_days(system, pen, days=days)
        log.commit()
        now = max(log.known_time, log.clock.now_us())
        found = due(log, system=system.name, days=rules, at_us=now, schemas=schemas_of(system))
        by_subject = {one.subject: one for one in found.surveys}
        for subject in found.people:
            gone = by_subject[subject]
            for part in parts(pen, gone, models=models_of(home, gone)):
                pen.put(part.system, ERASURES, content=part.erasure)
        log.commit()
        finish(home, pen)
        for subject in found.partly:
            while not aged(pen, by_subject[subject], system=system.name, days=rules, at_us=now):
                log.commit()
    return Retained(days=rules, erased=len(found.people), aged=len(found.partly))
