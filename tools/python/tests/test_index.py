"""Searches, streams and statistics against a nightjard over made-up vectors."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import unittest
from typing import Callable, Iterator, List
from unittest import mock

import numpy as np
import numpy.typing as npt

import nightjar
import support
from nightjar import local


class Served(unittest.TestCase):
    """A daemon for all tests of a class, a connection for each."""

    data: support.Data
    daemon: local.Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.data = support.data("u8")
        cls.daemon = support.daemon()
        cls.addClassCleanup(cls.daemon.stop)

    def setUp(self) -> None:
        self.index = self.daemon.connect()
        self.addCleanup(self.index.close)


class Searches(Served):
    def test_info(self) -> None:
        info = self.index.info
        self.assertEqual(
            (info.vector_count, info.dim, info.element_type, info.metric),
            (support.COUNT, support.DIM, "u8", "l2"),
        )
        stated = self.index.stats()["index"]
        self.assertEqual(info.generation, stated["generation"])
        self.assertEqual(self.index.refresh(), info)

    def test_finds_the_neighbours(self) -> None:
        result = self.index.search(self.data.queries, k=10, search_list=80)
        self.assertEqual(result.keys.shape, (support.QUERY_COUNT, 10))
        self.assertGreater(support.recall(result.keys, self.data.truth), 0.95)
        self.assertTrue((result.counts == 10).all())
        self.assertTrue(result.valid.all())
        self.assertFalse(result.degraded.any())
        self.assertEqual(result.generation, self.index.info.generation)
        self.assertGreater(result.origins[0].trace_id or 0, 0)
        # Distances are those of the keys' vectors, ascending.
        rows = self.data.base[(result.keys - np.uint64(5)) // np.uint64(3)].astype(np.float64)
        difference = rows - self.data.queries[:, np.newaxis, :].astype(np.float64)
        self.assertTrue((result.distances == (difference**2).sum(axis=2)).all())
        self.assertTrue((np.diff(result.distances, axis=1) >= 0).all())

    def test_rows_are_queries(self) -> None:
        whole = self.index.search(self.data.queries[:20], k=5)
        self.assertEqual(len(whole), 20)
        for query, hits in enumerate(whole):
            alone = self.index.search(self.data.queries[query], k=5)
            self.assertEqual(alone.keys.shape, (1, 5))
            self.assertEqual(alone.keys[0].tolist(), hits.keys.tolist())
            self.assertEqual(alone.distances[0].tolist(), hits.distances.tolist())

    def test_types_are_converted(self) -> None:
        expected = self.index.search(self.data.queries, k=3).keys
        for dtype in (np.float64, np.float32, np.int64, np.uint16):
            found = self.index.search(self.data.queries.astype(dtype), k=3).keys
            self.assertTrue((found == expected).all())
        found = self.index.search(self.data.queries.tolist(), k=3).keys
        self.assertTrue((found == expected).all())
        found = self.index.search(np.asfortranarray(self.data.queries), k=3).keys
        self.assertTrue((found == expected).all())

    def test_no_queries(self) -> None:
        result = self.index.search(np.empty((0, support.DIM)), k=3)
        self.assertEqual((len(result), result.keys.shape), (0, (0, 3)))
        self.assertEqual((result.generation, result.chosen), (None, None))

    def test_explains(self) -> None:
        result = self.index.search(self.data.queries[:3], k=3, explain=True)
        assert result.explanations is not None
        self.assertTrue((result.explanations["code_distances"] > 0).all())
        self.assertIsNone(self.index.search(self.data.queries[:3], k=3).explanations)

    def test_wrong_requests(self) -> None:
        query = self.data.queries[0]
        for arguments, message in (
            ({"k": 0}, "k 0"),
            ({"k": 1.5}, "k 1.5"),
            ({"k": 1 << 20}, "k 1048576: the daemon's largest is 4096"),
            ({"search_list": 5}, "10"),
            ({"search_list": 1 << 31}, "2147483648"),
            ({"search_ratio": float("nan")}, "search_ratio nan"),
            ({"timeout": 0}, "timeout 0"),
            ({"recall": 0.9, "search_list": 40}, "either recall or"),
            ({"recall": 1.5}, "recall 1.5: above 0 and below 1"),
            ({"keys": [1]}, "either vectors or keys"),
            ({"filter": "x" * 5000}, "filter of 5000 bytes"),
            ({"radius": float("inf")}, "radius inf"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                self.index.search(query, **arguments)  # type: ignore[arg-type]
        with self.assertRaisesRegex(ValueError, "23 elements: the index has dim 24"):
            self.index.search(query[:23])
        with self.assertRaisesRegex(ValueError, "either vectors or keys"):
            self.index.search()
        # None of them cost the connection.
        self.assertEqual(self.index.search(query, k=1).keys.shape, (1, 1))

    def test_the_daemon_names_the_fault(self) -> None:
        with self.assertRaisesRegex(nightjar.InvalidRequest, "^query 0: k is 50, above"):
            self.index.search(self.data.queries[:2], k=50, search_list=10)
        many = np.repeat(self.data.queries, 5, axis=0)
        with self.assertRaisesRegex(nightjar.InvalidRequest, r"^queries \d+ to \d+: query 0: k is"):
            self.index.search(many, k=50, search_list=10)
        self.assertEqual(self.index.search(many, k=1).keys.shape, (len(many), 1))

    def test_timeouts(self) -> None:
        result = self.index.search(self.data.queries[0], k=10, timeout=600)
        self.assertEqual(result.counts[0], 10)
        # A thousand queries with the longest list in a millisecond: too late, or known beforehand.
        many = np.repeat(self.data.queries, 5, axis=0)
        with self.assertRaises((nightjar.Timeout, nightjar.Busy)):
            self.index.search(many, k=1000, search_list=1024, timeout=0.0001)
        self.assertEqual(self.index.search(many[0], k=1).keys.shape, (1, 1))

    def test_statistics(self) -> None:
        before = self.index.stats()["engine"]["queries"]
        self.index.search(self.data.queries, k=1)
        self.assertEqual(self.index.stats()["engine"]["queries"], before + support.QUERY_COUNT)
        self.assertIn("nightjar_query_duration_seconds_count", self.index.metrics())
        with self.assertRaisesRegex(nightjar.InvalidRequest, "--index"):
            self.index.reload()


class LargeBatches(Served):
    """More than a frame, the window or the sockets hold: sent and received at once."""

    def test_many_queries(self) -> None:
        expected = self.index.search(self.data.queries, k=10, search_list=10)
        many = np.tile(self.data.queries, (60, 1))
        result = self.index.search(many, k=10, search_list=10)
        self.assertGreater(len(result.origins), 40)
        self.assertTrue((result.keys.reshape(60, -1, 10) == expected.keys).all())
        self.assertTrue((result.distances.reshape(60, -1, 10) == expected.distances).all())

    @unittest.skipIf(support.INSTRUMENTED, "minutes under a sanitizer")
    def test_answers_larger_than_what_the_daemon_keeps(self) -> None:
        """72 MB of answers, of which the daemon keeps 64 MiB: all are taken as they come."""
        expected = self.index.search(self.data.queries[:10], k=1000, search_list=1000)
        many = np.tile(self.data.queries[:10], (450, 1))
        result = self.index.search(many, k=1000, search_list=1000)
        self.assertTrue((result.keys.reshape(450, 10, 1000) == expected.keys).all())

    def test_several_under_way(self) -> None:
        many = np.tile(self.data.queries, (10, 1))
        pending = [self.index.submit(many, k=k) for k in range(1, 8)]
        for k, one in reversed(list(enumerate(pending, 1))):
            self.assertEqual(one.result().keys.shape, (len(many), k))
            self.assertTrue(one.done)
            self.assertIs(one.result(), one.result())

    def test_a_failure_ends_the_batch(self) -> None:
        many = np.tile(self.data.queries, (50, 1))
        pending = self.index.submit(many, k=50, search_list=10)
        with self.assertRaises(nightjar.InvalidRequest):
            pending.result()
        with self.assertRaises(nightjar.InvalidRequest):
            pending.result()
        self.assertEqual(self.index.search(many, k=1).keys.shape, (len(many), 1))


class Streams(Served):
    def test_order(self) -> None:
        many = np.tile(self.data.queries, (5, 1))
        expected = self.index.search(many, k=4)
        for vectors in (many, iter(many), (row.tolist() for row in many)):
            streamed = list(self.index.stream(vectors, k=4, batch=7, window=5))
            self.assertEqual(len(streamed), len(many))
            self.assertTrue((np.stack([hits.keys for hits in streamed]) == expected.keys).all())

    def test_batches(self) -> None:
        sizes = [len(r) for r in self.index.stream_batches(self.data.queries[:20], k=1, batch=8)]
        self.assertEqual(sizes, [8, 8, 4])
        self.assertEqual(list(self.index.stream([], k=1)), [])

    def test_searches_between(self) -> None:
        expected = self.index.search(self.data.queries[:40], k=2)
        stream = self.index.stream(self.data.queries[:40], k=2, batch=3, window=4)
        for query, hits in enumerate(stream):
            self.assertEqual(hits.keys.tolist(), expected.keys[query].tolist())
            alone = self.index.search(self.data.queries[query], k=1)
            self.assertEqual(alone.keys[0, 0], hits.keys[0])

    def test_wrong_vector_in_the_midst(self) -> None:
        def vectors() -> Iterator[npt.NDArray[np.float64]]:
            for query in itertools.islice(self.data.queries, 10):
                yield query
            yield np.full(support.DIM, 0.5)

        got = []
        with self.assertRaisesRegex(ValueError, "0.5 at dimension 0"):
            for hits in self.index.stream(vectors(), k=1, batch=1, window=2):
                got.append(hits)
        self.assertEqual(len(got), 9)
        self.assertEqual(self.index.search(self.data.queries[0], k=1).keys.shape, (1, 1))


class Connections(unittest.TestCase):
    def test_nothing_there(self) -> None:
        missing = os.path.join(support.directory(), "nosuch.sock")
        with self.assertRaisesRegex(nightjar.ConnectionLost, "nosuch.sock: no socket there"):
            nightjar.connect(missing)
        with self.assertRaises(nightjar.ConnectionLost):
            nightjar.connect(support.directory())

    def test_path_longer_than_an_address(self) -> None:
        with self.assertRaisesRegex(nightjar.ConnectionLost, "ss: .*too long"):
            nightjar.connect("/tmp/" + "s" * 200)

    def test_closed(self) -> None:
        with support.daemon() as daemon:
            index = daemon.connect()
            index.close()
            index.close()
            with self.assertRaisesRegex(nightjar.ConnectionLost, "closed"):
                index.search(support.data("u8").queries[0])

    def test_restart(self) -> None:
        socket = os.path.join(support.directory(), "restarted")
        queries = support.data("u8").queries
        with support.daemon(socket=socket):
            index = nightjar.connect(socket)
            expected = index.search(queries, k=3).keys
        for _ in range(2):
            with self.assertRaises(nightjar.ConnectionLost):
                index.search(queries, k=3)
        with support.daemon(socket=socket):
            with self.assertRaises(nightjar.ConnectionLost):
                index.search(queries, k=3)
            with nightjar.connect(socket) as again:
                self.assertTrue((again.search(queries, k=3).keys == expected).all())

    def test_killed_during_a_batch(self) -> None:
        with support.daemon() as daemon, daemon.connect() as index:
            many = np.tile(support.data("u8").queries, (50, 1))
            pending = index.submit(many, k=10, search_list=1000)
            self.assertFalse(pending.done)
            os.kill(daemon.pid, signal.SIGKILL)
            with self.assertRaises(nightjar.ConnectionLost):
                pending.result()
            self.assertTrue(pending.done)

    def test_forked(self) -> None:
        with support.daemon() as daemon, daemon.connect() as index:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    index.search(support.data("u8").queries[0], k=1)
                except RuntimeError:
                    status = 0
                finally:
                    os._exit(status)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
            self.assertEqual(index.search(support.data("u8").queries[0], k=1).keys.shape, (1, 1))

    def test_a_forked_process_leaves_the_daemon(self) -> None:
        with support.daemon() as daemon:
            child = os.fork()
            if child == 0:
                try:
                    daemon.stop()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            daemon.connect().close()

    def test_all_connections_taken(self) -> None:
        with support.daemon(max_connections=1) as daemon:
            with daemon.connect():
                with self.assertRaises(nightjar.Busy):
                    daemon.connect()
            daemon.connect(busy_retries=20).close()

    def test_daemon_that_does_not_start(self) -> None:
        with self.assertRaisesRegex(local.ProgramFailed, "nosuch"):
            local.Daemon(index="nosuch")

    def test_programs_that_fail_say_why(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            said = "ts=1 level=info event=stage\nreason\nts=2 level=warn event=slow\nhint"
            for name in ("nightjar-build", "nightjard"):
                path = os.path.join(directory, name)
                with open(path, "w", encoding="utf-8") as out:
                    out.write(f"#!/bin/sh\ncat >&2 <<end\n{said}\nend\nexit 3\n")
                os.chmod(path, 0o755)
            with mock.patch.dict(os.environ, {"NIGHTJAR_BUILD": directory}):
                starts: List[Callable[[], object]]
                starts = [lambda: local.build("a", "b"), lambda: local.Daemon(index="a")]
                for start in starts:
                    with self.assertRaises(local.ProgramFailed) as caught:
                        start()
                    lines = str(caught.exception).splitlines()
                    self.assertEqual(lines, ["reason", "ts=2 level=warn event=slow", "hint"])

    def test_a_daemon_that_cannot_be_run_leaves_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            with mock.patch.object(tempfile, "tempdir", directory):
                with mock.patch.dict(os.environ, {"PATH": directory, "NIGHTJAR_BUILD": ""}):
                    with self.assertRaisesRegex(local.ProgramFailed, "not in PATH"):
                        local.Daemon(index="nosuch")
                with mock.patch.object(subprocess, "Popen", side_effect=MemoryError):
                    with self.assertRaises(MemoryError):
                        local.Daemon(index="nosuch")
            self.assertEqual(os.listdir(directory), [])


class Floats(unittest.TestCase):
    """Another element type."""

    def test_f16_and_f32(self) -> None:
        for element in ("f16", "f32"):
            data = support.data(element)
            with support.daemon(element) as daemon, daemon.connect() as index:
                self.assertEqual(index.info.element_type, element)
                result = index.search(data.queries.astype(np.float64), k=10, search_list=80)
                self.assertGreater(support.recall(result.keys, data.truth), 0.9)


if __name__ == "__main__":
    unittest.main()
