"""The bytes between client and daemon: encode and decode, no I/O.

query/PROTOCOL.md is the reference. Decoders take bytes from a peer that may be broken:
what does not add up is a ProtocolError.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest, NightjarError, ProtocolError, error_of

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = 0x52414A4E
VERSION = 1
HEADER_BYTES = 24
FRAME_BYTES_MAX = 16 << 20
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - HEADER_BYTES
FILTER_BYTES_MAX = 4096
FETCH_KEYS_MAX = 1024


class Type(enum.IntEnum):
    """Frame types."""

    HELLO = 1
    HELLO_OK = 2
    SEARCH = 3
    SEARCH_OK = 4
    STATS = 5
    STATS_OK = 6
    ERROR = 7
    EXPLAIN_OK = 8
    RELOAD = 9
    RELOAD_OK = 10
    FETCH = 11
    FETCH_OK = 12


class Feature(enum.IntFlag):
    """Parts of the protocol that came after its first release."""

    EXPLAIN = 1
    ORIGIN = 2
    EXTENDED = 4


class SearchFlag(enum.IntFlag):
    """Flags of a SEARCH."""

    EXPLAIN = 1
    ORIGIN = 2
    EXTENDED = 4


class ResultFlag(enum.IntFlag):
    """Flags of a query's result."""

    DEGRADED = 1
    TRUNCATED = 2
    UNKNOWN_KEY = 4
    LAST = 8


_HEADER = struct.Struct("<IBBHQII")
_HELLO = struct.Struct("<II")
_HELLO_OK = struct.Struct("<QQQ10I")
_SEARCH = struct.Struct("<IIIIffIIII")
_EXTENSION = struct.Struct("<IIfII44x")
_SEARCH_OK = struct.Struct("<II")
_CHOSEN = struct.Struct("<IffIQQ")
_ORIGIN = struct.Struct("<QQQ")
_ERROR = struct.Struct("<II")
_RELOAD_OK = struct.Struct("<QQII")
_FETCH = struct.Struct("<II")
_FETCH_OK = struct.Struct("<IIII")

RESULT = np.dtype(
    [
        ("hit_count", "<u4"),
        ("flags", "<u4"),
        ("reads", "<u4"),
        ("cache_hits", "<u4"),
        ("cpu_us", "<u4"),
        ("reserved", "<u4"),
    ]
)
HIT = np.dtype([("key", "<u8"), ("distance", "<f4"), ("reserved", "<u4")])
EXPLANATION = np.dtype(
    [
        ("hops", "<u4"),
        ("exact_distances", "<u4"),
        ("code_distances", "<u4"),
        ("failed_blocks", "<u4"),
        ("read_bytes", "<u8"),
        ("queue_ns", "<u8"),
        ("cpu_ns", "<u8"),
        ("total_ns", "<u8"),
    ]
)
CURSOR = np.dtype([("key", "<u8"), ("distance", "<f4"), ("rank", "<u4")])

ELEMENT_TYPES: Dict[int, Tuple[str, "np.dtype[Any]"]] = {
    1: ("u8", np.dtype("u1")),
    2: ("i8", np.dtype("i1")),
    3: ("f16", np.dtype("<f2")),
    4: ("f32", np.dtype("<f4")),
}
METRICS: Dict[int, str] = {1: "l2", 2: "ip", 3: "cosine"}
FILTER_PLANS: Dict[int, str] = {0: "none", 1: "scan", 2: "traversal", 3: "nothing"}


class Frame(NamedTuple):
    """A frame as it was received."""

    type: int
    request_id: int
    payload: memoryview


@dataclass(frozen=True)
class IndexInfo:
    """What the daemon serves and allows; fetched when connecting, and by `Index.refresh`."""

    vector_count: int
    dim: int
    element_type: str  # u8, i8, f16 or f32; of queries and of fetched vectors
    metric: str  # l2 (squared), ip (negated) or cosine (1 - cosine): smaller is nearer
    generation: str  # 32 hexadecimal digits
    frame_bytes_max: int
    queries_max: int  # in a frame: larger batches are split
    k_max: int
    search_list_max: int
    beam_width_max: int
    window: int  # queries in flight a connection
    features: Feature

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The element type as NumPy's."""
        return next(dtype for name, dtype in ELEMENT_TYPES.values() if name == self.element_type)


@dataclass(frozen=True)
class Chosen:
    """How the daemon went about a request with a recall target, a filter, a radius or keys."""

    search_list: int
    search_ratio: float
    expected_recall: float  # 0 where no target was given
    filter_plan: str  # none, scan, traversal, nothing (no vector matches)
    match_estimate: int  # vectors that match the filter; all, without one


@dataclass(frozen=True)
class Reload:
    """What the daemon serves after a reload."""

    generation: str
    name: str  # of its directory
    swapped: bool  # False: it was served already


@dataclass(frozen=True)
class SearchFrame:
    """The fixed part of a SEARCH."""

    query_count: int
    k: int
    search_list: int
    search_ratio: float
    recall_target: float
    beam_width: int
    timeout_ms: int
    element_type: int
    dim: int
    flags: SearchFlag


