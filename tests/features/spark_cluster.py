"""A Spark cluster of this machine for the tests: a standalone master and two workers on loopback, and one session."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOOPBACK = "127.0.0.1"
WORKERS = 2
BATCH_ROWS = 7
"""So few rows an Arrow batch that an entity's rows go on from batch to batch."""


def missing() -> str:
    """Returns what the tests need and do not find; empty where all is there."""
    if any(importlib.util.find_spec(name) is None for name in ("pyspark", "pyarrow", "pandas")):
        return "pyspark is not installed: `make spark` makes an environment with it and runs these tests"
    return "" if shutil.which("java") else "no java: install Java 17 (Debian: apt-get install openjdk-17-jre-headless)"


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Yields the address of a master with two workers, which are ended afterwards.

    Args:
        folder: for their files.
    """
    port = _free_port()
    address = f"spark://{LOOPBACK}:{port}"
    with ExitStack() as stack:
        where = ["--host", LOOPBACK, "--port", str(port), "--webui-port", "0"]
        _read_until(stack.enter_context(_daemon(folder, "master.Master", where)), "I have been elected leader")
        size = ["--host", LOOPBACK, "--cores", "1", "--memory", "600m", "--webui-port", "0"]
        folders = [str(folder / f"work-{number}") for number in range(WORKERS)]
        workers = [
            stack.enter_context(_daemon(folder, "worker.Worker", [*size, "--work-dir", place, address]))
            for place in folders
        ]
        for worker in workers:
            _read_until(worker, "Successfully registered with master")
        yield address


@contextmanager
def session(address: str, folder: Path) -> Iterator[SparkSession]:
    """Yields a session on a cluster.

    Args:
        address: of the master.
        folder: for what Spark spills.
    """
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.bindAddress": LOOPBACK,
        "spark.driver.host": LOOPBACK,
        "spark.driver.memory": "600m",
        "spark.executor.memory": "512m",
        "spark.local.dir": str(folder),
        "spark.sql.adaptive.enabled": "false",  # three partitions stay three, however few rows they hold
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)  # else the workers take the first python3 of the path
        patch.setenv("SPARK_LOCAL_IP", LOOPBACK)
        builder = SparkSession.builder.master(address).appName("decalog tests").config(map=settings)
        started = builder.getOrCreate()
        started.sparkContext.setLogLevel("OFF")  # planted faults fail their tasks loudly
        try:
            yield started
        finally:
            started.stop()


@contextmanager
def _daemon(folder: Path, name: str, options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Runs one of Spark's daemons; the script that is started becomes the daemon, so its pid is the daemon's."""
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    environment = {**os.environ, "SPARK_LOCAL_IP": LOOPBACK, "SPARK_DAEMON_MEMORY": "256m"}
    environment["SPARK_LOCAL_DIRS"] = str(folder)
    command = [str(program), f"org.apache.spark.deploy.{name}", *options]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _read_until(process: subprocess.Popen[str], ready: str) -> None:
    """Waits until a daemon says that it is ready."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if ready in line:
            # A full pipe would stop the daemon, so its further lines are read and forgotten.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return
    message = "".join(said)
    raise RuntimeError(f"the daemon ended before it was ready:\n{message}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
