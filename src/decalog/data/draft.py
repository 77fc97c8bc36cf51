"""A drafted mapping: guesses by the names and the looks of columns, with every doubt written down beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import msgspec

from decalog.data.mapping import signal_name
from decalog.data.sketch import Sketch, Survey
from decalog.data.words import NEGATIVE, POSITIVE, action, called, match, plain
from decalog.money import EXPONENTS
from decalog.schema import OutcomeKind, Schema

_EPOCH_S = (300_000_000, 4_000_000_000)
_EPOCH_MS = (300_000_000_000, 4_000_000_000_000)
_NUMBERS = ("integer", "number")
_DECIDE = "DECIDE"
_ANSWERS = ("fraud", "chargeback", "chargedback", "dispute", "label", "outcome")


class Draft(msgspec.Struct, frozen=True):
    """A drafted mapping.

    Args:
        toml: the mapping.
        roles: column → what it is mapped to, in words.
        decide: what only the user can decide.
        mapped: schema names that have a column.
    """

    toml: str
    roles: dict[str, str]
    decide: tuple[str, ...]
    mapped: tuple[str, ...]


def draft(survey: Survey, schema: Schema, *, name: str) -> Draft:
    """Returns a mapping drafted from what the columns look like.

    Args:
        survey: of the data.
        schema: to map to.
        name: of the data, whose stem leads the ids where the data has none.
    """
    writer = _Writer(survey, schema, name=name)
    writer.write()
    return Draft("\n".join(writer.lines) + "\n", writer.roles, tuple(writer.decide), tuple(writer.mapped))


def quote(text: str) -> str:
    r"""Returns a text as a basic string of TOML.

    >>> print(quote('say "hi"'))
    "say \"hi\""
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def printable(text: str) -> str:
    """Returns a text without what would end a line or move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


class _Writer:
    def __init__(self, survey: Survey, schema: Schema, *, name: str) -> None:
        self._schema = schema
        self._name = name
        self._columns = {sketch.name: sketch for sketch in survey.sketches}
        self.lines: list[str] = []
        self.roles: dict[str, str] = {}
        self.decide: list[str] = []
        self.mapped: list[str] = []

    def write(self) -> None:
        label = self._pick("label", "the label")
        self._line(f"system = {quote(self._schema.system)}")
        self._line(
            "max_bad_share = 0.05  # share of broken rows above which an import fails; the rest go to quarantine"
        )
        self._write_file()
        self._line("", "[request]")
        self._write_id()
        self._write_times()
        for field in self._schema.request.fields:
            if field.kind == "amount_minor":
                self._write_amount(field.name, required=field.required)
        self._write_fields()
        self._write_taken()
        self._write_outcome(label)
        self._write_signals()
        left = [column for column in self._columns if column not in self.roles]
        if left:
            self._line("", f"# Not mapped: {', '.join(quote(column) for column in left)}")

    def _line(self, *lines: str) -> None:
        self.lines.extend(lines)

    def _doubt(self, words: str) -> str:
        words = printable(words)
        self.decide.append(words)
        return f"  # {_DECIDE}: {words}"

    def _pick(self, name: str, role: str, kinds: Sequence[str] = ()) -> Sketch | None:
        """Returns the likeliest column of a role that is still free, and notes where others would do as well."""
        free = [column for column in self._columns if column not in self.roles]
        found = [column for column in match(name, free) if not kinds or self._columns[column].kind in kinds]
        if not found:
            return None
        if len(found) > 1:
            others = ", ".join(found[1:])
            self._doubt(f"{role}: column {found[0]} was taken; {others} might be meant as well")
        self.roles[found[0]] = role
        return self._columns[found[0]]

    def _write_file(self) -> None:
        naive = [s for s in self._columns.values() if s.kind == "time" and not s.has_offset]
        commas = [s for s in self._columns.values() if s.decimal_comma]
        if naive or commas:
            self._line("", "[file]")
        if naive:
            words = f"times such as those of {naive[0].name} have no offset; name the zone they were written in"
            self._line(f'timezone = "UTC"{self._doubt(words)}')
        if commas:
            self._line('decimal = ","')

    def _write_id(self) -> None:
        sketch = self._pick("id", "the key of a row")
        if sketch is not None and not sketch.missing:
            self._line(f"id = {{ column = {quote(sketch.name)} }}")
            return
        if sketch is not None:
            del self.roles[sketch.name]
        prefix = quote(f"{self._name.rpartition('.')[0] or self._name}-")
        words = "no column holds a key for every row, so rows are numbered: the file must not be reordered later"
        self._line(f"id = {{ row_number = true, prefix = {prefix} }}{self._doubt(words)}")

    def _write_times(self) -> None:
        sketch = self._pick("event_time", "when it happened", ("time", *_NUMBERS))
        sketch = sketch or self._first_of("time", "when it happened")
        if sketch is None:
            self._line(
                f'# event_time = {{ column = "…" }}{self._doubt("no column looks like the time of the request")}'
            )
        else:
            self._line(f"event_time = {self._time(sketch)}")
        known = self._pick("known_time", "when it was known", ("time",))
        if known is None:
            self._line('delay = "0s"  # a request is known when it happens')
        else:
            self._line(f"known_time = {self._time(known)}")

    def _first_of(self, kind: str, role: str) -> Sketch | None:
        taken = {*called("label_time"), *called("known_time")}
        for sketch in self._columns.values():
            if sketch.kind == kind and sketch.name not in self.roles and plain(sketch.name) not in taken:
                self.roles[sketch.name] = role
                return sketch
        return None

    def _time(self, sketch: Sketch) -> str:
        column = quote(sketch.name)
        if sketch.kind == "time" or sketch.least is None or sketch.most is None:
            return f"{{ column = {column} }}"
        for unit, (least, most) in (("s", _EPOCH_S), ("ms", _EPOCH_MS)):
            if least <= sketch.least and sketch.most <= most:
                return f'{{ column = {column}, unit = "{unit}" }}'
        words = f"{sketch.name} counts from a start that the file does not tell; state the start and check the unit"
        return f'{{ column = {column}, unit = "s", since = "2020-01-01T00:00:00Z" }}{self._doubt(words)}'

    def _write_amount(self, name: str, *, required: bool) -> None:
        key = name.removesuffix("_minor")
        sketch = self._pick(key, "the amount", _NUMBERS)
        if sketch is None:
            if required:
                self._line(f'# {key} = {{ column = "…" }}{self._doubt(f"no column looks like the {key}")}')
            return
        self.mapped += [name, "currency"]
        says_minor = any(word in plain(sketch.name) for word in ("minor", "cent"))
        unit, doubt = ("minor" if says_minor and not sketch.has_fraction else "major"), ""
        if unit == "major" and not sketch.has_fraction:
            doubt = self._doubt(
                f"{sketch.name} holds whole numbers only: major units (12 = 12.00) or minor (12 = 0.12)?"
            )
        of, unsure = self._currency_of(sketch)
        self._line(f'{key} = {{ column = {quote(sketch.name)}, unit = "{unit}", currency = {of} }}{doubt}{unsure}')

    def _currency_of(self, amount: Sketch) -> tuple[str, str]:
        """Returns what stands for the currency of an amount, and the doubt about it."""
        column = self._pick("currency", "the currency", ("text",))
        if column is not None:
            return f"{{ column = {quote(column.name)} }}", ""
        code = next((code for code in EXPONENTS if plain(amount.name) == f"amount{code.lower()}"), "")
        doubt = "" if code else self._doubt("no column holds the currency; state the one of all amounts")
        return quote(code or "EUR"), doubt

    def _write_fields(self) -> None:
        kind = self._schema.request
        fields = {f.name: f.privacy for f in kind.fields if f.kind not in ("amount_minor", "currency")}
        for name, privacy in {**{e.name: e.privacy for e in kind.entities}, **fields}.items():
            sketch = self._pick(name, name) or self._alike(name)
            if sketch is None:
                continue
            self.mapped.append(name)
            note = "" if privacy == "public" else f"  # {privacy}: stored sealed, never shown"
            note = self._choice_doubt(name, sketch) or note
            if sketch.looks == "card number":
                note = self._doubt(f"{sketch.name} looks like full card numbers; keep them out: map a token or a hash")
            self._line(f"{name} = {{ column = {quote(sketch.name)} }}{note}")

    def _choice_doubt(self, name: str, sketch: Sketch) -> str:
        choices = next((field.choices for field in self._schema.request.fields if field.name == name), ())
        if not choices or (set(sketch.few) <= set(choices) and sketch.few):
            return ""
        words = f"add values = {{ … }} that says which of {', '.join(choices)} each value of {sketch.name} means"
        return self._doubt(f"{words}; rows with others are refused")

    def _alike(self, name: str) -> Sketch | None:
        """Returns a column whose values look like a field, whatever its name."""
        for sketch in self._columns.values():
            if sketch.looks == name and sketch.name not in self.roles:
                self.roles[sketch.name] = name
                return sketch
        return None

    def _write_taken(self) -> None:
        sketch = self._pick("taken", "the action that was taken", ("text", "flag", "integer"))
        if sketch is None:
            return
        pairs = {text: action(text, self._schema.actions) for text in sketch.few}
        known = ", ".join(f"{quote(text)} = {quote(name)}" for text, name in pairs.items() if name)
        unknown = [text for text, name in pairs.items() if not name]
        doubt = ""
        if unknown or not pairs:
            actions = ", ".join(self._schema.actions)
            doubt = self._doubt(f"say which of {actions} each value of {sketch.name} means; unknown ones are refused")
        self._line(f"taken = {{ column = {quote(sketch.name)}, values = {{ {known} }} }}{doubt}")

    def _write_outcome(self, sketch: Sketch | None) -> None:
        if sketch is None:
            doubt = self._doubt("no column looks like a label; without outcomes nothing can be trained")
            self._line("", f"# [outcomes.{self._outcome_kind('').name}]{doubt}")
            return
        kind = self._outcome_kind(sketch.name)
        self._line("", f"[outcomes.{kind.name}]  # {kind.meaning}", f"column = {quote(sketch.name)}")
        self._write_label_values(sketch)
        sources = ", ".join(kind.sources)
        doubt = self._doubt(f"who reported {sketch.name}: {sources}?") if len(kind.sources) > 1 else ""
        self._line(f"source = {quote(kind.sources[0])}{doubt}")
        known = self._pick("label_time", f"when the {kind.name} was known", ("time", *_NUMBERS))
        if known is not None:
            self._line(f"known_time = {self._time(known)}")
            return
        words = "the file does not say when labels became known; state the delay that fits your business"
        self._line(f'delay = "30d"{self._doubt(words)}')

    def _write_label_values(self, sketch: Sketch) -> None:
        said = [text for text in sketch.few if plain(text) in map(plain, POSITIVE)]
        silent = [text for text in sketch.few if plain(text) in map(plain, NEGATIVE)]
        doubt = ""
        if not said or len(said) + len(silent) < len(sketch.few):
            doubt = self._doubt(f"say which values of {sketch.name} mean yes; list those that say nothing under silent")
        self._line(f"values = {{ {', '.join(f'{quote(text)} = 1' for text in said or ['1'])} }}{doubt}")
        self._line(f"silent = [{', '.join(quote(text) for text in silent)}]")

    def _outcome_kind(self, column: str) -> OutcomeKind:
        kinds = self._schema.outcomes
        named = [kind for kind in kinds if plain(kind.name) in plain(column)]
        both = [kind for kind in kinds if set(kind.labels.values()) == {0, 1}]
        return (named or both or list(kinds))[0]

    def _write_signals(self) -> None:
        taken = {f.name for f in self._schema.request.fields} | {e.name for e in self._schema.request.entities}
        columns: list[str] = []
        for sketch in self._columns.values():
            name = signal_name(sketch.name)
            if sketch.name in self.roles or name in taken or not _measures(sketch):
                continue
            if _tells(sketch):
                words = f"{sketch.name} looks like part of the answer and was left out: a signal is known when deciding"
                self._line("", self._doubt(words).strip())
                continue
            taken.add(name)
            columns.append(sketch.name)
        if not columns:
            return
        self.roles |= dict.fromkeys(columns, "signal")
        self._line(
            "", "[signals]  # your own numbers: each becomes a feature of the model and comes with every request;"
        )
        self._line("# take out what is known only afterwards, and what merely counts time", "columns = [")
        self._line(*_wrapped(columns), "]")


def _measures(sketch: Sketch) -> bool:
    """Returns whether a column holds measures: whole numbers that name things would mislead a model."""
    name = plain(sketch.name)
    ends = ("id", "number", "num", "zip", "phone", "postcode")
    is_key = sketch.kind == "integer" and (name.endswith(ends) or name.startswith(("id", "unnamed")))
    return bool(name) and sketch.kind in _NUMBERS and not sketch.looks and not is_key


def _tells(sketch: Sketch) -> bool:
    return any(word in plain(sketch.name) for word in _ANSWERS)


def _wrapped(columns: Iterable[str]) -> list[str]:
    lines, line = [], " "
    for text in (f"{quote(column)}," for column in columns):
        if len(line) + len(text) > 110:  # noqa: PLR2004  # a line's width
            lines.append(line)
            line = " "
        line += f" {text}"
    return [*lines, line]
