"""Parity: the skew certificate. What the online path logged as features, computed again offline, bit for bit.

The log is folded once for each feature set that the decisions name, by the fold that training uses
(`features/offline.py`), and never through the online state. Whether the log itself is sound is `verify`'s to say.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from decalog.candidates import kept
from decalog.clock import rfc3339
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.errors import ConfigError, ReplayError
from decalog.events import Record
from decalog.features.columnar import Bools
from decalog.features.definition import FeatureSet, Reads, joined
from decalog.features.facts import Change, Fact, Point
from decalog.features.kernel import Float64s
from decalog.features.offline import fold_admissible
from decalog.features.skew import Why, explain
from decalog.folding import changes_of, point
from decalog.log import Log
from decalog.standing import Standing
from decalog.tables import Tables

LAST = 100_000
"""How many decisions a certificate covers if nothing else is said."""
_CHUNK = 20_000
"""Records that are read at once, from the end of the log backwards."""
_WHOLE = "the vector"


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference: which decision, which feature, what each side has.

    Args:
        decision_id, seq, state_seq, mode: which decision, and what it had seen.
        asked_at: the t of all windows, RFC 3339.
        feature: name of the first that differs, in the order of declaration.
        declaration: in words.
        logged, recomputed: value and bits.
        also: the other features of the decision that differ.
        why: what explains it.
    """

    decision_id: str
    seq: int
    state_seq: int
    mode: str
    asked_at: str
    feature: str
    declaration: str
    logged: str
    recomputed: str
    also: tuple[str, ...]
    why: Why


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found.

    Args:
        system: whose decisions.
        compared, identical: decisions.
        values, different: feature values, all and those that differ.
        differing: feature → decisions in which it differs.
        feature_sets: version → decisions.
        first: difference by seq, or None.
        skipped: reason → decisions that logged no features to compare, among those that were looked at.
        notes: where this runtime differs from the decisions' → decisions.
        records: of the log, that were folded.
        read_s, fold_s: seconds for reading, and for folding and comparing.
    """

    system: str
    compared: int
    identical: int
    values: int
    different: int
    differing: dict[str, int]
    feature_sets: dict[str, int]
    first: Skew | None
    skipped: dict[str, int] = {}
    notes: dict[str, int] = {}
    records: int = 0
    read_s: float = 0.0
    fold_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return self.identical == self.compared

    def text(self) -> str:
        """Returns the certificate for people: `100,000/100,000 identical`, and the first difference whole."""
        lines = [
            f"{self.identical:,}/{self.compared:,} identical{'' if self.compared else ': nothing was compared'}",
            f"  {'values':12} {self.values:,} compared bit for bit, {self.different:,} differ",
            *(f"  {'feature set':12} {version}: {_decisions(count)}" for version, count in self.feature_sets.items()),
            *(f"  {'skipped':12} {count:,} {reason}" for reason, count in self.skipped.items()),
            *(f"  {'note':12} {note} ({_decisions(count)})" for note, count in self.notes.items()),
            f"  {'took':12} {self.read_s:.1f} s to read {self.records:,} records, {self.fold_s:.1f} s to fold them",
            *(f"  {'differs':12} {name} in {_decisions(count)}" for name, count in self.differing.items()),
            *(skew_lines(self.first) if self.first is not None else ()),
        ]
        return "\n".join(lines)


def skew_lines(skew: Skew) -> list[str]:
    """Returns a difference for people: both values with their bits, and the rows that each side saw."""
    why = skew.why
    return [
        "first difference:",
        f"  {'decision':12} {skew.decision_id} (seq {skew.seq}, views at {skew.state_seq}, {skew.mode})",
        f"  {'asked at':12} {skew.asked_at}",
        f"  {'feature':12} {skew.declaration}",
        f"  {'logged':12} {skew.logged}",
        f"  {'recomputed':12} {skew.recomputed}",
        *([f"  {'differ too':12} {', '.join(skew.also)}"] if skew.also else []),
        f"  {'why':12} {why.said}",
        *([f"  {'':12} {why.more:,} older rows of the window are not listed"] if why.more else []),
        *(
            f"  {'row':12} seq {row.seq}, {row.kind}, happened {row.event_time}, known {row.known_time}, "
            f"seen by {row.seen}{''.join(f', {mark}' for mark in row.marks)}"
            for row in why.rows
        ),
    ]


class Asked(msgspec.Struct, frozen=True):
    """One decision, or one of its candidates: where its features were asked for, and what was logged."""

    seq: int
    decision_id: str
    mode: str
    features: str
    point: Point
    logged: bytes


class Parity:
    """Compares the features that decisions of one system logged with what the log gives offline.

    Args:
        log: read only.
        system: name.
        notes_for: decision → where this runtime differs from its.
    """

    def __init__(self, log: Log, system: str, *, notes_for: Callable[[Decision], tuple[str, ...]]) -> None:
        self._log = log
        self._system = system
        self._tables = Tables(log)
        self._notes_for = notes_for

    def last(self, count: int = LAST) -> Certificate:
        """Returns what comparing the last `count` decisions found; those without logged features do not count.

        Raises:
            ConfigError: the count is not above 0.
            ReplayError: the declarations that a decision names are gone from the log.
            DataError: the log contradicts itself; `verify` says where.
        """
        if count < 1:
            raise ConfigError(
                where="parity, last", given=f"{count}", expected="1 or more decisions", fix=f"{LAST} is the default."
            )
        started = time.monotonic()
        skipped, notes = Counter[str](), Counter[str]()
        asked = self._asked(count, skipped, notes)
        sets = {version: self._feature_set(version) for version in sorted({one.features for one in asked})}
        reads = joined(features.reads for features in sets.values())
        changes = self.changes(_horizon(asked, sets), reads=reads)
        read = time.monotonic()
        groups = [
            _Compared(version, features, changes, asked=[one for one in asked if one.features == version])
            for version, features in sets.items()
        ]
        found = _certificate(self._system, groups)
        return msgspec.structs.replace(
            found,
            skipped=dict(skipped),
            notes=dict(notes),
            records=self._log.position if asked else 0,
            read_s=read - started,
            fold_s=time.monotonic() - read,
        )

    def changes(self, horizon: int, *, reads: Reads) -> list[Change]:
        """Returns the system's changes without the images at or before a horizon, µs, which no window reaches."""
        changes: list[Change] = []
        for record in self._log.read():
            if record.system != self._system or record.reason:
                continue
            is_row = record.kind in ("event", "decision")
            if is_row and record.root == record.seq and record.event_time <= horizon:
                changes.append(Change(record.seq, record.known_time))  # the watermark goes on
                continue
            for change in changes_of(record, None, past=self._log, reads=reads):
                minus, plus = _reached(change.minus, horizon), _reached(change.plus, horizon)
                changes.append(Change(change.seq, change.known_time, minus, plus, change.table))
        return changes

    def _asked(self, count: int, skipped: Counter[str], notes: Counter[str]) -> list[Asked]:
        """Returns the last decisions that logged features, in the order of seq; counts what was skipped and noted."""
        asked: list[Asked] = []
        erased = Standing.of(self._log, self._system).erased
        for record in self._backwards():
            if len(asked) >= count:
                break
            if record.kind != "decision" or record.system != self._system or record.seq in erased:
                continue
            decision = decode_decision(record.body)
            lead = kept(decision.candidates)
            if decision.mode == "imported" or not lead:
                skipped[_why_not(decision)] += 1
                continue
            notes.update(self._notes_for(decision))
            for candidate in lead:
                at = point(decision.request, decision.state_seq, of=candidate)
                version, packed = decision.versions.features, candidate.features
                asked.append(Asked(record.seq, decision.id, decision.mode, version, at, packed))
        return asked[::-1]

    def _backwards(self) -> Iterator[Record]:
        for stop in range(self._log.position, 0, -_CHUNK):
            yield from reversed(list(self._log.read(max(0, stop - _CHUNK), stop)))

    def _feature_set(self, version: str) -> FeatureSet:
        content = self._tables.version(self._system, "features", version=version)
        if content is None:
            raise ReplayError(
                where=f"{self._system} parity",
                given=f"a decision made with features {version}, which the log holds no table of",
                expected="the declarations of every version that a decision names",
                fix="Restore the log from a backup.",
            )
        return FeatureSet.from_json(msgspec.json.encode(content))


