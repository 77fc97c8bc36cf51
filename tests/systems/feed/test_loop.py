"""Feed's loop: what a slate's outcomes count as, and which of it a small town has to show."""

from __future__ import annotations

import pytest

from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import Event
from decalog.guardrails import Told
from decalog.loop import plan_of
from decalog.outcomes import Outcome
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.schema import LONG_DWELL_S
from decalog.systems.feed.system import SYSTEM

POLICY = FeedPolicy(FeedWeights())
GUARDRAILS = {guardrail.name: guardrail for guardrail in plan_of(SYSTEM).guardrails}


def told(*acts: tuple[str, str, float], shown: int = 4) -> Told:
    """Returns a slate of posts p0, p1 and so on, and what was done: (post, kind, value), in order of time."""
    choice = Choice(tuple(Slot(f"p{place}") for place in range(shown)), verb="show")
    decision = Decision("d", Event("r", "feed_request", 0, 0, {}, {}), 0, (), choice, Versions("m", "p", "f", 0))
    said = (Outcome(f"o{n}", "r", kind, "app", n, value, ref=ref) for n, (ref, kind, value) in enumerate(acts))
    return Told(decision, tuple(said))


def values(slate: Told) -> dict[str, float]:
    return {name: guardrail.value(slate, POLICY) for name, guardrail in GUARDRAILS.items()}


def test_what_is_read_hidden_and_reported_is_a_share_of_what_was_shown() -> None:
    stayed = ("p0", "dwell", LONG_DWELL_S)
    glanced = ("p1", "dwell", LONG_DWELL_S - 1)
    found = values(told(stayed, glanced, ("p2", "hide", 1.0), ("p3", "report", 1.0), ("", "return", 1.0)))
    assert {name: found[name] for name in ("reads", "hides", "reports", "returns")} == {
        "reads": 0.25,
        "hides": 0.25,
        "reports": 0.25,
        "returns": 1.0,
    }
    weights = FeedWeights()
    worth = weights.dwell_per_1000_minor + weights.hide_per_1000_minor + weights.report_per_1000_minor
    assert found["worth_a_slate"] == pytest.approx(worth / 1_000)


def test_what_was_said_last_of_a_post_counts() -> None:
    assert values(told(("p0", "hide", 1.0), ("p0", "hide", 0.0)))["hides"] == 0


def test_a_slate_that_shows_nothing_is_worth_nothing() -> None:
    assert set(values(told(shown=0)).values()) == {0.0}


def test_growth_waits_for_shares_and_not_for_what_rare_reports_decide() -> None:
    waited = [name for name, guardrail in GUARDRAILS.items() if guardrail.excluded is not None]
    assert waited == ["reads", "hides", "reports", "returns"]
