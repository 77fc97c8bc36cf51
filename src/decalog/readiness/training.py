"""What made the champion: that it is made again from the same log, and that it beats what is simpler."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from decalog import operations
from decalog.errors import DataError
from decalog.readiness.checks import Measured
from decalog.readiness.subject import Subject
from decalog.reports import Contender, MetricInfo, Report
from decalog.training import REPORT


def reproducible(subject: Subject, fault: str) -> Measured:
    """Counts how many other models a second training on the same log gives, by the hash of all that a model is."""
    models = []
    for seed in (0, 1 if fault else 0):
        with subject.fork() as home:
            models.append(operations.train_on_log(home, subject.path, seed=seed).model)
    said = f"two trainings on {subject.position:,} records gave {' and '.join(dict.fromkeys(m[:12] for m in models))}"
    return Measured(value=float(len(set(models)) - 1), n=2, said=said)


def lead(subject: Subject, fault: str) -> Measured:
    """Measures how much the champion leads over the best baseline, by the report that it was registered with."""
    name, report = _report(subject)
    metric, values = _compared(report)
    baselines = {c.name: values[c.name] for c in report.contenders if c.role == "baseline" and c.name in values}
    if name not in values or not baselines:
        raise DataError(
            where=f"{subject.system.name} report of its champion",
            given=f"no {metric} of champion and baselines",
            expected="both, judged on the same part",
            fix="Train again with the system's baselines.",
        )
    best = max(baselines, key=baselines.__getitem__)
    mine = min(values.values()) if fault else values[name]
    said = f"{metric}: {name} {mine:,.4g}, {best} {baselines[best]:,.4g} (higher is better), on the later part"
    return Measured(value=(mine - baselines[best]) / (abs(baselines[best]) or 1.0), n=report.test.labelled, said=said)


def _report(subject: Subject) -> tuple[str, Report]:
    """Returns the kind of the champion and the report that it was registered with.

    Raises:
        DataError: there is none.
    """
    with subject.reading() as (deployment, _):
        current = deployment.registry.current(subject.system.name)
        artefact = None if current is None else deployment.registry.get(current)
    path = None if artefact is None else artefact.folder / REPORT
    if artefact is None or path is None or not path.is_file():
        raise DataError(
            where=f"{subject.system.name} champion",
            given="no report of its training",
            expected="a champion that `decalog train` made and judged",
            fix="Train again.",
        )
    return artefact.manifest.name, msgspec.json.decode(path.read_bytes(), type=Report)


def _compared(report: Report) -> tuple[str, Mapping[str, float]]:
    """Returns by what contenders are compared, and the values, so turned that more is better: money where there is."""
    saved = {c.name: c.saved_per_1000.value for c in report.contenders if c.saved_per_1000 is not None}
    if saved:
        return "saved_per_1000", saved
    metric = next((one for one in report.metrics if _is_judged(one, report.contenders)), report.metrics[0])
    sign = -1.0 if metric.better == "lower" else 1.0
    found = {c.name: sign * c.values[metric.name].value for c in report.contenders if metric.name in c.values}
    return metric.name, found


def _is_judged(metric: MetricInfo, contenders: tuple[Contender, ...]) -> bool:
    return all(metric.name in one.values for one in contenders)
