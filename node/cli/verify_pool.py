"""Worker processes that verify signatures for an audit, fed over raw pipes in whole blocks.

Signatures take over nine tenths of a replay. A worker gets a block's checks as one message and answers with one byte for each, so that
hundreds of checks share the cost of a message. The first transactions are verified here: most chains are small, and a process takes a
quarter of a second to start.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from wire.codec import decode_untrusted, encode
from wire.keys import public_key_from_spki_untrusted

if TYPE_CHECKING:
    from ledger.transaction import SignatureJob

INLINE_MAX: Final = 3_000
"""Checks made here before workers are started: about as long as starting them takes."""
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""One block's checks: at most 1000, about 180 bytes each."""


class VerifyPool:
    """A verifier for `ledger.audit.Auditor` with up to `workers` processes; 1 means none."""

    def __init__(self, workers: int) -> None:
        self._count = workers
        self._workers: list[_Worker] = []
        self._checked = 0
        self._next = 0

    def __enter__(self) -> VerifyPool:
        """Return the pool; nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.end()

    def __call__(self, jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        """Take one block's checks; return how to wait for the answers."""
        self._checked += len(jobs)
        if self._count < 2 or self._checked <= INLINE_MAX:
            results = [_check(job.spki, job.message, job.signature) for job in jobs]
            return lambda: results
        if not self._workers:
            self._workers = [_Worker() for _ in range(self._count)]
        worker = self._workers[self._next % self._count]
        self._next += 1
        return worker.submit(jobs)


class _Worker:
    """One process. Its answers come in the order of the questions."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._asked = 0
        self._answers: list[bytes] = []
        self._taken = 0

    def submit(self, jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        number = self._asked
        self._asked += 1
        # Answers that are there are taken first: neither side may wait for the other with its pipe full.
        while self._pipe.poll():
            self._answers.append(self._pipe.recv_bytes())
        self._pipe.send_bytes(encode(tuple((job.spki, bytes(job.message), job.signature) for job in jobs)))
        return lambda: [bool(byte) for byte in self._answer(number)]

    def _answer(self, number: int) -> bytes:
        while len(self._answers) <= number:
            self._answers.append(self._pipe.recv_bytes())
        answer, self._answers[number] = self._answers[number], b""
        return answer

    def end(self) -> None:
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def work(pipe: Connection) -> None:
    """Answer questions until the other end is closed: the life of a worker process."""
    import signal

    # The one who started it says when it ends; Ctrl-C reaches the whole foreground group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            jobs = decode_untrusted(pipe.recv_bytes(MESSAGE_BYTES_MAX), bytes_max=MESSAGE_BYTES_MAX)
            assert isinstance(jobs, tuple), "one of ours asked"
            pipe.send_bytes(bytes(_check(*job) for job in jobs))  # type: ignore[misc]
    except (EOFError, OSError):
        return


def default_workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _check(spki: bytes, message: bytes, signature: bytes) -> bool:
    return public_key_from_spki_untrusted(spki).is_valid(message, signature)
