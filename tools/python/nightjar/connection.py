"""Requests on a channel: which answer belongs to which, in whatever order they come.

A `Pending` is one call of the user's; it is sent as one or several frames, each as soon as there is
room. Several may be under way at once: waiting for one takes the answers of the others too.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Generic,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from . import wire
from .channel import Channel
from .errors import Busy, ConnectionLost, InvalidRequest, NightjarError, ProtocolError, error_of

T = TypeVar("T")

# Frames are encoded when less than this waits to be sent: enough to fill the socket again.
_UNSENT_BYTES = 512 << 10
_BACKOFF_S_MAX = 2.0


@dataclass(frozen=True)
class Part:
    """The items (queries, keys) of a call that go into one frame."""

    first: int
    count: int


def parts_of(total: int, each: int) -> List[Part]:
    """`total` items, at most `each` in a part."""
    return [Part(first, min(each, total - first)) for first in range(0, total, each)]


@dataclass(frozen=True)
class Retry:
    """What is done about BUSY: `attempts` more, after `backoff` seconds, then twice that, ..."""

    attempts: int = 0
    backoff: float = 0.05

    def delay(self, attempt: int) -> float:
        """Seconds to wait before attempt 1, 2, ...; not the same for all clients."""
        return min(self.backoff * 2.0 ** (attempt - 1), _BACKOFF_S_MAX) * random.uniform(0.5, 1.0)


class Call(Generic[T]):
    """What a `Pending` sends and makes of its answers; subclassed for each kind of request."""

    items = "items"  # what parts are made of, for messages

    def encode(self, part: Part) -> Tuple[wire.Type, Sequence[wire.Buffer]]:
        """Type and payload of a part's frame."""
        raise NotImplementedError

    def accept(self, part: Part, frame: wire.Frame) -> None:
        """Takes a part's answer, which is no ERROR.

        ProtocolError when it does not fit the request, InvalidRequest when the request does not
        fit what is served now.
        """
        raise NotImplementedError

    def finish(self) -> T:
        """The result, when all parts were accepted."""
        raise NotImplementedError


class Pending(Generic[T]):
    """A request under way. The arrays it asks with must not change before its result is there."""

    def __init__(self, connection: "Connection", call: Call[T], parts: Sequence[Part]) -> None:
        self._connection = connection
        self._call = call
        self._many = len(parts) > 1
        self._unsent: Deque[Part] = deque(parts)
        self._in_flight: Set[int] = set()
        self._refused: List[Part] = []
        self._retry_at: Optional[float] = None  # by the monotonic clock
        self._attempt = 0
        self._error: Optional[NightjarError] = None
        self._result: Optional[T] = None
        self._finished = False
        # Seconds without a byte in either direction until the daemon is given up.
        self.timeout = connection.timeout

    @property
    def done(self) -> bool:
        """Whether `result()` would return or raise at once. Takes what has arrived; never waits."""
        if not self._settled and not self._connection.closed:
            try:
                self._connection.advance(self)
            except NightjarError as error:
                if not self._settled:
                    self._error = error
        return self._settled or self._connection.closed

    def result(self) -> T:
        """Waits for the answer; raises what the request failed for. May be called again."""
        if self._finished:
            assert self._result is not None
            return self._result
        self._connection.wait(self)
        if self._error is not None:
            raise self._error
        self._result = self._call.finish()
        self._finished = True
        return self._result

    def cancel(self) -> None:
        """Forgets the request: what is not sent is not, and answers are passed over."""
        self._connection.cancel(self)

    @property
    def _settled(self) -> bool:
        waiting = self._unsent or self._in_flight or self._refused
        return self._finished or self._error is not None or not waiting

    # Called by the connection.

    def _next(self) -> Optional[Part]:
        return self._unsent.popleft() if self._unsent and self._error is None else None

    def _answered(self, request_id: int, part: Part, frame: wire.Frame) -> None:
        self._in_flight.discard(request_id)
        if frame.type != wire.Type.ERROR:
            try:
                self._call.accept(part, frame)
            except InvalidRequest as unfit:
                self._error = unfit
            return
        error = wire.parse_error(frame.payload)
        if isinstance(error, Busy) and self._attempt < self._connection.retry.attempts:
            self._refused.append(part)
            return
        if self._many:
            last = part.first + part.count - 1
            error = type(error)(f"{self._call.items} {part.first} to {last}: {error}")
        self._error = error

    def _retry_in(self) -> Optional[float]:
        """Seconds until what was refused is asked again, which is once all else is answered."""
        if not self._refused or self._unsent or self._in_flight:
            return None
        if self._retry_at is None:
            self._attempt += 1
            self._retry_at = time.monotonic() + self._connection.retry.delay(self._attempt)
        return max(0.0, self._retry_at - time.monotonic())

    def _retry(self) -> None:
        self._retry_at = None
        self._unsent.extend(self._refused)
        self._refused.clear()


