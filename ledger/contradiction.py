"""Blocks that somebody brings and that cannot follow, looked at once more: do they prove that the validators have certified two histories?

Source: docs/spec/proofs.md 6.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ledger.block import Header
from ledger.checkpoint import Checkpoint, SplitView, build_checkpoint, find_split_view
from ledger.configuration_history import ConfigurationProof, build_configuration_proof
from ledger.errors import NotYetAvailableError
from ledger.keyspace import Reader
from ledger.limits import SPLIT_VIEW_HEADERS_MAX
from ledger.state import StateView
from wire.certificate import CommitCertificate


def find_split_in_blocks(reader: Reader, blocks: Sequence[tuple[Header, CommitCertificate | None]]) -> SplitView | None:
    """Return what may be the evidence that carried blocks contradict the chain that `reader` has; None when they do not.

    None too when it cannot be told from these blocks: they do not follow one another, none that contradicts is certified, this chain has no
    certificate near enough, or the other history had changed its validators before it was certified.

    Args:
        reader: A store at one height, with the certificates.
        blocks: Headers and the certificates of those that have one, in the order of their heights; from anybody.

    Returns:
        Evidence whose signatures nobody has verified: `verify_split_view` does.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.*``.
    """
    headers = [header for header, _ in blocks]
    if any(
        (above.height, above.previous_hash) != (below.height + 1, below.hash()) for below, above in pairwise(headers)
    ):
        return None
    view = StateView(reader)
    at = next((index for index, header in enumerate(headers) if _contradicts(view, header)), len(headers))
    certified = next(((header, certificate) for header, certificate in blocks[at:] if certificate is not None), None)
    if certified is None:
        return None
    header, certificate = certified
    configuration = _find_configuration(reader, view, header, headers[at].height)
    if configuration is None:
        return None
    other = Checkpoint(header, certificate, configuration)
    if other.height <= view.height:
        return find_split_view(reader, other)
    try:
        own = build_checkpoint(reader)
    except NotYetAvailableError:
        return None
    between = tuple(each for each in headers if own.height < each.height < other.height)
    if len(between) != other.height - own.height - 1 or len(between) > SPLIT_VIEW_HEADERS_MAX:
        return None
    return SplitView(own, other, between)


def _contradicts(view: StateView, header: Header) -> bool:
    """Return whether this chain has another block at the header's height, or right below it another than the header follows."""
    own = view.header_at(header.height)
    if own is not None:
        return own.hash() != header.hash()
    below = view.header_at(header.height - 1) if header.height > 1 else None
    return below is not None and below.hash() != header.previous_hash


def _find_configuration(reader: Reader, view: StateView, header: Header, fork: int) -> ConfigurationProof | None:
    """Return what leads to the header's validators, if this chain knows them: those of its tip, or those where the histories part."""
    heights = [min(header.height, view.height), min(fork, view.height)]
    if (
        fork == 1 or view.header_at(fork - 1) is not None
    ):  # a store that began with a snapshot knows nothing from before it
        heights.append(fork - 1)
    for height in dict.fromkeys(heights):
        proof = build_configuration_proof(reader, height)
        if proof.configuration.hash == header.validators_hash:
            return proof
    return None
