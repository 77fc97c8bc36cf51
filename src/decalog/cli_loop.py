"""The commands of what closes the loop: they read the log beside a running server, and never write to it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from decalog.terminal import HOME, HomeOption, JsonOption, SystemArgument, example_of, print_json, print_text

loop_app = typer.Typer(rich_markup_mode=None)


@loop_app.command(epilog=example_of("decalog whatif fraud --set goodwill_minor=900"))
def whatif(
    system: SystemArgument,
    candidate: Annotated[str, typer.Option(help="Id of a model, or its first 12 digits; else the champion.")] = "",
    policy: Annotated[
        Path | None, typer.Option(help="TOML of policy parameters; the rest gets defaults. Else those in force.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One parameter of the policy; may repeat.")
    ] = None,
    in_its_money: Annotated[
        bool, typer.Option("--in-its-money", help="Count both sides by the changed parameters, not by those in force.")
    ] = False,
    last: Annotated[int, typer.Option(min=1, help="How many decisions are looked at, the newest.")] = 20_000,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what another model or policy would have brought on logged decisions, or that the log cannot tell."""
    from decalog.deployment import Deployment
    from decalog.home import Home
    from decalog.operations import read_policy
    from decalog.policy import with_rates
    from decalog.whatif import Change, changed_params, what_if

    with closing(Home(home).reader()) as log:
        deployment = Deployment(Home(home), system, log)
        params = deployment.policy_params()
        if policy is not None:
            params = with_rates(read_policy(policy, deployment.system.policy_params), deployment.rates())
        params = changed_params(params, settings or ())
        change = Change(candidate=candidate, params=params, in_its_money=in_its_money, last=last)
        told = what_if(deployment, change)
    print_json(told) if as_json else print_text(told.text())
