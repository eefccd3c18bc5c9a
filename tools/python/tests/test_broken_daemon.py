"""What no nightjard sends: broken, cut off and late answers, and answers to what was not asked."""

from __future__ import annotations

import functools
import itertools
import os
import socket
import struct
import tempfile
import threading
import time
import unittest
from typing import Callable, Iterator, List, Optional
from unittest import mock

import numpy as np
import numpy.typing as npt

import nightjar
from fake_daemon import (
    DIM,
    ERROR,
    HELLO_OK,
    SEARCH_OK,
    FakeDaemon,
    Request,
    error,
    frame,
    good,
    hello_ok,
    search_ok,
)
from nightjar import wire
from nightjar.calls import SearchCall
from nightjar.channel import Channel
from nightjar.connection import Part

QUERY = np.zeros(DIM, np.float32)


def searched(*pieces: bytes) -> FakeDaemon:
    """Greets well and answers a search with these bytes."""
    return FakeDaemon(lambda request: good(request) if request.type == 1 else list(pieces))


class HeldBack:
    """Answers searches with the same bytes, not before `go_on`."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.go_on = threading.Event()

    def __call__(self, request: Request) -> List[bytes]:
        if request.type == 1:
            return good(request)
        self.go_on.wait(60)
        return list(self._pieces)


def pieces_of(piece: bytes, _: Request) -> List[bytes]:
    """The same whatever is asked."""
    return [piece]


class BrokenAnswers(unittest.TestCase):
    def lost(self, message: str, *pieces: bytes, kind: type = nightjar.ProtocolError) -> None:
        """A search so answered fails, and the connection with it."""
        with searched(*pieces) as fake, nightjar.connect(fake.path, timeout=60) as index:
            with self.assertRaisesRegex(kind, message):
                index.search(QUERY, k=3)
            self.assertTrue(index.closed)
            with self.assertRaises(nightjar.ConnectionLost):
                index.search(QUERY, k=3)

    def test_headers(self) -> None:
        # The HELLO had id 1.
        self.lost("magic", frame(SEARCH_OK, 2, b"", magic=1))
        self.lost("version 2", frame(SEARCH_OK, 2, b"", version=2))
        self.lost("flags 1", frame(SEARCH_OK, 2, b"", flags=1))
        self.lost("reserved 1", frame(SEARCH_OK, 2, b"", reserved=1))
        self.lost("4294967295 bytes", frame(SEARCH_OK, 2, b"", payload_bytes=0xFFFFFFFF))

    def test_answers_to_what_was_not_asked(self) -> None:
        self.lost("request 77", frame(SEARCH_OK, 77, b""))
        self.lost("type 2: SEARCH_OK", frame(HELLO_OK, 2, hello_ok()))
        self.lost("type 99: SEARCH_OK", frame(99, 2, b""))

    def test_payloads_that_do_not_add_up(self) -> None:
        asked = Request(3, 2, struct.pack("<IIIIffIIII", 1, 3, 0, 0, 0, 0, 0, 4, DIM, 2))
        whole = search_ok(asked)
        self.assertEqual(len(whole), 8 + 24 + 3 * 16 + 24)
        for size in (0, 7, 8, 31, len(whole) - 1):
            self.lost("SEARCH_OK of", frame(SEARCH_OK, 2, whole[:size]))
        self.lost("SEARCH_OK of", frame(SEARCH_OK, 2, whole + b"\0"))
        self.lost("of 2 queries", frame(SEARCH_OK, 2, struct.pack("<I", 2) + whole[4:]))
        self.lost(
            "4 hits of k 3", frame(SEARCH_OK, 2, whole[:8] + struct.pack("<I", 4) + whole[12:])
        )
        self.lost("ERROR of 4", frame(ERROR, 2, b"\0\0\0\0"))
        self.lost("ERROR of 9", frame(ERROR, 2, struct.pack("<II", 1, 5) + b"a"))

    def test_ends_in_the_middle(self) -> None:
        self.lost("hung up", b"", kind=nightjar.ConnectionLost)
        self.lost("middle of a frame", b"NJA", b"", kind=nightjar.ConnectionLost)
        half = frame(SEARCH_OK, 2, b"abc", payload_bytes=104)
        self.lost("middle of a frame", half, b"", kind=nightjar.ConnectionLost)
        half = frame(SEARCH_OK, 2, b"abc", payload_bytes=1 << 20)
        self.lost("middle of a frame", half, b"", kind=nightjar.ConnectionLost)

    def test_error_about_the_connection(self) -> None:
        pieces = frame(ERROR, 0, error(2, b"bad magic"))
        self.lost("bad magic", pieces, b"")
        busy = frame(ERROR, 0, error(8, b"64 connections are taken"))
        with FakeDaemon(lambda request: [busy, b""]) as fake:
            with self.assertRaisesRegex(nightjar.Busy, "64 connections"):
                nightjar.connect(fake.path)

    def test_greetings(self) -> None:
        for payload, message in (
            (hello_ok()[:-1], "HELLO_OK of 63"),
            (hello_ok(dim=0), "limit of 0"),
            (hello_ok(window=0), "limit of 0"),
            (hello_ok(queries_max=0), "limit of 0"),
            (hello_ok().replace(struct.pack("<II", 4, 1), struct.pack("<II", 9, 1)), "type 9"),
        ):
            # The only request has id 1.
            with FakeDaemon(functools.partial(pieces_of, frame(HELLO_OK, 1, payload))) as fake:
                with self.assertRaisesRegex(nightjar.ProtocolError, message):
                    nightjar.connect(fake.path)

    def test_silence_ends(self) -> None:
        with searched() as fake, nightjar.connect(fake.path, timeout=0.05) as index:
            with self.assertRaisesRegex(nightjar.ConnectionLost, "silent for 0.05 s"):
                index.search(QUERY, k=3)

    def test_a_reload_has_a_limit_of_its_own(self) -> None:
        limits: List[Optional[float]] = []
        ready = Channel._ready

        def noted(channel: Channel, timeout: Optional[float]) -> bool:
            limits.append(timeout)
            answer.go_on.set()
            return ready(channel, timeout)

        for limit in (None, 90.0):
            answer = HeldBack(frame(10, 2, struct.pack("<QQII", 1, 2, 1, 0)))
            limits.clear()
            with FakeDaemon(answer) as fake, nightjar.connect(fake.path, timeout=60) as index:
                with mock.patch.object(Channel, "_ready", noted):
                    reload = index.reload() if limit is None else index.reload(limit)
            self.assertTrue(reload.swapped)
            self.assertEqual(set(limits), {limit})
        with searched() as fake, nightjar.connect(fake.path) as index:
            with self.assertRaisesRegex(nightjar.ConnectionLost, "silent for 0.05 s"):
                index.reload(timeout=0.05)

    def test_text_that_is_no_utf8(self) -> None:
        with searched(frame(ERROR, 2, error(1, b"a\xffb"))) as fake:
            with nightjar.connect(fake.path) as index:
                with self.assertRaisesRegex(nightjar.InvalidRequest, "a\ufffdb"):
                    index.search(QUERY, k=3)


class Connecting(unittest.TestCase):
    """To a daemon that accepts nobody, while as many wait as may."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="nightjar-full-")
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "s")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.listen(0)
        while True:
            waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.addCleanup(waiting.close)
            waiting.setblocking(False)
            try:
                waiting.connect(self.path)
            except BlockingIOError:
                return

    def test_it_ends(self) -> None:
        errors: List[str] = []

        def connect() -> None:
            try:
                nightjar.connect(self.path, timeout=0.05)
            except nightjar.ConnectionLost as error:
                errors.append(str(error))

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(60)
        self.assertEqual(errors, [f"{self.path}: accepts nobody for 0.05 s"])

    def test_it_goes_on_when_there_is_room(self) -> None:
        def accept(_: float) -> None:
            self.addCleanup(self.listener.accept()[0].close)

        for timeout in (60.0, None):
            with mock.patch("time.sleep", accept):
                channel = Channel(self.path, timeout)
            self.assertFalse(channel.closed)
            channel.close()

    def test_timeouts_of_any_length(self) -> None:
        for wrong in (0, -1, float("nan")):
            with self.assertRaisesRegex(ValueError, f"timeout {wrong}"):
                nightjar.connect(self.path, timeout=wrong)
        for longest in (3e6, float("inf"), None):
            answer = HeldBack(b"")
            with FakeDaemon(answer) as fake, nightjar.connect(fake.path, timeout=longest) as index:
                with self.assertRaisesRegex(ValueError, "timeout 0"):
                    index.reload(timeout=0)
                pending = index.submit(QUERY, k=3)
                answer.go_on.set()
                with self.assertRaisesRegex(nightjar.ConnectionLost, "hung up"):
                    pending.result()


