"""What the server counts about itself, for Prometheus. Nothing personal is ever a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_OF_FEATURE = ("system", "feature")
_TOGETHER = 100
"""Durable decisions that may wait to be counted."""
_GROUPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Decided(NamedTuple):
    """What is counted of a decision: action, mode and fallback, stage → µs it took, head → prediction."""

    action: str
    mode: str
    fallback: str
    stages_us: Mapping[str, int]
    predictions: Mapping[str, float]


class Meter:
    """Counters of one process, in a Prometheus registry of its own."""

    def __init__(self) -> None:
        self._fresh: list[tuple[str, Decided]] = []
        self._durable: list[tuple[str, Decided]] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)  # the first to be asked, before the counters themselves
        self._decisions = Counter(
            "decalog_decisions", "Decisions by action and mode.", ("system", "action", "mode"), registry=self.registry
        )
        self._fallbacks = Counter(
            "decalog_fallbacks", "Fallback decisions by reason.", ("system", "reason"), registry=self.registry
        )
        self._rows = Counter(
            "decalog_rows", "Events and outcomes by status.", ("system", "kind", "status"), registry=self.registry
        )
        reported = "Requests that a kind of outcome says the label is 1 of, once each."
        self._reported = Counter("decalog_reported", reported, ("system", "kind"), registry=self.registry)
        self._stages = Histogram(
            "decalog_stage_seconds", "Time of a stage.", ("system", "stage"), buckets=_BOUNDS, registry=self.registry
        )
        self._predictions = Histogram(
            "decalog_prediction",
            "Calibrated predictions.",
            ("system", "head"),
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
            registry=self.registry,
        )
        self._groups = Histogram("decalog_commit_records", "Records a commit.", buckets=_GROUPS, registry=self.registry)
        self._position = Gauge("decalog_log_position", "Durable position of the log.", registry=self.registry)
        self._stale = Counter(
            "decalog_refresh_failures", "Looks for a new champion that failed.", registry=self.registry
        )
        self._ages = Gauge(
            "decalog_feature_age_seconds",
            "Age of the newest row behind a feature.",
            _OF_FEATURE,
            registry=self.registry,
        )
        self._stales = Gauge(
            "decalog_feature_stale", "1 where that is more than declared.", _OF_FEATURE, registry=self.registry
        )
        self._problem = Gauge(
            "decalog_champion_problem",
            "1 while the champion of now cannot be used.",
            ("system",),
            registry=self.registry,
        )
        # A series is looked up by its labels once: prometheus-client takes a lock and builds a tuple for each.
        self._decision = cache(self._decisions.labels)
        self._fallback = cache(self._fallbacks.labels)
        self._stage = cache(self._stages.labels)
        self._prediction = cache(self._predictions.labels)

    def decided(self, system: str, decision: Decided) -> None:
        """Counts a decision; whoever reads the registry after the next commit finds it."""
        # One by one they would cost more: each time the caches have to make room for the counters.
        self._fresh.append((system, decision))

    def row(self, system: str, kind: str, *, status: str) -> None:
        """Counts a row of a batch."""
        self._rows.labels(system, kind, status).inc()

    def reported(self, system: str, kind: str) -> None:
        """Counts a request that a kind of outcome says the label is 1 of, for the first time."""
        self._reported.labels(system, kind).inc()

    def watch(self, system: str, feature: str, *, age_s: Callable[[], float], is_stale: Callable[[], bool]) -> None:
        """Exposes how old the newest row behind a feature is; both are asked when the registry is read."""
        self._ages.labels(system, feature).set_function(age_s)
        self._stales.labels(system, feature).set_function(is_stale)

    def unwatch(self, system: str, features: Iterable[str]) -> None:
        """Exposes features no longer."""
        for feature in features:
            self._ages.remove(system, feature)
            self._stales.remove(system, feature)

    def not_refreshed(self) -> None:
        """Counts a look for a new champion that failed; the next comes within about a second."""
        self._stale.inc()

    def watch_champion(self, system: str, *, is_troubled: Callable[[], bool]) -> None:
        """Exposes whether the champion of now cannot be used; it is asked when the registry is read."""
        self._problem.labels(system).set_function(is_troubled)

    def committed(self, position: int, records: int) -> None:
        """Notes that the log is durable up to a position, and how many records the last commits held."""
        self._position.set(position)
        self._groups.observe(records)
        self._durable += self._fresh
        self._fresh.clear()
        if len(self._durable) >= _TOGETHER:
            self.collect()

    def collect(self) -> tuple[Metric, ...]:
        """Counts what is durable and was not counted yet; see prometheus-client, `Collector`. Has no metrics itself."""
        durable, self._durable = self._durable, []
        for system, decision in durable:
            self._count(system, decision)
        return ()

    def _count(self, system: str, decision: Decided) -> None:
        self._decision(system, decision.action, decision.mode).inc()
        if decision.fallback:
            self._fallback(system, decision.fallback).inc()
        for stage, micros in decision.stages_us.items():
            self._stage(system, stage).observe(micros / 1e6)
        for head, value in decision.predictions.items():
            self._prediction(system, head).observe(value)
