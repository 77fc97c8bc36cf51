"""What the benches of a year of the loop share: drifts on days that a seed draws, the loop's steps, the result."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from decalog.deployment import Deployment
from decalog.loop import Loop, Move

FIRST_SEED, SEEDS = 201, 2
YEAR, EVERY = 365, 7
BAR = 0.7
WAVE = 42

Switches = dict[int, list[tuple[str, bool]]]
"""Day of the year → what is switched, and whether on."""
Say = Callable[[str], None]


def schedule(seed: int, *, lasting: Mapping[int, str], passing: Mapping[int, str], within: int) -> Switches:
    """Returns when drifts begin that stay, and waves that last for six weeks.

    Args:
        seed: draws which comes when.
        lasting: earliest day → a drift; the names change places.
        passing: earliest day → a wave; likewise.
        within: days of the earliest one, at most so many later.
    """
    rng = np.random.default_rng(seed)
    days: Switches = {}
    for kinds, lasts in ((lasting, False), (passing, True)):
        for name, day in zip(rng.permutation(list(kinds.values())), kinds, strict=True):
            begin = int(day + rng.integers(within))
            days.setdefault(begin, []).append((str(name), True))
            if lasts:
                days.setdefault(begin + WAVE, []).append((str(name), False))
    return days


def steps(loop: Loop, deployment: Deployment, now: int) -> Iterator[Move]:
    """Yields what the loop does until there is nothing to do."""
    for _ in range(6):
        move = loop.step(deployment, now)
        if move is None:
            return
        yield move


def told_by(doc: str | None, *, scale: float) -> argparse.Namespace:
    """Returns what a command line asks for, and in `say` what tells of progress."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, or less")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--scale", type=float, default=scale)
    parser.add_argument("--every", type=int, default=EVERY)
    parser.add_argument("--days", type=int, default=YEAR)
    told = parser.parse_args()
    told.seeds = 1 if told.short else told.seeds
    told.say = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    return told


def print_result(found: Sequence[Mapping[str, Any]], *, means: Mapping[str, str], is_json: bool) -> None:
    """Prints what seeds gave.

    Args:
        found: one a seed, with `headroom`, `acts` and `cpu_s`.
        means: key → that of a seed, of which it is the mean.
        is_json: as JSON.
    """
    shares = [one["headroom"] for one in found]
    result = {
        "headroom_share": float(np.mean(shares)),
        "headroom_least": min(shares),
        **{key: float(np.mean([one[of] for one in found])) for key, of in means.items()},
        "promotions": sum(one["acts"]["promote"] for one in found),
        "stopped": sum(one["acts"]["stop"] for one in found),
        "seeds": len(found),
        "cpu_s": sum(one["cpu_s"] for one in found),
    }
    print(json.dumps(result) if is_json else f"headroom {result['headroom_share']:.3f} (bar {BAR}): {result}")
