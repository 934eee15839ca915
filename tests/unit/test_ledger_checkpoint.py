"""Checkpoints, consistency proofs and split views: what fits on paper, what leads on from it, and what contradicts it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ledger import actions, bodies
from ledger.checkpoint import (
    Checkpoint,
    SplitView,
    build_checkpoint,
    checkpoint_from_text_untrusted,
    find_split_view,
    trust_checkpoint,
    verify_checkpoint,
    verify_split_view,
)
from ledger.configuration_history import build_configuration_proof
from ledger.consistency import ConsistencyProof, build_consistency, verify_extends
from ledger.errors import NotYetAvailableError, ProofRefusedError
from ledger.keyspace import MemoryStore, Table, height_key
from ledger.proofs import build_receipt, verify_receipt
from ledger.state_proof import build_certified_state_proof, verify_certified_state_proof
from ledger.transaction import decode_transaction_untrusted
from ledger.trust import TrustedHead
from tests.testkit.ledger import Chain, make_certificate, make_genesis, node_key
from wire.errors import RejectedError
from wire.hashing import Digest


def report(chain: Chain, target: str = "site") -> None:
    chain.submit(bodies.HostReport("drift", target, b""), "web1@acme")


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(4):
        report(chain)
    chain.add_learner(5)
    chain.adopt(actions.ReplaceValidator("v2", "v5"))
    report(chain)
    chain.settle()
    for _ in range(3):
        report(chain)
    return chain


def founding(chain: Chain) -> TrustedHead:
    return TrustedHead.founding(chain.genesis)


def travelled(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint_from_text_untrusted(checkpoint.to_text())


def test_every_height_has_a_checkpoint_that_verifies_from_genesis_and_from_every_older_one(chain: Chain) -> None:
    heads = [founding(chain)]
    for height in range(1, chain.height + 1):
        checkpoint = travelled(build_checkpoint(chain.store, height))
        assert checkpoint.height == height
        assert checkpoint == build_checkpoint(chain.store, height)
        for head in heads:
            verified = verify_checkpoint(checkpoint, head)
            assert verified == trust_checkpoint(checkpoint)
        heads.append(trust_checkpoint(checkpoint))
    assert travelled(build_checkpoint(chain.store)).height == chain.height


def test_a_checkpoint_stands_for_the_founding_document(chain: Chain) -> None:
    head = trust_checkpoint(travelled(build_checkpoint(chain.store, 12)))
    for raw in chain.blocks[-1].transactions:
        tx_id = decode_transaction_untrusted(raw).tx_id
        assert verify_receipt(build_receipt(chain.store, tx_id), head).tx_id == tx_id
    proof = build_certified_state_proof(chain.store, "identity", "web1@acme")
    assert verify_certified_state_proof(proof, head).record is not None


def test_the_text_is_a_signed_note(chain: Chain) -> None:
    """Read as C2SP's signed-note and tlog-checkpoint say, without our own reader."""
    checkpoint = build_checkpoint(chain.store)
    text = checkpoint.to_text().decode()
    note, _, signatures = text.rpartition("\n\n")
    origin, size, root, *extensions = note.split("\n")
    header = checkpoint.header
    assert origin == "patchwarden/test-net"
    assert (int(size), base64.b64decode(root)) == (header.log_size, header.log_root)
    assert extensions[:4] == [
        f"height {header.height}",
        f"term {header.term}",
        f"block {header.hash().hex()}",
        f"state {header.state_root.hex()}",
    ]
    keys = {f"patchwarden/test-net/v{index}": node_key(index).public_key.raw for index in range(1, 6)}
    lines = signatures.removesuffix("\n").split("\n")
    assert len(lines) == 3
    for line in lines:
        dash, name, blob = line.split(" ")
        assert dash == "—"
        raw = base64.b64decode(blob)
        assert raw[:4] == sha256(name.encode() + b"\n\xffpatchwarden/ack/1" + keys[name]).digest()[:4]
        assert (raw[36:], len(raw)) == (dict(checkpoint.certificate.signatures)[raw[4:36]], 100)  # type: ignore[index]


def test_without_a_certificate_the_next_older_header_is_taken(chain: Chain) -> None:
    store = MemoryStore()
    store.apply(chain.store.dump())
    for height in (chain.height, chain.height - 1, 2, 1):
        store.apply({(Table.CERTIFICATE, height_key(height)): None})
    assert build_checkpoint(store).height == chain.height - 2
    assert build_checkpoint(store, 3).height == 3
    with pytest.raises(NotYetAvailableError) as unavailable:
        build_checkpoint(store, 2)
    assert unavailable.value.code == "ledger.checkpoint.none"


def edit(text: str, line: int, old: str, new: str) -> bytes:
    lines = text.split("\n")
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    return "\n".join(lines).encode()