class _Compared:
    """Decisions of one feature set, folded once and compared."""

    def __init__(
        self, version: str, features: FeatureSet, changes: Sequence[Change], *, asked: Sequence[Asked]
    ) -> None:
        self.version, self.features, self.asked = version, features, asked
        self._changes = changes
        self.different = Counter[str]()
        width = len(features.names)
        late, exact = fold_admissible(features, changes, points=[one.point for one in asked])
        self._rows = np.full((len(asked), width), np.nan)
        self._rows[~late] = exact
        fits = np.fromiter((len(one.logged) == 8 * width for one in asked), np.bool_, len(asked))
        self._whole: Bools = late | ~fits
        differs = self._differing(fits)
        self.values = len(asked) * width
        self.identical = len(asked) - int(differs.any(axis=1).sum())
        for name, count in zip(features.names, differs.sum(axis=0).tolist(), strict=True):
            self.different.update({name: count} if count else {})
        self.first = self._first(late, differs)

    def _differing(self, fits: Bools) -> Bools:
        """Returns which values differ in a bit; all of a decision's where the vectors cannot be laid side by side."""
        logged = np.full(self._rows.shape, np.nan)
        packed = b"".join(one.logged for one, fit in zip(self.asked, fits.tolist(), strict=True) if fit)
        logged[fits] = unpack_features(packed).reshape(-1, self._rows.shape[1])
        differs: Bools = (logged.view(np.uint64) != self._rows.view(np.uint64)) | self._whole[:, None]
        return differs

    def _first(self, late: Bools, differs: Bools) -> Skew | None:
        for place in np.flatnonzero(differs.any(axis=1))[:1].tolist():
            one, names = self.asked[place], np.array(self.features.names)[differs[place]].tolist()
            if self._whole[place]:
                return self._misfit(one, is_late=bool(late[place]))
            return self._skew(one, self._rows[place], names)
        return None

    def _skew(self, one: Asked, row: Float64s, names: list[str]) -> Skew:
        place = self.features.names.index(names[0])
        logged = unpack_features(one.logged).tolist()
        return Skew(
            decision_id=one.decision_id,
            seq=one.seq,
            state_seq=one.point.state_seq,
            mode=one.mode,
            asked_at=rfc3339(one.point.time),
            feature=names[0],
            declaration=str(self.features.features[place]),
            logged=_bits(logged[place]),
            recomputed=_bits(float(row[place])),
            also=tuple(names[1:]),
            why=explain(self.features, names[0], changes=self._changes, point=one.point, logged=logged),
        )

    def _misfit(self, one: Asked, *, is_late: bool) -> Skew:
        lateness = self.features.lateness
        return Skew(
            decision_id=one.decision_id,
            seq=one.seq,
            state_seq=one.point.state_seq,
            mode=one.mode,
            asked_at=rfc3339(one.point.time),
            feature=_WHOLE,
            declaration=f"{len(self.features.names)} values, asked for at most {lateness} behind the watermark",
            logged=f"{len(one.logged) // 8} values",
            recomputed="refused as too late" if is_late else f"{len(self.features.names)} values",
            also=(),
            why=Why("the online side answered what its declarations do not let it answer"),
        )


