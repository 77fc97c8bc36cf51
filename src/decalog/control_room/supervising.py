"""The processes beside the pages: one that follows the logs, and one that measures, system by system, at intervals."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from decalog.control_room.homes import House, Place
from decalog.control_room.measuring import measured

_LEAST_S = 20.0
_TIMES = 4.0
"""A measurement rests at least so many times as long as it took of the CPU."""
_AGAIN_S = 1.0


def due(took: float, at: float, *, now_s: float) -> bool:
    """Whether a system is to be measured again.

    >>> due(10.0, 100.0, now_s=139.0), due(10.0, 100.0, now_s=140.0)
    (False, True)
    """
    return now_s - at >= max(_LEAST_S, _TIMES * took)


async def supervise(house: House, *, clock: Callable[[], float] = time.time) -> None:
    """Keeps both at work until cancelled; whichever ends is begun again, and ends with this process."""
    following = asyncio.create_task(_follow(house))
    try:
        while True:
            for place in await asyncio.to_thread(house.places):
                await _measure(place, now_s=clock())
            await asyncio.sleep(_AGAIN_S)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _follow(house: House) -> None:
    while True:
        words = [str(root) for root in house.roots]
        await _run("decalog.control_room.following", *words)
        await asyncio.sleep(_AGAIN_S)


async def _measure(place: Place, *, now_s: float) -> None:
    last = await asyncio.to_thread(measured, place.home, place.system)
    if last is None or due(last.took, last.at, now_s=now_s):
        await _run("decalog.control_room.measuring", str(place.home.root), place.system)


async def _run(module: str, *words: str) -> None:
    """Runs a module until it ends; it is ended where this is cancelled, and not by a Ctrl-C at the terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
