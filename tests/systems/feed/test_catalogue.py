"""The catalogue of feed, on a handful of posts: what comes, changes, is judged, and goes; and who may see it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.systems.feed.catalogued import DAY_US, NOW_US, Told, token

from decalog.systems.feed import catalogue as module
from decalog.systems.feed.catalogue import LATEST, RULES, TOO_OLD_US, Catalogue, Post


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def told(catalogue: Catalogue) -> Told:
    return Told(catalogue)


def eligible(catalogue: Catalogue, region: str = "", *, is_adult: bool = False, now_us: int = NOW_US) -> set[str]:
    mask = catalogue.eligible(region, is_adult=is_adult, now_us=now_us)
    names = {catalogue.posts["ref"][slot] for slot in np.flatnonzero(mask)}
    # The mask and the reason say the same of each post, but within the hour for what is too old.
    for ref in (ref for ref in catalogue.posts["ref"][: catalogue.used] if catalogue.slot(ref) >= 0):
        (rule,) = catalogue.ruled_out(np.array([catalogue.slot(ref)]), region, is_adult=is_adult, now_us=now_us)
        assert (ref in names) == (rule == len(RULES))
    return names


def test_a_post_is_known_by_its_name(catalogue: Catalogue, told: Told) -> None:
    told.post("p1", language="de", regions="de at", labels="long", is_mature=True, age_us=5)
    assert catalogue.post("p1") == Post("p1", "ann", "art", "de", ("at", "de"), NOW_US - 5, True, "", 0)
    assert catalogue.post("p2") is None
    assert catalogue.slot("p2") == catalogue.handle("p2") == -1
    assert catalogue.labels[catalogue.slot("p1")] == "long"
    assert catalogue.posts["token"][catalogue.slot("p1")] == token("p1")
    assert len(catalogue) == 1


def test_a_correction_edits_a_post_and_makes_it_no_younger(catalogue: Catalogue, told: Told) -> None:
    first = told.post("p1", age_us=DAY_US)
    told.event("post", {"post": "p1", "author": "bob", "topic": "tea"}, corrects=first, language="en")
    assert catalogue.post("p1") == Post("p1", "bob", "tea", "en", (), NOW_US - DAY_US, False, "", 0)
    ann, bob = (catalogue.author.code(token(name)) for name in ("ann", "bob"))
    assert catalogue.authors["posts"][[ann, bob]].tolist() == [0, 1]
    assert (catalogue.by_author[ann], catalogue.by_author[bob]) == ([], [catalogue.slot("p1")])


def test_a_correction_to_another_name_takes_the_first_one_out(catalogue: Catalogue, told: Told) -> None:
    first = told.post("p1")
    told.event("post", {"post": "p2", "author": "ann", "topic": "art"}, corrects=first)
    assert catalogue.post("p1") is None
    assert catalogue.post("p2") is not None
    assert eligible(catalogue) == {"p2"}


def test_a_deletion_takes_a_post_out_at_once(catalogue: Catalogue, told: Told) -> None:
    id_ = told.post("p1")
    told.post("p2")
    told.withdraw(id_, "post")
    assert catalogue.post("p1") is None
    assert eligible(catalogue) == {"p2"}
    told.withdraw(id_, "post")
    told.withdraw(told.event("post", {"author": "ann"}), "post")
    assert len(catalogue) == 1


def test_the_last_event_about_a_post_is_the_one_whose_deletion_counts(catalogue: Catalogue, told: Told) -> None:
    first, second = told.post("p1"), told.post("p1", language="fr")
    told.withdraw(first, "post")
    assert catalogue.post("p1") is not None
    told.withdraw(second, "post")
    assert catalogue.post("p1") is None
    assert not catalogue._roots


def test_nothing_of_a_post_that_went_is_laid_to_the_next_in_its_slot(catalogue: Catalogue, told: Told) -> None:
    id_ = told.post("p1")
    handle, slot = catalogue.handle("p1"), catalogue.slot("p1")
    catalogue.count_shown(handle)
    told.withdraw(id_, "post")
    told.post("p2")
    assert catalogue.slot("p2") == slot
    assert catalogue.standing(np.array([handle, catalogue.handle("p2"), -1])).tolist() == [-1, slot, -1]
    assert catalogue.posts["shown"][slot] == 0
    assert catalogue.latest().tolist() == [slot]


@pytest.mark.parametrize("region", ["", "de", "fr", "nowhere"])
@pytest.mark.parametrize("is_adult", [False, True])
def test_masks_know_region_age_and_what_is_mature(
    catalogue: Catalogue, told: Told, region: str, is_adult: bool
) -> None:
    told.post("everywhere")
    told.post("german", regions="de at")
    told.post("mature", is_mature=True)
    told.post("old", age_us=TOO_OLD_US + DAY_US)
    told.post("nearly old", age_us=TOO_OLD_US)
    wanted = {"everywhere", "nearly old"} | ({"german"} if region == "de" else set())
    wanted |= {"mature"} if is_adult else set()
    assert eligible(catalogue, region, is_adult=is_adult) == wanted
    assert eligible(catalogue, region, is_adult=is_adult, now_us=NOW_US + DAY_US) == wanted - {"nearly old"}


def test_a_mask_that_is_kept_follows_what_changes(catalogue: Catalogue, told: Told) -> None:
    told.post("p1")
    assert eligible(catalogue, "de") == {"p1"}
    second = told.post("p2")
    third = told.post("p3", regions="fr")
    assert eligible(catalogue, "de") == {"p1", "p2"}
    told.event("post", {"post": "p3", "author": "ann"}, corrects=third)
    told.event("post", {"post": "p2", "author": "ann"}, corrects=second, is_mature=True)
    assert eligible(catalogue, "de") == {"p1", "p3"}
    assert len(catalogue._masks) == 1


def test_masks_are_bounded_and_regions_that_no_post_names_share_one(catalogue: Catalogue, told: Told) -> None:
    told.post("p", regions=" ".join(f"r{number}" for number in range(100)))
    for number in range(200):
        assert eligible(catalogue, f"r{number}") == ({"p"} if number < 100 else set())
    assert len(catalogue._masks) == 32


def test_the_catalogue_grows_past_its_first_room(catalogue: Catalogue, told: Told) -> None:
    told.post("p0")
    eligible(catalogue)
    for number in range(1, 1_500):
        told.post(f"p{number}", author=f"a{number % 1_200}")
    assert len(eligible(catalogue)) == len(catalogue) == 1_500


class TestVerdicts:
    def test_the_last_verdict_holds(self, catalogue: Catalogue, told: Told) -> None:
        told.post("p1")
        for verdict in ("limited", "sensitive", "removed", "clear"):
            told.event("moderation", {"post": "p1"}, verdict=verdict)
            assert self.verdict(catalogue) == verdict.replace("clear", "")
            assert eligible(catalogue) == ({"p1"} if verdict in ("limited", "clear") else set())
            assert eligible(catalogue, is_adult=True) == (set() if verdict == "removed" else {"p1"})
            slots = np.array([catalogue.slot("p1")])
            assert catalogue.integrity(slots) == [verdict if verdict in ("limited", "sensitive") else ""]
            assert catalogue.is_shown(slots).tolist() == [verdict != "removed"]

    def test_a_verdict_may_come_before_its_post_and_outlives_an_edit(self, catalogue: Catalogue, told: Told) -> None:
        told.event("moderation", {"post": "p1"}, verdict="removed")
        first = told.post("p1")
        assert self.verdict(catalogue) == "removed"
        told.event("post", {"post": "p1", "author": "ann"}, corrects=first)
        assert self.verdict(catalogue) == "removed"

    def test_where_the_last_is_withdrawn_the_one_before_holds_again(self, catalogue: Catalogue, told: Told) -> None:
        told.post("p1")
        told.event("moderation", {"post": "p1"}, verdict="limited")
        last = told.event("moderation", {"post": "p1"}, verdict="removed")
        told.withdraw(last, "moderation")
        assert self.verdict(catalogue) == "limited"
        told.withdraw(last, "moderation")
        assert self.verdict(catalogue) == "limited"

    def test_a_corrected_verdict_may_concern_another_post(self, catalogue: Catalogue, told: Told) -> None:
        told.post("p1")
        told.post("p2")
        wrong = told.event("moderation", {"post": "p1"}, verdict="removed")
        told.event("moderation", {"post": "p2"}, verdict="limited", corrects=wrong)
        assert self.verdict(catalogue) == ""
        assert self.verdict(catalogue, "p2") == "limited"

    @staticmethod
    def verdict(catalogue: Catalogue, ref: str = "p1") -> str:
        post = catalogue.post(ref)
        assert post is not None
        return post.verdict


def test_only_the_posts_that_came_last_are_the_latest(
    catalogue: Catalogue, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATEST", 3)
    catalogue._latest = catalogue._latest[:3]
    for number in range(5):
        told.post(f"p{number}")
    assert {catalogue.posts["ref"][slot] for slot in catalogue.latest()} == {"p2", "p3", "p4"}
    assert LATEST > 1_000


def test_a_name_keeps_its_number_when_its_token_changes() -> None:
    codes = module.Codes()
    assert [codes.add("ann", 7), codes.add("bob"), codes.add("ann", 8), codes.add("", 9)] == [1, 2, 1, 0]
    assert [codes.code(key) for key in ("ann", 7, 8, "bob", "eve", 9, 0)] == [1, 1, 1, 2, 0, 0, 0]
    assert codes.tokens[:3].tolist() == [0, 8, 0]
    assert codes.mask((8, "eve")).tolist() == [False, True, False]
