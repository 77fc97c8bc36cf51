"""`decalog why feed REQUEST POST`: why a logged slate showed a post, or did not, from the log beside the server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from decalog.candidates import gathered
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment
from decalog.errors import UnknownRecordError
from decalog.features.online import OnlineState
from decalog.folding import changes
from decalog.home import Home
from decalog.log import Log
from decalog.policy import Columns
from decalog.serving import vectors
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.system import SYSTEM
from decalog.systems.feed.trace import Why, why

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Why a slate showed a post, or did not."
)


@app.command(epilog="Example:  decalog why feed request_7 post_4")
def slate(
    request: Annotated[str, typer.Argument(help="Id of the request, or of its decision.")],
    post: Annotated[str, typer.Argument(help="The post, by your name for it.")],
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
) -> None:
    """Name every stage that a post went through in one decision, up to the one that decided."""
    with closing(Home(home).reader()) as log:
        typer.echo(why_logged(log, Deployment(Home(home), SYSTEM.name, log), request=request, post=post).text())


def why_logged(log: Log, deployment: Deployment, *, request: str, post: str) -> Why:
    """Returns a post's way through a logged decision; what the policy saw is folded again from the log.

    Raises:
        UnknownRecordError: no slate has that id.
    """
    seqs = log.find("decision", request) or log.find("request", f"{SYSTEM.name}/{request}")
    record = log.get(seqs[0]) if seqs else None
    decision = decode_decision(record.body) if record is not None and record.kind == "decision" else None
    if decision is None:
        raise UnknownRecordError(
            where="decalog why feed",
            given="an id that no slate has",
            expected="the id of a request, or of its decision",
            fix="The reply to a request names both.",
        )
    params = deployment.tables.version(SYSTEM.name, "policy", version=decision.versions.policy)
    policy = FeedPolicy(msgspec.convert(params or {}, FeedWeights))
    return why(decision, post, policy=policy, columns=_seen(log, decision))


def _seen(log: Log, decision: Decision) -> Columns | None:
    """Returns the features of all that competed, as they were."""
    candidates, features = gathered(decision.candidates), SYSTEM.features
    if not candidates.competing or decision.versions.features != features.version:
        return None
    state = OnlineState(features)
    state.apply_many(changes(log.read(0, decision.state_seq), SYSTEM.name, past=log, reads=features.reads))
    places = {name: place for place, name in enumerate(features.names)}
    return Columns(places, vectors(state, decision.request, state_seq=decision.state_seq, candidates=candidates))
