"""`decalog exposure feed`: whether creators get the attention that their posts earn, from the log beside the server."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from decalog.decisions import Decision
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.log import Log
from decalog.systems.feed.exposure import exposure
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.system import SYSTEM
from decalog.tails import newest

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Exposure of authors against what they earn.")


@app.command(epilog="Example:  decalog exposure feed --last 1000")
def report(
    last: Annotated[int, typer.Option(help="How many slates are looked at.", min=1)] = 1_000,
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
) -> None:
    """Set each group's share of attention against its share of what its posts were expected to be worth."""
    with closing(Home(home).reader()) as log:
        params = Deployment(Home(home), SYSTEM.name, log).policy_params()
        decisions = slates(log, last)
    weights = params if isinstance(params, FeedWeights) else FeedWeights()
    typer.echo(f"{len(decisions):,} slates\n{exposure(decisions, FeedPolicy(weights)).text()}")


def slates(log: Log, last: int) -> list[Decision]:
    """Returns the last slates that were chosen here by predictions, the latest first."""
    return list(islice((one for _, one in newest(log, SYSTEM.name) if one.mode == "live"), last))
