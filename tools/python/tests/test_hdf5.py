"""Data sets of ann-benchmarks to vector files and back; most of it needs h5py."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import unittest
from typing import Any, Optional, Tuple
from unittest import mock

import numpy as np
import numpy.typing as npt

import nightjar
import support
from nightjar import hdf5, local

try:
    import h5py
except ImportError:
    h5py = None


def contents_of(path: str) -> bytes:
    """What is in a file."""
    with open(path, "rb") as file:
        return file.read()


def run_main(*arguments: str) -> Tuple[int, str]:
    """The command's status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = hdf5.main(list(arguments))
    return status, out.getvalue() + err.getvalue()


class DataSet:
    """As much of h5py's data sets as is looked at."""

    name = "/train"

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        self._rows = rows
        self.shape = rows.shape

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        return self._rows[rows]


class WithoutH5py(unittest.TestCase):
    """What is done without a file of HDF5."""

    def path(self, name: str) -> str:
        return os.path.join(support.directory(), name)

    def test_it_is_missed(self) -> None:
        base = self.path("unpacked.fbin")
        nightjar.write_vectors(base, np.ones((3, 2), np.float32))
        with mock.patch.dict(sys.modules, {"h5py": None}):
            for arguments in (
                ["export", "set.hdf5", self.path("o")],
                ["pack", self.path("p.hdf5"), "--base", base, "--queries", base],
            ):
                self.assertEqual(
                    run_main(*arguments),
                    (1, "nightjar-hdf5: h5py is not installed: pip install h5py\n"),
                )

    def test_what_does_not_belong_together_is_not_packed(self) -> None:
        base, queries, truth = (self.path(n) for n in ("p.base.fbin", "p.query.fbin", "p.truth"))
        nightjar.write_vectors(base, np.ones((3, 2), np.float32))
        nightjar.write_vectors(queries, np.ones((3, 4), np.float32))
        nightjar.write_truth(
            truth, nightjar.Truth(np.zeros((2, 1), np.uint32), np.zeros((2, 1), np.float32))
        )
        for arguments, message in (
            (["--queries", queries], "dim 4, but .* has 2"),
            (["--queries", base, "--truth", truth], "of 2 queries, but there are 3"),
            (["--queries", self.path("nosuch.fbin")], "No such file"),
        ):
            status, printed = run_main("pack", self.path("p.hdf5"), "--base", base, *arguments)
            self.assertEqual(status, 1)
            self.assertRegex(printed, f"^nightjar-hdf5: .*{message}.*\n$")

    def test_rows_come_in_blocks(self) -> None:
        rows = np.arange(14, dtype=np.float64).reshape(7, 2)
        with mock.patch.object(hdf5, "_BLOCK_BYTES", 3 * 2 * 8):
            blocks = list(hdf5._blocks(DataSet(rows), np.dtype("u1")))
            self.assertEqual([len(block) for block in blocks], [3, 3, 1])
            self.assertEqual(np.concatenate(blocks).tolist(), rows.tolist())
            rows[5] = 256
            with self.assertRaisesRegex(ValueError, "from row 3: vector 2: 256.0 at dimension 0"):
                list(hdf5._blocks(DataSet(rows), np.dtype("u1")))
        with self.assertRaisesRegex(ValueError, "/train: from row 0: vectors of type complex64"):
            list(hdf5._blocks(DataSet(np.zeros((1, 2), np.complex64)), np.dtype("<f4")))


