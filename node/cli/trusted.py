"""`--genesis` and `--checkpoint`: what an offline verification trusts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from node.cli.params import FILE

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint
    from ledger.genesis import Genesis
    from ledger.trust import TrustedHead

F = TypeVar("F", bound=Callable[..., Any])

_GENESIS: Final = click.option("--genesis", type=FILE, metavar="FILE", help="Trust the network's founding document.")
_CHECKPOINT: Final = click.option(
    "--checkpoint", type=FILE, metavar="FILE", help="Trust this checkpoint, which came on a way that you trust."
)


def trust_options(function: F) -> F:
    """Give the command ``--genesis`` and ``--checkpoint``; `read_trusted` takes what they name."""
    return _GENESIS(_CHECKPOINT(function))


def read_trusted(genesis: Path | None, checkpoint: Path | None) -> TrustedHead:
    """Return what the caller trusts.

    Raises:
        click.UsageError: Not exactly one of the two was named.
        RejectedError: ``ledger.genesis.*``, ``ledger.checkpoint.*``, ``ledger.proof.*``, ``wire.certificate.*``, ``cli.file.*``.
    """
    from ledger.checkpoint import trust_checkpoint
    from ledger.trust import TrustedHead

    if (genesis is None) == (checkpoint is None):
        raise click.UsageError("name what you trust: --genesis FILE or --checkpoint FILE")
    if checkpoint is not None:
        return trust_checkpoint(read_checkpoint(checkpoint))
    assert genesis is not None, "exactly one was named"
    return TrustedHead.founding(read_genesis(genesis))


def trust_text(trusted: TrustedHead) -> str:
    """Return for a person what a verification rests on."""
    if trusted.header is None:
        return "the founding document"
    return f"the checkpoint at height {trusted.height}"


def read_genesis(path: Path) -> Genesis:
    """Return the founding document in a file.

    Raises:
        RejectedError: ``ledger.genesis.*``, ``cli.file.*``.
    """
    from ledger.genesis import decode_genesis_untrusted
    from ledger.limits import GENESIS_BYTES_MAX
    from node.cli.files import read_file

    return decode_genesis_untrusted(read_file(path, GENESIS_BYTES_MAX))


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.checkpoint.*``, ``cli.file.*``.
    """
    from ledger.checkpoint import checkpoint_from_text_untrusted
    from ledger.limits import CHECKPOINT_BYTES_MAX
    from node.cli.files import read_file

    return checkpoint_from_text_untrusted(read_file(path, CHECKPOINT_BYTES_MAX))


def read_json(path: Path, bytes_max: int) -> Any:
    """Return the JSON value in a file.

    Raises:
        FileError: ``cli.file.*``.
    """
    from node.cli.files import read_file

    return parse_json(read_file(path, bytes_max))


def parse_json(data: bytes) -> Any:
    """Return the JSON value in the bytes of a file.

    Raises:
        FileError: ``cli.file.not_json``.
    """
    import json

    from node.cli.errors import FileError

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError("cli.file.not_json", "the file is not JSON") from error
