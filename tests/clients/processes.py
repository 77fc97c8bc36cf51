"""A server as users run it: `decalog serve` in a process of its own, over a home of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 60.0


class Served(NamedTuple):
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)


@contextmanager
def served(
    home: Path, *words: str, system: str = "fraud", environ: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Runs `decalog serve` with further words until the block ends; it has to end well unless it was killed."""
    command = [sys.executable, "-m", "decalog", "serve", system, "--home", str(home), "--port", "0", *words]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1", **(environ or {})}
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                break
        else:
            raise AssertionError("".join(said))
        yield Served(found[1], process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_S)
        process.stderr.close()
    assert code in (0, -signal.SIGKILL)


def decalog(*words: str) -> str:
    """Returns what a command of decalog wrote; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "decalog", *words], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
