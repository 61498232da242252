"""Child processes, by fork: the parent has imported everything and started no backend of JAX."""

import contextlib
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import jax

from .problems import Partial, solve

COMPLETE, FOREIGN, MESSAGE, PARTIAL, INTERRUPTED = 0, 1, 3, 4, 130
_LONGEST = 120.0


@dataclass(frozen=True)
class Ended:
    """How a child has ended: the exit code (minus the signal), what it wrote, its seconds."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def answer(self) -> str:
        """The last line of stdout."""
        return (self.out.strip().splitlines() or [""])[-1]

    @property
    def message(self) -> str:
        """The last line of stderr."""
        return (self.err.strip().splitlines() or [""])[-1]


class Child:
    """A call in a process of its own; made when that is about to begin."""

    def __init__(self, call: Callable[[], int]):
        # Closed by `wait`.
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        self._ready, ready = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.started = time.monotonic()
        with warnings.catch_warnings():
            # Of forks while JAX has threads; it has none before its first operation.
            warnings.simplefilter("ignore")
            self.pid = os.fork()
        if self.pid == 0:
            self._be_the_child(call, ready)
        os.close(ready)
        os.read(self._ready, 1)
        os.close(self._ready)
        self.started = time.monotonic()

    def _be_the_child(self, call: Callable[[], int], ready: int) -> None:
        code = FOREIGN
        try:
            os.dup2(self._out.fileno(), 1)
            os.dup2(self._err.fileno(), 2)
            # The parent may run where Ctrl-C is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(ready, b"r")
            code = call()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def send(self, number: int) -> None:
        """A signal; a child that has ended already gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """How it ends; one that outlasts two minutes is killed."""
        deadline = time.monotonic() + _LONGEST
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.005)
        seconds = time.monotonic() - self.started
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, _written(self._out), _written(self._err), seconds)


def _written(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def of_problem(name: str, folder: Path, budget: float | None = None) -> Child:
    """A problem: its digest on stdout; an error that the library raised as one line on stderr."""

    def call() -> int:
        try:
            print(solve(name, folder, budget))
            return COMPLETE
        except Partial:
            return PARTIAL
        except KeyboardInterrupt:
            return INTERRUPTED
        except (ValueError, OSError, MemoryError) as error:
            if not _ours(error):
                raise
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return MESSAGE

    return Child(call)


def of_command(arguments: list[str]) -> Child:
    """`python -m experiments ARGUMENTS`, as far as one that has imported everything can be."""

    def call() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["experiments", *arguments]
        try:
            runpy.run_module("experiments", run_name="__main__", alter_sys=True)
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
                return FOREIGN
            return int(error.code or 0)
        return COMPLETE

    return Child(call)


def _ours(error: BaseException) -> bool:
    """Whether the library raised it, and no one below."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and f"{os.sep}sde_sgd{os.sep}" in place.tb_frame.f_code.co_filename


def share_compilations(folder: Path) -> None:
    """Children find on disk what an earlier one has compiled."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
