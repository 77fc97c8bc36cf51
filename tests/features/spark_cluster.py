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
        stack.enter_context(_daemon(folder, "master.Master", where, ready="I have been elected leader")).wait()
        size = ["--host", LOOPBACK, "--cores", "1", "--memory", "600m", "--webui-port", "0"]
        commands = [[*size, "--work-dir", str(folder / f"work-{number}"), address] for number in range(WORKERS)]
        ready = "Successfully registered with master"
        for worker in [stack.enter_context(_daemon(folder, "worker.Worker", c, ready=ready)) for c in commands]:
            worker.wait()
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
        "spark.task.maxFailures": "1",  # a fault is no accident, so it is not tried again
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
def _daemon(folder: Path, name: str, options: list[str], *, ready: str) -> Iterator[threading.Event]:
    """Runs one of Spark's daemons; yields what is set when it says that it is ready, or ends."""
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    environment = {**os.environ, "SPARK_LOCAL_IP": LOOPBACK, "SPARK_DAEMON_MEMORY": "256m"}
    environment["SPARK_LOCAL_DIRS"] = str(folder)
    # The script becomes the daemon, so its pid is the daemon's.
    command = [str(program), f"org.apache.spark.deploy.{name}", *options]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        is_ready = threading.Event()
        reader = threading.Thread(target=_listen, args=(process, ready, is_ready))
        reader.start()
        try:
            yield is_ready
        finally:
            process.terminate()
            reader.join()


def _listen(process: subprocess.Popen[str], ready: str, is_ready: threading.Event) -> None:
    """Reads all that a daemon says, since a full pipe would stop it."""
    assert process.stderr is not None
    for line in process.stderr:
        if ready in line:
            is_ready.set()
    is_ready.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
