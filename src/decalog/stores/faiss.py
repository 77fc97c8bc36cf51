"""The approximate index of vectors, on faiss: inverted lists around centroids (IVFFlat), to which vectors come and go.

Recall can collapse without a sign (under filters above all), so it is never trusted: how many lists a search reads is
measured against the exact answer whenever the lists are made, and small subsets are searched exactly.
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
_RECALL = 0.98
_PROBES, _PROBED = 24, 100  # vectors that the recall is measured with, and how many each has to find


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
        self._reads = 1
        self._made_for = 0
        # faiss allows no search while vectors come or go.
        self._lock = threading.Lock()
        self._changed: list[Ids] = []
        self._maker: threading.Thread | None = None

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
        checked(queries, len(queries), self._flat.dim)
        which = None if allowed is None else self._flat.allowed(allowed)
        count = len(self) if which is None else int(np.count_nonzero(which))
        if self._lists is None or count <= _EXACT:
            return self._flat.search(queries, k, allowed=which)
        with self._lock:
            return stacked([self._search(query[None], k, which, count) for query in queries], k)

    def vectors(self, ids: Ids) -> Floats:
        """Returns rows; see the port."""
        return self._flat.vectors(ids)

    def wait(self) -> None:
        """Waits until lists that are being made serve."""
        maker = self._maker
        if maker is not None:
            maker.join()

    def _search(self, query: Floats, k: int, which: Mask | None, count: int) -> tuple[Floats, Ids]:
        """Reads so many more lists as fewer are allowed, and more again where it finds too few."""
        faiss.omp_set_num_threads(1)
        bits = None if which is None else np.packbits(which, bitorder="little")
        picked = None if bits is None else faiss.IDSelectorBitmap(bits)
        reads = math.ceil(self._reads * len(self) / count)
        while True:
            options = faiss.SearchParametersIVF(nprobe=min(reads, self._lists.nlist), sel=picked)
            scores, ids = self._lists.search(query, k, params=options)
            if ids[0, min(k, count) - 1] >= 0 or reads >= self._lists.nlist:
                found = ids[0] >= 0
                return best(scores[0, found], ids[0, found], k)
            reads *= 4

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
            lists, reads = self._built(ids)
            with self._lock:
                for changed in self._changed:
                    self._copy(lists, changed)
                self._lists, self._reads, self._made_for = lists, reads, len(ids)
        finally:
            self._maker = None

    def _built(self, ids: Ids) -> tuple[Any, int]:
        """Returns lists of the rows of ids, and how many of them a search has to read."""
        faiss.omp_set_num_threads(1)
        count = math.isqrt(len(ids))
        lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(self._flat.dim), self._flat.dim, count, faiss.METRIC_INNER_PRODUCT)
        lists.cp.niter, lists.cp.max_points_per_centroid = _ROUNDS, _SAMPLE
        lists.train(self._flat.vectors(ids[:: max(1, len(ids) // (count * _SAMPLE))]))
        lists.set_direct_map_type(faiss.DirectMap.Hashtable)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            lists.add_with_ids(self._flat.vectors(part), part)
        probes = self._flat.vectors(ids[:: max(1, len(ids) // _PROBES)][:_PROBES])
        truth = self._flat.search(probes, _PROBED)[1]
        reads = 4
        while reads < count and _recall(lists, probes, truth, reads) < _RECALL:
            reads *= 2
        return lists, min(reads, count)


def _recall(lists: Any, probes: Floats, truth: Ids, reads: int) -> float:
    """Returns the share of the true ids that a search finds which reads so many lists."""
    found = lists.search(probes, truth.shape[1], params=faiss.SearchParametersIVF(nprobe=reads))[1]
    return float(np.mean([np.isin(want, have).mean() for want, have in zip(truth, found, strict=True)]))
