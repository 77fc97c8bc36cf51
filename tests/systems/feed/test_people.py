"""What is known of readers, on a handful of records; and that each of them stays small."""

from __future__ import annotations

import pytest
from tests.systems.feed.catalogued import DAY_US, NOW_US, Told, token

from decalog.decisions import Choice, Slot
from decalog.systems.feed import people as module
from decalog.systems.feed import popularity as scores
from decalog.systems.feed.catalogue import TOO_OLD_US, Catalogue
from decalog.systems.feed.people import LOOKED, PAUSE_S, RECENT, SEEN, People, Person, Profile
from decalog.systems.feed.popularity import HALF_LIFE_US, Popularity


class Feed:
    def __init__(self) -> None:
        self.catalogue, self.popularity = Catalogue(), Popularity()
        self.people = People(self.catalogue, self.popularity)
        self.told = Told(self.catalogue, self.people)
        for number in range(6):
            self.told.post(f"p{number}")

    def person(self, name: str = "uma") -> Person:
        return self.people.person(token(name))

    def seen(self, name: str = "uma", now_us: int = NOW_US) -> list[str]:
        return self.names(self.person(name).seen(now_us))

    def liked(self, name: str = "uma") -> list[tuple[str, str]]:
        recent = self.person(name).recent
        return [(ref, done.action) for done in recent for ref in self.names([done.handle])]

    def popular(self, region: str = "", k: int = 10) -> list[str]:
        return self.names(self.popularity.top(region, k))

    def names(self, handles: object) -> list[str]:
        by_handle = {self.catalogue.handle(ref): ref for ref in self.catalogue.posts["ref"][: self.catalogue.used]}
        return [by_handle[int(handle)] for handle in handles]  # type: ignore[attr-defined]


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def told(feed: Feed) -> Told:
    return feed.told


class TestTies:
    @pytest.mark.parametrize("kind", ["follow", "block", "mute"])
    def test_the_last_word_holds(self, feed: Feed, told: Told, kind: str) -> None:
        told.event(kind, {"user": "uma", "author": "ann"})
        told.event(kind, {"user": "uma", "topic": "tea"})
        ties = getattr(feed.person(), kind)
        assert set(ties) == {token("ann"), token("tea")}
        told.event(kind, {"user": "uma", "author": "ann"}, on=False)
        assert set(ties) == {token("tea")}

    @pytest.mark.parametrize("kind", ["follow", "block", "mute"])
    def test_a_tie_is_corrected_and_withdrawn(self, feed: Feed, told: Told, kind: str) -> None:
        first = told.event(kind, {"user": "uma", "author": "ann"})
        told.event(kind, {"user": "uma", "author": "bob"}, corrects=first)
        assert set(getattr(feed.person(), kind)) == {token("bob")}
        told.withdraw(first, kind, subject="uma")
        assert not getattr(feed.person(), kind)

    def test_followers_are_counted_once_a_reader(self, feed: Feed, told: Told) -> None:
        for user in ("uma", "uma", "vic"):
            told.event("follow", {"user": user, "author": "ann"})
        last = told.event("follow", {"user": "wes", "author": "ann", "topic": "art"})
        assert self.followers(feed) == 3
        told.event("follow", {"user": "vic", "author": "ann"}, on=False)
        told.event("follow", {"user": "vic", "author": "ann"}, on=False)
        told.withdraw(last, "follow", subject="wes")
        told.event("block", {"user": "vic", "author": "ann"})
        assert self.followers(feed) == 1

    def test_the_oldest_goes_where_there_are_too_many(
        self, feed: Feed, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "TIES", 2)
        for author in ("ann", "bob", "cal"):
            told.event("follow", {"user": "uma", "author": author})
        assert set(feed.person().follow) == {token("bob"), token("cal")}
        assert self.followers(feed) == 0

    def test_nobody_ties_nothing(self, feed: Feed, told: Told) -> None:
        nobodys = told.event("follow", {"author": "ann"})
        told.withdraw(nobodys, "follow", subject="who")
        assert len(feed.people) == 0

    @staticmethod
    def followers(feed: Feed) -> int:
        return int(feed.catalogue.authors["followers"][feed.catalogue.author.code(token("ann"))])


