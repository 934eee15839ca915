"""Passphrases and the keys they open. A passphrase comes from a prompt, a file descriptor or a file; never from an argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from node.cli.errors import CommandError
from node.keystore import load_key, read_secret
from wire.errors import RejectedError
from wire.keys import PrivateKey

PASSPHRASE_BYTES_MAX: Final = 1024
"""The longest passphrase; OpenSSL's own limit for PEM is of this size."""


def given_passphrase(descriptor: int | None, path: Path | None) -> bytes | None:
    """Return the passphrase from a file descriptor or file, without its line end; None when neither was named.

    Raises:
        click.UsageError: Both were named.
        CommandError: ``cli.passphrase.empty``, ``cli.passphrase.too_long``, ``cli.passphrase.unreadable``.
        KeyFileError: ``node.key.*``: the file is not readable by its owner alone.
    """
    if descriptor is not None and path is not None:
        raise click.UsageError("give --passphrase-fd or --passphrase-file, not both")
    if descriptor is not None:
        try:
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                data = stream.read(PASSPHRASE_BYTES_MAX + 2)
        except OSError as error:
            raise CommandError(
                "cli.passphrase.unreadable", f"file descriptor {descriptor} cannot be read", hint="open it: 3<file"
            ) from error
    elif path is not None:
        data = read_secret(path, PASSPHRASE_BYTES_MAX + 2)
    else:
        return None
    return _checked(data.split(b"\n", 1)[0].removesuffix(b"\r"))


def new_passphrase(
    descriptor: int | None,
    path: Path | None,
    options: str = "--no-passphrase, --passphrase-fd or --passphrase-file",
) -> bytes:
    """Return the passphrase for a new key: as given, or asked for twice; `options` are those that spare the question.

    Raises:
        CommandError: As `given_passphrase`; ``cli.passphrase.no_terminal`` when there is nobody to ask.
    """
    given = given_passphrase(descriptor, path)
    if given is not None:
        return given
    _need_terminal(options)
    asked = click.prompt("Passphrase for the new key", hide_input=True, confirmation_prompt=True, err=True)
    return _checked(str(asked).encode())


def load_private_key(path: Path, descriptor: int | None, passphrase_path: Path | None) -> PrivateKey:
    """Return the private key in `path`; its passphrase is asked for when it has one and none was given.

    Raises:
        KeyFileError: ``node.key.*``.
        RejectedError: ``wire.key.*``.
        CommandError: As `given_passphrase`; ``cli.passphrase.no_terminal``.
    """
    given = given_passphrase(descriptor, passphrase_path)
    try:
        return load_key(path, given)
    except RejectedError as error:
        if error.code != "wire.key.passphrase_missing":
            raise
    return load_key(path, ask_passphrase(str(path), None, None))


def ask_passphrase(
    what: str, descriptor: int | None, path: Path | None, options: str = "--passphrase-fd or --passphrase-file"
) -> bytes:
    """Return the passphrase that opens `what`: as given, or asked for; `options` are those that spare the question.

    Raises:
        KeyFileError: ``node.key.*``.
        CommandError: As `given_passphrase`; ``cli.passphrase.no_terminal``.
    """
    given = given_passphrase(descriptor, path)
    if given is not None:
        return given
    _need_terminal(options)
    return _checked(str(click.prompt(f"Passphrase for {what}", hide_input=True, err=True)).encode())


def _need_terminal(options: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(
            "cli.passphrase.no_terminal", "a passphrase is needed and there is no terminal", hint=f"give {options}"
        )


def _checked(passphrase: bytes) -> bytes:
    if not passphrase:
        raise CommandError("cli.passphrase.empty", "the passphrase is empty")
    if len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise CommandError(
            "cli.passphrase.too_long", "the passphrase is too long", expected=f"at most {PASSPHRASE_BYTES_MAX} bytes"
        )
    return passphrase
