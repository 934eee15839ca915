"""The one way from the event loop to a disk: in a thread, with a failing disk told as what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from agent.errors import StateWriteError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


async def run_blocking(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Return what `function` returns, called in a thread. A cancelled caller waits for its end all the same.

    Raises:
        StateWriteError: ``agent.state.write``: the function met an OSError.
        PatchwardenError: What the function raises.
    """
    try:
        return await trio.to_thread.run_sync(function, *arguments)
    except OSError as error:
        raise write_error(error) from error


def write_error(error: OSError) -> StateWriteError:
    """Return what a failing disk is told as."""
    path = f" ({error.filename})" if error.filename else ""
    return StateWriteError(
        "agent.state.write",
        f"the agent's files cannot be written: {error.strerror or error}{path}",
        hint="make room or repair the disk; what is open is recovered by itself",
        details={"errno": error.errno or 0},
    )
