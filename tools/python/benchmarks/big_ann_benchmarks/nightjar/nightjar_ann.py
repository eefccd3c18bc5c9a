"""Nightjar in big-ann-benchmarks: k nearest, range and filtered searches (see ../../README.md).

The index is built from the data set's own file, kept under `index_dir` for later runs, and served
by a nightjard of its own; queries go through the client.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterator, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

import nightjar
from nightjar import files, local

if TYPE_CHECKING:

    class BaseFilterANN:
        """What the harness wants of an algorithm."""

    DATASETS: Dict[str, Any]
else:
    try:
        from benchmark.datasets import DATASETS
        from neurips23.filter.base import BaseFilterANN
    except ImportError:  # on its own, as in tests, which put their data sets here
        DATASETS = {}

        class BaseFilterANN:
            pass


RangeResult = Tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]

_METRIC_OF = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}
# Different filters go in different frames; so many of these are under way at once.
_REQUESTS = 256


class Nightjar(BaseFilterANN):
    """`index_params`: `serve` are options of nightjard, `index_dir` is where indices are kept
    (data/indices/nightjar), the others are options of nightjar-build."""

    def __init__(self, metric: str, index_params: Optional[Dict[str, Any]] = None) -> None:
        if metric not in _METRIC_OF:
            raise NotImplementedError(f"Nightjar has no distance {metric}")
        self._build_options = dict(index_params or {})
        self._serve_options: Dict[str, Any] = self._build_options.pop("serve", {})
        self._index_dir: str = self._build_options.pop("index_dir", "data/indices/nightjar")
        self._build_options["metric"] = _METRIC_OF[metric]
        self._daemon: Optional[local.Daemon] = None
        self._index: Optional[nightjar.Index] = None
        self._search_options: Dict[str, Any] = {}
        self._range_cap = 1000
        self._neighbours: npt.NDArray[np.int64] = np.empty((0, 0), np.int64)
        self._range: Optional[RangeResult] = None
        self._additional: Dict[str, Any] = {}
        self._settings = "{}"

    def track(self) -> str:
        """Of 2021: an index on disk, a bounded memory."""
        return "T2"

    # --- the index ---------------------------------------------------------------------------

    def _generation(self, dataset: str) -> str:
        """The directory for a data set built with these options."""
        options = json.dumps(self._build_options, sort_keys=True).encode()
        name = f"{DATASETS[dataset]().short_name()}-{hashlib.sha256(options).hexdigest()[:12]}"
        return os.path.join(self._index_dir, name)

    def fit(self, dataset: str) -> None:
        """Builds the index, which is then served. A build that was stopped goes on."""
        generation = self._generation(dataset)
        os.makedirs(self._index_dir, exist_ok=True)
        data = DATASETS[dataset]()
        # The name tells nightjar-build what is in the file; those of the harness may not.
        base = generation + ".base" + files.suffix_of(np.dtype(data.dtype))
        options = dict(self._build_options)
        made = [base]
        if not os.path.lexists(base):
            os.symlink(os.path.abspath(data.get_dataset_fn()), base)
        if data.search_type() == "knn_filtered":
            options["attributes"] = generation + ".csv"
            # Rewritten it would be another file, with which no build goes on.
            if not os.path.exists(options["attributes"]):
                write_tags(options["attributes"], data.get_dataset_metadata())
            made.append(options["attributes"])
        if not os.path.exists(os.path.join(generation, "manifest.json")):
            local.build(base, generation, **options)
        for path in made:
            os.unlink(path)
        self._serve(generation)

    def load_index(self, dataset: str) -> bool:
        """Serves an index that was built before; False if there is none."""
        generation = self._generation(dataset)
        if not os.path.exists(os.path.join(generation, "manifest.json")):
            return False
        self._serve(generation)
        return True

    def index_files_to_store(self, dataset: str) -> Tuple[str, str, List[str]]:
        """Directory, prefix and names of the index's files."""
        generation = self._generation(dataset)
        return generation, "", sorted(os.listdir(generation))

    def _serve(self, generation: str) -> None:
        self.done()
        self._daemon = local.Daemon(index=generation, **self._serve_options)
        self._index = self._daemon.connect()

    # --- queries -----------------------------------------------------------------------------

    def set_query_arguments(self, query_args: Dict[str, Any]) -> None:
        """`search_list`, `search_ratio`, or `recall`; `range_cap`: most hits of a range query."""
        options = dict(query_args)
        self._range_cap = int(options.pop("range_cap", 1000))
        self._search_options = options
        self._settings = json.dumps(query_args, sort_keys=True)

    def _options(self, k: int) -> Dict[str, Any]:
        options = dict(self._search_options)
        if "search_list" in options:
            options["search_list"] = max(int(options["search_list"]), k)
        return options

    def _connected(self) -> nightjar.Index:
        assert self._index is not None, "fit() or load_index() comes first"
        return self._index

    def query(self, X: npt.NDArray[Any], k: int) -> None:
        """The k rows nearest to each of X."""
        result = self._connected().search(X, k, **self._options(k))
        self._neighbours = _rows_of(result)
        self._additional = {"reads": float(result.reads.mean())}

    def filtered_query(self, X: npt.NDArray[Any], filter: Any, k: int) -> None:
        """The k rows nearest to each of X that have all the tags of its row of `filter` (CSR)."""
        index, options = self._connected(), self._options(k)
        self._neighbours = np.full((len(X), k), -1, np.int64)
        reads = 0
        under_way: Deque[Tuple[npt.NDArray[np.int64], nightjar.Pending[nightjar.SearchResult]]]
        under_way = deque()

        def take() -> int:
            queries, pending = under_way.popleft()
            result = pending.result()
            self._neighbours[queries] = _rows_of(result)
            return int(result.reads.sum())

        for text, queries in _groups(filter):
            rows = np.ascontiguousarray(X[queries])
            under_way.append((queries, index.submit(rows, k, filter=text, **options)))
            if len(under_way) == _REQUESTS:
                reads += take()
        while under_way:
            reads += take()
        self._additional = {"reads": reads / max(1, len(X))}

    def range_query(self, X: npt.NDArray[Any], radius: float) -> None:
        """All rows within `radius` (squared, where distances are l2) of each of X."""
        index = self._connected()
        k = min(self._range_cap, index.info.k_max, index.info.vector_count)
        result = index.search(X, k, radius=radius, **self._options(k))
        limits = np.zeros(len(result) + 1, np.int64)
        np.cumsum(result.counts, out=limits[1:])
        mask = result.valid
        self._range = limits, result.distances[mask], result.keys[mask].astype(np.int64)
        self._additional = {
            "reads": float(result.reads.mean()),
            "truncated": int(result.truncated.sum()),
        }

    def get_results(self) -> npt.NDArray[np.int64]:
        """(queries, k) rows; -1 where there are fewer."""
        return self._neighbours

    def get_range_results(self) -> RangeResult:
        """lims, D, I: query q has D[lims[q]:lims[q + 1]] and I[...]."""
        assert self._range is not None, "range_query() comes first"
        return self._range

    def get_additional(self) -> Dict[str, Any]:
        """What is stored beside the times: of the last queries."""
        return self._additional

    def get_memory_usage(self) -> float:
        """KiB of the daemon."""
        return self._daemon.resident_bytes() / 1024 if self._daemon is not None else 0.0

    def done(self) -> None:
        """Ends the daemon; the index is kept. May be repeated."""
        if self._index is not None:
            self._index.close()
        if self._daemon is not None:
            self._daemon.stop()
        self._index = self._daemon = None

    def __str__(self) -> str:
        return f"Nightjar({self._settings}, {self._build_options})"


