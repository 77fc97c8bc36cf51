"""What was heard of labels that are not known: by age, by what an action showed in part, nothing where nothing was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tests.fraud_log import FraudLog

from decalog.censoring import Heard, heard_of, known, surmised
from decalog.clock import DAY
from decalog.examples import History
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM
from decalog.systems.fraud.whatif import shows, words

SHOWS = shows(FraudCosts())
FRAUDS = 40
PASS, STAY = 0.08 / 0.92, (1 - 0.08) / (1 - 0.92)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Forty old frauds, told of after 1 to 40 days, and by a chargeback ten days later; then payments of day 100."""
    log = FraudLog(tmp_path_factory.mktemp("censoring"), shadow=True)
    told = []
    for i in range(FRAUDS):
        log.decide(f"old{i}", i / 50, taken="allow", card=f"card-{i}")
        told += [(i / 50 + i + 1, f"w{i}", "fraud_warning", i), (i / 50 + i + 11, f"c{i}", "chargeback", i)]
    for day, name, kind, i in sorted(told):
        log.report(name, f"old{i}", day, kind=kind, source="network")
    for name, taken in {"open": "allow", "passed": "step_up", "failed": "step_up", "blocked": "block"}.items():
        log.decide(name, 100, taken=taken, card=name)
    for name, taken in {"seen": "review", "refused": "review", "unseen": "review", "reported": "allow"}.items():
        log.decide(name, 100, taken=taken, card=name)
    log.report("a1", "passed", 100.01, kind="authentication", source="acs")
    log.report("a2", "failed", 100.01, kind="authentication", source="acs", value=0)
    log.report("v1", "seen", 100.02, kind="analyst_verdict", source="analyst", value=0)
    log.report("v2", "refused", 100.02, kind="analyst_verdict", source="analyst", value=1)
    log.report("w", "reported", 101, kind="fraud_warning", source="network")
    log.decide("new", 119.9, taken="step_up", card="new")
    return History(log.records(until_day=120), SCHEMA, features=SYSTEM.features)


def heard_by_name(history: History) -> dict[str, tuple[float, float]]:
    found = heard_of(history, history.now, shows=SHOWS, words=words(FraudCosts()))
    return dict(zip(history.now.ids, zip(found.odds.tolist(), found.chance.tolist(), strict=True), strict=True))


def test_delays_end_with_the_first_word_of_requests_that_are_old_enough(history: History) -> None:
    now = history.known_time
    assert (history.delays(now) / DAY).round(6).tolist() == list(range(1, FRAUDS + 1))
    assert len(history.delays(now - 60 * DAY)) == 1  # of those, only the first was 60 days old by then
    assert len(history.delays(now - 70 * DAY)) == 0


@pytest.mark.parametrize(
    ("name", "odds", "chance"),
    [
        ("open", 0.5, 0.5),  # twenty of forty frauds are told of within 20 days
        ("passed", PASS / 2, 0.08 / 2),
        ("failed", STAY, 0.08 / 2),
        ("blocked", 1.0, 0.0),
        ("seen", 0.1 / 0.97, 0.0),  # analysts miss a tenth of the frauds, and refuse 3 % of good payments
        ("refused", 0.9 / 0.03, 0.0),
        ("unseen", 1.0, 0.0),
        ("reported", math.inf, 0.5),
        ("new", 1.0, 0.0),  # its payer may still answer
        ("old0", math.inf, 1.0),
    ],
)
def test_each_request_has_the_odds_of_what_was_heard(history: History, name: str, odds: float, chance: float) -> None:
    assert heard_by_name(history)[name] == pytest.approx((odds, chance))


def test_where_hardly_any_positive_is_known_silence_says_nothing_yet(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    log.decide("open", 100, taken="allow")
    found = heard_by_name(History(log.records(until_day=120), SCHEMA, features=SYSTEM.features))
    assert found["open"] == (1.0, 0.0)


def test_labels_alone_are_odds_too() -> None:
    found = known(np.array([1.0, 0.0, np.nan]))
    assert found.odds.tolist() == [math.inf, 0.0, 1.0]
    assert found.chance.tolist() == [1.0, 1.0, 0.0]
    assert isinstance(found.take(np.array([True, False, False])), Heard)


def test_what_is_surmised_is_certain_where_the_label_is_known_and_the_prediction_where_nothing_was_heard() -> None:
    found = surmised(np.full(4, 0.2), np.array([0.0, 0.5, 1.0, np.inf]))
    assert found.tolist() == pytest.approx([0.0, 0.1 / 0.9, 0.2, 1.0])


@pytest.mark.parametrize(("right", "odds"), [((1.0, 0.9), (math.inf, 0.1)), ((0.0, 1.0), (1.0, 1.0))])
def test_a_word_of_one_that_never_errs_is_a_label(
    history: History, right: tuple[float, float], odds: tuple[float, float]
) -> None:
    found = heard_of(history, history.now, shows=SHOWS, words={"analyst_verdict": right})
    places = [history.now.ids.index(name) for name in ("refused", "seen")]
    assert found.odds[places].tolist() == pytest.approx(odds)
