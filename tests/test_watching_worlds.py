"""A watch on what really runs: the fraud world through service and log, and slates; quiet first, then broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.homes import add_model
from tests.slate_log import FEATURES as SLATE_FEATURES
from tests.slate_log import HEADS, Clicks, SlateLog
from tests.slate_log import START as SLATES_START
from tests.slate_log import SYSTEM as SLATES

from decalog.candidates import Candidate
from decalog.clock import DAY, HOUR, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.events import Event
from decalog.examples import History
from decalog.home import Home
from decalog.models.base import Floats, Model
from decalog.models.linear import Threshold
from decalog.operations import quiet, watch_log, watched_champion
from decalog.references import REFERENCE, Reference, Seen, flows_of, public_values, reference_of
from decalog.registry import Registry
from decalog.simulation import fill, rates_of, world_of
from decalog.systems.fraud.system import SYSTEM
from decalog.tails import Champion, chosen, read_tail, settled
from decalog.watching import Watch, watch

PAST, LIVE, BROKEN = 20, 6, 3
SCALE = 0.12
NAMES = SYSTEM.features.names_for("model")
MODEL = Threshold(NAMES.index("amount"), 3_000.0, above=0.02, below=0.001, width=len(NAMES))


def reference(log_home: Home) -> Reference:
    """Returns what training would keep beside the rule of thumb."""
    log = log_home.reader()
    history = History(log.read(), SYSTEM.schema, features=SYSTEM.features)
    log.close()
    now = history.now
    rows = now.rows[:, list(SYSTEM.features.places_for("model"))]
    seen = Seen(
        times=now.times,
        rows=rows,
        requests=[public_values(one) for one in now.requests],
        predictions=MODEL.predict(rows).reshape(-1, 1),
    )
    flows = flows_of(history.reported(), now.times)
    made = reference_of(seen, SYSTEM.schema, names=NAMES, heads=("p_fraud",), flows=flows, model=MODEL)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A fraud home: twenty days of history, a champion with its reference, six live days, and three without devices."""
    home = Home(tmp_path_factory.mktemp("watched"))
    world = world_of(SYSTEM, 5, scale=SCALE)
    clock = ManualClock(world.start_us)
    log = home.writer(clock)
    fill(
        world, Deployment(home, "fraud", log, Setup(rates=rates_of(world))).prepare(), clock=clock, days=PAST, say=quiet
    )
    model = add_model(home.root, MODEL)
    manifest = Registry(home.root).get(model).manifest
    kept = reference(home)

    def write(folder: Path) -> dict[str, object]:
        (folder / REFERENCE).write_bytes(msgspec.json.encode(kept))
        return dict(MODEL.save(folder))

    registry = Registry(home.root)
    again = registry.put(msgspec.structs.replace(manifest, name="watched", files={}), write)
    registry.promote("fraud", again, by="test", why="test", at_us=0)
    service = Deployment(home, "fraud", log).service()
    for day in range(PAST, PAST + LIVE + BROKEN):
        if day == PAST + LIVE:
            world.switch("device_outage", True)
        for message in world.advance(world.start_us + (day + 1) * DAY):
            clock.set(message.at)
            if message.kind == "decide":
                service.decide(message.body)
            else:
                service.ingest.outcome(message.body)
    log.commit()
    log.close()
    return home


def test_the_fraud_world_is_quiet_until_devices_are_missing(home: Home) -> None:
    log = home.reader()
    first, last = log.known_time - BROKEN * DAY, log.known_time
    log.close()
    before = watch_log(home, "fraud", since_us=LIVE * DAY, now_us=first)
    assert [one.text() for one in before.findings] == []
    assert before.decisions > LIVE * 200
    after = watch_log(home, "fraud", since_us=BROKEN * DAY, now_us=last)
    (inputs,) = [one for one in after.standing if one.monitor == "fraud_inputs"]
    assert "device" in inputs.said
    assert watch_log(home, "fraud", since_us=BROKEN * DAY).until == last


def test_the_champion_is_read_with_what_it_was_registered_with(home: Home) -> None:
    log = home.reader()
    found = watched_champion(Deployment(home, "fraud", log))
    assert found.reference == reference_of_home(found)
    assert (found.heads, found.names) == (("p_fraud",), SYSTEM.features.names_for("model"))
    current = Registry(home.root).current("fraud") or ""
    assert found.version == current[:12]
    log.close()


def reference_of_home(found: Champion) -> Reference:
    assert found.reference is not None
    assert set(found.reference.columns) >= {"amount", "p_fraud", "request.device", "request.channel"}
    assert found.text.startswith("compared with ")
    return found.reference


