"""Client of nightjard, the daemon of Nightjar, over its Unix socket.

    import nightjar

    with nightjar.connect("/run/nightjar/search.sock") as index:
        result = index.search(queries, k=10, recall=0.95)
        result.keys, result.distances  # (queries, 10) each

One thread uses an `Index` at a time; connect once for each thread, and after a fork.
"""

from .connection import Pending
from .errors import (
    Busy,
    Cancelled,
    ConnectionLost,
    DaemonError,
    Denied,
    GenerationChanged,
    InvalidRequest,
    NightjarError,
    NotFound,
    ProtocolError,
    Timeout,
    Unsupported,
)
from .files import (
    Truth,
    read_keys,
    read_truth,
    read_vectors,
    write_keys,
    write_truth,
    write_vectors,
)
from .index import Index, connect
from .results import FetchResult, Hits, Origin, SearchResult
from .version import __version__
from .wire import Chosen, IndexInfo, Reload

__all__ = [
    "Busy",
    "Cancelled",
    "Chosen",
    "ConnectionLost",
    "DaemonError",
    "Denied",
    "FetchResult",
    "GenerationChanged",
    "Hits",
    "Index",
    "IndexInfo",
    "InvalidRequest",
    "NightjarError",
    "NotFound",
    "Origin",
    "Pending",
    "ProtocolError",
    "Reload",
    "SearchResult",
    "Timeout",
    "Truth",
    "Unsupported",
    "__version__",
    "connect",
    "read_keys",
    "read_truth",
    "read_vectors",
    "write_keys",
    "write_truth",
    "write_vectors",
]
