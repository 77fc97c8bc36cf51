"""The feed's world: the same seed is the same world, clicks are not what is good for readers, and its truth holds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest

from decalog.clock import DAY, HOUR, MINUTE, SECOND, time_us
from decalog.errors import ConfigError, ConflictError, RequestError, UnknownRecordError
from decalog.parsing import SchemaParser
from decalog.systems.feed.schema import SCHEMA, SHOW
from decalog.systems.feed.simulate import START_US, World, run
from decalog.systems.feed.world import behaviour, policies, telling
from decalog.systems.feed.world.behaviour import Ask
from decalog.systems.feed.world.params import FACTS, HEADS, SWITCHES, WorldParams
from decalog.systems.feed.world.totals import Totals
from decalog.systems.feed.world.town import DIM, Town
from decalog.testing import draws, worlds
from decalog.testing.draws import Ints
from decalog.testing.worlds import Message

SMALL = 0.1
CREATIVE = WorldParams(readers=60, authors=100, creators=0.6, posts_day=60.0)
DAYS = 12


def watch(world: World, days: int = DAYS) -> list[Message]:
    return world.advance(world.start_us + days * DAY - 1, alone=True)


@pytest.fixture(scope="module")
def lived() -> tuple[World, list[Message]]:
    """A world and its first twelve days."""
    made = World(1, scale=0.3)
    return made, watch(made)


@pytest.fixture(scope="module")
def world(lived: tuple[World, list[Message]]) -> World:
    return lived[0]


@pytest.fixture(scope="module")
def messages(lived: tuple[World, list[Message]]) -> list[Message]:
    return lived[1]


def digest(messages: list[Message]) -> str:
    return hashlib.sha256(msgspec.json.encode(messages)).hexdigest()


def decides(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message.kind == "decide"]


def told(messages: list[Message], kind: str) -> list[Message]:
    return [message for message in messages if message.body.get("kind") == kind]


# The same world again


@pytest.mark.parametrize("alone", [False, True])
def test_same_seed_gives_the_same_bytes_whatever_the_steps(alone: bool) -> None:
    whole = World(3, scale=SMALL).advance(START_US + 9 * DAY, alone=alone)
    world, pieces = World(3, scale=SMALL), list[Message]()
    for hour in range(7, 9 * 24 + 7, 7):
        pieces += world.advance(START_US + min(hour * HOUR, 9 * DAY), alone=alone)
    assert digest(whole) == digest(pieces)
    assert digest(whole) != digest(World(4, scale=SMALL).advance(START_US + 9 * DAY, alone=alone))


def test_reacting_as_the_other_system_did_gives_what_history_tells() -> None:
    past, live = watch(World(3, scale=SMALL), 6), World(3, scale=SMALL)
    heard: list[Message] = []
    for message in decides(past):
        heard += live.advance(message.at)
        live.react(message.body["id"], SHOW, at_us=message.at, refs=tuple(message.theirs.get("slots", ())))
    heard += live.advance(live.start_us + 6 * DAY - 1)
    assert [(m.at, m.body) for m in heard] == [(m.at, m.body) for m in past]
    assert not any(m.theirs for m in heard)


def test_messages_are_ordered_and_only_repeated_outcomes_share_an_id(messages: list[Message]) -> None:
    assert [m.at for m in messages] == sorted(m.at for m in messages)
    twice = [i for i, n in Counter(m.body["id"] for m in messages).items() if n > 1]
    again = defaultdict(list)
    for message in messages:
        again[message.body["id"]].append(message)
    assert twice
    assert all(again[i][0].kind == "outcome" and again[i][0].body == again[i][1].body for i in twice)


def test_it_is_a_world_of_the_spine(world: World) -> None:
    spine: worlds.World = world
    assert spine.params_hash == WorldParams().scaled(0.3).digest()
    assert (spine.base, spine.rates) == ("EUR", {})


def test_every_message_is_what_the_schema_allows(messages: list[Message]) -> None:
    parser = SchemaParser(SCHEMA)
    kinds = Counter[str]()
    for message in messages:
        body = {key: value for key, value in message.history.items() if key != "slots"}
        assert json.loads(json.dumps(message.history)) == message.history
        if message.kind == "outcome":
            kinds[parser.outcome(body).kind] += 1
        else:
            parsed = parser.event(body)
            kinds["deleted" if parsed.deletes else "corrected" if parsed.corrects else parsed.kind] += 1
        if message.kind == "decide":
            assert parser.request(message.body).event_time == message.at
    expected = {kind.name for kind in SCHEMA.outcomes} | {kind.name for kind in SCHEMA.events}
    # Elsewhere, readers only open posts, which is a kind of outcome as well.
    assert set(kinds) == expected | {"feed_request", "deleted", "corrected"}


# Slates and what comes of them


def test_outcomes_name_what_was_shown_after_it_was_shown(messages: list[Message]) -> None:
    asked = {m.body["id"]: m for m in decides(messages)}
    known = [m for m in messages if m.kind == "outcome" and not m.body.get("ref", "").endswith("_unknown")]
    assert len(known) > 5_000
    for message in known:
        request = asked[message.body["feed_request"]]
        assert message.at > request.at
        if "ref" in message.body:
            assert message.body["ref"] in request.theirs["slots"]


def test_clicks_come_within_minutes_and_dwell_follows_each(messages: list[Message]) -> None:
    asked = {m.body["id"]: m.at for m in decides(messages)}
    delays = np.array([m.at - asked[m.body["feed_request"]] for m in told(messages, "click") if m.kind == "outcome"])
    assert np.median(delays) < 3 * MINUTE
    assert np.quantile(delays, 0.95) < HOUR
    opened = {(m.body["feed_request"], m.body["ref"]) for m in told(messages, "dwell")}
    assert {(m.body["feed_request"], m.body["ref"]) for m in told(messages, "like")} <= opened


def test_a_request_without_a_reaction_shows_nothing_and_changes_nobody() -> None:
    world = World(3, scale=SMALL)
    messages = world.advance(world.start_us + 5 * DAY - 1)
    assert len(decides(messages)) > 200
    assert not [m for m in messages if m.kind == "outcome" or m.theirs]
    assert not world.town.readers.satisfaction.any()
    assert not Totals.over(world.days).requests


def test_a_reaction_disturbs_no_other_reader() -> None:
    calm, shown = World(3, scale=SMALL), World(3, scale=SMALL)
    until = START_US + DAY // 2
    first = decides(calm.advance(until))[-1]
    shown.advance(until)
    refs = [m.body["post"] for m in told(World(3, scale=SMALL).advance(until), "post")][-10:]
    shown.react(first.body["id"], SHOW, at_us=first.at, refs=tuple(refs))
    rest = [w.advance(START_US + 3 * DAY) for w in (calm, shown)]
    user = first.body["user"]

    def others(messages: list[Message]) -> list[Message]:
        return [m for m in messages if m.kind != "outcome" and m.body.get("user") != user]

    assert digest(others(rest[0])) == digest(others(rest[1]))
    assert {m.body["feed_request"] for m in rest[1] if m.kind == "outcome"} >= {first.body["id"]}


def test_who_returns_asks_again_on_the_next_day(messages: list[Message]) -> None:
    days: dict[str, set[int]] = defaultdict(set)
    for message in decides(messages):
        days[message.body["user"]].add((message.at - START_US) // DAY)
    asked = {m.body["id"]: m for m in decides(messages)}
    reports = told(messages, "return")
    for report in reports:
        request = asked[report.body["feed_request"]]
        day = (request.at - START_US) // DAY
        # A session that goes on past midnight asks on the next day as well.
        assert report.body["value"] <= (day + 1 in days[request.body["user"]])
        assert DAY // 24 <= report.at - request.at <= 2 * DAY + 2 * HOUR
    rate = np.mean([report.body["value"] for report in reports])
    assert 0.3 < rate < 0.8


def test_each_session_ends_once_and_goes_on_from_what_was_read(messages: list[Message]) -> None:
    home = [m for m in decides(messages) if m.body["surface"] == "home"]
    ends = Counter(m.body["feed_request"] for m in told(messages, "session_end"))
    assert max(ends.values()) == 1
    assert set(ends) <= {m.body["id"] for m in home}
    assert len(ends) > 0.97 * len(home)
    assert all(m.body["value"] > 0 for m in told(messages, "session_end"))
    later = [m for m in decides(messages) if m.body["surface"] == "session"]
    assert 0.1 < len(later) / len(home) < 0.8
    assert any("recent" in m.body for m in later)
    assert not any("recent" in m.body for m in home)


def test_its_size_is_about_what_is_declared() -> None:
    world = World(2)
    messages = watch(world, 3)
    posts = [m for m in told(messages, "post") if "corrects" not in m.body]
    assert len(posts) / 3 == pytest.approx(150, rel=0.2)
    assert 0.9 < Totals.over(world.days).sessions / 3 / 600 < 2.0
    assert len({m.body["author"] for m in posts}) > 100


def test_noise_comes_at_its_declared_rates(messages: list[Message], world: World) -> None:
    params = world.params
    outcomes = [m for m in messages if m.kind == "outcome" and "ref" in m.body]
    acted = len({(m.body["feed_request"], m.body["ref"]) for m in outcomes})
    ahead = [m for m in outcomes if time_us(m.body["event_time"]) > m.at]
    unknown = [m for m in outcomes if m.body["ref"].endswith("_unknown")]
    late = [m for m in told(outcomes, "click") if m.at - time_us(m.body["event_time"]) > 21 * MINUTE]
    twice = Counter(m.body["id"] for m in told(outcomes, "click"))
    for found, share in ((ahead, params.future), (unknown, params.unknown), (late, params.late)):
        assert 0.4 * share < len(found) / acted < 1.8 * share
    assert 0.6 * params.twice < sum(n > 1 for n in twice.values()) / acted < 1.5 * params.twice


# What is good for readers


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ranking_by_clicks_raises_clicks_and_lowers_return_and_what_is_earned_in_the_long_run(seed: int) -> None:
    made = {name: run(seed, policies.POLICIES[name], days=16, scale=0.15) for name in ("clicks", "quality", "oracle")}
    whole, week = ({name: Totals.over(days[first:]) for name, days in made.items()} for first in (0, 9))
    for good in ("quality", "oracle"):
        assert whole["clicks"].ctr > 1.15 * whole[good].ctr
        assert week["clicks"].return_rate < week[good].return_rate - 0.04
        assert whole["clicks"].minor < 0.85 * whole[good].minor
        assert whole["clicks"].hides / whole["clicks"].shown > 1.5 * whole[good].hides / whole[good].shown


def test_the_oracle_earns_far_more_than_any_trivial_rule() -> None:
    made = {name: Totals.over(run(5, policy, days=10, scale=0.15)) for name, policy in policies.POLICIES.items()}
    trivial = max(made[name].minor for name in ("random", "newest", "popularity", "clicks", "another system"))
    assert made["oracle"].minor > 1.2 * trivial
    assert made["oracle"].return_rate > max(
        made[name].return_rate for name in made if name not in ("oracle", "quality")
    )


def asks(world: World, count: int) -> list[Ask]:
    """One request of each of the first grown-up readers, at noon of the day that is on."""
    grown = np.flatnonzero(world.town.readers.adult)[:count].tolist()
    return [Ask(reader, START_US + len(world.days) * DAY - HOUR, 10, draws.root(f"ask {reader}")) for reader in grown]


def test_the_oracle_s_slate_is_worth_more_in_the_long_run_than_the_most_clicked_one(world: World) -> None:
    gains, clicks = [], []
    for ask in asks(world, 40):
        best, clicked = (policy(world.town, ask) for policy in (policies.oracle, policies.clicks))
        made = [behaviour.of_slate(world.town, ask.reader, rows=rows, at_us=ask.at_us) for rows in (best, clicked)]
        long_run = [behaviour.slate_minor(world.town, ask.reader, chance=chance)[1] for chance in made]
        gains.append(long_run[0] - long_run[1])
        clicks.append(made[1].heads[:, 0].sum() - made[0].heads[:, 0].sum())
    assert np.mean(clicks) > 0.3
    assert np.mean(gains) > 0.5
    assert np.mean(np.array(gains) > 0) > 0.9


def test_satisfaction_decides_who_comes_and_who_asks_for_more(world: World) -> None:
    town = world.town
    p = behaviour.p_return(town)
    assert ((p > 0) & (p < 1)).all()
    better = msgspec.structs.replace(town.readers, satisfaction=np.full(len(p), 0.95))
    happy = msgspec.structs.replace(town, readers=better)
    assert (behaviour.p_return(happy) > p).all()
    first = asks(world, 1)[0]
    assert behaviour.p_return(town, first.reader) == p[first.reader]


def test_repetition_and_a_monotone_diet_tire(world: World) -> None:
    ask = asks(world, 1)[0]
    rows = behaviour.visible(world.town, ask)
    known = behaviour.facts(world.town, ask.reader, rows=rows, at_us=ask.at_us)
    plain = behaviour.chances(world.town, ask.reader, known=known).gain
    for fact, more in (("tired", 5.0), ("seen", 1.0)):
        changed = known.copy()
        changed[:, FACTS.index(fact)] += more
        tired = behaviour.chances(world.town, ask.reader, known=changed).gain
        assert (tired < plain)[plain > 0].all()
        assert (plain > 0).sum() > 3
    topic = world.town.posts.topic
    main = np.bincount(topic[rows]).argmax()
    same = rows[topic[rows] == main][:4]
    known_of_last = behaviour.of_slate(world.town, ask.reader, rows=same, at_us=ask.at_us).heads[-1, 0]
    alone = behaviour.of_slate(world.town, ask.reader, rows=same[-1:], at_us=ask.at_us).heads[0, 0]
    assert known_of_last < alone


# The truth that is published


def played(town: Town, ask: Ask, rows: Ints, *, times: int) -> list[behaviour.Reaction]:
    """Lets a reader see the same slate again and again, each time as if it were the first time."""
    tired, satisfaction = town.readers.tired.copy(), town.readers.satisfaction.copy()
    seen, made = town.seen.copy(), []
    for key in draws.child(ask.key, np.arange(times))[:, None]:
        made.append(behaviour.react(town, ask._replace(key=key), rows=rows))
        town.readers.tired[ask.reader], town.seen[ask.reader] = tired[ask.reader], seen[ask.reader]
        town.readers.satisfaction[ask.reader] = satisfaction[ask.reader]
    return made


def test_positions_are_looked_at_and_acted_on_as_the_truth_says() -> None:
    world = World(6, scale=SMALL)
    watch(world, 4)
    ask = asks(world, 1)[0]
    rows = policies.clicks(world.town, ask)
    chance = behaviour.of_slate(world.town, ask.reader, rows=rows, at_us=ask.at_us)
    made = played(world.town, ask, rows, times=1_500)
    depths = np.array([len(reaction.acts) for reaction in made])
    curve = behaviour.examination(world.params, 10)
    assert curve[0] == 1.0
    assert curve[9] == pytest.approx(world.params.scroll**9)
    assert np.mean(depths[:, None] > np.arange(10), axis=0) == pytest.approx(curve, abs=0.045)
    acts = np.zeros((10, len(HEADS)))
    for reaction in made:
        acts[: len(reaction.acts)] += reaction.acts
    expected = curve[:, None] * chance.heads
    error = 4.5 * np.sqrt(expected * (1 - expected) / len(made)) + 1e-3
    assert (np.abs(acts / len(made) - expected) < error).all()


def test_what_a_slate_earns_is_what_was_expected_on_the_mean() -> None:
    world = World(6, scale=0.3)
    messages = watch(world, 8)
    truths = [world.truth(m.body["id"]) for m in decides(messages) if m.theirs]
    earned, expected = (sum(float(t[name]) for t in truths) for name in ("minor", "expected_minor"))
    assert earned == pytest.approx(expected, rel=0.06)
    assert earned == pytest.approx(Totals.over(world.days).minor, rel=1e-9)
    assert sum(float(t["clicks"]) for t in truths) == Totals.over(world.days).clicks
    assert all(-1 < float(t["satisfaction"]) < 1 and 0 < float(t["p_return"]) < 1 for t in truths)


def test_truth_before_a_reaction_knows_the_reader_alone() -> None:
    world = World(3, scale=SMALL)
    request = decides(world.advance(START_US + DAY))[0].body["id"]
    assert set(world.truth(request)) == {"satisfaction", "p_return"}


def test_readers_and_posts_are_found_by_name(messages: list[Message], world: World) -> None:
    request = next(m for m in reversed(messages) if m.theirs)
    reader, rows = world.find(request.body["user"], request.theirs["slots"])
    assert telling.name("reader", int(world.town.readers.key[reader])) == request.body["user"]
    assert [telling.name("post", int(key)) for key in world.town.posts.key[rows]] == request.theirs["slots"]


def test_the_score_sums_up_the_last_week(messages: list[Message], world: World) -> None:
    week = Totals.over(world.days[-7:])
    line = world.score()
    assert messages
    assert line.startswith(f"last 7 days: CTR {week.clicks / week.shown:.1%}  hides ")
    assert f"return {week.returned / week.visitors:.1%}" in line
    assert f"{week.sessions:,} sessions of {week.minor / week.sessions:.1f} minor EUR" in line
    assert World(1, scale=SMALL).score().endswith("0 sessions of 0.0 minor EUR")


def test_totals_add_up() -> None:
    one = Totals(shown=10, clicks=2, visitors=4, returned=1, sessions=2, minor=5.0)
    both = Totals.over([one, one])
    assert (both.shown, both.clicks, both.minor) == (20, 4, 10.0)
    assert (both.ctr, both.return_rate, both.session_minor) == (0.2, 0.25, 2.5)


# Posts and people


def test_what_is_gone_or_unfit_is_shown_by_no_policy_and_counted_where_it_is_shown(
    messages: list[Message], world: World
) -> None:
    assert Totals.over(world.days).unfit == 0
    gone = {m.body["post"]: m.at for m in told(messages, "moderation") if m.body["verdict"] == "removed"}
    posts = {m.body["id"]: m.body["post"] for m in told(messages, "post")}
    gone |= {posts[m.body["deletes"]]: m.at for m in messages if "deletes" in m.body}
    assert len(gone) > 10
    for message in decides(messages):
        assert not any(gone.get(ref, message.at + 1) <= message.at for ref in message.theirs.get("slots", ()))
    mature = {m.body["post"] for m in told(messages, "post") if m.body["is_mature"]}
    minors = [m for m in decides(messages) if not m.body["is_adult"] and m.theirs]
    assert minors
    assert not any(mature & set(m.theirs["slots"]) for m in minors)


def test_what_is_gone_and_shown_all_the_same_is_counted() -> None:
    world = World(1, scale=0.3)
    messages = world.advance(START_US + 5 * DAY)
    removed = next(m for m in told(messages, "moderation") if m.body["verdict"] == "removed")
    request = next(m for m in decides(messages) if m.at > removed.at)
    world.react(request.body["id"], SHOW, at_us=request.at, refs=(removed.body["post"],))
    assert Totals.over(world.days).unfit == 1


def test_a_verdict_comes_after_its_post_and_says_what_is_wrong(messages: list[Message]) -> None:
    appeared = {m.body["post"]: m.at for m in told(messages, "post") if "corrects" not in m.body}
    verdicts = told(messages, "moderation")
    assert {m.body["verdict"] for m in verdicts} == {"removed", "limited", "sensitive"}
    assert all(6 * MINUTE <= m.at - appeared[m.body["post"]] <= 6 * HOUR for m in verdicts)
    corrected = [m for m in told(messages, "post") if "corrects" in m.body]
    assert corrected
    assert all(m.body["title"].endswith(", corrected") and m.at >= appeared[m.body["post"]] for m in corrected)


def test_newcomers_say_who_they_are_before_they_ask(messages: list[Message], world: World) -> None:
    profiles = {m.body["user"]: m for m in told(messages, "profile")}
    assert 0.4 < np.mean(["interests" in m.body for m in profiles.values()]) < 0.8
    days = {(m.at - START_US) // DAY for m in profiles.values()}
    assert len(days) > 3
    for message in decides(messages):
        profile = profiles[message.body["user"]]
        assert profile.at < message.at
        facts = ("region", "language", "is_adult")
        assert [profile.body[fact] for fact in facts] == [message.body[fact] for fact in facts]
    follows = Counter(m.body["user"] for m in told(messages, "follow"))
    assert 3 < np.mean(list(follows.values())) < 40
    assert len(profiles) == (world.town.readers.joined < DAYS).sum()


def test_whoever_is_blocked_or_muted_is_shown_no_more(messages: list[Message]) -> None:
    authors = {m.body["post"]: m.body["author"] for m in told(messages, "post")}
    ends = {(m.body["user"], m.body["author"]): m.at for m in messages if m.body.get("kind") in ("block", "mute")}
    assert len(ends) > 5
    for message in decides(messages):
        for ref in message.theirs.get("slots", ()):
            assert ends.get((message.body["user"], authors[ref]), message.at + 1) > message.at - 10 * MINUTE


def test_a_like_may_become_a_follow_and_anger_ends_one(messages: list[Message]) -> None:
    later = [m for m in told(messages, "follow") if m.at > START_US + HOUR]
    assert Counter(m.body["on"] for m in later)[True] > 20
    ids = {m.body["id"] for m in messages}
    assert all(m.body["id"] in ids for m in later)


def test_tastes_drift_and_the_switch_makes_them_drift_faster() -> None:
    moved = []
    for on in (False, True):
        world = World(3, scale=SMALL)
        world.switch("interest_drift", on)
        before = world.town.readers.taste.copy()
        world.advance(START_US + 20 * DAY)
        moved.append((before * world.town.readers.taste).sum(axis=1).mean())
    assert 0.8 < moved[0] < 0.99
    assert moved[1] < moved[0] - 0.2


def unseen(creators: bool) -> policies.Policy:
    """A policy that shows creators alone, or never."""

    def ranked(town: Town, ask: Ask) -> Ints:
        rows = behaviour.visible(town, ask)
        return np.asarray(rows[town.authors.creator[town.posts.author[rows]] == creators][-ask.size :], dtype=np.int64)

    return ranked


def kept(world: World) -> float:
    """Share of the first creators who are still there."""
    authors = world.town.authors
    first = authors.creator & (np.arange(len(authors.key)) < world.params.authors)
    return float((authors.active & first).sum() / first.sum())


def test_creators_who_are_not_shown_leave() -> None:
    shares = []
    for creators in (True, False):
        world = World(4, CREATIVE, theirs=unseen(creators))
        watch(world, 20)
        shares.append(kept(world))
    assert shares[0] > shares[1] + 0.3


def test_creators_leave_where_that_is_switched_on_and_others_arrive() -> None:
    calm, leaving = (World(4, CREATIVE, theirs=policies.newest) for _ in range(2))
    leaving.switch("creators_leave", True)
    watch(calm, 10)
    watch(leaving, 10)
    assert kept(leaving) < kept(calm) - 0.2
    assert len(calm.town.authors.key) > calm.params.authors


# Switches


def switched(name: str, *, alone: bool = False) -> tuple[World, list[Message]]:
    world = World(5, scale=0.3)
    world.switch(name, True)
    return world, world.advance(START_US + 6 * DAY - 1, alone=alone)


def test_coordinated_likes_come_from_the_fakes_alone() -> None:
    world, messages = switched("coordinated_likes")
    likes = [m.body for m in told(messages, "like") if m.kind == "event"]
    names = {telling.name("reader", int(key)) for key in telling.fakes(world.town)}
    assert {body["user"] for body in likes} == names
    assert len({body["post"] for body in likes}) == 5 * 6
    assert not names & {m.body["user"] for m in decides(messages)}
    assert not [m for m in told(switched("trend")[1], "like") if m.kind == "event"]


def test_a_clickbait_wave_makes_new_posts_louder_and_no_better() -> None:
    calm, waved = (world.town.posts for world in (switched("trend")[0], switched("clickbait_wave")[0]))
    assert waved.clickbait.mean() > calm.clickbait.mean() + 0.7
    assert abs(waved.quality.mean() - calm.quality.mean()) < 0.15


def test_a_forced_trend_takes_a_quarter_of_the_posts() -> None:
    world, _ = switched("trend")
    topic = int(world.town.surge.argmax())
    assert world.town.surge[topic] == 2.0
    assert 0.2 < (world.town.posts.topic == topic).mean() < 0.5


def test_topics_surge_and_fade_by_themselves() -> None:
    world = World(5, scale=SMALL)
    highest = []
    for day in range(1, 30):
        world.advance(START_US + day * DAY)
        highest.append(world.town.surge.max())
    assert max(highest) == 1.0
    assert min(highest) < 1.0


def test_replayed_feedback_comes_again_under_ids_of_its_own() -> None:
    _, messages = switched("replayed_feedback", alone=True)
    firsts = {m.body["id"]: m for m in messages}
    again = [m for m in messages if m.body["id"].endswith("_again")]
    likes = [m for m in told(messages, "like") if m.at < START_US + 4 * DAY and m not in again]
    assert 0.1 < sum(m.body["kind"] == "like" for m in again) / len(likes) < 0.35
    for message in again:
        first = firsts[message.body["id"].removesuffix("_again")]
        assert message.body | {"id": ""} == first.body | {"id": ""}
        assert message.at >= time_us(first.body["event_time"]) + DAY


def test_in_a_device_outage_most_requests_come_without_a_device() -> None:
    lacking = ["device" not in m.body for m in decides(switched("device_outage")[1])]
    assert sum(lacking) / len(lacking) == pytest.approx(0.6, abs=0.08)
    assert all("device" in m.body for m in decides(switched("trend")[1]))


def test_a_switch_works_from_the_next_day_and_can_be_switched_off() -> None:
    calm, world = World(5, scale=SMALL), World(5, scale=SMALL)
    same = []
    for day, on in enumerate((False, True, False)):
        world.switch("clickbait_wave", on)
        for each in (calm, world):
            each.advance(START_US + (day + 1) * DAY - 1)
        today = calm.town.posts.created_us >= START_US + day * DAY
        same.append(bool((calm.town.posts.clickbait == world.town.posts.clickbait)[today].all()))
    assert same == [True, False, True]


# Settings


def test_every_setting_has_a_meaning_and_a_range() -> None:
    metas = WorldParams.metas()
    assert [*metas, "weights"] == list(WorldParams.__struct_fields__)
    for name, meta in metas.items():
        assert meta.description, name
        assert meta.ge <= getattr(WorldParams(), name) <= meta.le, name
    weights = np.array(WorldParams().weights)
    assert weights.shape == (len(HEADS) + 1, len(FACTS))


def test_the_hash_follows_settings_and_weights() -> None:
    changed = msgspec.structs.replace(WorldParams(), weights=tuple(row[::-1] for row in WorldParams().weights))
    hashes = {p.digest() for p in (WorldParams(), WorldParams().scaled(0.5), WorldParams().perturbed(1), changed)}
    assert len(hashes) == 4
    assert World(1).params_hash == World(2).params_hash


def test_perturbed_worlds_stay_in_range_and_keep_their_moral() -> None:
    for seed in range(100):
        WorldParams().perturbed(seed).checked()
    params = WorldParams().perturbed(3)
    made = [
        Totals.over(run(2, policy, days=12, params=params, scale=0.15)) for policy in (policies.clicks, policies.oracle)
    ]
    assert made[0].ctr > made[1].ctr
    assert made[0].minor < made[1].minor


def test_everybody_lies_on_the_sphere_of_tastes(world: World) -> None:
    town = world.town
    for vectors in (town.readers.taste, town.topics, town.authors.style, town.posts.place):
        assert vectors.shape[1] == DIM
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)


# What is refused, and how


def test_reactions_that_cannot_be_are_refused() -> None:
    world = World(3, scale=SMALL)
    messages = world.advance(START_US + DAY)
    first, second = decides(messages)[:2]
    ref = told(messages, "post")[0].body["post"]
    with pytest.raises(UnknownRecordError) as caught:
        world.react("req_0", SHOW, at_us=first.at)
    assert str(caught.value) == (
        "feed world: request 'req_0', which it has not sent. Expected an id of a message that advance has returned. "
        "Advance the world first, and pass ids unchanged."
    )
    with pytest.raises(RequestError) as refused:
        world.react(first.body["id"], "allow", at_us=first.at - SECOND)
    assert str(refused.value) == (
        f"feed world, react: 'allow' at {first.at - SECOND} to a request of {first.at}. Expected 'show', at or after "
        "the request. Pass action and time of the logged decision."
    )
    with pytest.raises(UnknownRecordError, match="feed world: post 'post_0', which it has not sent"):
        world.react(first.body["id"], SHOW, at_us=first.at, refs=("post_0",))
    world.react(first.body["id"], SHOW, at_us=first.at, refs=(ref,))
    world.react(first.body["id"], SHOW, at_us=first.at, refs=(ref,))
    assert Totals.over(world.days).requests == 1
    with pytest.raises(ConflictError) as conflict:
        world.react(first.body["id"], SHOW, at_us=first.at, refs=())
    assert str(conflict.value) == (
        f"feed world, react to {first.body['id']}: another slate than before. Expected one slate a request. "
        "React once to each decide message."
    )
    world.react(second.body["id"], SHOW, at_us=second.at)
    assert Totals.over(world.days).requests == 1


def test_time_does_not_run_back() -> None:
    world = World(1, scale=SMALL)
    world.advance(START_US + 10)
    with pytest.raises(RequestError) as caught:
        world.advance(START_US + 9)
    assert str(caught.value) == (
        f"World.advance: until_us {START_US + 9}, before {START_US + 10}, where the world already is. Expected a time "
        "that does not run back. Build a new World with the same seed to go through a time again."
    )


def test_strangers_are_not_found() -> None:
    with pytest.raises(UnknownRecordError, match="feed world: reader 'nobody', which it has not sent"):
        World(1, scale=SMALL).find("nobody", ())


def test_an_unknown_switch_is_refused_with_the_nearest_name() -> None:
    assert len(SWITCHES) == 7
    with pytest.raises(ConfigError) as caught:
        World(1, scale=SMALL).switch("trends", True)
    assert str(caught.value) == (
        "switch of the feed world: unknown name 'trends'. Expected 'trend' (closest match), or one of: clickbait_wave, "
        "coordinated_likes, creators_leave, device_outage, interest_drift, replayed_feedback, trend. The "
        "world's SWITCHES say what each does."
    )


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"WorldParams: .*`\$.mature`.*feed.world.params.WorldParams.metas\(\)"):
        World(1, msgspec.structs.replace(WorldParams(), mature=1.5))
