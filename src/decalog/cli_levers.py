"""The commands of what operators turn, on a running server or on a home without one: tables and the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from decalog.errors import DataError
from decalog.terminal import (
    HOME,
    HomeOption,
    JsonOption,
    SystemArgument,
    TokenOption,
    UrlOption,
    example_of,
    plain_name,
    print_json,
    print_text,
    read_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from decalog.levers import Levers

Rows = list[dict[str, Any]]

levers_app = typer.Typer(rich_markup_mode=None)


@levers_app.command(epilog=example_of("decalog tables fraud put card_lists lists.json"))
def tables(
    system: SystemArgument,
    act: Annotated[Literal["list", "get", "put", "add", "remove"], typer.Argument(help="What to do.")] = "list",
    name: Annotated[str, typer.Argument(help="Of the table, for all but list.")] = "",
    file: Annotated[
        Path | None, typer.Argument(help="For put a JSON object of numbers by key, else a value a line; - for input.")
    ] = None,
    list_: Annotated[str, typer.Option("--list", help="With add and remove: which list of the table.")] = "",
    seq: Annotated[int | None, typer.Option(help="With get: as the table stood at this record of the log.")] = None,
    changes: Annotated[bool, typer.Option("--changes", help="Who changed tables and policy, instead.")] = False,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """List, read, put or change the tables that features look up; the next request sees it."""
    where, text = _Where(system, url, token, home), _tables_text
    match act, name, file:
        case "list", "", None if changes:
            told, text = where.ask("changes", lambda levers: levers.changes()), _changes_text
        case "list", "", None:
            told = where.ask("tables", lambda levers: levers.tables())
        case "get", str(), None if name:
            query = "" if seq is None else f"?seq={seq}"
            told, as_json = where.ask(f"tables/{name}{query}", lambda levers: levers.table(name, seq)), True
        case "put", str(), Path() if name:
            raw = read_file(file)
            told = [where.put(f"tables/{name}", lambda levers, by: levers.put_table(name, raw, by=by), raw=raw)]
        case "add" | "remove", str(), Path() if name and list_:
            raw = _members(list_, act, read_file(file))
            told = [
                where.put(
                    f"tables/{name}", lambda levers, by: levers.put_members(name, raw, by=by), raw=raw, method="PATCH"
                )
            ]
        case _:
            raise typer.BadParameter(
                "get NAME, put NAME FILE, add or remove NAME FILE --list LIST, or nothing more for the list"
            )
    print_json(told) if as_json else print_text(text(told))


@levers_app.command(epilog=example_of("decalog policy fraud set policy.toml"))
def policy(
    system: SystemArgument,
    act: Annotated[Literal["show", "set"], typer.Argument(help="What to do.")] = "show",
    file: Annotated[Path | None, typer.Argument(help="TOML of parameters, for set; the rest gets defaults.")] = None,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the policy's parameters as TOML, or set them; the next request is decided by what is set."""
    where = _Where(system, url, token, home)
    if act == "show":
        told = where.ask("policy", lambda levers: levers.policy())
    elif file is None:
        raise typer.BadParameter("set FILE")
    else:
        raw = _toml(file)
        told = where.put("policy", lambda levers, by: levers.put_policy(raw, by=by), raw=raw)
    print_json(told) if as_json else print_text(_policy_text(told))


