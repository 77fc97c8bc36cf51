"""The commands of the loop: what closes it beside a running server, over the log alone."""

from __future__ import annotations

from typing import Annotated

import typer

from decalog.terminal import HOME, HomeOption, JsonOption, SystemArgument, example_of, print_json, print_text, say

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
