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
    """Measures how much the champion leads over the best baseline, by the report that it was registered with.

    It leads by as much as its 95 % interval lets it: a baseline is better where it lies beyond that.
    """
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
    best, best_value = max(((name, value) for name, (value, _) in baselines.items()), key=lambda one: one[1])
    mine, most = 2 * (min(value for value, _ in values.values()),) if fault else values[name]
    said = f"{metric}: {name} {mine:,.4g} (at most {most:,.4g}), {best} {best_value:,.4g}, higher is better; later part"
    return Measured(value=(most - best_value) / (abs(best_value) or 1.0), n=report.test.labelled, said=said)


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


def _compared(report: Report) -> tuple[str, Mapping[str, tuple[float, float]]]:
    """Returns by what contenders are compared, money where there is, and each value with the upper end of its interval.

    They are so turned that more is better.
    """
    money = ((c.name, c.saved_per_1000) for c in report.contenders)
    saved = {name: (one.value, one.high) for name, one in money if one is not None}
    if saved:
        return "saved_per_1000", saved
    metric = next((one for one in report.metrics if _is_judged(one, report.contenders)), report.metrics[0])
    measured = {c.name: c.values[metric.name] for c in report.contenders if metric.name in c.values}
    is_less = metric.better == "lower"
    found = {name: (-one.value, -one.low) if is_less else (one.value, one.high) for name, one in measured.items()}
    return metric.name, found


def _is_judged(metric: MetricInfo, contenders: tuple[Contender, ...]) -> bool:
    return all(metric.name in one.values for one in contenders)