def test_every_line_must_say_what_the_header_says(chain: Chain) -> None:
    checkpoint = build_checkpoint(chain.store)
    text = checkpoint.to_text().decode()
    size = str(checkpoint.header.log_size)
    for wrong in (
        b"",
        b"\xff" + text.encode(),
        text.encode()[:-1],
        text.encode() + b"\n",
        text.replace("\n", "\r\n").encode(),
        edit(text, 0, "test-net", "other-net"),
        edit(text, 1, size, size + "0"),
        edit(text, 1, size, "0" + size),
        edit(text, 2, "=", ""),
        edit(text, 3, "height ", "height 1"),
        edit(text, 4, "term ", "term 1"),
        edit(text, 5, "block ", "block 0"),
        edit(text, 6, "state ", "State "),
        edit(text, 7, "header ", "header A"),
        edit(text, 7, "header ", "head "),
        edit(text, 8, "configuration ", "configuration AAAA"),
        edit(text, 8, "configuration ", "configuration é"),
        edit(text, 9, "", "x"),
        edit(text, 10, "— ", "- "),
        edit(text, 10, "/v", "/w"),
        edit(text, 10, "— patchwarden", "— Patchwarden"),
        edit(text, 10, " patchwarden", "  patchwarden"),
        "\n".join(text.split("\n")[:10]).encode() + b"\n",
        "\n".join([*text.split("\n")[:10], text.split("\n")[11], text.split("\n")[10], ""]).encode(),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            checkpoint_from_text_untrusted(wrong)
        assert refused.value.code == "ledger.checkpoint.malformed", wrong


def test_a_signer_outside_the_configuration_has_no_line(chain: Chain) -> None:
    checkpoint = build_checkpoint(chain.store)
    stranger = make_certificate(chain.genesis.chain_id, [node_key(9)], chain.blocks[-1])
    with pytest.raises(ProofRefusedError) as refused:
        replace(checkpoint, certificate=stranger).to_text()
    assert refused.value.code == "ledger.checkpoint.signer"


def test_forged_checkpoints_are_refused(chain: Chain) -> None:
    checkpoint = build_checkpoint(chain.store)
    forged = replace(checkpoint.header, log_root=Digest(bytes(32)))
    signatures = checkpoint.certificate.signatures
    for wrong, code in (
        (replace(checkpoint, header=forged), "ledger.proof.certificate"),
        (
            replace(checkpoint, certificate=replace(checkpoint.certificate, signatures=signatures[:2])),
            "wire.certificate.too_few",
        ),
        (
            replace(
                checkpoint,
                header=forged,
                certificate=replace(checkpoint.certificate, block_hash=forged.hash()),
            ),
            "wire.certificate.signature",
        ),
        (replace(checkpoint, configuration=build_configuration_proof(chain.store, 2)), "ledger.proof.validators"),
    ):
        with pytest.raises(RejectedError) as refused:
            trust_checkpoint(wrong)
        assert refused.value.code == code
        with pytest.raises(RejectedError):
            verify_checkpoint(wrong, founding(chain))


# -- consistency -------------------------------------------------------------------------------------------------------


def test_consistency_between_any_two_sizes(chain: Chain) -> None:
    """Between any two headers it verifies; between any two sizes at all it is built."""
    size = chain.blocks[-1].header.log_size
    for before in range(size + 1):
        for after in range(before, size + 1):
            proof = build_consistency(chain.store, before, after)
            assert ConsistencyProof.from_json_untrusted(json.loads(json.dumps(proof.to_json()))) == proof
    headers = [block.header for block in chain.blocks]
    for index, earlier in enumerate(headers):
        for later in headers[index:]:
            verify_extends(build_consistency(chain.store, earlier.log_size, later.log_size), earlier, later)


def test_forged_consistency_is_refused(chain: Chain) -> None:
    before, after = chain.blocks[5].header, chain.blocks[-1].header
    proof = build_consistency(chain.store, before.log_size, after.log_size)
    zeros = Digest(bytes(32))
    for wrong, earlier, later, code in (
        (proof, replace(before, log_root=zeros), after, "wire.merkle.root"),
        (proof, before, replace(after, log_root=zeros), "wire.merkle.root"),
        (replace(proof, hashes=proof.hashes[1:]), before, after, "wire.merkle.length"),
        (proof, chain.blocks[6].header, after, "ledger.proof.log_size"),
        (proof, before, chain.blocks[6].header, "ledger.proof.log_size"),
        (replace(proof, chain_id="other-net"), before, after, "ledger.proof.wrong_chain"),
        (proof, before, replace(after, chain_id="other-net"), "ledger.proof.wrong_chain"),
    ):
        with pytest.raises(RejectedError) as refused:
            verify_extends(wrong, earlier, later)
        assert refused.value.code == code


def test_sizes_that_the_log_does_not_have_are_refused(chain: Chain) -> None:
    size = chain.blocks[-1].header.log_size
    for before, after in ((3, 2), (1, size + 1), (-1, 2)):
        with pytest.raises(ProofRefusedError) as refused:
            build_consistency(chain.store, before, after)
        assert refused.value.code == "ledger.proof.log_size"


def test_the_consistency_form_is_strict(chain: Chain) -> None:
    document = build_consistency(chain.store, 3, 7).to_json()
    for wrong in (
        None,
        {**document, "configuration": ""},
        {**document, "version": 2},
        {**document, "chain_id": 1},
        {**document, "size_before": -1},
        {**document, "size_after": "7"},
        {**document, "hashes": ["00"]},
        {**document, "hashes": ["00" * 32] * 129},
    ):
        with pytest.raises(ProofRefusedError) as refused:
            ConsistencyProof.from_json_untrusted(wrong)
        assert refused.value.code == "ledger.proof.malformed"


# -- split views -------------------------------------------------------------------------------------------------------


def rival(chain: Chain, fork_height: int, blocks: int) -> Chain:
    """Return another history of the same validators, who all sign it: the same up to a height, then others."""
    other = Chain(chain.genesis)
    for block in chain.blocks[1 : fork_height + 1]:
        other.apply(block)
    other.term = chain.term
    other.nonces = 1_000_000
    for _ in range(blocks):
        report(other, "forged")
    return other


@pytest.fixture(scope="module")
def honest() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(9):
        report(chain)
    return chain


@pytest.mark.parametrize("certified_above", [0, 1, 3])
def test_a_second_history_signed_by_a_majority_is_found(honest: Chain, certified_above: int) -> None:
    forged = travelled(build_checkpoint(rival(honest, 3, 2).store))
    assert forged.height == 5
    store = MemoryStore()
    store.apply(honest.store.dump())
    for height in range(5, 5 + certified_above):
        store.apply({(Table.CERTIFICATE, height_key(height)): None})
    found = find_split_view(store, forged)
    assert found is not None
    assert (found.second.height, len(found.headers)) == (5 + certified_above, max(0, certified_above - 1))
    evidence = SplitView.from_json_untrusted(json.loads(json.dumps(found.to_json())))
    assert evidence == found
    assert verify_split_view(evidence, founding(honest)) == evidence.height == 5


def test_one_history_has_no_split_view(honest: Chain) -> None:
    for height in range(1, honest.height + 1):
        assert find_split_view(honest.store, build_checkpoint(honest.store, height)) is None
    ahead = rival(honest, honest.height, 2)
    assert find_split_view(honest.store, build_checkpoint(ahead.store)) is None


def test_a_checkpoint_of_a_height_without_any_certificate_above_waits(honest: Chain) -> None:
    store = MemoryStore()
    store.apply(honest.store.dump())
    for height in range(5, honest.height + 1):
        store.apply({(Table.CERTIFICATE, height_key(height)): None})
    assert find_split_view(store, build_checkpoint(rival(honest, 3, 2).store)) is None


def test_what_is_no_split_view_is_refused(honest: Chain) -> None:
    forged = build_checkpoint(rival(honest, 3, 2).store)
    at = {height: build_checkpoint(honest.store, height) for height in range(1, honest.height + 1)}
    header = {height: block.header for height, block in enumerate(honest.blocks)}
    for wrong in (
        SplitView(at[5], at[5]),
        SplitView(at[5], at[6]),
        SplitView(at[5], at[7], (header[6],)),
        SplitView(forged, at[7]),
        SplitView(forged, at[8], (header[6],)),
        SplitView(forged, at[8], (header[7], header[6])),
        SplitView(forged, at[8], (replace(header[6], time_ms=0), header[7])),
        SplitView(forged, at[5], (header[6],)),
        SplitView(at[6], forged),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            verify_split_view(wrong, founding(honest))
        assert refused.value.code == "ledger.checkpoint.no_split"
    unsigned = replace(forged, certificate=replace(forged.certificate, signatures=forged.certificate.signatures[:2]))
    with pytest.raises(RejectedError) as too_few:
        verify_split_view(SplitView(unsigned, at[5]), founding(honest))
    assert too_few.value.code == "wire.certificate.too_few"
    with pytest.raises(RejectedError) as foreign:
        verify_split_view(SplitView(forged, at[5]), TrustedHead.founding(make_genesis(chain_id="other-net")))
    assert foreign.value.code == "ledger.proof.wrong_chain"


def test_the_evidence_form_is_strict(honest: Chain) -> None:
    found = find_split_view(honest.store, build_checkpoint(rival(honest, 3, 2).store))
    assert found is not None
    document: dict[str, Any] = found.to_json()
    for wrong in (
        None,
        {**document, "version": 2},
        {**document, "kind": "other"},
        {**document, "chain_id": "x"},
        {**document, "first": 1},
        {**document, "first": "x"},
        {**document, "second": "\ud800"},
        {**document, "headers": None},
        {**document, "headers": ["AAAA"]},
        {**document, "headers": [1]},
    ):
        with pytest.raises(ProofRefusedError) as refused:
            SplitView.from_json_untrusted(wrong)
        assert refused.value.code == "ledger.checkpoint.malformed"