def test_the_last_profile_holds_until_it_is_withdrawn(feed: Feed, told: Told) -> None:
    told.event("profile", {"user": "uma"}, region="fr")
    last = told.event("profile", {"user": "uma"}, region="de", language="de", is_adult=True, interests="art tea")
    profile = feed.person().profile
    assert profile == Profile("de", "de", True, ("art", "tea"), told.roots[last])
    told.withdraw(last, "profile", subject="uma")
    assert feed.person().profile == Profile()


class TestSeen:
    def test_a_slate_is_seen_by_its_reader(self, feed: Feed, told: Told) -> None:
        told.slate("uma", "p1", "p2", "unknown")
        assert (feed.seen(), feed.seen("vic")) == (["p1", "p2"], [])
        assert [feed.catalogue.post(ref).shown for ref in ("p0", "p1")] == [0, 1]  # type: ignore[union-attr]

    def test_a_slate_that_nobody_saw_is_not(self, feed: Feed, told: Told) -> None:
        theirs = Choice((Slot("p3", propensity=None),), verb="show")
        told.slate("uma", "p1", mode="shadow")
        told.slate("uma", "p2", mode="shadow", theirs=theirs)
        told.slate("uma", "p4", mode="imported", taken="show")
        told.slate("uma", "p5", mode="fallback")
        assert feed.seen() == ["p3", "p4", "p5"]

    def test_what_was_opened_elsewhere_is_seen_too(self, feed: Feed, told: Told) -> None:
        told.event("click", {"user": "uma", "post": "p1"})
        told.event("hide", {"user": "uma", "post": "p2"})
        assert feed.seen() == ["p1", "p2"]

    def test_what_stood_below_the_last_act_may_come_again_after_a_pause(self, feed: Feed, told: Told) -> None:
        every = [f"p{number}" for number in range(6)]
        asked = told.slate("uma", *every)
        later_us = NOW_US + (PAUSE_S + 1) * 1_000_000
        assert (feed.seen(), feed.seen(now_us=later_us)) == (every, every[:LOOKED])
        told.outcome(asked, "hide", "p3")
        told.outcome(asked, "click", "p1")
        assert feed.seen(now_us=later_us) == every[:4]
        told.slate("uma", "p5", said={"at_us": later_us})
        assert feed.seen(now_us=later_us) == [*every[:4], "p5"]
        told.outcome(asked, "like", "p4")
        assert set(feed.seen(now_us=later_us)) == set(every)

    def test_where_a_session_ended_they_looked_on_until_then(self, feed: Feed, told: Told) -> None:
        """As fast as another, who asked for more 2 s a post after the first slate, many times."""
        for number in range(200):
            told.slate("vic", "p0", "p1", "p2", said={"at_us": NOW_US + number * 6_000_000})
        every = [f"p{number}" for number in range(6)]
        asked = told.slate("uma", *every)
        told.outcome(asked, "click", "p1", at_us=NOW_US + 4_000_000)
        told.outcome(asked, "dwell", "p1", value=10.0, at_us=NOW_US + 14_000_000)
        for _ in range(2):
            told.outcome(asked, "session_end", "", value=20.0, at_us=NOW_US + 20_000_000)
        assert feed.seen(now_us=NOW_US + DAY_US) == every[:5]

    def test_who_asks_for_more_has_looked_at_all(self, feed: Feed, told: Told) -> None:
        told.slate("uma", "p0", "p1", "p2", "p3")
        told.slate("uma", "p4", said={"at_us": NOW_US + PAUSE_S * 1_000_000})
        assert feed.seen(now_us=NOW_US + DAY_US) == ["p0", "p1", "p2", "p3", "p4"]

    def test_it_is_kept_back_as_long_as_a_post_may_be_shown(self, feed: Feed, told: Told) -> None:
        told.slate("uma", "p1")
        assert feed.seen(now_us=NOW_US + TOO_OLD_US) == ["p1"]

    def test_the_last_ones_are_kept_exactly_and_no_more(self, feed: Feed, told: Told) -> None:
        for number in range(SEEN + 900):
            told.slate("uma", f"p{number % 6}")
            handles = feed.person().seen(NOW_US)
            assert len(handles) == min(number + 1, SEEN)
        assert len(feed.person().shown) < SEEN * 5 // 4
        last = [f"p{number % 6}" for number in range(SEEN + 900)][-SEEN:]
        assert feed.names(handles) == last


