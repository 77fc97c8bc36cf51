"""Protected groups: a gap beyond chance is red, one within it is not, and nobody is left out without a reason."""

from __future__ import annotations

import msgspec
import pytest
from tests.readiness.small import subject_of

from decalog.candidates import Candidate
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.errors import DataError
from decalog.events import Event
from decalog.home import Home
from decalog.readiness.safety import protected_ratio
from decalog.readiness.slo import Slo
from decalog.schema import Entity


def decided(country: str, action: str, count: int) -> list[Decision]:
    request = Event("p", "payment", 0, 1, {}, {"card_country": country})
    choice, versions = Choice((Slot(action),)), Versions("m", "p", "f", 0)
    return count * [Decision("d", request, 0, (Candidate("p"),), choice, versions)]


def measured(home: Home, made: list[Decision], fault: str = "", **changes: object) -> float:
    with subject_of(home) as subject:
        subject.kept["decided"] = made
        subject.slo = msgspec.structs.replace(subject.slo, **changes)
        return protected_ratio(subject, fault).value


def test_groups_that_are_served_alike_are_green_and_half_of_one_turned_is_red(home: Home) -> None:
    alike = [*decided("AT", "allow", 500), *decided("AT", "block", 10), *decided("FR", "allow", 300)]
    assert measured(home, alike) >= 0.8
    assert measured(home, alike, "a group that is served half as often") < 0.8


def test_a_gap_within_its_interval_counts_as_none_and_a_sure_one_counts(home: Home) -> None:
    few = [*decided("AT", "allow", 500), *decided("FR", "allow", 70), *decided("FR", "block", 30)]
    assert 0.7 < measured(home, few) < 0.85
    assert measured(home, [*decided("AT", "allow", 500), *decided("FR", "block", 500)]) == pytest.approx(0.006)


def test_what_nobody_gets_is_no_gap(home: Home) -> None:
    assert measured(home, [*decided("AT", "block", 200), *decided("FR", "block", 200)]) == 1.0


def test_a_single_group_says_nothing(home: Home) -> None:
    with pytest.raises(DataError) as caught:
        measured(home, [*decided("AT", "allow", 500), *decided("FR", "allow", 9)])
    assert "fraud card_country: 1 groups of at least 100 decisions. Expected two." in str(caught.value)


def test_where_nothing_is_protected_a_fault_shows_in_the_largest_public_groups(home: Home) -> None:
    made = [*decided("AT", "allow", 500), *decided("FR", "allow", 300)]
    with subject_of(home) as subject:
        schema = subject.system.schema
        public = (Entity(name="card_country", meaning="where it is from", privacy="public"),)
        request = msgspec.structs.replace(schema.request, entities=public)
        subject.system = msgspec.structs.replace(
            subject.system, schema=msgspec.structs.replace(schema, request=request)
        )
        subject.kept["decided"] = made
        subject.slo = msgspec.structs.replace(subject.slo, protected=(), why_unprotected="it is about parcels")
        assert protected_ratio(subject, "").value == 1.0
        assert protected_ratio(subject, "a group that is served half as often").value < 0.8


def test_no_protected_field_needs_a_reason(home: Home) -> None:
    assert measured(home, [], protected=(), why_unprotected="it is about parcels") == 1.0
    with pytest.raises(DataError) as caught:
        measured(home, [], protected=())
    assert "fraud slo.toml, protected: none. Expected the public fields of requests" in str(caught.value)
    assert Slo().protected == ()
