"""The one tree of errors; every leaf is also a builtin, so callers may catch either.

DecalogError
├── ConfigError      (ValueError)       a setting or declaration is wrong; at start, all at once
├── DataError        (ValueError)       user data cannot be read at all; single bad rows go to quarantine instead
├── RequestError     (ValueError)       one request is wrong; the caller can mend it (4xx)
│   ├── ConflictError                   a key was used before with another body (409)
│   ├── UnknownRecordError (LookupError)  what the request names is not in the log (404)
│   └── LimitError                      body, rate or field limit exceeded (413, 429)
├── AccessError      (PermissionError)  token missing, unknown, or without the scope (401, 403)
├── LogError         (OSError)          the log cannot take or give records
│   ├── LogUnavailableError             nothing can be appended now: the only answer that is not logged (503)
│   └── CorruptLogError                 the hash chain, an index or a derived copy does not fit the records
├── StateError       (OSError)          the features' state is away, damaged or cannot be built: a fallback
│   └── LostStateError                  it is gone or older than it was: it has to be built anew
├── ModelError       (RuntimeError)     a model artefact is missing, damaged, or gives impossible values
└── ReplayError      (RuntimeError)     a decision cannot be recomputed; the message names what is missing
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DecalogError(Exception):
    """An error whose message has four parts: where, what was given, what is expected, what to do.

    Args:
        where: the place, in the caller's words (`payments.csv row 17, amount`).
        given: what stood there; never a personal or sensitive value.
        expected: what would be right, with the near match where there is one.
        fix: what to do next.
    """

    def __init__(self, *, where: str, given: str, expected: str, fix: str) -> None:
        super().__init__(f"{where}: {given}. Expected {expected}. {fix}")
        self.where = where
        self.given = given
        self.expected = expected
        self.fix = fix


class ConfigError(DecalogError, ValueError):
    """A setting, declaration or mapping is wrong."""


class DataError(DecalogError, ValueError):
    """User data cannot be read at all."""


class RequestError(DecalogError, ValueError):
    """One request is wrong and the caller can mend it."""


class ConflictError(RequestError):
    """A key was used before with another body."""


class UnknownRecordError(RequestError, LookupError):
    """What the request names is not in the log."""


class LimitError(RequestError):
    """A body, rate or field limit is exceeded."""


class AccessError(DecalogError, PermissionError):
    """A token is missing, unknown, or lacks the scope."""


class LogError(DecalogError, OSError):
    """The log cannot take or give records."""


class LogUnavailableError(LogError):
    """Nothing can be appended now; what was not acknowledged is not in the log."""


class CorruptLogError(LogError):
    """The hash chain, an index or a derived copy does not fit the records."""


class StateError(DecalogError, OSError):
    """The state of the features, kept on another server, cannot be used now."""


class LostStateError(StateError):
    """The state that is kept elsewhere is gone, older, or another's: it has to be built anew from the log."""


class ModelError(DecalogError, RuntimeError):
    """A model artefact is missing, damaged, or gives impossible values."""


class ReplayError(DecalogError, RuntimeError):
    """A decision cannot be recomputed from the log."""


_LISTED = 24
_COMPARED = 64


def near(name: str, known: Iterable[str]) -> str:
    """Returns the words `one of: a, b, c`, led by the closest match to `name` where there is one; long lists are cut.

    >>> near("ammount", ["amount", "card"])
    "'amount' (closest match), or one of: amount, card"
    >>> near("zzz", ["amount", "card"])
    'one of: amount, card'
    """
    names = sorted(known)
    # A caller may have sent megabytes, and what is compared costs by its length; no name of ours is that long.
    match = difflib.get_close_matches(name[:_COMPARED], names, n=1)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    listed = f"one of: {', '.join(names[:_LISTED])}{more}"
    return f"'{match[0]}' (closest match), or {listed}" if match else listed
