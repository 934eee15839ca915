"""A node as a process of its own: one event loop, one log, and one reason when it ends by itself.

`python -m node.process HOME` is what supervisors and the development network start; `patchwarden node start` runs the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import structlog
import trio

from node.app import run_node
from node.config import Home, NodeConfig, load_config
from node.errors import find_leaves
from node.machine import bound_fragmentation
from node.telemetry import configure_logging
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError

EXIT_REJECTED: Final = 1
EXIT_UNAVAILABLE: Final = 3
EXIT_CORRUPTION: Final = 4
EXIT_BUG: Final = 70

SWITCH_INTERVAL_S: Final = 0.001
"""How long Python lets one thread run while another waits: the event loop must not wait 5 ms for a thread that verifies signatures."""

_log = structlog.get_logger("node.process")


def run_process(home: Home, config: NodeConfig) -> None:
    """Run the node until it is told to stop.

    Raises:
        PatchwardenError: The first reason of its own for which it ended; the others are in the log.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    bound_fragmentation()
    try:
        trio.run(run_node, home, config)
    except BaseExceptionGroup as group:
        raise find_cause(group) from group


def find_cause(error: BaseException) -> BaseException:
    """Return the one error of a group that says most: corruption before rejection before unavailability before anything else."""
    causes = list(find_leaves(error))
    for family in (CorruptionError, RejectedError, UnavailableError):
        for cause in causes:
            if isinstance(cause, family):
                return cause
    return next((cause for cause in causes if isinstance(cause, Exception)), causes[0])


def main() -> int:
    """Run the node whose home is the first argument; return the exit code."""
    home = Home(Path(sys.argv[1]))
    try:
        config = load_config(home)
        configure_logging(level=config.log_level)
        run_process(home, config)
    except PatchwardenError as error:
        _log.error("node ended", code=error.code, reason=error.message, hint=error.hint)
        match error:
            case CorruptionError():
                return EXIT_CORRUPTION
            case UnavailableError():
                return EXIT_UNAVAILABLE
            case RejectedError():
                return EXIT_REJECTED
        return EXIT_BUG
    return 0


if __name__ == "__main__":
    sys.exit(main())
