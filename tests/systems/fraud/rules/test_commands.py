"""`decalog rules fraud …`, as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import FraudLog
from tests.homes import decide_live, fill_home

from decalog import cli
from decalog.deployment import Setup
from decalog.ingest import Rates
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.rules.backtest import Backtest
from decalog.systems.fraud.rules.commands import app

RULES = "[far] block if :ip_country: != :card_country: and :amount_in_eur: > 20\nreview if :device_cards_1d: >= 3\n"


class Shell:
    """Types a command; returns its exit code, what it printed and what it complained of."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = patch, captured

    def __call__(self, *words: object) -> tuple[Any, str, str]:
        self._patch.setattr(sys, "argv", ["decalog", "rules", "fraud", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *self._captured.readouterr()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DECALOG_HOME", raising=False)
    (tmp_path / "rules.txt").write_text(RULES, encoding="utf-8")
    return Shell(monkeypatch, capsys)


def test_rules_are_checked_without_a_log(run: Shell) -> None:
    assert run("check", "rules.txt") == (0, RULES, "")


def test_the_lists_and_rates_are_those_of_the_home(run: Shell, tmp_path: Path) -> None:
    text = "allow if :card: in @trusted and :amount_in_usd: < 5\n"
    (tmp_path / "rules.txt").write_text(text, encoding="utf-8")
    code, _, complaint = run("check", "rules.txt")
    assert (code, complaint.count("decalog: fraud rules: line 1, column 20: there is no list @trusted")) == (2, 1)
    home = fill_home(tmp_path / "var", champion=False)
    decide_live(home, Setup(policy=FraudCosts(lists=("trusted",)), rates=Rates("EUR", {"USD": "0.9"})), hours=1)
    assert run("check", "rules.txt") == (0, text, "")


def test_a_byte_that_is_no_text_has_a_place(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_bytes(b"block if \xff")
    assert "line 1, column 10: an unknown sign '\ufffd'" in run("check", "rules.txt")[2]


def test_a_file_that_is_not_there_is_a_wrong_use(run: Shell) -> None:
    for verb in ("check", "backtest"):
        code, _, complaint = run(verb, "nothing.txt")
        assert (code, "'nothing.txt' does not exist" in complaint) == (2, True)


def test_a_backtest_is_printed_as_text_or_json_at_a_pinned_position(run: Shell, tmp_path: Path) -> None:
    decide_live(fill_home(tmp_path / "var"), hours=2)
    code, text, _ = run("backtest", "rules.txt")
    assert code == 0
    assert text.splitlines()[3] == RULES.splitlines()[0]
    whole = msgspec.json.decode(run("backtest", "rules.txt", "--json")[1], type=Backtest)
    part = msgspec.json.decode(run("backtest", "rules.txt", "--json", "--position", "30")[1], type=Backtest)
    assert part.position == 30 < whole.position
    assert part.labels.requests < whole.labels.requests
    assert [tried.rule for tried in whole.rules] == [*RULES.splitlines(), "all together, in their order"]


def test_suggestions_are_printed_with_their_backtest(run: Shell, tmp_path: Path) -> None:
    made = FraudLog(tmp_path / "var")
    made.pay("one", 1)
    made.pay("two", 100)
    made.log.commit()
    made.log.close()
    code, text, _ = run("suggest", "--json")
    assert code == 0
    assert [tried.rule for tried in msgspec.json.decode(text, type=Backtest).rules] == ["all together, in their order"]


@pytest.mark.parametrize("verb", [command.callback.__name__ for command in app.registered_commands if command.callback])
def test_every_verb_explains_itself_with_an_example(run: Shell, verb: str) -> None:
    code, text, _ = run(verb, "--help")
    assert code == 0
    assert f"Example:  decalog rules fraud {verb}" in text
    assert text.startswith(f"Usage: decalog rules fraud {verb} ")
    page = Path(__file__).parents[4] / "docs" / "systems" / "fraud.md"
    assert f"decalog rules fraud {verb}" in page.read_text(encoding="utf-8")
