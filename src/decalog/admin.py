"""What operators do to models and tokens, as plain functions that return what to print."""

from __future__ import annotations

import getpass
import http.client
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import Any, get_args

import msgspec

from decalog.access import Access, TokenStore
from decalog.clock import SystemClock, duration_us, rfc3339
from decalog.errors import AccessError, LogUnavailableError, ModelError, RequestError
from decalog.home import Home
from decalog.ingest import RowResult
from decalog.registry import SIBLING, Alias, AliasChange, Artefact, Registry
from decalog.reports import Report
from decalog.system import find_system
from decalog.training import REPORT

_WAIT_S = 60
_REFUSED = (401, 403)


class ListedModel(msgspec.Struct, frozen=True):
    """A stored model in a list: short id, kind, aliases it has now, log position and time of its pin, metrics."""

    id: str
    name: str
    aliases: tuple[str, ...]
    position: int
    trained_to: str
    metrics: dict[str, float]


class ListedModels(msgspec.Struct, frozen=True):
    """A system's models and the history of its aliases, oldest first."""

    models: tuple[ListedModel, ...]
    history: tuple[AliasChange, ...]


def list_models(home: Home, name: str) -> ListedModels:
    """Returns a system's models and the history of its aliases."""
    registry, system = Registry(home.root), find_system(name).name
    history = registry.history(system)
    now = {change.alias: change.model for change in history}
    listed = [
        ListedModel(
            artefact.id[:12],
            artefact.manifest.name,
            tuple(alias for alias in get_args(Alias) if now.get(alias) == artefact.id),
            artefact.manifest.pin.position[0],
            rfc3339(artefact.manifest.pin.known_time),
            {metric: found.value for metric, found in artefact.manifest.metrics.items()},
        )
        for artefact in registry.list(system)
    ]
    return ListedModels(tuple(listed), history)


def show_model(home: Home, model: str) -> str:
    """Returns the report that a model was registered with, as Markdown.

    Raises:
        UnknownRecordError, ModelError: there is no such model, or its files are damaged.
    """
    artefact = Registry(home.root).get(model)
    try:
        told = msgspec.json.decode((artefact.folder / REPORT).read_bytes(), type=Report).markdown()
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            where=f"model {artefact.id[:12]}, {REPORT}",
            given=f"no report that can be read ({error})",
            expected="the report of its training",
            fix="Read it with the decalog that trained it; the model itself is whole.",
        ) from None
    return told + _siblings(artefact)


def _siblings(artefact: Artefact) -> str:
    """Returns what a report does not say of a model that learnt from more than what was judged."""
    parameters = artefact.manifest.parameters
    if SIBLING not in parameters:
        return ""
    learnt, until = (rfc3339(parameters[name]) for name in ("trained_at", SIBLING))
    return (
        "\nThe report is of the kind of model, fitted to its training part. This one learnt from all that was known by "
        f"{learnt}; a gate judges its sibling, which learnt from what was known by {until}.\n"
    )


def models_text(listed: ListedModels) -> str:
    """Returns the list for people."""
    lines = [
        f"{model.id}  {model.name:12} {', '.join(model.aliases) or '-':22} trained to {model.trained_to}  "
        + "  ".join(f"{metric} {value:.4g}" for metric, value in list(model.metrics.items())[:3])
        for model in listed.models
    ]
    lines += [f"{rfc3339(c.at_us)}  {c.act} {c.alias} → {c.model[:12]} by {c.by}: {c.why}" for c in listed.history]
    return "\n".join(lines) or "no models yet: `decalog train` makes one"


def promote(home: Home, name: str, *, model: str, alias: Alias, why: str) -> str:
    """Points an alias at a model and returns the line of its history."""
    system = find_system(name).name
    change = Registry(home.root).promote(
        system, model, alias=alias, by=getpass.getuser(), why=why, at_us=SystemClock().now_us()
    )
    return f"{change.alias} of {system} is {change.model[:12]}"


def rollback(home: Home, name: str, *, alias: Alias, why: str) -> str:
    """Points an alias at the model before the present one and returns the line of its history."""
    system = find_system(name).name
    change = Registry(home.root).rollback(system, alias, by=getpass.getuser(), why=why, at_us=SystemClock().now_us())
    return f"{change.alias} of {system} is {change.model[:12]} again"


