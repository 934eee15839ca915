"""Files that commands read and write: read with a bound, written whole or not at all. ``-`` is standard input and output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.cli.errors import FileError
from node.clock import random_bytes

STANDARD: Final = Path("-")
FILE_MODE: Final = 0o644

Content = bytes | memoryview | Iterable[bytes | memoryview]
"""What a file is to hold: whole, or in pieces that are made when they are written."""


def read_file(path: Path, bytes_max: int) -> bytes:
    """Return the bytes of `path`, at most `bytes_max`.

    Raises:
        FileError: ``cli.file.unreadable``, ``cli.file.too_large``.
    """
    try:
        if path == STANDARD:
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(bytes_max + 1)
    except OSError as error:
        raise FileError("cli.file.unreadable", f"{path} cannot be read: {_reason(error)}") from error
    if len(data) > bytes_max:
        raise FileError("cli.file.too_large", f"{path} is too long", expected=f"at most {bytes_max} bytes")
    return data


def read_text(path: Path, bytes_max: int) -> str:
    """Return the text of `path`, which is UTF-8.

    Raises:
        FileError: ``cli.file.unreadable``, ``cli.file.too_large``, ``cli.file.not_utf8``.
    """
    try:
        return read_file(path, bytes_max).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError("cli.file.not_utf8", f"{path} is not UTF-8 text", actual=f"byte {error.start}") from error


def refuse_existing(path: Path, *, force: bool) -> None:
    """Return when nobody's file is lost by writing `path`: before anything costly is done or asked.

    Raises:
        FileError: ``cli.file.exists``.
    """
    if not force and path != STANDARD and path.is_file():
        raise FileError(
            "cli.file.exists",
            f"{path} exists and is not overwritten",
            hint="choose another name for the output, or say --force",
        )


def write_file(path: Path, data: Content, *, mode: int = FILE_MODE, replace: bool = True) -> None:
    """Make `path` hold exactly `data`, in one piece or several, durably; whoever reads it meanwhile sees what was there before.

    A file that is replaced keeps its permission bits. A symbolic link is followed once, so that the link stays.

    Raises:
        FileError: ``cli.file.exists``, ``cli.file.unwritable``; nothing has changed.
    """
    pieces = (data,) if isinstance(data, bytes | memoryview) else data
    if path == STANDARD:
        sys.stdout.buffer.writelines(pieces)
        sys.stdout.buffer.flush()
        return
    temporary: Path | None = None
    try:
        place = Path(os.path.realpath(path))
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(place.stat().st_mode)
            if not replace:
                raise FileError(
                    "cli.file.exists",
                    f"{path} exists and is not overwritten",
                    hint="choose another name for the output",
                )
        temporary = place.with_name(f".{place.name}.{random_bytes(8).hex()}.part")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        temporary.replace(place)
        _sync_directory(place.parent)
    except OSError as error:
        raise FileError("cli.file.unwritable", f"{path} cannot be written: {_reason(error)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
