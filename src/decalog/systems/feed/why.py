"""Why a logged slate showed a post, or did not: `decalog why feed REQUEST POST`, and the same over HTTP.

Without a post it is decalog's own `why`, of the whole slate.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment, run_aside
from decalog.errors import ReplayError, UnknownRecordError
from decalog.events import Record
from decalog.explaining import Explainer, Explanation
from decalog.features.definition import FeatureSet
from decalog.features.online import OnlineState
from decalog.folding import changes
from decalog.home import Home
from decalog.host import Host
from decalog.log import Log
from decalog.rollout import params_of
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.system import SYSTEM
from decalog.systems.feed.trace import Why, remembered, why
from decalog.tables import Tables

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Why a slate showed a post, or did not."
)


@app.command(epilog="Example:  decalog why feed request_7 post_4")
def slate(
    request: Annotated[str, typer.Argument(help="Id of the request, or of its decision.")],
    post: Annotated[str, typer.Argument(help="The post, by your name for it; without one, the whole slate.")] = "",
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - as typer has it
) -> None:
    """Name every stage that a post went through in one decision, up to the one that decided."""
    with closing(Home(home).reader()) as log:
        if post:
            found: Why | Explanation = why_folded(log, request=request, post=post)
        else:
            found = Explainer(Deployment(Home(home), SYSTEM, log)).explain(request)
    typer.echo(msgspec.json.encode(found) if as_json else found.text())


def why_folded(log: Log, *, request: str, post: str) -> Why:
    """Returns a post's way through a logged decision; what the policy saw is folded again from the log.

    Raises:
        UnknownRecordError: no slate has that id.
    """
    seqs = log.find("decision", request) or log.find("request", f"{SYSTEM.name}/{request}")
    record = log.get(seqs[0]) if seqs else None
    decision = decode_decision(record.body) if record is not None and record.kind == "decision" else None
    if record is None or decision is None:
        raise UnknownRecordError(
            where="decalog why feed",
            given="an id that no slate has",
            expected="the id of a request, or of its decision",
            fix="The reply to a request names both.",
        )
    declared = Tables(log).version(SYSTEM.name, "features", version=decision.versions.features)
    features = FeatureSet.from_json(msgspec.json.encode(declared)) if declared else SYSTEM.features
    state = OnlineState(features)
    state.apply_many(changes(log.read(0, decision.state_seq), SYSTEM.name, past=log, reads=features.reads))
    return why_seen(log, record, decision=decision, post=post, state=state)[0]


def why_seen(log: Log, record: Record, *, decision: Decision, post: str, state: Any) -> tuple[Why, bool]:
    """Returns a post's way through a decision by the policy that decided, and whether views told what it had seen.

    Args:
        log: of the decision.
        record: of the decision.
        decision: of the record.
        post: by the caller's name for it.
        state: views that are as far as the decision, or farther.
    """
    params = params_of(Tables(log), SYSTEM.name, version=decision.versions.policy)
    policy = FeedPolicy(msgspec.convert(params or {}, FeedWeights))
    columns = remembered(decision, state, root=record.seq)
    return why(decision, post, policy=policy, columns=columns), columns is not None


async def why_logged(host: Host, request: str, *, post: str, alone: asyncio.Semaphore) -> tuple[Why, Decision]:
    """Returns a post's way through a slate that a server logged, and its decision.

    Args:
        host: of the server.
        request: id of the request, or of its decision.
        post: by the caller's name for it.
        alone: lets one fold the log at a time: so many at once would take the machine from the decisions.

    Raises:
        UnknownRecordError: no slate has that id.
        ReplayError: what live views do not tell any more could not be folded anew.
    """
    record, decision = await host.logged(SYSTEM.name, request)
    found, is_whole = why_seen(host.log, record, decision=decision, post=post, state=host.services[SYSTEM.name].state)
    if not is_whole and host.folder is not None:
        async with alone:
            found = await why_aside(host.folder.parent, request=decision.id, post=post)
    return found, decision


async def why_aside(root: Path, *, request: str, post: str) -> Why:
    """Returns what the command says, run as a process of its own: to fold the log here would stall replies.

    Raises:
        ReplayError: the process failed.
    """
    line = ("decalog", "why", SYSTEM.name, "--json", "--home", str(root), "--", request, post)
    out, err, status = await run_aside(*line)
    try:
        return msgspec.json.decode(out, type=Why)
    except msgspec.DecodeError:
        raise ReplayError(
            where="decalog why feed",
            given=f"a process that ended with {status}: {err.decode(errors='replace')[-400:]}",
            expected="a post's way through a slate",
            fix="Run the command by hand to see more.",
        ) from None
