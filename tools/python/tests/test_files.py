"""Vector files, keys and ground truth as the commands read and write them."""

from __future__ import annotations

import os
import unittest

import numpy as np

import nightjar
import support
from nightjar import files, local


class Files(unittest.TestCase):
    def path(self, name: str) -> str:
        return os.path.join(support.directory(), name)

    def test_each_type_comes_back(self) -> None:
        for suffix, dtype in (
            (".u8bin", "u1"),
            (".i8bin", "i1"),
            (".f16bin", "<f2"),
            (".fbin", "<f4"),
        ):
            rows = np.arange(12).reshape(4, 3).astype(dtype)
            path = self.path("written" + suffix)
            nightjar.write_vectors(path, rows)
            again = nightjar.read_vectors(path)
            self.assertEqual((again.dtype, again.tolist()), (rows.dtype, rows.tolist()))
            # The commands read it too.
            npy = self.path("written.npy")
            local.run("nightjar", "convert", "--input", path, "--output", npy)
            self.assertEqual(np.load(npy).tolist(), rows.tolist())
            self.assertEqual(files.suffix_of(rows.dtype), suffix)

    def test_truth_and_keys_come_back(self) -> None:
        truth = nightjar.Truth(
            np.array([[1, 2], [3, 4]], np.uint32), np.array([[0.5, 1], [2, 3]], np.float32)
        )
        nightjar.write_truth(self.path("truth"), truth)
        again = nightjar.read_truth(self.path("truth"))
        self.assertEqual(again.ids.tolist(), truth.ids.tolist())
        self.assertEqual(again.distances.tolist(), truth.distances.tolist())
        keys = np.array([2**64 - 1, 0], np.uint64)
        nightjar.write_keys(self.path("keys.u64bin"), keys)
        self.assertEqual(nightjar.read_keys(self.path("keys.u64bin")).tolist(), keys.tolist())

    def test_wrong_files_are_refused(self) -> None:
        path = self.path("short.u8bin")
        for content, message in (
            (b"", "0 bytes: no header"),
            (np.array([2, 3], "<u4").tobytes() + b"12345", r"\(2 x 3\) implies 14"),
            (np.array([2, 3], "<u4").tobytes() + b"1234567", r"\(2 x 3\) implies 14"),
        ):
            with open(path, "wb") as out:
                out.write(content)
            with self.assertRaisesRegex(ValueError, message):
                nightjar.read_vectors(path)
        with self.assertRaisesRegex(ValueError, "suffix"):
            nightjar.read_vectors(self.path("a.txt"))
        with self.assertRaisesRegex(ValueError, "float64"):
            nightjar.write_vectors(path, np.zeros((2, 3)))


if __name__ == "__main__":
    unittest.main()
