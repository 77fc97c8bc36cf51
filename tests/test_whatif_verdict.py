"""Verdicts on a change: from evidence, in words, and as often right as they say."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from decalog.metrics import Int64s
from decalog.statistics.offpolicy import Logged
from decalog.whatif_verdict import Drawn, Evidence, WhatIf, judged

UNITS = 2_000


def evidence(
    *, changed: int = 400, gain: float = 5.0, seed: int = 0, hidden: int = 0, stake: float = 0.0, **more: Any
) -> Evidence:
    """Returns units of which the first change; each brings `gain`, ± 10; `hidden` of them hide ± `stake`."""
    rng = np.random.default_rng(seed)
    rewards = gain + rng.normal(0, 10, changed)
    is_hidden = np.arange(changed) < hidden
    made = Evidence(
        unit="payment",
        entities=np.arange(UNITS),
        changed=np.arange(UNITS) < changed,
        rows=Logged(
            rewards=np.where(is_hidden, 0.0, rewards),
            propensities=np.ones(changed),
            targets=(~is_hidden).astype(np.float64),
            modelled=np.full(changed, gain),
            expected=np.full(changed, gain),
            unsupported=is_hidden.astype(np.float64),
            entities=np.arange(changed),
        ),
        is_difference=True,
        foreseen=np.full(changed, gain),
        least=np.full(changed, -stake),
        most=np.full(changed, stake),
        labels=(1_900, 2_000),
        moves={"allow → block": changed},
    )
    return msgspec.structs.replace(made, **more)


def told(of: Evidence) -> WhatIf:
    return msgspec.structs.replace(judged(of), system="fraud", change="goodwill_minor = 900", against="model 3f9a")


def test_what_no_unit_changes_brings_nothing() -> None:
    found = told(evidence(changed=0))
    assert found.answer == "nothing changes"
    assert found.because == ("it chooses as before for each of 2,000 payments",)
    assert found.brings is not None
    assert (found.brings.low, found.brings.high) == (0.0, 0.0)


def test_a_log_without_units_gives_no_verdict() -> None:
    none = msgspec.structs.replace(evidence(changed=0), entities=np.empty(0, np.int64), changed=np.empty(0, np.bool_))
    found = told(none)
    assert (found.answer, found.because) == ("no verdict", ("the log holds no payment that could tell",))
    assert found.brings is None


def test_money_is_of_a_thousand_units_and_both_errors_are_in_the_interval() -> None:
    found = told(evidence())
    rows = evidence().rows.rewards
    assert found.answer == "better"
    assert found.brings is not None
    assert found.brings.value == pytest.approx(1_000 * 0.2 * rows.mean())
    alone = 1_000 * 0.2 * 1.96 * rows.std() / np.sqrt(len(rows))
    assert found.brings.high - found.brings.value > alone  # the share of units that change is an estimate too
    assert list(found.findings) == ["dr", "snips", "ips"]
    assert told(evidence(gain=-5.0)).answer == "worse"


def test_a_verdict_says_what_it_rests_on() -> None:
    lines = told(evidence()).text().splitlines()
    assert lines[0] == "fraud: goodwill_minor = 900, against model 3f9a"
    assert lines[1].startswith("better: brings ")
    assert "EUR a thousand payments (" in lines[1]
    text = "\n".join(lines)
    assert "rests on 2,000 payments" in text
    assert "95 % of 2,000 labels are known" in text
    assert "changes 20 % (" in text
    assert "allow → block 400" in text
    assert "these weigh as much as 400 independent payments (effective sample size)" in text


def test_nothing_that_rests_on_a_handful_is_a_verdict_and_says_what_would_do() -> None:
    found = told(evidence(changed=20))
    assert found.answer == "no verdict"
    assert found.because[0].startswith("the rows weigh as much as 20.0, fewer than 50")
    assert found.because[-1].startswith("a canary can tell")
    assert found.brings is None
    assert found.findings["dr"].brings.n == UNITS
    assert "times as many payments, where predictions are right" in found.more


def test_a_difference_that_is_not_shown_says_how_many_more_would_show_it() -> None:
    found = told(evidence(gain=0.5, seed=3))
    assert found.answer == "no difference shown"
    assert found.more.startswith("about ")
    assert told(evidence(gain=0.0, seed=3)).more == "nothing; predictions foresee no difference to look for"


def test_what_is_hidden_is_in_the_interval() -> None:
    little = told(evidence(hidden=20, stake=10.0))
    plain = told(evidence())
    assert little.answer == "better"
    assert little.because == ("the interval takes in whatever hidden labels say",)
    assert little.brings is not None
    assert plain.brings is not None
    assert little.brings.high - little.brings.low > plain.brings.high - plain.brings.low
    assert little.whatever is not None
    assert little.brings.low == little.whatever[0].low
    assert "whatever hidden labels say, between" in little.text()
    # Four hidden ones of much money: a hundredth of the rows, and all of the difference.
    much = told(evidence(hidden=4, stake=2_000.0))
    assert much.answer == "no difference shown"
    assert much.brings is not None
    assert much.brings.low < 0 < much.brings.high


def test_hidden_labels_that_would_decide_show_no_difference_and_say_so() -> None:
    found = told(evidence(hidden=100, stake=18.0))
    assert found.answer == "no difference shown"
    assert found.because == ("the interval takes in whatever hidden labels say, which would decide it",)


def test_where_only_draws_can_tell_it_says_how_often_to_draw() -> None:
    drawn = Drawn(units=300, observed=2, choices=2, deviation=10.0)
    found = told(evidence(changed=20, drawn=drawn, foreseen=np.full(20, 60.0)))
    assert found.more.startswith("300 of the payments that change are told of by draws alone, and 2 were; each choice")
    assert told(evidence(changed=20, drawn=drawn)).more.endswith("where predictions are right")
    few = told(evidence(changed=20, drawn=drawn, foreseen=np.full(20, 0.1)))
    assert "were all drawn, it takes" in few.more
    assert "times as many" in few.more


def test_a_doubt_of_the_evidence_leaves_no_verdict() -> None:
    found = told(evidence(doubts=("nobody counted",)))
    assert (found.answer, found.because[0]) == ("no verdict", "nobody counted")
    assert "nobody counted" in found.text()


def test_what_the_change_would_do_and_was_never_seen_gives_no_verdict_and_names_it() -> None:
    never = evidence(rows=msgspec.structs.replace(evidence().rows, targets=np.zeros(400)))
    found = told(never)
    assert found.answer == "no verdict"
    assert found.because == ("of 400 payments that change, there is 0 in each of 400 rows",)
    assert found.findings == {}
    assert found.more == "more payments"


@pytest.mark.parametrize("draws", [0.1, 0.3])
def test_intervals_hold_a_known_truth_as_often_as_they_say(draws: float) -> None:
    """Of 2,000 units a third changes; of these a draw shows a share, and what it brings is rare and large."""
    truth, rng, held, verdicts = 1_000 / 3 * (0.15 * 60 - 5), np.random.default_rng(5), 0, 0
    for _ in range(200):
        found = judged(drawn_world(rng, draws=draws))
        brings = next(iter(found.findings.values())).brings
        held += brings.low <= truth <= brings.high
        verdicts += found.answer != "no verdict"
        assert found.answer != "worse"  # it is better
    assert held >= 180  # of 200 at 95 %, 10 more than is likely once in ten thousand tests
    assert verdicts == (200 if draws > 0.2 else pytest.approx(200, abs=60))


def drawn_world(rng: np.random.Generator, *, draws: float) -> Evidence:
    changed = rng.random(UNITS) < 1 / 3
    n = int(changed.sum())
    is_shown, brings = rng.random(n) < draws, 60.0 * (rng.random(n) < 0.15) - 5
    entities: Int64s = np.arange(UNITS)
    return Evidence(
        unit="payment",
        entities=entities,
        changed=changed,
        rows=Logged(
            rewards=np.where(is_shown, brings, 0.0),
            propensities=np.where(is_shown, draws, 1.0),
            targets=is_shown.astype(np.float64),
            modelled=np.full(n, 3.0),
            expected=np.full(n, 3.0),
            unsupported=np.zeros(n),
            entities=entities[changed],
        ),
        is_difference=True,
        foreseen=np.full(n, 3.0),
    )
