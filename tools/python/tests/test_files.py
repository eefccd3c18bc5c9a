"""Vector files, keys and ground truth as the commands read and write them."""

from __future__ import annotations

import os
import unittest
from typing import Iterator, List, Tuple, Type

import numpy as np
import numpy.typing as npt

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

    def test_keys_are_written_as_they_are(self) -> None:
        path = self.path("exact.u64bin")
        nightjar.write_keys(path, [2**64 - 1, 0])
        wrong: List[Tuple[npt.ArrayLike, Type[Exception]]] = [
            (np.array([-1, 2]), ValueError),
            (np.array([1.5, 2.0]), TypeError),
            (np.array([[1, 2], [3, 4]]), ValueError),
        ]
        for keys, error in wrong:
            with self.assertRaises(error):
                nightjar.write_keys(path, keys)
        self.assertEqual(nightjar.read_keys(path).tolist(), [2**64 - 1, 0])

    def test_a_file_may_be_written_from_itself(self) -> None:
        path = self.path("itself.fbin")
        rows = np.arange(40000, dtype="<f4").reshape(10000, 4)
        nightjar.write_vectors(path, rows)
        # A mapping of what is cut off would end the process.
        nightjar.write_vectors(path, nightjar.read_vectors(path)[1:])
        self.assertEqual(nightjar.read_vectors(path).tolist(), rows[1:].tolist())

    def test_what_fails_leaves_what_was_there(self) -> None:
        def failing() -> Iterator[npt.NDArray[np.float32]]:
            yield rows
            raise OSError("no more")

        directory = self.path("replaced")
        os.mkdir(directory)
        rows = np.ones((2, 3), np.float32)
        path = os.path.join(directory, "a.fbin")
        nightjar.write_vectors(path, rows)
        with self.assertRaisesRegex(OSError, "no more"):
            files.write_vector_blocks(path, 4, 3, failing())
        self.assertEqual(nightjar.read_vectors(path).tolist(), rows.tolist())
        self.assertEqual(os.listdir(directory), ["a.fbin"])
        with self.assertRaises(FileNotFoundError):
            nightjar.write_vectors(os.path.join(directory, "no", "b.fbin"), rows)

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
