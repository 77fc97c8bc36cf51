"""Gorse's labels as the words of a post or a reader, and back: what was written is what is read.

A list's labels are words; of an object each value is one, `key=value`. Some keys are fields of ours (`author`,
`language`): they go there. Categories behind the first are words that begin with `#`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from decalog.errors import RequestError

Json = dict[str, Any]

ITEM_FIELDS: Mapping[str, type] = {"author": str, "language": str, "regions": list, "is_mature": bool}
USER_FIELDS: Mapping[str, type] = {"region": str, "language": str, "is_adult": bool}

_SPECIAL = re.compile(r"[\s%=#\[\]{}]")
_EMPTY, _NO_LABEL, _NO_KEY = "%", "[]", "{}"


def fields_of(labels: Any, *, fields: Mapping[str, type], words: str, categories: Sequence[str] = ()) -> Json:
    """Returns the fields that say what labels say.

    Args:
        labels: as they were sent.
        fields: key → type of those that are fields of ours.
        words: name of the field that takes all others.
        categories: those behind the first.

    Raises:
        RequestError: the labels are neither a list of texts nor an object.
    """
    own = _own(labels, fields) if isinstance(labels, dict) else {}
    said = _words_of_object(labels, own) if isinstance(labels, dict) else _words_of_list(labels)
    said += ["#" + _coded(category) for category in categories]
    told = {name: " ".join(value) if isinstance(value, list) else value for name, value in own.items()}
    return {**told, words: " ".join(said)} if said else told


def _own(labels: Json, fields: Mapping[str, type]) -> Json:
    return {name: value for name, value in labels.items() if _is_field(value, fields.get(name))}


def _words_of_object(labels: Json, own: Json) -> list[str]:
    said = [word for name, value in labels.items() if name not in own for word in _words(name, value)]
    return said or ([] if own else [_NO_KEY])


def _words_of_list(labels: Any) -> list[str]:
    if labels is None:
        return []
    if not _is_texts(labels):
        raise RequestError(
            where="body, Labels",
            given="labels of another kind",
            expected="a list of texts, or an object",
            fix="Send numbers as the values of an object.",
        )
    return [_coded(label) for label in labels] or [_NO_LABEL]


def labels_of(said: Mapping[str, Any], *, fields: Mapping[str, type], words: str) -> tuple[Any, list[str]]:
    """Returns the labels and the categories behind the first that `fields_of` made fields of."""
    text = str(said.get(words, ""))
    every = text.split(" ") if text else []
    more = [_plain(word[1:]) for word in every if word.startswith("#")]
    listed = [word for word in every if not word.startswith("#")]
    found = {name: value.split(" ") if kind is list else value for name, value, kind in _present(said, fields)}
    if found or _NO_KEY in listed or "=" in text:
        for word in listed:
            _add(found, word)
        return found, more
    return _labels(listed), more


def _present(said: Mapping[str, Any], fields: Mapping[str, type]) -> list[tuple[str, Any, type]]:
    return [(name, said[name], kind) for name, kind in fields.items() if name in said]


def _labels(listed: Sequence[str]) -> list[str] | None:
    return [_plain(word) for word in listed if word != _NO_LABEL] if listed else None


def _add(found: Json, word: str) -> None:
    """Adds a word of an object to it."""
    key, is_pair, value = word.partition("=")
    if key.endswith("{}") and is_pair:
        found[_plain(key[:-2])] = msgspec.json.decode(_plain(value))
    elif key.endswith("[]") and is_pair:
        found.setdefault(_plain(key[:-2]), []).append(_plain(value))
    elif is_pair:
        found[_plain(key)] = _plain(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_field(value: Any, kind: type | None) -> bool:
    if kind is list:
        return _is_texts(value) and all(one and not _SPECIAL.search(one) for one in value) and bool(value)
    return kind is not None and isinstance(value, kind) and value != ""


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [f"{_coded(name)}={_coded(value)}"]
    if value and _is_texts(value):
        return [f"{_coded(name)}[]={_coded(one)}" for one in value]
    return [f"{_coded(name)}{{}}={_coded(msgspec.json.encode(value).decode())}"]


def _coded(text: str) -> str:
    return _SPECIAL.sub(lambda found: quote(found[0], safe=""), text) or _EMPTY


def _plain(word: str) -> str:
    return "" if word == _EMPTY else unquote(word)