class GivenUp(unittest.TestCase):
    """A request that ended without an answer has none later either."""

    def asked_again(self, pending: nightjar.Pending[nightjar.SearchResult]) -> None:
        for _ in range(2):
            self.assertTrue(pending.done)
            with self.assertRaisesRegex(nightjar.ConnectionLost, "given up"):
                pending.result()

    def test_after_the_connection_was_lost(self) -> None:
        for piece in (b"", frame(SEARCH_OK, 77, b"")):
            answer = HeldBack(piece)
            with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
                pending = index.submit(QUERY, k=3)
                answer.go_on.set()
                with self.assertRaises((nightjar.ConnectionLost, nightjar.ProtocolError)):
                    pending.result()
                self.asked_again(pending)

    def test_it_is_done_then(self) -> None:
        for piece, kind, message in (
            (b"", nightjar.ConnectionLost, "hung up|reset"),
            (frame(SEARCH_OK, 77, b""), nightjar.ProtocolError, "request 77"),
        ):
            answer = HeldBack(piece)
            with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
                pending, other = index.submit(QUERY, k=3), index.submit(QUERY, k=3)
                self.assertFalse(pending.done)
                answer.go_on.set()
                end = time.monotonic() + 60
                while not pending.done:
                    self.assertLess(time.monotonic(), end)
                self.assertTrue(index.closed)
                with self.assertRaisesRegex(kind, message):
                    pending.result()
                self.assertTrue(other.done)
                with self.assertRaisesRegex(nightjar.ConnectionLost, message):
                    other.result()

    def test_after_an_interrupt(self) -> None:
        with searched() as fake, nightjar.connect(fake.path) as index:
            pending = index.submit(QUERY, k=3)
            with mock.patch.object(Channel, "_ready", side_effect=KeyboardInterrupt):
                with self.assertRaises(KeyboardInterrupt):
                    pending.result()
            self.assertTrue(index.closed)
            self.asked_again(pending)


