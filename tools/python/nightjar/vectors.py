"""What users have as vectors and keys, as arrays of the index's type.

Conversions that lose nothing are made silently: whole numbers that fit, f64 to f32 or f16 by
rounding. What would change a value otherwise (300 or 1.5 as u8, 1e300 as f32) is a ValueError.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt


def as_vectors(data: npt.ArrayLike, dim: int, dtype: "np.dtype[Any]") -> npt.NDArray[Any]:
    """`data`, one vector or rows of them, as a contiguous array of `dtype` with `dim` columns."""
    array = np.asarray(data)
    if array.ndim == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        raise ValueError(
            f"an array of {array.ndim} dimensions: a vector or rows of vectors are wanted"
        )
    if array.shape[1] != dim:
        raise ValueError(f"a vector of {array.shape[1]} elements: the index has dim {dim}")
    if array.dtype.kind not in "buif":
        raise TypeError(f"vectors of type {array.dtype}: numbers are wanted")
    converted = array
    if array.dtype != dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(dtype)
            exact = dtype.kind != "f" or array.dtype.kind != "f"
            if exact and not np.can_cast(array.dtype, dtype):
                _refuse(array, _changed(array, converted), f"does not fit {dtype.name}")
    if dtype.kind == "f":
        _refuse(array, ~np.isfinite(converted), f"is not a finite {dtype.name}")
    return np.ascontiguousarray(converted)


def _changed(array: npt.NDArray[Any], converted: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a number has become another."""
    if array.dtype.kind not in "iu" or converted.dtype.kind != "f":
        return np.asarray(array != converted)
    # These would be compared as doubles, which hold no more of 2^60 + 1 than f32 does. Back as
    # whole numbers they are compared exactly; what is too large for that was changed.
    too_large = converted.astype(np.float64) >= float(np.iinfo(array.dtype).max) + 1
    return np.asarray(too_large | (converted.astype(array.dtype) != array))


def _refuse(array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], why: str) -> None:
    """ValueError if one is wrong."""
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"vector {row}: {array[row, column]} at dimension {column} {why}")


def _exact_keys(data: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Python's integers, some beyond 2^63: NumPy would make doubles of them."""
    keys = [operator.index(item) for item in np.asarray(data, object).ravel()]
    for key in keys:
        if not 0 <= key < 1 << 64:
            raise ValueError(f"key {key}: whole numbers from 0 to 2^64 - 1 are wanted")
    return np.array(keys, np.uint64)


def as_keys(data: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """`data`, one key or several, as u64."""
    array = np.atleast_1d(np.asarray(data))
    if array.dtype.kind in "fO" and array.size and not isinstance(data, np.ndarray):
        array = _exact_keys(data)
    if array.ndim != 1:
        raise ValueError(f"keys of {array.ndim} dimensions: a list is wanted")
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "ui":
        raise TypeError(f"keys of type {array.dtype}: whole numbers from 0 to 2^64 - 1 are wanted")
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise ValueError(f"key {array.min()}: keys are not negative")
    return np.ascontiguousarray(array, "<u8")