class TestEngagement:
    def test_outcomes_find_their_reader_by_the_request(self, feed: Feed, told: Told) -> None:
        asked = told.slate("uma", "p1", "p2")
        told.outcome(asked, "click", "p2")
        told.outcome(asked, "dwell", "p2", value=12.5)
        told.outcome(asked, "dwell", "p1", value=9.9)
        told.outcome(asked, "hide", "p1")
        told.outcome(asked, "return", "")
        told.outcome("unheard", "like", "p1")
        told.outcome(asked, "like", "unknown")
        assert feed.liked() == [("p2", "click"), ("p2", "dwell")]

    def test_what_happens_elsewhere_counts_too(self, feed: Feed, told: Told) -> None:
        told.event("like", {"user": "uma", "post": "p3"})
        told.event("share", {"post": "p4"})
        assert feed.liked() == [("p3", "like")]

    def test_zero_takes_it_back(self, feed: Feed, told: Told) -> None:
        asked = told.slate("uma", "p1")
        told.outcome(asked, "like", "p1")
        assert feed.popular() == ["p1"]
        told.outcome(asked, "like", "p1", value=0.0)
        assert (feed.liked(), feed.popular()) == ([], [])

    def test_an_outcome_is_corrected_and_withdrawn(self, feed: Feed, told: Told) -> None:
        asked = told.slate("uma", "p1", "p2")
        first = told.outcome(asked, "like", "p1")
        told.outcome(asked, "like", "p2", corrects=first)
        assert (feed.liked(), feed.popular()) == ([("p2", "like")], ["p2"])
        told.withdraw_outcome(first)
        assert (feed.liked(), feed.popular()) == ([], [])

    def test_an_event_is_withdrawn(self, feed: Feed, told: Told) -> None:
        id_ = told.event("like", {"user": "uma", "post": "p3"})
        told.withdraw(id_, "like", subject="uma")
        assert (feed.liked(), feed.popular()) == ([], [])

    def test_the_last_ones_in_time_are_kept(self, feed: Feed, told: Told) -> None:
        for number in range(RECENT + 20):
            told.post(f"q{number}")
            told.event("click", {"user": "uma", "post": f"q{number}"}, at_us=NOW_US - number)
        assert feed.liked() == [(f"q{number}", "click") for number in reversed(range(RECENT))]

    def test_what_was_taken_up_is_known_longer_than_what_was_done_last(self, feed: Feed, told: Told) -> None:
        asked = told.slate("uma", "p1", "p2")
        first = told.outcome(asked, "click", "p1")
        liked = told.outcome(asked, "like", "p1")
        told.outcome(asked, "hide", "p2")
        assert feed.names(feed.person().opened) == ["p1", "p1"], "one for each thing done"
        told.withdraw_outcome(first)
        assert feed.names(feed.person().opened) == ["p1"]
        for number in range(RECENT):
            told.post(f"q{number}")
            told.event("click", {"user": "uma", "post": f"q{number}"})
        assert "p1" not in {ref for ref, _ in feed.liked()}
        assert feed.names(feed.person().opened)[0] == "p1"
        told.withdraw_outcome(liked)
        assert "p1" not in feed.names(feed.person().opened)
        assert not feed.people.person(token("uma"), is_profiled=False).opened

    def test_requests_and_what_was_said_of_them_are_bounded(
        self, feed: Feed, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "REQUESTS", 3)
        asked = [told.slate("uma", "p1") for _ in range(5)]
        told.outcome(asked[1], "click", "p1")
        assert not feed.liked()
        told.outcome(asked[2], "click", "p1")
        assert feed.liked() == [("p1", "click")]
        assert len(feed.people._requests) == 3


