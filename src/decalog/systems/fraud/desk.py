"""`decalog cases fraud …` and `decalog rings fraud`: what analysts look at, read from the log beside the server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from decalog.clock import rfc3339
from decalog.decisions import decode_decision, unpack_features
from decalog.deployment import Deployment
from decalog.errors import ConfigError, ReplayError
from decalog.examples import History
from decalog.explaining import Explainer
from decalog.home import Home
from decalog.ingest import RowResult
from decalog.log import Log
from decalog.systems.fraud.neighbours import neighbours
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.review import ReviewCase, ReviewQueue
from decalog.systems.fraud.rings import RingParams, find_rings, table_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Look at the payments that wait for analysts.",
)
rings_app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Find accounts that share devices.")
_Home = Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_HOME = Path("var")


@app.command("list", epilog="Example:  decalog cases fraud list")
def list_(home: _Home = _HOME, as_json: _Json = False) -> None:
    """List the payments that wait, the most worth looking at first; how the queue is doing stands below."""
    with closing(Home(home).reader()) as log:
        queue = _queue(log, home)
        cases, figures = [case for case in queue.cases() if case.state != "closed"], queue.figures()
    if as_json:
        _print_json({"cases": cases, "figures": figures})
        return
    for case in cases:
        typer.echo(_line(case))
    took = "" if figures.service_s is None else f", {figures.service_s / 60:.0f} min each"
    typer.echo(f"{figures.waiting} wait, {figures.claimed} claimed, {figures.closed} closed{took}")


@app.command(epilog="Example:  decalog cases fraud show pay_1")
def show(
    payment: Annotated[str, typer.Argument(help="Id of the payment.")], home: _Home = _HOME, as_json: _Json = False
) -> None:
    """Show one payment: why it came here, what would have changed that, and what became of those most like it."""
    with closing(Home(home).reader()) as log:
        deployment = Deployment(Home(home), "fraud", log)
        case = _queue(log, home).case(payment)
        record = log.get(log.find("decision", case.decision)[0])
        decision = decode_decision(record.body)
        history = History(log.read(), deployment.system.schema, features=deployment.system.features)
        why, features = _why(deployment, case.decision), deployment.system.features
    row, before = unpack_features(decision.candidates[0].features), history.now.take(history.now.seqs < record.seq)
    like = neighbours(before, row, columns=features.places_for("model")) if len(row) == len(features.names) else []
    if as_json:
        _print_json({"case": case, **why, "neighbours": like})
        return
    typer.echo(_line(case))
    typer.echo("\n".join(f"  {reason}" for reason in case.reasons))
    typer.echo("\n".join(["why:", *(f"  {because.text()}" for because in why["explanation"][:10])]))
    otherwise = [*(flip.text() for flip in why["would_change"]), *filter(None, [why["nothing_else"]])]
    typer.echo("\n".join(["what would have changed it:", *(f"  {line}" for line in otherwise)]))
    words = {0: "genuine", 1: "fraud"}
    near = [f"  {n.payment}: {words[n.label]} ({n.why}), {n.amount_minor:,}, at {n.distance:.3f}" for n in like]
    typer.echo("\n".join(["most like it:", *near]))


@rings_app.command(epilog="Example:  decalog rings fraud --days 30")
def rings(
    days: Annotated[int, typer.Option(help="Of payments that are looked at.")] = 30,
    accounts: Annotated[int, typer.Option(help="Fewer are a household.")] = 4,
    table: Annotated[Path | None, typer.Option(help="Write accounts by device here, as JSON.")] = None,
    home: _Home = _HOME,
    as_json: _Json = False,
) -> None:
    """Find accounts that hang together through the devices they share, in the payments of late."""
    with closing(Home(home).reader()) as log:
        system = Deployment(Home(home), "fraud", log).system
        payments = History(log.read(), system.schema, features=system.features).now
    found = find_rings(payments, RingParams(days=days, least_accounts=accounts))
    if table is not None:
        table.write_bytes(msgspec.json.encode(table_of(found)))
    if as_json:
        _print_json(found)
        return
    typer.echo("\n".join(ring.text() for ring in found) or "no rings")


def _why(deployment: Deployment, decision_id: str) -> dict[str, Any]:
    try:
        told = Explainer(deployment).explain(decision_id)
    except ReplayError as error:  # what it would need is gone: a case is worked on without reasons too
        return {"explanation": (), "would_change": (), "nothing_else": str(error)}
    return {name: getattr(told, name) for name in ("explanation", "would_change", "nothing_else")}


def _queue(log: Log, home: Path) -> ReviewQueue:
    params = Deployment(Home(home), "fraud", log).policy_params()
    costs = params if isinstance(params, FraudCosts) else FraudCosts()
    # By the log's own time: that of a simulated world is not this machine's.
    return ReviewQueue(log, _refuse, costs=lambda: costs, now=lambda: log.known_time)


def _refuse(_body: object) -> RowResult:
    raise ConfigError(
        where="decalog cases",
        given="a report on a log that is only read",
        expected="a server that takes it",
        fix="POST it to /v1/fraud/cases.",
    )


def _line(case: ReviewCase) -> str:
    p = "no prediction" if case.p_fraud is None else f"p {case.p_fraud:.4f}"
    held = f", {case.by}" if case.by else ""
    worth, since = f"worth {case.worth_minor:,}", rfc3339(case.since)
    return f"{case.payment}  {case.amount_minor:,}  {p}  {worth}  {since}  {case.state}{held}"


def _print_json(told: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
