"""The command of readiness: the production-ready checklist as measurements, each of them known to be able to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decalog.terminal import (
    HOME,
    HomeOption,
    JsonOption,
    SystemArgument,
    TokenOption,
    example_of,
    print_json,
    print_text,
    say,
)

check_app = typer.Typer(rich_markup_mode=None)


@check_app.command(epilog=example_of("decalog check fraud --quick"))
def check(
    system: SystemArgument,
    home: HomeOption = HOME,
    url: Annotated[str, typer.Option(help="Address of the running server, to be asked as well; only asked.")] = "",
    token: TokenOption = "",
    quick: Annotated[bool, typer.Option("--quick", help="The quick subset, in under two minutes.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Seed each check's faults, and expect it to turn red.")
    ] = False,
    kept: Annotated[
        bool, typer.Option("--kept", help="Measure nothing: tell what is kept, and what is stale.")
    ] = False,
    section: Annotated[str, typer.Option(help="This section alone.")] = "",
    only: Annotated[str, typer.Option(help="This check alone.")] = "",
    page: Annotated[Path | None, typer.Option(help="Write the page here, as HTML.")] = None,
    allow_model: Annotated[list[str] | None, typer.Option(help="module:Class of a model of yours.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether a system is ready for production, on copies of its home: 0 green, 1 red, 2 not all measured."""
    import signal

    from decalog.home import Home
    from decalog.readiness import page as pages
    from decalog.readiness import running

    wanted = running.Wanted(
        system=system, quick=quick, section=section, only=only, url=url, token=token, allowed=tuple(allow_model or ())
    )
    wanted.check()
    # Ended from outside it still takes its copies away: they hold keys.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if self_test:
        tried = running.self_test(Home(home), wanted, say=say)
        print_json(tried) if as_json else print_text(tried.text())
        raise typer.Exit(0 if tried.holds else 1)
    found = running.standing(Home(home), wanted) if kept else running.run(Home(home), wanted, say=say)
    if page is not None:
        pages.write(page, found)
    print_json(found) if as_json else print_text(pages.text(found))
    raise typer.Exit(found.status)
