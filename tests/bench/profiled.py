"""`python -m tests.bench.profiled HOME`: a node that counts where it spends its processor time.

SIGUSR1 begins a new count, SIGUSR2 writes it to ``profile.json`` in the node's home: how much of the process' own processor time fell on
each cause, in seconds. The time between two ticks of that clock is shared among the threads that are at work at the second one, in the
proportion in which they used it, and counts for what they are at. Threads that wait used it for something that other ticks see.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Final

from node.process import main

TICK_S: Final = 0.001
"""What is asked for; the kernel gives one tick in 1 to 10 ms."""

SIGNATURES: Final = "signatures"
LEDGER: Final = "executing, hashing, admitting"
CODEC: Final = "messages: coding, checking"
CONSENSUS: Final = "consensus and its driver"
STORAGE: Final = "storage"
NETWORK: Final = "network: frames, encryption, sockets"
LOCAL: Final = "local socket, JSON, base64"
LOOP: Final = "event loop: task switches, waiting"
OTHER: Final = "other"
CAUSES: Final = (SIGNATURES, LEDGER, CODEC, CONSENSUS, STORAGE, NETWORK, LOCAL, LOOP, OTHER)

_FILES: Final = (
    ("/nacl/", SIGNATURES),
    ("/wire/keys.py", SIGNATURES),
    ("/wire/hashing.py", LEDGER),
    ("/wire/", CODEC),
    ("/consensus/messages.py", CODEC),
    ("/consensus/", CONSENSUS),
    ("/node/validator.py", CONSENSUS),
    ("/node/storage/", STORAGE),
    ("/node/pace.py", STORAGE),
    ("/node/net/", NETWORK),
    ("/noise/", NETWORK),
    ("/libp2p/", NETWORK),
    ("/node/local/", LOCAL),
    ("/node/services.py", LOCAL),
    ("/json/", LOCAL),
    ("/base64.py", LOCAL),
    ("/ledger/", LEDGER),
    ("/node/", LEDGER),
    ("/trio/", LOOP),
    ("/outcome/", LOOP),
)
"""First match of the innermost frame whose file is named here; the standard library's helpers count for whoever called them."""

_WAITS: Final = frozenset({"get_events", "_handle_job", "_work", "wait"})
"""Where threads wait for work."""


def cause_of(frame: FrameType | None) -> str:
    """Return what the processor was used for."""
    while frame is not None:
        file = frame.f_code.co_filename
        for part, cause in _FILES:
            if part in file:
                return cause
        frame = frame.f_back
    return OTHER


class Sampler:
    """Counts processor time by cause."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._used: dict[int, float] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        signal.signal(signal.SIGPROF, self._tick)
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._end)

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        frames: dict[int, FrameType | None] = {**sys._current_frames(), threading.get_ident(): frame}
        used = {thread: time.clock_gettime(time.pthread_getcpuclockid(thread)) for thread in frames}
        spent = {thread: seconds - self._used.get(thread, seconds) for thread, seconds in used.items()}
        at_work = [thread for thread, each in frames.items() if each is not None and each.f_code.co_name not in _WAITS]
        total, share = sum(spent.values()), sum(spent[thread] for thread in at_work)
        for thread in at_work if share else []:
            self.seconds[cause_of(frames[thread])] += total * spent[thread] / share
        if not share:
            self.seconds[LOOP] += total
        self._used = used

    def _begin(self, _number: int, frame: FrameType | None) -> None:
        self._tick(0, frame)
        self.seconds.clear()
        signal.setitimer(signal.ITIMER_PROF, TICK_S, TICK_S)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0, 0)
        part = self._target.with_suffix(".part")
        part.write_text(json.dumps(self.seconds))
        part.replace(self._target)


if __name__ == "__main__":
    Sampler(Path(sys.argv[1]) / "profile.json")
    sys.exit(main())
