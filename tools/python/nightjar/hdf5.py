"""nightjar-hdf5: data sets of ann-benchmarks (HDF5) to vector files and ground truth, and back.

A data set has `train`, `test`, `neighbors` (rows of train) and `distances`, and the attribute
`distance`: angular (1 - cosine, Nightjar's cosine), euclidean (the root of Nightjar's l2), or ip.
Needs h5py, as nothing else here does.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import numpy.typing as npt

from . import files
from .vectors import as_vectors
from .version import __version__

METRIC_OF = {"euclidean": "l2", "angular": "cosine", "ip": "ip", "dot": "ip"}
_DISTANCE_OF = {"l2": "euclidean", "cosine": "angular", "ip": "ip"}
_DTYPE_OF: Dict[str, "np.dtype[Any]"] = {
    "u8": np.dtype("u1"),
    "i8": np.dtype("i1"),
    "f16": np.dtype("<f2"),
    "f32": np.dtype("<f4"),
}
_BLOCK_BYTES = 64 << 20


def _blocks(dataset: Any, dtype: "np.dtype[Any]") -> Iterator[npt.NDArray[Any]]:
    """The rows of a data set as `dtype`, some megabytes at a time; ValueError: they do not fit."""
    rows, dim = dataset.shape
    step = max(1, _BLOCK_BYTES // max(1, dim * 8))
    for first in range(0, rows, step):
        try:
            yield as_vectors(dataset[first : first + step], dim, dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{dataset.name}: from row {first}: {error}") from None


def _dataset(file: Any, name: str, path: str) -> Any:
    if name not in file:
        raise ValueError(f"{path}: no data set '{name}': train and test are wanted")
    dataset = file[name]
    if getattr(dataset, "ndim", 0) != 2:
        raise ValueError(f"{path}: '{name}' has no rows of vectors; sparse sets are not supported")
    return dataset


def _default_type(dataset: Any) -> str:
    for name, dtype in _DTYPE_OF.items():
        if dataset.dtype == dtype:
            return name
    return "f32"


def export(path: str, output: str, element_type: Optional[str] = None) -> Dict[str, str]:
    """Writes base.*, query.* and, if there are neighbours, truth.bin into the directory `output`.

    Elements become `element_type` (u8, i8, f16, f32; else the file's own, f32 for f64), which
    must hold them. Returns the files' paths and the metric.
    """
    import h5py

    with h5py.File(path, "r") as file:
        distance = file.attrs.get("distance")
        if isinstance(distance, bytes):
            distance = distance.decode()
        if distance not in METRIC_OF:
            raise ValueError(f"{path}: distance '{distance}': want one of {' '.join(METRIC_OF)}")
        train, test = _dataset(file, "train", path), _dataset(file, "test", path)
        dtype = _DTYPE_OF[element_type or _default_type(train)]
        truth = _truth_of(file, METRIC_OF[distance]) if "neighbors" in file else None
        suffix = files.suffix_of(dtype)
        os.makedirs(output, exist_ok=True)
        made = {"metric": METRIC_OF[distance]}
        for name, rows in (("base", train), ("query", test)):
            made[name] = os.path.join(output, name + suffix)
            count, dim = rows.shape
            files.write_vector_blocks(made[name], count, dim, _blocks(rows, dtype))
        if truth is not None:
            made["truth"] = os.path.join(output, "truth.bin")
            files.write_truth(made["truth"], truth)
    return made


def _truth_of(file: Any, metric: str) -> files.Truth:
    ids = np.asarray(file["neighbors"])
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= len(file["train"])):
        raise ValueError(f"{file.filename}: neighbors: an id that is no row of train")
    if "distances" in file:
        distances = np.asarray(file["distances"], np.float64)
        distances = distances**2 if metric == "l2" else distances
    else:
        distances = np.full(ids.shape, np.inf)
    if ids.ndim != 2 or ids.shape != distances.shape or len(ids) != len(file["test"]):
        raise ValueError(
            f"{file.filename}: neighbors {ids.shape} and distances {distances.shape}: "
            f"a row for each of the {len(file['test'])} of test is wanted"
        )
    return files.Truth(ids.astype(np.uint32), distances.astype(np.float32))


def pack(base: str, queries: str, truth: Optional[str], metric: str, output: str) -> None:
    """Writes a data set of vector files and ground truth (of `nightjar groundtruth`)."""
    train, test = files.read_vectors(base), files.read_vectors(queries)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"{queries}: dim {test.shape[1]}, but {base} has {train.shape[1]}")
    neighbours = None if truth is None else files.read_truth(truth)
    if neighbours is not None and len(neighbours.ids) != len(test):
        raise ValueError(f"{truth}: of {len(neighbours.ids)} queries, but there are {len(test)}")
    import h5py

    with files.replacing(output) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["type"] = "dense"
        file.attrs["distance"] = _DISTANCE_OF[metric]
        file.attrs["dimension"] = train.shape[1]
        file.attrs["point_type"] = "float"
        # The harness computes with them, and bytes would wrap around.
        file.create_dataset("train", data=train, dtype="<f4")
        file.create_dataset("test", data=test, dtype="<f4")
        if neighbours is not None:
            distances = neighbours.distances
            file.create_dataset("neighbors", data=neighbours.ids.astype("<i4"))
            file.create_dataset(
                "distances", data=np.sqrt(distances) if metric == "l2" else distances
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nightjar-hdf5",
        description="Convert data sets of ann-benchmarks to vector files and truth, and back.",
    )
    parser.add_argument("--version", action="version", version=f"nightjar-hdf5 {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="write base.*, query.* and truth.bin of an HDF5 file")
    out.add_argument("input", help="HDF5 file")
    out.add_argument("output", help="directory to write to")
    out.add_argument("--type", choices=list(_DTYPE_OF), help="element type; default: the file's")
    into = commands.add_parser("pack", help="write an HDF5 file of vector files")
    into.add_argument("output", help="HDF5 file")
    into.add_argument("--base", required=True, help="vector file of the vectors")
    into.add_argument("--queries", required=True, help="vector file of the queries")
    into.add_argument("--truth", help="ground truth of `nightjar groundtruth`")
    into.add_argument("--metric", choices=list(_DISTANCE_OF), default="l2")
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """The command."""
    args = _parser().parse_args(arguments)
    try:
        if args.command == "export":
            for name, value in export(args.input, args.output, args.type).items():
                print(f"{name} {value}")
        else:
            pack(args.base, args.queries, args.truth, args.metric, args.output)
    except ImportError:
        print("nightjar-hdf5: h5py is not installed: pip install h5py", file=sys.stderr)
        return 1
    except (OSError, TypeError, ValueError) as error:
        print(f"nightjar-hdf5: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
