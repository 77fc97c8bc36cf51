"""The commands of what people may ask for, on a running server or on a home without one; and of backups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
)

if TYPE_CHECKING:
    from decalog.privacy.live import Asked

privacy_app = typer.Typer(rich_markup_mode=None)
SubjectArgument = Annotated[str, typer.Argument(help="Value of the person, as requests have it: a customer's id.")]
EntityOption = Annotated[
    str, typer.Option("--as", help="Entity that it is a value of; the schema's first if not said.")
]
WhyOption = Annotated[str, typer.Option(help="For the log; nothing personal.")]
LiftOption = Annotated[bool, typer.Option("--lift", help="Take it back.")]
_WAIT_S = 3_600


@privacy_app.command(epilog=example_of("decalog erase fraud cus_1"))
def erase(
    system: SystemArgument,
    subject: SubjectArgument,
    entity: EntityOption = "",
    proof: Annotated[bool, typer.Option("--proof", help="Erase nothing: search again for who was erased.")] = False,
    also: Annotated[
        Path | None, typer.Option(help="With --proof: file of what else they were called, one a line; - for input.")
    ] = None,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Erase a person: key and map entries are destroyed, views follow, and a search of every byte proves it."""
    from decalog.privacy.erasing import Erased
    from decalog.privacy.live import Asked

    more = () if also is None else tuple(line for line in _text(also).splitlines() if line.strip())
    asked = Asked(act="prove" if proof else "erase", person=subject, entity=entity, more=more)
    told = _asked(system, asked, Erased, url=url, token=token, home=home)
    lines = told.text().splitlines()
    print_json(told) if as_json else print_text("\n".join(lines[1:] if proof else lines))
    raise typer.Exit(0 if told.proof is not None and told.proof.holds else 1)


