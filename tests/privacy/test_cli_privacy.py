"""The commands of privacy: on a home, and on a server by its address."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.privacy.people import ADA, SECRETS, fill

from decalog import admin, cli
from decalog.privacy import ledger


class Shell:
    """Runs commands in this process, in a folder of their own."""

    def __init__(self, captured: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._captured, self._patch = captured, patch

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["decalog", *map(str, words)])
        self._captured.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return (code if isinstance(code, int) else 0, *self._captured.readouterr())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    fill(tmp_path / "var")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DECALOG_HOME", "DECALOG_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Shell(capsys, monkeypatch)


def test_a_person_is_told_corrected_restricted_and_erased(run: Shell, tmp_path: Path) -> None:
    code, out, _ = run("access", "fraud", ADA, "--json")
    assert code == 0
    assert json.loads(out)["records"][0]["personal"] == SECRETS
    (tmp_path / "right.json").write_text('{"cardholder": "Ada Byron"}')
    assert run("rectify", "fraud", ADA, "right.json")[:2] == (0, "4 records corrected\n")
    assert run("restrict", "fraud", ADA)[1].startswith("restricted")
    assert run("restrict", "fraud", ADA, "--lift")[1] == "lifted\n"
    assert run("opt-out", "fraud", ADA)[1].startswith("opted out")
    assert run("opt-out", "fraud", ADA, "--lift")[1] == "taken back\n"
    assert run("contest", "fraud", "ada-0")[1] == "ada-0: logged; a person will look at it\n"
    assert run("retention", "fraud", "--keep", "cardholder=90", "--json")[0] == 0
    code, out, _ = run("erase", "fraud", ADA)
    assert (code, out.splitlines()[0].startswith("erased: 6 records of fraud")) == (0, True)
    (tmp_path / "names.txt").write_text("Ada Byron\nada@analytical.example\n")
    code, out, _ = run("erase", "fraud", ADA, "--proof", "--also", "names.txt")
    assert code == 0
    assert out.startswith("proof: 3 values in ")
    assert run("access", "fraud", ADA)[1] == "nothing is kept of anybody of that name\n"


def test_a_proof_that_does_not_hold_is_the_exit_status(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "var" / "notes.txt").write_text(f"call {ADA} back")
    code, out, _ = run("erase", "fraud", ADA, "--json")
    assert code == 1
    hits = json.loads(out)["proof"]["scan"]["hits"]
    assert {(hit["name"], hit["file"]) for hit in hits} == {("subject", "notes.txt"), ("customer", "notes.txt")}
    assert ADA not in out


def test_backups_are_known_and_restored_by_the_ledger(run: Shell, tmp_path: Path) -> None:
    assert run("backup")[1] == "no backups of this home are known\n"
    assert run("backup", "monday")[0] == 0
    assert "monday: " in run("backup")[1]
    assert "still holds the key" in run("erase", "fraud", ADA)[1]
    code, out, err = run("restore", "monday", "--home", "blind")
    assert code == 0
    assert "WARNING: no ledger of erasures" in err
    assert "WARNING" not in out
    code, out, _ = run("restore", "monday", "--home", "new", "--erasures", ledger.beside(tmp_path / "var"))
    assert out.splitlines()[-1] == "1 people erased again, by var.erasures"
    assert run("access", "fraud", ADA, "--home", "new")[1].startswith("nothing is kept")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rectify", "fraud", ADA, "wrong.json"], "what is no JSON object of values"),
        (["retention", "fraud", "--keep", "cardholder"], "name=days, such as cardholder=90"),
        (["erase", "fraud", ADA, "--home", "nowhere"], "a folder without a log"),
        (["contest", "fraud", "nothing"], "an id that no decision has"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run: Shell, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "wrong.json").write_text(f'["{SECRETS["cardholder"]}"]')
    code, out, err = run(*words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert SECRETS["cardholder"] not in out + err


def test_a_server_is_asked_by_its_address(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def answers(_method: str, url: str, *, raw: bytes, token: str, wait_s: float = 0) -> Any:
        del token, wait_s
        body = json.loads(raw)
        asked.append((url, body))
        if "decision" in body:
            return {"decision_id": "d", "request": "p1", "told": "logged"}
        return {"subject": 7, "wish": "opted_out"} if body["act"] == "opt_out" else {"id": "adm-1", "url": ""}

    monkeypatch.setattr(admin, "call", answers)
    at = ["--url", "http://127.0.0.1:8000", "--token", "t"]
    assert run("opt-out", "fraud", ADA, "--as", "email", *at)[0] == 0
    assert run("notice", "fraud", "adm-1", *at)[1] == "decisions carry notice adm-1\n"
    assert run("contest", "fraud", "p1", *at)[1] == "p1: logged\n"
    base = "http://127.0.0.1:8000/v1/fraud"
    assert [url for url, _ in asked] == [f"{base}/privacy", f"{base}/privacy", f"{base}/contest"]
    assert (asked[0][1]["person"], asked[0][1]["entity"]) == (ADA, "email")
    assert ADA not in asked[0][0]
