"""`decalog rules fraud …`: check rules, try them on the log, and ask the log for some."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from decalog.deployment import Deployment
from decalog.examples import History
from decalog.home import Home
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.rules.backtest import Backtest, Payments, read_payments
from decalog.systems.fraud.rules.backtest import backtest as try_on
from decalog.systems.fraud.rules.ruleset import RuleSet
from decalog.systems.fraud.rules.suggest import suggest as find

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Check fraud's rules, try them on the log, ask it for some.",
)
_File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Rules, one a line, UTF-8.")]
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
            params = _params(Deployment(Home(home), "fraud", log))
    typer.echo("\n".join(str(rule) for rule in _rules(file, params).rules))


@app.command(epilog="Example:  decalog rules fraud backtest rules.txt")
def backtest(file: _File, home: _Home = _HOME, position: _Position = None, as_json: _Json = False) -> None:
    """Try rules on the payments of the log: money saved, good customers insulted, load of the queue, overlap."""
    policy, _, payments = _study(home, position)
    _print(try_on(_rules(file, policy.params), payments, policy=policy), as_json=as_json)


@app.command(epilog="Example:  decalog rules fraud suggest")
def suggest(home: _Home = _HOME, position: _Position = None, as_json: _Json = False) -> None:
    """Find rules on the earlier part of the log and try them on the later part."""
    policy, history, payments = _study(home, position)
    text, since = find(history, payments, policy=policy)
    _print(try_on(RuleSet(text), payments.since(since), policy=policy), as_json=as_json)


def _study(home: Path, position: int | None) -> tuple[FraudPolicy, History, Payments]:
    """Returns what a home judges rules with: its policy, its history up to a position, and the payments of that."""
    with closing(Home(home).reader()) as log:
        deployment = Deployment(Home(home), "fraud", log)
        history = History(log.read(0, position), deployment.system.schema, features=deployment.system.features)
        return FraudPolicy(_params(deployment)), history, read_payments(history, log)


def _params(deployment: Deployment) -> FraudCosts:
    return msgspec.convert(deployment.policy_params(), FraudCosts)


def _rules(file: Path, params: FraudCosts) -> RuleSet:
    # A byte that is no UTF-8 becomes a sign that the parser names with its place.
    text = file.read_text(encoding="utf-8", errors="replace")
    return RuleSet(text, rates=params.rates, lists=params.lists)


def _print(made: Backtest, *, as_json: bool) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(made)).decode() if as_json else made.text())