@privacy_app.command(epilog=example_of("decalog access fraud cus_1 --json"))
def access(
    system: SystemArgument,
    subject: SubjectArgument,
    entity: EntityOption = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Export what is kept of a person, in the clear, and the logic of each decision about them."""
    from decalog.privacy.access import Account
    from decalog.privacy.live import Asked

    asked = Asked(act="access", person=subject, entity=entity)
    told = _asked(system, asked, Account, url=url, token=token, home=home)
    print_json(told) if as_json else print_text(told.text())


@privacy_app.command(epilog=example_of("decalog rectify fraud cus_1 right.json"))
def rectify(
    system: SystemArgument,
    subject: SubjectArgument,
    file: Annotated[Path, typer.Argument(help="JSON of what is right, by personal field or entity; - for input.")],
    entity: EntityOption = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Correct personal values: records that have another value of a name get a new sealed image."""
    import msgspec

    from decalog.privacy.acts import Corrected
    from decalog.privacy.live import Asked

    try:
        values = msgspec.json.decode(_text(file), type=dict[str, int | float | str | bool])
    except msgspec.DecodeError:
        raise DataError(
            where=f"{plain_name(system)} rectify, {file.name}",
            given="what is no JSON object of values",  # without them: they are personal
            expected='{"cardholder": "…"}',
            fix="Mend it; nothing was corrected.",
        ) from None
    asked = Asked(act="rectify", person=subject, entity=entity, values=values)
    told = _asked(system, asked, Corrected, url=url, token=token, home=home)
    print_text(f"{told.records:,} records corrected")


@privacy_app.command(epilog=example_of("decalog restrict fraud cus_1 --why 'accuracy contested'"))
def restrict(
    system: SystemArgument,
    subject: SubjectArgument,
    entity: EntityOption = "",
    lift: LiftOption = False,
    why: WhyOption = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Restrict what is done with a person's data: no prediction, a person decides, and nothing is learnt from it."""
    act = "lift" if lift else "restrict"
    _wish(system, act, subject, entity, why=why, where=(url, token, home))
    print_text("lifted" if lift else "restricted; the next request of theirs is decided so")


@privacy_app.command("opt-out", epilog=example_of("decalog opt-out feed reader-1"))
def opt_out(
    system: SystemArgument,
    subject: SubjectArgument,
    entity: EntityOption = "",
    lift: LiftOption = False,
    why: WhyOption = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Leave a person out of automated decisions and of profiling, from their next request on."""
    act = "opt_in" if lift else "opt_out"
    _wish(system, act, subject, entity, why=why, where=(url, token, home))
    print_text("taken back" if lift else "opted out; the next request of theirs is decided so")


@privacy_app.command(epilog=example_of("decalog retention fraud --keep cardholder=90 --keep person=730"))
def retention(
    system: SystemArgument,
    keep: Annotated[
        list[str] | None, typer.Option(help="name=days, of a personal field or entity, or of person; all anew.")
    ] = None,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
    as_json: JsonOption = False,
) -> None:
    """Erase what is over age: people of whom nothing new came, and values that are kept no longer."""
    from decalog.privacy.live import Asked
    from decalog.privacy.retention import Retained

    days = None if keep is None else dict(_rule(one) for one in keep)
    told = _asked(system, Asked(act="retention", days=days), Retained, url=url, token=token, home=home)
    print_json(told) if as_json else print_text(told.text())


@privacy_app.command(epilog=example_of("decalog notice fraud adm-2027-01 --at https://shop.example/adm"))
def notice(
    system: SystemArgument,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of the text that people are shown; '' for none.")],
    at: Annotated[str, typer.Option(help="Where it can be read.")] = "",
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Let decisions carry the id of the notice that people are given of automated decisions."""
    from decalog.privacy.live import Asked
    from decalog.standing import Notice

    told = _asked(system, Asked(act="notice", id=id_, url=at), Notice, url=url, token=token, home=home)
    print_text(f"decisions carry notice {told.id}" if told.id else "decisions carry no notice")


@privacy_app.command(epilog=example_of("decalog contest fraud pay_1"))
def contest(
    system: SystemArgument,
    decision: Annotated[str, typer.Argument(help="Id of the decision, or of its request.")],
    said: Annotated[Path | None, typer.Option(help="File of why, in the person's words; - for input.")] = None,
    url: UrlOption = "",
    token: TokenOption = "",
    home: HomeOption = HOME,
) -> None:
    """Ask for a human to look at a decision; it waits at the system's desk, where there is one."""
    import msgspec

    from decalog import admin
    from decalog.home import Home
    from decalog.privacy.acts import Heard
    from decalog.privacy.here import contest_here

    words = "" if said is None else _text(said)
    if url:
        raw = msgspec.json.encode({"decision": decision, "said": words})
        answer = admin.call("POST", f"{url}/v1/{plain_name(system)}/contest", raw=raw, token=token)
        told = msgspec.convert(answer, Heard)
    else:
        told = contest_here(Home(home), system, decision=decision, said=words)
    print_text(f"{told.request}: {told.told}")


@privacy_app.command(epilog=example_of("decalog backup /mnt/backup/monday"))
def backup(
    target: Annotated[Path | None, typer.Argument(help="A new folder; without it, those that are known.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Copy a home, keys included, consistently, while the server runs; or list the backups that are known."""
    from decalog.backup import backup as make
    from decalog.clock import rfc3339
    from decalog.privacy import ledger

    if target is None:
        known = [
            f"{copy.path}: {copy.position:,} records, to {rfc3339(copy.known_time)}" for copy in ledger.backups(home)
        ]
        print_text("\n".join(known) or "no backups of this home are known")
        return
    made = make(home, target)
    ledger.noted(home, target, made=made)
    print_text(str(made))


@privacy_app.command(epilog=example_of("decalog restore /mnt/backup/monday --home restored"))
def restore(
    source: Annotated[Path, typer.Argument(help="A backup.")],
    erasures: Annotated[
        Path | None, typer.Option(help="Ledger of the erasures since; else that beside the home.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Bring a backup back into a new home, verified before it says so; who was erased since is erased again."""
    from decalog.privacy.restoring import restore as bring

    brought = bring(source, home, erasures=erasures)
    print_text(str(brought.backup))
    (print_text if brought.is_sure else say)(brought.text())


def _wish(system: str, act: str, subject: str, entity: str, *, why: str, where: tuple[str, str, Path]) -> None:
    import msgspec

    from decalog.privacy.live import Asked
    from decalog.standing import Wish

    url, token, home = where
    asked = msgspec.convert({"act": act, "person": subject, "entity": entity, "why": why}, Asked)
    _asked(system, asked, Wish, url=url, token=token, home=home)


def _asked(system: str, asked: Asked, kind: type[Any], *, url: str, token: str, home: Path) -> Any:
    """Returns what came of what is asked for a person, by a server or by this process."""
    import msgspec

    from decalog import admin
    from decalog.home import Home

    if not url:
        from decalog.privacy import here

        return here.do(Home(home), system, asked=asked)
    raw = msgspec.json.encode(asked)
    answer = admin.call("POST", f"{url}/v1/{plain_name(system)}/privacy", raw=raw, token=token, wait_s=_WAIT_S)
    return msgspec.convert(answer, kind)


def _text(path: Path) -> str:
    return read_file(path).decode(errors="replace")


def _rule(text: str) -> tuple[str, int]:
    name, _, days = text.partition("=")
    if not days.isdigit():
        raise typer.BadParameter("name=days, such as cardholder=90")
    return name, int(days)
