"""Skew: every feature value that live decisions logged, computed again offline; and what approximate windows give.

    python bench/quality/spine_skew.py [--json] [--short] [--decisions 20000]

The fraud world's payments, under a wave of card testing (bursts on one address), go through the host that `decalog
serve fraud` runs, in this process, on a real log with its syncs: about one in ten comes late, requests and events come
twice, earlier ones are corrected and deleted. Then `decalog parity` compares every value of every decision with the
offline fold, bit for bit. The same is done with a planted skew, an online state that forgets corrections, which has to
be found: the command ends with 1 if it is not.

Below stands what others compute for a sliding window, on the same log and with the same rows visible, late and
corrected ones included, the request's own event added; only the window's edges are theirs. Tiles: the current part of
a tile and the eleven whole ones before it. Hops: the window as of the last full five minutes. `of bursts` is the share
among the counts where, exactly or approximately, more than the request itself is in the window.

Keys: compared (values of the honest run), different (of those), decisions, planted_found, planted_different, fold_s,
tiles_60s_percent and hops_60s_percent (share of bursts).
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import itertools
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from decalog.clock import HOUR, MINUTE, ManualClock
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.deployment import Deployment, Setup
from decalog.features.facts import Change
from decalog.folding import NO_FURTHER
from decalog.home import Home
from decalog.host import Host
from decalog.ingest import Rates
from decalog.meter import Meter
from decalog.parity import Certificate
from decalog.system import find_system
from decalog.systems.fraud.simulate import World
from decalog.testing import traffic
from decalog.testing.planted import FaultyState, ForgetsCorrections
from decalog.testing.stage import Step, Trial, world_of

DECISIONS, SHORT = 20_000, 1_500
SCALE, SEED = 1.0, 11
GROUP = 250
TWICE = 3
HOP = 5 * MINUTE
ENTITIES = ("card", "device", "ip")


class Attacked(World):
    """The fraud world under a wave of card testing: quiet traffic hides what a window's edges cost."""

    def __init__(self, seed: int, *, scale: float) -> None:
        super().__init__(seed, scale=scale)
        self.switch("card_testing_wave", on=True)


class Row(NamedTuple):
    """One line of the table; `bursts` are the values where more than the request itself is in the window."""

    name: str
    compared: int
    different: int
    bursts: int = 0
    said: str = ""

    def text(self) -> str:
        """Returns the line."""
        share = 100 * self.different / self.compared if self.compared else 0.0
        among = f"{100 * self.different / self.bursts:.1f} %" if self.bursts else ""
        return f"{self.name:44}{self.compared:>12,}{self.different:>11,}{share:>9.2f} %{among:>12}  {self.said}"


HEADER = f"{'':44}{'values':>12}{'different':>11}{'of all':>11}{'of bursts':>12}"


def steps_of(trial: Trial) -> list[Step]:
    """Returns history and live traffic in their order, every third event of the live part twice."""
    steps = traffic.history(trial)
    for number, step in enumerate(traffic.live(trial)):
        steps += [step] * (1 + (step.door == "event" and number % TWICE == 0))
    return steps


async def live(host: Host, clock: ManualClock, steps: Sequence[Step]) -> dict[str, int]:
    """Brings the steps to the host in groups, each step at its time; returns how many came late, twice and so on."""
    found: dict[str, int] = defaultdict(int)
    newest = 0

    async def bring(step: Step) -> None:
        nonlocal newest
        clock.set(step.at_us)
        raw = json.dumps(step.body).encode()
        if step.door == "decide":
            reply = await host.decide("fraud", raw)
            found["sent twice"] += reply.repeated
        elif step.door == "outcome":
            await host.add_outcomes("fraud", raw)
        else:
            word = next((word for word in ("corrects", "deletes") if word in step.body), "")
            result = (await host.add_events("fraud", raw))[0]
            twice = result.status == "duplicate"
            found["sent twice" if twice else {"corrects": "corrected", "deletes": "deleted"}.get(word, "events")] += 1

    await host.start()
    for start in range(0, len(steps), GROUP):
        await asyncio.gather(*(bring(step) for step in steps[start : start + GROUP]))
    await host.stop()
    return dict(found)


def served(home: Home, trial: Trial, fault: type[FaultyState] | None = None) -> dict[str, int]:
    """Serves the traffic on a new home, on an honest state or a planted one."""
    world = world_of(trial)
    clock = ManualClock(world.start_us)
    log = home.writer(clock)
    try:
        service = Deployment(home, "fraud", log, Setup(rates=Rates(world.base, dict(world.rates)))).service()
        if fault is not None:
            service.state = fault(service.system.features)
        host = Host(log, {"fraud": service}, replay=_no_replay, meter=Meter())
        return asyncio.run(live(host, clock, steps_of(trial)))
    finally:
        log.close()


async def _no_replay(_system: str, _id: str, _verb: str) -> dict[str, Any]:
    return {}


def certified(home: Home) -> Certificate:
    """Returns what `decalog parity fraud` finds."""
    log = home.reader()
    try:
        return Deployment(home, "fraud", log).parity().last()
    finally:
        log.close()


