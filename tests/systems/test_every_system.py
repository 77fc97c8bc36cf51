"""Every system that comes with decalog keeps every law of conformance."""

from __future__ import annotations

from pathlib import Path

import pytest

from decalog.system import SYSTEMS, find_system
from decalog.testing import conformance
from decalog.testing.laws.law import Law


@pytest.mark.parametrize("law", conformance.LAWS, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_keeps_every_law(name: str, law: Law, tmp_path: Path) -> None:
    conformance.assert_holds(law, find_system(name), folder=tmp_path)
