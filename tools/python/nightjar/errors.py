"""What can go wrong, as exception classes.

A message is one line: the daemon's own where it sent one.

Wrong arguments that are noticed before anything is sent are plain ValueErrors and TypeErrors.
"""

from __future__ import annotations

from typing import Dict, Type


class NightjarError(Exception):
    """Every failure of a request or a connection."""


class InvalidRequest(NightjarError, ValueError):
    """The request is well formed and wrong: k, search list, filter, a NaN, ..."""


class ProtocolError(NightjarError):
    """One side sent bytes that break the protocol; after the daemon did, all is closed."""


class DaemonError(NightjarError):
    """The daemon failed: an I/O error, out of memory, or what this client does not know."""


class NotFound(NightjarError, LookupError):
    """What the request names does not exist."""


class Unsupported(NightjarError):
    """The daemon is too old, or what it serves lacks what was asked for."""


class Busy(NightjarError):
    """The daemon has too much to do, or all its connections are taken: try again later."""


class Timeout(NightjarError, TimeoutError):
    """A query was not done within its `timeout`; the connection goes on."""


class Cancelled(NightjarError):
    """The daemon is stopping."""


class Denied(NightjarError, PermissionError):
    """This user may not connect, or may not ask for this."""


class GenerationChanged(NightjarError):
    """The index was replaced between two pages, which therefore do not belong together."""


class ConnectionLost(NightjarError, ConnectionError):
    """There is no daemon at the other end, or no longer, or it was silent for too long.

    An index whose connection is lost stays so: connect again.
    """


# The statuses of query/PROTOCOL.md.
_BY_STATUS: Dict[int, Type[NightjarError]] = {
    1: InvalidRequest,
    2: ProtocolError,
    3: DaemonError,
    4: DaemonError,
    5: NotFound,
    6: DaemonError,
    7: Unsupported,
    8: Busy,
    9: Timeout,
    10: Cancelled,
    11: Denied,
}


def error_of(status: int, message: str) -> NightjarError:
    """The exception for an ERROR frame; an unknown status is a DaemonError."""
    return _BY_STATUS.get(status, DaemonError)(message)
