"""Nightjar in ann-benchmarks: put this folder into ann_benchmarks/algorithms (see ../../README.md).

`fit` writes the vectors to a file, builds a generation with nightjar-build and serves it with a
nightjard of its own; queries go through the client, as those of any user do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import numpy.typing as npt

import nightjar
from nightjar import files, local

if TYPE_CHECKING:

    class BaseANN:
        """What the harness wants of an algorithm."""

        name: str

else:
    try:
        from ..base.module import BaseANN
    except ImportError:  # on its own, as in tests

        class BaseANN:
            pass


_METRIC_OF = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}


class Nightjar(BaseANN):
    """`serve` are options of nightjard (memory, threads, ...), the others of nightjar-build."""

    def __init__(self, metric: str, options: Optional[Dict[str, Any]] = None) -> None:
        if metric not in _METRIC_OF:
            raise NotImplementedError(f"Nightjar has no distance {metric}")
        self._build_options = dict(options or {})
        self._serve_options: Dict[str, Any] = self._build_options.pop("serve", {})
        self._build_options["metric"] = _METRIC_OF[metric]
        self._directory = ""
        self._daemon: Optional[local.Daemon] = None
        self._index: Optional[nightjar.Index] = None
        self._search_options: Dict[str, Any] = {}
        self._batch: List[npt.NDArray[np.uint64]] = []
        self._reads = 0
        self._queries = 0
        self.name = f"Nightjar({options or {}})"

    def fit(self, X: npt.NDArray[Any]) -> None:
        """Builds the index of the rows of X, and serves it."""
        self.done()
        self._directory = tempfile.mkdtemp(prefix="nightjar-ann-benchmarks-")
        rows = np.arange(len(X), dtype=np.uint64)
        if self._build_options["metric"] == "cosine":
            # A zero vector has no direction; nightjar-build refuses it.
            rows = np.flatnonzero(np.any(X, axis=1)).astype(np.uint64)
        vectors = X if len(rows) == len(X) else X[rows]
        if vectors.dtype not in (np.uint8, np.int8, np.float16):
            vectors = vectors.astype("<f4", copy=False)
        base = os.path.join(self._directory, "base" + files.suffix_of(vectors.dtype))
        keys = os.path.join(self._directory, "keys.u64bin")
        generation = os.path.join(self._directory, "generation")
        nightjar.write_vectors(base, vectors)
        nightjar.write_keys(keys, rows)
        local.build(base, generation, keys=keys, **self._build_options)
        os.unlink(base)
        self._daemon = local.Daemon(index=generation, **self._serve_options)
        self._index = self._daemon.connect()

    def set_query_arguments(self, search_list: float, search_ratio: float = 0.0) -> None:
        """Below 1, `search_list` is a recall to aim at, and the daemon chooses the rest."""
        if search_list < 1:
            self._search_options = {"recall": search_list}
        else:
            self._search_options = {"search_list": int(search_list), "search_ratio": search_ratio}
        self._reads = self._queries = 0
        settings = ", ".join(f"{name} {value}" for name, value in self._search_options.items())
        self.name = f"Nightjar({settings}, {self._build_options})"

    def _search(self, queries: npt.NDArray[Any], n: int) -> nightjar.SearchResult:
        assert self._index is not None, "fit() comes first"
        options = dict(self._search_options)
        if "search_list" in options:
            options["search_list"] = max(options["search_list"], n)
        result = self._index.search(queries, n, **options)
        self._queries += len(result)
        self._reads += int(result.reads.sum())
        return result

    def query(self, v: npt.NDArray[Any], n: int) -> npt.NDArray[np.uint64]:
        """The rows nearest to one vector."""
        return self._search(v, n).hits(0).keys

    def batch_query(self, X: npt.NDArray[Any], n: int) -> None:
        """The rows nearest to many, which the daemon answers side by side."""
        self._batch = [hits.keys for hits in self._search(X, n)]

    def get_batch_results(self) -> List[npt.NDArray[np.uint64]]:
        """Those of `batch_query`."""
        return self._batch

    def get_additional(self) -> Dict[str, Any]:
        """What is stored beside the times."""
        return {"reads": self._reads / max(1, self._queries)}

    def get_memory_usage(self) -> float:
        """KiB of the daemon."""
        return self._daemon.resident_bytes() / 1024 if self._daemon is not None else 0.0

    def done(self) -> None:
        """Ends the daemon and removes the index; may be repeated."""
        if self._index is not None:
            self._index.close()
        if self._daemon is not None:
            self._daemon.stop()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._index, self._daemon, self._directory = None, None, ""

    def __str__(self) -> str:
        return self.name
