"""Short names of engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from decalog.errors import ConfigError
from decalog.stores.table import open_log, open_vault


def test_an_unknown_engine_names_the_nearest(tmp_path: Path) -> None:
    for open_ in (open_log, open_vault):
        with pytest.raises(ConfigError, match=r"storage engine: 'sqlit'\. Expected 'sqlite' \(closest match\)"):
            open_("sqlit", tmp_path / "x")


def test_the_table_imports_no_engine() -> None:
    code = "import sys, decalog.stores.table; sys.exit(bool({'sqlite3', 'duckdb'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
