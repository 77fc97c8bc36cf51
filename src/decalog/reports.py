"""The report of an evaluation: a value that prints as Markdown, as a rich table, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from decalog.clock import rfc3339
from decalog.metrics import Measurement
from decalog.money import EXPONENTS

if TYPE_CHECKING:
    from rich.console import Group

Role = Literal["baseline", "model", "oracle"]
MINOR_UNITS = "minor units"
"""Unit of metrics that are money; the report shows them in the currency."""

_TIERS = {"model": "Is the prediction right?", "product": "What do people meet?", "business": "What does it cost?"}
_WHY = {
    "silence": "matured without a report",
    "immature": "still awaited",
    "unobserved": "unknown after the action that was taken",
}


_NO_GAP = (
    "No gap: with the label delay left out too few labels remain, so the training part uses labels that were not known "
    "at its end. Take the figures as optimistic."
)


class Completeness(msgspec.Struct, frozen=True):
    """How far labels are known.

    Args:
        requests: all of them.
        labelled: those with a label.
        positives: those whose label is 1.
        why: reason → requests: outcome kinds, `silence`, `immature`, `unobserved`.
        bounds: where labels are quantities: of how many only a lower bound is known; else None.
    """

    requests: int
    labelled: int
    positives: int
    why: dict[str, int]
    bounds: int | None = None

    def text(self) -> str:
        """Returns it in words."""
        share = 100 * self.labelled / self.requests if self.requests else 0.0
        reasons = ", ".join(f"{_WHY.get(why, why)} {count:,}" for why, count in self.why.items())
        notable = f"{self.positives:,} positive" if self.bounds is None else f"{self.bounds:,} as a lower bound"
        return f"{share:.0f} % of {self.requests:,} labels are known, {notable} ({reasons})"

    @property
    def notable(self) -> str:
        """The labels that count most, in words."""
        return f"{self.positives:,} positives" if self.bounds is None else f"{self.bounds:,} lower bounds"


class Support(msgspec.Struct, frozen=True):
    """For which decisions anything can be learnt of what else might have been done.

    Args:
        requests: decided here, with their `amount_minor` together, of the base currency.
        drawn: those let through by chance, which stand for others like them.
        hidden: those whose outcome the action hid with certainty, with their `hidden_minor`: no model and no estimate
            from this log holds for them.
    """

    requests: int = 0
    drawn: int = 0
    hidden: int = 0
    amount_minor: int = 0
    hidden_minor: int = 0

    def text(self) -> str:
        """Returns it in words."""
        share, money = self.hidden / max(self.requests, 1), self.hidden_minor / max(self.amount_minor, 1)
        return (
            f"{self.drawn:,} were let through by chance and stand for others like them; {self.hidden:,} ({share:.1%}, "
            f"{money:.1%} of the money) are excluded: their action hid the outcome with certainty, so that nothing "
            "here holds for them"
        )


class Unmeasured(msgspec.Struct, frozen=True):
    """A metric that these rows cannot give, and what it would need."""

    metric: str
    needs: str


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """What one model, baseline or oracle is worth on the test part.

    Args:
        name: of the model's kind.
        role: baseline, model or oracle.
        values: metric → measurement.
        missing: metrics that the rows cannot give.
        saved_per_1000: money against doing nothing, minor units a thousand requests, paired interval; None where doing
            nothing is no choice.
        actions: action → share of requests; empty where there is but one.
    """

    name: str
    role: Role
    values: dict[str, Measurement]
    missing: tuple[Unmeasured, ...]
    saved_per_1000: Measurement | None = None
    actions: dict[str, float] = {}


class MetricInfo(msgspec.Struct, frozen=True):
    """What a metric of the report is, as the system declares it."""

    name: str
    tier: str
    meaning: str
    formula: str
    unit: str
    better: str


class Table(NamedTuple):
    """A table of texts: title, head, rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation, whole.

    Args:
        system, noun: as in the schema.
        position: of the log, number of records read.
        known_time: of the last record, µs.
        trained_at: the training date, µs.
        train, test: labels of the two parts.
        gap: requests between them, whose labels were awaited at the training date.
        delay_left_out: whether models learnt only from what was known at the training date.
        labels: of all requests at the pin.
        support: for which decisions the log can tell.
        late: requests left out because they came too late for exact features.
        currency: of the money, ISO 4217.
        metrics: what was measured.
        contenders: baselines, models, and the oracle where the truth is known.
    """

    system: str
    noun: str
    position: int
    known_time: int
    trained_at: int
    train: Completeness
    test: Completeness
    gap: int
    delay_left_out: bool
    labels: Completeness
    support: Support
    late: int
    currency: str
    metrics: tuple[MetricInfo, ...]
    contenders: tuple[Contender, ...]

    def contender(self, name: str) -> Contender:
        """Returns the contender of a name.

        Raises:
            KeyError: there is none.
        """
        return {contender.name: contender for contender in self.contenders}[name]

    def to_json(self) -> str:
        """Returns the report as canonical JSON."""
        return msgspec.json.encode(self, order="sorted").decode()

    def head(self) -> tuple[str, ...]:
        """Returns the lines above the tables: what was read, what was learnt from, what was tried on."""
        noun = f"{self.noun}s"
        known = f"{self.train.labelled:,} {noun} with {self.train.notable}"
        lines = [
            f"{self.system} at log position {self.position:,}, known by {rfc3339(self.known_time)}",
            f"Labels: {self.labels.text()}.",
            f"Train: {known}, decided before {rfc3339(self.trained_at)}.",
            *(
                (f"Support: of {self.support.requests:,} decisions, {self.support.text()}.",)
                if self.support.hidden
                else ()
            ),
            f"Gap: {self.gap:,} {noun} whose labels were still awaited then." if self.delay_left_out else _NO_GAP,
            f"Test: {self.test.labelled:,} later {noun} with {self.test.notable}.",
        ]
        if self.late:
            lines.append(f"Left out: {self.late:,} {noun} that came too late for exact features.")
        return tuple(lines)

    def tables(self) -> tuple[Table, ...]:
        """Returns one table a tier; the last one ends with the money saved and the actions taken."""
        return tuple(self._table(tier, title) for tier, title in _TIERS.items())

    def markdown(self) -> str:
        """Returns the report as Markdown, readable as plain text."""
        parts = [f"# {self.head()[0]}", "\n".join(f"- {line}" for line in self.head()[1:])]
        parts += [_markdown(table) for table in self.tables()]
        parts.append("\n".join(f"- {line}" for line in self._footnotes()))
        return "\n\n".join(parts) + "\n"

    def brief(self) -> str:
        """Returns the report in a dozen lines: the parts, and for each contender the first metric and the money."""
        first = next((metric.name for metric in self.metrics if metric.tier == "model"), "")
        money = next((metric.name for metric in self.metrics if metric.unit == MINOR_UNITS), "")
        head = ("", first, money, "saved a 1,000")[: 3 + bool(self._extra)]
        rows = [
            (
                contender.name if contender.role == "model" else f"{contender.name} ({contender.role})",
                self._cell(contender.values.get(first), ""),
                self._cell(contender.values.get(money), MINOR_UNITS),
                self._cell(contender.saved_per_1000, MINOR_UNITS),
            )[: len(head)]
            for contender in self.contenders
            if contender.values.keys() & {first, money}
        ]
        widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([*self.head(), *(line.rstrip() for line in lines)])

    def __rich__(self) -> Group:
        """Returns the report as rich renders it."""
        from rich.console import Group
        from rich.table import Table as RichTable

        def rich_table(table: Table) -> RichTable:
            made = RichTable(*table.head, title=table.title, title_justify="left")
            for row in table.rows:
                made.add_row(*row)
            return made

        return Group(*self.head(), *(rich_table(table) for table in self.tables()), *self._footnotes())

    def _table(self, tier: str, title: str) -> Table:
        chosen = [metric for metric in self.metrics if metric.tier == tier]
        extra = self._extra if tier == "business" else ()
        contenders = [c for c in self.contenders if any(metric.name in c.values for metric in chosen)]
        rows = tuple(
            (
                contender.name if contender.role == "model" else f"{contender.name} ({contender.role})",
                *(self._cell(contender.values.get(metric.name), metric.unit) for metric in chosen),
                *((self._cell(contender.saved_per_1000, MINOR_UNITS), _shares(contender.actions)) if extra else ()),
            )
            for contender in contenders
        )
        return Table(title, ("", *(metric.name for metric in chosen), *extra), rows)

    @property
    def _extra(self) -> tuple[str, ...]:
        counts_money = any(contender.saved_per_1000 is not None for contender in self.contenders)
        return ("saved a 1,000", "actions") if counts_money else ()

    def _cell(self, measurement: Measurement | None, unit: str) -> str:
        if measurement is None:
            return "–"
        numbers = (measurement.value, measurement.low, measurement.high)
        if unit == MINOR_UNITS:
            places = EXPONENTS.get(self.currency, 2)
            value, low, high = (f"{number / 10**places:,.{places}f}" for number in numbers)
            return f"{value} {self.currency} ({low} to {high})"
        value, low, high = (f"{number:.4f}" for number in numbers)
        return f"{value} ({low} to {high})"

    def _footnotes(self) -> tuple[str, ...]:
        notes = [f"{m.name}: {m.meaning}; {m.formula}; {m.better} is better" for m in self.metrics]
        missing = {unmeasured.metric: unmeasured.needs for c in self.contenders for unmeasured in c.missing}
        notes += [f"{name} cannot be measured here: it needs {needs}" for name, needs in missing.items()]
        return (*notes, "In brackets: 95 % intervals.")


def _shares(actions: Mapping[str, float]) -> str:
    return ", ".join(f"{action} {100 * share:.1f} %" for action, share in actions.items())


def _markdown(table: Table) -> str:
    lines = [table.head, tuple("---" for _ in table.head), *table.rows]
    return f"## {table.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
