"""Guardrails: a row is a person followed to the end; harm is shown, and safety too; people split as declared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.homes import add_model, fill_home, rule
from tests.served import STOPPED, Served, served

from decalog.clock import DAY
from decalog.guardrails import FALLBACKS, Guardrail, Phase, Sight, Told, phase_of, sight, words
from decalog.home import Home
from decalog.rollout import Rollout
from decalog.systems.fraud.loop import LOOP
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.system import SYSTEM

PEOPLE = [f"card-{number}" for number in range(400)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "home"
    fill_home(root)
    return root


@pytest.fixture
def made(filled: Path, tmp_path: Path) -> Iterator[Served]:
    with served(Home(Path(shutil.copytree(filled, tmp_path / "home")))) as made:
        yield made


def begun(made: Served, limit: float) -> tuple[int, Rollout]:
    """Lets a rule with another limit decide for half of the people; returns where, and the step."""
    model = add_model(made.deployment.home.root, rule(limit=limit), promote=False)
    stored = made.take("canary", model=model, share_bp=5_000)
    return stored.seq, made.steps()[-1]


def seen(made: Served, begin: tuple[int, Rollout], *guardrails: Guardrail, later: int = 0) -> Sight:
    made.log.commit()
    phase = Phase(system=SYSTEM, rollout=begin[1], guardrails=guardrails, policy=FraudPolicy(FraudCosts()))
    return sight(made.log.read(begin[0]), phase, until=made.clock.now_us() + later)


def test_a_challenger_that_stops_what_the_champion_lets_through_is_shown_to_harm(made: Served) -> None:
    begin = begun(made, limit=10.0)
    made.pay(*PEOPLE[:60], amount_minor=2_500)
    found = seen(made, begin, STOPPED)
    assert found.of("harm") == ("stopped",)
    (one,) = found.looked
    assert one.effect is not None
    assert one.effect.low > 0.05  # whose card falls on which arm is the keys' of the home
    assert sum(one.rows) == 60 == sum(found.people)
    assert next(words(found)).startswith("stopped: harm, +")


def test_one_that_decides_alike_is_safe_once_enough_people_were_followed(made: Served) -> None:
    begin = begun(made, limit=2_999.0)
    made.pay(*PEOPLE[:8])
    assert seen(made, begin, STOPPED).of("open") == ("stopped",)
    made.pay(*PEOPLE[8:])
    found = seen(made, begin, STOPPED, FALLBACKS)
    assert found.of("safe") == ("stopped", "fallbacks")
    assert found.is_split


def test_a_person_is_one_row_followed_from_the_first_decision_to_the_end(made: Served) -> None:
    begin = begun(made, limit=10.0)
    made.pay("card-1", "card-2", "card-1", amount_minor=2_500)
    followed = msgspec.structs.replace(STOPPED, after="1d")
    assert sum(seen(made, begin, followed).looked[0].rows) == 0
    assert sum(seen(made, begin, followed, later=2 * DAY).looked[0].rows) == 2


def test_what_came_after_a_persons_time_changes_no_row(made: Served) -> None:
    """Two thieves: one is reported within the week, the other the day after it ended."""
    begin = begun(made, limit=10.0)
    in_time, too_late = made.pay("card-1", "card-2")
    start = made.clock.now_us()
    for decision, day in ((in_time, 3), (too_late, 8)):
        made.clock.set(start + day * DAY)
        made.service.ingest.outcome(
            {"id": f"c{day}", "payment": decision.request.id, "kind": "chargeback", "source": "issuer", "value": 1}
        )
    lost = next(one for one in LOOP.guardrails if one.name == "lost_a_payment")
    summed = msgspec.structs.replace(lost, bounds=(0.0, 10_000.0))
    (one,) = seen(made, begin, summed, later=9 * DAY).looked
    arm = in_time.arm.partition("/")[2]
    worth = (1_000 + FraudCosts().chargeback_fee_minor) / max(one.rows[arm == "challenger"], 1)
    assert one.champion == (worth if arm == "champion" else 0.0)


def test_without_bounds_an_arm_needs_a_hundred_people(made: Served) -> None:
    begin = begun(made, limit=10.0)
    unbounded = msgspec.structs.replace(STOPPED, bounds=None)
    made.pay(*PEOPLE[:150], amount_minor=2_500)
    assert seen(made, begin, unbounded).looked[0].effect is None
    made.pay(*PEOPLE[150:], amount_minor=2_500)
    assert seen(made, begin, unbounded).of("harm") == ("stopped",)


def test_what_is_allowed_and_excluded_may_be_shares_of_the_champions_mean(made: Served) -> None:
    """Both arms stop everything: no harm, and a tenth of 1 is excluded where a tenth of a cent would not be."""
    begin = begun(made, limit=9.0)
    made.service.put_policy(FraudPolicy(FraudCosts(rules="block if :amount_minor: > 1")))
    made.pay(*PEOPLE)
    relative = msgspec.structs.replace(STOPPED, allowed=0.0, excluded=0.2, is_relative=True)
    assert seen(made, begin, relative).of("safe") == ("stopped",)


def test_where_harm_alone_is_looked_for_nothing_is_called_safe(made: Served) -> None:
    begin = begun(made, limit=2_999.0)
    watched = msgspec.structs.replace(STOPPED, name="watched", excluded=None)
    assert seen(made, begin, watched).of("watched") == ("watched",)  # nobody was decided for yet
    made.pay(*PEOPLE)
    found = seen(made, begin, STOPPED, watched)
    assert [one.state for one in found.looked] == ["safe", "watched"]
    assert list(words(found))[1].startswith("watched: watched, +")


def test_where_harm_alone_is_looked_for_it_is_found(made: Served) -> None:
    begin = begun(made, limit=10.0)
    made.pay(*PEOPLE[:60], amount_minor=2_500)
    assert seen(made, begin, msgspec.structs.replace(STOPPED, excluded=None)).of("harm") == ("stopped",)


def test_intervals_are_narrowest_at_the_people_that_an_arm_needs(made: Served) -> None:
    """400 people in two arms tell as much as 100 at a small share: an interval for 10,000 of these is wider."""
    begin = begun(made, limit=2_999.0)
    made.pay(*PEOPLE[:200])
    made.pay(*PEOPLE[200:], amount_minor=9_999)  # stopped in both arms
    made.log.commit()
    widths = []
    for people in (100, 10_000):
        phase = Phase(
            system=SYSTEM, rollout=begin[1], guardrails=(STOPPED,), policy=FraudPolicy(FraudCosts()), people=people
        )
        (one,) = sight(made.log.read(begin[0]), phase, until=made.clock.now_us()).looked
        assert one.effect is not None
        widths.append(one.effect.high - one.effect.low)
    assert widths[0] < 0.5 * widths[1]


def test_people_who_do_not_fall_as_declared_are_noticed(made: Served) -> None:
    begin = begun(made, limit=2_999.0)
    made.pay(*PEOPLE)
    made.log.commit()
    phase = Phase(system=SYSTEM, rollout=begin[1], guardrails=(STOPPED,), policy=FraudPolicy(FraudCosts()))
    records = list(made.log.read(begin[0]))
    lost = {r.seq for r in records if r.kind == "decision" and b"r1/challenger" in r.body}
    kept = [record for record in records if record.seq not in lost or record.seq % 9 == 0]
    found = sight(kept, phase, until=made.clock.now_us())
    assert not found.is_split
    assert sight(records, phase, until=made.clock.now_us()).is_split


def test_decisions_of_another_rollout_do_not_count(made: Served) -> None:
    seq, step = begun(made, limit=10.0)
    made.pay(*PEOPLE[:20])
    found = seen(made, (seq, msgspec.structs.replace(step, name="other")), STOPPED)
    assert found.people == (0, 0)
    assert found.of("open") == ("stopped",)


def test_a_phase_begins_where_the_share_changes() -> None:
    def canary(share_bp: int) -> Rollout:
        return Rollout(name="r", stage="canary", model="3f9a61c27d04", share_bp=share_bp)

    shadow = Rollout(name="r", stage="shadow", model="3f9a61c27d04")
    assert phase_of([(1, shadow)]) is None
    assert phase_of([(1, shadow), (2, canary(500)), (3, canary(500))]) == (2, 0)
    assert phase_of([(1, shadow), (2, canary(500)), (5, canary(5_000))]) == (5, 1)
    assert phase_of([(2, canary(500)), (5, shadow)]) is None


def test_what_a_fraud_cost_is_counted_where_it_went_through_and_was_reported(made: Served) -> None:
    (decision,) = made.pay("card-1")
    lost = next(one for one in LOOP.guardrails if one.name == "lost_a_payment")
    assert lost.value(Told(decision, ()), FraudPolicy(FraudCosts())) == 0.0
