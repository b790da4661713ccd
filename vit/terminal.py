"""What passes between a command and the person at its terminal: words, and signals to stop."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ECHO = 1.0  # seconds in which a signal comes twice that is sent to a group of processes: from its head once more


class Interrupted(Exception):
    """Stopped by a signal with everything saved; `code` is the exit code that shells expect of it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def say(line: str) -> None:
    """Tell the person at the terminal; stdout is kept for the result."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT or SIGTERM add themselves to; a second one, later than an echo, acts as usual, for the
    impatient."""
    received: list[int] = []
    first = 0.0

    def note(number: int, _: object) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
            say(f"{signal.Signals(number).name}: finishing this step, then saving")
        elif time.monotonic() - first > ECHO:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def python_command() -> str:
    """How the user starts this Python: its path from here if it lies below, else `python`."""
    # Not resolved: a virtual environment's python is a link out of it.
    executable = Path(sys.executable)
    here = Path.cwd()
    return str(executable.relative_to(here)) if executable.is_relative_to(here) else "python"
