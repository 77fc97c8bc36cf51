"""A Redis of the test's own: on a free loopback port, with nothing on disk, ended by the one who started it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

PROGRAMS = ("redis-server", "valkey-server")
MISSING = f"no {' and no '.join(PROGRAMS)} on this machine: apt-get install redis-server"


@contextmanager
def running(
    folder: Path, *settings: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yields address and process of a server that runs inside the block; skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(MISSING)
    port = free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen([program, *words, *settings], stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_for(url, process)
            yield url, process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns once the server answers; fails where it ended."""
    with redis.from_url(url) as client:
        while True:
            assert process.poll() is None, "the server ended at once"
            with suppress(redis.exceptions.ConnectionError):
                client.ping()
                return
