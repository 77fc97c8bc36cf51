"""Recall over the whole catalogue: who is asked for, what is to be found, and what stands in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.systems.feed.catalogued import NOW_US, Funnel, Neighbours, Told, Towers, request, token

from decalog.errors import DataError
from decalog.evaluation import measure
from decalog.events import Event
from decalog.home import Home
from decalog.metrics import Measurement
from decalog.models.base import Acts, Model, SlateSet
from decalog.models.ranking import Lists
from decalog.operations import quiet, train_on_world
from decalog.reports import Contender, Unmeasured
from decalog.systems.feed import recall
from decalog.systems.feed.metrics import FOUND, Finds, over_readers
from decalog.systems.feed.recall import POPULAR, RANDOM, found_by, judged
from decalog.systems.feed.retrieval import MOST, FeedRetrieval
from decalog.systems.feed.schema import SCHEMA

HEADS = tuple(signal.head for signal in SCHEMA.signals)
TOPICS = ("art", "tea", "cars", "news")
POSTS = 80
NAMES = [metric.name for metric in FOUND]

Shown = tuple[str, Sequence[str], Mapping[str, str]]
"""Who was shown which posts, and what was done with some of them."""


class Again:
    """The log behind a part: retrieval stands still, and is asked slate by slate."""

    def __init__(self, feed: FeedRetrieval, slates: Sequence[Shown]) -> None:
        self.feed, self.slates = feed, slates
        self.asked: list[str] = []

    def followed(self, known_by: int) -> Any:
        raise NotImplementedError

    def redescribed(self, model: Any, places: Any) -> Any:
        raise NotImplementedError

    def revisited(self, model: Any, places: Any) -> Iterator[tuple[FeedRetrieval, Event, list[int]]]:
        self.feed.adopt(model)
        owner = np.repeat(np.arange(len(self.slates)), [len(refs) for _, refs, _ in self.slates])
        for slate, (user, _, _) in enumerate(self.slates):
            rows = np.flatnonzero(owner[places] == slate).tolist()
            if rows:
                self.asked.append(user)
                yield self.feed, request(user, id_=f"s{slate}"), rows


def part(feed: FeedRetrieval, *slates: Shown) -> SlateSet:
    """Returns slates as a part to be judged on."""
    rows = [(slate, user, ref, did.get(ref)) for slate, (user, refs, did) in enumerate(slates) for ref in refs]
    none = np.zeros(0, np.int64)
    return SlateSet(
        names=(),
        heads=HEADS,
        rows=np.zeros((len(rows), 0)),
        labels=np.array([[float(head == f"p_{did}") for head in HEADS] for *_, did in rows]),
        slates=np.array([slate for slate, *_ in rows], np.int64),
        seqs=np.zeros(len(rows), np.int64),
        times=np.full(len(rows), NOW_US),
        positions=np.zeros(len(rows), np.int64),
        propensities=np.ones(len(rows)),
        users=np.array([token(user) if user else -1 for _, user, *_ in rows], np.int64),
        refs=tuple(ref for _, _, ref, _ in rows),
        facts=({},) * len(rows),
        acts=Acts(none, none, none, (), (), np.zeros(0), none),
        known_by=NOW_US,
        places=np.arange(len(rows)),
        told=Again(feed, slates),
    )


@pytest.fixture
def feed() -> FeedRetrieval:
    """Eighty posts of four topics; ada is for tea and blocked an author."""
    feed = FeedRetrieval(deadline_ms=60_000.0)
    told = Told(feed)
    for number in range(POSTS):
        named = {"author": f"a{number % 10}", "topic": TOPICS[number % 4]}
        told.post(f"p{number}", age_us=(POSTS - number) * 60_000_000, **named)
    told.event("profile", {"user": "ada"}, interests="tea")
    told.event("block", {"user": "ada", "author": "a9"})
    told.slate("eve", "p3", "p2", id_="before")
    for reader in ("eve", "dan"):
        told.event("like", {"user": reader, "post": "p2"}, value=1)
    return feed


MODEL = cast("Model", Funnel(Towers(TOPICS), Neighbours({})))


def found(feed: FeedRetrieval, *slates: Shown) -> dict[str, Finds]:
    return found_by(MODEL, part(feed, *slates), name="all")


def values(finds: Finds) -> list[float]:
    return [measured.value for measured in measure(FOUND, finds)[0].values()]


def test_what_suits_a_reader_is_found_among_all_that_could_be_shown(feed: FeedRetrieval) -> None:
    rows = found(feed, ("ada", ["p77", "p70"], {"p77": "like"}))
    assert list(rows) == [RANDOM, POPULAR, "two_tower", "neighbours", "all"]
    # Eight of eighty posts are by the blocked author; of the twenty on tea, four are.
    assert values(rows[RANDOM])[0] == pytest.approx(20 / 72)
    assert values(rows[RANDOM])[2] == 1.0
    assert values(rows["two_tower"])[0] == 1.0
    assert values(rows["two_tower"])[1] > 0
    assert values(rows["neighbours"]) == [0.0, 0.0, 0.0]
    assert values(rows[POPULAR]) == [0.0, 0.0, 0.0]
    assert values(rows["all"])[2] == 1.0


def test_what_many_like_is_found_by_popularity(feed: FeedRetrieval) -> None:
    assert values(found(feed, ("ada", ["p2"], {"p2": "share"}))[POPULAR]) == [1.0, 1.0, 1.0]


def test_only_what_was_taken_up_and_could_be_shown_is_to_be_found(feed: FeedRetrieval) -> None:
    rows = found(
        feed,
        ("ada", ["p1", "p5"], {"p1": "hide"}),  # a hide is no wish
        ("ada", ["p9", "p13"], {"p9": "click"}),  # by an author whom ada blocked since
        ("eve", ["p3"], {"p3": "dwell"}),  # seen
        ("bob", ["gone"], {"gone": "reply"}),  # no such post any more
        ("bob", ["p1", "p5", "p9"], {"p1": "click", "p9": "reply"}),
    )
    assert rows["all"].readers.tolist() == [token("bob")]
    assert rows["all"].lists.wanted.tolist() == [2]
    assert rows[RANDOM].lists.hits[0].tolist() == [2 / POSTS] * POSTS + [0.0] * (MOST - POSTS)


def test_each_reader_counts_once_and_nobody_in_particular_once_a_slate(feed: FeedRetrieval) -> None:
    late = ("ada", ["p77"], {"p77": "click"})
    rows = found(feed, late, late, late, ("", ["p2"], {"p2": "click"}), ("", ["p2"], {"p2": "click"}))
    assert len(set(rows["all"].readers.tolist())) == 3
    recall_20 = measure(FOUND, rows[POPULAR])[0]["catalogue_recall_20"]
    assert recall_20.value == pytest.approx(2 / 3)
    assert recall_20.n == 3


def test_so_many_slates_are_drawn_and_always_the_same(feed: FeedRetrieval, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "SLATES", 3)
    slates: list[Shown] = [(f"u{number}", ["p2"], {"p2": "click"}) for number in range(20)]
    asked = []
    for seed in (0, 0, 1):
        data = part(feed, *slates)
        found_by(MODEL, data, name="all", seed=seed)
        asked.append(cast("Again", data.told).asked)
    assert [len(users) for users in asked] == [3, 3, 3]
    assert asked[0] == asked[1] != asked[2]


def test_without_towers_only_what_needs_none_is_listed(feed: FeedRetrieval) -> None:
    model = cast("Model", object())
    rows = found_by(model, part(feed, ("bob", ["p2"], {"p2": "click"})), name="logistic")
    assert list(rows) == [RANDOM, POPULAR, "logistic"]


def test_the_report_has_the_figures_in_the_models_own_row_and_below(feed: FeedRetrieval) -> None:
    other = Measurement(0.5, 0.4, 0.6, 9)
    lack = (*(Unmeasured(name, "lists") for name in NAMES), Unmeasured("gini", "showings"))
    before = [
        Contender(name=name, role="model", values={"click_auc": other}, missing=lack) for name in ("ranker", "funnel")
    ]
    data = part(feed, ("bob", ["p2"], {"p2": "click"}))
    after = judged(before, name="funnel", model=MODEL, test=data)
    assert [(one.name, one.role) for one in after] == [
        ("ranker", "model"),
        ("funnel", "model"),
        (RANDOM, "baseline"),
        (POPULAR, "baseline"),
        ("two_tower", "model"),
        ("neighbours", "model"),
    ]
    assert list(after[0].values) == ["click_auc"]
    assert list(after[1].values) == ["click_auc", *NAMES]
    assert list(after[2].values) == NAMES
    assert all(one.missing == lack[-1:] for one in after[:2])


def test_a_report_without_anything_to_find_says_what_it_lacks(feed: FeedRetrieval) -> None:
    before = [Contender(name="funnel", role="model", values={}, missing=())]
    assert judged(before, name="funnel", model=MODEL, test=part(feed, ("bob", ["p2"], {}))) == before
    untold = msgspec.structs.replace(part(feed, ("bob", ["p2"], {"p2": "click"})), told=None)
    assert judged(before, name="funnel", model=MODEL, test=untold) == before
    with pytest.raises(DataError, match="a later slate on which something was taken up that retrieval could have"):
        FOUND[0].compute(None)


def test_an_interval_is_of_samples_of_readers() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = over_readers(values)
    assert found.value == pytest.approx(values.mean())
    assert found.n == 400
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    # Two readers, one of whom has a hundred slates: the interval reaches from the one to the other.
    hits = np.zeros((101, 1))
    hits[:100] = 1.0
    lists = Finds(Lists(hits, np.ones(101, np.int64)), np.array([7] * 100 + [8]))
    measured = FOUND[0].compute(lists)
    assert (measured.value, measured.low, measured.high, measured.n) == (0.5, 0.0, 1.0, 2)


def test_training_asks_with_what_was_known_before_each_slate(tmp_path: Path) -> None:
    """On a small town, whole: the log is followed as it was written, and the model's row holds what was found."""
    made = train_on_world(Home(tmp_path / "home"), "feed", days=4, seed=1, scale=0.1, say=quiet).report
    funnel, chance = made.contender("funnel").values, made.contender(RANDOM).values
    assert set(NAMES) <= set(funnel)
    assert funnel["catalogue_recall_500"].value > chance["catalogue_recall_20"].value
    assert 0 < chance["catalogue_recall_20"].value < 1
    assert funnel["catalogue_recall_20"].n == chance["catalogue_recall_20"].n > 5
    assert not any(lack.metric in NAMES for one in made.contenders for lack in one.missing)
    assert "| random order (baseline) | – |" in made.markdown()
    assert RANDOM not in made.brief()