class Interrupts(unittest.TestCase):
    """Ctrl-C wherever it comes: frames that are half queued or half taken end the connection."""

    def interrupted(self, owner: type, method: str, effect: Callable[..., None]) -> None:
        with FakeDaemon(good) as fake, nightjar.connect(fake.path) as index:
            with mock.patch.object(owner, method, autospec=True, side_effect=effect):
                with self.assertRaises(KeyboardInterrupt):
                    index.search(QUERY, k=3)
            self.assertTrue(index.closed)
            with self.assertRaisesRegex(nightjar.ConnectionLost, "gone: KeyboardInterrupt"):
                index.search(QUERY, k=3)

    def test_while_a_frame_is_queued(self) -> None:
        put = Channel.put

        def put_half(channel: Channel, buffers: List[wire.Buffer]) -> None:
            put(channel, buffers[:1])
            raise KeyboardInterrupt

        self.interrupted(Channel, "put", put_half)

    def test_while_it_is_sent(self) -> None:
        send = Channel._send

        def send_all(channel: Channel) -> None:
            send(channel)
            raise KeyboardInterrupt

        self.interrupted(Channel, "_send", send_all)

    def test_while_an_answer_is_taken(self) -> None:
        def accept(call: SearchCall, part: Part, frame: wire.Frame) -> None:
            raise KeyboardInterrupt

        self.interrupted(SearchCall, "accept", accept)