def _rows_of(result: nightjar.SearchResult) -> npt.NDArray[np.int64]:
    return np.where(result.valid, result.keys.astype(np.int64), -1)


def _tags_of_rows(matrix: Any) -> Iterator[npt.NDArray[np.int64]]:
    """The columns that are set in each row of a CSR matrix."""
    indptr, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    return (indices[indptr[row] : indptr[row + 1]] for row in range(len(indptr) - 1))


def write_tags(path: str, matrix: Any) -> None:
    """The rows of a CSR matrix as attributes: column 17 is the label t17 of the column tags."""
    with files.replacing(path) as name, open(name, "w", encoding="ascii", newline="\n") as out:
        out.write("tags:labels\n")
        for tags in _tags_of_rows(matrix):
            # An empty line is a row without tags.
            out.write("|".join(f"t{tag}" for tag in tags) + "\n")


def _groups(matrix: Any) -> Iterator[Tuple[Optional[str], npt.NDArray[np.int64]]]:
    """The filters that rows of a CSR matrix stand for, each with the rows that have it."""
    rows: Dict[Tuple[int, ...], List[int]] = {}
    for row, tags in enumerate(_tags_of_rows(matrix)):
        rows.setdefault(tuple(sorted(int(tag) for tag in tags)), []).append(row)
    for wanted, queries in rows.items():
        labels = ", ".join(f'"t{tag}"' for tag in wanted)
        yield (f"tags all ({labels})" if wanted else None), np.array(queries, np.int64)