@dataclass(frozen=True)
class Extension:
    """What follows the fixed part with the flag extended."""

    by_key: bool = False
    radius: Optional[float] = None
    filter_text: bytes = b""
    pages: bool = False


@dataclass(frozen=True)
class SearchAnswer:
    """A SEARCH_OK or EXPLAIN_OK; the arrays are views of the payload."""

    results: npt.NDArray[np.void]  # RESULT[query_count]
    hits: npt.NDArray[np.void]  # HIT[query_count, k]
    explanations: Optional[npt.NDArray[np.void]]
    chosen: Optional[Chosen]
    generation: Optional[str]
    trace_id: Optional[int]


@dataclass(frozen=True)
class FetchAnswer:
    """A FETCH_OK; the arrays are views of the payload."""

    found: npt.NDArray[np.bool_]
    vectors: Optional[npt.NDArray[Any]]


def generation_name(low: int, high: int) -> str:
    """A generation's id as it is written everywhere."""
    return f"{high:016x}{low:016x}"


def text_of(data: Buffer) -> str:
    """Text of the daemon, whatever it is."""
    return bytes(data).decode("utf-8", "replace")


# --- what is sent --------------------------------------------------------------------------------


def header(frame_type: Type, request_id: int, payload_bytes: int) -> bytes:
    """The header of a frame."""
    return _HEADER.pack(MAGIC, VERSION, frame_type, 0, request_id, payload_bytes, 0)


def hello(features: Feature) -> bytes:
    """A HELLO payload."""
    return _HELLO.pack(features, 0)


def stats(text_format: int) -> bytes:
    """A STATS payload: 0 JSON, which also daemons take that know no formats; 1 Prometheus."""
    return _HELLO.pack(text_format, 0) if text_format else b""


def search(frame: SearchFrame, extension: Optional[Extension]) -> bytes:
    """A SEARCH payload up to its vectors or keys."""
    fixed = _SEARCH.pack(
        frame.query_count,
        frame.k,
        frame.search_list,
        frame.beam_width,
        frame.search_ratio,
        frame.recall_target,
        frame.timeout_ms,
        frame.element_type,
        frame.dim,
        frame.flags,
    )
    if extension is None:
        return fixed
    return fixed + _EXTENSION.pack(
        int(extension.by_key),
        int(extension.radius is not None),
        extension.radius if extension.radius is not None else 0.0,
        len(extension.filter_text),
        int(extension.pages),
    )


def fetch(count: int, vectors: bool) -> bytes:
    """A FETCH payload up to its keys."""
    return _FETCH.pack(count, int(vectors))


def search_request_bytes(queries_bytes: int, extension: Optional[Extension]) -> int:
    """Bytes of a SEARCH frame whose queries and cursors take `queries_bytes`."""
    fixed = HEADER_BYTES + _SEARCH.size + queries_bytes
    return fixed + (_EXTENSION.size + len(extension.filter_text) if extension is not None else 0)


def search_answer_bytes(query_count: int, k: int, flags: SearchFlag) -> int:
    """Bytes of the payload that answers such a request."""
    each = RESULT.itemsize + k * HIT.itemsize
    if flags & SearchFlag.EXPLAIN:
        each += EXPLANATION.itemsize
    tail = _CHOSEN.size if flags & SearchFlag.EXTENDED else 0
    tail += _ORIGIN.size if flags & SearchFlag.ORIGIN else 0
    return _SEARCH_OK.size + query_count * each + tail


def fetch_request_bytes(count: int) -> int:
    """Bytes of a FETCH frame."""
    return HEADER_BYTES + _FETCH.size + count * 8


def fetch_answer_bytes(count: int, vector_bytes: int) -> int:
    """Bytes of the payload that answers a FETCH; 0 vector bytes: without vectors."""
    return _FETCH_OK.size + (count + count % 2) * 4 + count * vector_bytes


# --- what is received ----------------------------------------------------------------------------


def parse_header(data: Buffer) -> Tuple[int, int, int]:
    """Type, request id and payload bytes of a frame."""
    magic, version, frame_type, flags, request_id, payload_bytes, reserved = _HEADER.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"magic 0x{magic:08x}, not 0x{MAGIC:08x}: no nightjard answers here")
    if version != VERSION:
        raise ProtocolError(f"a frame of protocol version {version}: this client knows {VERSION}")
    if flags != 0 or reserved != 0:
        raise ProtocolError(f"a frame with flags {flags}, reserved {reserved}: both must be 0")
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"a payload of {payload_bytes} bytes: at most {PAYLOAD_BYTES_MAX}")
    return frame_type, request_id, payload_bytes


def _want(payload: Buffer, wanted: int, what: str) -> None:
    if len(payload) != wanted:
        raise ProtocolError(f"{what} of {len(payload)} bytes: {wanted} are wanted")


def _want_at_least(payload: Buffer, wanted: int, what: str) -> None:
    if len(payload) < wanted:
        raise ProtocolError(f"{what} of {len(payload)} bytes: at least {wanted} are wanted")