class Statuses(unittest.TestCase):
    def test_each_has_its_class(self) -> None:
        classes = {
            1: nightjar.InvalidRequest,
            2: nightjar.ProtocolError,
            3: nightjar.DaemonError,
            5: nightjar.NotFound,
            7: nightjar.Unsupported,
            8: nightjar.Busy,
            9: nightjar.Timeout,
            10: nightjar.Cancelled,
            11: nightjar.Denied,
            99: nightjar.DaemonError,
        }
        statuses = iter(classes)

        def answer(request: Request) -> List[bytes]:
            if request.type == 1:
                return good(request)
            return [frame(ERROR, request.request_id, error(next(statuses), b"as the daemon says"))]

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            for expected in classes.values():
                with self.assertRaisesRegex(
                    nightjar.NightjarError, "^as the daemon says$"
                ) as caught:
                    index.search(QUERY, k=3)
                self.assertIs(type(caught.exception), expected)
                self.assertFalse(index.closed)
        self.assertTrue(issubclass(nightjar.Timeout, TimeoutError))
        self.assertTrue(issubclass(nightjar.ConnectionLost, ConnectionError))


class BusyRetries(unittest.TestCase):
    def test_only_what_was_refused_is_asked_again(self) -> None:
        refused = iter([True, False, True, True, False, False])

        def answer(request: Request) -> List[bytes]:
            if request.type == 1:
                return [frame(HELLO_OK, request.request_id, hello_ok(window=8))]
            if next(refused):
                return [frame(ERROR, request.request_id, error(8, b"busy"))]
            return good(request)

        # Of three frames of two queries each two are refused, of these one again.
        with FakeDaemon(answer) as fake:
            with nightjar.connect(fake.path, busy_retries=2, busy_backoff=0.001) as index:
                result = index.search(np.zeros((6, DIM)), k=1)
                self.assertEqual(result.keys[:, 0].tolist(), [0, 1] * 3)
            self.assertEqual(len(fake.requests), 1 + 6)

    def test_they_are_bounded(self) -> None:
        busy = [0]

        def answer(request: Request) -> List[bytes]:
            if request.type == 1:
                return good(request)
            busy[0] += 1
            return [frame(ERROR, request.request_id, error(8, b"busy"))]

        with FakeDaemon(answer) as fake:
            for retries in (0, 3):
                busy[0] = 0
                options = {"busy_retries": retries, "busy_backoff": 0.001}
                with nightjar.connect(fake.path, **options) as index:  # type: ignore[arg-type]
                    with self.assertRaises(nightjar.Busy):
                        index.search(QUERY, k=1)
                self.assertEqual(busy[0], 1 + retries)

    def test_they_happen_while_it_is_only_asked_whether_it_is_done(self) -> None:
        refused = iter([True, True, False])

        def answer(request: Request) -> List[bytes]:
            if request.type != 1 and next(refused):
                return [frame(ERROR, request.request_id, error(8, b"busy"))]
            return good(request)

        with FakeDaemon(answer) as fake:
            with nightjar.connect(fake.path, busy_retries=2, busy_backoff=0.001) as index:
                pending = index.submit(QUERY, k=2)
                end = time.monotonic() + 60
                while not pending.done:
                    self.assertLess(time.monotonic(), end)
                self.assertEqual(pending.result().keys.tolist(), [[0, 1]])
        self.assertEqual(len(fake.requests), 1 + 3)

    def test_connecting_too(self) -> None:
        taken = iter([True, True, False])

        def answer(request: Request) -> List[bytes]:
            if next(taken):
                return [frame(ERROR, 0, error(8, b"all are taken")), b""]
            return good(request)

        with FakeDaemon(answer) as fake:
            nightjar.connect(fake.path, busy_retries=2, busy_backoff=0.001).close()


