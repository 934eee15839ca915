"""Worker processes that verify signatures for an audit, fed over raw pipes in whole blocks.

Signatures are more than half of a replay's work. A worker gets many checks as one message and answers with one byte for each. The message
holds each key once and everything else at fixed places, so that neither side spends more on it than slicing::

    number of keys (2 bytes) || (length (1), SubjectPublicKeyInfo) for each || (key's number (2), message (32), length (1), signature) …

Where nothing else runs in this process, workers are forked: they are there in milliseconds and share its memory. Otherwise they are
started afresh, and only when there is enough to do for them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from struct import Struct
from typing import TYPE_CHECKING, Final

from wire.errors import UnavailableError
from wire.keys import PublicKey, public_key_from_spki_untrusted

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext

    from ledger.transaction import SignatureJob

INLINE_MAX: Final = 3_000
"""Checks made here before workers are started afresh: about as long as starting them takes."""
BATCH_JOBS_MIN: Final = 64
"""Checks that are worth a message; those of small blocks wait for each other."""
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Checks of one block and a few more: at most 1000 and `BATCH_JOBS_MIN`, 220 bytes each at the longest."""

_COUNT: Final = Struct(">H")
_CHECK: Final = Struct(">H32sB")


class VerifyPool:
    """A verifier for `ledger.audit.Auditor` with up to `workers` processes; 1 means none.

    Args:
        workers: How many processes.
        may_fork: Whether they may be forked; by default where no other thread runs.
    """

    def __init__(self, workers: int, *, may_fork: bool | None = None) -> None:
        self._may_fork = threading.active_count() == 1 if may_fork is None else may_fork
        self._count = workers if workers > 1 else 0
        self._workers: list[_Worker] = []
        self._checked = 0
        self._next = 0
        self._batch: _Batch = _Batch()

    def __enter__(self) -> VerifyPool:
        """Return the pool; its workers are there when forking is safe."""
        if self._count and self._may_fork:
            self._start(multiprocessing.get_context("fork"))
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.end()

    def __call__(self, jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        """Take one block's checks; return how to wait for the answers."""
        if not self._workers:
            self._checked += len(jobs)
            if not self._count or self._checked <= INLINE_MAX:
                results = [
                    public_key_from_spki_untrusted(job.spki).is_valid(job.message, job.signature) for job in jobs
                ]
                return lambda: results
            self._start(multiprocessing.get_context("spawn"))
        batch = self._batch
        start = batch.add(jobs)
        if batch.count >= BATCH_JOBS_MIN:
            self._send()

        def wait() -> Sequence[bool]:
            if batch.answer is None:
                self._send()
            return [bool(byte) for byte in batch.result()[start : start + len(jobs)]]

        return wait

    def _start(self, context: ForkContext | SpawnContext) -> None:
        for _ in range(self._count):
            self._workers.append(_Worker(context, [worker.pipe for worker in self._workers]))

    def _send(self) -> None:
        worker = self._workers[self._next % self._count]
        self._next += 1
        self._batch.answer = worker.submit(self._batch.message())
        self._batch = _Batch()


class _Batch:
    """Checks that travel together."""

    __slots__ = ("_keys", "_parts", "_result", "answer", "count")

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self._parts: list[bytes] = []
        self._result: bytes | None = None
        self.count = 0
        self.answer: Callable[[], bytes] | None = None
        """How to wait for the answers; None before they are asked for."""

    def add(self, jobs: Sequence[SignatureJob]) -> int:
        """Add checks, and return the place of their first answer."""
        keys, parts, pack = self._keys, self._parts, _CHECK.pack
        start = self.count
        for job in jobs:
            number = keys.get(job.spki)
            if number is None:
                number = keys[job.spki] = len(keys)
            parts += (pack(number, job.message, len(job.signature)), job.signature)
        self.count += len(jobs)
        return start

    def result(self) -> bytes:
        """Return the answers; the batch was sent."""
        if self._result is None:
            assert self.answer is not None, "the batch was sent"
            self._result = self.answer()
        return self._result

    def message(self) -> bytes:
        """Return what a worker is asked."""
        keys = b"".join(bytes((len(spki),)) + spki for spki in self._keys)
        return b"".join((_COUNT.pack(len(self._keys)), keys, *self._parts))


class _Worker:
    """One process. Its answers come in the order of the questions."""

    def __init__(self, context: ForkContext | SpawnContext, others: list[Connection]) -> None:
        self.pipe, theirs = context.Pipe()
        # A forked worker has copies of the pipes that were there before; as long as it held them, nobody would see their end.
        inherited = [*others, self.pipe] if context.get_start_method() == "fork" else []
        self._process = context.Process(target=work, args=(theirs, inherited), daemon=True)
        self._process.start()
        theirs.close()
        self._asked = 0
        self._received = 0
        self._answers: dict[int, bytes] = {}

    def submit(self, message: bytes) -> Callable[[], bytes]:
        """Ask, and return how to wait for the answer; wait for each once."""
        number = self._asked
        self._asked += 1
        try:
            # Answers that are there are taken first: neither side may wait for the other with its pipe full.
            while self.pipe.poll():
                self._receive()
            self.pipe.send_bytes(message)
        except OSError as error:
            raise _lost() from error
        return lambda: self._answer(number)

    def _answer(self, number: int) -> bytes:
        while number not in self._answers:
            self._receive()
        return self._answers.pop(number)

    def _receive(self) -> None:
        try:
            self._answers[self._received] = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise _lost() from error
        self._received += 1

    def end(self) -> None:
        """Let the process end, or end it."""
        self.pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def work(pipe: Connection, inherited: Sequence[Connection] = ()) -> None:
    """Answer questions until the other end is closed: the life of a worker process."""
    import signal

    # The one who started it says when it ends; Ctrl-C reaches the whole foreground group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for each in inherited:
        each.close()
    try:
        while True:
            pipe.send_bytes(check_message(pipe.recv_bytes(MESSAGE_BYTES_MAX)))
    except (EOFError, OSError):
        return


def check_message(message: bytes) -> bytes:
    """Return one byte for each check in a message, 1 where the signature holds."""
    (count,) = _COUNT.unpack_from(message)
    position = _COUNT.size
    keys: list[PublicKey] = []
    for _ in range(count):
        end = position + 1 + message[position]
        keys.append(public_key_from_spki_untrusted(message[position + 1 : end]))
        position = end
    answers = bytearray()
    unpack, size, total = _CHECK.unpack_from, _CHECK.size, len(message)
    while position < total:
        number, signed, length = unpack(message, position)
        position += size + length
        answers.append(keys[number].is_valid(signed, message[position - length : position]))
    return bytes(answers)


def default_workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _lost() -> UnavailableError:
    return UnavailableError(
        "cli.audit.worker_lost",
        "a process that verifies signatures has ended before its time",
        hint="see whether the machine ran out of memory, and run the command again; --resume goes on where it was",
    )
