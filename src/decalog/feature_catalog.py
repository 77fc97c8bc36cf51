"""What a system's features are, for people: each declaration in words, an example from the log, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from decalog.features import kernel
from decalog.features.definition import Aggregate, Feature, FeatureSet
from decalog.features.facts import Point
from decalog.features.online import OnlineState, scan_inputs


class Cost(msgspec.Struct, frozen=True):
    """What one entity name costs a request: rows held in its longest window, and microseconds for all its features.

    Args:
        rows: mean over the requests that were tried.
        most_rows: of one of them.
        us: median time of the scan, on this machine, now.
    """

    rows: float
    most_rows: int
    us: float


class Listed(msgspec.Struct, frozen=True):
    """One feature in words.

    Args:
        name, meaning, unit, owner, use: as declared.
        definition: the declaration as one line.
        missing: what stands for a missing value.
        crowded: what stands for a window that had more rows than the set retains; None where there is no window.
        staleness: longest silence before it counts as stale, or "".
        entity: whose rows it is over, or "".
        example: its value for the latest request of the log, or None.
    """

    name: str
    meaning: str
    unit: str
    owner: str
    use: str
    definition: str
    missing: float
    crowded: float | None
    staleness: str
    entity: str
    example: float | None


class Catalog(msgspec.Struct, frozen=True):
    """A feature set in words; costs by entity name where there is a log to measure them on."""

    system: str
    version: str
    lateness: str
    retain: int
    features: tuple[Listed, ...]
    costs: dict[str, Cost]

    def text(self) -> str:
        """Returns the catalog for people."""
        bounds = f"lateness {self.lateness}, at most {self.retain:,} rows of an entity"
        lines = [f"{self.system}: {len(self.features)} features, version {self.version}, {bounds}"]
        for feature in self.features:
            example = "" if feature.example is None else f"; for the latest request {feature.example:g}"
            crowded = "" if feature.crowded is None else f", crowded is {feature.crowded:g}"
            owner = f", owner {feature.owner}" if feature.owner else ""
            stale = f", stale after {feature.staleness}" if feature.staleness else ""
            lines += [
                feature.definition,
                f"    {feature.meaning}",
                f"    for the {feature.use}; missing is {feature.missing:g}{crowded}{owner}{stale}{example}",
            ]
        for entity, cost in self.costs.items():
            rows = f"{cost.rows:,.1f} rows in the longest window, {cost.most_rows:,} at most"
            lines.append(f"cost of {entity}: {cost.us:.1f} µs a request; {rows}")
        return "\n".join(lines)


def catalog(features: FeatureSet, *, example: dict[str, float], costs: dict[str, Cost]) -> Catalog:
    """Returns the catalog of a feature set.

    Args:
        features: the declarations.
        example: feature name → value for the latest request; empty without one.
        costs: of `measure`; empty without a log.

    >>> from decalog.features.definition import Attribute
    >>> amount = Attribute(name="amount", meaning="amount of the payment", unit="cents", attribute="amount")
    >>> print(catalog(FeatureSet(system="demo", features=(amount,)), example={"amount": 5.0}, costs={}).text())
    demo: 1 features, version 065852cc0416, lateness 1h, at most 100,000 rows of an entity
    amount: attribute amount of the request [cents]
        amount of the payment
        for the model; missing is -1; for the latest request 5
    """
    listed = tuple(_listed(feature, example.get(feature.name)) for feature in features.features)
    return Catalog(features.system, features.version, features.lateness, features.retain, listed, costs)


def _listed(feature: Feature, example: float | None) -> Listed:
    over = feature if isinstance(feature, Aggregate) else None
    return Listed(
        name=feature.name,
        meaning=feature.meaning,
        unit=feature.unit,
        owner=feature.owner,
        use=feature.use,
        definition=str(feature),
        missing=feature.missing_value,
        crowded=over.crowded if over else None,
        staleness=over.staleness if over else "",
        entity=over.entity if over else "",
        example=example,
    )


def measure(state: OnlineState, points: Sequence[Point]) -> dict[str, Cost]:
    """Returns what each entity name costs the requests at some points, which the state must be able to answer."""
    found = {}
    for plan in state.plan.entities:
        rows, times = list[int](), list[int]()
        for point in points:
            inputs = scan_inputs(state, plan.entity, point=point)
            if inputs is None:
                continue
            (mine, job), out = inputs, state.plan.blank.copy()
            started = time.perf_counter_ns()
            kernel.scan(mine, plan.lanes, plan.outputs, job, state.plan.crowded, out)
            times.append(time.perf_counter_ns() - started)
            begin = max(point.time - plan.longest_us, int(mine[0, kernel.MARK]))
            rows.append(kernel.last_until(mine, point.time) - kernel.last_until(mine, begin))
        if rows:
            found[plan.entity] = Cost(float(np.mean(rows)), max(rows), float(np.median(times)) / 1_000)
    return found