class Connection:
    """A channel and the requests on it; used by one thread at a time, which is checked."""

    def __init__(self, path: str, timeout: Optional[float], retry: Retry) -> None:
        self._channel = Channel(path, timeout)
        self.timeout = timeout
        self.retry = retry
        self._to_send: Deque["Pending[Any]"] = deque()
        self._in_flight: Dict[int, Tuple["Pending[Any]", Part]] = {}
        self._forgotten: Set[int] = set()
        self._last_id = 0
        self._in_use = threading.Lock()
        self._process = os.getpid()

    @property
    def path(self) -> str:
        """Of the socket."""
        return self._channel.path

    @property
    def closed(self) -> bool:
        """Whether it was closed or lost."""
        return self._channel.closed

    def close(self) -> None:
        """Closes it; requests under way fail with ConnectionLost. May be repeated."""
        self._channel.close()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if os.getpid() != self._process:
            raise RuntimeError("this index was connected before a fork: connect in each process")
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("this index is in use by another thread: connect in each thread")
        try:
            yield
        finally:
            self._in_use.release()

    def start(self, call: Call[T], parts: Sequence[Part]) -> Pending[T]:
        """Begins a request; sends what there is room for, and never waits."""
        pending = Pending(self, call, parts)
        with self._exclusively():
            self._to_send.append(pending)
            self._step(wait=False)
        return pending

    def advance(self, pending: Pending[T]) -> None:
        """Sends and receives what is possible now, with the request's retry if that is due."""
        with self._exclusively():
            if pending._retry_in() == 0:
                self._retry(pending)
            self._step(wait=False)

    def wait(self, pending: Pending[T]) -> None:
        """Until all of the request is answered or it failed."""
        with self._exclusively():
            try:
                while not pending._settled:
                    retry_in = pending._retry_in()
                    if retry_in is not None:
                        time.sleep(retry_in)
                        self._retry(pending)
                    self._step(wait=True, timeout=pending.timeout)
            finally:
                self._forget(pending, ConnectionLost(f"{self.path}: the request was given up"))

    def cancel(self, pending: Pending[T]) -> None:
        """Its answers, when they come, are passed over."""
        with self._exclusively():
            self._forget(pending, error_of(10, "cancelled"))

    def _forget(self, pending: Pending[T], error: NightjarError) -> None:
        if not pending._settled:
            # Nothing will be under way then, as if all had been answered.
            pending._error = error
        for request_id in pending._in_flight:
            del self._in_flight[request_id]
            self._forgotten.add(request_id)
        pending._in_flight.clear()
        pending._unsent.clear()

    def _retry(self, pending: Pending[T]) -> None:
        pending._retry()
        self._to_send.append(pending)

    def _step(self, wait: bool, timeout: Optional[float] = None) -> None:
        try:
            self._encode()
            for frame in self._channel.step(wait, timeout):
                self._dispatch(frame)
        except BaseException as error:
            # Also an interrupt: half a frame may be queued, or sent, or its answer dropped.
            self._channel.close(str(error) or type(error).__name__)
            raise

    def _encode(self) -> None:
        while self._to_send and self._channel.unsent_bytes < _UNSENT_BYTES:
            pending = self._to_send[0]
            part = pending._next()
            if part is None:
                self._to_send.popleft()
                continue
            kind, payload = pending._call.encode(part)
            self._last_id += 1
            payload_bytes = sum(memoryview(buffer).nbytes for buffer in payload)
            header = wire.header(kind, self._last_id, payload_bytes)
            self._channel.put([header, *payload])
            self._in_flight[self._last_id] = (pending, part)
            pending._in_flight.add(self._last_id)

    def _dispatch(self, frame: wire.Frame) -> None:
        entry = self._in_flight.pop(frame.request_id, None)
        if entry is not None:
            pending, part = entry
            pending._answered(frame.request_id, part, frame)
        elif frame.request_id == 0 and frame.type == wire.Type.ERROR:
            # About the connection as a whole, which the daemon closes after it.
            raise wire.parse_error(frame.payload)
        elif frame.request_id in self._forgotten:
            self._forgotten.discard(frame.request_id)
        else:
            raise ProtocolError(f"an answer to request {frame.request_id}, which is not under way")


_ANSWER_OF: Dict[wire.Type, wire.Type] = {
    wire.Type.HELLO: wire.Type.HELLO_OK,
    wire.Type.STATS: wire.Type.STATS_OK,
    wire.Type.RELOAD: wire.Type.RELOAD_OK,
}


class SimpleCall(Call[T]):
    """A request of one frame."""

    def __init__(self, kind: wire.Type, payload: bytes, parse: Callable[[memoryview], T]) -> None:
        self._kind = kind
        self._payload = payload
        self._parse = parse
        self._answer: List[T] = []

    def encode(self, part: Part) -> Tuple[wire.Type, Sequence[wire.Buffer]]:
        return self._kind, [self._payload]

    def accept(self, part: Part, frame: wire.Frame) -> None:
        want_type(frame, _ANSWER_OF[self._kind])
        self._answer.append(self._parse(frame.payload))

    def finish(self) -> T:
        return self._answer[0]


def want_type(frame: wire.Frame, wanted: wire.Type) -> None:
    """ProtocolError if the frame is of another type."""
    if frame.type != wanted:
        raise ProtocolError(f"a frame of type {frame.type}: {wanted.name} is wanted")