@levers_app.command(epilog=example_of("decalog rollout fraud canary r1 --model 3f9a61c27d04 --share 5"))
def rollout(
    system: SystemArgument,
    act: Annotated[Literal["show", "shadow", "canary", "stop"], typer.Argument(help="The step.")] = "show",
    name: Annotated[str, typer.Argument(help="Of a new rollout; of the last one, if nothing is said.")] = "",
    model: Annotated[str, typer.Option(help="The challenger: its id, or 12 of its digits.")] = "",
    file: Annotated[Path | None, typer.Option("--policy", help="TOML of the challenger's parameters.")] = None,
    share: Annotated[float, typer.Option(help="Percent of the people whose requests it decides.")] = 0.0,
    why: Annotated[str, typer.Option(help="For the log.")] = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Let a challenger decide for a share of the people, raise the share, or stop it; the next request sees it."""
    import json

    where = _Where(system, url, token, home)
    told = where.ask("rollout", lambda levers: levers.rollouts.stored())
    if act != "show":
        name = name or (told["content"] or {}).get("name", "")
        step = {"name": name, "stage": _STAGES[act], "model": model, "share_bp": round(100 * share), "why": why}
        step |= {"policy": json.loads(_toml(file))} if file is not None else {}
        raw = json.dumps(step).encode()
        told = where.put("rollout", lambda levers, by: _stepped(levers, raw, by), raw=raw)
    print_json(told) if as_json else print_text(_rollout_text(told["content"]))


def _stepped(levers: Levers, raw: bytes, by: str) -> object:
    return levers.rollouts.put(levers.rollouts.read(raw, levers.read_policy), by=by)


_STAGES = {"shadow": "shadow", "canary": "canary", "stop": "stopped"}


def _rollout_text(step: dict[str, Any] | None) -> str:
    if step is None:
        return "No rollout yet."
    whom = f"{step['share_bp'] / 100:g} % of the people are decided for by " if step["stage"] == "canary" else ""
    challenger = " and ".join(
        [f"model {step['model'][:12]}"] * bool(step["model"]) + ["parameters of its own"] * (step["policy"] is not None)
    )
    return f"{step['name']}: {step['stage']}; {whom}{challenger}{': ' * bool(step['why'])}{step['why']}"


class _Where:
    """Where a system's levers are: behind a server's address, or in a home."""

    def __init__(self, system: str, url: str, token: str, home: Path) -> None:
        self._system, self._url, self._token, self._home = system, url, token, home

    def ask(self, path: str, here: Callable[[Levers], object]) -> Any:
        """Returns what is told, as JSON has it."""
        return self._call("GET", path) if self._url else self._here(here, puts=False)

    def put(self, path: str, here: Callable[[Levers, str], object], *, raw: bytes, method: str = "PUT") -> Any:
        """Returns what is told of what was put."""
        import getpass

        if self._url:
            return self._call(method, path, raw)
        return self._here(lambda levers: here(levers, getpass.getuser()), puts=True)

    def _call(self, method: str, path: str, raw: bytes | None = None) -> Any:
        from decalog import admin

        return admin.call(method, f"{self._url}/v1/{plain_name(self._system)}/{path}", raw=raw, token=self._token)

    def _here(self, act: Callable[[Levers], object], *, puts: bool) -> Any:
        import msgspec

        from decalog import operations
        from decalog.home import Home

        with operations.levers_here(Home(self._home), self._system, puts=puts) as levers:
            return msgspec.to_builtins(act(levers))


def _members(list_: str, act: str, raw: bytes) -> bytes:
    import json

    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            where=f"tables, {act}",
            given="bytes that are no UTF-8",
            expected="one value a line, as requests have it",
            fix="Save the file as UTF-8; the list is as it was.",
        ) from None
    values = [line.strip() for line in lines if line.strip()]
    return json.dumps({"list": list_, act: list(dict.fromkeys(values))}).encode()


def _tables_text(rows: Rows) -> str:
    lines = [
        f"{row['table']} at {row['key']}: {row['entries']:,} entries, version {row['version']}, "
        f"record {row['seq']}, {row['known_time']}{'; ' * ('changed' in row)}{row.get('changed', '')}"
        if row.get("version")
        else f"{row['table']} at {row['key']}: nothing put yet"
        for row in rows
    ]
    return "\n".join(lines) or "no feature looks up a table"


def _changes_text(rows: Rows) -> str:
    lines = [
        f"{row['known_time']}  {row['table']} {row['version']}, record {row['seq']}, by {row['by']}"
        + (f": {row['what']}" if row["what"] else "")
        for row in rows
    ]
    return "\n".join(lines) or "nothing was changed yet"


def _policy_text(told: dict[str, Any]) -> str:
    head = f"version {told['version']}, record {told['seq']}, {told['known_time']}" if told["version"] else "defaults"
    return "\n".join([f"# {head}", *(f"{name} = {_toml_value(value)}" for name, value in told["content"].items())])


def _toml_value(value: object) -> str:
    """Returns a value of JSON in TOML, lines of a text as lines."""
    import json

    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, str) and "\n" in value and "'''" not in value:
        return f"'''\n{value}'''"
    return json.dumps(value)


def _toml(file: Path) -> bytes:
    import json
    import tomllib

    try:
        return json.dumps(tomllib.loads(read_file(file).decode())).encode()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise DataError(
            where=file.name,
            given=f"no TOML of numbers and texts ({error})",
            expected="one line a parameter: name = value",
            fix="`decalog policy fraud` shows those in force; write them to a file and change it.",
        ) from None
