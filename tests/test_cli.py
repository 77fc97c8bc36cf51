"""The command line: every verb shows an example, and no wrong input ends in a traceback."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer
from tests.fraud_log import payment
from tests.homes import add_model, decide_live, fill_home, records, rule

from decalog import cli
from decalog.decisions import decode_decision
from decalog.errors import AccessError, DecalogError
from decalog.home import Home


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = dict(commands(typer.main.get_command(cli.app)))


class Ran(NamedTuple):
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, in a folder of their own."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = patch, captured

    def __call__(self, *words: object, stdin: bytes = b"") -> Ran:
        self._patch.setattr(sys, "argv", ["decalog", *map(str, words)])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._captured.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0, *self._captured.readouterr())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("DECALOG_HOME", "DECALOG_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = fill_home(tmp_path_factory.mktemp("cli") / "home")
    decide_live(home, hours=4)
    return home.root


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    """A home with history, a champion and a few decisions, to be changed at will."""
    shutil.copytree(filled, tmp_path / "var")
    return tmp_path / "var"


def assert_sentence(ran: Ran, code: int, *parts: str) -> None:
    """Checks that a command ended with one sentence of four parts and nothing else."""
    assert ran.code == code, ran
    last = ran.err.rstrip("\n").splitlines()[-1]
    assert last.startswith("decalog: "), ran.err
    assert ". Expected " in last
    assert "Traceback" not in ran.err
    assert ran.err.count("decalog: ") == 1
    for part in parts:
        assert part in last, last


# Help


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_with_an_example(run: Shell, verb: tuple[str, ...]) -> None:
    ran = run(*verb, "--help")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert f"Example: decalog {' '.join(verb)}" in text
    for parameter in VERBS[verb].params:
        assert parameter.name == "help" or getattr(parameter, "help", None), parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in text


def test_the_verbs_are_those_that_are_promised() -> None:
    promised = "up train serve events outcomes decide replay backfill data models snapshot backup restore verify"
    assert set(promised.split()) <= {verb[0] for verb in VERBS}
    inner = {verb for verb in VERBS if len(verb) > 1}
    assert {("data", "fetch"), ("data", "inspect"), ("models", "list")} <= inner
    assert {("models", "promote"), ("models", "rollback")} <= inner


@pytest.mark.parametrize("group", [(), ("data",), ("models",), ("tokens",)])
def test_a_group_without_a_verb_lists_its_verbs(run: Shell, group: tuple[str, ...]) -> None:
    ran = run(*group)
    assert "Commands:" in ran.out + ran.err
    assert "Traceback" not in ran.err


LIGHT = """
import contextlib, io, sys
sys.argv = ["decalog", "--help"]
from decalog.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
    main()
