"""Answers as arrays: one row a query, no object a hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, List, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from . import wire


class Hits(NamedTuple):
    """The hits of one query, nearest first."""

    keys: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """Where the answers to queries `first` up to `first + count` come from."""

    first: int
    count: int
    generation: Optional[str]  # None: the daemon is too old to say
    trace_id: Optional[int]  # what its log calls the request
    chosen: Optional[wire.Chosen]  # None: a plain request


@dataclass(frozen=True)
class SearchResult:
    """The answer to a batch of queries.

    Row q of `keys` and `distances` has `counts[q]` hits, nearest first, ties by lower key; what is
    beyond has key 0 and distance NaN (`valid` is the mask). Distances are by the index's metric:
    l2 squared, ip negated, cosine as 1 - cosine.
    """

    keys: npt.NDArray[np.uint64]  # (queries, k)
    distances: npt.NDArray[np.float32]  # (queries, k)
    counts: npt.NDArray[np.uint32]  # (queries,)
    flags: npt.NDArray[np.uint32]  # (queries,), of wire.ResultFlag
    reads: npt.NDArray[np.uint32]  # (queries,) blocks read from disk
    cache_hits: npt.NDArray[np.uint32]  # (queries,) blocks found in memory
    cpu_us: npt.NDArray[np.uint32]  # (queries,)
    explanations: Optional[npt.NDArray[np.void]]  # wire.EXPLANATION each, where asked for
    origins: List[Origin]  # one a frame that the batch was sent in

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[Hits]:
        return (self.hits(query) for query in range(len(self)))

    def hits(self, query: int) -> Hits:
        """The keys and distances of one query, as many as it has."""
        count = self.counts[query]
        return Hits(self.keys[query, :count], self.distances[query, :count])

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(queries, k): where there is a hit."""
        places = np.arange(self.keys.shape[1], dtype=np.uint32)
        return np.less(places, self.counts[:, np.newaxis])

    def _flag(self, flag: wire.ResultFlag) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = (self.flags & np.uint32(flag)) != 0
        return mask

    @property
    def degraded(self) -> npt.NDArray[np.bool_]:
        """(queries,): a block could not be read, the answer may miss neighbours."""
        return self._flag(wire.ResultFlag.DEGRADED)

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """(queries,): more than k vectors are, or may be, within the radius."""
        return self._flag(wire.ResultFlag.TRUNCATED)

    @property
    def unknown_key(self) -> npt.NDArray[np.bool_]:
        """(queries,): no vector has the key that was asked for."""
        return self._flag(wire.ResultFlag.UNKNOWN_KEY)

    @property
    def last(self) -> npt.NDArray[np.bool_]:
        """(queries,): of a page, that none comes after it."""
        return self._flag(wire.ResultFlag.LAST)

    @property
    def chosen(self) -> Optional[wire.Chosen]:
        """How the daemon went about it (the first frame of the batch); None for plain requests."""
        return self.origins[0].chosen if self.origins else None

    @property
    def generation(self) -> Optional[str]:
        """What answered (the first frame: a large batch may see a swap, see `origins`)."""
        return self.origins[0].generation if self.origins else None


@dataclass(frozen=True)
class FetchResult:
    """Vectors by key."""

    found: npt.NDArray[np.bool_]  # (keys,)
    vectors: npt.NDArray[Any]  # (keys, dim) of the index's element type; zeros where not found

    def __len__(self) -> int:
        return len(self.found)
