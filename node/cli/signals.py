"""The signals that end a command which has started processes.

They raise, so that everything open is closed; except where that would lose a process that has just been started, and while the ending is
under way.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequestedError(KeyboardInterrupt):
    """This process was told to end by a signal; everything that Ctrl-C ends, ends."""


class _State:
    """Whether a signal must wait, and whether one does. There is one main thread, and signals reach no other."""

    shields = 0
    waiting = False


@contextmanager
def ending_signals() -> Iterator[None]:
    """Raise `StopRequestedError` in the body when this process is told to end, once."""

    def stop(number: int, frame: object) -> None:
        del number, frame
        if _State.shields:
            _State.waiting = True
        else:
            raise StopRequestedError

    _State.waiting = False
    before = {number: signal.signal(number, stop) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def shielded() -> Iterator[None]:
    """Let no ending signal interrupt the body; one that came meanwhile is raised after it."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
    if _State.waiting and not _State.shields:
        _State.waiting = False
        raise StopRequestedError


@contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Ignore the signals that end, while the ending is under way: an impatient second Ctrl-C must leave nothing behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
