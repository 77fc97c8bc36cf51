"""What states of a home and system keep on a Redis beside the one in use: given up, of another release, or replaced.

A state's mark lies under `decalog:{home:system:…}`, its rows under that, its own eight bytes, entity and token. The
mark names by these bytes whose rows it is the mark of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError

from decalog.errors import StateError

_BLOCK = 500
_ABANDONED_S = 3_600
"""A state without a mark is being written, which takes minutes; untouched for so long it was given up."""


class RedisLeftovers:
    """See `Leftovers`.

    Args:
        client: of the server.
        mark: key of the mark of the state in use.
        prefix: returns the beginning of the keys of its rows.
    """

    def __init__(self, client: Any, mark: bytes, prefix: Callable[[], bytes]) -> None:
        self._client, self._mark, self._prefix = client, mark, prefix

    def shed(self) -> None:
        """See `Leftovers.shed`."""
        with _asking():
            keys = [key for key in self._family() if key != self._mark and not key.startswith(self._prefix())]
            marks = {key: self._client.get(key) or b"" for key in keys if key.endswith(b"}")}
            # The marks first: who goes on with a state that has lost its own builds it anew.
            self._drop(marks)
            replaced = {_name(key, value) for key, value in marks.items()}
            for state, some in _by_state(key for key in keys if key not in marks).items():
                if state in replaced or self._is_given_up(state, some[0]):
                    self._drop(some)

    def kept(self) -> Iterator[bytes]:
        """See `Leftovers.kept`."""
        with _asking():
            for keys in _blocks(self._family()):
                values = self._client.mget(keys)
                yield from (key + b"\n" + (value or b"") for key, value in zip(keys, values, strict=True))

    def _family(self) -> list[bytes]:
        """Returns the keys of all states of the home and system."""
        home = b":".join(self._mark.rstrip(b"}").split(b":")[:3])  # decalog:{home:system
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", home) + b"[:}]*"
        return list(self._client.scan_iter(match=pattern, count=_BLOCK))

    def _is_given_up(self, state: bytes, key: bytes) -> bool:
        """Whether the state in use has taken the place of a state without a mark, or nobody writes it any more."""
        if state.startswith(self._mark) and _name(self._mark, self._client.get(self._mark) or b"") == self._prefix():
            return True
        idle_s = self._client.object("idletime", key)
        return idle_s is not None and idle_s >= _ABANDONED_S

    def _drop(self, keys: Iterable[bytes]) -> None:
        for some in _blocks([*keys]):
            self._client.unlink(*some)


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise StateError(
            where="what features' states left on Redis",
            given=f"a server that did not do what it was asked ({error})",
            expected="an answer in time",
            fix="Look after the server, then ask again.",
        ) from None


def _name(mark: bytes, value: bytes) -> bytes:
    """Returns the beginning of the keys of the rows that a mark is of."""
    return b"%b:%b" % (mark, value[-8:].hex().encode())


def _by_state(keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Returns keys of rows by the beginning that all rows of their state have."""
    found: dict[bytes, list[bytes]] = {}
    for key in keys:
        mark, _, rest = key.rpartition(b"}")
        state = mark + b"}" + rest[:17]  # a colon and eight bytes as hexadecimal digits
        found.setdefault(state, []).append(key)
    return found


def _blocks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + _BLOCK] for start in range(0, len(keys), _BLOCK))
