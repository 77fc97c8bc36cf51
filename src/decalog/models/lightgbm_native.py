"""LightGBM's C interface, for scoring: its Python package costs seconds to import and 40 µs a row.

https://lightgbm.readthedocs.io/en/stable/C-API.html
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
import threading
from pathlib import Path

import numpy as np

from decalog.errors import ModelError
from decalog.models.base import Floats

_PARAMETERS = b"num_threads=1 verbosity=-1"
_RAW_SCORE, _CONTRIBUTIONS = 1, 3
_DOUBLE = 1
_ROW_MAJOR = 1


class NativeBooster:
    """A booster in LightGBM's memory; one thread, no output, freed with this object.

    Args:
        text: a model text that is known to be whole: the parser behind it trusts what it reads.

    Raises:
        ModelError: LightGBM cannot be loaded, or refuses the text.
    """

    def __init__(self, text: bytes) -> None:
        self._library, self._quick = _libraries()
        self._booster, self._row = ctypes.c_void_p(), ctypes.c_void_p()
        trees, width = ctypes.c_int(), ctypes.c_int()
        self._call("LGBM_BoosterLoadModelFromString", text, ctypes.byref(trees), ctypes.byref(self._booster))
        self._call("LGBM_BoosterGetNumFeature", self._booster, ctypes.byref(width))
        self.trees = trees.value
        self.width = width.value
        self._call(
            "LGBM_BoosterPredictForMatSingleRowFastInit",
            *(self._booster, _RAW_SCORE, 0, -1, _DOUBLE, self.width, _PARAMETERS, ctypes.byref(self._row)),
        )
        self._score_row = self._quick.LGBM_BoosterPredictForMatSingleRowFast
        # Where one row and its score lie while it is scored; whoever scores one holds the lock.
        self._one, self._score, self._length = np.empty((1, self.width)), np.empty(1), ctypes.c_int64()
        row, score = (ctypes.c_void_p(cells.ctypes.data) for cells in (self._one, self._score))
        self._places = (self._row, row, ctypes.byref(self._length), score)
        self._lock = threading.Lock()

    def scores(self, rows: Floats) -> Floats:
        """Returns the raw score of each row, bit for bit `Booster.predict(rows, raw_score=True)`.

        Args:
            rows: float64, contiguous, n × `width`; shapes are not checked here.
        """
        if len(rows) == 1:
            return self._scored(rows)
        scores = np.empty(len(rows))
        if len(rows):
            self._predict(rows, _RAW_SCORE, into=scores)
        return scores

    def _scored(self, row: Floats) -> Floats:
        with self._lock:
            self._one[:] = row
            # A handful of µs: keeping the GIL costs less than handing it to another thread and asking for it back.
            self._check(self._score_row(*self._places))
            return self._score.copy()

    def contributions(self, rows: Floats) -> Floats:
        """Returns what each feature adds to the raw score of each row, and last the score of no knowledge.

        They add up to the score: Shapley values of the trees (Lundberg, Erion and Lee, "Consistent individualized
        feature attribution for tree ensembles", 2018, algorithm 2).

        Args:
            rows: as for `scores`.
        """
        found = np.empty((len(rows), self.width + 1))
        self._predict(rows, _CONTRIBUTIONS, into=found)
        return found

    def _predict(self, rows: Floats, what: int, *, into: Floats) -> None:
        length = ctypes.c_int64()
        self._call(
            "LGBM_BoosterPredictForMat",
            *(self._booster, ctypes.c_void_p(rows.ctypes.data), _DOUBLE, len(rows), self.width, _ROW_MAJOR),
            *(what, 0, -1, _PARAMETERS, ctypes.byref(length), ctypes.c_void_p(into.ctypes.data)),
        )

    def __del__(self) -> None:
        if getattr(self, "_row", None):
            self._library.LGBM_FastConfigFree(self._row)
        if getattr(self, "_booster", None):
            self._library.LGBM_BoosterFree(self._booster)

    def _call(self, name: str, *arguments: object) -> None:
        self._check(getattr(self._library, name)(*arguments))

    def _check(self, status: int) -> None:
        if status != 0:
            message = self._library.LGBM_GetLastError().decode("utf-8", "replace")
            raise ModelError(
                where="LightGBM",
                given=message[:200],
                expected="a model text that this LightGBM reads",
                fix="Install the versions of requirements.lock, or train again.",
            )


@functools.cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    """Returns LightGBM's library twice: with the GIL released during calls, and with the GIL kept."""
    path = _library_path()
    try:
        library, quick = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
    except OSError as error:
        raise ModelError(
            where="LightGBM's library",
            given=f"it cannot be loaded ({error})",
            expected="lib_lightgbm and the OpenMP runtime it needs",
            fix="Install OpenMP: `apt-get install libgomp1` on Debian and Ubuntu, `brew install libomp` on macOS.",
        ) from None
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    # It would print to the process's output. The callback has to live as long as the library.
    library.silence = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda _message: None)  # type: ignore[attr-defined]  # kept alive
    library.LGBM_RegisterLogCallback(library.silence)
    return library, quick


def _library_path() -> Path:
    spec = importlib.util.find_spec("lightgbm")
    if spec is not None and spec.origin is not None:
        # Wheels carry the library inside the package; conda puts it beside the interpreter's.
        for folder in (Path(spec.origin).parent, Path(sys.prefix) / "lib"):
            found = sorted(
                folder.rglob("lib_lightgbm.*") if folder.name == "lightgbm" else folder.glob("lib_lightgbm.*")
            )
            if found:
                return found[0]
    raise ModelError(
        where="LightGBM's library",
        given="no lib_lightgbm in this environment",
        expected="the lightgbm package",
        fix="Install it: pip install lightgbm.",
    )
