"""Frames byte by byte: against the repository's golden files, which the daemon's tests use too."""

from __future__ import annotations

import os
import struct
import unittest
from typing import Any, List, Tuple

import numpy as np

import nightjar
from fake_daemon import FakeDaemon, Request, frame, good, hello_ok, search_ok
from nightjar import wire
from nightjar.calls import FetchCall, SearchCall, SearchPlan
from nightjar.connection import Call, Part

_GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../tests/golden/frame")
FETCH_OK = 12


def golden(name: str) -> List[wire.Frame]:
    """The frames in a golden file."""
    with open(os.path.join(_GOLDEN, name), "rb") as file:
        data = memoryview(file.read())
    frames = []
    while data.nbytes:
        kind, request_id, size = wire.parse_header(data[: wire.HEADER_BYTES])
        end = wire.HEADER_BYTES + size
        frames.append(wire.Frame(kind, request_id, data[wire.HEADER_BYTES : end]))
        data = data[end:]
    return frames


def asked(query_count: int, k: int, flags: wire.SearchFlag) -> wire.SearchFrame:
    """A search of f32 vectors of 4."""
    return wire.SearchFrame(query_count, k, 40, 0.0, 0.0, 0, 0, 4, 4, flags)


class GoldenFrames(unittest.TestCase):
    """Those of query/PROTOCOL.md's extended requests."""

    def test_search_and_fetch(self) -> None:
        cursors = np.array([(0, 0, 0), (42, 1.25, 10)], wire.CURSOR)
        extension = wire.Extension(True, 2.5, b"year > 99", True)
        keys = np.array([17, 2**64 - 1], np.uint64)
        plan = SearchPlan(keys, asked(0, 10, wire.SearchFlag.EXTENDED), extension, cursors)
        info = wire.parse_hello_ok(hello_ok())
        fetched = np.array([1, 2, 3], np.uint64)
        search, fetch = golden("extended_client.bin")
        calls: List[Tuple[Call[Any], Part, wire.Frame]] = [
            (SearchCall(plan), Part(0, 2), search),
            (FetchCall(fetched, info, True), Part(0, 3), fetch),
        ]
        for call, part, expected in calls:
            kind, buffers = call.encode(part)
            self.assertEqual(kind, expected.type)
            self.assertEqual(b"".join(map(bytes, buffers)), bytes(expected.payload))
        queries_bytes = keys.nbytes + cursors.nbytes
        self.assertEqual(
            wire.search_request_bytes(queries_bytes, extension), 24 + search.payload.nbytes
        )

    def test_search_answer(self) -> None:
        flags = wire.SearchFlag.EXPLAIN | wire.SearchFlag.ORIGIN | wire.SearchFlag.EXTENDED
        answer = wire.parse_search_ok(golden("extended_daemon.bin")[0].payload, asked(1, 2, flags))
        self.assertEqual(answer.results["hit_count"].tolist(), [1])
        self.assertEqual(int(answer.results["flags"][0]), 2 | 8)
        self.assertEqual(answer.hits["key"].tolist(), [[99, 0]])
        self.assertEqual(answer.hits["distance"].tolist(), [[0.5, 0]])
        assert answer.explanations is not None and answer.chosen is not None
        self.assertEqual(answer.explanations["hops"].tolist(), [3])
        self.assertEqual(
            (answer.chosen.search_list, answer.chosen.filter_plan, answer.chosen.match_estimate),
            (60, "scan", 1234567890123),
        )
        self.assertAlmostEqual(answer.chosen.search_ratio, 1.1, 6)
        self.assertAlmostEqual(answer.chosen.expected_recall, 0.97, 6)
        self.assertEqual((answer.generation, answer.trace_id), ("0" * 32, 5))

    def test_fetch_answer(self) -> None:
        info = wire.parse_hello_ok(hello_ok())
        payload = golden("extended_daemon.bin")[1].payload
        answer = wire.parse_fetch_ok(payload, 3, info, True)
        self.assertEqual(answer.found.tolist(), [True, False, True])
        assert answer.vectors is not None
        self.assertEqual(answer.vectors.tolist(), [[1, 2, 3, 4], [0] * 4, [5, 6, 7, 8]])
        for size in range(payload.nbytes):
            with self.assertRaises(nightjar.ProtocolError):
                wire.parse_fetch_ok(payload[:size], 3, info, True)
        with self.assertRaises(nightjar.ProtocolError):
            wire.parse_fetch_ok(payload, 2, info, True)
        with self.assertRaisesRegex(nightjar.InvalidRequest, "refresh"):
            wire.parse_fetch_ok(payload, 3, wire.parse_hello_ok(hello_ok(dim=5)), True)


