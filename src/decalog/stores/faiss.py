"""The approximate index of vectors, on faiss: inverted lists around centroids, to which vectors come and go.

Recall can collapse without a sign, under filters above all: what is allowed may lie far from the query. So a search
reads on in the lists, as many again as before, until that finds next to nothing new, and small subsets are searched
exactly. Lists hold 16 bits a number, half of what there is to read; scores are those of the vectors themselves.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import faiss
import numpy as np

from decalog.stores.flat import FlatIndex, Floats, Ids, Mask, best, checked, stacked

_LEAST = 20_000  # below, reading each row costs less than a millisecond
_EXACT = 32_768  # of so many allowed, each is looked at: 2.5 ms at dim 64
_GROWTH = 2  # lists are made anew when there are so many times the vectors they were made for
_SAMPLE = 64  # vectors a list that k-means is given
_ROUNDS = 8  # of k-means
_CHUNK = 20_000
_FIRST = 8  # lists a search reads first; more where little is allowed
_NEW = 0.1  # share of new ones among the best at which it stops
_MOST = 4  # times as many as it read first it reads at most: some queries lie near nothing, and a slate waits for them


class FaissIndex:
    """A `VectorIndex` that reads some of its lists.

    Vectors lie twice: in the lists, and in rows for exact search, for overwriting and for making the lists anew. That
    happens in a thread of its own where an index that serves has grown, at once where most of it came in one call.

    Args:
        dim: of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self._flat = FlatIndex(dim)
        self._lists: Any = None
        self._made_for = 0
        # faiss allows no search while vectors come or go.
        self._lock = threading.Lock()
        self._changed: list[Ids] = []
        self._maker: threading.Thread | None = None
        self._last: tuple[Mask, Any, int] | None = None

    def __len__(self) -> int:
        return len(self._flat)

    def put(self, ids: Ids, vectors: Floats) -> None:
        """Adds or overwrites; see the port."""
        with self._lock:
            self._flat.put(ids, vectors)
            self._follow(ids)
        if self._maker is None and len(self) >= max(_LEAST, _GROWTH * self._made_for):
            maker = self._maker = threading.Thread(target=self._make, name="decalog-faiss", daemon=True)
            maker.start()
            if 2 * len(ids) >= len(self):
                maker.join()

    def remove(self, ids: Ids) -> None:
        """Takes out; see the port."""
        with self._lock:
            self._flat.remove(ids)
            self._follow(ids)

    def search(self, queries: Floats, k: int, *, allowed: Mask | None = None) -> tuple[Floats, Ids]:
        """Finds the best of those allowed; see the port."""
        checked(queries, (len(queries), self._flat.dim))
        bits, count = (None, len(self)) if allowed is None else self._packed(allowed)
        if self._lists is None or count <= _EXACT:
            return self._flat.search(queries, k, allowed=allowed)
        queries = np.ascontiguousarray(queries, np.float32)
        with self._lock:
            faiss.omp_set_num_threads(1)
            # It holds no reference to the bits: they live here until the searches are done.
            picked = None if bits is None else faiss.IDSelectorBitmap(bits)
            first = math.ceil(_FIRST * math.sqrt(max(1.0, len(self) / count)))
            found = [self._search(query[None], k, picked, first) for query in queries]
        enough = [one for one in found if one is not None]
        return stacked(enough, k) if len(enough) == len(found) else self._flat.search(queries, k, allowed=allowed)

    def vectors(self, ids: Ids) -> Floats:
        """Returns rows; see the port."""
        return self._flat.vectors(ids)

    def wait(self) -> None:
        """Waits until lists that are being made serve."""
        maker = self._maker
        if maker is not None:
            maker.join()

    def _packed(self, allowed: Mask) -> tuple[Any, int]:
        """Returns a mask as faiss reads it, and how many it allows; one request searches more than once with one."""
        last = self._last
        if last is None or last[0] is not allowed:
            last = self._last = (allowed, np.packbits(allowed, bitorder="little"), int(np.count_nonzero(allowed)))
        return last[1:]

    def _search(self, query: Floats, k: int, picked: Any, reads: int) -> tuple[Floats, Ids] | None:
        """Returns the best, or None where too few are near."""
        most = min(_MOST * reads, self._lists.nlist)
        near, lists = self._lists.quantizer.search(query, most)
        scores, ids, read = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        while read < most:
            some = slice(read, min(max(reads, 2 * read), most))
            more = self._read(query, k, picked, lists=lists[:, some], near=near[:, some])
            found, read = self._flat.vectors(more) @ query[0], some.stop
            scores, ids = best(np.concatenate([scores, found]), np.concatenate([ids, more]), k=k)
            if len(ids) == k and np.count_nonzero(found > scores[-1]) <= _NEW * k:
                break
        return (scores, ids) if len(ids) == k else None

    def _read(self, query: Floats, k: int, picked: Any, *, lists: Ids, near: Floats) -> Ids:
        """Returns the k best of those in some lists."""
        scores, ids = np.empty(k, np.float32), np.empty(k, np.int64)
        options = faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=picked)
        # By its pointers: the Python door of this call takes no selector.
        inputs = (np.ascontiguousarray(lists), np.ascontiguousarray(near))
        places = [faiss.swig_ptr(part) for part in (*inputs, scores, ids)]
        self._lists.search_preassigned_c(1, faiss.swig_ptr(query), k, *places, False, options)  # noqa: FBT003 - it knows no names
        return ids[ids >= 0]

    def _follow(self, ids: Ids) -> None:
        if self._maker is not None:
            self._changed.append(ids)
        if self._lists is not None:
            self._copy(self._lists, ids)

    def _copy(self, lists: Any, ids: Ids) -> None:
        """Makes lists hold for some ids what the rows hold."""
        faiss.omp_set_num_threads(1)
        ids = np.unique(ids)
        lists.remove_ids(ids)
        there = ids[self._flat.holds(ids)]
        if len(there):
            lists.add_with_ids(self._flat.vectors(there), there)

    def _make(self) -> None:
        with self._lock:
            self._changed = []
            ids = np.flatnonzero(self._flat.allowed(None))
        try:
            lists = self._built(ids)
            with self._lock:
                for changed in self._changed:
                    self._copy(lists, changed)
                self._lists, self._made_for = lists, len(ids)
        finally:
            self._maker = None

    def _built(self, ids: Ids) -> Any:
        """Returns lists of the rows of ids."""
        faiss.omp_set_num_threads(1)
        count = math.isqrt(len(ids))
        dim, halves = self._flat.dim, faiss.ScalarQuantizer.QT_bf16  # which has the range of float32
        centroids = faiss.IndexFlatIP(dim)
        lists = faiss.IndexIVFScalarQuantizer(centroids, dim, count, halves, faiss.METRIC_INNER_PRODUCT)
        lists.by_residual = False  # as they are, not as they differ from their centroid
        lists.cp.niter, lists.cp.max_points_per_centroid = _ROUNDS, _SAMPLE
        lists.train(self._flat.vectors(ids[:: max(1, len(ids) // (count * _SAMPLE))]))
        lists.set_direct_map_type(faiss.DirectMap.Hashtable)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            lists.add_with_ids(self._flat.vectors(part), part)
        return lists
