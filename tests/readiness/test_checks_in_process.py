"""Each check that needs no server is green on a healthy home and red under its faults; the home stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.readiness.small import check_of, contents, subject_of

from decalog.home import Home
from decalog.readiness.subject import Subject

GREEN = (
    "log_sound",
    "skew",
    "replay",
    "disorder",
    "labels_in_any_order",
    "broken_inputs",
    "flipped_types",
    "silence",
    "model_age",
)


@pytest.fixture(scope="module")
def subject(home: Home) -> Iterator[Subject]:
    with subject_of(home) as made:
        yield made


def status(subject: Subject, name: str, fault: str = "") -> bool:
    check = check_of(name)
    return check.is_kept(check.measure(subject, fault).value, subject.slo.limit(check.limit))


@pytest.mark.parametrize("name", GREEN)
def test_a_healthy_home_is_green_and_a_seeded_fault_turns_it_red(subject: Subject, name: str) -> None:
    before = contents(subject.home.root)
    assert status(subject, name)
    for fault in check_of(name).faults:
        assert not status(subject, name, fault), fault
    assert contents(subject.home.root) == before
