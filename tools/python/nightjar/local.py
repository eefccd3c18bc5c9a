"""Builds an index and serves it, with the executables on this machine: for benchmarks and tests.

The executables are looked for in the directory that the environment variable NIGHTJAR_BUILD names,
then in PATH.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, List, Mapping, Optional, Type, Union

from .errors import Busy, ConnectionLost, NightjarError
from .index import Index, connect

Path = Union[str, "os.PathLike[str]"]
Options = Mapping[str, object]

# Lines of the programs' log (common/log.h) that tell of no fault.
_PROGRESS = re.compile(r"ts=\S+ level=info ")
_START_S_MAX = 600.0
_STOP_S_MAX = 30.0


class ProgramFailed(NightjarError):
    """One of the executables is missing or failed; the message is what it said, without progress."""


def program(name: str) -> str:
    """The path of an executable."""
    directory = os.environ.get("NIGHTJAR_BUILD", "")
    found = shutil.which(name, path=directory) if directory else None
    found = found or shutil.which(name)
    if found is None:
        raise ProgramFailed(f"{name} is not in PATH: `make install`, or set NIGHTJAR_BUILD")
    return found


def options_of(options: Options) -> List[str]:
    """{"code_bytes": 32} as --code-bytes 32; True: without a value; None, False: not at all."""
    arguments: List[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments.append(str(value))
    return arguments


def _reason(output: str) -> str:
    """What a program wrote to stderr when it failed: not its last line alone, which may be a hint."""
    lines = output.strip().splitlines()
    return "\n".join(line for line in lines if not _PROGRESS.match(line))


def run(name: str, *arguments: str) -> str:
    """Runs an executable to its end; returns what it printed."""
    done = subprocess.run(
        [program(name), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise ProgramFailed(_reason(done.stderr) or f"{name}: status {done.returncode}")
    return done.stdout


def build(vectors: Path, output: Path, **options: object) -> None:
    """`nightjar-build`; options as keywords: metric="cosine", code_bytes=48, keys=PATH, ..."""
    arguments = ["--input", os.fspath(vectors), "--output", os.fspath(output), "--quiet"]
    run("nightjar-build", *arguments, *options_of(options))


class Daemon:
    """A `nightjard` with a socket of its own; a context manager.

    It ends with this process at the latest, unless that is killed.
    """

    def __init__(self, *, socket: Optional[Path] = None, **options: object) -> None:
        """Options as keywords: index=DIRECTORY or root=DIRECTORY, memory="1G", threads=2, ...

        Returns when it answers; ProgramFailed when it does not start.
        """
        self._owner = os.getpid()
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._directory = tempfile.mkdtemp(prefix="nightjar-")
        self.socket = os.fspath(socket or os.path.join(self._directory, "socket"))
        self._log = os.path.join(self._directory, "log")
        atexit.register(self.stop)
        try:
            arguments = ["--socket", self.socket, *options_of(options)]
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [program("nightjard"), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._wait_for_start(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_for_start(self, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + _START_S_MAX
        while True:
            status = process.poll()
            if status is not None:
                with open(self._log, encoding="utf-8", errors="replace") as log:
                    raise ProgramFailed(_reason(log.read()) or f"nightjard: status {status}")
            try:
                connect(self.socket).close()
                return
            except (ConnectionLost, Busy):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def connect(self, **options: Any) -> Index:
        """As `nightjar.connect`."""
        return connect(self.socket, **options)

    def resident_bytes(self) -> int:
        """Its memory now."""
        with self.connect() as index:
            return int(index.stats()["process"]["resident_bytes"])

    def stop(self) -> None:
        """Has it answer what is in flight and end; may be repeated.

        In a process that was forked meanwhile, nothing: the daemon is not that one's.
        """
        atexit.unregister(self.stop)
        if os.getpid() != self._owner:
            return
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
