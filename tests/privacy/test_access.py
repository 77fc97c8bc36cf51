"""What a person is told: all that is kept of them, and the logic of each decision."""

from __future__ import annotations

from pathlib import Path

from tests.homes import add_model
from tests.privacy.people import ADA, READER, SECRETS, clock_of, feed_home, fill, of_ada, shop

from decalog.privacy import here
from decalog.privacy.access import account
from decalog.privacy.erasing import erase
from decalog.privacy.live import Asked


def test_all_that_is_kept_is_told_in_the_clear(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    here.do(home, "fraud", asked=Asked(act="notice", id="adm-1"), clock=clock_of(home))
    add_model(home.root)
    with shop(home.root) as made:
        decided = made.decide(of_ada("ada-late", amount_minor=400_000))["decision"]
    here.do(home, "fraud", asked=Asked(act="opt_out", person=ADA), clock=clock_of(home))
    here.contest_here(home, "fraud", decision="ada-late", said="mine", clock=clock_of(home))
    told = account(home, "fraud", person=ADA)
    assert told.found
    assert [one.id for one in told.records] == ["ada-0", "ada-1", "ada-3", "ada-2", "ada-late"]
    by_id = {one.id: one for one in told.records}
    assert by_id["ada-0"].personal == SECRETS
    assert by_id["ada-2"].personal["cardholder"] == "Ada King", "the present image"
    assert by_id["ada-0"].public["amount_minor"] == 2_500
    assert [(one.kind, one.value) for one in by_id["ada-0"].outcomes] == [("chargeback", 1.0)]
    late = by_id["ada-late"].decision
    assert late is not None
    assert (late.id, late.notice, late.fallback) == (decided.id, "adm-1", "")
    assert late.reasons == decided.choice.reasons
    assert late.predictions == decided.candidates[0].predictions
    assert late.versions["model"] == decided.versions.model
    assert late.would_change or late.not_explained
    assert told.quarantined == 1
    assert told.contests == (decided.id,)
    assert [wish.split(" since ")[0] for wish in told.wishes] == ["opted_out"]
    assert told.looked == (f"{by_id['ada-1'].outcomes[0].event_time}, x7: analyst_verdict of ada-1",)
    text = told.text()
    for words in (
        "Ada Lovelace",
        "because p_fraud",
        "wish: opted_out",
        f"contested: decision {decided.id}",
        "notice adm-1",
    ):
        assert words in text
    assert "Bob" not in text


def test_only_the_newest_are_explained_where_there_are_many(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    told = account(home, "fraud", person=ADA, most=1)
    notes = [one.decision.not_explained for one in told.records if one.decision is not None]
    assert notes.count("not explained: others are newer") == 3


def test_a_slate_is_told_thing_by_thing(tmp_path: Path) -> None:
    home = feed_home(tmp_path / "var")
    told = account(home, "feed", person=READER)
    kinds = [one.kind for one in told.records]
    assert kinds == ["follow", "profile", "feed_request"]
    assert told.records[1].personal["comment"] == f"a note on {READER}"
    slate = told.records[2].decision
    assert slate is not None
    assert slate.action == "show"
    assert any(line.startswith("slot 0: post-") for line in slate.because) or slate.not_explained
    assert [one.kind for one in told.records[2].outcomes] == ["click"]


def test_who_is_unknown_or_erased_is_told_so(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    assert account(home, "fraud", person="nobody").text() == "nothing is kept of anybody of that name"
    erase(home, "fraud", person=ADA, clock=clock_of(home))
    assert not account(home, "fraud", person=ADA).found
