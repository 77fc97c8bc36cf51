"""The watch: what a system's monitors declare, measured over the log, look by look, under a budget of false alarms.

A look is at a whole window that ended at a multiple of the monitor's step, so that to look again shows the same again
and costs no alarm. All comparisons of one look are paid for together (Benjamini and Yekutieli, 2001), and looks share
the week's budget; what is found is both beyond its level and no chance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import numpy as np

from decalog.clock import DAY, rfc3339
from decalog.metrics import Measurement
from decalog.monitoring import Monitor, monitors_of
from decalog.readings import Look, Reading, read
from decalog.statistics.screening import adjusted
from decalog.system import System
from decalog.tails import Champion, LogTail, read_tail, settled

_WEEK = 7 * DAY
_SHOWN = 3

Key = tuple[str, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a person should look at: an unbroken run of looks at which it was found.

    Args:
        monitor: its name.
        meaning, owner, runbook: the monitor's.
        labels: of the slice.
        said: at the last of them, in words.
        value: then, where it is one number.
        level: the monitor's.
        since, until: begin of the first window and end of the last, µs.
        stands: whether it was found at the monitor's latest look.
    """

    monitor: str
    meaning: str
    owner: str
    runbook: str
    labels: dict[str, str]
    said: str
    value: Measurement | None
    level: float
    since: int
    until: int
    stands: bool

    def text(self) -> str:
        """Returns it in two lines."""
        slice_ = "".join(f"{name}={value} " for name, value in self.labels.items()).strip()
        head = f"{self.monitor}  {slice_ + ': ' if slice_ else ''}{self.said}"
        until = "stands" if self.stands else f"to {rfc3339(self.until)}"
        return f"{head}\n  since {rfc3339(self.since)}, {until} · owner {self.owner} · {self.runbook}"


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch saw.

    Args:
        system: its name.
        since, until: of the looks, µs.
        decisions: between them.
        against: what changes are measured from, in words.
        looks: at how many times it looked.
        false_alarms_a_week: the budget.
        findings: those that stand first.
        latest: monitor → readings of its latest look.
    """

    system: str
    since: int
    until: int
    decisions: int
    against: str
    looks: int
    false_alarms_a_week: float
    findings: tuple[Finding, ...]
    latest: dict[str, tuple[Reading, ...]]

    @property
    def standing(self) -> tuple[Finding, ...]:
        """The findings that stand."""
        return tuple(finding for finding in self.findings if finding.stands)

    def text(self) -> str:
        """Returns it for people."""
        span = f"{rfc3339(self.since)} to {rfc3339(self.until)}"
        count = f"{len(self.findings)} findings, {len(self.standing)} of them stand"
        budget = f"at most {self.false_alarms_a_week:g} a week are false alarms"
        head = (f"{self.system}, {span}: {self.decisions:,} decisions, {self.against}", f"{count}; {budget}")
        return "\n".join([*head, "", *(finding.text() for finding in self.findings)])


def watch(
    system: System,
    log: LogTail,
    *,
    champion: Champion,
    since_us: int,
    now_us: int,
    only: Collection[str] = (),
) -> Watch:
    """Returns what the monitors of a system find in the looks of a time.

    Args:
        system: whose, on the champion's feature set.
        log: to read; a server may be writing to it meanwhile.
        champion: what changes are measured from.
        since_us: how far back looks go.
        now_us: the present: the log's known_time, or later where the log is silent.
        only: quantities; monitors of others are left out. None named, all are in.
    """
    monitors = [monitor for monitor in monitors_of(system) if not only or monitor.watches in only]
    champion = settled(champion, log, system=system)
    longest = max(monitor.window_us for monitor in monitors)
    least = {monitor.of[0]: monitor.least for monitor in monitors if monitor.watches == "reached"}
    tail = read_tail(log, system, champion=champion, start=now_us - since_us - longest, stop=now_us, least=least)
    found: list[Finding] = []
    latest: dict[str, tuple[Reading, ...]] = {}
    looks = 0
    windows = sorted({monitor.window for monitor in monitors})
    for window in windows:
        group = [monitor for monitor in monitors if monitor.window == window]
        every = group[0].every_us
        runs = _Runs(system.false_alarms_a_week * every / _WEEK / len(windows))
        for stop in _times(now_us, since_us, every=every):
            looks += 1
            made = [Look(one, stop - one.window_us, stop, tail, system, champion, log) for one in group]
            latest |= runs.take(made)
        found += runs.all()
    return Watch(
        system=system.name,
        since=now_us - since_us,
        until=now_us,
        decisions=int(np.sum(tail.times > now_us - since_us)),
        against=champion.text,
        looks=looks,
        false_alarms_a_week=system.false_alarms_a_week,
        findings=tuple(sorted(found, key=lambda one: (not one.stands, -one.until, one.monitor))),
        latest=latest,
    )


def _times(now: int, since: int, *, every: int) -> range:
    """Returns the multiples of a step in (now − since, now]."""
    return range(((now - since) // every + 1) * every, now + 1, every)


class _Runs:
    """The findings of monitors that look at the same times; what is found look after look is one finding.

    Args:
        level: share of looks without any fault that may have a finding.
    """

    def __init__(self, level: float) -> None:
        self._level = level
        self._ended: list[Finding] = []
        self._standing: dict[Key, Finding] = {}

    def take(self, looks: Sequence[Look]) -> dict[str, tuple[Reading, ...]]:
        """Takes one look of each monitor, at one time, and returns what each read.

        What is found of a monitor whose window held nothing stays as it is.
        """
        told = {look.monitor.name: tuple(read(look)) for look in looks}
        idle = {look.monitor.name for look in looks if not (look.decided or told[look.monitor.name])}
        found = self._found([(look.monitor, one) for look in looks for one in told[look.monitor.name]])
        before, self._standing = self._standing, {}
        for key, finding in before.items():
            if key[0] in idle:
                self._standing[key] = finding
            elif key not in found:
                self._ended.append(msgspec.structs.replace(finding, stands=False))
        for key, several in found.items():
            self._standing[key] = _finding(several, stop=looks[0].stop, before=before.get(key))
        return told

    def all(self) -> list[Finding]:
        """Returns the findings so far."""
        return [*self._ended, *self._standing.values()]

    def _found(self, readings: Sequence[tuple[Monitor, Reading]]) -> dict[Key, list[tuple[Monitor, Reading]]]:
        """Returns what is beyond its level by no chance, surest first: of changes together, else slice by slice.

        What stands already stays as long as it is beyond its level: one alert, and not one whenever chance allows.
        """
        raw = [reading.p_value if reading.is_beyond else 1.0 for _, reading in readings]
        paid = adjusted(raw) if raw else np.empty(0)
        found: dict[Key, list[tuple[Monitor, Reading]]] = {}
        for place in np.argsort(paid, kind="stable").tolist():
            monitor, reading = readings[place]
            key = (monitor.name, *(() if monitor.is_change else reading.labels.values()))
            if reading.is_beyond and (paid[place] <= self._level or key in self._standing):
                found.setdefault(key, []).append((monitor, reading))
        return found


def _finding(several: Sequence[tuple[Monitor, Reading]], *, stop: int, before: Finding | None) -> Finding:
    monitor, first = several[0]
    said = "; ".join(reading.said for _, reading in several[:_SHOWN])
    more = f"; and {len(several) - _SHOWN} more" if len(several) > _SHOWN else ""
    return Finding(
        monitor=monitor.name,
        meaning=monitor.meaning,
        owner=monitor.owner,
        runbook=monitor.runbook,
        labels={} if monitor.is_change else first.labels,
        said=said + more,
        value=first.value,
        level=monitor.level,
        since=stop - monitor.window_us if before is None else before.since,
        until=stop,
        stands=True,
    )
