"""Patch files as commands handle them: read with a bound, verified at once, times and identities filled in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node import clock
from node.cli.files import read_file
from provenance.timestamp import timestamp_from_seconds
from provenance.verify import VerifiedPatch, verify_patch_untrusted
from wire.errors import RejectedError
from wire.limits import PATCH_FILE_BYTES_MAX

if TYPE_CHECKING:
    from node.cli.client import NodeClient
    from node.cli.command import Session
    from wire.keys import PublicKey


def read_patch(path: Path) -> tuple[bytes, VerifiedPatch]:
    """Return the bytes of a patch file, and what they prove.

    Raises:
        RejectedError: ``cli.file.*``, or the first step of verification that fails.
    """
    data = read_file(path, PATCH_FILE_BYTES_MAX)
    return data, verify_patch_untrusted(data)


def now() -> str:
    """Return the present as a patch file writes times."""
    return timestamp_from_seconds(clock.now_ms() // 1000)


def signing_identity(session: Session, given: str | None, key: PublicKey) -> str:
    """Return the identity that signs: the one given, or the one that the ledger knows for this key.

    Raises:
        click.UsageError: None was given and no node was named that could be asked.
        CommandError: ``cli.identity.unknown_key``.
    """
    if given is not None:
        return given
    if not session.has_node:
        raise click.UsageError("say who signs: --identity NAME@ORGANISATION (or name a node that knows: --rpc, --home)")
    from node.cli.identity import find_identity_of_key

    return find_identity_of_key(session.client(), key.key_id_hex)


def published_part(patch: VerifiedPatch, digest: str) -> memoryview | None:
    """Return the beginning of the file that has this digest, body and some lines of the trailer; None when none has."""
    file = patch.file
    hasher, end = hashlib.sha256(file.body_view), len(file.body_view)
    for line in file.trailer:
        hasher.update(line + b"\n")
        end += len(line) + 1
        if hasher.hexdigest() == digest:
            return memoryview(file.raw)[:end]
    return None


def find_record(client: NodeClient, patch_id: str) -> dict[str, Any] | None:
    """Return what the ledger has about a patch, or None when it is not published."""
    try:
        record: dict[str, Any] = client.call("patches.get", patch_id=patch_id)
    except RejectedError as error:
        if error.code.endswith(".not_found"):
            return None
        raise
    return record
