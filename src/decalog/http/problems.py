"""Every refusal in one form: a problem by RFC 9457 that carries the four parts of its error."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from decalog.errors import (
    AccessError,
    ConflictError,
    DataError,
    DecalogError,
    LimitError,
    LogUnavailableError,
    ReplayError,
    RequestError,
    UnknownRecordError,
)
from decalog.ingest import RowResult

Headers = tuple[tuple[bytes, bytes], ...]

CLOSE: Headers = ((b"connection", b"close"),)
RETRY: Headers = ((b"retry-after", b"1"),)

# The first class that fits gives the status; what fits none is not the caller's fault.
_STATUS: tuple[tuple[type[DecalogError], int], ...] = (
    (ConflictError, 409),
    (UnknownRecordError, 404),
    (LimitError, 413),
    (RequestError, 422),
    (DataError, 400),
    (AccessError, 401),
    (ReplayError, 409),
    (LogUnavailableError, 503),
)


class Answer(NamedTuple):
    """A whole response: status, body, and headers besides content-length; HEAD gets the same without the body."""

    status: int
    body: bytes
    headers: Headers


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem as it goes over the wire (RFC 9457, section 3); `type` is left out, which means `about:blank`.

    Args:
        title: the status in words.
        status: HTTP status.
        detail: the four parts as one sentence.
        where, given, expected, fix: as in `DecalogError`.
        results: the rows of a batch of which none was taken.
    """

    title: str
    status: int
    detail: str
    where: str
    given: str
    expected: str
    fix: str
    results: list[RowResult] = []


class Refusal(Exception):  # noqa: N818  # it is an answer, not an error
    """An answer other than success, raised on the way to it.

    Args:
        status: HTTP status.
        error: the four parts.
        headers: that belong to the status (Allow, WWW-Authenticate, Retry-After).
    """

    def __init__(self, status: int, error: DecalogError, headers: Headers = ()) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.headers = headers


PROBLEM_JSON: Headers = ((b"content-type", b"application/problem+json"),)


def problem(status: int, error: DecalogError, *, headers: Headers = (), results: Sequence[RowResult] = ()) -> Answer:
    """Returns an error as an answer, with the rows of a batch where it was one."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=str(error),
        where=error.where,
        given=error.given,
        expected=error.expected,
        fix=error.fix,
        results=list(results),
    )
    return Answer(status, msgspec.json.encode(body), PROBLEM_JSON + headers)


def answer_of(refusal: Refusal) -> Answer:
    """Returns a refusal as an answer."""
    return problem(refusal.status, refusal.error, headers=refusal.headers)


def refusal_of(error: DecalogError | Refusal) -> Refusal:
    """Returns the refusal for an error of the library, by its class."""
    if isinstance(error, Refusal):
        return error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal()
    return Refusal(status, error, RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else ())


def without_message(error: Exception) -> str:
    """Returns what an error is and where it was, for a log; not its message, which might hold what the caller sent."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    at = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"error={type(error).__name__} at={at}"


def internal() -> Refusal:
    """Returns the refusal for what nobody foresaw; nothing of the inside shows."""
    error = DecalogError(
        where="server",
        given="an error that is not your request's",
        expected="a decision",
        fix="Try again with the same id; if it stays, tell the operator the time of this answer.",
    )
    return Refusal(500, error, RETRY)
