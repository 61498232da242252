"""One line on the terminal: how far, how fast, how long."""

import sys
import time
from typing import Any


class Progress:
    """Writes «name 1200/2000 iterations, 3.1e+06 member-iterations/s, 12 s left» to stderr.

    `show=None` shows it where stderr is a terminal. What stderr cannot show is written as "?", and
    a stderr that is missing, closed or broken costs the line, not the run.
    """

    def __init__(self, name: str, members: int, first: int, last: int, show: bool | None):
        self.stream: Any = sys.stderr
        self.terminal = _is_terminal(self.stream)
        self.show = self.terminal if show is None else show
        self.name, self.members, self.first, self.last = name, members, first, last
        self.started = self.measured = time.monotonic()
        self.done = first
        self.written = self.started
        # A terminal line is rewritten in place; a log gets a line now and then.
        self.pause = 0.2 if self.terminal else 10.0
        if self.show:
            self._write(f"{name}: compiling …")

    def update(self, done: int, note: str = "") -> None:
        """Reports that `done` iterations are complete."""
        now = time.monotonic()
        rate = (done - self.done) / max(now - self.measured, 1e-9)
        self.done, self.measured = done, now
        if not self.show or now - self.written < self.pause:
            return
        self.written = now
        left = (self.last - done) / max(rate, 1e-9)
        text = (
            f"{self.name}: {done}/{self.last} iterations, "
            f"{rate * self.members:.2g} member-iterations/s, {left:.0f} s left{note}"
        )
        self._write(text)

    def close(self) -> None:
        """Ends the line."""
        if self.show:
            seconds = time.monotonic() - self.started
            self._write(f"{self.name}: {self.done}/{self.last} iterations in {seconds:.1f} s")
            if self.terminal:
                self._put("\n")

    def _write(self, text: str) -> None:
        self._put(f"{text:<100}\r" if self.terminal else f"{text}\n")

    def _put(self, text: str) -> None:
        try:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            if hasattr(self.stream, "flush"):
                self.stream.flush()
        except Exception:
            self.show = False


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:
        return False