def access_of(home: Home) -> Access:
    """Returns who may call the servers of a home."""
    return Access(_tokens(home))


def create_token(home: Home, scopes: Iterable[str], *, systems: Iterable[str], note: str, lifetime: str) -> str:
    """Returns a new token's text, shown this once."""
    lifetime_us = duration_us(lifetime) if lifetime else None
    with closing(_tokens(home)) as store:
        return store.create(scopes, systems=systems, note=note, lifetime_us=lifetime_us)[1]


def tokens_text(home: Home) -> str:
    """Returns the list of tokens for people."""
    lines = []
    with closing(_tokens(home)) as store:
        tokens = store.tokens()
    for token in tokens:
        state = "revoked" if token.revoked_us else "until " + rfc3339(token.expires_us) if token.expires_us else "live"
        where = ", ".join(token.systems) or "all systems"
        lines.append(f"{token.id}  {', '.join(token.scopes):24} {where:14} {state:28} {token.note}")
    return "\n".join(lines) or "no tokens yet: `decalog tokens create --scope decide`"


def revoke_token(home: Home, id_: str) -> str:
    """Revokes a token and says so."""
    with closing(_tokens(home)) as store:
        return f"{store.revoke(id_).id} is revoked"


def rows_text(results: Iterable[RowResult]) -> str:
    """Returns what became of a batch for people: counts, and each rejected row with its sentence."""
    rows = list(results)
    counts = Counter(row.status for row in rows)
    head = ", ".join(f"{counts[status]:,} {status}" for status in ("accepted", "duplicate", "rejected"))
    bad = [f"  {row.id or '(no id)'} [{row.reason}] {row.message}" for row in rows if row.status == "rejected"]
    return "\n".join([head, *bad])


def post(url: str, raw: bytes, *, token: str = "") -> Any:
    """Returns a running server's JSON answer to what is posted; see `call`."""
    return call("POST", url, raw=raw, token=token)


def call(method: str, url: str, *, raw: bytes | None = None, token: str = "", wait_s: float = _WAIT_S) -> Any:
    """Returns a running server's JSON answer, within so many seconds.

    Raises:
        RequestError: the server refused the request, and the message is its own; or the address is none.
        AccessError: the token was refused.
        LogUnavailableError: there is no server, or its log takes nothing.
    """
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    if not url.startswith(("http://", "https://")):
        raise _no_address("no http address")
    try:
        request = urllib.request.Request(url, data=raw, headers=headers, method=method)  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=wait_s) as answer:  # noqa: S310 - checked above
            return msgspec.json.decode(answer.read())
    except urllib.error.HTTPError as error:
        raise _said(url, error) from None
    except (msgspec.DecodeError, UnicodeError):
        raise RequestError(**_not_ours(url, "an answer that is not JSON")) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise _no_address(f"an address that cannot be read ({error})") from None
    except (OSError, http.client.HTTPException) as error:
        raise LogUnavailableError(
            where=url, given=f"no answer ({error})", expected="a running server", fix="Start `decalog serve`."
        ) from None


def _said(url: str, error: urllib.error.HTTPError) -> Exception:
    with error:
        body = error.read()
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
        parts = {part: str(told[part]) for part in ("where", "given", "expected", "fix")}
    except (msgspec.DecodeError, UnicodeError, KeyError):
        parts = _not_ours(url, f"status {error.code} in words that are not decalog's")
    if error.code in _REFUSED:
        return AccessError(**parts)
    return LogUnavailableError(**parts) if error.code >= 500 else RequestError(**parts)  # noqa: PLR2004 - HTTP's own


def _not_ours(url: str, given: str) -> dict[str, str]:
    return {
        "where": url,
        "given": given,
        "expected": "a decalog server",
        "fix": "Check the address: something else may listen there.",
    }


def _no_address(given: str) -> RequestError:
    return RequestError(where="--url", given=given, expected="http://127.0.0.1:8000 or the like", fix="Mend it.")


def _tokens(home: Home) -> TokenStore:
    return TokenStore(home.root / "control.sqlite", SystemClock())
