"""Vector files, keys and ground truth, as the commands read and write them (README, File formats).

A file whose size is not exactly what its header implies is a ValueError. Files are written under
another name first: one that is replaced stays as it is until the new one is whole, and for whoever
has it mapped, which may be the source of the new one.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Dict, Iterable, Iterator, NamedTuple, Union

import numpy as np
import numpy.typing as npt

from .vectors import as_keys

Path = Union[str, "os.PathLike[str]"]

_DTYPES: Dict[str, "np.dtype[Any]"] = {
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".f16bin": np.dtype("<f2"),
    ".fbin": np.dtype("<f4"),
    ".ibin": np.dtype("<i4"),
}
_HEADER_BYTES = 8


class Truth(NamedTuple):
    """Exact neighbours of queries; both arrays have a row a query."""

    ids: npt.NDArray[np.uint32]
    distances: npt.NDArray[np.float32]


def suffix_of(dtype: "np.dtype[Any]") -> str:
    """The suffix of vector files with elements of this type."""
    for suffix, known in _DTYPES.items():
        if known == dtype:
            return suffix
    raise ValueError(f"no vector file has elements of type {dtype}: u8, i8, f16 and f32 are known")


def _dtype_of(path: Path) -> "np.dtype[Any]":
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix not in _DTYPES:
        raise ValueError(f"{os.fspath(path)}: the suffix is none of {' '.join(_DTYPES)}")
    return _DTYPES[suffix]


def _open(path: Path, dtype: "np.dtype[Any]", extra: int = 0) -> npt.NDArray[Any]:
    """The rows of a file with a header of two u32; `extra` bytes an element follow them."""
    name = os.fspath(path)
    size = os.path.getsize(name)
    if size < _HEADER_BYTES:
        raise ValueError(f"{name}: {size} bytes: no header")
    rows, columns = (int(n) for n in np.fromfile(name, "<u4", 2))
    wanted = _HEADER_BYTES + rows * columns * (dtype.itemsize + extra)
    if size != wanted:
        raise ValueError(
            f"{name}: {size} bytes, but its header ({rows} x {columns}) implies {wanted}"
        )
    if rows * columns == 0:
        return np.empty((rows, columns), dtype)
    return np.memmap(name, dtype, "r", _HEADER_BYTES, (rows, columns))


def read_vectors(path: Path) -> npt.NDArray[Any]:
    """A .u8bin, .i8bin, .f16bin, .fbin or .ibin file, mapped into memory and read-only."""
    return _open(path, _dtype_of(path))


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """A name to write to, which becomes `path` at the end; after a failure nothing has changed."""
    temporary = f"{os.fspath(path)}.tmp-{os.getpid()}"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _write(path: Path, rows: int, columns: int, blocks: Iterable[npt.NDArray[Any]]) -> None:
    out: BinaryIO
    with replacing(path) as temporary, open(temporary, "wb") as out:
        np.array([rows, columns], "<u4").tofile(out)
        for block in blocks:
            np.ascontiguousarray(block).tofile(out)


def write_vectors(path: Path, vectors: npt.NDArray[Any]) -> None:
    """Writes rows as a vector file; their type must be that of the suffix."""
    dtype = _dtype_of(path)
    if vectors.ndim != 2 or vectors.dtype != dtype:
        raise ValueError(
            f"{os.fspath(path)}: {vectors.ndim}-D {vectors.dtype}: rows of {dtype} are wanted"
        )
    _write(path, vectors.shape[0], vectors.shape[1], [vectors])


def write_vector_blocks(
    path: Path, rows: int, dim: int, blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """The same from blocks of rows, which are `rows` together."""
    _write(path, rows, dim, (block.astype(_dtype_of(path), copy=False) for block in blocks))


def read_keys(path: Path) -> npt.NDArray[np.uint64]:
    """A .u64bin file of keys."""
    return np.array(_open(path, np.dtype("<u8")).reshape(-1))


def write_keys(path: Path, keys: npt.ArrayLike) -> None:
    """Writes keys, one for each row of a vector file, for `nightjar-build --keys`."""
    known = as_keys(keys)
    _write(path, len(known), 1, [known])


def read_truth(path: Path) -> Truth:
    """Ground truth in DiskANN's format: of `nightjar groundtruth`, and of big-ann-benchmarks."""
    ids = _open(path, np.dtype("<u4"), extra=4)
    offset = _HEADER_BYTES + ids.nbytes
    distances = np.fromfile(path, "<f4", ids.size, offset=offset).reshape(ids.shape)
    return Truth(np.array(ids), distances)


def write_truth(path: Path, truth: Truth) -> None:
    """Writes ground truth."""
    if truth.ids.shape != truth.distances.shape or truth.ids.ndim != 2:
        raise ValueError("ids and distances are 2-D and of one shape")
    blocks = [np.asarray(truth.ids, "<u4"), np.asarray(truth.distances, "<f4")]
    _write(path, truth.ids.shape[0], truth.ids.shape[1], blocks)