class Windows:
    """Times of the payments of each token of one entity, as they stand after a change."""

    def __init__(self, entity: str) -> None:
        self.entity = entity
        self._times: dict[int, list[int]] = defaultdict(list)

    def apply(self, change: Change) -> None:
        """Withdraws and adds a payment's images."""
        for image, act in ((change.minus, self._drop), (change.plus, bisect.insort)):
            if image is not None and image.kind == "payment" and self.entity in image.entities:
                act(self._times[image.entities[self.entity]], image.event_time)

    def count(self, tokens: Mapping[str, int], begin: int, end: int) -> int | None:
        """Returns how many are in (begin, end], with the request's own; None where it has no such entity."""
        token = tokens.get(self.entity)
        if token is None:
            return None
        times = self._times[token]
        return 1 + bisect.bisect_right(times, end) - bisect.bisect_right(times, begin)

    @staticmethod
    def _drop(times: list[int], time: int) -> None:
        del times[bisect.bisect_left(times, time)]


def late_rows(home: Home) -> int:
    """Returns how many events and requests were older, when they came, than one that was there."""
    log = home.reader()
    try:
        rows = [r for r in log.read() if r.kind in ("event", "decision") and not r.reason and r.root == r.seq]
    finally:
        log.close()
    newest = itertools.accumulate((row.event_time for row in rows), max)
    return sum(row.event_time < before for row, before in zip(rows[1:], newest, strict=False))


def approximations(home: Home) -> list[Row]:
    """Returns what tiles and hops give for the counts of 60 s and 1 h, against the exact counts on the same log."""
    log = home.reader()
    try:
        changes = Deployment(home, "fraud", log).parity().changes(-1, reads=NO_FURTHER)
        decisions = [decode_decision(record.body) for record in log.read() if record.kind == "decision"]
    finally:
        log.close()
    asked = sorted((made for made in decisions if made.mode != "imported"), key=lambda made: made.state_seq)
    windows = (("60s", MINUTE, "5 s"), ("1h", HOUR, "5 min"))
    rows = []
    for name, window, tile in windows:
        tiles, hops = compared(changes, asked, name=name, window=window)
        rows.append(Row(f"{name} counts from 12 tiles of {tile}", tiles[0], tiles[1], tiles[2]))
        rows.append(Row(f"{name} counts with hops of 5 min", hops[0], hops[1], hops[2]))
    return rows


def compared(changes: Sequence[Change], asked: Sequence[Decision], *, name: str, window: int) -> list[list[int]]:
    """Returns [values, different, bursts] of tiles and of hops for one window over every entity."""
    found = [[0, 0, 0], [0, 0, 0]]
    for entity in ENTITIES:
        rows, done = Windows(entity), 0
        for made in asked:
            while done < len(changes) and changes[done].seq < made.state_seq:
                rows.apply(changes[done])
                done += 1
            at, tokens = made.request.event_time, made.request.entities
            exact = rows.count(tokens, at - window, at)
            if exact is None:
                continue
            check(made, f"{entity}_payments_{name}", exact)
            for tally, (begin, end) in zip(found, edges(at, window), strict=True):
                other = rows.count(tokens, begin, end) or 0
                tally[0] += 1
                tally[1] += other != exact
                tally[2] += max(exact, other) > 1
    return found


def edges(at: int, window: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (begin, end] of the tiles and of the last hop, µs."""
    grain = window // 12
    first, hop = at // grain * grain - 11 * grain, at // HOP * HOP
    return (first - 1, at), (hop - window - 1, hop - 1)


def check(made: Decision, feature: str, exact: int) -> None:
    """Ends the run where the count here is not the one that was logged: then nothing below would mean anything."""
    names = find_system("fraud").features.names
    packed = made.candidates[0].features
    if feature in names and packed and unpack_features(packed)[names.index(feature)] != exact:
        raise SystemExit(f"{feature} at position {made.state_seq}: this count {exact} is not the logged one")


def main() -> int:
    """Serves, compares, prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help=f"{SHORT:,} requests instead of {DECISIONS:,}")
    parser.add_argument("--decisions", type=int, default=DECISIONS, help="about how many live requests")
    wanted = parser.parse_args()
    requests = SHORT if wanted.short else wanted.decisions
    attacked = msgspec.structs.replace(find_system("fraud"), world=f"{__name__}:Attacked")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial = Trial(system=attacked, folder=folder, requests=2 * requests, scale=SCALE, seed=SEED)
        honest_home, planted_home = Home(folder / "honest"), Home(folder / "planted")
        tried = served(honest_home, trial)
        tried["late"] = late_rows(honest_home)
        served(planted_home, trial, ForgetsCorrections)
        honest, planted = certified(honest_home), certified(planted_home)
        others = approximations(honest_home)
    found = planted.first is not None
    said = f"found: {planted.first.why.said}" if planted.first is not None else "NOT FOUND"
    print(HEADER)
    print(Row("offline against online", honest.values, honest.different).text())
    print(Row("planted: a state that forgets corrections", planted.values, planted.different, said=said).text())
    print("\n".join(row.text() for row in others))
    print("traffic: " + ", ".join(f"{count:,} {word}" for word, count in sorted(tried.items())))
    print(honest.text())
    if wanted.json:
        tiles, hops = (100 * row.different / max(1, row.bursts) for row in others[:2])
        keys: dict[str, float] = {
            "compared": honest.values,
            "different": honest.different,
            "decisions": honest.compared,
        }
        keys |= {"planted_found": found, "planted_different": planted.different, "fold_s": honest.fold_s}
        print(json.dumps(keys | {"tiles_60s_percent": tiles, "hops_60s_percent": hops}))
    return 0 if honest.holds and found else 1


if __name__ == "__main__":
    sys.exit(main())
