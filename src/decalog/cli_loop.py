"""The commands of the loop: what closes it beside a running server, over the log alone."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from decalog.terminal import (
    HOME,
    HomeOption,
    JsonOption,
    SystemArgument,
    TokenOption,
    UrlOption,
    example_of,
    print_json,
    print_text,
    say,
)

loop_app = typer.Typer(rich_markup_mode=None)


@loop_app.command(epilog=example_of("decalog watch fraud --since 7d"))
def watch(
    system: SystemArgument,
    since: Annotated[str, typer.Option(help="How far back to look, such as 6h or 7d.")] = "1d",
    live: Annotated[
        bool, typer.Option("--live", help="Up to the machine's clock, not to the last record: silence is seen.")
    ] = False,
    alertmanager: Annotated[str, typer.Option(help="Tell this Alertmanager what stands: http://host:9093.")] = "",
    hold: Annotated[str, typer.Option(help="How long an alert stands there without another watch.")] = "1d",
    rules: Annotated[bool, typer.Option("--rules", help="Print alerting rules for Prometheus, instead.")] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Measure over the log what a system's monitors declare, print what is found, and keep its alerts."""
    from decalog import operations
    from decalog.alerts import AlertBook
    from decalog.clock import SystemClock, duration_us
    from decalog.home import Home
    from decalog.monitoring import rules_of
    from decalog.system import find_system

    if rules:
        print_json(rules_of(find_system(system)))
        return
    since_us, hold_us, now_us = duration_us(since), duration_us(hold), SystemClock().now_us() if live else None
    seen = operations.watch_log(Home(home), system, since_us=since_us, now_us=now_us)
    book = AlertBook(home)
    new = book.update(seen.system, seen.standing, now_us=seen.until)
    print_json(seen) if as_json else print_text(seen.text())
    say(f"{len(new)} new alerts, {len(seen.standing)} stand")
    if alertmanager:
        told = book.tell(seen.system, alertmanager, hold_us=hold_us, now_us=seen.until)
        say(f"{told} told to {alertmanager}")
    raise typer.Exit(1 if seen.standing else 0)


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


@loop_app.command(epilog=example_of("decalog loop fraud --url http://127.0.0.1:8000"))
def loop(
    system: SystemArgument,
    url: UrlOption = "",
    token: TokenOption = "",
    every: Annotated[str, typer.Option(help="How far two steps are apart.")] = "10m",
    once: Annotated[bool, typer.Option("--once", help="Take the steps that are due now, and end.")] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Retrain when it is due, and let what is better decide: gate, shadow, canary, champion; stop what is worse.

    It runs beside a server, trains in its own process, and goes on where it was after a restart. Without --url it acts
    on a home that no server runs on.
    """
    import time

    from decalog.clock import duration_us
    from decalog.hands import loop_of, turned
    from decalog.home import Home

    wait_s, turning = duration_us(every) / 1e6, loop_of(Home(home), system, url=url.rstrip("/"), token=token)
    while True:
        for move in turned(turning, Home(home), system):
            print_json(move) if as_json else say(move.text())
        if once:
            return
        time.sleep(wait_s)
