"""What a server may be told: where to listen, who must show a token, and how much of anything it takes."""

from __future__ import annotations

import msgspec

from decalog.access import check_binding
from decalog.errors import ConfigError

KIB = 1_024
MIB = 1_024 * KIB


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one server; the defaults are meant for production.

    Args:
        host, port: where it listens; port 0 takes a free one.
        tokens: whether callers must show a token; off only on a loopback address.
        decide_bytes, batch_bytes, table_bytes: largest body of one decision, of a batch, and of a lookup table.
        batch_rows: most rows a batch.
        rate_per_s: requests a second for each token, or address without one; 0 sets no limit.
        burst: how many requests may come at once before the rate counts.
        in_flight: most requests at work at once; further ones get 503.
        connections: most open connections; further ones are closed.
        backlog: connections that wait to be accepted.
        request_s: within this time a client must have sent its whole request.
        idle_s: a connection without requests is closed after this; above the idle time of a load balancer before it.
        drain_s: after SIGTERM, refuse new requests for this long before closing: time for a load balancer to notice.
        stop_s: requests at work have this long to finish.
        private_webhooks: whether webhooks may go to addresses of a private network; to this machine they always may.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: bool = True
    decide_bytes: int = MIB
    batch_bytes: int = 16 * MIB
    table_bytes: int = 4 * MIB
    batch_rows: int = 10_000
    rate_per_s: float = 10_000.0
    burst: int = 20_000
    in_flight: int = 1_024
    connections: int = 4_096
    backlog: int = 2_048
    request_s: float = 15.0
    idle_s: int = 75
    drain_s: float = 0.0
    stop_s: int = 10
    private_webhooks: bool = False

    def check(self) -> None:
        """Returns if the settings make sense together.

        Raises:
            ConfigError: names every setting that does not.
        """
        check_binding(self.host, authenticated=self.tokens)
        least = {"port": 0, "rate_per_s": 0, "drain_s": 0, "request_s": 0.1} | dict.fromkeys(_AT_LEAST_ONE, 1)
        wrong = [f"{name} {getattr(self, name)}" for name, bound in least.items() if not getattr(self, name) >= bound]
        if self.port > _LAST_PORT:
            wrong.append(f"port {self.port}")
        if wrong:
            raise ConfigError(
                where="serve, settings",
                given=", ".join(wrong),
                expected="a port up to 65535, rate_per_s and drain_s from 0, request_s from 0.1, other limits from 1",
                fix="Mend these settings, or leave them out for their defaults.",
            )


_LAST_PORT = 65_535
_AT_LEAST_ONE = (
    *("decide_bytes", "batch_bytes", "table_bytes", "batch_rows", "burst", "in_flight", "connections", "backlog"),
    *("idle_s", "stop_s"),
)
