"""Environments of peers: each has its own, in $DECALOG_PEERS or in a temporary folder of the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS = 900


def python_of(name: str, packages: Sequence[str], *, folder: Path) -> tuple[Path, str]:
    """Returns the Python of an environment that has these packages, and what went wrong in making it, or "".

    Args:
        name: of the environment.
        packages: as pip takes them; an environment that was made before with the same is taken as it is.
        folder: where it is made without $DECALOG_PEERS.
    """
    home = Path(os.environ.get("DECALOG_PEERS", folder)) / name
    python, made = home / "bin" / "python", home / "packages.txt"
    wanted = "\n".join(packages)
    if made.exists() and made.read_text() == wanted:
        return python, ""
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(install, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        return python, f"not installed: {(done.stderr.strip().splitlines() or ['no words'])[-1][:120]}"
    made.write_text(wanted)
    return python, ""
