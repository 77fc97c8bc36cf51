"""Law 8 of conformance: p99 under the declared budget at the declared load, the log durable.

It takes a server, load and time, so it stands beside the kit and not in `conformance.LAWS`:

    from decalog.readiness.law import law_8

    @pytest.mark.slow
    def test_law_8(tmp_path):
        conformance.assert_holds(law_8("my_returns.system:SYSTEM"), SYSTEM, folder=tmp_path)
"""

from __future__ import annotations

from functools import partial

from decalog.readiness.checks import Measured
from decalog.readiness.faults import crash
from decalog.readiness.latency import p99
from decalog.readiness.slo import slo_of
from decalog.readiness.subject import Subject, scratch
from decalog.testing import traffic
from decalog.testing.laws.law import Law, Verdict, proven
from decalog.testing.stage import Stage, Trial

_NAME = "p99 under the declared budget at the declared load, the log durable"


def law_8(path: str) -> Law:
    """Returns the law for the system of a name or dotted path: a server, which is a process of its own, finds it so."""
    return Law(8, _NAME, partial(check, path))


def check(path: str, trial: Trial) -> Verdict:
    """Returns whether a server on the trial's traffic keeps its declared p99, and a crash loses nothing acknowledged.

    Its sabotages are a model that is slow, and replies before the commit.
    """
    stage = Stage(trial, "load")
    stage.play(traffic.history(trial))
    stage.crown(trial.system.models[-1])
    stage.play(traffic.live(trial))
    stage.close()
    slo = slo_of(path, trial.system, home=stage.home.root)
    with scratch(stage.home) as folder:
        subject = Subject(stage.home, path, slo=slo, folder=folder, quick=True)
        limit = slo.limit("p99_ms")
        fast, slow = p99(subject, ""), p99(subject, "slow model")
        kept, lost = crash(subject, ""), crash(subject, "a reply before the commit")
    return proven(
        fast.n + kept.n,
        [*_beyond(fast, limit), *_beyond(kept, 0.0)],
        sabotages={"a model that is slow": _beyond(slow, limit), "a reply before the commit": _beyond(lost, 0.0)},
    )


def _beyond(found: Measured, limit: float) -> list[str]:
    return [] if found.value <= limit else [f"{found.value:,.4g}, at most {limit:g}: {found.said}"]
