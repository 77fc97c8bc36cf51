"""The one place that knows which engine a short name means; engines are imported when they are opened."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from decalog.errors import ConfigError, near
from decalog.stores.base import LogStore, StateStore, Vault, VectorIndex


class Engine(msgspec.Struct, frozen=True):
    """Dotted paths `module:Class` of what an engine offers; each class takes (path, writer=…).

    `shed` names what empties the old pages of a vault beside its writer: path → whether it could be done now.
    """

    log: str
    vault: str
    shed: str


ENGINES: Mapping[str, Engine] = {
    "sqlite": Engine(
        log="decalog.stores.sqlite:SqliteLogStore",
        vault="decalog.stores.vault:SqliteVault",
        shed="decalog.stores.vault:shed",
    ),
}
"""Short name → engine. A new engine adds its line here and passes `tests/stores/test_every_store.py`."""


STATES: Mapping[str, str] = dict.fromkeys(("redis", "rediss", "valkey", "unix"), "decalog.stores.redis:open_state")
"""Scheme of an address → what opens a state of the features there."""

INDEXES: Mapping[str, str] = {
    "faiss": "decalog.stores.faiss:FaissIndex",
    "flat": "decalog.stores.flat:FlatIndex",
}
"""Short name → index of vectors. A new one passes `tests/stores/test_every_index.py`."""


def open_log(engine: str, path: Path, *, writer: bool = False) -> LogStore:
    """Returns one partition of the log.

    Args:
        engine: short name.
        path: where it lives.
        writer: open it as the partition's single writer.

    Raises:
        ConfigError: there is no such engine.
        LogUnavailableError: another process is the writer, or it cannot be opened.
    """
    store: LogStore = _load(_engine(engine).log)(path, writer=writer)
    return store


def open_vault(engine: str, path: Path, *, writer: bool = False) -> Vault:
    """Returns the vault; arguments and errors as for `open_log`."""
    vault: Vault = _load(_engine(engine).vault)(path, writer=writer)
    return vault


def shed_vault(engine: str, path: Path) -> bool:
    """Empties the old pages of a vault, which hold keys that were destroyed; returns whether that could be done now.

    Raises:
        ConfigError: there is no such engine.
        LogUnavailableError: the vault cannot be opened.
    """
    return bool(_load(_engine(engine).shed)(path))


def open_state(url: str, space: str, *, kept_us: int) -> StateStore:
    """Returns the features' state at an address.

    Args:
        url: of the server.
        space: names whose state it is.
        kept_us: how long a row can be reached, µs.

    Raises:
        ConfigError: there is no such engine, its package is not installed, or the server is not fit.
        StateError: the server cannot be reached.
    """
    scheme = url.partition("://")[0]
    if scheme not in STATES:
        raise ConfigError(
            where="features' state, address",
            given="an address of another kind",
            expected=f"{near(scheme, STATES)}, followed by ://",
            fix="Mend --state, or leave it out to keep the state in memory.",
        )
    try:
        opening = _load(STATES[scheme])
    except ImportError:
        raise ConfigError(
            where="features' state",
            given=f"an address of {scheme}, without the package for it",
            expected="the extra redis",
            fix="Run: pip install 'decalog[redis]'",
        ) from None
    store: StateStore = opening(url, space, kept_us=kept_us)
    return store


def open_index(dim: int, engine: str = "") -> VectorIndex:
    """Returns an empty index of vectors.

    Args:
        dim: of the vectors.
        engine: short name; "" for faiss where it is installed, else flat.

    Raises:
        ConfigError: there is no such engine, or its package is not installed.
    """
    has_faiss = importlib.util.find_spec("faiss") is not None
    name = engine or ("faiss" if has_faiss else "flat")
    if name not in INDEXES:
        raise ConfigError(
            where="index of vectors", given=repr(name), expected=near(name, INDEXES), fix="Name one that is built in."
        )
    if name == "faiss" and not has_faiss:
        raise ConfigError(
            where="index of vectors",
            given="faiss, without its package",
            expected="the extra feed",
            fix="Run: pip install 'decalog[feed]'",
        )
    index: VectorIndex = _load(INDEXES[name])(dim)
    return index


def _engine(name: str) -> Engine:
    if name not in ENGINES:
        raise ConfigError(
            where="storage engine", given=repr(name), expected=near(name, ENGINES), fix="Name one that is built in."
        )
    return ENGINES[name]


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