# ---- slates ----

DAYS, A_DAY = 12, 48


class Alike(Clicks):
    """Knows how often posts are clicked, and none from another."""

    def predict(self, rows: Floats) -> Floats:
        return np.full((len(rows), len(HEADS)), 0.1)


class Asked:
    """Slates by the clock, twelve days if not said, clicked as often as predicted."""

    def __init__(self, folder: Path, *, fault: float = 1.0, hours: int = DAYS * 24, model: Model | None = None) -> None:
        often = 2 if model is None else 20
        self.log = SlateLog(folder, model=model or Clicks())
        rng = np.random.default_rng(3)
        for hour in range(hours):
            self.log.add("post", hour, post=f"p{hour}", author=f"a{hour % 7}", topic="t")
            self.log.shelf.posts = dict(list(self.log.shelf.posts.items())[-12:])
            if hour >= 10 * 24:
                self.log.shelf.describe = lambda request, refs: tuple(self._late(request, refs, fault))  # type: ignore[method-assign]
            for place in range(often):
                at = hour + 0.2 + 0.6 / often * place
                decision = self.log.ask(at, user=f"u{rng.integers(40)}", size=6)
                top = chosen(decision)[0]
                if rng.random() < top.predictions["p_click"]:
                    self.log.said("click", at + 0.05 / often, of=decision.request.id, ref=top.ref)
        self.log.log.commit()

    def _late(self, request: Event, refs: Sequence[str], fault: float) -> Iterator[Candidate]:
        for ref in refs:
            found = self.log.shelf._describe(request, ref)
            age_s = int(float(found.attributes.get("age_s", 0)) * fault)
            yield msgspec.structs.replace(found, attributes={"age_s": age_s})

    def watch(self, *, until: float = DAYS * 24, since: float = 3) -> Watch:
        kept = Reference(since=SLATES_START, until=SLATES_START + DAY, rows=1, columns={})
        heads = tuple(signal.head for signal in SLATES.schema.signals)
        ours = Champion(version="m1", features=SLATE_FEATURES, heads=heads, reference=kept)
        now = SLATES_START + int(until * HOUR)
        return watch(SLATES, self.log.log, champion=ours, since_us=int(since * DAY), now_us=now)


def test_slates_are_compared_with_the_champions_own_first_week(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    log = asked.log.log
    bare = Champion(version="m1", features=SLATE_FEATURES, heads=("p_click",))
    assert settled(bare, log, system=SLATES) is bare
    kept = msgspec.structs.replace(bare, reference=Reference(since=0, until=1, rows=1, columns={}))
    found = settled(kept, log, system=SLATES)
    assert found.reference is not None
    assert found.begin == SLATES_START + DAY
    assert {"age_s", "p_click", "user_shown"} <= set(found.reference.columns)
    assert found.reference.flows["click"].decisions == pytest.approx(6 * A_DAY, abs=A_DAY)
    other = msgspec.structs.replace(kept, version="another")
    assert settled(other, log, system=SLATES).reference == other.reference
    # Its windows are of seven days, and the log was one day old when the reference began.
    assert found.filling == {name for name in SLATE_FEATURES.names if name not in ("age_s", "size")}
    tail = read_tail(log, SLATES, champion=kept, start=0, stop=2**62)
    assert len(tail.decided) == DAYS * A_DAY
    assert len(tail.seen.times) == pytest.approx(6 * DAYS * A_DAY, rel=0.1)
    log.close()


def test_slates_are_quiet_and_a_unit_error_of_a_candidates_fact_is_found(tmp_path: Path) -> None:
    quiet_log, broken = Asked(tmp_path / "quiet"), Asked(tmp_path / "broken", fault=1_000.0)
    assert [one.text() for one in quiet_log.watch().findings] == []
    standing = {one.monitor: one for one in broken.watch(since=2).standing}
    assert "age_s" in standing["feed_inputs"].said
    assert "p_click" in standing["feed_predictions"].said
    for one in (quiet_log, broken):
        one.log.log.close()


def test_a_model_that_predicts_all_posts_alike_is_found_within_hours(tmp_path: Path) -> None:
    alike, apart = Asked(tmp_path / "alike", hours=6, model=Alike()), Asked(tmp_path / "apart", hours=6, model=Clicks())
    (finding,) = alike.watch(until=6, since=0.25).findings
    assert (finding.monitor, finding.stands) == ("feed_spread", True)
    assert finding.said.startswith("0 (0 to 0) of ")
    assert apart.watch(until=6, since=0.25).findings == ()
    for one in (alike, apart):
        one.log.log.close()
