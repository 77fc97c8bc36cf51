"""One small home for all tests of readiness: none of them may change it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.readiness.small import small_home

from decalog.home import Home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return small_home(Path(tmp_path_factory.mktemp("readiness")) / "home")
