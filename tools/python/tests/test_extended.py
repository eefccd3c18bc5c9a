"""Filters, radii, pages, recall targets and keys, against a nightjard over made-up vectors."""

from __future__ import annotations

import unittest
from typing import Any, Callable, List, Tuple

import numpy as np
import numpy.typing as npt

import nightjar
import support
from nightjar import local


class Extended(unittest.TestCase):
    data: support.Data
    daemon: local.Daemon
    every: npt.NDArray[np.float64]  # squared distances of all queries to all rows

    @classmethod
    def setUpClass(cls) -> None:
        cls.data = support.data("u8")
        cls.daemon = support.daemon()
        cls.addClassCleanup(cls.daemon.stop)
        base, queries = (a.astype(np.float64) for a in (cls.data.base, cls.data.queries))
        cls.every = ((queries[:, np.newaxis] - base[np.newaxis]) ** 2).sum(axis=2)

    def setUp(self) -> None:
        self.index = self.daemon.connect()
        self.addCleanup(self.index.close)

    def rows(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The rows that have these keys."""
        return ((keys - np.uint64(5)) // np.uint64(3)).astype(np.int64)

    def nearest(self, query: int, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The rows that are allowed, nearest first."""
        rows = np.flatnonzero(allowed)
        return rows[np.argsort(self.every[query, rows], kind="stable")]


class Filters(Extended):
    def test_only_what_matches_is_found(self) -> None:
        every = range(support.COUNT)
        cases: List[Tuple[str, Callable[[int], bool]]] = [
            ("year >= 2000", lambda row: support.year_of(row) >= 2000),
            ('lang = "la"', lambda row: "la" in support.langs_of(row)),
            (
                'year in (1990, 1991) and not lang any ("de", "en")',
                lambda row: support.year_of(row) in (1990, 1991)
                and not {"de", "en"} & set(support.langs_of(row)),
            ),
            ('lang = "none of them"', lambda row: False),
        ]
        for text, matches in cases:
            allowed = np.array([matches(row) for row in every])
            result = self.index.search(self.data.queries, k=5, search_list=100, filter=text)
            hits = total = 0
            for query, found in enumerate(result):
                truth = self.nearest(query, allowed)[:5]
                rows = self.rows(found.keys)
                self.assertTrue(allowed[rows].all(), text)
                self.assertTrue((self.every[query, rows] == found.distances).all())
                hits += len(set(rows) & set(truth))
                total += len(truth)
            self.assertGreaterEqual(hits, 0.95 * total, text)
            assert result.chosen is not None
            estimate, count = result.chosen.match_estimate, int(allowed.sum())
            self.assertLess(abs(estimate - count), 0.2 * support.COUNT)
            if count == 0:
                self.assertEqual((result.chosen.filter_plan, estimate), ("nothing", 0))

    def test_wrong_filters_are_named(self) -> None:
        for text, message in (
            ("yeer > 1", "yeer"),
            ('year = "x"', "number"),
            ("year >", "filter"),
        ):
            with self.assertRaisesRegex(nightjar.InvalidRequest, message):
                self.index.search(self.data.queries[0], filter=text)
        self.assertEqual(self.index.search(self.data.queries[0], filter="").counts[0], 10)


class Radii(Extended):
    def test_all_within_are_found(self) -> None:
        radius = float(np.median(np.sort(self.every, axis=1)[:, 30]))
        result = self.index.search(self.data.queries, k=1000, search_list=1000, radius=radius)
        hits = 0
        for query, found in enumerate(result):
            self.assertTrue((found.distances <= radius).all())
            truth = np.flatnonzero(self.every[query] <= radius)
            rows = self.rows(found.keys)
            self.assertTrue(set(rows) <= set(truth))
            hits += len(rows)
        self.assertGreater(hits, 0.98 * int((self.every <= radius).sum()))
        self.assertFalse(result.truncated.all())
        few = self.index.search(self.data.queries, k=2, search_list=100, radius=radius)
        more = (self.every <= radius).sum(axis=1) > 2
        self.assertTrue(few.truncated[more].all())

    def test_wrong_radii(self) -> None:
        with self.assertRaisesRegex(nightjar.InvalidRequest, "radius -1"):
            self.index.search(self.data.queries[0], radius=-1)


class Pages(Extended):
    def test_pages_are_one_long_answer(self) -> None:
        for query in self.data.queries[:10]:
            whole = self.index.search(query, k=60, search_list=400)
            pages = self.index.pages(query, k=20, search_list=400)
            found = [next(pages) for _ in range(3)]
            pages.close()
            keys = np.concatenate([page.keys[0] for page in found])
            self.assertEqual(len(set(keys.tolist())), 60)
            self.assertGreater(support.recall(keys[np.newaxis], whole.keys), 0.95)
            distances = np.concatenate([page.distances[0] for page in found])
            self.assertTrue((np.diff(distances) >= 0).all())

    def test_they_end(self) -> None:
        radius = float(np.sort(self.every[0])[25])
        pages = list(self.index.pages(self.data.queries[0], k=10, search_list=500, radius=radius))
        self.assertEqual(sum(int(page.counts[0]) for page in pages), 26)
        self.assertTrue(all(page.counts[0] == 10 for page in pages[:2]))


class RecallTargets(Extended):
    @support.unless_unsupported
    def test_what_was_aimed_at_is_found(self) -> None:
        lists = []
        for target in (0.8, 0.99):
            result = self.index.search(self.data.queries, k=10, recall=target)
            assert result.chosen is not None
            lists.append(result.chosen.search_list)
            self.assertGreater(support.recall(result.keys, self.data.truth), target - 0.1)
            self.assertGreater(result.chosen.expected_recall, 0)
        self.assertLessEqual(lists[0], lists[1])


class Keys(Extended):
    @support.unless_unsupported
    def test_vectors_by_key(self) -> None:
        keys = np.concatenate([self.data.keys[::-1], np.array([0, 1, 2**64 - 1], np.uint64)])
        result = self.index.fetch(keys)
        self.assertEqual(result.found.tolist(), [True] * support.COUNT + [False] * 3)
        self.assertEqual(result.vectors.dtype, np.uint8)
        self.assertTrue((result.vectors[:-3] == self.data.base[::-1]).all())
        self.assertFalse(result.vectors[-3:].any())
        self.assertEqual(self.index.exists(keys).tolist(), result.found.tolist())
        self.assertEqual(self.index.exists([5, 6]).tolist(), [True, False])

    @support.unless_unsupported
    def test_more_like_this(self) -> None:
        rows = np.arange(0, support.COUNT, 40)
        found = self.index.search(keys=self.data.keys[rows], k=5, search_list=100)
        base = self.data.base.astype(np.float64)
        hits = 0
        for place, row in enumerate(rows.tolist()):
            distances = ((base - base[row]) ** 2).sum(axis=1)
            distances[row] = np.inf
            truth = np.argsort(distances, kind="stable")[:5]
            keys = found.hits(place).keys
            self.assertNotIn(self.data.keys[row], keys)
            hits += len(set(self.rows(keys)) & set(truth))
        self.assertGreater(hits, 0.95 * 5 * len(rows))
        self.assertFalse(found.unknown_key.any())
        unknown = self.index.search(keys=[5, 6], k=3)
        self.assertEqual(unknown.unknown_key.tolist(), [False, True])
        self.assertEqual(unknown.counts.tolist(), [3, 0])

    @support.unless_unsupported
    def test_pages_by_key(self) -> None:
        pages = self.index.pages(key=5, k=10, search_list=200)
        seen: List[Any] = []
        for _ in range(3):
            seen += next(pages).keys[0].tolist()
        self.assertEqual(len(set(seen)), 30)
        self.assertNotIn(5, seen)


if __name__ == "__main__":
    unittest.main()
