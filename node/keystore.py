"""Private keys and other secrets in files: written whole or not at all, readable by their owner only.

A daemon's key is not encrypted, because nobody is there to type a passphrase: the file's mode protects it. Keys of people may be encrypted.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.clock import random_bytes
from node.errors import KeyFileError
from wire.errors import RejectedError
from wire.keys import PrivateKey
from wire.limits import PEM_BYTES_MAX
from wire.openssh import private_key_from_file_untrusted

SECRET_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key in the file `path` (PKCS#8 PEM or OpenSSH), which only its owner may read.

    Raises:
        KeyFileError: ``node.key.missing``, ``node.key.unreadable``, ``node.key.mode``, ``node.key.too_large``.
        RejectedError: ``wire.key.*`` when the content is no key, or the passphrase does not open it.
    """
    pem = read_secret(path, PEM_BYTES_MAX)
    try:
        return private_key_from_file_untrusted(pem, passphrase)
    except RejectedError as error:
        raise type(error)(error.code, f"{path}: {error.message}", hint=error.hint) from error


def save_key(path: Path, key: PrivateKey, passphrase: bytes | None = None) -> None:
    """Write the private key to the new file `path`, mode 0600, encrypted when a passphrase is given.

    Raises:
        KeyFileError: ``node.key.exists``, ``node.key.unwritable``; no file was changed.
        MalformedError: ``wire.key.passphrase`` for an empty passphrase.
    """
    write_secret(path, key.to_pem(passphrase))


def read_secret(path: Path, bytes_max: int) -> bytes:
    """Return the bytes of the file `path`, at most `bytes_max`, if nobody but its owner may read or write it.

    Raises:
        KeyFileError: ``node.key.missing``, ``node.key.unreadable``, ``node.key.mode``, ``node.key.too_large``.
    """
    try:
        # O_NONBLOCK: a named pipe in its place must not keep us waiting for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyFileError(
            "node.key.missing", f"there is no file {path}", hint="make one with `patchwarden key generate`"
        ) from None
    except OSError as error:
        raise KeyFileError("node.key.unreadable", f"{path} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError("node.key.unreadable", f"{path} is not a regular file")
        if status.st_mode & _OTHERS:
            raise KeyFileError(
                "node.key.mode",
                f"others may read or write {path}",
                hint=f"chmod 600 {path}, and think about who has read it",
                expected="0600",
                actual=f"{stat.S_IMODE(status.st_mode):04o}",
            )
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(bytes_max + 1)
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise KeyFileError("node.key.too_large", f"{path} is too long", expected=f"at most {bytes_max} bytes")
    return data


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write `data` durably to the file `path`, mode 0600 from its first moment; a reader sees all of it or what was there before.

    Args:
        path: Where; the directory must exist.
        data: What.
        replace: Whether a file that is there may be replaced.

    Raises:
        KeyFileError: ``node.key.exists``, ``node.key.unwritable``; no file was changed.
    """
    temporary = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET_MODE)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)  # Fails when the name is taken, unlike a rename.
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError:
        raise KeyFileError(
            "node.key.exists",
            f"{path} exists and is not overwritten",
            hint="choose another name, or move the file away",
        ) from None
    except OSError as error:
        raise KeyFileError("node.key.unwritable", f"{path} cannot be written: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
