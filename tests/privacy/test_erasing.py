"""An erased person is nowhere any more, and others are where they were."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.demand_log import DemandLog
from tests.homes import add_model
from tests.privacy.people import ADA, BOB, READER, SECRETS, clock_of, feed_home, fill, of_ada, of_bob, shop

from decalog.backfill import backfill
from decalog.decisions import decode_decision
from decalog.deployment import Deployment
from decalog.errors import ConflictError, LogUnavailableError, ReplayError, RequestError
from decalog.examples import History
from decalog.features.online import OnlineState
from decalog.folding import changes
from decalog.home import Home
from decalog.impressions import ImpressionHistory
from decalog.log import Log
from decalog.operations import take_snapshot
from decalog.privacy import erasing, ledger
from decalog.privacy.erasing import Erased, erase, prove
from decalog.privacy.ledger import beside
from decalog.privacy.pen import Pen
from decalog.privacy.subjects import extended, find_subject, survey
from decalog.registry import Pin
from decalog.sealing import seal
from decalog.standing import ERASURES, Standing
from decalog.stores.vault import SqliteVault
from decalog.systems.fraud.system import SYSTEM
from decalog.tables import Tables
from decalog.verification import verify


def erased(home: Home, subject: str = ADA, system: str = "fraud", **more: Any) -> Erased:
    return erase(home, system, person=subject, clock=clock_of(home), **more)


def test_an_erasure_says_what_went_and_what_stays(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    told = erased(home)
    assert (told.found, told.records, told.quarantined) == (True, {"fraud": 6}, 1)
    assert told.shared == {"device": 1}
    assert told.tokens == 3
    assert told.proof is not None
    assert told.proof.holds
    text = told.text()
    assert "erased: 6 records of fraud; 3 entries of the map, 1 key; 1 rows in quarantine" in text
    assert "stays, since others have it too: 1 device" in text
    assert "nothing found" in text
    assert not any(value in text for value in SECRETS.values())


def test_the_proof_reads_the_key_s_and_the_map_s_bytes_nowhere(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with sqlite3.connect(home.vault) as vault:
        held = dict(vault.execute("SELECT subject, key FROM keys"))
        marks = dict(vault.execute("SELECT token, digest FROM tokens"))
    with opened(home) as log:
        token = find_subject(SYSTEM, log, person=ADA)
    assert token is not None
    assert held[token] in _bytes(tmp_path)
    erased(home)
    assert held[token] not in _bytes(tmp_path)
    assert marks[token] not in _bytes(tmp_path)


def test_who_was_erased_comes_back_as_somebody_else(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with opened(home) as log:
        before = find_subject(SYSTEM, log, person=ADA)
    erased(home)
    with shop(home.root) as open_:
        assert find_subject(SYSTEM, open_.log, person=ADA) is None
        made = open_.decide(of_ada("ada-new"))["decision"]
        assert made.request.subject not in (0, before)
        assert "device" in made.request.entities
    assert verify(home.root).sound
    again = erased(home)
    assert (again.found, again.records) == (True, {"fraud": 1})
    assert again.proof is not None
    assert again.proof.holds


def test_an_unknown_person_is_no_error(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    told = erased(home, "nobody at all")
    assert not told.found
    assert told.text().startswith("nobody of that name is known: never seen, or erased before")


def test_people_are_found_by_another_entity_too(tmp_path: Path) -> None:
    home = Home(tmp_path / "var")
    with shop(home.root) as open_:
        open_.decide(of_ada("guest", customer="c", card="card-guest"))
        open_.decide(b'{"id": "g2", "amount_minor": 5, "currency": "EUR", "email": "guest@example.org"}')
    assert erased(home, "guest@example.org", entity="email").records == {"fraud": 1}
    with pytest.raises(RequestError, match="fraud person, entity: what is no name of a person"):
        erased(home, "x", entity="merchant")


def test_views_of_others_are_as_if_the_person_had_never_been(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    erased(home)
    with opened(home) as log:
        standing = Standing.of(log, "fraud")
        kept = [record for record in log.read() if not standing.hides(record)]
        assert 0 < len(kept) < log.position
        with_it, without = OnlineState(SYSTEM.features), OnlineState(SYSTEM.features)
        with_it.apply_many(changes(log.read(), "fraud", past=log, reads=SYSTEM.features.reads))
        without.apply_many(changes(iter(kept), "fraud", past=log, reads=SYSTEM.features.reads))
        assert [(view.entity, view.rows) for view in with_it.views()] == [
            (view.entity, view.rows) for view in without.views()
        ]
        assert with_it.stats().rows > 0


def test_an_id_that_names_a_person_is_found(tmp_path: Path) -> None:
    home = Home(tmp_path / "var")
    with shop(home.root) as open_:
        open_.decide(of_ada(f"order of {ADA}"))
    told = erased(home)
    assert told.proof is not None
    assert not told.proof.holds
    assert {hit.file for hit in told.proof.scan.hits} == {"log/0.sqlite"}
    assert "subject stands in log/0.sqlite" in told.text()
    assert ADA not in told.text()


def test_live_views_and_views_from_the_log_agree_after_an_erasure(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root) as open_:
        token = find_subject(SYSTEM, open_.log, person=ADA)
        assert token is not None
        found = survey(open_.log, token, schemas=[SYSTEM.schema])
        pen = Pen(open_.log, by="test", services=open_.services)
        before = open_.fraud.state.stats().rows
        for part in erasing.parts(pen, found, models={}):
            pen.put(part.system, ERASURES, content=part.erasure)
        live = open_.fraud.state.stats().rows
        assert live < before
        open_.log.commit()
        anew = OnlineState(SYSTEM.features)
        anew.apply_many(changes(open_.log.read(), "fraud", past=open_.log, reads=SYSTEM.features.reads))
        assert anew.stats().rows == live
        asked = open_.decide(of_bob("bob-last"))
        assert asked["decision"].fallback in ("", "no_model")


def test_what_comes_while_the_log_is_read_is_theirs_too(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root) as open_:
        token = find_subject(SYSTEM, open_.log, person=ADA)
        assert token is not None
        before = survey(open_.log, token, schemas=[SYSTEM.schema])
        late = {"kind": "chargeback", "source": "issuer", "value": 1}
        open_.fraud.ingest.outcome({"id": "cb-old", "payment": "ada-3", **late})
        open_.fraud.ingest.outcome({"id": "cb-early", "payment": "ada-new", **late})
        open_.fraud.ingest.outcome({"id": "cb-bob", "payment": "bob-3", **late})
        new = open_.decide(of_ada("ada-new", device="device-of-her-own"))["seq"]
        now = extended(before, open_.log, stop=open_.log.position, schemas=[SYSTEM.schema])
        found = {open_.log.get(root).id for root in {*now.records["fraud"]} - {*before.records["fraud"]}}
        assert found == {"cb-old", "cb-early", "ada-new"}
        assert new in now.records["fraud"]
        assert {name for name, _ in {*now.own} - {*before.own}} == {"device"}
        again = extended(now, open_.log, stop=open_.log.position, schemas=[SYSTEM.schema])
        assert again == now


def test_late_words_about_what_was_erased_are_refused(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    erased(home)
    with shop(home.root) as open_:
        ingest = open_.fraud.ingest
        late = ingest.outcome({"id": "cb-2", "payment": "ada-3", "kind": "chargeback", "source": "issuer", "value": 1})
        assert late.status == "rejected"
        assert "the id of what was erased with its person" in late.message
        mended = {"id": "m", "corrects": "ada-3", "amount_minor": 1, "currency": "EUR"}
        assert ingest.event(mended).status == "rejected"
        assert ingest.event({"id": "d", "deletes": "ada-3"}).status == "rejected"
        retracted = ingest.outcome(
            {"id": "x", "kind": "chargeback", "source": "issuer", "value": 0, "corrects": "cb-1"}
        )
        assert retracted.status == "rejected"
        with pytest.raises(ConflictError, match="the id of what was erased with its person"):
            open_.fraud.decide(of_ada("ada-3"))
        assert ingest.outcome(
            {"id": "b", "payment": "bob-1", "kind": "chargeback", "source": "issuer", "value": 1}
        ).status == ("accepted")


def test_replay_refuses_what_would_need_erased_rows_and_names_them(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with opened(home) as log:
        assert not Deployment(home, "fraud", log).replayer().range().refused
    erased(home)
    with opened(home) as log:
        deployment = Deployment(home, "fraud", log)
        found = deployment.replayer().range()
        # Ada's four, and those of Bob's that counted her payments with the device that both have.
        assert found.identical == found.replayed
        assert len(found.refused) > 4
        assert "refused: they would need what was erased" in found.text()
        seq = log.find("request", "fraud/ada-1")[0]
        with pytest.raises(ReplayError, match=f"a decision that would need erased records: {seq}"):
            deployment.replayer().one("ada-1")
        first = log.find("request", "fraud/ada-0")[0]
        with pytest.raises(ReplayError, match=f"a decision that would need erased records: {first}"):
            deployment.replayer().one("bob-3")
        assert deployment.parity().last().holds


def test_training_leaves_the_person_out_and_pins_the_erasure(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with opened(home) as log:
        before = History(log.read(), SYSTEM.schema, features=SYSTEM.features)
    erased(home)
    with opened(home) as log:
        after = History(log.read(), SYSTEM.schema, features=SYSTEM.features)
        position = log.position
    assert (before.erasures, after.erasures) == (0, after.erasures)
    assert 0 < after.erasures <= position
    assert {id_ for id_ in before.now.ids if id_.startswith("ada")} == {"ada-0", "ada-1", "ada-2", "ada-3"}
    assert {*after.now.ids} == {"bob-0", "bob-1", "bob-2", "bob-3"}


def test_models_that_learnt_from_the_person_are_named(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    blind = add_model(home.root, pin=Pin((1,), 0, 0))
    taught = add_model(home.root, pin=Pin((9,), 0, 0), seed=1)
    told = erased(home)
    assert told.models == {"fraud": (taught,)}
    assert f"learnt from them: fraud model {taught[:12]}; train again" in told.text()
    assert blind[:12] not in told.text()


def test_what_was_derived_goes(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    take_snapshot(home, "fraud")
    with opened(home) as log:
        backfill(SYSTEM, log, folder=home.backfill)
        seal(log.store, home.root / "parquet", upto=log.position)
        decision = Deployment(home, "fraud", log).log.get(log.find("request", "fraud/ada-1")[0])
        kept = home.state / "explained" / "fraud" / f"{decode_decision(decision.body).id}.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert list(home.state.rglob("*.snapshot"))
    assert list(home.backfill.rglob("*.parquet"))
    told = erased(home)
    assert told.proof is not None
    assert told.proof.holds
    assert not [*home.state.rglob("*.snapshot"), *home.backfill.rglob("*.parquet"), *home.state.rglob("*.json")]
    take_snapshot(home, "fraud")
    erased(home, "nobody")
    assert list(home.state.rglob("*.snapshot")), "a snapshot from after the erasure stays"


class KilledError(Exception):
    """Stands for the end of the process."""


STEPS = ("put", "enter", "sweep", "destroy", "shed_vault")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_erasure_that_was_cut_short_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    home = fill(tmp_path / "var")
    with monkeypatch.context() as patched:
        _kill(patched, step, before=when == "before")
        with pytest.raises(KilledError):
            erased(home)
    with shop(home.root) as open_:  # life goes on in between
        open_.decide(of_bob("bob-after"))
    told = erased(home)
    assert told.proof is not None
    assert told.proof.holds, told.text()
    assert not prove(
        home, "fraud", person=ADA, more=[value for name, value in SECRETS.items() if name != "device"]
    ).proof.scan.hits  # type: ignore[union-attr]
    with opened(home) as log:
        assert find_subject(SYSTEM, log, person=ADA) is None
        vault = log.vault
        assert isinstance(vault, SqliteVault)
        (subject,) = Standing.of(log, "fraud").subjects
        assert not vault.holds(subject)
        assert len(Standing.of(log, "fraud").erased) == 6
        anew = OnlineState(SYSTEM.features)
        anew.apply_many(changes(log.read(), "fraud", past=log, reads=SYSTEM.features.reads))
    assert verify(home.root).sound
    assert beside(home.root).is_file()


def _kill(patched: pytest.MonkeyPatch, step: str, *, before: bool) -> None:
    owner: Any = {"put": Pen, "enter": ledger}.get(step, erasing)
    real: Callable[..., Any] = getattr(owner, step)

    def dies(*given: Any, **named: Any) -> Any:
        if not before:
            real(*given, **named)
        raise KilledError

    patched.setattr(owner, step, dies)


def test_a_vault_that_still_holds_an_erased_key_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fill(tmp_path / "var")
    with monkeypatch.context() as patched:
        _kill(patched, "destroy", before=True)
        with pytest.raises(KilledError):
            erased(home)
    found = verify(home.root)
    assert not found.sound
    assert "keys and tokens of erased people are still in it" in found.text()
    erased(home, "anybody")
    assert verify(home.root).sound


def test_erasing_beside_a_running_server_is_refused(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    with shop(home.root), pytest.raises(LogUnavailableError, match="another process is writing"):
        erase(home, "fraud", person=ADA)


def test_a_reader_s_vault_erases_nothing(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    vault = SqliteVault(home.vault)
    with pytest.raises(LogUnavailableError, match="vault, erase: a vault opened for reading"):
        vault.erase([1], tokens=[], marks=[])
    vault.close()


def test_a_reader_of_the_feed_is_forgotten_by_its_retrieval(tmp_path: Path) -> None:
    home = feed_home(tmp_path / "var")
    told = erased(home, READER, "feed")
    assert told.records == {"feed": 4}
    assert told.proof is not None
    assert told.proof.holds
    with shop(home.root, "feed") as open_:
        people = open_.feed.retrieval.people  # type: ignore[union-attr]
        assert len(people) == 1
        shown = ImpressionHistory(open_.log.read(), open_.feed.system.schema, features=open_.feed.system.features).shown
        assert {one.record.id for one in shown} == {"r-bob"}


def test_another_person_s_records_are_none_of_it(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    erased(home)
    told = erased(home, BOB)
    assert told.records == {"fraud": 4}
    assert told.shared == {}, "with Ada gone the device is nobody else's"


def test_who_asked_stands_in_the_changes(tmp_path: Path) -> None:
    home = fill(tmp_path / "var")
    erased(home, by="the privacy officer")
    with opened(home) as log:
        (change,) = Tables(log).changes("fraud")
    assert (change.table, change.by) == (ERASURES, "the privacy officer")


def _bytes(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def opened(home: Home) -> closing[Log]:
    return closing(home.reader())


def test_what_is_public_is_not_searched_for_and_its_map_entry_goes(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.sold(0, 5, series="store-1/item-1")
    log.sold(0, 5, series="store-1/item-2")
    log.log.commit()
    log.log.close()
    done = erase(Home(tmp_path), "demand", person="store-1/item-1", entity="series")
    assert done.found
    assert done.proof is not None
    assert done.proof.holds, "a series stands in the log in the clear, as its schema says"
    assert not erase(Home(tmp_path), "demand", person="store-1/item-1").found
    again = prove(Home(tmp_path), "demand", person="store-1/item-1", more=["store-1/item-2"]).proof
    assert again is not None
    assert {hit.name for hit in again.scan.hits} == {"value 1"}, "what else is asked for is searched for"
