"""The load generator sends when it is due, and counts from then, whether or not earlier answers came."""

from __future__ import annotations

import itertools

from decalog.readiness.open_loop import arrivals, as_request, quantile


def test_arrivals_are_a_seeded_poisson_process() -> None:
    moments = arrivals(100.0, 50.0, seed=1)
    assert moments == arrivals(100.0, 50.0, seed=1)
    assert moments != arrivals(100.0, 50.0, seed=2)
    assert all(before < after < 50.0 for before, after in itertools.pairwise(moments))
    assert abs(len(moments) - 5_000) < 300


def test_a_request_is_whole() -> None:
    made = as_request(b'{"id": 1}', "/v1/fraud/decide", token="t")  # noqa: S106 - nobody takes it
    assert made.endswith(b'Content-Length: 9\r\n\r\n{"id": 1}')
    assert made.startswith(b"POST /v1/fraud/decide HTTP/1.1\r\n")
    assert b"Authorization: Bearer t\r\n" in made
    assert as_request(b"", "/healthz", token="").startswith(b"GET /healthz HTTP/1.1\r\n")


def test_a_quantile_is_a_value_that_was_there() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(100))), 0.99) == 99.0
