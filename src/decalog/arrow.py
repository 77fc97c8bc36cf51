"""Frames of other libraries: all that they share with us is the Arrow C stream."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ArrowStream(Protocol):
    """A frame that speaks the Arrow PyCapsule interface, as those of polars, pyarrow, pandas 3 and DuckDB do."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Returns a capsule of an Arrow C stream."""


class StreamOnly:
    """Shows DuckDB only the stream: given a polars frame itself, it would go through pyarrow."""

    def __init__(self, source: ArrowStream) -> None:
        self._source = source

    def __arrow_c_stream__(self, requested_schema: Any = None) -> object:
        """Returns the frame's own stream."""
        return self._source.__arrow_c_stream__(requested_schema)
