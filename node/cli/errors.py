"""How a command ends: which exit code, and what it says about it.

====  =====================================================================================
code  meaning
====  =====================================================================================
0     done
1     the answer is no: denied, invalid, a finding, not found
2     the command line is wrong
3     unavailable: the same command may succeed later
4     stored data is damaged
70    a bug of ours
130   interrupted
====  =====================================================================================

Source: docs/operations/cli.md "Exit codes".
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError

EXIT_DONE: Final = 0
EXIT_NO: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_CORRUPTION: Final = 4
EXIT_BUG: Final = 70
EXIT_INTERRUPTED: Final = 130

_RETRY: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EADDRINUSE})
"""System errors that go away by themselves or when somebody makes room."""


class CommandError(RejectedError):
    """What a command refuses on its own account (``cli.*``): a file, an option's value, a combination of them."""


class FileError(CommandError):
    """A file that cannot be read or written (``cli.file.*``)."""


class NodeUnreachableError(UnavailableError):
    """No node answers at the given address (``cli.rpc.*``)."""


def exit_code(error: PatchwardenError) -> int:
    """Return the exit code for the error's family; an error outside the three families is a bug's report."""
    match error:
        case UnavailableError():
            return EXIT_UNAVAILABLE
        case CorruptionError():
            return EXIT_CORRUPTION
        case RejectedError():
            return EXIT_NO
        case _:
            return EXIT_BUG


def from_os_error(error: OSError) -> PatchwardenError:
    """Return what a system error means for the caller, with the file's name when there is one."""
    name = f"{error.filename}: " if isinstance(error.filename, str) else ""
    sentence = f"{name}{(error.strerror or str(error)).lower()}"
    if error.errno in _RETRY:
        return UnavailableError("cli.os.unavailable", sentence, hint="make room, then run the same command again")
    return FileError("cli.os.refused", sentence)


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield every exception inside nested groups."""
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(each)
        else:
            yield each


def worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception that decides how a run ended: a bug before corruption before refusal before unavailability."""

    def weight(error: BaseException) -> int:
        match error:
            case UnavailableError() | OSError():
                return 1
            case RejectedError():
                return 2
            case CorruptionError():
                return 3
            case KeyboardInterrupt():
                return 0
            case _:
                return 4

    return max(leaves(group), key=weight)
