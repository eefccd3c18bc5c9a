"""The adaptors for benchmarks: as their harnesses call them, with the real executables."""

from __future__ import annotations

import importlib.util
import os
import sys
import unittest
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Tuple
from unittest import mock

import numpy as np
import numpy.typing as npt

import nightjar
import support
from nightjar import local

_BENCHMARKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benchmarks")


def load(path: str) -> ModuleType:
    """A module of benchmarks/, which is no package."""
    name = os.path.basename(path)[: -len(".py")]
    spec = importlib.util.spec_from_file_location(name, os.path.join(_BENCHMARKS, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def nearest(base: npt.NDArray[Any], queries: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Rows by squared distance, by brute force."""
    return np.argsort(distances(base, queries), axis=1, kind="stable")[:, :k]


def distances(base: npt.NDArray[Any], queries: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """All squared distances."""
    difference = queries[:, np.newaxis, :].astype(np.float64) - base[np.newaxis].astype(np.float64)
    squared: npt.NDArray[np.float64] = (difference**2).sum(axis=2)
    return squared


class AnnBenchmarks(unittest.TestCase):
    module: Any

    @classmethod
    def setUpClass(cls) -> None:
        cls.module = load("ann_benchmarks/nightjar/module.py")

    def setUp(self) -> None:
        data = support.data("f32")
        self.base, self.queries = data.base[:2000], data.queries[:50]

    def algorithm(self, metric: str, **options: Any) -> Any:
        algorithm = self.module.Nightjar(metric, {"serve": {"memory": "16M"}, **options})
        self.addCleanup(algorithm.done)
        return algorithm

    def test_euclidean(self) -> None:
        algorithm = self.algorithm("euclidean", degree=32)
        self.assertEqual(algorithm.get_memory_usage(), 0)
        algorithm.fit(self.base)
        self.assertGreater(algorithm.get_memory_usage(), 1000)
        algorithm.set_query_arguments(80)
        truth = nearest(self.base, self.queries, 10)
        alone = np.stack([algorithm.query(query, 10) for query in self.queries])
        self.assertGreater(support.recall(alone, truth), 0.9)
        algorithm.batch_query(self.queries, 10)
        self.assertEqual(np.stack(algorithm.get_batch_results()).tolist(), alone.tolist())
        self.assertIn("reads", algorithm.get_additional())
        self.assertIn("search_list 80", str(algorithm))
        # A list shorter than k is lengthened.
        algorithm.set_query_arguments(5, 1.1)
        self.assertEqual(len(algorithm.query(self.queries[0], 10)), 10)
        algorithm.done()
        algorithm.done()

    def test_angular_with_zero_vectors(self) -> None:
        base = self.base.astype(np.float64)
        base[[0, 7, 1999]] = 0
        algorithm = self.algorithm("angular")
        algorithm.fit(base)
        algorithm.set_query_arguments(80)
        kept = np.flatnonzero(base.any(axis=1))
        directions = base[kept] / np.linalg.norm(base[kept], axis=1, keepdims=True)
        lengths = np.linalg.norm(self.queries, axis=1, keepdims=True)
        truth = kept[nearest(directions, self.queries / lengths, 10)]
        found = np.stack([algorithm.query(query, 10) for query in self.queries])
        self.assertGreater(support.recall(found, truth), 0.9)

    def test_other_distances_are_refused(self) -> None:
        with self.assertRaises(NotImplementedError):
            self.module.Nightjar("jaccard", {})

    def test_a_failing_build_says_why(self) -> None:
        with self.assertRaisesRegex(local.ProgramFailed, "no-such-option"):
            self.algorithm("euclidean", no_such_option=1).fit(self.base)


class Csr(NamedTuple):
    """As much of SciPy's CSR matrix as adaptors look at."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]


def csr(rows: List[List[int]]) -> Csr:
    """A matrix in which row i has these columns set."""
    indptr = np.cumsum([0] + [len(row) for row in rows])
    return Csr(indptr, np.array([tag for row in rows for tag in row], np.int32))


class DataSet:
    """A data set of big-ann-benchmarks, on disk in its format without a telling name."""

    dtype = "uint8"

    def __init__(self, kind: str = "knn") -> None:
        self._kind = kind
        data = support.data("u8")
        self.base, self.queries = data.base[:2000], data.queries[:50]
        self.nb, self.d = self.base.shape
        random = np.random.default_rng(1)
        self.tags = [
            sorted(random.choice(20, random.integers(0, 6), replace=False).tolist())
            for _ in range(self.nb)
        ]

    def short_name(self) -> str:
        return f"{self._kind}-{self.nb}"

    def search_type(self) -> str:
        return self._kind

    def get_dataset_fn(self) -> str:
        path = os.path.join(support.directory(), "data.u8bin.crop_nb_2000")
        nightjar.write_vectors(path[: -len(".crop_nb_2000")], self.base)
        os.replace(path[: -len(".crop_nb_2000")], path)
        return path

    def get_dataset_metadata(self) -> Csr:
        return csr(self.tags)


class BigAnnBenchmarks(unittest.TestCase):
    module: Any

    @classmethod
    def setUpClass(cls) -> None:
        cls.module = load("big_ann_benchmarks/nightjar/nightjar_ann.py")
        for kind in ("knn", "range", "knn_filtered"):
            cls.module.DATASETS[kind] = lambda kind=kind: DataSet(kind)

    def algorithm(self, **options: Any) -> Any:
        settings: Dict[str, Any] = {"index_dir": os.path.join(support.directory(), "indices")}
        algorithm = self.module.Nightjar(
            "euclidean", {"serve": {"memory": "16M"}, **settings, **options}
        )
        self.addCleanup(algorithm.done)
        return algorithm

    def fitted(self, kind: str) -> Tuple[Any, DataSet]:
        algorithm = self.algorithm()
        if not algorithm.load_index(kind):
            algorithm.fit(kind)
        return algorithm, DataSet(kind)

    def test_nearest(self) -> None:
        algorithm = self.algorithm(degree=32)
        self.assertFalse(algorithm.load_index("knn"))
        algorithm.fit("knn")
        data = DataSet()
        algorithm.set_query_arguments({"search_list": 80})
        algorithm.query(data.queries, 10)
        found = algorithm.get_results()
        self.assertEqual(found.shape, (50, 10))
        self.assertGreater(support.recall(found, nearest(data.base, data.queries, 10)), 0.95)
        self.assertGreater(algorithm.get_memory_usage(), 1000)
        # Another run finds the index, and only with the same options.
        again = self.algorithm(degree=32)
        self.assertTrue(again.load_index("knn"))
        again.set_query_arguments({"search_list": 80})
        again.query(data.queries, 10)
        self.assertEqual(again.get_results().tolist(), found.tolist())
        self.assertFalse(self.algorithm(degree=33).load_index("knn"))
        directory, prefix, names = again.index_files_to_store("knn")
        self.assertTrue(os.path.exists(os.path.join(directory, prefix + names[0])))

    def test_range(self) -> None:
        algorithm, data = self.fitted("range")
        every = distances(data.base, data.queries)
        radius = float(np.sort(every, axis=1)[:, 20].mean())
        algorithm.set_query_arguments({"search_list": 500, "range_cap": 500})
        algorithm.range_query(data.queries, radius)
        limits, near, rows = algorithm.get_range_results()
        self.assertEqual((len(limits), limits[-1], len(near)), (51, len(rows), len(rows)))
        self.assertTrue((near <= radius).all())
        of_query = np.repeat(np.arange(50), np.diff(limits))
        self.assertTrue((every[of_query, rows] == near).all())
        self.assertGreater(len(rows) / int((every <= radius).sum()), 0.95)
        self.assertEqual(algorithm.get_additional()["truncated"], 0)
        algorithm.set_query_arguments({"search_list": 40, "range_cap": 2})
        algorithm.range_query(data.queries, radius)
        self.assertGreater(algorithm.get_additional()["truncated"], 0)

    def test_filtered(self) -> None:
        algorithm, data = self.fitted("knn_filtered")
        # One tag, two tags, none, and one that no vector has.
        wanted: List[List[int]] = [[3], [7, 2], [], [99]]
        wanted = wanted * 12 + [[0], [1]]
        algorithm.set_query_arguments({"search_list": 100})
        algorithm.filtered_query(data.queries, csr(wanted), 5)
        found = algorithm.get_results()
        every = distances(data.base, data.queries)
        hits = total = 0
        for query, tags in enumerate(wanted):
            allowed = [row for row, has in enumerate(data.tags) if set(tags) <= set(has)]
            truth = sorted(allowed, key=lambda row: (every[query, row], row))[:5]
            rows = [row for row in found[query].tolist() if row >= 0]
            self.assertTrue(set(rows) <= set(allowed))
            hits += len(set(rows) & set(truth))
            total += len(truth)
        self.assertGreater(hits / total, 0.95)

    def test_a_build_that_was_stopped_goes_on_with_the_same_files(self) -> None:
        seen: List[List[Tuple[str, int, int]]] = []
        build = local.build
        stop = [True, False]

        def stopped(base: str, generation: str, **options: Any) -> None:
            status = [(path, os.stat(path)) for path in (base, options["attributes"])]
            seen.append([(path, s.st_ino, s.st_mtime_ns) for path, s in status])
            if stop.pop(0):
                raise local.ProgramFailed("stopped")
            build(base, generation, **options)

        support.data("u8")  # is built too
        algorithm = self.algorithm(degree=34)
        directory = os.path.join(support.directory(), "indices")
        with mock.patch.object(self.module.local, "build", stopped):
            # A stop while the tags are written leaves none.
            with mock.patch.object(self.module, "_tags_of_rows", side_effect=KeyboardInterrupt):
                with self.assertRaises(KeyboardInterrupt):
                    algorithm.fit("knn_filtered")
            self.assertFalse([name for name in os.listdir(directory) if ".csv" in name])
            with self.assertRaises(local.ProgramFailed):
                algorithm.fit("knn_filtered")
            algorithm.fit("knn_filtered")
        self.assertEqual(seen[0], seen[1])
        self.assertFalse([name for name in os.listdir(directory) if ".csv" in name])


if __name__ == "__main__":
    unittest.main()