@unittest.skipIf(h5py is None, "h5py is not installed")
class Hdf5(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = os.path.join(support.directory(), self.id())
        os.makedirs(self.directory)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def dataset(self, distance: Optional[str], train: npt.NDArray[Any], k: int = 3) -> str:
        """A data set of these vectors, of which some are queries, with its neighbours."""
        path = self.path("set.hdf5")
        x = train.astype(np.float64)
        test = x[:5]
        if distance == "angular":
            lengths = np.linalg.norm(x, axis=1)
            every = 1 - (test @ x.T) / lengths[:5, np.newaxis] / lengths
        else:
            every = np.linalg.norm(test[:, np.newaxis] - x[np.newaxis], axis=2)
        ids = np.argsort(every, axis=1, kind="stable")[:, :k]
        with h5py.File(path, "w") as file:
            if distance is not None:
                file.attrs["distance"] = distance
            file["train"], file["test"] = train, train[:5]
            file["neighbors"] = ids.astype(np.int32)
            file["distances"] = np.take_along_axis(every, ids, axis=1).astype(np.float32)
        return path

    def test_truth_is_nightjars(self) -> None:
        """What is exported is what `nightjar groundtruth` finds of it."""
        random = np.random.default_rng(5)
        for distance in ("euclidean", "angular"):
            train = random.normal(size=(60, 8)).astype(np.float32)
            made = hdf5.export(self.dataset(distance, train), self.path(distance))
            again = self.path("truth")
            arguments = ["--input", made["base"], "--queries", made["query"], "--output", again]
            local.run("nightjar", "groundtruth", *arguments, "-k", "3", "--metric", made["metric"])
            exported, computed = nightjar.read_truth(made["truth"]), nightjar.read_truth(again)
            self.assertEqual(exported.ids.tolist(), computed.ids.tolist())
            np.testing.assert_allclose(exported.distances, computed.distances, rtol=1e-4, atol=1e-5)

    def test_there_and_back(self) -> None:
        train = np.random.default_rng(6).integers(0, 256, (40, 4)).astype(np.float32)
        source = self.dataset("euclidean", train)
        status, printed = run_main("export", source, self.path("out"), "--type", "u8")
        self.assertEqual((status, printed.split()[:2]), (0, ["metric", "l2"]))
        out = self.path("back.hdf5")
        arguments = [
            "--base",
            self.path("out/base.u8bin"),
            "--queries",
            self.path("out/query.u8bin"),
        ]
        status, printed = run_main("pack", out, *arguments, "--truth", self.path("out/truth.bin"))
        self.assertEqual((status, printed), (0, ""))
        with h5py.File(source) as before, h5py.File(out) as after:
            self.assertEqual(after.attrs["distance"], "euclidean")
            self.assertEqual(after.attrs["dimension"], 4)
            for name in ("train", "test", "neighbors"):
                self.assertEqual(before[name][:].tolist(), after[name][:].tolist())
            np.testing.assert_allclose(before["distances"][:], after["distances"][:], rtol=1e-6)

    def test_what_does_not_fit_is_refused(self) -> None:
        train = np.full((10, 4), 0.5, np.float32)
        status, printed = run_main(
            "export", self.dataset("euclidean", train), self.path("out"), "--type", "u8"
        )
        self.assertEqual(status, 1)
        self.assertIn(
            "/train: from row 0: vector 0: 0.5 at dimension 0 does not fit uint8", printed
        )

    def test_what_fails_leaves_what_was_there(self) -> None:
        train = np.ones((10, 4), np.float32)
        made = hdf5.export(self.dataset("euclidean", train), self.path("out"))
        before = [contents_of(made[name]) for name in ("base", "query", "truth")]
        packed = self.path("packed.hdf5")
        hdf5.pack(made["base"], made["query"], made["truth"], "l2", packed)
        train[9] = np.nan
        with self.assertRaisesRegex(ValueError, "nan"):
            hdf5.export(self.dataset("euclidean", train), self.path("out"))
        # Neighbours are looked at before the vectors, which may be many, are written.
        path = self.dataset("euclidean", np.zeros((10, 4), np.float32))
        with h5py.File(path, "a") as file:
            del file["distances"]
            file["distances"] = np.zeros((5, 2), np.float32)
        with self.assertRaisesRegex(ValueError, "a row for each of the 5 of test"):
            hdf5.export(path, self.path("out"))
        self.assertEqual([contents_of(made[name]) for name in ("base", "query", "truth")], before)
        with mock.patch.object(h5py.Group, "create_dataset", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                hdf5.pack(made["base"], made["query"], made["truth"], "l2", packed)
        with h5py.File(packed) as file:
            self.assertEqual(file["train"].shape, (10, 4))
        self.assertEqual(sorted(os.listdir(self.directory)), ["out", "packed.hdf5", "set.hdf5"])

    def test_what_is_no_number_is_refused(self) -> None:
        path = self.dataset("euclidean", np.ones((10, 4), np.float32))
        with h5py.File(path, "a") as file:
            del file["train"]
            file["train"] = np.ones((10, 4), np.complex64)
        status, printed = run_main("export", path, self.path("out"))
        self.assertEqual(status, 1)
        self.assertRegex(printed, "^nightjar-hdf5: /train: .* complex64: numbers are wanted\n$")

    def test_other_sets_are_refused(self) -> None:
        train = np.ones((10, 4), np.float32)
        for distance, message in (("jaccard", "distance 'jaccard'"), (None, "distance 'None'")):
            status, printed = run_main("export", self.dataset(distance, train), self.path("o"))
            self.assertEqual(status, 1)
            self.assertIn(message, printed)
        path = self.dataset("euclidean", train)
        with h5py.File(path, "a") as file:
            file["neighbors"][0, 0] = 10
        status, printed = run_main("export", path, self.path("o"))
        self.assertEqual(status, 1)
        self.assertIn("no row of train", printed)
        status, printed = run_main("export", self.path("nosuch.hdf5"), self.path("o"))
        self.assertEqual(status, 1)


if __name__ == "__main__":
    unittest.main()