class ExtendedRequests(unittest.TestCase):
    """What calls of the user's become."""

    def sent(self, **arguments: Any) -> bytes:
        """The payload of the search that these arguments make."""
        with FakeDaemon(good) as fake, nightjar.connect(fake.path) as index:
            index.search(**arguments)
        return fake.requests[-1].payload

    def test_plain_searches_are_not_extended(self) -> None:
        payload = self.sent(queries=[1, 2, 3, 4], k=7, search_list=50, search_ratio=1.5)
        fixed = struct.unpack_from("<IIIIffIIII", payload)
        self.assertEqual(fixed, (1, 7, 50, 0, 1.5, 0, 0, 4, 4, 2))
        self.assertEqual(struct.unpack_from("<4f", payload, 40), (1, 2, 3, 4))
        self.assertEqual(len(payload), 40 + 16)

    def test_the_list_is_chosen_when_it_is_not_given(self) -> None:
        for k, expected in ((1, 40), (20, 40), (30, 60), (600, 1024)):
            payload = self.sent(queries=[0] * 4, k=k)
            self.assertEqual(struct.unpack_from("<I", payload, 8)[0], expected)

    def test_recall(self) -> None:
        payload = self.sent(queries=[0] * 4, recall=0.5, timeout=1.0001, beam_width=3)
        fixed = struct.unpack_from("<IIIIffIIII", payload)
        self.assertEqual(fixed, (1, 10, 0, 3, 0, 0.5, 1001, 4, 4, 2 | 4))
        self.assertEqual(payload[40:104], bytes(64))
        self.assertEqual(len(payload), 104 + 16)

    def test_filter_and_radius(self) -> None:
        text = 'lang = "ü"'
        payload = self.sent(queries=np.zeros((2, 4)), filter=text, radius=2)
        self.assertEqual(struct.unpack_from("<IIfII", payload, 40), (0, 1, 2.0, 11, 0))
        self.assertEqual(payload[104 + 32 :], text.encode())
        with FakeDaemon(good) as fake, nightjar.connect(fake.path) as index:
            result = index.search([0] * 4, k=2, filter=text)
        assert result.chosen is not None
        self.assertEqual(result.chosen, nightjar.Chosen(40, 0.0, 0.5, "traversal", 77))

    def test_keys(self) -> None:
        payload = self.sent(keys=[5, 2**64 - 1], k=3)
        self.assertEqual(struct.unpack_from("<IIfII", payload, 40), (1, 0, 0, 0, 0))
        self.assertEqual(struct.unpack_from("<2Q", payload, 104), (5, 2**64 - 1))
        self.assertEqual(len(payload), 104 + 16)