def _certificate(system: str, groups: Sequence[_Compared]) -> Certificate:
    """Returns what the groups found, without what only the reader of the log knows."""
    firsts = [group.first for group in groups if group.first is not None]
    return Certificate(
        system=system,
        compared=sum(len(group.asked) for group in groups),
        identical=sum(group.identical for group in groups),
        values=sum(group.values for group in groups),
        different=sum(group.different.total() for group in groups),
        differing=dict(sum((group.different for group in groups), Counter[str]())),
        feature_sets={group.version: len(group.asked) for group in groups},
        first=min(firsts, key=lambda skew: skew.seq, default=None),
    )


def _why_not(decision: Decision) -> str:
    without = f"without features: {decision.fallback or 'none were logged'}"
    return "imported: another system decided" if decision.mode == "imported" else without


def _horizon(asked: Sequence[Asked], sets: Mapping[str, FeatureSet]) -> int:
    """Returns the time at or before which no window of any decision reaches, µs."""
    return min((one.point.time - sets[one.features].longest_window_us for one in asked), default=2**62)


def _reached(fact: Fact | None, horizon: int) -> Fact | None:
    return fact if fact is not None and fact.event_time > horizon else None


def _decisions(count: int) -> str:
    return f"{count:,} decision{'' if count == 1 else 's'}"


def _bits(value: float) -> str:
    return f"{value!r} ({struct.pack('>d', value).hex()})"