class Matching(unittest.TestCase):
    """Requests and answers find each other."""

    def test_answers_in_another_order(self) -> None:
        held: List[bytes] = []

        def answer(request: Request) -> List[bytes]:
            if request.type == 1:
                return [frame(HELLO_OK, request.request_id, hello_ok(window=8))]
            count, k = struct.unpack_from("<II", request.payload)
            first = struct.unpack_from("<f", request.payload, 40)[0]
            asked = request.payload[:36] + struct.pack("<I", 0)
            payload = bytearray(search_ok(Request(3, 0, asked)))
            payload[8 + 24 * count : 16 + 24 * count] = struct.pack("<Q", int(first))
            payload += struct.pack("<QQQ", 2, 1, 9)
            held.append(frame(SEARCH_OK, request.request_id, bytes(payload)))
            if len(held) < 5:
                return []
            return held[::-1]

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            queries = np.arange(9, dtype=np.float32)[:, np.newaxis] * np.ones(DIM, np.float32)
            result = index.search(queries, k=1)
            # Frames hold two queries; each answer tells the first element of its first.
            self.assertEqual(result.keys[::2, 0].tolist(), [0, 2, 4, 6, 8])
            self.assertEqual([origin.first for origin in result.origins], [0, 2, 4, 6, 8])

    def test_forgotten_answers_are_passed_over(self) -> None:
        late: List[bytes] = []

        def answer(request: Request) -> List[bytes]:
            pieces = good(request)
            if request.request_id == 2:
                late.extend(pieces)
                return []
            return late + pieces if request.request_id == 3 else pieces

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            pending = index.submit(QUERY, k=3)
            pending.cancel()
            with self.assertRaises(nightjar.Cancelled):
                pending.result()
            self.assertEqual(index.search(QUERY, k=3).keys.tolist(), [[0, 1, 2]])
            first, second = index.submit(QUERY, k=1), index.submit(QUERY, k=2)
            self.assertEqual(second.result().keys.shape, (1, 2))
            self.assertTrue(first.done)
            self.assertEqual(first.result().keys.shape, (1, 1))

    def test_old_daemons_are_asked_for_less(self) -> None:
        def answer(request: Request) -> List[bytes]:
            if request.type != 1:
                return good(request)
            features = struct.unpack_from("<I", request.payload)[0]
            if features:
                return [frame(ERROR, request.request_id, error(7, b"unknown feature"))]
            return [frame(HELLO_OK, request.request_id, hello_ok(features=0))]

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            result = index.search(QUERY, k=3)
            self.assertEqual(result.keys.tolist(), [[0, 1, 2]])
            self.assertIsNone(result.generation)
            for options in ({"filter": "a = 1"}, {"recall": 0.9}, {"radius": 1}, {"explain": True}):
                with self.assertRaises(nightjar.Unsupported):
                    index.search(QUERY, k=3, **options)  # type: ignore[arg-type]
            with self.assertRaises(nightjar.Unsupported):
                index.fetch([1])
        searches = [request for request in fake.requests if request.type == 3]
        self.assertEqual(len(searches), 1)
        self.assertEqual(searches[0].payload[36:40], b"\0\0\0\0")