class Pages(unittest.TestCase):
    """Three pages of two, two and one hit."""

    def setUp(self) -> None:
        self.generations = iter([1, 1, 1])

    def answer(self, request: Request) -> List[bytes]:
        if request.type == 1:
            return good(request)
        rank = struct.unpack_from("<I", request.payload, len(request.payload) - 4)[0]
        payload = bytearray(search_ok(request))
        last = rank == 4
        struct.pack_into("<II", payload, 8, 1 if last else 2, 8 if last else 0)
        for hit in range(2):
            struct.pack_into("<Qf", payload, 32 + 16 * hit, rank + hit, 10.0 * (rank + hit))
        struct.pack_into("<Q", payload, len(payload) - 16, next(self.generations))
        return [frame(4, request.request_id, bytes(payload))]

    def test_each_goes_on_after_the_one_before(self) -> None:
        with FakeDaemon(self.answer) as fake, nightjar.connect(fake.path) as index:
            pages = list(index.pages([0] * 4, k=2))
        self.assertEqual([page.hits(0).keys.tolist() for page in pages], [[0, 1], [2, 3], [4]])
        self.assertTrue(pages[2].last[0])
        self.assertTrue(np.isnan(pages[2].distances[0, 1]))
        self.assertEqual(pages[2].keys[0, 1], 0)
        cursors = [struct.unpack_from("<QfI", r.payload, 120) for r in fake.requests[1:]]
        self.assertEqual(cursors, [(0, 0, 0), (1, 10, 2), (3, 30, 4)])
        lists = [struct.unpack_from("<I", r.payload, 8)[0] for r in fake.requests[1:]]
        self.assertEqual(lists, [40, 40, 40])

    def test_a_swap_between_pages_is_noticed(self) -> None:
        self.generations = iter([1, 2])
        with FakeDaemon(self.answer) as fake, nightjar.connect(fake.path) as index:
            pages = index.pages(key=7, k=2)
            next(pages)
            with self.assertRaises(nightjar.GenerationChanged):
                next(pages)

    def test_they_are_of_one_query(self) -> None:
        with FakeDaemon(self.answer) as fake, nightjar.connect(fake.path) as index:
            with self.assertRaisesRegex(ValueError, "2 queries: pages are of one"):
                next(index.pages(np.zeros((2, 4)), k=2))


class Fetches(unittest.TestCase):
    greeting = hello_ok(window=12)

    def answer(self, request: Request) -> List[bytes]:
        if request.type == 1:
            return [frame(2, request.request_id, self.greeting)]
        count, flags = struct.unpack_from("<II", request.payload)
        keys = struct.unpack_from(f"<{count}Q", request.payload, 8)
        found = [int(key < 100) for key in keys] + [0] * (count % 2)
        payload = struct.pack(f"<IIII{len(found)}I", count, 4, 4, flags, *found)
        if flags:
            payload += b"".join(struct.pack("<4f", *[key] * 4) for key in keys)
        return [frame(FETCH_OK, request.request_id, payload)]

    def test_they_are_split(self) -> None:
        keys = [7, 100, 2, 99, 1, 3, 500]
        with FakeDaemon(self.answer) as fake, nightjar.connect(fake.path) as index:
            result = index.fetch(keys)
            self.assertEqual(len(result), 7)
            self.assertEqual(result.vectors[:, 0].tolist(), keys)
            found = [key < 100 for key in keys]
            self.assertEqual(result.found.tolist(), found)
            self.assertEqual(index.exists(keys).tolist(), found)
            self.assertEqual(index.exists([]).tolist(), [])
            self.assertEqual(index.fetch([]).vectors.shape, (0, 4))
        counts = [struct.unpack_from("<II", request.payload) for request in fake.requests[1:]]
        self.assertEqual(counts, [(3, 1), (3, 1), (1, 1), (3, 0), (3, 0), (1, 0)])

    def test_requests_and_answers_fit_a_frame(self) -> None:
        # A request takes 24 + 8 bytes and 8 a key; an answer at most 24 + 24 and 4 or 20 a key.
        for frame_bytes_max, expected in ((32 + 8 * 5, (5, 1)), (48 + 20 * 3, (9, 3))):
            self.greeting = hello_ok(frame_bytes_max=frame_bytes_max)
            with FakeDaemon(self.answer) as fake, nightjar.connect(fake.path) as index:
                index.exists(range(10))
                index.fetch(range(10))
            counts = [struct.unpack_from("<II", request.payload) for request in fake.requests]
            most = [max(n for n, flags in counts[1:] if flags == f) for f in (0, 1)]
            self.assertEqual(tuple(most), expected)


if __name__ == "__main__":
    unittest.main()
