"""Whether a header can follow another: links, the proposer, and its election. Nothing here needs transactions or a state.

Replicas ask it before they execute a block (`ledger.transition`), auditors while they replay (`ledger.audit`), and whoever accuses a
validator of having signed what cannot follow (`ledger.blame`).

Source: docs/spec/ledger.md 7.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.block import Block, Header, check_proposer_signature, hash_election
from ledger.configuration import Configuration
from ledger.errors import BlockRefusedError
from ledger.limits import TIME_AHEAD_MS_MAX
from ledger.recovery_block import is_recovery_block, recovery_refusals, unexpected_recovery
from ledger.state import Tip
from wire.certificate import ElectionCertificate, decode_election_certificate_untrusted, verify_election_quorums
from wire.errors import RejectedError, show_value


def header_refusals(
    tip: Tip, configuration: Configuration, block: Block, *, now_ms: int | None
) -> Iterator[BlockRefusedError]:
    """Yield every way in which the block does not follow `tip`, its transactions and derived fields aside.

    Args:
        tip: The block before.
        configuration: The one after the block before: it says who may propose, and who may be elected by whom.
        block: From anybody.
        now_ms: The caller's clock, or None.
    """
    if now_ms is not None and is_recovery_block(block.header):
        yield unexpected_recovery(block.header)
    yield from link_refusals(tip, block, now_ms=now_ms)
    yield from validator_refusals(tip, configuration, block)


def link_refusals(tip: Tip, block: Block, *, now_ms: int | None) -> Iterator[BlockRefusedError]:
    """Yield every way in which the block's own fields do not follow the block before; no signature is checked."""
    header, parent = block.header, tip.header
    if header.chain_id != parent.chain_id:
        yield refuse_block("wrong_chain", header, "belongs to another network", parent.chain_id, header.chain_id)
    if header.height != parent.height + 1:
        yield refuse_block("wrong_height", header, "is not the next one", parent.height + 1, header.height)
    if header.previous_hash != tip.block_hash:
        yield refuse_block("wrong_previous", header, "does not extend the tip", tip.block_hash, header.previous_hash)
    if header.time_ms < parent.time_ms:
        yield refuse_block("time_backwards", header, "is older than the block before", parent.time_ms, header.time_ms)
    if now_ms is not None and header.time_ms > now_ms + TIME_AHEAD_MS_MAX:
        yield refuse_block(
            "time_ahead", header, "lies in the future", f"at most {now_ms + TIME_AHEAD_MS_MAX} ms", header.time_ms
        )


def validator_refusals(tip: Tip, configuration: Configuration, block: Block) -> Iterator[BlockRefusedError]:
    """Yield every way in which the validators' signatures do not stand behind the block's proposer."""
    header = block.header
    if is_recovery_block(header):
        for sentence, error in recovery_refusals(tip.block_hash, configuration, block):
            yield refuse_block("recovery", header, sentence, cause="" if error is None else error.code)
        return
    proposer = configuration.proposers.get(header.proposer)
    if proposer is None:
        yield refuse_block("unknown_proposer", header, "was not proposed by a validator", None, header.proposer)
    else:
        try:
            check_proposer_signature(block, proposer)
        except BlockRefusedError as error:
            yield error
    yield from _election_refusals(tip, configuration, block)


def refuse_block(
    rule: str, header: Header, sentence: str, expected: object = None, actual: object = None, *, cause: str = ""
) -> BlockRefusedError:
    """Return the refusal ``ledger.block.<rule>`` of the block with this header."""
    details: dict[str, str | int] = {"height": header.height}
    if expected is not None:
        details["expected"] = show_value(expected)
    if actual is not None:
        details["actual"] = show_value(actual)
    if cause:
        details["cause"] = cause
    return BlockRefusedError(
        f"ledger.block.{rule}",
        f"block {header.height} {sentence}",
        expected=expected,
        actual=actual,
        details=details,
    )


def _election_refusals(tip: Tip, configuration: Configuration, block: Block) -> Iterator[BlockRefusedError]:
    header, parent = block.header, tip.header
    if header.election_hash != hash_election(block.election):
        yield refuse_block("election_hash", header, "carries another election certificate than its header says",
            header.election_hash, hash_election(block.election),
        )  # fmt: skip
    if header.term < parent.term:
        yield refuse_block(
            "term_backwards", header, "is of an older term than the block before", parent.term, header.term
        )
    elif header.term == parent.term:
        if block.election is not None:
            yield refuse_block(
                "unexpected_election", header, "is not its term's first and carries an election certificate"
            )
        if header.proposer != parent.proposer:
            yield refuse_block("proposer_changed", header, "has another proposer than the block before in the same term",
                parent.proposer, header.proposer,
            )  # fmt: skip
    elif block.election is None:
        yield refuse_block(
            "missing_election", header, f"is the first of term {header.term} and lacks the election certificate"
        )
    else:
        try:
            certificate = decode_election_certificate_untrusted(block.election)
            verify_election_quorums(certificate, parent.chain_id, configuration.quorums)
        except RejectedError as error:
            yield refuse_block(
                "bad_election", header, f"carries an invalid election certificate: {error.message}", cause=error.code
            )
        else:
            yield from _candidate_refusals(tip, block, certificate)


def _candidate_refusals(tip: Tip, block: Block, certificate: ElectionCertificate) -> Iterator[BlockRefusedError]:
    header = block.header
    if certificate.term != header.term:
        yield refuse_block("election_term", header, "carries another term's election", header.term, certificate.term)
    if certificate.candidate != header.proposer:
        yield refuse_block(
            "election_candidate", header, "was not proposed by the one elected", certificate.candidate, header.proposer
        )
    voted = (certificate.last_term, certificate.last_height, certificate.last_hash)
    actual = (tip.header.term, tip.header.height, tip.block_hash)
    if voted != actual:
        yield refuse_block("election_parent", header, "does not extend the block that its proposer was elected on",
            f"term {voted[0]}, height {voted[1]}, {voted[2].hex()}",
            f"term {actual[0]}, height {actual[1]}, {actual[2].hex()}",
        )  # fmt: skip