class Splitting(unittest.TestCase):
    def frames(self, greeting: bytes, queries: npt.NDArray[np.float32], k: int) -> List[int]:
        """How many queries go into each frame."""

        def answer(request: Request) -> List[bytes]:
            if request.type == 1:
                return [frame(HELLO_OK, request.request_id, greeting)]
            return good(request)

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            self.assertEqual(index.search(queries, k=k).keys.shape, (len(queries), k))
        return [struct.unpack_from("<I", r.payload)[0] for r in fake.requests[1:]]

    def test_limits(self) -> None:
        many = np.zeros((40, DIM), np.float32)
        # An answer takes 24 + 8 + 24 bytes and 24 + 16 k a query; a request 64 and the vectors.
        self.assertEqual(
            self.frames(hello_ok(frame_bytes_max=56 + 19 * 184), many, 10), [19, 19, 2]
        )
        self.assertEqual(
            self.frames(hello_ok(frame_bytes_max=55 + 19 * 184), many, 10), [18, 18, 4]
        )
        wide = np.zeros((5, 100), np.float32)
        self.assertEqual(
            self.frames(hello_ok(frame_bytes_max=64 + 800, dim=100), wide, 1), [2, 2, 1]
        )
        self.assertEqual(self.frames(hello_ok(frame_bytes_max=63 + 800, dim=100), wide, 1), [1] * 5)
        self.assertEqual(self.frames(hello_ok(queries_max=30), many, 1), [30, 10])
        self.assertEqual(self.frames(hello_ok(window=128), many, 1), [32, 8])
        self.assertEqual(self.frames(hello_ok(window=1), many[:2], 1), [1, 1])

    def test_a_daemon_that_reads_on_when_it_was_read(self) -> None:
        """Neither 3 MB of requests nor 13 MB of answers fit the sockets."""
        many = np.zeros((400, 2048), np.float32)
        self.assertEqual(self.frames(hello_ok(window=64, dim=2048), many, 1000), [16] * 25)


class Sharing(unittest.TestCase):
    def test_two_threads_at_once_are_refused(self) -> None:
        asked, go_on = threading.Event(), threading.Event()

        def answer(request: Request) -> List[bytes]:
            if request.type != 1:
                asked.set()
                go_on.wait(60)
            return good(request)

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            answers: List[nightjar.SearchResult] = []
            pending = index.submit(QUERY, k=3)
            other = threading.Thread(target=lambda: answers.append(pending.result()))
            other.start()
            self.assertTrue(asked.wait(60))
            while not index._connection._in_use.locked():
                self.assertTrue(other.is_alive())
            for refused in (lambda: index.search(QUERY, k=2), pending.cancel):
                with self.assertRaisesRegex(RuntimeError, "another thread"):
                    refused()
            go_on.set()
            other.join(60)
            self.assertEqual(answers[0].keys.tolist(), [[0, 1, 2]])
            self.assertEqual(index.search(QUERY, k=1).keys.tolist(), [[0]])
        # What was refused was not sent either.
        searches = [request for request in fake.requests if request.type == 3]
        self.assertEqual([struct.unpack_from("<I", s.payload, 4)[0] for s in searches], [3, 1])


class Streams(unittest.TestCase):
    def test_input_is_taken_as_it_is_needed(self) -> None:
        taken = [0]

        def endless() -> Iterator[npt.NDArray[np.float32]]:
            for number in itertools.count():
                taken[0] = number + 1
                yield np.full(DIM, number, np.float32)

        with FakeDaemon(good) as fake, nightjar.connect(fake.path) as index:
            stream = index.stream(endless(), k=2, batch=4, window=3)
            for expected in (12, 12, 12, 12, 16):
                hits = next(stream)
                self.assertEqual(len(hits.keys), 2)
                self.assertEqual(taken[0], expected)
            stream.close()
            # What was under way is passed over.
            self.assertEqual(index.search(QUERY, k=1).keys.tolist(), [[0]])

    def test_a_stream_that_is_left_is_forgotten(self) -> None:
        def answer(request: Request) -> List[bytes]:
            return good(request) if request.request_id <= 2 else []

        with FakeDaemon(answer) as fake, nightjar.connect(fake.path) as index:
            stream = index.stream(np.zeros((9, DIM)), k=2, batch=1, window=3)
            next(stream)
            self.assertEqual(len(index._connection._in_flight), 2)
            stream.close()
            self.assertEqual(len(index._connection._in_flight), 0)

    def test_a_failing_source_does_not_break_the_connection(self) -> None:
        def failing() -> Iterator[npt.NDArray[np.float32]]:
            yield QUERY
            yield QUERY
            raise OSError("no more")

        with FakeDaemon(good) as fake, nightjar.connect(fake.path) as index:
            with self.assertRaisesRegex(OSError, "no more"):
                list(index.stream(failing(), k=1, batch=1, window=4))
            self.assertEqual(index.search(QUERY, k=1).keys.tolist(), [[0]])


if __name__ == "__main__":
    unittest.main()
