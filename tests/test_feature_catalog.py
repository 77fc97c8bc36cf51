"""The features in words: every declaration is listed, and with a log they come with an example and a cost."""

from __future__ import annotations

from pathlib import Path

from tests.fraud_log import FEATURES, FraudLog

from decalog.home import Home
from decalog.operations import list_features


def test_every_feature_is_listed_with_what_it_says_about_itself(tmp_path: Path) -> None:
    listed = list_features("fraud", Home(tmp_path / "none"))
    assert tuple(feature.name for feature in listed.features) == FEATURES.names
    assert (listed.version, listed.costs) == (FEATURES.version, {})
    text = listed.text()
    assert ", lateness 1d, at most 30,000 rows of an entity\n" in text
    assert "for the model; missing is 0, crowded is -2, owner fraud" in text
    assert "for the policy; missing is 0, crowded is 30000, owner fraud" in text
    assert {feature.name: feature.crowded for feature in listed.features}["amount"] is None
    for feature in FEATURES.features:
        assert str(feature) in text
        assert feature.meaning in text


def test_with_a_log_there_is_an_example_and_a_cost(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    for number in range(5):
        log.decide(f"p{number}", 1 + number / 100)
    log.records()
    log.log.close()
    listed = list_features("fraud", Home(tmp_path))
    assert {feature.name: feature.example for feature in listed.features}["card_payments_1d"] == 5.0
    assert (listed.costs["card"].rows, listed.costs["card"].most_rows) == (3.0, 5)
    assert listed.costs["card"].us > 0
    assert "for the latest request 5" in listed.text()
    assert "cost of card: " in listed.text()
