"""The load generator sends when it is due, and counts from then, whether or not earlier answers came."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from decalog.readiness import open_loop
from decalog.readiness.open_loop import Run, arrivals, as_request, quantile


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


class Server:
    """Answers each request with 200, and counts connections."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.connections = self.listener.getsockname()[1], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except OSError:  # closed
            return

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listener.close()


@pytest.mark.parametrize(("idle_s", "connections"), [(600.0, 1), (0.0, 30)])
def test_a_connection_is_used_again_unless_it_lay_idle(
    server: Server, monkeypatch: pytest.MonkeyPatch, idle_s: float, connections: int
) -> None:
    monkeypatch.setattr(open_loop, "IDLE_S", idle_s)
    run = Run([as_request(b"{}", "/v1/feed/decide", token="t")] * 30, [0.0] * 30, port=server.port, most=1)  # noqa: S106 - nobody takes it
    run.run()
    assert run.statuses == {200: 30}
    assert len(run.latencies_s) == 30
    assert server.connections == connections
