"""`decalog rules fraud …`: check rules, try them on the log, and ask the log for some."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from decalog.deployment import Deployment
from decalog.errors import DataError
from decalog.examples import History
from decalog.home import Home
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.rules.backtest import Backtest, read_payments
from decalog.systems.fraud.rules.backtest import backtest as tried
from decalog.systems.fraud.rules.ruleset import RuleSet
from decalog.systems.fraud.rules.suggest import suggest as suggested

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check fraud's rules, try them on the log, ask it for some."
)
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Rules, one a line.")]
_Home = Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")]
_Position = Annotated[int | None, typer.Option("--position", help="Read the log up to here; without it, all of it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_HOME = Path("var")


@app.command(epilog="Example:  decalog rules fraud check rules.txt")
def check(file: _File, home: _Home = _HOME) -> None:
    """Read rules and print them in the order of evaluation; lists and rates are those of the home, if it has a log."""
    params = FraudCosts()
    if Home(home).exists:
        with closing(Home(home).reader()) as log:
            params = msgspec.convert(Deployment(Home(home), "fraud", log).policy_params(), FraudCosts)
    typer.echo("\n".join(map(str, _rules(_read(file), params).rules)))


@app.command(epilog="Example:  decalog rules fraud backtest rules.txt")
def backtest(file: _File, home: _Home = _HOME, position: _Position = None, as_json: _Json = False) -> None:
    """Try rules on the payments of the log: money saved, good customers insulted, load of the queue, overlap."""
    study = _Study(home, position)
    _print(study.tried(_read(file)), as_json=as_json)


@app.command(epilog="Example:  decalog rules fraud suggest")
def suggest(home: _Home = _HOME, position: _Position = None, as_json: _Json = False) -> None:
    """Find rules on the earlier part of the log and try them on the later part."""
    study = _Study(home, position)
    text, since = suggested(study.history, study.payments, policy=study.policy)
    _print(study.tried(text, since=since), as_json=as_json)


class _Study:
    """A home's payments, and what they are judged with."""

    def __init__(self, home: Path, position: int | None) -> None:
        with closing(Home(home).reader()) as log:
            deployment = Deployment(Home(home), "fraud", log)
            system = deployment.system
            self.policy = FraudPolicy(msgspec.convert(deployment.policy_params(), FraudCosts))
            self.history = History(log.read(0, position), system.schema, features=system.features)
            self.payments = read_payments(self.history, log)

    def tried(self, text: str, *, since: int = 0) -> Backtest:
        """Returns the backtest of rules on the payments decided at a time, µs, or later."""
        params = self.policy.params
        return tried(_rules(text, params), self.payments.since(since), policy=self.policy)


def _rules(text: str, params: FraudCosts) -> RuleSet:
    return RuleSet(text, rates=params.rates, lists=params.lists)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            where=str(file), given=f"a file that cannot be read ({error})", expected="UTF-8 text", fix="Check the path."
        ) from None


def _print(made: Backtest, *, as_json: bool) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(made)).decode() if as_json else made.text())
