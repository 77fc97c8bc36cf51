"""How hot functions are compiled: by numba where it is installed; `DECALOG_NO_NUMBA=1` runs them uncompiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., object])


def numba_wanted() -> bool:
    """Returns whether the environment lets numba compile."""
    return os.environ.get("DECALOG_NO_NUMBA", "") not in ("1", "true")


def compiled(signature: str | None) -> Callable[[_F], _F]:
    """Returns what compiles a function, so that it runs without the GIL; numba is imported here, or not at all.

    Args:
        signature: of a function that Python calls: it is compiled at once (or comes from numba's cache), never inside
            a request. None for one that only compiled functions call: it is compiled into them.
    """
    if numba_wanted():
        try:
            import numba
        except ImportError:
            pass
        else:
            cached = signature is not None
            # What stands inside becomes part of its caller: else each call would count references to its arrays.
            made = numba.njit(signature, cache=cached, forceinline=not cached, nogil=True, error_model="numpy")
            return cast("Callable[[_F], _F]", made)
    return lambda function: function
