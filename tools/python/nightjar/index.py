"""The index that a daemon serves, as users see it."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import numpy as np
import numpy.typing as npt

from . import wire
from .calls import FetchCall, SearchCall, SearchPlan, search_flags
from .connection import Connection, Part, Pending, Retry, SimpleCall, parts_of
from .errors import Busy, GenerationChanged, Unsupported
from .results import FetchResult, Hits, SearchResult
from .vectors import as_keys, as_vectors

T = TypeVar("T")

_ELEMENT_NUMBER = {name: number for number, (name, _) in wire.ELEMENT_TYPES.items()}
_SEARCH_LIST_LEAST = 40
_F32_MAX = float(np.finfo(np.float32).max)


class Index:
    """A connection to a daemon. One thread uses it at a time; connect once a thread and process.

    Failures are subclasses of `NightjarError`. After ConnectionLost or ProtocolError it is of no
    more use; after any other it goes on.
    """

    def __init__(self, connection: Connection) -> None:
        """For `connect`."""
        self._connection = connection
        self._info = self._hello()

    # --- the connection ----------------------------------------------------------------------

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self._info
        what = f"{info.vector_count} x {info.dim} {info.element_type}, {info.metric}"
        return f"<nightjar.Index {self._connection.path}: {what}>"

    def close(self) -> None:
        """Ends the connection; may be repeated."""
        self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether the connection was closed or lost."""
        return self._connection.closed

    @property
    def info(self) -> wire.IndexInfo:
        """What was served when the connection was made, or at the last `refresh`."""
        return self._info

    def refresh(self) -> wire.IndexInfo:
        """Asks what is served now: another generation may have another dim or type."""
        self._info = self._hello()
        return self._info

    def _hello(self) -> wire.IndexInfo:
        """Asks for the newest features first; an older daemon refuses those that it lacks."""
        every = wire.Feature.EXPLAIN | wire.Feature.ORIGIN | wire.Feature.EXTENDED
        for features in (every, wire.Feature.EXPLAIN | wire.Feature.ORIGIN):
            try:
                return self._ask(wire.Type.HELLO, wire.hello(features), wire.parse_hello_ok)
            except Unsupported:
                pass
        return self._ask(wire.Type.HELLO, wire.hello(wire.Feature(0)), wire.parse_hello_ok)

    def _ask(self, kind: wire.Type, payload: bytes, parse: Callable[[memoryview], T]) -> T:
        return self._start(kind, payload, parse).result()

    def _start(
        self, kind: wire.Type, payload: bytes, parse: Callable[[memoryview], T]
    ) -> Pending[T]:
        return self._connection.start(SimpleCall(kind, payload, parse), [Part(0, 1)])

    # --- searches ----------------------------------------------------------------------------

    def search(
        self,
        queries: Optional[npt.ArrayLike] = None,
        k: int = 10,
        *,
        keys: Optional[npt.ArrayLike] = None,
        recall: Optional[float] = None,
        search_list: Optional[int] = None,
        search_ratio: float = 0.0,
        beam_width: int = 0,
        filter: Optional[str] = None,
        radius: Optional[float] = None,
        timeout: Optional[float] = None,
        explain: bool = False,
    ) -> SearchResult:
        """The nearest neighbours of `queries`: one vector, or one in each row of a 2-D array.

        A batch of any size: it is split into frames that are under way at once.

        keys: instead of vectors, keys of vectors of the index, which are not among their own hits.
        recall: share of the true neighbours to be found, as 0.95; the daemon then chooses
            `search_list` and `search_ratio` by what the build measured; see `chosen`.
        search_list: candidates kept; more find more. Without it and `recall`: 2 k, at least 40.
        search_ratio: stop early beyond this ratio; 0: never.
        beam_width: reads in flight a query; 0: the daemon chooses.
        filter: only vectors for which it holds, as 'year >= 2015 and lang in ("de", "en")'.
        radius: only hits within this distance (by the metric: l2 squared), at most k.
        timeout: seconds; Timeout if a query of a frame is not done in time, Busy if it is clear
            beforehand that it will not be.
        explain: also tell what each query took.
        """
        return self.submit(
            queries,
            k,
            keys=keys,
            recall=recall,
            search_list=search_list,
            search_ratio=search_ratio,
            beam_width=beam_width,
            filter=filter,
            radius=radius,
            timeout=timeout,
            explain=explain,
        ).result()

    def submit(
        self,
        queries: Optional[npt.ArrayLike] = None,
        k: int = 10,
        *,
        keys: Optional[npt.ArrayLike] = None,
        recall: Optional[float] = None,
        search_list: Optional[int] = None,
        search_ratio: float = 0.0,
        beam_width: int = 0,
        filter: Optional[str] = None,
        radius: Optional[float] = None,
        timeout: Optional[float] = None,
        explain: bool = False,
    ) -> Pending[SearchResult]:
        """`search` without waiting: `result()` does. Several may be under way at once.

        The arrays must not be changed before the result is there.
        """
        extension = wire.Extension(
            by_key=keys is not None,
            radius=_radius_of(radius),
            filter_text=_filter_bytes(filter),
        )
        return self._submit(
            self._queries_of(queries, keys),
            self._frame(
                k,
                recall=recall,
                search_list=search_list,
                search_ratio=search_ratio,
                beam_width=beam_width,
                timeout=timeout,
                explain=explain,
            ),
            extension,
        )

    def pages(
        self,
        query: Optional[npt.ArrayLike] = None,
        k: int = 10,
        *,
        key: Optional[int] = None,
        recall: Optional[float] = None,
        search_list: Optional[int] = None,
        search_ratio: float = 0.0,
        filter: Optional[str] = None,
        radius: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> Generator[SearchResult, None, None]:
        """The neighbours of one vector (or key), k at a time, none of them twice.

        GenerationChanged when the index is replaced between two pages: start over then.
        Ends after the last vector (that passes `filter`, within `radius`). The arguments are
        those of `search`; a `search_list` must be at least as many as the hits of all pages
        together, and the daemon has a largest one (`info.search_list_max`).
        """
        queries = self._queries_of(query, None if key is None else [key])
        if len(queries) != 1:
            raise ValueError(f"{len(queries)} queries: pages are of one")
        extension = wire.Extension(
            by_key=key is not None,
            radius=_radius_of(radius),
            filter_text=_filter_bytes(filter),
            pages=True,
        )
        cursor = np.zeros(1, wire.CURSOR)
        generation: Optional[str] = None
        while True:
            frame = self._frame(
                k,
                rank=int(cursor["rank"][0]),
                recall=recall,
                search_list=search_list,
                search_ratio=search_ratio,
                timeout=timeout,
            )
            page = self._submit(queries, frame, extension, cursor).result()
            if generation not in (None, page.generation):
                raise GenerationChanged(f"{generation} was replaced by {page.generation} meanwhile")
            generation = page.generation
            count = int(page.counts[0])
            if count > 0:
                yield page
                cursor = cursor.copy()
                cursor["key"] = page.keys[0, count - 1]
                cursor["distance"] = page.distances[0, count - 1]
                cursor["rank"] += count
            if page.last[0] or count == 0:
                return

    def stream(
        self,
        vectors: Iterable[npt.ArrayLike],
        k: int = 10,
        *,
        batch: int = 64,
        window: int = 8,
        **options: Any,
    ) -> Generator[Hits, None, None]:
        """The hits of each vector, in their order; `vectors` may be endless.

        They are sent `batch` at a time, with up to `window` batches under way, so that the daemon
        works while results are used: so many are taken from `vectors` ahead of what is yielded.
        A daemon cuts off who leaves answers unread for long (`--stall-ms`, 30 s); for slow uses
        of results choose `batch` * `window` * k below some 5,000, which fits the socket.
        `options` are those of `search`.
        """
        for result in self.stream_batches(vectors, k, batch=batch, window=window, **options):
            yield from result

    def stream_batches(
        self,
        vectors: Iterable[npt.ArrayLike],
        k: int = 10,
        *,
        batch: int = 64,
        window: int = 8,
        **options: Any,
    ) -> Generator[SearchResult, None, None]:
        """`stream`, with the result of a whole batch at a time."""
        if batch < 1 or window < 1:
            raise ValueError(f"batch {batch}, window {window}: both are at least 1")
        under_way: Deque[Pending[SearchResult]] = deque()
        try:
            for rows in _batches(vectors, batch):
                under_way.append(self.submit(rows, k, **options))
                if len(under_way) == window:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            if not self.closed:
                for pending in under_way:
                    pending.cancel()

    # --- by key, and about the daemon --------------------------------------------------------

    def fetch(self, keys: npt.ArrayLike) -> FetchResult:
        """The vectors that have these keys."""
        return self._fetch(as_keys(keys), vectors=True).result()

    def exists(self, keys: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of these keys vectors have."""
        return self._fetch(as_keys(keys), vectors=False).result().found

    def stats(self) -> Dict[str, Any]:
        """The daemon's statistics; PROTOCOL.md names the members."""
        text = self._ask(wire.Type.STATS, wire.stats(0), wire.text_of)
        return dict(json.loads(text))

    def metrics(self) -> str:
        """The same in Prometheus' text format."""
        return self._ask(wire.Type.STATS, wire.stats(1), wire.text_of)

    def reload(self, timeout: Optional[float] = None) -> wire.Reload:
        """Has the daemon serve what is published now; only its own user and root may ask.

        The answer comes when the swap is done, minutes later for a large generation. timeout:
        seconds until the daemon is given up (ConnectionLost), which may swap all the same; the
        connection's own does not count here.
        """
        _check_timeout(timeout)
        pending = self._start(wire.Type.RELOAD, b"", wire.parse_reload_ok)
        pending.timeout = timeout
        return pending.result()

    # --- how requests are made ---------------------------------------------------------------

    def _need_extended(self, what: str) -> None:
        if not self._info.features & wire.Feature.EXTENDED:
            raise Unsupported(f"{self._connection.path}: the daemon is too old for {what}")

    def _queries_of(
        self, queries: Optional[npt.ArrayLike], keys: Optional[npt.ArrayLike]
    ) -> npt.NDArray[Any]:
        if (queries is None) == (keys is None):
            raise ValueError("either vectors or keys are wanted")
        if keys is not None:
            return as_keys(keys)
        assert queries is not None
        return as_vectors(queries, self._info.dim, self._info.dtype)

    def _frame(
        self,
        k: int,
        *,
        rank: int = 0,
        recall: Optional[float] = None,
        search_list: Optional[int] = None,
        search_ratio: float = 0.0,
        beam_width: int = 0,
        timeout: Optional[float] = None,
        explain: bool = False,
    ) -> wire.SearchFrame:
        info = self._info
        if recall is not None and (search_list is not None or search_ratio != 0):
            raise ValueError("either recall or search_list and search_ratio")
        if recall is not None and not 0 < recall < 1:
            raise ValueError(f"recall {recall}: above 0 and below 1 is wanted")
        if recall is not None:
            self._need_extended("a recall target")
        if explain and not info.features & wire.Feature.EXPLAIN:
            raise Unsupported(f"{self._connection.path}: the daemon is too old to explain")
        k = _u32("k", k, 1)
        if k > info.k_max:
            raise ValueError(f"k {k}: the daemon's largest is {info.k_max}")
        if search_list is None:
            search_list = max(_SEARCH_LIST_LEAST, 2 * (rank + k))
            search_list = 0 if recall is not None else min(search_list, info.search_list_max)
        return wire.SearchFrame(
            query_count=0,
            k=k,
            search_list=_u32("search_list", search_list, 0),
            search_ratio=_f32("search_ratio", search_ratio),
            recall_target=recall if recall is not None else 0.0,
            beam_width=_u32("beam_width", beam_width, 0),
            timeout_ms=_timeout_ms(timeout),
            element_type=_ELEMENT_NUMBER[info.element_type],
            dim=info.dim,
            flags=search_flags(info, explain, extended=recall is not None),
        )

    def _submit(
        self,
        queries: npt.NDArray[Any],
        frame: wire.SearchFrame,
        extension: wire.Extension,
        cursors: Optional[npt.NDArray[np.void]] = None,
    ) -> Pending[SearchResult]:
        extended: Optional[wire.Extension] = extension
        if extension != wire.Extension():
            self._need_extended("keys, filters, radius and pages")
            frame = _with_flag(frame, wire.SearchFlag.EXTENDED)
        elif not frame.flags & wire.SearchFlag.EXTENDED:
            extended = None
        query_bytes = queries.itemsize * math.prod(queries.shape[1:])
        query_bytes += wire.CURSOR.itemsize if cursors is not None else 0
        none, one = (wire.search_answer_bytes(n, frame.k, frame.flags) for n in (0, 1))
        count = self._items_a_frame(
            (wire.search_request_bytes(0, extended), query_bytes),
            (wire.HEADER_BYTES + none, one - none),
        )
        call = SearchCall(SearchPlan(queries, frame, extended, cursors))
        return self._connection.start(call, parts_of(len(queries), count))

    def _fetch(self, keys: npt.NDArray[np.uint64], vectors: bool) -> Pending[FetchResult]:
        self._need_extended("fetching by key")
        info = self._info
        row_bytes = info.dim * info.dtype.itemsize if vectors else 0
        count = self._items_a_frame(
            (wire.fetch_request_bytes(0), keys.itemsize),
            (wire.HEADER_BYTES + wire.fetch_answer_bytes(1, 0), 4 + row_bytes),
        )
        call = FetchCall(keys, info, vectors)
        return self._connection.start(call, parts_of(len(keys), min(count, wire.FETCH_KEYS_MAX)))

    def _items_a_frame(self, *sizes: Tuple[int, int]) -> int:
        """As many as fit request and answer, and few enough for several to be in flight.

        `sizes`: of each of the two, bytes without items and bytes of an item.
        """
        info = self._info
        fitting = ((info.frame_bytes_max - fixed) // each for fixed, each in sizes)
        return max(1, min(info.queries_max, info.window // 4, *fitting))


def connect(
    path: Union[str, "os.PathLike[str]"],
    *,
    timeout: Optional[float] = 60.0,
    busy_retries: int = 0,
    busy_backoff: float = 0.05,
) -> Index:
    """Connects to the daemon whose socket is at `path`.

    timeout: seconds without a byte from or to the daemon until it is given up (ConnectionLost), and
        for it to accept the connection; None: never. How long a query may take is `search`'s timeout.
    busy_retries: how often a request that is refused as busy is tried again before Busy is raised,
    busy_backoff: seconds before the first time, twice that before the second, ... (at most 2 s).
    """
    if busy_retries < 0 or busy_backoff < 0:
        raise ValueError("busy_retries and busy_backoff are not negative")
    _check_timeout(timeout)
    retry = Retry(busy_retries, busy_backoff)
    attempt = 0
    while True:
        connection = Connection(os.fspath(path), timeout, retry)
        try:
            return Index(connection)
        except Busy:
            # All connections are taken.
            connection.close()
            attempt += 1
            if attempt > retry.attempts:
                raise
            time.sleep(retry.delay(attempt))
        except BaseException:
            connection.close()
            raise


def _batches(vectors: Iterable[npt.ArrayLike], batch: int) -> Iterator[npt.ArrayLike]:
    if isinstance(vectors, np.ndarray):
        for first in range(0, len(vectors), batch):
            yield vectors[first : first + batch]
        return
    source = iter(vectors)
    while True:
        rows: List[npt.ArrayLike] = list(islice(source, batch))
        if not rows:
            return
        yield np.stack([np.asarray(row) for row in rows])


def _with_flag(frame: wire.SearchFrame, flag: wire.SearchFlag) -> wire.SearchFrame:
    return replace(frame, flags=frame.flags | flag)


def _u32(name: str, value: int, least: int) -> int:
    number = int(value)
    if number != value or not least <= number < 1 << 32:
        raise ValueError(f"{name} {value}: a whole number from {least} on is wanted")
    return number


def _check_timeout(timeout: Optional[float]) -> None:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout {timeout}: seconds above 0 are wanted")


def _timeout_ms(timeout: Optional[float]) -> int:
    if timeout is None:
        return 0
    if not 0 < timeout < 4e6:
        raise ValueError(f"timeout {timeout}: seconds above 0 are wanted")
    return math.ceil(timeout * 1000)


def _f32(name: str, value: float) -> float:
    number = float(value)
    if not abs(number) <= _F32_MAX:
        raise ValueError(f"{name} {value}: a finite number is wanted")
    return number


def _radius_of(radius: Optional[float]) -> Optional[float]:
    return None if radius is None else _f32("radius", radius)


def _filter_bytes(text: Optional[str]) -> bytes:
    data = (text or "").encode("utf-8")
    if len(data) > wire.FILTER_BYTES_MAX:
        raise ValueError(f"a filter of {len(data)} bytes: at most {wire.FILTER_BYTES_MAX}")
    return data
