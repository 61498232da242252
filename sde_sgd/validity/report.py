"""Lines on the terminal while a verdict is made: which stage, how far, how long."""

import threading
import time

from sde_sgd.terminal import StatusLine


class Report:
    """Writes «validity 3/6: models of the examples, 2/8 points, 12 s, about 40 s left» to stderr.

    `show=None` shows it where stderr is a terminal, which has one line that is rewritten; a log
    gets a line with every stage and every ten seconds. A stage may be one long compiled call: a
    thread keeps the line alive.
    """

    def __init__(self, name: str, stages: int, show: bool | None):
        self.line = StatusLine(show)
        self.name, self.stages, self.number = name, stages, 0
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._expected: float | None = None
        self._what, self._unit, self._done, self._total = "", "", 0, 0
        self._since = self.started
        self._lock, self._over = threading.Lock(), threading.Event()
        if self.line.show:
            threading.Thread(target=self._beat, daemon=True).start()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, kind, *_) -> None:
        self._over.set()
        if self.line.show:
            how = "done in" if kind is None else "stopped after"
            self._write(f"{self.name}: {how} {time.monotonic() - self.started:.1f} s", True)

    def note(self, text: str) -> None:
        """A line of its own."""
        if self.line.show:
            self._write(f"{self.name}: {text}", True)

    def expect(self, seconds: float, text: str) -> None:
        """Says how long all of it will take, counted from the start."""
        self._expected = seconds
        self.note(text)

    def stage(self, what: str, total: int = 0, unit: str = "") -> None:
        """The next stage begins, of `total` units (0 where it is not counted)."""
        self._end_stage()
        self.number += 1
        self._what, self._unit, self._done, self._total = what, unit, 0, total
        if self.line.show:
            self._write(self._line())

    def tick(self, count: int = 1) -> None:
        """So many more units of the stage are done."""
        self._done += count
        if self.line.due:
            self._write(self._line())

    def elapsed(self) -> dict[str, float]:
        """Seconds of every stage so far."""
        return self.seconds | {self._what: time.monotonic() - self._since}

    def _end_stage(self) -> None:
        now = time.monotonic()
        if self._what:
            self.seconds[self._what] = now - self._since
        self._since = now

    def _beat(self) -> None:
        while not self._over.wait(min(self.line.pause, 0.25)):
            if self._what and self.line.due:
                self._write(self._line())

    def _line(self) -> str:
        passed = time.monotonic() - self.started
        parts = [f"{self.name} {self.number}/{self.stages}: {self._what}"]
        if self._total:
            parts.append(f"{self._done}/{self._total} {self._unit}")
        parts.append(f"{passed:.0f} s")
        if self._expected is not None:
            parts.append(f"about {max(self._expected - passed, 0):.0f} s left")
        return ", ".join(parts)

    def _write(self, text: str, lasting: bool = False) -> None:
        with self._lock:
            if self._over.is_set() and not lasting:
                return
            (self.line.close if lasting else self.line.write)(text)