assert "Commands:" in out.getvalue()
print(*sorted({name.split(".")[0] for name in sys.modules} | {n for n in sys.modules if n.startswith("decalog.")}))
"""


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"numpy", "numba", "duckdb", "lightgbm", "rich", "starlette", "uvicorn", "cryptography", "msgspec"}
    assert not loaded & heavy
    assert {name.removeprefix("decalog.") for name in loaded if name.startswith("decalog.")} == {
        *("cli", "cli_check", "cli_levers", "cli_loop", "cli_privacy", "cli_room", "errors", "terminal"),
    }


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "decalog", "replay", "fraud"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "name one decision, or --all" in done.stderr
    assert "Traceback" not in done.stderr


# What goes well


def test_rows_are_added_from_a_file_or_standard_input(run: Shell, tmp_path: Path) -> None:
    rows = "\n".join(json.dumps(payment(name, 0)) for name in "ab")
    (tmp_path / "rows.jsonl").write_text(rows)
    assert run("events", "fraud", "rows.jsonl") == Ran(0, "2 accepted, 0 duplicate, 0 rejected\n", "")
    assert run("events", "fraud", "-", stdin=rows.encode()).out == "0 accepted, 2 duplicate, 0 rejected\n"
    chargeback = {"id": "cb", "payment": "a", "kind": "chargeback", "source": "issuer", "value": 1}
    assert run("outcomes", "fraud", "-", stdin=json.dumps(chargeback).encode()).code == 0
    assert [record.id for record in records(Home(tmp_path / "var"), "outcome")] == ["cb"]


def test_a_batch_with_a_refused_row_takes_the_others_and_ends_with_one(run: Shell) -> None:
    rows = json.dumps([payment("a", 0), payment("b", 0, amount_minor=-1), 7])
    ran = run("events", "fraud", "-", stdin=rows.encode())
    assert ran.code == 1
    assert ran.out.splitlines()[0] == "1 accepted, 0 duplicate, 2 rejected"
    assert "  b [amount_minor] fraud payment, amount_minor: " in ran.out


def test_a_decision_is_made_told_and_replayed(run: Shell, home: Path, tmp_path: Path) -> None:
    raw = json.dumps(payment("mine", 0, event_time=None, amount_minor=4_000))
    told = json.loads(run("decide", "fraud", raw).out)
    assert (told["payment"], told["predictions"]) == ("mine", {"p_fraud": 0.3})
    (tmp_path / "request.json").write_text(raw)
    assert json.loads(run("decide", "fraud", "@request.json").out) == told
    ran = run("replay", "fraud", "mine")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "identical")
    trace = json.loads(run("replay", "fraud", told["decision_id"], "--json").out)
    assert (trace["action"], trace["differences"]) == (told["action"], [])
    made = len(records(Home(home), "decision"))
    assert run("replay", "fraud", "--all").out == f"{made}/{made} identical\n"
    ran = run("backfill", "fraud")
    assert ran.code == 0
    assert f"{made} decided with these features, 0 of them with other bits" in ran.out
    assert Path(ran.out.splitlines()[-1]).exists()
    some = json.loads(run("replay", "fraud", "--all", "--from", told["seq"], "--json").out)
    assert some == {"replayed": 1, "identical": 1, "first": None, "refused": []}


def test_models_are_listed_promoted_and_rolled_back(run: Shell, home: Path) -> None:
    second = add_model(home, rule(limit=1.0), promote=False)
    assert (
        run("models", "promote", "fraud", second[:12], "--why", "better").out == f"champion of fraud is {second[:12]}\n"
    )
    assert "better" in run("models", "list", "fraud").out
    listed = json.loads(run("models", "list", "fraud", "--json").out)
    assert {model["id"]: model["aliases"] for model in listed["models"]}[second[:12]] == ["champion"]
    assert run("models", "rollback", "fraud").out.endswith(" again\n")


def test_tokens_are_created_listed_and_revoked(run: Shell) -> None:
    text = run("tokens", "create", "--scope", "decide", "--note", "checkout").out.strip()
    id_ = text.split("_")[1]
    assert f"{id_}  decide" in run("tokens", "list").out
    assert run("tokens", "revoke", id_).out == f"{id_} is revoked\n"
    assert "revoked" in run("tokens", "list").out


def test_a_home_is_verified_backed_up_and_restored(run: Shell, home: Path, tmp_path: Path) -> None:
    assert run("verify").code == 0
    assert run("backup", tmp_path / "monday").code == 0
    assert run("restore", tmp_path / "monday", "--home", "restored").code == 0
    made = len(records(Home(home), "decision"))
    assert run("replay", "fraud", "--all", "--home", "restored").out == f"{made}/{made} identical\n"


def test_a_snapshot_is_taken_and_the_next_start_uses_it(
    run: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("snapshot", "fraud")
    assert (ran.code, ran.out.startswith("snapshot of fraud at record ")) == (0, True)
    assert run("snapshot", "fraud", "--at-least", "5").out.endswith(": left alone\n")
    kept: list[Path] = []
    monkeypatch.setattr("decalog.http.serve", lambda *_args, **_kwargs: 0)
    monkeypatch.setattr("decalog.operations.keep_snapshots", lambda place, *_args, **_kwargs: kept.append(place.root))
    assert "views of fraud: snapshot at record " in run("serve", "fraud", "--no-auth", "--memory-gib", "1").err
    assert [path.resolve() for path in kept] == [home]
    assert_sentence(run("serve", "fraud", "--memory-gib", "0.0000001"), 2, "in their snapshot alone")
    assert_sentence(run("serve", "fraud", "--memory-gib", "nan"), 2, "--memory-gib: nan. ")


def test_a_home_is_named_by_the_environment_too(run: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.rename(home.parent / "elsewhere")
    monkeypatch.setenv("DECALOG_HOME", str(home.parent / "elsewhere"))
    assert run("replay", "fraud", "--all").code == 0


def test_the_sets_that_can_be_fetched_are_listed(run: Shell) -> None:
    assert "ulb-creditcard" in run("data", "fetch").out


def test_a_file_is_inspected_and_its_mapping_drafted(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(
        "payment,at,amount\np1,2026-01-01T00:00:00Z,1.50\np2,2026-01-02T00:00:00Z,2.50\n"
    )
    ran = run("data", "inspect", "shop.csv", "--out", "my.toml")
    assert ran.code == 0
    assert "amount" in ran.out
    assert 'system = "fraud"' in (tmp_path / "my.toml").read_text()
    assert ran.err == "mapping written to my.toml\n"


class Posted(NamedTuple):
    url: str
    raw: bytes
    token: str


def test_with_an_address_a_running_server_does_it(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Posted] = []

    def post(url: str, raw: bytes, *, token: str = "") -> Any:
        posted.append(Posted(url, raw, token))
        return {"action": "allow"}

    monkeypatch.setattr("decalog.admin.post", post)
    monkeypatch.setenv("DECALOG_TOKEN", "dlg_x")
    ran = run("decide", "fraud", "{}", "--url", "http://127.0.0.1:1")
    assert json.loads(ran.out) == {"action": "allow"}
    run("events", "fraud", "-", "--url", "http://127.0.0.1:1", stdin=b"[1]")
    run("outcomes", "fraud", "-", "--url", "http://127.0.0.1:1", stdin=b"[2]")
    assert posted == [
        Posted("http://127.0.0.1:1/v1/fraud/decide", b"{}", "dlg_x"),
        Posted("http://127.0.0.1:1/v1/fraud/events", b"[1]", "dlg_x"),
        Posted("http://127.0.0.1:1/v1/fraud/outcomes", b"[2]", "dlg_x"),
    ]


# What goes wrong

WRONG: dict[str, tuple[list[str], int, str]] = {
    "unknown system, decide": (["decide", "frod", "{}"], 2, "system: 'frod'. Expected 'fraud' (closest match)"),
    "unknown system, events": (["events", "frod", "-"], 2, "system: 'frod'"),
    "unknown system, serve": (["serve", "frod"], 2, "system: 'frod'"),
    "unknown system, train": (["train", "frod", "--world-days", "1"], 2, "system: 'frod'"),
    "unknown system, models": (["models", "list", "frod"], 2, "system: 'frod'"),
    "unknown system, inspect": (["data", "inspect", "x.csv", "--system", "frod"], 2, "system: 'frod'"),
    "broken JSON": (["decide", "fraud", "{"], 2, "a body that is not JSON in UTF-8"),
    "bytes that are no text": (["decide", "fraud", "\udcff"], 2, "a body that is not JSON in UTF-8"),
    "broken array": (["events", "fraud", "broken.json"], 2, "batch: an array that is not JSON"),
    "missing request file": (
        ["decide", "fraud", "@gone.json"],
        2,
        "gone.json: a file that cannot be read (No such file",
    ),
    "missing rows": (["events", "fraud", "gone.jsonl"], 2, "gone.jsonl: a file that cannot be read (No such file"),
    "rows that are a folder": (
        ["outcomes", "fraud", "folder"],
        2,
        "folder: a file that cannot be read (Is a directory)",
    ),
    "missing data": (["train", "fraud", "--data", "gone.csv", "--map", "good.toml"], 2, "gone.csv"),
    "missing mapping": (["train", "fraud", "--data", "shop.csv", "--map", "gone.toml"], 2, "gone.toml"),
    "mapping that is no TOML": (["train", "fraud", "--data", "shop.csv", "--map", "broken.json"], 2, "broken.json"),
    "missing file to inspect": (["data", "inspect", "gone.csv"], 2, "gone.csv"),
    "unknown set": (["data", "fetch", "ulb"], 2, "'ulb'"),
    "policy that is no TOML": (["serve", "fraud", "--policy", "broken.json"], 2, "broken.json: "),
    "missing policy": (["serve", "fraud", "--policy", "gone.toml"], 2, "gone.toml: [Errno 2] No such file"),
    "rates that are none": (["serve", "fraud", "--rates", "rates.toml"], 2, "rates.toml: USD = 'cheap'"),
    "clock that is no time": (["serve", "fraud", "--clock-start", "noon"], 2, "--clock-start: 'noon'"),
    "clock that stands still": (
        ["serve", "fraud", "--clock-start", "2026-01-01T00:00:00Z", "--clock-speed", "0"],
        2,
        "clock speed: 0.0",
    ),
    "open without tokens": (
        ["serve", "fraud", "--host", "192.0.2.1", "--no-auth"],
        2,
        "authentication off",
    ),
    "an address that is not ours": (["serve", "fraud", "--host", "192.0.2.1"], 2, "192.0.2.1 port 8000"),
    "no log to replay": (["replay", "fraud", "--all"], 2, "home var: a folder without a log"),
    "no log to look at": (["whatif", "fraud"], 2, "home var: a folder without a log"),
    "no log to train on": (["train", "fraud"], 2, "home var: a folder without a log"),
    "no log to verify": (["verify"], 2, "home var: a folder without a log"),
    "no log to back up": (["backup", "monday"], 2, "backup of var: a folder without a log"),
    "no backup to restore": (["restore", "gone"], 2, "backup gone: no readable backup.json"),
    "a mapping that cannot be written": (
        ["data", "inspect", "shop.csv", "--out", "gone/my.toml"],
        2,
        "gone/my.toml: a file that cannot be written (No such file or directory)",
    ),
    "no such model": (["models", "promote", "fraud", "0123456789ab"], 2, "'0123456789ab', which fits 0 models"),
    "nothing to roll back to": (["models", "rollback", "fraud"], 2, "no earlier model in its history"),
    "unknown scope": (["tokens", "create", "--scope", "decde"], 2, "'decide' (closest match)"),
    "no such token": (["tokens", "revoke", "0123456789ab"], 2, "token, id: an id that no token has"),
    "a lifetime that is none": (["tokens", "create", "--scope", "decide", "--lifetime", "soon"], 2, "duration: 'soon'"),
    "a class without a folder": (["train", "fraud", "--own", "a:B"], 2, "own model: a class without its folder"),
    "an address without http": (["decide", "fraud", "{}", "--url", "localhost"], 2, "--url: no http address"),
    "nobody at the address": (["decide", "fraud", "{}", "--url", "http://127.0.0.1:1"], 74, "Start `decalog serve`."),
    "a world without days": (["train", "fraud", "--world-days", "-1"], 2, "days of the world: -1"),
    "a world without size": (["train", "fraud", "--world-days", "1", "--world-scale", "0"], 2, "scale: 0.0"),
    "home that is a file": (["events", "fraud", "-", "--home", "shop.csv"], 74, "0.lock"),
    "home below a file": (["decide", "fraud", "{}", "--home", "shop.csv/deep"], 74, "0.lock"),
    "home that is a file, read": (["replay", "fraud", "--all", "--home", "shop.csv"], 2, "shop.csv"),
    "home that is a file, tokens": (["tokens", "list", "--home", "shop.csv"], 74, "control.sqlite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_ends_with_one_sentence(run: Shell, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.json").write_text('[{"id": ')
    (tmp_path / "good.toml").write_text(
        'system = "fraud"\n[request]\nid = "payment"\nevent_time = { column = "at" }\n'
        'amount = { column = "amount", unit = "major", currency = "EUR" }\n'
    )
    (tmp_path / "shop.csv").write_text("payment,at,amount\np1,2026-01-01T00:00:00Z,1.50\n")
    (tmp_path / "rates.toml").write_text('[rates]\nUSD = "cheap"\n')
    (tmp_path / "folder").mkdir()
    words, code, part = WRONG[name]
    assert_sentence(run(*words), code, part)


def test_a_second_writer_is_refused_in_every_verb_that_writes(run: Shell, home: Path) -> None:
    log = Home(home).writer()
    for words in (
        ["decide", "fraud", "{}"],
        ["events", "fraud", "-"],
        ["outcomes", "fraud", "-"],
        ["serve", "fraud", "--no-auth"],
    ):
        assert_sentence(run(*words), 74, "0.lock")
    assert run("replay", "fraud", "--all").code == 0
    assert run("models", "list", "fraud").code == 0
    log.close()


def test_a_world_is_not_brought_to_a_log_that_is_there(run: Shell, home: Path) -> None:
    assert_sentence(run("train", "fraud", "--world-days", "3"), 2, "a home that already holds a log")


def test_an_unknown_decision_is_refused(run: Shell, home: Path) -> None:
    assert_sentence(run("replay", "fraud", "never"), 2, "fraud decision: an id that no decision has")


def test_a_damaged_log_is_refused_with_the_code_of_the_log(run: Shell, home: Path) -> None:
    for path in (home / "log").glob("0.sqlite*"):
        path.write_bytes(b"this is no database at all, " * 1_000)
    assert_sentence(run("replay", "fraud", "--all"), 74)
    assert_sentence(run("decide", "fraud", "{}"), 74)


def test_a_replay_that_differs_ends_with_one(run: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from decalog.systems.fraud.policy import FraudPolicy

    monkeypatch.setattr(FraudPolicy, "decide", lambda self, case: self.fall_back(case, "tampered"))
    ran = run("replay", "fraud", "--all")
    assert ran.code == 1
    assert "first difference:" in ran.out
    assert "DIFFERS choice" in ran.out
    id_ = records(Home(home), "decision")[0].id
    assert run("replay", "fraud", id_).code == 1


def test_a_watch_prints_what_it_finds_and_keeps_alerts(run: Shell, home: Path) -> None:
    ran = run("watch", "fraud", "--since", "4h")
    assert ran.code == 0, ran
    assert ran.out.startswith("fraud, ")
    assert "no changes looked for (champion " in ran.out
    assert "at most 0.1 a week are false alarms" in ran.out
    assert ran.err == "0 new alerts, 0 stand\n"
    silent = run("watch", "fraud", "--since", "1d", "--live", "--json")
    assert silent.code == 1
    told = json.loads(silent.out)
    assert {one["monitor"] for one in told["findings"] if one["stands"]} == {"fraud_feature_stale"}
    assert told["latest"]["fraud_feature_stale"][0]["is_beyond"] is True
    again = run("watch", "fraud", "--since", "1d", "--live", "--alertmanager", "ftp://x")
    assert again.err.splitlines()[-2].startswith("0 new alerts, ")
    assert_sentence(again, 2, "no http address")


def test_rules_for_prometheus_are_printed_without_a_home(run: Shell) -> None:
    ran = run("watch", "fraud", "--rules")
    assert ran.code == 0
    assert json.loads(ran.out)["groups"][0]["rules"][0]["alert"] == "fraud_fallback_share"


@pytest.mark.parametrize("words", [["replay", "fraud"], ["replay", "fraud", "x", "--all"]])
def test_a_replay_of_neither_or_both_is_a_wrong_use(run: Shell, words: list[str]) -> None:
    ran = run(*words)
    assert (ran.code, "name one decision, or --all" in ran.err) == (2, True)


def test_data_without_its_mapping_is_a_wrong_use(run: Shell) -> None:
    for option in ("--data", "--map"):
        ran = run("train", "fraud", option, "x")
        assert ran.code == 2
        assert "--data and --map go together; `decalog data inspect FILE` drafts the mapping" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AccessError(where="a", given="b", expected="c", fix="d."), 1),
        (DecalogError(where="a", given="b", expected="c", fix="d."), 2),
    ],
)
def test_errors_have_codes_of_their_own(
    run: Shell, monkeypatch: pytest.MonkeyPatch, error: DecalogError, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("decalog.admin.post", refuse)
    assert run("decide", "fraud", "{}", "--url", "http://x") == Ran(code, "", "decalog: a: b. Expected c. d.\n")


@pytest.mark.parametrize(("error", "code"), [(BrokenPipeError(errno.EPIPE, "gone"), 1), (BrokenPipeError(), 0)])
def test_a_reader_that_goes_away_gets_no_traceback(
    run: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, error: BrokenPipeError, code: int
) -> None:
    def gone(_text: str) -> None:
        raise error

    monkeypatch.setattr(cli, "print_text", gone)
    assert run("models", "list", "fraud") == Ran(code, "", "")


def test_serve_says_what_it_decides_with_and_hands_over(
    run: Shell, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    def serve(host: Any, settings: Any, *, access: Any, on_listening: Any) -> int:
        served.extend([host.state().systems["fraud"], settings, access])
        on_listening(4711)
        return 7

    monkeypatch.setattr("decalog.http.serve", serve)
    monkeypatch.setattr("decalog.operations.keep_snapshots", lambda *_args, **_kwargs: pytest.fail("after a failure"))
    (tmp_path / "policy.toml").write_text("reviews_per_day = 1")
    (tmp_path / "rates.toml").write_text('[rates]\nUSD = "0.9"')
    words = ["--no-auth", "--shadow", "--policy", "policy.toml", "--rates", "rates.toml", "--port", "0"]
    ran = run("serve", "fraud", *words)
    assert ran.code == 7
    state, settings, access = served
    views, *lines = ran.err.splitlines()
    assert views.startswith("views of fraud: ")
    assert lines == [f"fraud: model {state['model']}, shadow", "listening on http://127.0.0.1:4711"]
    assert (state["mode"], settings.port, settings.tokens, access) == ("shadow", 0, False, None)
    tables = {record.id: msgspec.msgpack.decode(record.body)[2] for record in records(Home(home), "table")}
    assert '"reviews_per_day":1' in tables["policy"]
    Home(home).writer().close()
    assert tables["rates"] == '{"base":"EUR","rates":{"USD":"0.9"}}'


# Tables and policy

FRAUD_WITH_TABLES = "tests.own_tables:SYSTEM"


def test_tables_are_put_read_and_listed_with_who_changed_them(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "lists.json").write_text('{"card-1": 3, "card-2": 1}')
    ran = run("tables", FRAUD_WITH_TABLES, "put", "card_lists", "lists.json")
    assert ran.code == 0, ran
    assert ran.out.startswith("card_lists at card: 2 entries, version ")
    assert json.loads(run("tables", FRAUD_WITH_TABLES, "get", "card_lists").out)["counts"] == {"3": 1, "1": 1}
    assert run("tables", FRAUD_WITH_TABLES, "put", "mcc_risk", "-", "--json", stdin=b'{"5411": 0.5}').code == 0
    assert json.loads(run("tables", FRAUD_WITH_TABLES, "get", "mcc_risk", "--seq", "0").out)["entries"] == 0
    listed = run("tables", FRAUD_WITH_TABLES).out.splitlines()
    assert [line.partition(",")[0] for line in (listed[0], listed[-1])] == [
        "card_lists at card: 2 entries",
        "mcc_risk at mcc: 1 entries",
    ]
    changes = run("tables", FRAUD_WITH_TABLES, "--changes").out.splitlines()
    assert ["card_lists" in changes[0], "mcc_risk" in changes[1], len(changes)] == [True, True, 2]
    assert_sentence(run("tables", FRAUD_WITH_TABLES, "get", "lists"), 2, "a table that no feature looks up")
    assert "get NAME" in run("tables", FRAUD_WITH_TABLES, "put", "mcc_risk").err


def test_members_of_a_list_are_added_and_removed_a_value_a_line(run: Shell, home: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("lists = ['stolen']\nrules = 'block if :card: in @stolen'\n")
    assert run("policy", "fraud", "set", "policy.toml").code == 0
    (tmp_path / "cards.txt").write_text("card-1\n\n  card-2\ncard-1\n")
    ran = run("tables", "fraud", "add", "card_lists", "cards.txt", "--list", "stolen")
    assert ran.out.startswith("card_lists at card: 2 entries, version "), ran
    assert ran.out.endswith("; stolen: 2 added, 0 removed\n")
    ran = run("tables", "fraud", "remove", "card_lists", "-", "--list", "stolen", stdin=b"card-1")
    assert ran.out.endswith("; stolen: 0 added, 1 removed\n")
    assert json.loads(run("tables", "fraud", "get", "card_lists").out)["lists"] == {"stolen": 1}
    decided = run("decide", "fraud", '{"id": "x", "amount_minor": 100, "currency": "EUR", "card": "card-2"}').out
    assert '"block"' in decided
    changes = run("tables", "fraud", "--changes").out.splitlines()
    assert changes[-1].endswith(": stolen: 0 added, 1 removed")
    assert "card-" not in "".join(changes)
    assert "--list LIST" in run("tables", "fraud", "add", "card_lists", "cards.txt").err
    assert_sentence(
        run("tables", "fraud", "add", "card_lists", "cards.txt", "--list", "gone"),
        2,
        "stand in it. Expected one of: stolen",
    )
    (tmp_path / "cards.txt").write_bytes(b"\xff")
    broken = run("tables", "fraud", "add", "card_lists", "cards.txt", "--list", "stolen")
    assert_sentence(broken, 2, "tables, add: bytes that are no UTF-8", "Save the file as UTF-8")


def test_a_home_without_tables_and_changes_says_so(run: Shell, home: Path) -> None:
    assert run("tables", "tests.own_tables:WITHOUT_TABLES").out == "no feature looks up a table\n"
    assert run("tables", "fraud", "--changes").out == "nothing was changed yet\n"
    assert "nothing put yet" in run("tables", FRAUD_WITH_TABLES).out


def test_the_policy_is_shown_as_it_can_be_set(run: Shell, home: Path, tmp_path: Path) -> None:
    shown = run("policy", "fraud").out
    assert shown.startswith("# version ")
    (tmp_path / "policy.toml").write_text(shown.replace("goodwill_minor = 500", "goodwill_minor = 900"))
    assert "goodwill_minor = 900" in run("policy", "fraud", "set", "policy.toml").out
    assert json.loads(run("policy", "fraud", "--json").out)["content"]["goodwill_minor"] == 900
    assert " policy " in run("tables", "fraud", "--changes").out
    rules = "# ours\nblock if :amount_in_eur: > 500\n"
    (tmp_path / "policy.toml").write_text(f"rules = '''\n{rules}'''")
    (tmp_path / "policy.toml").write_text(run("policy", "fraud", "set", "policy.toml").out)
    assert json.loads(run("policy", "fraud", "set", "policy.toml", "--json").out)["content"]["rules"] == rules
    (tmp_path / "policy.toml").write_text("goodwill_minor = -900\nmargin_bp = -1")
    assert_sentence(run("policy", "fraud", "set", "policy.toml"), 2, "goodwill_minor: ", "margin_bp: ")
    (tmp_path / "policy.toml").write_text("goodwill_minor")
    assert_sentence(run("policy", "fraud", "set", "policy.toml"), 2, "policy.toml: no TOML of numbers and texts")
    assert "set FILE" in run("policy", "fraud", "set").err
    assert_sentence(run("policy", "fraud", "--home", "nowhere"), 2, "a folder without a log")


def test_a_rollout_is_begun_grown_and_stopped(run: Shell, home: Path, tmp_path: Path) -> None:
    assert run("rollout", "fraud").out == "No rollout yet.\n"
    model = add_model(home, rule(limit=7.0), promote=False)[:12]
    ran = run("rollout", "fraud", "shadow", "r1", "--model", model, "--why", "newer")
    assert ran.out == f"r1: shadow; model {model}: newer\n"
    ran = run("rollout", "fraud", "canary", "--share", "2.5")
    assert ran.out == f"r1: canary; 2.5 % of the people are decided for by model {model}\n"
    asked = '{"id": "x", "amount_minor": 100, "currency": "EUR", "card": "card-2"}'
    decided = json.loads(run("decide", "fraud", asked).out)
    told = json.loads(run("rollout", "fraud", "--json").out)["content"]
    assert (told["share_bp"], told["champion"] in decided["versions"]["model"]) == (250, True)
    assert_sentence(run("rollout", "fraud", "canary", "r2", "--model", model, "--share", "1"), 2, "Stop r1 first")
    assert run("rollout", "fraud", "stop", "--why", "disputes").out == f"r1: stopped; model {model}: disputes\n"
    (tmp_path / "policy.toml").write_text("goodwill_minor = 7")
    ran = run("rollout", "fraud", "canary", "r2", "--policy", "policy.toml", "--model", model, "--share", "100")
    assert ran.out == f"r2: canary; 100 % of the people are decided for by model {model} and parameters of its own\n"
    assert_sentence(run("rollout", "fraud", "canary"), 2, "fraud rollout: canary with share_bp 0. Expected 1 to 10,000")
    assert "rollout" in run("tables", "fraud", "--changes").out


def test_tables_and_policy_go_to_a_running_server_too(
    run: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, bytes | None, str]] = []

    def answer(method: str, url: str, *, raw: bytes | None = None, token: str = "") -> Any:
        asked.append((method, url, raw, token))
        state = {"table": "lists", "key": "card", "version": "v", "seq": 1, "known_time": "now", "by": "me", "what": ""}
        step = {"name": "r1", "stage": "stopped", "model": "", "policy": None, "share_bp": 0, "why": ""}
        told = state | {"entries": 0, "content": step if url.endswith("rollout") else {"a": 1}}
        return [told] if url.endswith(("tables", "changes")) else told

    monkeypatch.setattr("decalog.admin.call", answer)
    (tmp_path / "own.toml").write_text("a = 1")
    there = ("--url", "http://there", "--token", "t")
    assert run("tables", "fraud", *there).out == "lists at card: 0 entries, version v, record 1, now\n"
    assert run("tables", "fraud", "--changes", *there).out == "now  lists v, record 1, by me\n"
    run("tables", "fraud", "get", "lists", "--seq", "7", *there)
    run("tables", "fraud", "put", "lists", "-", *there, stdin=b"{}")
    run("tables", "fraud", "remove", "lists", "-", "--list", "stolen", *there, stdin=b"c-1")
    assert run("policy", "fraud", *there).out == "# version v, record 1, now\na = 1\n"
    run("policy", "fraud", "set", "own.toml", *there)
    run("rollout", "fraud", "stop", "r1", *there)
    step = b'{"name": "r1", "stage": "stopped", "model": "", "share_bp": 0, "why": ""}'
    assert asked == [
        ("GET", "http://there/v1/fraud/tables", None, "t"),
        ("GET", "http://there/v1/fraud/changes", None, "t"),
        ("GET", "http://there/v1/fraud/tables/lists?seq=7", None, "t"),
        ("PUT", "http://there/v1/fraud/tables/lists", b"{}", "t"),
        ("PATCH", "http://there/v1/fraud/tables/lists", b'{"list": "stolen", "remove": ["c-1"]}', "t"),
        ("GET", "http://there/v1/fraud/policy", None, "t"),
        ("PUT", "http://there/v1/fraud/policy", b'{"a": 1}', "t"),
        ("GET", "http://there/v1/fraud/rollout", None, "t"),
        ("PUT", "http://there/v1/fraud/rollout", step, "t"),
    ]


def test_a_change_is_judged_on_the_log_or_the_log_cannot_tell(run: Shell, home: Path, tmp_path: Path) -> None:
    (tmp_path / "new.toml").write_text("margin_bp = 3000\n")
    ran = run("whatif", "fraud", "--policy", "new.toml", "--set", "goodwill_minor=900")
    assert ran.code == 0
    assert "margin_bp = 3000" in ran.out
    assert "goodwill_minor = 900" in ran.out
    told = json.loads(run("whatif", "fraud", "--json").out)
    # Of two days nothing has matured.
    assert (told["answer"], told["because"]) == ("no verdict", ["the log holds no payment that could tell"])
    assert_sentence(run("whatif", "fraud", "--set", "goodwil=9"), 2, "what-if, --set: 'goodwil=9'")
    assert home.is_dir()


def test_a_decision_is_explained_and_what_is_at_once_is_kept(run: Shell, home: Path) -> None:
    id_ = decode_decision(records(Home(home), "decision")[-1].body).request.id
    ran = run("why", "fraud", id_)
    assert ran.code == 0
    assert "\nwhat would have changed it:\n" in ran.out
    assert json.loads(run("why", "fraud", id_, "--json").out)["request"] == id_
    assert run("explain", "fraud", id_).out == ran.out
    assert run("why", "fraud", "--at-once").out == "0 explained\n"
    assert_sentence(run("why", "fraud", "nobody"), 2, "fraud decision: an id that no decision has")
    assert_sentence(run("why", "frau", id_), 2, "system: 'frau'")
    assert "name one decision, or --at-once" in run("why", "fraud").err
    assert "name one decision, or --at-once" in run("why", "fraud", id_, "--at-once").err


def test_a_why_of_a_systems_own_goes_before_decalogs(run: Shell, home: Path) -> None:
    assert "{request} [post]" in run("why", "feed", "--help").out
    assert "--at-once" in run("why", "fraud", "--help").out
    assert_sentence(run("why", "feed", "r1", "p1"), 2, "decalog why feed: an id that no slate has")
    assert_sentence(run("why", "feed", "r1"), 2, "feed decision: an id that no decision has")
    assert home.is_dir()
