"""What a replica needs of the machine it runs on besides disk and network: time that passes, and threads.

One value, so that the whole-cluster simulator runs the very same validator on machines that stop for a while, whose clocks run fast or
slow, and whose threads end when the simulator says so.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from node.clock import jittered, uptime_ms

LARGE_BLOCK_BYTES: Final = 128 * 1024
"""Blocks of this size and above are mappings of their own."""
ARENAS_MAX: Final = 2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MALLOC_OPTIONS: Final = ((_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES), (_M_ARENA_MAX, ARENAS_MAX))
"""Numbers and values for `mallopt`. Source: mallopt(3)."""

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class InThread(Protocol):
    """Runs a function that blocks, away from the event loop."""

    async def __call__(
        self, function: Callable[[*Ts], R], /, *arguments: *Ts, limiter: trio.CapacityLimiter | None = None
    ) -> R:
        """Return what ``function(*arguments)`` returns, or raise what it raises."""
        ...


async def run_in_thread(
    function: Callable[[*Ts], R], /, *arguments: *Ts, limiter: trio.CapacityLimiter | None = None
) -> R:
    """Return what ``function(*arguments)`` returns in a thread, or raise what it raises."""
    return await trio.to_thread.run_sync(function, *arguments, limiter=limiter)


def spare_collector() -> None:
    """Let the garbage collector look only at what is made from now on; to be called once, when a process has started.

    Its full collections stop everything, heartbeats included. Over what the imports alone leave they take 90 ms of processor time every
    half minute, which is half a second where five processes share two processors: a peer's limit for silence. What is garbage already
    stays, too: collecting it would be such a stop.
    """
    gc.freeze()


def bound_fragmentation() -> bool:
    """Let the C library give large blocks of memory back at once; return whether it listens, which glibc does. To be called at the start.

    By itself glibc puts ever larger blocks among the small ones, once it has seen one come and go. What stays behind such a block for long
    keeps its place from being used again: after half an hour of catching up and being caught up with, two thirds of a validator's heap were
    holes. A few arenas for all threads do for a process with a single busy one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _MALLOC_OPTIONS)


@dataclass(frozen=True, slots=True)
class Machine:
    """Time and threads of one machine."""

    sleep: Callable[[float], Awaitable[None]] = trio.sleep
    """Returns after so many seconds."""
    in_thread: InThread = run_in_thread
    """Runs what blocks: writes to the disk, and many signature checks at once."""
    jittered: Callable[[float], float] = jittered
    """Returns between half of so many seconds and all of them."""
    writes_inline: bool = False
    """Whether a short write may be done on the event loop, as long as the disk is quick (`node.pace`)."""
    seconds: Callable[[], float] = perf_counter
    """Returns seconds on a clock for short times, by which writes are found quick or slow."""
    uptime_ms: Callable[[], int] = uptime_ms
    """Returns milliseconds on a clock that nobody sets and that counts the time while this process, or the machine, is stopped."""


REAL_MACHINE = Machine(writes_inline=True)
"""The one this process runs on."""
