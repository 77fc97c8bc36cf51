"""Candidate generation on a small known feed: each source, each filter, the deadline, and what changes at once."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.systems.feed.catalogued import (
    DAY_US,
    DIM,
    NOW_US,
    Funnel,
    Neighbours,
    Told,
    Towers,
    dropped,
    refs,
    request,
    token,
)

from decalog.candidates import Candidate
from decalog.errors import ModelError
from decalog.events import Event
from decalog.models.kinship import Kinship
from decalog.models.linear import Prior
from decalog.models.two_tower import bare
from decalog.retrieval import UNPROFILED, Retrieval, Retrieved
from decalog.searching import AT_ONCE
from decalog.systems.feed.catalogue import TOO_OLD_US
from decalog.systems.feed.retrieval import DROPPED, MOST, FeedRetrieval
from decalog.systems.feed.sources import SOURCES, Asked, Found, Sight

TOPICS = ("art", "tea", "cars", "news")
LONG_MS = 60_000.0
"""A deadline that no busy machine misses."""


@pytest.fixture(params=["flat", "faiss"])
def feed(request: pytest.FixtureRequest) -> FeedRetrieval:
    return FeedRetrieval(deadline_ms=LONG_MS, engine=request.param)


@pytest.fixture
def told(feed: FeedRetrieval) -> Told:
    return Told(feed)


def funnel(towers: object = None, **pairs: Any) -> Any:
    return Funnel(towers or Towers(TOPICS), Neighbours(pairs))


def adopt(feed: FeedRetrieval, towers: object = None, **pairs: Any) -> None:
    feed.adopt(funnel(towers, **pairs))


def fill(told: Told, count: int = 200) -> None:
    """A post an hour, newest last; topics and authors take turns."""
    for number in range(count):
        named = {"author": f"a{number % 7}", "topic": TOPICS[number % 4]}
        told.post(f"p{number}", age_us=(count - number) * 3_600_000_000, language="en", **named)


def by(found: Retrieved, source: str) -> list[str]:
    """Names of what a source found, in its order where it gives ranks."""
    mine = [c for c in found.candidates if source in c.source.split("+") and not c.dropped]
    return [c.ref for c in sorted(mine, key=lambda c: c.attributes.get(f"{source}_rank", 0))]


def get(found: Retrieved, ref: str) -> Candidate:
    return next(candidate for candidate in found.candidates if candidate.ref == ref)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    def swap(name: str, function: Any) -> None:
        monkeypatch.setitem(cast("dict[str, Any]", SOURCES), name, (function, *SOURCES[name][1:]))

    return swap


def test_it_is_a_retrieval(feed: FeedRetrieval) -> None:
    contract: Retrieval = feed
    assert len(contract.retrieve(request("uma")).candidates) == 0


def test_at_a_start_the_vectors_of_posts_are_made_once(feed: FeedRetrieval, told: Told) -> None:
    class Counting(Towers):
        made = 0

        def item_vectors(self, ids: Sequence[str], sides: Mapping[str, Sequence[str]]) -> Any:
            self.made += len(ids)
            return super().item_vectors(ids, sides)

    fill(told, 200)
    towers = Counting(TOPICS)
    adopt(feed, towers)
    assert (len(feed.retrieve(request("uma")).candidates) > 0, towers.made) == (True, 200)
    told.post("late")
    assert "late" in refs(feed.retrieve(request("uma")))
    assert towers.made == 201


class TestSources:
    def test_two_tower_finds_what_is_like_what_was_liked(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 400)
        adopt(feed)
        told.event("like", {"user": "uma", "post": "p1"})
        found = feed.retrieve(request("uma"))
        nearest = sorted(found.candidates, key=lambda c: -cast("float", c.attributes.get("two_tower", -9.0)))
        assert {c.attributes["topic"] for c in nearest[:60]} == {"tea"}
        assert "two_tower" in nearest[0].source

    def test_a_like_changes_the_next_request(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 2_000)
        adopt(feed)
        for first, topic in ((2, "cars"), (3, "news")):
            for number in range(first, first + 24, 4):
                told.event("like", {"user": "uma", "post": f"p{number}"})
            found = feed.retrieve(request("uma"))
            nearest = max(found.candidates, key=lambda c: cast("float", c.attributes.get("two_tower", -9.0)))
            assert nearest.attributes["topic"] == topic

    def test_interests_alone_are_enough_for_a_new_reader(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 400)
        adopt(feed)
        told.event("profile", {"user": "new"}, interests="news")
        found = feed.retrieve(request("new"))
        nearest = sorted(found.candidates, key=lambda c: -cast("float", c.attributes.get("two_tower", -9.0)))
        assert {c.attributes["topic"] for c in nearest[:60]} == {"news"}
        assert {get(found, ref).attributes["topic"] for ref in by(found, "following")} == {"news"}
        assert [get(found, ref).attributes["topic"] for ref in by(found, "fresh")[:20]] == ["news"] * 20

    def test_neighbours_come_with_their_scores(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told)
        adopt(feed, p1=[("p7", 0.5), ("p2", 0.25), ("never", 0.2)])
        told.event("click", {"user": "uma", "post": "p1"})
        found = feed.retrieve(request("uma"))
        assert set(by(found, "neighbours")) == {"p7", "p2"}
        assert [get(found, ref).attributes["neighbours"] for ref in ("p7", "p2")] == [0.5, 0.25]

    def test_following_shows_the_newest_of_authors_and_topics(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 60)
        told.event("follow", {"user": "uma", "author": "a3"})
        told.event("follow", {"user": "uma", "author": "silent"})
        wanted = [f"p{number}" for number in range(59, -1, -1) if number % 7 == 3]
        assert by(feed.retrieve(request("uma")), "following") == wanted
        told.event("follow", {"user": "uma", "topic": "tea"})
        wanted = [f"p{number}" for number in range(59, -1, -1) if number % 7 == 3 or number % 4 == 1]
        found = feed.retrieve(request("uma"))
        assert by(found, "following") == wanted
        assert {c.ref for c in found.candidates if c.attributes["in_network"]} == {f"p{n}" for n in range(3, 60, 7)}

    def test_fresh_is_half_the_newest_and_half_what_hardly_anyone_saw(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 200)
        for number in range(100, 200):
            for reader in range(20):
                told.slate(f"u{reader}", f"p{number}")
        fresh = by(feed.retrieve(request("uma")), "fresh")
        assert fresh == [f"p{n}" for n in range(199, 159, -1)] + [f"p{n}" for n in range(99, 59, -1)]

    def test_popular_is_what_the_region_likes(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 50)
        for user, ref, region in (("a", "p9", "de"), ("b", "p9", "de"), ("c", "p8", "de"), ("d", "p7", "fr")):
            told.outcome(told.slate(user, ref, said={"region": region}), "like", ref)
        assert by(feed.retrieve(request("uma", region="de")), "popular") == ["p9", "p8", "p7"]
        assert by(feed.retrieve(request("uma", region="fr")), "popular") == ["p7", "p9", "p8"]
        told.event("profile", {"user": "uma"}, region="fr")
        assert by(feed.retrieve(request("uma")), "popular") == ["p7", "p9", "p8"]

    def test_popular_puts_what_suits_the_reader_first(self, feed: FeedRetrieval, told: Told) -> None:
        told.post("english", language="en")
        told.post("german", language="de")
        for user, ref in (("a", "english"), ("b", "english"), ("c", "german")):
            told.event("like", {"user": user, "post": ref})
        assert by(feed.retrieve(request("uma", language="de")), "popular") == ["german", "english"]

    def test_similar_goes_by_what_was_read_in_this_session(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 400)
        adopt(feed)
        found = feed.retrieve(request(recent="p2 never"))
        like_it = [get(found, ref) for ref in by(found, "similar")]
        assert {c.attributes["topic"] for c in like_it[:80]} == {"cars"}
        assert all(cast("float", c.attributes["similar"]) > 0.9 for c in like_it if c.attributes["topic"] == "cars")
        assert "p2" not in refs(found)

    def test_explore_draws_another_pool_for_another_request(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 600)
        pools = {id_: by(feed.retrieve(request("uma", id_=id_)), "explore") for id_ in ("r1", "r2", "r3")}
        assert {len(pool) for pool in pools.values()} == {60}
        assert set(pools["r1"]) != set(pools["r2"])
        assert by(feed.retrieve(request("uma", id_="r1")), "explore") == pools["r1"]
        assert set(by(feed.retrieve(request("vic", id_="r1")), "explore")) != set(pools["r1"])

    def test_explore_draws_every_post_alike(self, feed: FeedRetrieval, told: Told, source: Any) -> None:
        fill(told, 300)
        for name in SOURCES.keys() - {"explore"}:
            source(name, lambda sight, asked, *, k: Found(np.zeros(0, np.int64)))
        drawn = [ref for n in range(400) for ref in refs(feed.retrieve(request("uma", id_=f"r{n}")))]
        counts = np.array([drawn.count(f"p{number}") for number in range(300)])
        assert len(drawn) == 400 * 60
        # Binomial(400, 1/5): mean 80, deviation 8; of 300 none is five deviations away.
        assert counts.min() > 40
        assert counts.max() < 120

    def test_explore_finds_the_few_that_are_allowed(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 1_000)
        told.post("rare", topic="rare")
        assert by(feed.retrieve(request("uma", only_topic="rare")), "explore") == ["rare"]


class TestFilters:
    def test_what_was_seen_is_not_shown_again(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 20)
        told.slate("uma", "p19", "p18")
        found = feed.retrieve(request("uma"))
        assert "p19" not in refs(found)
        assert dropped(found)["p19"] == "seen"
        assert get(found, "p19").source == "fresh"
        assert get(found, "p19").entities["post"] == token("p19")
        assert "p19" in refs(feed.retrieve(request("vic")))
        later = feed.retrieve(request("uma", at_us=NOW_US + 28 * DAY_US))
        assert "p17" in refs(later)
        assert dropped(later)["p19"] == "seen"

    @pytest.mark.parametrize(("kind", "name"), [("block", "blocked"), ("mute", "muted")])
    @pytest.mark.parametrize("side", ["author", "topic"])
    def test_an_author_or_topic_is_shunned(
        self, feed: FeedRetrieval, told: Told, kind: str, name: str, side: str
    ) -> None:
        fill(told, 60)
        adopt(feed)
        value = {"author": "a3", "topic": "tea"}[side]
        told.event(kind, {"user": "uma", side: value})
        found = feed.retrieve(request("uma"))
        theirs = {f"p{n}" for n in range(60) if (n % 7 == 3 if side == "author" else n % 4 == 1)}
        assert set(refs(found)) == {f"p{n}" for n in range(60)} - theirs
        assert set(dropped(found).items()) <= {(ref, name) for ref in theirs}
        assert dropped(found)
        told.event(kind, {"user": "uma", side: value}, on=False)
        assert theirs <= set(refs(feed.retrieve(request("uma"))))

    def test_mature_posts_are_for_adults(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 5)
        told.post("mature", is_mature=True)
        told.post("sensitive")
        told.event("moderation", {"post": "sensitive"}, verdict="sensitive")
        for found in (feed.retrieve(request("uma")), feed.retrieve(request())):
            assert dropped(found) == {"mature": "mature", "sensitive": "mature"}
        found = feed.retrieve(request("uma", is_adult=True))
        assert {"mature", "sensitive"} <= set(refs(found))
        assert get(found, "sensitive").attributes["integrity"] == "sensitive"
        told.event("profile", {"user": "uma"}, is_adult=True)
        found = feed.retrieve(request("uma"))
        assert {"mature", "sensitive"} <= set(refs(found))
        noted = [one.ref for one in found.candidates if "reader_is_adult" in one.attributes]
        assert noted == ["sensitive"], "the policy is told where it asks, and nowhere else"
        (described,) = feed.describe(request("uma"), ["sensitive"])
        assert described.attributes["reader_is_adult"] is True
        (withheld,) = feed.describe(request("uma", is_adult=False), ["sensitive"])
        assert "reader_is_adult" not in withheld.attributes
        assert "mature" not in refs(feed.retrieve(request("uma", is_adult=False)))

    def test_a_region_that_a_post_names_is_the_only_one(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 5)
        told.post("german", regions="de at")
        assert dropped(feed.retrieve(request("uma", region="fr"))) == {"german": "region"}
        assert dropped(feed.retrieve(request("uma"))) == {"german": "region"}
        assert "german" in refs(feed.retrieve(request("uma", region="at")))

    def test_old_posts_go_to_the_second(self, feed: FeedRetrieval, told: Told) -> None:
        told.post("old", age_us=TOO_OLD_US)
        assert refs(feed.retrieve(request("uma"))) == ["old"]
        late = feed.retrieve(request("uma", at_us=NOW_US + 1))
        assert (refs(late), dropped(late)) == ([], {"old": "too_old"})
        assert dropped(feed.retrieve(request("uma", at_us=NOW_US + DAY_US))) == {"old": "too_old"}

    def test_moderation_takes_a_post_out_at_once_and_gives_it_back(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 30)
        adopt(feed, p1=[("p7", 0.5)])
        told.event("click", {"user": "uma", "post": "p1"})
        verdict = told.event("moderation", {"post": "p7"}, verdict="removed")
        found = feed.retrieve(request("uma"))
        assert dropped(found)["p7"] == "removed"
        assert "p7" not in refs(found)
        told.withdraw(verdict, "moderation")
        found = feed.retrieve(request("uma"))
        assert {"two_tower", "neighbours"} <= set(get(found, "p7").source.split("+"))

    def test_only_one_topic_is_shown_where_it_is_asked_for(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 40)
        adopt(feed)
        found = feed.retrieve(request("uma", only_topic="tea"))
        assert set(refs(found)) == {f"p{n}" for n in range(1, 40, 4)}
        assert not dropped(found)
        assert len(feed.retrieve(request("uma", only_topic="unheard")).candidates) == 0

    def test_no_more_than_a_hundred_of_the_ruled_out_are_kept(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 600)
        told.slate("uma", *(f"p{n}" for n in range(300, 600)))
        for number in range(300, 600):
            told.event("like", {"user": "vic", "post": f"p{number}"})
            told.event("like", {"user": f"u{number}", "post": f"p{number}"})
        found = feed.retrieve(request("uma"))
        assert len(dropped(found)) == DROPPED
        assert set(dropped(found).values()) == {"seen"}

    @pytest.mark.parametrize("ref", ["seen", "mature", "gone", "muted", "open"])
    def test_why_a_post_is_hidden_can_be_asked(self, feed: FeedRetrieval, told: Told, ref: str) -> None:
        for name in ("seen", "mature", "muted", "open"):
            told.post(name, author=f"by {name}", is_mature=name == "mature")
        told.slate("uma", "seen")
        told.event("mute", {"user": "uma", "author": "by muted"})
        assert feed.why_hidden(request("uma"), ref) == {"gone": "removed", "open": ""}.get(ref, ref)


class TestAtOnce:
    def test_a_new_post_is_there_at_the_next_request(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 50)
        adopt(feed)
        told.post("new", topic="tea", author="stranger")
        found = feed.retrieve(request("uma"))
        assert {"two_tower", "fresh"} <= set(get(found, "new").source.split("+"))

    def test_a_deleted_post_is_nowhere(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 50)
        id_ = told.post("new", topic="tea")
        adopt(feed, p1=[("new", 0.5)])
        for user in ("uma", "vic"):
            told.event("like", {"user": user, "post": "p1"})
            told.event("like", {"user": user, "post": "new"})
        told.withdraw(id_, "post")
        told.post("other", topic="tea")
        found = feed.retrieve(request("uma"))
        assert "new" not in {candidate.ref for candidate in found.candidates}
        assert "other" in refs(found)
        assert feed.describe(request("uma"), ["new"]) == (Candidate("new"),)

    def test_an_edit_moves_a_post(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 50)
        id_ = told.post("new", topic="tea")
        adopt(feed)
        told.event("post", {"post": "new", "author": "ann", "topic": "cars"}, corrects=id_)
        found = feed.retrieve(request("uma", only_topic="cars", recent="p2"))
        assert cast("float", get(found, "new").attributes["similar"]) > 0.9
        assert "new" not in refs(feed.retrieve(request("uma", only_topic="tea")))

    def test_what_happens_while_a_model_is_adopted_is_in_its_index(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 20)
        gone = told.post("gone", topic="tea")

        class Slow(Towers):
            def item_vectors(self, ids: Any, sides: Any) -> Any:
                made = super().item_vectors(ids, sides)
                if len(ids) > 10:
                    told.post("new", topic="tea")
                    told.withdraw(gone, "post")
                return made

        adopt(feed, Slow(TOPICS))
        found = feed.retrieve(request("uma"))
        assert "two_tower" in get(found, "new").source
        assert "gone" not in {candidate.ref for candidate in found.candidates}
        assert feed._sight.index is not None
        assert len(feed._sight.index) == 21

    def test_popularity_is_in_the_product_and_not_in_likeness(self, feed: FeedRetrieval, told: Told) -> None:
        class Liked(Towers):
            def item_vectors(self, ids: Any, sides: Any) -> Any:
                rows = super().item_vectors(ids, sides)
                rows[:, -1] = [0.4 if id_ == "hit" else -0.3 for id_ in ids]
                return rows

            def user_vector(self, vectors: Any, weights: Any, *, sides: Any) -> Any:
                reader = super().user_vector(bare(vectors), weights, sides=sides)
                reader[-1] = 1.0
                return reader

        for name, topic in (("read", "tea"), ("hit", "tea"), ("miss", "tea")):
            told.post(name, topic=topic)
        told.event("like", {"user": "uma", "post": "read"})
        adopt(feed, Liked(TOPICS))
        hit, miss = (get(feed.retrieve(request("uma")), name).attributes for name in ("hit", "miss"))
        assert cast("float", hit["two_tower"]) - cast("float", miss["two_tower"]) == pytest.approx(0.7, abs=0.02)
        assert hit["similar"] == pytest.approx(miss["similar"], abs=0.02)
        nudges = sum(b"hit") % 32, sum(b"miss") % 32
        assert 31 not in nudges
        assert hit["sketch"] == miss["sketch"]

    def test_without_a_model_again_there_are_no_vectors(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 20)
        adopt(feed)
        feed.adopt(None)
        found = feed.retrieve(request("uma"))
        assert len(refs(found)) == 20
        assert not {"two_tower", "sketch", "similar"} & get(found, "p1").attributes.keys()

    def test_a_model_with_vectors_that_are_not_finite_is_refused(self, feed: FeedRetrieval, told: Told) -> None:
        class Broken(Towers):
            def item_vectors(self, ids: Any, sides: Any) -> Any:
                return super().item_vectors(ids, sides) * np.nan

        fill(told, 20)
        adopt(feed)
        with pytest.raises(ModelError, match="not finite"):
            adopt(feed, Broken(TOPICS))
        assert by(feed.retrieve(request("uma")), "two_tower")
        assert feed._changed is None

    def test_each_model_finds_with_its_own_and_both_follow(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 40)
        gone = told.post("gone", topic="tea")
        champion, challenger = funnel(p1=[("p7", 0.5)]), funnel(p1=[("p2", 0.25)])
        feed.adopt(champion)
        feed.adopt(challenger, aside=True)
        told.event("click", {"user": "uma", "post": "p1"})
        told.post("new", topic="tea")
        told.withdraw(gone, "post")
        for model, neighbour in ((champion, "p7"), (challenger, "p2"), (None, "p7"), (funnel(), "p7")):
            found = feed.retrieve(request("uma"), model)
            assert by(found, "neighbours") == [neighbour]
            assert "two_tower" in get(found, "new").source
            assert "gone" not in {candidate.ref for candidate in found.candidates}
        assert by(feed.retrieve(request("uma"), cast("Any", object())), "two_tower") == []

    def test_a_sight_goes_when_nobody_holds_its_model(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 20)
        champion, challenger = funnel(), funnel()
        feed.adopt(champion)
        feed.adopt(challenger, aside=True)
        index = weakref.ref(cast("Any", feed._sights[challenger].index))
        assert index() is not None
        del challenger
        gc.collect()
        assert index() is None
        assert list(feed._sights) == [champion]

    def test_what_was_made_aside_is_adopted_without_being_made_again(self, feed: FeedRetrieval, told: Told) -> None:
        class Counted(Towers):
            made = 0

            def item_vectors(self, ids: Any, sides: Any) -> Any:
                Counted.made += len(ids)
                return super().item_vectors(ids, sides)

        fill(told, 20)
        model = funnel(Counted(TOPICS))
        feed.adopt(model, aside=True)
        assert (Counted.made, feed._sight.index) == (20, None)
        feed.adopt(model)
        assert Counted.made == 20
        assert feed._sight.index is not None

    def test_what_happens_while_models_are_made_ready_at_once_is_in_each(self, feed: FeedRetrieval, told: Told) -> None:
        """A promotion does not wait for a challenger that is being loaded, and neither misses a post."""
        begun, may_go = threading.Event(), threading.Event()

        class Slow(Towers):
            def item_vectors(self, ids: Any, sides: Any) -> Any:
                made = super().item_vectors(ids, sides)
                if len(ids) > 10:
                    begun.set()
                    assert may_go.wait(60)
                return made

        fill(told, 20)
        champion, challenger = funnel(), funnel(Slow(TOPICS))
        feed.adopt(champion, aside=True)
        loading = threading.Thread(target=lambda: feed.adopt(challenger, aside=True))
        loading.start()
        try:
            assert begun.wait(60)
            told.post("new", topic="tea")
            assert "two_tower" not in get(feed.retrieve(request("uma"), challenger), "new").source
            feed.adopt(champion)
            assert "two_tower" in get(feed.retrieve(request("uma"), champion), "new").source
        finally:
            may_go.set()
            loading.join()
        for model in (champion, challenger):
            assert "two_tower" in get(feed.retrieve(request("uma"), model), "new").source

    def test_a_model_that_finds_nothing_itself_is_a_challenger_too(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 20)
        champion, ranker = funnel(), Prior(0.1, width=3)
        feed.adopt(champion)
        feed.adopt(ranker, aside=True)
        assert by(feed.retrieve(request("uma"), champion), "two_tower")
        assert not by(feed.retrieve(request("uma"), ranker), "two_tower")

    def test_a_post_that_goes_while_it_is_asked_for_is_not_shown(
        self, feed: FeedRetrieval, told: Told, source: Any
    ) -> None:
        fill(told, 20)
        gone = told.post("gone")

        def meanwhile(sight: Sight, asked: Asked, *, k: int) -> Found:
            slots = np.array([feed.catalogue.slot("gone")])
            told.withdraw(gone, "post")
            return Found(slots)

        source("fresh", meanwhile)
        for name in SOURCES.keys() - {"fresh"}:
            source(name, lambda sight, asked, *, k: Found(np.zeros(0, np.int64)))
        assert refs(feed.retrieve(request("uma"))) == []

    def test_a_post_that_a_model_cannot_place_is_found_otherwise(self, feed: FeedRetrieval, told: Told) -> None:
        class Picky(Towers):
            def item_vectors(self, ids: Any, sides: Any) -> Any:
                if "odd" in ids:
                    raise KeyError("odd")
                return super().item_vectors(ids, sides)

        fill(told, 5)
        adopt(feed, Picky(TOPICS))
        told.post("odd")
        source = get(feed.retrieve(request("uma")), "odd").source
        assert source.startswith("fresh")


class TestDeadline:
    def test_what_does_not_answer_is_late_and_the_others_count(
        self, told: Told, source: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        feed = FeedRetrieval(deadline_ms=LONG_MS)
        told.followers = (feed,)
        fill(told, 20)
        release, asked = threading.Event(), threading.Semaphore(0)

        def hangs(sight: Sight, _: Asked, *, k: int) -> Found:
            asked.release()
            assert release.wait(60)
            return Found(np.zeros(0, np.int64))

        source("fresh", hangs)
        monkeypatch.setattr(feed, "deadline_ms", 50.0)
        try:
            for _ in range(AT_ONCE):
                found = feed.retrieve(request("uma"))
                assert "fresh" in found.late
            for _ in range(AT_ONCE):
                assert asked.acquire(timeout=60)
            monkeypatch.setattr(feed, "deadline_ms", 60_000.0)
            found = feed.retrieve(request("uma"))
            assert found.late == ("fresh",)
            assert len(refs(found)) == 20
            assert not asked.acquire(blocking=False)
        finally:
            release.set()
        while feed.retrieve(request("uma")).late:
            pass

    def test_a_source_that_raises_is_late(self, feed: FeedRetrieval, told: Told, source: Any) -> None:
        def breaks(sight: Sight, asked: Asked, *, k: int) -> Found:
            raise RuntimeError

        fill(told, 20)
        adopt(feed)
        source("two_tower", breaks)
        source("popular", breaks)
        for _ in range(2 * AT_ONCE):
            found = feed.retrieve(request("uma"))
            assert found.late == ("two_tower", "popular")
            assert len(refs(found)) == 20
        assert "two_tower" not in get(found, "p1").attributes
        assert set(found.stages_us) == {*SOURCES, "filters", "merge"}

    def test_where_all_are_late_nothing_competes(self, feed: FeedRetrieval, told: Told, source: Any) -> None:
        fill(told, 5)
        for name in SOURCES:
            source(name, lambda sight, asked, *, k: 1 / 0)
        found = feed.retrieve(request("uma"))
        assert len(found.candidates) == 0
        assert found.late == tuple(SOURCES)


class TestMerging:
    def test_at_most_500_compete_and_each_source_keeps_its_quota(
        self, feed: FeedRetrieval, told: Told, source: Any
    ) -> None:
        fill(told, 500)
        for number in range(800):
            told.post(f"q{number}")
        firsts = np.arange(len(SOURCES)) * 180
        for name, first in zip(SOURCES, firsts.tolist(), strict=True):
            source(name, lambda sight, asked, *, k, first=first: Found(np.arange(first, first + min(k, 180))))
        found = feed.retrieve(request("uma"))
        assert len(refs(found)) == len(set(refs(found))) == MOST
        assert {name: len(by(found, name)) for name in SOURCES} == {name: part[2] for name, part in SOURCES.items()}

    def test_places_that_a_source_leaves_go_to_the_others(self, feed: FeedRetrieval, told: Told, source: Any) -> None:
        fill(told, 700)
        nothing = Found(np.zeros(0, np.int64))
        for name in SOURCES:
            source(name, lambda sight, asked, *, k: nothing)
        source("two_tower", lambda sight, asked, *, k: Found(np.arange(k)))
        source("fresh", lambda sight, asked, *, k: Found(np.arange(600, 600 + k)))
        found = feed.retrieve(request("uma"))
        assert {name: len(by(found, name)) for name in ("two_tower", "fresh")} == {"two_tower": 240, "fresh": 80}

    def test_what_several_found_names_them_all(self, feed: FeedRetrieval, told: Told) -> None:
        fill(told, 10)
        adopt(feed, p1=[("p7", 0.5)])
        told.event("click", {"user": "uma", "post": "p1"})
        told.event("follow", {"user": "uma", "author": "a0"})
        told.event("like", {"user": "vic", "post": "p7"})
        found = feed.retrieve(request("uma"))
        assert get(found, "p7").source == "two_tower+neighbours+following+similar+popular+fresh+explore"


class TestFacts:
    def test_a_candidate_has_its_entities_and_facts(self, feed: FeedRetrieval, told: Told) -> None:
        told.post("first", author="ann", age_us=2 * DAY_US)
        told.post("p", author="ann", topic="tea", language="de", labels="long read", age_us=90_000_000)
        told.event("moderation", {"post": "p"}, verdict="limited")
        adopt(feed)
        for user in ("uma", "vic"):
            told.event("follow", {"user": user, "author": "ann"})
        told.event("like", {"user": "wes", "post": "p"})
        found = get(feed.retrieve(request("uma")), "p")
        assert found.entities == {"post": token("p"), "author": token("ann"), "topic": token("tea")}
        vectors = Towers(TOPICS).item_vectors(["p"], {"topic": ["tea"]})
        bits = int(found.attributes.pop("sketch")) & (2**64 - 1)
        assert [bits >> bit & 1 for bit in range(DIM)] == (vectors[0] >= 0).astype(int).tolist()
        assert isinstance(found.attributes.pop("two_tower"), float)
        assert found.attributes == {
            "author": "ann",
            "topic": "tea",
            "post_language": "de",
            "age_s": 90,
            "in_network": True,
            "readable": True,
            "looked_at": False,
            "leaning": 0.5,
            "integrity": "limited",
            "labels": "long read",
            "author_followers": 2,
            "author_age_s": 2 * 86_400,
            "author_posts": 2,
            "popular_rank": 1,
            "fresh_rank": 1,
            "following_rank": 1,
        }

    def test_a_language_is_a_readers_by_what_they_say_or_take_up(self, feed: FeedRetrieval, told: Told) -> None:
        for number in range(12):
            told.post(f"en-{number}", language="en")
        told.post("de", language="de")
        told.post("es", language="es")
        told.post("none")
        for post in ("es", *(f"en-{number}" for number in range(10))):
            told.event("click", {"user": "uma", "post": post})
        posts = ["en-11", "de", "es", "none"]

        def readable(user: str, **said: Any) -> list[object]:
            return [one.attributes["readable"] for one in feed.describe(request(user, **said), posts)]

        assert readable("uma") == [True, False, False, True], "one post of many may be a slip"
        assert readable("uma", language="de") == [True, True, False, True]
        assert readable("new", language="de") == [False, True, False, True]
        assert readable("new") == [True, True, True, True], "of whom nothing is known"

    def test_what_a_reader_chose_and_whom_they_follow_says_what_they_like(
        self, feed: FeedRetrieval, told: Told
    ) -> None:
        for name, author, topic in (("a", "ann", "tea"), ("b", "ann", "jazz"), ("c", "ann", "tea"), ("d", "bob", "go")):
            told.post(name, author=author, topic=topic)
        told.event("follow", {"user": "uma", "author": "ann"})
        told.event("follow", {"user": "vic", "topic": "go"})

        def told_of(user: str) -> list[tuple[object, object]]:
            found = feed.describe(request(user), ["a", "b", "d"])
            return [(one.attributes["leaning"], one.attributes.get("interest")) for one in found]

        assert told_of("uma") == [(2 / 3, None), (1 / 3, None), (0.0, None)]
        assert told_of("vic") == [(0.0, False), (0.0, False), (0.0, True)]

    def test_a_model_says_what_a_reader_is_believed_to_like(self, feed: FeedRetrieval, told: Told) -> None:
        for name, topic in (("a", "tea"), ("b", "cake"), ("c", "go"), ("d", "new")):
            told.post(name, author=f"of {topic}", topic=topic)
        for user, kind, named in (
            ("uma", "follow", {"topic": "tea"}),
            ("vic", "follow", {"author": "of cake"}),
            ("wes", "like", {"post": "a"}),
        ):
            told.event(kind, {"user": user, **named})
        told.slate("xia", "a", "b")
        told.slate("wes", "c")
        model = Funnel(Towers(TOPICS), Neighbours({}))
        model.kin = Kinship(("cake", "go", "tea"), np.array([[0.8, 0.6], [0.0, -1.0], [1.0, 0.0]]))
        feed.adopt(cast("Any", model))

        def liking(asked: Event, refs: str = "abcd") -> list[float]:
            return [cast("float", one.attributes["liking"]) for one in feed.describe(asked, list(refs))]

        tea, cake, go, new = liking(request("uma"))
        assert tea > cake > 0 > go
        assert new == 0.0, "a topic that the model never met is kin to none"
        tea, cake, go, _ = liking(request("vic"))
        assert cake > tea > 0 > go
        once, authors = liking(request("wes")), liking(request("vic"))
        assert once[0] > 0
        assert liking(request("wes")) < liking(request("uma")), "one post says less than a choice"
        assert liking(request("wes", recent="b"))[1] > liking(request("wes"))[1], "what they read since counts at once"
        assert liking(request("xia")) == [0.0] * 4, "nothing was taken up yet"
        unprofiled = msgspec.structs.replace(request("uma"), attributes={UNPROFILED: True})
        assert "liking" not in feed.describe(unprofiled, ["a"])[0].attributes
        for late in ("dwell", "reply", "share"):
            told.slate("wes", "c")
            told.event(late, {"user": "wes", "post": "a"}, value=20.0)
        assert liking(request("wes")) == pytest.approx(once), "whatever was done with a post, it counts once"
        for number in range(9):
            told.event("follow", {"user": "vic", "topic": f"beyond {number}"})
        assert liking(request("vic")) == pytest.approx(authors), "topics followed are no authors"
        told.post("e", topic="later")
        assert liking(request("uma"), "e") == [0.0]

    def test_a_post_without_author_and_topic_has_no_token_for_them(self, feed: FeedRetrieval, told: Told) -> None:
        told.post("p", author="", topic="")
        found = get(feed.retrieve(request("uma")), "p")
        assert found.entities == {"post": token("p")}
        assert (found.attributes["author"], found.attributes["topic"]) == ("", "")

    def test_one_post_is_told_by_its_name(self, feed: FeedRetrieval, told: Told) -> None:
        told.post("p", author="ann", topic="tea", age_us=60_000_000)
        told.post("q")
        never, found = feed.describe(request("uma"), ["never", "p"])
        assert never == Candidate("never")
        assert (found.ref, found.source, found.dropped) == ("p", "", "")
        assert found.entities == {"post": token("p"), "author": token("ann"), "topic": token("tea")}
        assert found.attributes["age_s"] == 60
        assert found.attributes["in_network"] is False


@pytest.mark.parametrize("said", [{}, {"region": "de", "language": "de"}, {"recent": "never p1"}, {"surface": "home"}])
def test_readers_without_a_name_or_a_past_get_posts(feed: FeedRetrieval, told: Told, said: dict[str, Any]) -> None:
    fill(told, 30)
    adopt(feed)
    for who in ("", "stranger"):
        assert len(refs(feed.retrieve(request(who, **said)))) == 30 - ("recent" in said)
    assert len(feed.people) == 0


def test_two_threads_may_ask_while_posts_come_and_go(told: Told) -> None:
    feed = FeedRetrieval(deadline_ms=LONG_MS)
    told.followers = (feed,)
    fill(told, 300)
    adopt(feed)
    wrong: list[object] = []
    done = threading.Event()

    def ask(user: str) -> None:
        while not done.is_set():
            found = feed.retrieve(request(user))
            if found.late:
                wrong.append(found.late)

    threads = [threading.Thread(target=ask, args=(user,)) for user in ("uma", "vic")]
    for thread in threads:
        thread.start()
    for number in range(300):
        id_ = told.post(f"n{number}", topic="tea")
        told.event("like", {"user": "uma", "post": f"n{number}"})
        if number % 2:
            told.withdraw(id_, "post")
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