def parse_error(payload: Buffer) -> NightjarError:
    """The exception that an ERROR stands for."""
    _want_at_least(payload, _ERROR.size, "ERROR")
    status, text_bytes = _ERROR.unpack_from(payload)
    _want(payload, _ERROR.size + text_bytes, "ERROR")
    return error_of(status, text_of(payload[_ERROR.size :]))


def parse_hello_ok(payload: Buffer) -> IndexInfo:
    """What is served."""
    _want(payload, _HELLO_OK.size, "HELLO_OK")
    count, low, high, dim, element, metric, *limits, features = _HELLO_OK.unpack(payload)
    if element not in ELEMENT_TYPES or metric not in METRICS:
        raise ProtocolError(f"HELLO_OK: element type {element}, metric {metric}: one is unknown")
    frame_bytes_max, queries_max, k_max, search_list_max, beam_width_max, window = limits
    # What is divided by, and what a frame of one query needs.
    if min(dim, queries_max, k_max, window) < 1 or frame_bytes_max < HEADER_BYTES:
        raise ProtocolError("HELLO_OK: a limit of 0")
    return IndexInfo(
        vector_count=count,
        dim=dim,
        element_type=ELEMENT_TYPES[element][0],
        metric=METRICS[metric],
        generation=generation_name(low, high),
        frame_bytes_max=min(frame_bytes_max, FRAME_BYTES_MAX),
        queries_max=queries_max,
        k_max=k_max,
        search_list_max=search_list_max,
        beam_width_max=beam_width_max,
        window=window,
        features=Feature(features & int(Feature.EXPLAIN | Feature.ORIGIN | Feature.EXTENDED)),
    )


def parse_search_ok(payload: memoryview, asked: SearchFrame) -> SearchAnswer:
    """The answer to a SEARCH, checked against what was asked."""
    count, k, flags = asked.query_count, asked.k, asked.flags
    _want(payload, search_answer_bytes(count, k, flags), "SEARCH_OK")
    answered = _SEARCH_OK.unpack_from(payload)
    if answered != (count, k):
        raise ProtocolError(
            f"SEARCH_OK of {answered[0]} queries and k {answered[1]}: asked were {count} and {k}"
        )
    at = _SEARCH_OK.size
    results = np.frombuffer(payload, RESULT, count, at)
    at += count * RESULT.itemsize
    hits = np.frombuffer(payload, HIT, count * k, at).reshape(count, k)
    at += count * k * HIT.itemsize
    if int(results["hit_count"].max()) > k:
        raise ProtocolError(f"SEARCH_OK: a query with {results['hit_count'].max()} hits of k {k}")
    explanations = None
    if flags & SearchFlag.EXPLAIN:
        explanations = np.frombuffer(payload, EXPLANATION, count, at)
        at += count * EXPLANATION.itemsize
    chosen = None
    if flags & SearchFlag.EXTENDED:
        search_list, ratio, recall, plan, estimate, _ = _CHOSEN.unpack_from(payload, at)
        chosen = Chosen(search_list, ratio, recall, FILTER_PLANS.get(plan, str(plan)), estimate)
        at += _CHOSEN.size
    generation = trace_id = None
    if flags & SearchFlag.ORIGIN:
        low, high, trace_id = _ORIGIN.unpack_from(payload, at)
        generation = generation_name(low, high)
    return SearchAnswer(results, hits, explanations, chosen, generation, trace_id)


def parse_fetch_ok(payload: memoryview, count: int, info: IndexInfo, vectors: bool) -> FetchAnswer:
    """The answer to a FETCH, checked against what was asked."""
    _want_at_least(payload, _FETCH_OK.size, "FETCH_OK")
    got_count, dim, element, flags = _FETCH_OK.unpack_from(payload)
    if (got_count, flags) != (count, int(vectors)) or element not in ELEMENT_TYPES:
        raise ProtocolError(
            f"FETCH_OK of {got_count} keys, element type {element}, flags {flags}: "
            f"asked were {count}, flags {int(vectors)}"
        )
    name, dtype = ELEMENT_TYPES[element]
    _want(payload, fetch_answer_bytes(count, dim * dtype.itemsize if vectors else 0), "FETCH_OK")
    if vectors and (dim, name) != (info.dim, info.element_type):
        raise InvalidRequest(
            f"vectors are {dim} {name} now, not {info.dim} {info.element_type}: refresh()"
        )
    found = np.frombuffer(payload, "<u4", count, _FETCH_OK.size) != 0
    if not vectors:
        return FetchAnswer(found, None)
    at = fetch_answer_bytes(count, 0)
    rows = np.frombuffer(payload, dtype, count * info.dim, at).reshape(count, info.dim)
    return FetchAnswer(found, rows)


def parse_reload_ok(payload: Buffer) -> Reload:
    """What is served after a RELOAD."""
    _want_at_least(payload, _RELOAD_OK.size, "RELOAD_OK")
    low, high, swapped, name_bytes = _RELOAD_OK.unpack_from(payload)
    _want(payload, _RELOAD_OK.size + name_bytes, "RELOAD_OK")
    return Reload(generation_name(low, high), text_of(payload[_RELOAD_OK.size :]), swapped != 0)
