"""The loop beside a server that runs: its steps are the server's records, and it can be run by a command alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.clients.processes import decalog, served
from tests.homes import add_model, fill_home, rule

from decalog import admin
from decalog.errors import LogUnavailableError
from decalog.hands import Beside
from decalog.home import Home
from decalog.registry import Pin, Registry
from decalog.rollout import Rollout


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return fill_home(tmp_path / "home")


def test_a_refused_model_is_a_record_of_the_running_server(home: Home) -> None:
    model = add_model(home.root, rule(limit=100.0), promote=False, pin=Pin((1,), 0, 1))
    with served(home.root, "--no-auth") as server:
        told = decalog("loop", "fraud", "--home", str(home.root), "--url", server.url, "--once", "--json")
        step = admin.call("GET", f"{server.url}/v1/fraud/rollout")["content"]
    assert '"stop"' in told
    assert f'"{model}"' in told
    assert (step["name"], step["stage"], step["model"]) == (model[:12], "stopped", model)
    assert step["why"]


def test_a_promotion_and_a_way_back_are_the_registrys(home: Home) -> None:
    registry = Registry(home.root)
    first = registry.current("fraud")
    model = add_model(home.root, rule(limit=100.0), promote=False)
    hands = Beside(home, "fraud", train=lambda: "", url="http://127.0.0.1:1")
    hands.promote(model, why="better", at_us=5)
    assert registry.current("fraud") == model
    hands.roll_back(why="worse", at_us=7)
    assert registry.current("fraud") == first
    assert [(one.by, one.why, one.at_us) for one in registry.history("fraud")][1:] == [
        ("the loop", "better", 5),
        ("the loop", "worse", 7),
    ]
    with pytest.raises(LogUnavailableError, match=r"no answer .* Expected a running server"):
        hands.put(Rollout(name="r", stage="stopped", model=model))
