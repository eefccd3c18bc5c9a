"""A Unix stream socket that carries frames both ways.

The daemon stops reading a connection while its window is full, and keeps only so much of what is
not read: who sends without receiving would end in a deadlock or be cut off. So the socket is
non-blocking, and every wait is for both directions at once (poll): what is to be sent goes out as
there is room, and what arrives is taken meanwhile.

After any failure, an interrupt too, nobody knows how much of a frame is under way: who uses the
channel closes it then, for good.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Deque, Iterable, List, NoReturn, Optional

from . import wire
from .errors import ConnectionLost, Denied

# As much as a Unix socket holds, more or less: what one call can take.
_READ_BYTES = 256 << 10
# sendmsg() takes 1024; a frame has three or four.
_BUFFERS_MAX = 256
# What poll() takes is an int: longer than these 24 days is for ever.
_POLL_MS_MAX = (1 << 31) - 1
# Nothing tells that there is room to connect again.
_CONNECT_AGAIN_S = 0.01


def _connect(path: str, timeout: Optional[float]) -> socket.socket:
    """BlockingIOError: as many as may wait did so for all of `timeout`, and none was accepted."""
    end = None if timeout is None else time.monotonic() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        while True:
            try:
                connection.connect(path)
                return connection
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    raise
            time.sleep(_CONNECT_AGAIN_S)
    except BaseException:
        connection.close()
        raise


class Channel:
    """A connection; used by one thread at a time."""

    def __init__(self, path: str, timeout: Optional[float]) -> None:
        """`timeout`: seconds to wait for room among those that are not yet accepted."""
        self.path = path
        self._lost: Optional[str] = None
        try:
            self._socket = _connect(path, timeout)
        except FileNotFoundError:
            raise ConnectionLost(f"{path}: no socket there: is nightjard running?") from None
        except ConnectionRefusedError:
            raise ConnectionLost(f"{path}: nobody listens there: is nightjard running?") from None
        except BlockingIOError:
            raise ConnectionLost(f"{path}: accepts nobody for {timeout:g} s") from None
        except PermissionError as error:
            raise Denied(f"{path}: {error.strerror}") from None
        except OSError as error:
            raise ConnectionLost(f"{path}: {error.strerror or error}") from error
        self._poll = select.poll()
        self._events = 0
        self._outgoing: Deque[memoryview] = deque()
        self.unsent_bytes = 0
        # What was read and is no whole frame yet: bytes in a buffer that is used again and again,
        # or a payload too long for it, which gets memory of its own.
        self._read = bytearray(_READ_BYTES)
        self._read_start = 0
        self._read_end = 0
        self._large: Optional[wire.Frame] = None
        self._large_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent or received any more."""
        return self._lost is not None

    def close(self, reason: str = "closed") -> None:
        """Closes the socket; further calls raise ConnectionLost with the first reason."""
        if self._lost is None:
            self._lost = reason
            self._outgoing.clear()
            self.unsent_bytes = 0
            self._socket.close()

    def _lose(self, reason: str, cause: Optional[BaseException] = None) -> NoReturn:
        self.close(reason)
        raise ConnectionLost(f"{self.path}: {reason}") from cause

    def put(self, buffers: Iterable[wire.Buffer]) -> None:
        """Queues a frame; `step` sends it. The buffers must stay as they are until then."""
        for buffer in buffers:
            view = memoryview(buffer)
            if view.nbytes > 0:
                self._outgoing.append(
                    view if view.ndim == 1 and view.itemsize == 1 else view.cast("B")
                )
                self.unsent_bytes += view.nbytes

    def step(self, wait: bool, timeout: Optional[float] = None) -> List[wire.Frame]:
        """Sends and receives what is possible now; returns the frames that became whole.

        With `wait`, not before something could be sent or received: ConnectionLost if that takes
        longer than `timeout` seconds.
        """
        if self._lost is not None:
            raise ConnectionLost(f"{self.path}: the connection is gone: {self._lost}")
        self._send()
        if wait and not self._ready(timeout):
            self._lose(f"silent for {timeout:g} s")
        self._send()
        return self._receive()

    def _ready(self, timeout: Optional[float]) -> bool:
        events = select.POLLIN | (select.POLLOUT if self._outgoing else 0)
        if events != self._events:
            self._poll.register(self._socket, events)
            self._events = events
        # Rounded up, lest a short rest becomes a busy loop.
        milliseconds = None
        if timeout is not None and timeout * 1000 < _POLL_MS_MAX:
            milliseconds = int(timeout * 1000) + 1
        return bool(self._poll.poll(milliseconds))

    def _send(self) -> None:
        while self._outgoing:
            buffers = [self._outgoing[i] for i in range(min(len(self._outgoing), _BUFFERS_MAX))]
            try:
                sent = self._socket.sendmsg(buffers)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # It closed its end; what it said before that is still to be read.
                self._outgoing.clear()
                self.unsent_bytes = 0
                return
            self.unsent_bytes -= sent
            while sent > 0:
                first = self._outgoing[0]
                if sent < first.nbytes:
                    self._outgoing[0] = first[sent:]
                    break
                sent -= first.nbytes
                self._outgoing.popleft()

    def _receive(self) -> List[wire.Frame]:
        frames: List[wire.Frame] = []
        while True:
            target = self._target()
            try:
                got = self._socket.recv_into(target)
            except (BlockingIOError, InterruptedError):
                return frames
            except OSError as error:
                if frames:
                    return frames
                self._lose(error.strerror or str(error), error)
            if got == 0:
                if frames:
                    return frames  # the next step finds the end again
                self._lose_at_end()
            full = got == target.nbytes
            self._take(got, frames)
            if not full:
                return frames

    def _lose_at_end(self) -> NoReturn:
        partial = self._large is not None or self._read_end > self._read_start
        self._lose("the daemon ended in the middle of a frame" if partial else "the daemon hung up")

    def _target(self) -> memoryview:
        """Where the next bytes go."""
        if self._large is not None:
            return self._large.payload[self._large_bytes :]
        if self._read_start == self._read_end:
            self._read_start = self._read_end = 0
        elif self._read_start > 0:
            rest = self._read[self._read_start : self._read_end]
            self._read[: len(rest)] = rest
            self._read_start, self._read_end = 0, len(rest)
        return memoryview(self._read)[self._read_end :]

    def _take(self, got: int, frames: List[wire.Frame]) -> None:
        """Makes frames of `got` more bytes at the target."""
        if self._large is not None:
            self._large_bytes += got
            if self._large_bytes == self._large.payload.nbytes:
                frames.append(self._large)
                self._large = None
            return
        self._read_end += got
        view = memoryview(self._read)
        while self._read_end - self._read_start >= wire.HEADER_BYTES:
            at = self._read_start + wire.HEADER_BYTES
            kind, request_id, payload_bytes = wire.parse_header(view[self._read_start : at])
            here = min(payload_bytes, self._read_end - at)
            if here < payload_bytes and wire.HEADER_BYTES + payload_bytes <= _READ_BYTES:
                return  # the rest has room here
            payload = memoryview(bytearray(payload_bytes))
            payload[:here] = view[at : at + here]
            self._read_start = at + here
            frame = wire.Frame(kind, request_id, payload)
            if here < payload_bytes:
                self._large, self._large_bytes = frame, here
                return
            frames.append(frame)
