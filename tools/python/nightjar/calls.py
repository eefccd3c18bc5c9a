"""The requests that are split over frames: searches and fetches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from . import wire
from .connection import Call, Part, want_type
from .results import FetchResult, Origin, SearchResult

_FLAGS_OF_FEATURES = (
    (wire.Feature.ORIGIN, wire.SearchFlag.ORIGIN),
    (wire.Feature.EXPLAIN, wire.SearchFlag.EXPLAIN),
)


@dataclass(frozen=True)
class SearchPlan:
    """A search as it is asked for each of its frames."""

    queries: npt.NDArray[Any]  # (queries, dim) of the index's type, or (queries,) u64 keys
    frame: wire.SearchFrame  # with query_count 0
    extension: Optional[wire.Extension]
    cursors: Optional[npt.NDArray[np.void]]  # wire.CURSOR each


class SearchCall(Call[SearchResult]):
    """A batch of queries; every answer goes to its rows of the result."""

    items = "queries"

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        count, k = len(plan.queries), plan.frame.k
        self._keys = np.empty((count, k), np.uint64)
        self._distances = np.empty((count, k), np.float32)
        self._results = np.empty(count, wire.RESULT)
        self._explanations: Optional[npt.NDArray[np.void]] = None
        if plan.frame.flags & wire.SearchFlag.EXPLAIN:
            self._explanations = np.empty(count, wire.EXPLANATION)
        self._origins: List[Origin] = []

    def encode(self, part: Part) -> Tuple[wire.Type, Sequence[wire.Buffer]]:
        plan = self._plan
        rows = slice(part.first, part.first + part.count)
        head = wire.search(replace(plan.frame, query_count=part.count), plan.extension)
        buffers: List[wire.Buffer] = [head, _bytes_of(plan.queries[rows])]
        if plan.cursors is not None:
            buffers.append(_bytes_of(plan.cursors[rows]))
        if plan.extension is not None and plan.extension.filter_text:
            buffers.append(plan.extension.filter_text)
        return wire.Type.SEARCH, buffers

    def accept(self, part: Part, frame: wire.Frame) -> None:
        asked = replace(self._plan.frame, query_count=part.count)
        explained = asked.flags & wire.SearchFlag.EXPLAIN
        want_type(frame, wire.Type.EXPLAIN_OK if explained else wire.Type.SEARCH_OK)
        answer = wire.parse_search_ok(frame.payload, asked)
        rows = slice(part.first, part.first + part.count)
        self._keys[rows] = answer.hits["key"]
        self._distances[rows] = answer.hits["distance"]
        self._results[rows] = answer.results
        if self._explanations is not None:
            self._explanations[rows] = answer.explanations
        self._origins.append(
            Origin(part.first, part.count, answer.generation, answer.trace_id, answer.chosen)
        )

    def finish(self) -> SearchResult:
        counts = self._results["hit_count"].copy()
        k = self._distances.shape[1]
        short = np.flatnonzero(counts < k)
        if short.size:
            beyond = np.arange(k) >= counts[short, np.newaxis]
            self._keys[short] = np.where(beyond, np.uint64(0), self._keys[short])
            self._distances[short] = np.where(beyond, np.float32(np.nan), self._distances[short])
        return SearchResult(
            keys=self._keys,
            distances=self._distances,
            counts=counts,
            flags=self._results["flags"].copy(),
            reads=self._results["reads"].copy(),
            cache_hits=self._results["cache_hits"].copy(),
            cpu_us=self._results["cpu_us"].copy(),
            explanations=self._explanations,
            origins=sorted(self._origins, key=lambda origin: origin.first),
        )


class FetchCall(Call[FetchResult]):
    """Keys to be looked up."""

    items = "keys"

    def __init__(self, keys: npt.NDArray[np.uint64], info: wire.IndexInfo, vectors: bool) -> None:
        self._keys = keys
        self._info = info
        self._with_vectors = vectors
        self._found = np.empty(len(keys), np.bool_)
        self._vectors = np.empty((len(keys) if vectors else 0, info.dim), info.dtype)

    def encode(self, part: Part) -> Tuple[wire.Type, Sequence[wire.Buffer]]:
        keys = self._keys[part.first : part.first + part.count]
        return wire.Type.FETCH, [wire.fetch(part.count, self._with_vectors), _bytes_of(keys)]

    def accept(self, part: Part, frame: wire.Frame) -> None:
        want_type(frame, wire.Type.FETCH_OK)
        answer = wire.parse_fetch_ok(frame.payload, part.count, self._info, self._with_vectors)
        rows = slice(part.first, part.first + part.count)
        self._found[rows] = answer.found
        if self._with_vectors:
            self._vectors[rows] = answer.vectors

    def finish(self) -> FetchResult:
        return FetchResult(self._found, self._vectors)


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The memory of a contiguous array; structured ones have no memoryview of their own."""
    return memoryview(array.view(np.uint8).reshape(-1).data) if array.size else memoryview(b"")


def search_flags(info: wire.IndexInfo, explain: bool, extended: bool) -> wire.SearchFlag:
    """The flags of a search; the origin comes with it wherever the daemon can tell."""
    flags = wire.SearchFlag(0)
    for feature, flag in _FLAGS_OF_FEATURES:
        if info.features & feature and (explain or flag is not wire.SearchFlag.EXPLAIN):
            flags |= flag
    return flags | (wire.SearchFlag.EXTENDED if extended else wire.SearchFlag(0))