class TestPopular:
    def test_each_region_has_its_own_and_all_have_one(self, feed: Feed, told: Told) -> None:
        for user in ("uma", "vic"):
            told.outcome(told.slate(user, "p1", said={"region": "de"}), "like", "p1")
        told.event("profile", {"user": "wes"}, region="fr")
        told.outcome(told.slate("wes", "p2"), "click", "p2")
        assert feed.popular("de") == ["p1", "p1", "p2"]
        assert feed.popular("fr") == ["p2", "p1", "p2"]
        assert feed.popular("es", 1) == feed.popular("de", 1) == ["p1"]

    def test_points_count_half_after_half_a_day(self, feed: Feed, told: Told) -> None:
        for user in ("uma", "vic"):
            told.event("click", {"user": user, "post": "p1"}, at_us=NOW_US)
        told.event("click", {"user": "wes", "post": "p2"}, at_us=NOW_US + HALF_LIFE_US - 1)
        assert feed.popular() == ["p1", "p2"]
        told.event("click", {"user": "xia", "post": "p3"}, at_us=NOW_US + HALF_LIFE_US + 1)
        assert feed.popular() == ["p3", "p1", "p2"]

    def test_years_do_not_overflow(self, feed: Feed, told: Told) -> None:
        for day in range(0, 4_000, 100):
            told.event("click", {"user": f"u{day}", "post": f"p{day // 100 % 6}"}, at_us=NOW_US + day * DAY_US)
        assert feed.popular()[:2] == ["p3", "p2"]

    def test_one_reader_counts_once_a_post_and_so_much_a_day(self, feed: Feed, told: Told) -> None:
        for _ in range(500):
            told.event("like", {"user": "bot", "post": "p1"})
        for user in ("uma", "vic"):
            told.event("like", {"user": user, "post": "p2"})
        assert feed.popular() == ["p2", "p1"]
        for number in range(400):
            told.post(f"q{number}")
            for at_us in (NOW_US - DAY_US, NOW_US):
                told.event("share", {"user": "bot", "post": f"q{number}"}, at_us=at_us)
        given = sum(feed.popularity._boards[""].scores)
        assert given <= module.POINTS_A_DAY + 4.0

    def test_boards_are_bounded_and_keep_the_best(
        self, feed: Feed, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scores, "KEPT", 2)
        monkeypatch.setattr(scores, "REGIONS", 2)
        popularity = Popularity()
        for handle in (1, 2, 3, 5, 6):
            popularity.add("de", handle, points=float(handle % 4), at_us=0)
        assert popularity.top("de", 10).tolist() == [3, 2, 6, 3, 2, 6]
        for number in range(50):
            popularity.add(f"r{number}", 1, points=1.0, at_us=0)
        assert len(popularity._boards) == 3

    def test_points_taken_back_from_what_was_forgotten_are_nothing(self) -> None:
        popularity = Popularity()
        popularity.add("", 1, points=-1.0, at_us=0)
        assert popularity.top("", 5).tolist() == []


def test_one_reader_who_makes_a_third_of_the_log_stays_small(feed: Feed, told: Told) -> None:
    for number in range(6_000):
        asked = told.slate("bot", *(f"p{place}" for place in range(6)))
        told.outcome(asked, ("click", "like", "reply")[number % 3], f"p{number % 6}")
    bot = feed.person("bot")
    assert len(bot.shown) < SEEN * 5 // 4
    assert len(bot.recent) <= RECENT
    assert bot.points <= module.POINTS_A_DAY
