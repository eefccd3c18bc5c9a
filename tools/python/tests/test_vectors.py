"""Conversions of what users pass: lossless ones are silent, others are refused."""

from __future__ import annotations

import unittest
from typing import Any, List

import numpy as np

from nightjar.vectors import as_keys, as_vectors

U8 = np.dtype("u1")
F16 = np.dtype("<f2")
F32 = np.dtype("<f4")


class Vectors(unittest.TestCase):
    def refused(self, message: str, data: Any, dtype: "np.dtype[Any]") -> None:
        with self.assertRaisesRegex(ValueError, message):
            as_vectors(data, 2, dtype)

    def test_one_vector_is_a_row(self) -> None:
        self.assertEqual(as_vectors([1, 2], 2, U8).tolist(), [[1, 2]])
        self.assertEqual(as_vectors(np.zeros((3, 2)), 2, F32).shape, (3, 2))

    def test_nothing_is_copied_that_fits(self) -> None:
        rows = np.zeros((3, 2), np.float32)
        self.assertTrue(np.shares_memory(as_vectors(rows, 2, F32), rows))

    def test_result_is_contiguous(self) -> None:
        rows = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
        converted = as_vectors(rows, 2, F32)
        self.assertTrue(converted.flags.c_contiguous)
        self.assertEqual(converted.tolist(), rows.tolist())

    def test_wrong_shapes_are_refused(self) -> None:
        self.refused("3 elements: the index has dim 2", [1, 2, 3], U8)
        self.refused("3 dimensions", np.zeros((1, 1, 2)), U8)
        self.refused("0 dimensions", 7, U8)

    def test_floats_are_rounded_to_floats(self) -> None:
        self.assertEqual(as_vectors(np.array([0.1, 1e-9]), 2, F32).dtype, F32)
        self.assertEqual(as_vectors(np.array([0.1, 1.0]), 2, F16).dtype, F16)
        self.refused("vector 0: 1e.300 at dimension 1 is not a finite float32", [0.0, 1e300], F32)
        self.refused("not a finite float16", np.array([[0, 1e5]], np.float32), F16)

    def test_whole_numbers_must_fit(self) -> None:
        self.assertEqual(as_vectors([[0.0, 255.0]], 2, U8).tolist(), [[0, 255]])
        self.refused("vector 1: 256 at dimension 0 does not fit uint8", [[0, 1], [256, 0]], U8)
        self.refused("-1 at dimension 1", [[0, -1]], U8)
        self.refused("1.5 at dimension 0", [[1.5, 0]], U8)
        self.refused("nan", [[np.nan, 0]], U8)
        self.refused("16777217 at dimension 0 does not fit float32", [[(1 << 24) + 1, 0]], F32)

    def test_large_whole_numbers_are_compared_exactly(self) -> None:
        for exact in (-(2**63), -(2**31), 2**60, 2**62, 0):
            self.assertEqual(as_vectors(np.array([[exact, 0]]), 2, F32)[0, 0], exact)
        self.assertEqual(as_vectors(np.array([2**63, 0], np.uint64), 2, F32)[0, 0], 2.0**63)
        for wrong in (2**60 + 1, 2**63 - 1, 1 - 2**63):
            self.refused(f"{wrong} at dimension 1 does not fit float32", [[0, wrong]], F32)
        self.refused(f"{2**64 - 1} at dim", np.array([[0, 2**64 - 1]], np.uint64), F32)
        self.refused(f"{2**31 - 1} at dim", np.array([[0, 2**31 - 1]], np.int32), F32)
        self.assertEqual(
            as_vectors(np.array([[-(2**31), 0]], np.int32), 2, F32)[0, 0], -(2**31)
        )
        self.refused("70000 at dimension 0 does not fit float16", [[70000, 0]], F16)
        self.refused("-70000 at dimension 0", [[-70000, 0]], F16)

    def test_not_finite_is_refused(self) -> None:
        self.refused("vector 1: nan at dimension 0", [[0, 0], [np.nan, 0]], F32)
        self.refused("inf at dimension 1", np.array([[0, np.inf]], np.float32), F32)

    def test_what_is_no_number_is_refused(self) -> None:
        wrong: List[Any] = [["a", "b"], [None, None], np.zeros(2, np.complex64)]
        for data in wrong:
            with self.assertRaises(TypeError):
                as_vectors(data, 2, F32)

    def test_keys(self) -> None:
        self.assertEqual(as_keys([1, 2**63 + 1]).tolist(), [1, 2**63 + 1])
        self.assertEqual(as_keys(7).tolist(), [7])
        self.assertEqual(as_keys([]).shape, (0,))
        with self.assertRaisesRegex(ValueError, "key -1"):
            as_keys([3, -1])
        for beyond in (-1, 2**64):
            with self.assertRaises(ValueError):
                as_keys([2**63 + 1, beyond])
        with self.assertRaises(TypeError):
            as_keys([2**63 + 1, 1.0])
        wrong: List[Any] = [[1.0], ["a"]]
        for data in wrong:
            with self.assertRaises(TypeError):
                as_keys(data)
        with self.assertRaises(ValueError):
            as_keys([[1]])


if __name__ == "__main__":
    unittest.main()
