"""What could be chosen: one by one where there are few, as columns where there are hundreds.

Five hundred posts with a dozen facts each are nine thousand objects as rows, and forty arrays as columns: retrieval
makes columns, features and policies read them, the log holds them, and a candidate is made where one is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Value = int | float | str | bool
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """Something that could be chosen.

    Args:
        ref: its name: a post, an ad, a price, the payment itself; never a person's, whose token stands in `entities`.
        source: which retriever or list it came from; several are joined by "+".
        predictions: head → calibrated value, for the ones that the policy saw.
        features: float64 little endian in the feature set's order, for up to 20 candidates; else empty.
        entities: entity name → token, of the candidate itself: its post, its author, its campaign.
        attributes: public facts that the policy saw and that no earlier record holds: a bid, a rank in each leg.
        dropped: name of the filter or rule that took it out before the choice; "" where it competed.
    """

    ref: str
    source: str = ""
    predictions: dict[str, float] = {}
    features: bytes = b""
    entities: dict[str, int] = {}
    attributes: dict[str, Value] = {}
    dropped: str = ""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One value of each candidate, from the first on; those beyond its end have none.

    Args:
        kind: numpy's name of the type of `data`: `|b1`, `|i1` to `<i8`, `<f4`, `<f8`; with `words`, `|u1` to `<u4`.
        data: the values as they lie in memory, or their places among the words.
        words: the different values, where they are texts, or of several types.
        there: one byte a value, 0 where there is none; empty where there is one everywhere.
    """

    kind: str
    data: bytes
    words: tuple[Value, ...] = ()
    there: bytes = b""

    @classmethod
    def numbers(cls, values: npt.NDArray[Any], there: Mask | None = None) -> Column:
        """Returns a column of bools, int64 or float64, in as few bytes as hold all that they are."""
        values = _narrow(values)
        return cls(values.dtype.str, values.tobytes(), (), _mask(there))

    @classmethod
    def coded(cls, codes: npt.NDArray[np.integer[Any]], words: Sequence[Value], *, there: Mask | None = None) -> Column:
        """Returns a column of places among words."""
        kind = "|u1" if len(words) <= 1 << 8 else "<u2" if len(words) <= 1 << 16 else "<u4"
        return cls(kind, codes.astype(kind).tobytes(), tuple(words), _mask(there))

    @classmethod
    def of(cls, values: Sequence[Value | None]) -> Column:
        """Returns a column of values as they are, type and all; None is none."""
        there = np.array([value is not None for value in values], np.bool_)
        numbers = _numbers(values)
        if numbers is not None:
            return cls.numbers(numbers, there)
        # 0.0 and -0.0 are two, and so are 1 and True.
        keys = [value if isinstance(value, str) else (type(value), repr(value)) for value in values]
        words = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        codes = {key: code for code, key in enumerate(words)}
        places = np.array([codes.get(key, 0) for key in keys], np.int64)
        return cls.coded(places, tuple(words.values()), there=there)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The values, or their places among the words."""
        return np.frombuffer(self.data, self.kind)

    def has(self, count: int) -> Mask:
        """Returns for each of so many candidates whether it has a value."""
        has = np.zeros(count, np.bool_)
        known = min(count, len(self.array))
        has[:known] = np.frombuffer(self.there, np.bool_)[:known] if self.there else True
        return has

    def finite(self) -> Column:
        """Returns the column without what is no finite number; itself where every number is one."""
        if self.words:
            is_odd = np.array([isinstance(word, float) and not np.isfinite(word) for word in self.words])[self.array]
        else:
            is_odd = ~np.isfinite(self.array)
        return msgspec.structs.replace(self, there=_mask(self.has(len(is_odd)) & ~is_odd)) if is_odd.any() else self

    def filled(self, count: int, absent: float) -> npt.NDArray[Any]:
        """Returns so many numbers, int64 or float64 as they are, another in the place of those that are not there."""
        values = self.array[:count]
        values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        if self.there:
            values[~self.has(len(values))] = absent
        if len(values) < count:
            values = np.concatenate([values, np.full(count - len(values), absent, values.dtype)])
        return values

    def at(self, places: npt.NDArray[np.int64]) -> list[Value | None]:
        """Returns the values of some candidates, None where there is none."""
        array = self.array
        inside = places < len(array)
        is_whole = bool(inside.all())
        known = places if is_whole else places[inside]
        found: list[Any] = array[known].tolist()
        if self.words:
            found = [self.words[code] for code in found]
        if self.there:
            there = np.frombuffer(self.there, np.bool_)[known].tolist()
            found = [value if has else None for value, has in zip(found, there, strict=True)]
        if is_whole:
            return found
        some = iter(found)
        return [next(some) if has else None for has in inside.tolist()]


class Candidates(msgspec.Struct, frozen=True, dict=True):
    """The candidates of one decision, as columns; it reads like a sequence of `Candidate`.

    Args:
        refs: their names: those that compete first, then those that were taken out.
        sources: of each.
        entities: entity name → tokens.
        attributes: name → values.
        dropped: of the last ones the name of the filter that took each out.
        heads: what is predicted of those that compete.
        predictions: candidates × heads, NaN where there is none; float32 where that loses nothing, else float64.
        kept: places of the candidates whose features are kept.
        features: of these, float64 little endian in the feature set's order, one candidate after the other.
    """

    refs: tuple[str, ...]
    sources: Column
    entities: dict[str, Column] = {}
    attributes: dict[str, Column] = {}
    dropped: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    predictions: bytes = b""
    kept: tuple[int, ...] = ()
    features: bytes = b""

    @cached_property
    def places(self) -> dict[str, int]:
        """Name → place; of two of one name the last."""
        return dict(zip(self.refs, range(len(self)), strict=True))

    @cached_property
    def _told(self) -> dict[str, tuple[Candidate, frozenset[str]]]:
        """Those that were asked for in brief, with what they have: a decision is folded, counted and told."""
        return {}

    def __len__(self) -> int:
        return len(self.refs)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.some(range(len(self))))

    def __getitem__(self, place: int) -> Candidate:
        return self.some((range(len(self))[place],))[0]

    @property
    def competing(self) -> int:
        """How many compete: the first ones."""
        return len(self.refs) - len(self.dropped)

    @property
    def rows(self) -> Floats:
        """What is predicted, (candidates, heads); no rows where nothing is."""
        count = self.competing * len(self.heads)
        kind = "<f4" if len(self.predictions) == 4 * count else "<f8"
        return np.frombuffer(self.predictions, kind).astype(np.float64).reshape(-1, max(1, len(self.heads)))

    def predicted(self, heads: Sequence[str], rows: Floats) -> Candidates:
        """Returns them with what is predicted of those that compete, (candidates, heads)."""
        return self._changed(heads=tuple(heads), predictions=_narrow(rows).tobytes())

    def described(self, kept: Sequence[int], features: bytes) -> Candidates:
        """Returns them with the features of some places."""
        return self._changed(kept=tuple(kept), features=features)

    def _changed(self, **parts: Any) -> Candidates:
        made = msgspec.structs.replace(self, **parts)
        made.__dict__["places"] = self.places
        return made

    def named(self, refs: Iterable[str], attributes: frozenset[str] | None = None) -> dict[str, Candidate]:
        """Returns those of some names, by name, in the order of the names; of two of one name the last.

        Args:
            refs: the names.
            attributes: that they have at least; a few are a third of the work or less, and made once. None for all.
        """
        places, told = self.places, self._told
        wanted = [ref for ref in dict.fromkeys(refs) if ref in places]
        if attributes is None:
            return dict(zip(wanted, self.some([places[ref] for ref in wanted]), strict=True))
        new = [ref for ref in wanted if ref not in told or not attributes <= told[ref][1]]
        made = self.some([places[ref] for ref in new], attributes) if new else ()
        told.update({ref: (one, attributes) for ref, one in zip(new, made, strict=True)})
        return {ref: told[ref][0] for ref in wanted}

    def some(self, places: Sequence[int], attributes: frozenset[str] | None = None) -> list[Candidate]:
        """Returns the candidates of some places, with some of their attributes or, with None, all."""
        at = np.array(places, np.int64)
        sources = self.sources.at(at)
        names = self.attributes.keys() if attributes is None else self.attributes.keys() & attributes
        entities = _rows({name: column.at(at) for name, column in self.entities.items()}, len(at))
        said = _rows({name: self.attributes[name].at(at) for name in names}, len(at))
        rows, width, first = self.rows, len(self.features) // max(1, len(self.kept)), self.competing
        kept = {place: self.features[width * n : width * (n + 1)] for n, place in enumerate(self.kept)}
        return [
            Candidate(
                self.refs[place],
                str(sources[n]),
                dict(zip(self.heads, rows[place].tolist(), strict=True)) if place < len(rows) else {},
                kept.get(place, b""),
                entities[n],
                said[n],
                "" if place < first else self.dropped[place - first],
            )
            for n, place in enumerate(places)
        ]


def gathered(candidates: Sequence[Candidate] | Candidates) -> Candidates:
    """Returns candidates as columns: those that compete come first, in their order; heads that one lacks are NaN.

    >>> made = gathered((Candidate("p1", "fresh", attributes={"age_s": 60}), Candidate("p2", dropped="seen")))
    >>> made.competing, made[0].attributes, made[1].dropped
    (1, {'age_s': 60}, 'seen')
    """
    if isinstance(candidates, Candidates):
        return candidates
    rows = sorted(candidates, key=lambda one: bool(one.dropped))
    told: dict[str, list[Any]] = {name: [getattr(one, name) for one in rows] for name in Candidate.__struct_fields__}
    made = Candidates(
        refs=tuple(told["ref"]),
        sources=Column.of(told["source"]),
        entities=_columns(told["entities"]),
        attributes=_columns(told["attributes"]),
        dropped=tuple(filter(None, told["dropped"])),
        kept=tuple(place for place, values in enumerate(told["features"]) if values),
        features=b"".join(told["features"]),
    )
    return made.predicted(*_table(told["predictions"][: made.competing]))


def named(
    candidates: Sequence[Candidate] | Candidates, refs: Iterable[str], *, attributes: frozenset[str] | None = None
) -> dict[str, Candidate]:
    """Returns those of some names, by name; of two of one name the last. See `Candidates.named`."""
    if isinstance(candidates, Candidates):
        return candidates.named(refs, attributes)
    wanted = set(refs)
    return {one.ref: one for one in candidates if one.ref in wanted}


def kept(candidates: Sequence[Candidate] | Candidates) -> list[Candidate]:
    """Returns those whose features are kept."""
    if isinstance(candidates, Candidates):
        return candidates.some(candidates.kept)
    return [one for one in candidates if one.features]


_NUMBERS: Mapping[type, Any] = {bool: np.bool_, int: np.int64, float: np.float64}


def _numbers(values: Sequence[Value | None]) -> npt.NDArray[Any] | None:
    """Returns values of one type of number, 0 for None; None where they are no such."""
    types = {type(value) for value in values if value is not None}
    kind = _NUMBERS.get(types.pop()) if len(types) == 1 else None
    if kind is None:
        return None
    try:
        return np.array([0 if value is None else value for value in values], kind)
    except OverflowError:  # beyond int64
        return None


def _narrow(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns numbers in the fewest bytes, 1 to 8 of ints and 4 or 8 of floats, that hold them bit for bit."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            half = values.astype("<f4")
        return half if half.astype("<f8").tobytes() == values.astype("<f8").tobytes() else values.astype("<f8")
    if values.dtype.kind != "i" or not len(values):
        return values
    low, high = int(values.min()), int(values.max())
    size = next(size for size in (1, 2, 4, 8) if -(1 << 8 * size - 1) <= low <= high < 1 << 8 * size - 1)
    return values.astype(f"<i{size}")


def _mask(there: Mask | None) -> bytes:
    return b"" if there is None or there.all() else there.tobytes()


def _table(rows: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], Floats]:
    """Returns the names of what is in any of some rows, and all values, NaN where there is none."""
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return names, np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)


def _columns(rows: Sequence[Mapping[str, Value]]) -> dict[str, Column]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: Column.of([row.get(name) for row in rows]) for name in names}


def _rows(columns: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """Returns columns as rows, without what is not there."""
    if not columns:
        return [{} for _ in range(count)]
    names = tuple(columns)
    rows = zip(*columns.values(), strict=True)
    return [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows]
