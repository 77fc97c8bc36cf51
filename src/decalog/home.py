"""Where a deployment lives on disk, and how its log is opened."""

from __future__ import annotations

from pathlib import Path

import msgspec

from decalog.clock import Clock, SystemClock
from decalog.errors import ConfigError
from decalog.log import Log
from decalog.stores.table import open_log, open_vault

ENGINE = "sqlite"
"""Short name of the storage engine; the first release has one."""


class Home(msgspec.Struct, frozen=True):
    """A home (`DECALOG_HOME`): `log/0.sqlite`, the other databases, `models`, `parquet`, `state`, `backfill`, `data`.

    Args:
        root: of it.
    """

    root: Path

    @property
    def log(self) -> Path:
        """The log's only partition so far."""
        return self.root / "log" / "0.sqlite"

    @property
    def vault(self) -> Path:
        """Keys and tokens."""
        return self.root / "vault.sqlite"

    @property
    def state(self) -> Path:
        """Snapshots of the views: derived, and deleted at any time at the cost of a slower start."""
        return self.root / "state"

    @property
    def data(self) -> Path:
        """Fetched data sets."""
        return self.root / "data"

    @property
    def backfill(self) -> Path:
        """Features of history, by system and version."""
        return self.root / "backfill"

    @property
    def exists(self) -> bool:
        """Whether there is a log in it."""
        return self.log.exists()

    def writer(self, clock: Clock | None = None) -> Log:
        """Returns the log, opened as its single writer.

        Raises:
            LogUnavailableError: another process is the writer.
        """
        # The log first: it takes the single writer's lock, and a second writer must not get as far as the vault.
        store = open_log(ENGINE, self.log, writer=True)
        return Log(store, open_vault(ENGINE, self.vault, writer=True), clock or SystemClock())

    def reader(self) -> Log:
        """Returns the log, opened for reading beside a writer.

        Raises:
            ConfigError: there is none.
        """
        self.check()
        return Log(open_log(ENGINE, self.log), open_vault(ENGINE, self.vault), SystemClock())

    def check(self) -> None:
        """Raises where there is no log to read.

        Raises:
            ConfigError: there is none.
        """
        if not self.exists:
            raise ConfigError(
                where=f"home {self.root.name or self.root}",
                given="a folder without a log",
                expected="the home of a deployment",
                fix="Run `decalog up`, or name it with --home or DECALOG_HOME.",
            )
