"""A daemon of a few lines that answers each frame as it is told: for answers that are broken, and
for faults of daemons that are not at hand."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
from types import TracebackType
from typing import Callable, List, NamedTuple, Optional, Type

DIM = 4
HELLO_OK = 2
SEARCH_OK = 4
STATS_OK = 6
ERROR = 7


class Request(NamedTuple):
    """A frame of the client."""

    type: int
    request_id: int
    payload: bytes


Answer = Callable[[Request], List[bytes]]


def frame(kind: int, request_id: int, payload: bytes, **header: int) -> bytes:
    """A frame; `header` replaces fields of its header."""
    fields = {
        "magic": 0x52414A4E,
        "version": 1,
        "flags": 0,
        "payload_bytes": len(payload),
        "reserved": 0,
        **header,
    }
    return (
        struct.pack(
            "<IBBHQII",
            fields["magic"],
            fields["version"],
            kind,
            fields["flags"],
            request_id,
            fields["payload_bytes"],
            fields["reserved"],
        )
        + payload
    )


def hello_ok(
    *,
    window: int = 1024,
    queries_max: int = 1024,
    features: int = 7,
    dim: int = DIM,
    frame_bytes_max: int = 16 << 20,
) -> bytes:
    """100 f32 vectors under l2."""
    limits = (frame_bytes_max, queries_max, 1024, 1024, 64, window, features)
    return struct.pack("<QQQ10I", 100, 2, 1, dim, 4, 1, *limits)


def error(status: int, text: bytes) -> bytes:
    """An ERROR payload."""
    return struct.pack("<II", status, len(text)) + text


def search_ok(request: Request) -> bytes:
    """A SEARCH_OK payload; query q finds the keys q, q + 1, ..."""
    count, k = struct.unpack_from("<II", request.payload)
    flags = struct.unpack_from("<I", request.payload, 36)[0]
    results = b"".join(struct.pack("<6I", k, 0, 1, 2, 3, 0) for _ in range(count))
    hits = (struct.pack("<QfI", q + i, float(i), 0) for q in range(count) for i in range(k))
    chosen = struct.pack("<IffIQQ", 40, 0.0, 0.5, 2, 77, 0) if flags & 4 else b""
    origin = struct.pack("<QQQ", 2, 1, 9) if flags & 2 else b""
    return struct.pack("<II", count, k) + results + b"".join(hits) + chosen + origin


def good(request: Request) -> List[bytes]:
    """What a daemon would say."""
    if request.type == 1:
        return [frame(HELLO_OK, request.request_id, hello_ok())]
    return [frame(SEARCH_OK, request.request_id, search_ok(request))]


class FakeDaemon:
    """Serves connections one after another on a thread; `answer` gives the bytes for a frame.

    An empty piece among them closes the connection.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: List[Request] = []
        self._directory = tempfile.TemporaryDirectory(prefix="nightjar-fake-")
        self.path = os.path.join(self._directory.name, "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "FakeDaemon":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        # Wakes accept(), which close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        self._directory.cleanup()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                try:
                    self._talk(peer)
                except OSError:
                    pass

    def _talk(self, peer: socket.socket) -> None:
        while True:
            header = _read(peer, 24)
            if len(header) < 24:
                return
            _, _, kind, _, request_id, size, _ = struct.unpack("<IBBHQII", header)
            request = Request(kind, request_id, _read(peer, size))
            self.requests.append(request)
            for piece in self._answer(request):
                if not piece:
                    return
                peer.sendall(piece)


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data
