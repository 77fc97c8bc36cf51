"""The command of the control room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decalog.terminal import HOME, example_of, print_text

room_app = typer.Typer(rich_markup_mode=None)


@room_app.command(epilog=example_of("decalog room --home var --url fraud=http://127.0.0.1:8000"))
def room(
    home: Annotated[
        list[Path] | None,
        typer.Option("--home", envvar="DECALOG_HOME", help="A home, or a folder of homes; may repeat."),
    ] = None,
    url: Annotated[list[str] | None, typer.Option(help="Where a system is served: fraud=http://host:port.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    auth: Annotated[bool, typer.Option(help="Ask for API tokens; off only on a loopback address.")] = True,
    https: Annotated[
        bool, typer.Option("--https", help="A proxy before it speaks https: cookies are for that.")
    ] = False,
) -> None:
    """Show what the systems of some homes do, in a browser, and let people act on them with their tokens."""
    from decalog.control_room.homes import House
    from decalog.control_room.serving import serve
    from decalog.http.settings import HttpSettings

    urls = dict((one.partition("=")[::2]) for one in url or ())
    named = f"[{host}]" if ":" in host else host
    serve(
        House(home or [HOME], urls),
        HttpSettings(host=host, port=port, tokens=auth),
        https=https,
        on_listening=lambda taken: print_text(f"control room on http://{named}:{taken}"),
    )
