"""The gate: each thing that stops a challenger stops it alone, and one that nothing speaks against goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from decalog.censoring import Heard, known
from decalog.gate import Gated, Standards, weighed
from decalog.metrics import Measurement
from decalog.whatif import Unlearnt
from decalog.whatif_verdict import Answer, WhatIf

N = 6_000
RISKY, CALM = 0.3, 0.02
STANDARDS = Standards(slices=("channel",))


def matured(**given: Any) -> Unlearnt:
    """Half of the rows are risky. The champion knows the mean alone, the challenger knows which are which."""
    rng = np.random.default_rng(5)
    truth = np.where(np.arange(N) % 2 == 0, RISKY, CALM)[:, None]
    made = Unlearnt(
        unit="payment",
        heads=("p_fraud",),
        heard=known((rng.random((N, 1)) < truth).astype(np.float64)),
        now=np.full((N, 1), (RISKY + CALM) / 2),
        then=truth,
        weights=np.ones(N),
        people=np.arange(N) // 3,
        facts=tuple({"channel": "moto" if row // 2 % 8 == 0 else "ecom"} for row in range(N)),
    )
    return msgspec.structs.replace(made, **given)


def money(answer: Answer = "no verdict", brings: Measurement | None = None) -> WhatIf:
    return WhatIf(
        answer=answer,
        because=(),
        brings=brings,
        findings={},
        whatever=None,
        foreseen=0.0,
        changes=Measurement(0.0, 0.0, 0.0, N),
        overlap=None,
        more="",
        unit="payment",
        moves={},
        labels=(N, N),
        since=0,
        until=0,
        notes=(),
    )


def labels_of(rows: Unlearnt) -> Any:
    return np.isinf(rows.heard.odds).astype(np.float64)


def judged(rows: Unlearnt, told: WhatIf | None = None, standards: Standards = STANDARDS) -> Gated:
    return weighed(rows, told or money(), standards=standards)


def first_of(rows: Unlearnt, n: int) -> Unlearnt:
    columns = {name: getattr(rows, name)[:n] for name in ("now", "then", "weights", "people", "facts")}
    return msgspec.structs.replace(rows, heard=rows.heard.take(np.arange(N) < n), **columns)


def odds_times(factor: float, p: Any) -> Any:
    return factor * p / (1 - p + factor * p)


def test_one_that_nothing_speaks_against_goes_on() -> None:
    found = judged(matured())
    assert found.passes
    assert found.gain is not None
    assert found.gain.low > 0
    assert found.because[0].startswith(f"it saves {found.gain.value:.4g} nats")
    assert set(found.slices) == {"channel=ecom", "channel=moto"}
    assert found.claims is None  # a champion that says the same of all claims nothing


def test_it_claims_to_know_more_than_the_champion() -> None:
    truth = matured().then
    found = judged(matured(now=(truth + (RISKY + CALM) / 2) / 2))
    assert found.claims is not None
    assert found.claims.low > 1.5


def test_too_few_positives_say_nothing() -> None:
    rows = matured()
    labels = labels_of(rows)
    heard = known(np.where(np.cumsum(labels, axis=0) > 19, 0.0, labels))
    found = judged(matured(heard=heard))
    assert not found.passes
    assert found.because == ("19 positives were told of since both were made, of 20 needed",)
    assert judged(matured(heard=heard), standards=Standards(least_positives=19)).because != found.because


def test_rows_of_which_nothing_was_heard_are_left_out() -> None:
    rows = matured()
    unknown = np.where(np.arange(N)[:, None] % 3 == 0, np.nan, labels_of(rows))
    found = judged(matured(heard=known(unknown)))
    assert (found.passes, found.rows) == (True, N - N // 3)


def half_told(rows: Unlearnt) -> Heard:
    """Half of the positives were told of so far, by chance; of the others silence is heard, as of all negatives."""
    is_told = np.random.default_rng(6).random((N, 1)) < 0.5
    return Heard(np.where((labels_of(rows) == 1) & is_told, np.inf, 0.5), np.full((N, 1), 0.5))


def test_silence_that_is_not_over_counts_by_what_it_says() -> None:
    rows = matured()
    found = judged(matured(heard=half_told(rows)))
    assert found.passes
    assert found.gain is not None
    assert found.gain.low > 0
    _, then = found.ratios["p_fraud"]
    assert then.low < 1 < then.high  # half of them is what should be known by now
    # Taken for a label, the same silence would make an honest challenger look too high.
    as_labels = judged(matured(heard=known((half_told(rows).odds == np.inf).astype(np.float64))))
    assert as_labels.ratios["p_fraud"][1].high < 0.6


def test_the_truth_has_the_best_score_of_what_was_heard() -> None:
    rows = matured(heard=half_told(matured()))
    for factor in (0.5, 2.0):
        off = odds_times(factor, rows.then)
        found = judged(msgspec.structs.replace(rows, now=rows.then, then=off))
        assert found.gain is not None
        assert found.gain.high < 0


def test_a_worse_log_score_stops_it() -> None:
    rows = matured()
    found = judged(msgspec.structs.replace(rows, now=rows.then, then=rows.now))
    assert not found.passes
    assert found.because[0].startswith("its score is worse: it saves -")


def test_what_is_not_shown_to_be_better_is_stopped() -> None:
    rows = matured()
    found = judged(msgspec.structs.replace(rows, now=rows.then))
    assert not found.passes
    assert found.because == ("it is not shown to be better: it saves 0 nats (0 to 0) a payment",)


def test_how_sure_a_gain_has_to_be_is_a_standard() -> None:
    """Of few rows a gain is shown at 80 %, not at 95 %; what is shown to be worse stays out however little is asked."""
    few = first_of(matured(), 200)
    strict, lenient = (judged(few, standards=Standards(sure=sure)) for sure in (0.95, 0.8))
    assert (strict.passes, lenient.passes) == (False, True)
    assert strict.gain == lenient.gain
    worse = msgspec.structs.replace(matured(), now=matured().then, then=matured().now)
    assert not judged(worse, standards=Standards(sure=0.01)).passes


def test_money_alone_may_show_that_it_is_better() -> None:
    rows = matured()
    found = judged(msgspec.structs.replace(rows, now=rows.then), money("better", Measurement(9.0, 1.0, 17.0, N)))
    assert found.passes


def test_it_may_not_cost_money_however_good_its_score() -> None:
    found = judged(matured(), money("worse", Measurement(-9.0, -17.0, -1.0, N)))
    assert not found.passes
    assert found.because == ("it costs money: -9 minor units a thousand payments (-17 to -1)",)


def test_one_slice_that_is_worse_stops_it() -> None:
    rows = matured()
    is_moto = np.array([fact["channel"] == "moto" for fact in rows.facts])[:, None]
    found = judged(matured(then=np.where(is_moto, RISKY + CALM - rows.then, rows.then)))
    assert found.gain is not None
    assert found.gain.low > 0  # over all it is better
    assert not found.passes
    assert found.because[0].startswith("where channel=moto it is worse: it saves -")
    assert len(found.because) == 1


def test_a_slice_may_be_worse_by_what_is_allowed() -> None:
    rows = matured()
    is_moto = np.array([fact["channel"] == "moto" for fact in rows.facts])[:, None]
    then = np.where(is_moto, RISKY + CALM - rows.then, rows.then)
    assert judged(matured(then=then), standards=Standards(slices=("channel",), worse_in_a_slice=5.0)).passes
    assert judged(matured(then=then), standards=Standards(slices=())).passes


@pytest.mark.parametrize("factor", [1 / 2.5, 2.5])
def test_a_shifted_calibration_stops_it_though_it_knows_more(factor: float) -> None:
    rows = matured()
    found = judged(matured(then=odds_times(factor, rows.then)))
    assert found.gain is not None
    assert found.gain.value > 0
    assert not found.passes
    (why,) = found.because
    assert why.startswith("p_fraud happens ")
    assert "times as often as predicted" in why


def test_one_that_is_nearer_to_what_happens_than_the_champion_goes_on() -> None:
    rows = matured()
    champion = odds_times(9.0, rows.now)
    assert judged(matured(now=champion, then=odds_times(2.5, rows.then))).passes


def test_people_who_come_often_count_once() -> None:
    few = matured(people=np.arange(N) % 4)
    found, whole = judged(few).gain, judged(matured()).gain
    assert found is not None
    assert whole is not None
    assert found.value == whole.value
    assert found.high - found.low != whole.high - whole.low


def test_words_that_may_be_wrong_count_as_the_positives_that_they_likely_are() -> None:
    rows = matured()
    odds = np.where(labels_of(rows) == 1, 9.0, 0.1)
    found = judged(matured(now=np.full((N, 1), 0.1), heard=Heard(odds, np.zeros((N, 1)))))
    assert found.positives == int(labels_of(rows).sum() / 2)
    assert found.ratios == {}
    assert found.passes
