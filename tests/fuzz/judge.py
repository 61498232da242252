"""One case: a valid call with one argument replaced, and what became of it."""

import ast
import linecache
import signal
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax._src import compiler

import sde_sgd
from sde_sgd._brief import in_brief

HERE = str(Path(__file__).parent)
PACKAGE = str(Path(sde_sgd.__file__).parent)
# Programs longer than this are not compiled: what reaches the compiler has passed every check.
LONGEST_PROGRAM = 20_000

# Not empty while a case runs: the parts of a valid call are compiled, whatever they take.
_running: list[bool] = []


class Outcome(NamedTuple):
    """`kind`: accepted, compiles, refused, unnamed, user, raw, hang, crash or invalid."""

    kind: str
    where: str
    text: str


class Hang(BaseException):
    """The time is up."""


class Compiles(BaseException):
    """The program of a run goes to the compiler."""


@cache
def raise_lines(file):
    """The lines of a source file that a `raise` statement covers."""
    tree = ast.parse("".join(linecache.getlines(file)))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Raise)]
    return {line for n in found for line in range(n.lineno, n.end_lineno + 1)}


def outcome(call, argument, value, seconds):
    """What `call()` did, where `argument` of it was replaced by `value`."""
    _running.append(True)
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            call()
        return Outcome("accepted", "", "")
    except Compiles:
        return Outcome("compiles", "", "")
    except Hang as error:
        return Outcome("hang", _own_place(error), "")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return _judged(error, argument, value)
    finally:
        _running.clear()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _stop(*_):
    raise Hang


def _judged(error, argument, value):
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message[:240]}"
    place = _own_place(error)
    if last.filename.startswith(HERE) and "judge.py" not in last.filename:
        return Outcome("user", place, text)
    meant = isinstance(error, ValueError | TypeError | MemoryError | OSError | LookupError)
    said = last.filename.startswith(PACKAGE) and last.lineno in raise_lines(last.filename)
    if said and (meant or isinstance(error, RuntimeError)):
        words = {argument, argument.replace("_", " "), *_told(value)}
        named = any(word in message for word in words if word)
        return Outcome("refused" if named else "unnamed", place, text)
    name = getattr(value, "__name__", "")
    if isinstance(error, TypeError) and name and f"{name}() " in message:
        return Outcome("user", place, text)
    return Outcome("raw", place, text)


def _told(value):
    """Short forms of a value that a message may show."""
    if isinstance(value, bool | int | float | str | bytes | complex | type(None)):
        return {repr(value)[:40]}
    if isinstance(value, Path):
        return {str(value)}
    return {getattr(value, "__name__", None), f"a {type(value).__name__}", in_brief(value)}


def _own_place(error):
    frames = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in f.filename]
    if not frames:
        return "-"
    return f"{frames[-1].filename.removeprefix(PACKAGE + '/')}:{frames[-1].lineno}"


def stop_at_the_compiler():
    """Programs longer than `LONGEST_PROGRAM` raise `Compiles`; returns what undoes that."""
    compile_ = compiler.compile_or_get_cached

    def short_only(backend, computation, *arguments, **options):
        text = computation.operation.get_asm(large_elements_limit=8)
        if _running and len(text) > LONGEST_PROGRAM:
            raise Compiles
        return compile_(backend, computation, *arguments, **options)

    compiler.compile_or_get_cached = short_only

    def undo():
        compiler.compile_or_get_cached = compile_
        jax.clear_caches()

    return undo
