"""What every command of `decalog` shares: options, and how files are read and answers printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from decalog.errors import DataError

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log, the keys and the models live.")
]
SystemArgument = Annotated[str, typer.Argument(help="A system's name, or the dotted path of your own.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[str, typer.Option("--url", help="Address of a running server; without it, this process does it.")]
TokenOption = Annotated[str, typer.Option("--token", envvar="DECALOG_TOKEN", help="API token for --url.")]
RowsArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="JSON array or one object a line; - for standard input.")
]
HOME = Path("var")


def example_of(line: str) -> str:
    """Returns the last line of a help page."""
    return f"Example:  {line}"


def read_file(path: Path) -> bytes:
    """Returns the bytes of a file, or of standard input for -.

    Raises:
        DataError: it cannot be read.
    """
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(
            where=str(path),
            given=f"a file that cannot be read ({getattr(error, 'strerror', None) or error})",
            expected="a file of JSON: one object, an array, or one object a line",
            fix="Check the path; - reads standard input.",
        ) from None


def plain_name(system: str) -> str:
    """Returns the name by which a server knows a system: its own, also where the dotted path of one is given."""
    if ":" not in system:
        return system
    from decalog.system import find_system

    return find_system(system).name


def say(line: str) -> None:
    """Says a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def print_text(text: str) -> None:
    """Prints a text."""
    sys.stdout.write(f"{text.rstrip()}{os.linesep}")


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    import msgspec

    print_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
