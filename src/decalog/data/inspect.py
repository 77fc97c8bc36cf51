"""What a user's file holds, a drafted mapping, and what cannot be had from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from decalog.data.draft import draft, printable
from decalog.data.frames import Source, open_frame
from decalog.data.sketch import MANY, ROWS, Sketch, Survey, survey
from decalog.features.definition import DECISION_ROWS, Aggregate, Attribute, Category, Feature, Same
from decalog.features.facts import ALL

if TYPE_CHECKING:
    from decalog.system import System


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Args:
        source: name of the file or frame.
        survey: its columns; no value of them is in the text, except those of the label and of actions.
        roles: column → what the draft maps it to.
        mapping_toml: the drafted mapping.
        decide: what only the user can decide; each stands in the draft too.
        lost: feature → why it will be missing.
        features: how many the system has.
    """

    source: str
    survey: Survey
    roles: dict[str, str]
    mapping_toml: str
    decide: tuple[str, ...]
    lost: dict[str, str]
    features: int

    def text(self) -> str:
        """Returns all of it for a person, as a mapping with comments: what is printed can be saved as it is."""
        return "\n".join([*(f"# {line}".rstrip() for line in self._lines()), "", self.mapping_toml])

    def _lines(self) -> Iterator[str]:
        found = self.survey
        part = "" if found.whole else f", the first {ROWS:,} were looked at"
        yield f"{self.source}: {found.rows + found.broken:,} rows{part}, {found.broken:,} of them broken"
        yield ""
        width = max(len(printable(sketch.name)) for sketch in found.sketches)
        yield f"{'column':{width}}  {'type':12} {'missing':>8} {'different':>9}  drafted as"
        for sketch in found.sketches:
            yield _row(sketch, width, self.roles.get(sketch.name, "–"))
        yield ""
        yield from self._lost_lines()
        yield ""
        if self.decide:
            yield "Decide before you import (each is marked in the mapping below):"
            yield from (f"  {number}. {printable(words)}" for number, words in enumerate(self.decide, 1))
        else:
            yield "Nothing is left to decide; read the mapping below all the same."

    def _lost_lines(self) -> Iterator[str]:
        if not self.lost:
            yield f"All {self.features} features can be computed."
            return
        yield f"{len(self.lost)} of {self.features} features are lost:"
        for why in dict.fromkeys(self.lost.values()):
            names = [name for name, reason in self.lost.items() if reason == why]
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""  # noqa: PLR2004  # a line's width
            yield f"  {why}: {', '.join(names[:6])}{more}"


def inspect(source: Source, system: System, *, delimiter: str = "", encoding: str = "utf-8") -> Inspection:
    """Returns what a source holds, with a drafted mapping to a system's schema.

    Args:
        source: path of a CSV or Parquet file, or a frame that speaks Arrow.
        system: to map to.
        delimiter: of a CSV; "" finds it in the header.
        encoding: of a CSV.

    Raises:
        DataError: the source cannot be read at all.
    """
    frame = open_frame(source, delimiter=delimiter, encoding=encoding)
    found = survey(frame)
    drafted = draft(found, system.schema, name=frame.name)
    return Inspection(
        source=frame.name,
        survey=found,
        roles=drafted.roles,
        mapping_toml=drafted.toml,
        decide=drafted.decide,
        lost=lost_features(system, drafted.mapped),
        features=len(system.features.features),
    )


def lost_features(system: System, mapped: tuple[str, ...]) -> dict[str, str]:
    """Returns the features that will be missing on every row, each with what it lacks.

    Args:
        system: whose features.
        mapped: names of the schema's fields and entities that have a column.
    """
    converted = system.schema.request.amounts
    have = {ALL, *mapped, *(converted[name] for name in mapped if name in converted)}
    decided = (f"{which}{action}" for which in DECISION_ROWS for action in system.schema.actions)
    events = {system.schema.request.name, *decided}
    lost = {}
    for feature in system.features.features:
        lacking = [name for name in _needs(feature) if name not in have]
        if lacking:
            lost[feature.name] = f"no {' and no '.join(lacking)}"
        elif isinstance(feature, Aggregate) and not events & set(feature.over):
            lost[feature.name] = f"no events of kind {' or '.join(feature.over)}"
    return lost


def _needs(feature: Feature) -> list[str]:
    match feature:
        case Aggregate():
            return [name for name in (feature.entity, feature.column) if name]
        case Attribute() | Category():
            return [feature.attribute]
        case Same():
            return [feature.left, feature.right]
    return []


def _row(sketch: Sketch, width: int, role: str) -> str:
    share = sketch.missing / sketch.rows if sketch.rows else 0.0
    different = f"≥ {MANY:,}" if sketch.distinct >= MANY else f"{sketch.distinct:,}"
    kind = sketch.kind if sketch.type == "text" else sketch.type.lower()
    looks = f" (looks like {sketch.looks}s)" if sketch.looks else ""
    return f"{printable(sketch.name):{width}}  {kind[:12]:12} {share:8.1%} {different:>9}  {role}{looks}"
