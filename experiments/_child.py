"""One experiment for `all`: the same command, which ends as on Ctrl-C once its parent is gone.

The parent holds the other end of standard input, and holds it open: however it ends, by a kill
too, the end of file is seen here, and the run saves itself.
"""

import os
import signal
import sys
import threading
import time

GRACE = 20.0
"""Seconds that a run has to save itself."""


def _watch() -> None:
    while os.read(0, 1):
        pass
    signal.raise_signal(signal.SIGINT)
    time.sleep(GRACE)
    # In a long compilation, say, which no signal interrupts. Every file is a whole one at any time.
    os._exit(130)


if __name__ == "__main__":
    # Where nothing is there to save, the signal ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_watch, daemon=True).start()

    from .__main__ import main

    sys.exit(main(sys.argv[1:]))
