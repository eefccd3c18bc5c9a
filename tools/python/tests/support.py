"""What the tests share: a small generation, made once, and daemons that serve it.

NIGHTJAR_BUILD names the directory of the executables; tests/e2e_python.sh runs all of this.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import unittest
from dataclasses import dataclass
from typing import Any, Callable, List, TypeVar

import numpy as np
import numpy.typing as npt

import nightjar
from nightjar import local

COUNT = 4000
DIM = 24
QUERY_COUNT = 200
# Sanitizers make the daemon slow.
INSTRUMENTED = os.environ.get("NIGHTJAR_MODE", "release") != "release"


@functools.lru_cache(maxsize=None)
def directory() -> str:
    """A temporary directory for the whole run."""
    path = tempfile.mkdtemp(prefix="nightjar-python-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def year_of(row: int) -> int:
    """The attribute `year` of a vector."""
    return 1980 + row % 41


def langs_of(row: int) -> List[str]:
    """Its labels in the column `lang`."""
    return [name for divisor, name in ((2, "de"), (3, "en"), (701, "la")) if row % divisor == 0]


@dataclass(frozen=True)
class Data:
    """A generation and what it was built of; keys are 3 * row + 5."""

    generation: str
    base: npt.NDArray[Any]
    queries: npt.NDArray[Any]
    keys: npt.NDArray[np.uint64]
    truth: npt.NDArray[np.uint64]  # keys of the ten nearest


@functools.lru_cache(maxsize=None)
def data(element: str) -> Data:
    """The generation of vectors of this type."""
    suffix = {"u8": ".u8bin", "f32": ".fbin", "f16": ".f16bin"}[element]
    base, queries, truth, keys, attributes, generation = (
        os.path.join(directory(), element + name)
        for name in (".base" + suffix, ".query" + suffix, ".truth", ".keys.u64bin", ".csv", ".gen")
    )
    made = {"count": COUNT, "dim": DIM, "type": element, "query-count": QUERY_COUNT}
    outputs = ["--output", base, "--queries-output", queries]
    local.run("nightjar", "generate", *outputs, *local.options_of(made))
    arguments = ["--input", base, "--queries", queries, "--output", truth, "-k", "10"]
    local.run("nightjar", "groundtruth", *arguments)
    key_of: npt.NDArray[np.uint64] = np.arange(5, 5 + 3 * COUNT, 3, dtype=np.uint64)
    nightjar.write_keys(keys, key_of)
    with open(attributes, "w", encoding="ascii") as out:
        out.write("year:u64,lang:labels\n")
        out.writelines(f"{year_of(row)},{'|'.join(langs_of(row))}\n" for row in range(COUNT))
    local.build(base, generation, keys=keys, attributes=attributes, code_bytes=DIM)
    ids = nightjar.read_truth(truth).ids
    return Data(
        generation,
        np.array(nightjar.read_vectors(base)),
        np.array(nightjar.read_vectors(queries)),
        key_of,
        key_of[ids],
    )


def daemon(element: str = "u8", **options: object) -> local.Daemon:
    """A daemon over that generation."""
    settings = {"index": data(element).generation, "memory": "16M", "threads": 1, **options}
    return local.Daemon(**settings)  # type: ignore[arg-type]


_Test = TypeVar("_Test", bound=unittest.TestCase)


def unless_unsupported(test: Callable[[_Test], None]) -> Callable[[_Test], None]:
    """A test of what not every daemon can: skipped where it says so."""

    @functools.wraps(test)
    def run(case: _Test) -> None:
        try:
            test(case)
        except nightjar.Unsupported as error:
            case.skipTest(str(error))

    return run


def recall(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Share of the true neighbours that were found."""
    hits: List[int] = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist())]
    return sum(hits) / truth.size
