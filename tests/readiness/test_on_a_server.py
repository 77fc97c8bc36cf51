"""Checks that run a server on a copy: green on a healthy home, red under a planted fault."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest
from tests.readiness.small import check_of, contents, subject_of

from decalog.errors import DataError, LogUnavailableError
from decalog.home import Home
from decalog.readiness.serve import Served, serving
from decalog.readiness.subject import Subject

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a server uses is read from /proc")

FAST = ("p99", "crash", "rollback")
LONG = (
    *("traffic_10x", "data_10x", "memory_10x", "features_p99", "model_p99", "swapping_p99"),
    *("store_down", "disk_full", "torn_log"),
)


@pytest.fixture(scope="module")
def subject(home: Home) -> Iterator[Subject]:
    with subject_of(home) as made:
        yield made


def is_kept(subject: Subject, name: str, fault: str = "") -> bool:
    check = check_of(name)
    found = check.measure(subject, fault)
    return check.is_kept(found.value, subject.slo.limit(check.limit))


def test_p99_is_measured_under_load_with_its_stages_and_the_home_stays_as_it_is(subject: Subject) -> None:
    before = contents(subject.home.root)
    found = check_of("p99").measure(subject, "")
    assert found.n >= 10
    assert {"p50_ms", "features_p99_ms", "model_p99_ms", "cpu_ms", "rate_per_s"} <= set(found.detail)
    assert is_kept(subject, "features_p99")
    assert contents(subject.home.root) == before


def test_a_crash_under_load_loses_nothing_and_replies_before_the_commit_are_found(subject: Subject) -> None:
    assert is_kept(subject, "crash")
    assert not is_kept(subject, "crash", "a reply before the commit")


def test_a_rollback_is_prompt_and_a_deaf_server_is_found(subject: Subject) -> None:
    subject.slo.limits["rollback_s"] = 1.0
    assert is_kept(subject, "rollback")
    assert not is_kept(subject, "rollback", "a server that is deaf")


def test_a_server_that_does_not_start_is_said(subject: Subject) -> None:
    with (
        subject.fork() as home,
        closing(home.writer()),
        pytest.raises(LogUnavailableError) as caught,
        serving(subject, home),
    ):
        pass
    assert "server of the check: one that did not start:" in str(caught.value)


def test_a_request_that_has_to_be_taken_and_is_not_is_said(subject: Subject) -> None:
    with subject.fork() as home, serving(subject, home) as served:
        with pytest.raises(LogUnavailableError) as caught:
            served.must("POST", "/v1/fraud/decide", body={})
        served.kill()
        assert served.ask("GET", "/healthz") == (0, None)
        with pytest.raises(DataError) as gone:
            served.cpu_s()
    assert "server of the check, /v1/fraud/decide: status 422" in str(caught.value)
    assert "CPU and memory of a server" in str(gone.value)
    assert isinstance(served, Served)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, *LONG])
def test_each_fault_of_a_check_on_a_server_turns_it_red(subject: Subject, name: str) -> None:
    # A server looks for another champion every second: the load has to be longer than that.
    limits = subject.slo.limits | {"p99_ms": 1_000.0}
    subject.slo = msgspec.structs.replace(subject.slo, seconds=8.0, limits=limits)
    assert is_kept(subject, name)
    for fault in check_of(name).faults:
        assert not is_kept(subject, name, fault), fault
