"""Light clients: what follows from headers alone, over many changes of the validators, and every lie that a node may tell."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import actions, bodies
from ledger.checkpoint import Checkpoint, build_checkpoint, checkpoint_from_text_untrusted, verify_split_view
from ledger.configuration_history import build_configuration_proof
from ledger.consistency import ConsistencyProof, build_consistency
from ledger.cose_receipt import build_cose_receipts, sign_log_root
from ledger.errors import ProofRefusedError
from ledger.light import LightClient, SplitViewError, light_client_from_bytes_untrusted
from ledger.proofs import build_receipt
from ledger.records import IdentityRecord
from ledger.state_proof import build_certified_state_proof
from ledger.transaction import decode_transaction_untrusted
from ledger.trust import TrustedHead
from tests.testkit.ledger import Chain, make_certificate, make_genesis, node_key
from wire.errors import RejectedError
from wire.hashing import Digest, sha256


def note(chain: Chain, target: str = "site") -> None:
    chain.submit(bodies.HostReport("drift", target, b""), "web1@acme")


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Every founding validator is replaced, one after the other."""
    chain = Chain(make_genesis(validators=3))
    chain.register("web1@acme", "host")
    for old, new in ((1, 4), (2, 5), (3, 6)):
        chain.elect(old)
        chain.add_learner(new)
        chain.adopt(actions.ReplaceValidator(f"v{old}", f"v{new}"))
        note(chain)
        chain.settle()
        note(chain)
    return chain


@pytest.fixture(scope="module")
def honest() -> Chain:
    """A chain whose validators never change."""
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(9):
        note(chain)
    return chain


def rival(chain: Chain, fork_height: int, blocks: int, target: str = "forged") -> Chain:
    """Return another history of the same validators: the same up to a height, then others, which a majority signs."""
    other = Chain(chain.genesis, keys=chain.keys)
    for block in chain.blocks[1 : fork_height + 1]:
        other.apply(block)
    other.term = chain.term
    other.nonces = 1_000_000
    for _ in range(blocks):
        note(other, target)
    return other


def at(chain: Chain, height: int | None = None) -> Checkpoint:
    return build_checkpoint(chain.store, height)


def grew(chain: Chain, client: LightClient, checkpoint: Checkpoint) -> ConsistencyProof | None:
    if not client.needs_consistency(checkpoint.header):
        return None
    header = client.head.header
    assert header is not None
    return build_consistency(chain.store, header.log_size, checkpoint.header.log_size)


def step(client: LightClient, chain: Chain, height: int | None = None) -> LightClient:
    """Return the client after an honest node has shown it a height."""
    checkpoint = at(chain, height)
    return client.advance(checkpoint, grew(chain, client, checkpoint))


def following(chain: Chain, *heights: int) -> LightClient:
    client = LightClient.from_genesis(chain.genesis)
    for height in heights:
        client = step(client, chain, height)
    return client


def refusal(client: LightClient, checkpoint: Checkpoint, consistency: ConsistencyProof | None = None) -> str:
    with pytest.raises(RejectedError) as refused:
        client.advance(checkpoint, consistency)
    return refused.value.code


# -- honest nodes ------------------------------------------------------------------------------------------------------


def test_any_step_from_any_height_leads_to_the_same_head(chain: Chain) -> None:
    newest = at(chain)
    for height in range(1, chain.height + 1):
        client = step(following(chain, height), chain)
        assert (client.height, client.newest) == (chain.height, newest)
        begun = step(LightClient.from_checkpoint(at(chain, height)), chain)
        assert begun.head == client.head
        assert light_client_from_bytes_untrusted(begun.to_bytes()) == begun
        assert light_client_from_bytes_untrusted(client.to_bytes()) == client


def test_block_by_block_over_every_change_of_the_validators(chain: Chain) -> None:
    client = following(chain, *range(1, chain.height + 1))
    assert client.head.configuration == chain.view.configuration()
    assert not {each.name for each in client.head.configuration.voters} & {"v1", "v2", "v3"}
    assert step(client, chain) is client


def test_blocks_without_transactions_need_no_consistency_proof(honest: Chain) -> None:
    chain = rival(honest, 4, 0)
    client = following(chain, 4)
    chain.commit()
    assert client.advance(at(chain), None).height == 5


def test_the_start_alone_is_kept(chain: Chain) -> None:
    for client in (LightClient.from_genesis(chain.genesis), LightClient.from_checkpoint(at(chain, 7))):
        assert light_client_from_bytes_untrusted(client.to_bytes()) == client


def test_receipts_and_state_proofs_are_verified_from_the_head(chain: Chain) -> None:
    client = following(chain, 5, chain.height)
    raw = chain.blocks[1].transactions[0]
    tx_id = decode_transaction_untrusted(raw).tx_id
    receipt = build_receipt(chain.store, tx_id, chain.height)
    assert client.verify_receipt(receipt).raw == raw
    signatures = {
        key.public_key.key_id: sign_log_root(key, chain.genesis.chain_id, receipt.header.log_root)
        for key in chain.signers(client.head.configuration)
    }
    assert client.verify_receipt(build_cose_receipts(receipt, client.head.configuration, signatures)).raw == raw
    record = client.verify_state_proof(build_certified_state_proof(chain.store, "identity", "web1@acme")).record
    assert isinstance(record, IdentityRecord)
    # Under validators of long ago nothing is believed any more: their keys may be anybody's now.
    with pytest.raises(RejectedError) as refused:
        client.verify_receipt(build_receipt(chain.store, tx_id))
    assert refused.value.code == "ledger.proof.configuration"


def test_the_founding_validators_need_no_proof_of_their_own(honest: Chain) -> None:
    proof = build_certified_state_proof(honest.store, "identity", "nobody@acme")
    assert proof.configuration is None
    for client in (LightClient.from_genesis(honest.genesis), following(honest, 3), following(honest, honest.height)):
        assert client.verify_state_proof(proof).record is None
        shown = client.checkpoint_of(proof.header, proof.certificate, proof.configuration)
        assert client.advance(shown, grew(honest, client, shown)).height == honest.height


# -- lies --------------------------------------------------------------------------------------------------------------


def test_an_older_head_is_never_taken(honest: Chain) -> None:
    client = following(honest, 6)
    assert refusal(client, at(honest, 5)) == "ledger.light.older"
    client.check(at(honest, 5))


def test_without_the_proof_that_the_log_grew_there_is_no_step(honest: Chain) -> None:
    client, newest = following(honest, 4), at(honest)
    proof = grew(honest, client, newest)
    assert proof is not None
    assert refusal(client, newest) == "ledger.light.consistency"
    assert refusal(client, newest, replace(proof, hashes=proof.hashes[1:])) == "wire.merkle.length"
    assert refusal(client, newest, replace(proof, size_before=proof.size_before - 1)) == "ledger.proof.log_size"


def test_forged_headers_cut_certificates_and_forged_configurations_are_refused(chain: Chain) -> None:
    newest = at(chain)
    header, signatures = newest.header, newest.certificate.signatures
    forged = replace(header, state_root=Digest(bytes(32)))
    first = newest.configuration.changes[0]
    cut_change = replace(first, certificate=replace(first.certificate, signatures=first.certificate.signatures[:1]))
    changes = newest.configuration.changes
    strangers = make_certificate(chain.genesis.chain_id, [node_key(each) for each in (7, 8, 9)], chain.blocks[-1])
    for client in (LightClient.from_genesis(chain.genesis), following(chain, 2)):
        proof = grew(chain, client, newest)
        for wrong, code in (
            (replace(newest, header=forged), "ledger.proof.certificate"),
            (
                Checkpoint(forged, replace(newest.certificate, block_hash=forged.hash()), newest.configuration),
                "wire.certificate.signature",
            ),
            (
                replace(newest, certificate=replace(newest.certificate, signatures=signatures[:1])),
                "wire.certificate.too_few",
            ),
            (replace(newest, certificate=strangers), "wire.certificate.stranger"),
            (
                replace(newest, configuration=replace(newest.configuration, changes=changes[1:])),
                "ledger.proof.configuration",
            ),
            (replace(newest, configuration=build_configuration_proof(chain.store, 2)), "ledger.proof.validators"),
            (
                replace(newest, configuration=replace(newest.configuration, changes=(cut_change, *changes[1:]))),
                "wire.certificate.too_few",
            ),
            (replace(newest, header=replace(header, chain_id="other-net")), "ledger.proof.wrong_chain"),
        ):
            assert refusal(client, wrong, proof) == code


def test_a_path_that_does_not_hold_from_the_start_is_refused_even_when_the_head_needs_none(chain: Chain) -> None:
    """Else a node could make the client keep what it cannot verify again later."""
    client, newest = following(chain, chain.height - 1), at(chain)
    assert client.head.configuration == newest.configuration.configuration
    bad = replace(newest, configuration=replace(newest.configuration, changes=newest.configuration.changes[1:]))
    assert refusal(client, bad, grew(chain, client, newest)) == "ledger.proof.configuration"
    other = replace(newest, configuration=build_configuration_proof(chain.store, 2))
    assert refusal(client, other, grew(chain, client, newest)) == "ledger.proof.configuration"


def test_former_validators_cannot_lead_the_client_away(chain: Chain) -> None:
    """Their keys are stolen long after: who begins at the founding may be fooled, who follows is not."""
    forged = at(rival(chain, 4, 90))
    assert forged.height > chain.height
    assert LightClient.from_genesis(chain.genesis).advance(forged, None).height == forged.height
    client = following(chain, chain.height)
    assert refusal(client, forged) in ("ledger.proof.configuration", "ledger.light.split_view")


# -- split views -------------------------------------------------------------------------------------------------------


def test_two_certified_blocks_of_one_height_are_a_split_view_with_both(honest: Chain) -> None:
    client, forged = following(honest, 5), at(rival(honest, 3, 2))
    with pytest.raises(SplitViewError) as found:
        client.advance(forged, None)
    assert found.value.code == "ledger.light.split_view"
    assert (found.value.first, found.value.second) == (client.newest, forged)
    assert verify_split_view(found.value.evidence(), TrustedHead.founding(honest.genesis)) == 5


def test_a_log_that_shrinks_a_term_that_falls_and_a_rewritten_log_are_split_views(honest: Chain) -> None:
    client = following(honest, 6)
    header = honest.blocks[6].header
    for change in (
        {"height": 7, "log_size": header.log_size - 1},
        {"height": 5, "log_size": header.log_size + 1},
        {"height": 5, "term": header.term + 1},
        {"height": 7, "log_root": Digest(bytes(32))},
    ):
        block = honest.forge(honest.blocks[6], **change)
        stolen = make_certificate(honest.genesis.chain_id, honest.voters, block)
        with pytest.raises(SplitViewError) as found:
            client.advance(Checkpoint(block.header, stolen, at(honest).configuration), None)
        assert found.value.first.height <= found.value.second.height


def test_a_higher_forged_log_is_refused_and_its_lower_header_convicts(honest: Chain) -> None:
    """The consistency proof alone may be the node's own lie; its header at the client's height is the validators'."""
    client, other = following(honest, 5), rival(honest, 3, 4)
    assert refusal(client, at(other), grew(other, client, at(other))) == "wire.merkle.root"
    with pytest.raises(SplitViewError):
        client.check(at(other, 5))


def test_receipts_and_state_proofs_of_another_history_are_split_views(honest: Chain) -> None:
    other = rival(honest, 3, 2)
    client = following(honest, 5)
    with pytest.raises(SplitViewError):
        client.verify_state_proof(build_certified_state_proof(other.store, "identity", "web1@acme"))
    tx_id = decode_transaction_untrusted(other.blocks[5].transactions[0]).tx_id
    with pytest.raises(SplitViewError):
        client.verify_receipt(build_receipt(other.store, tx_id))


def test_a_stolen_former_majority_at_the_heads_height_is_a_split_view(chain: Chain) -> None:
    """The head's validators are others by then, so only the start shows that the certificate holds."""
    client = following(chain, chain.height)
    other = rival(chain, 4, chain.height - 4)
    with pytest.raises(SplitViewError):
        client.advance(at(other), None)
    nobody = replace(at(other), certificate=replace(at(other).certificate, signatures=()))
    with pytest.raises(RejectedError) as refused:
        client.advance(nobody, None)
    assert not isinstance(refused.value, SplitViewError), "without signatures it is the node's lie, nobody's history"


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_damaged_bytes_are_refused(chain: Chain, honest: Chain) -> None:
    data = following(honest, 5).to_bytes()
    foreign = replace(LightClient.from_genesis(honest.genesis), newest=at(chain))
    for wrong in (
        b"",
        data[:-1],
        data + b"\0",
        data[::-1],
        foreign.to_bytes(),
        sealed(b"patchwarden/light/1\n"),
        sealed(b"patchwarden/light/1\n\x93\xc4\x00\xc4\x00\xc0"),
        sealed(b"patchwarden/light/1\n\x93\xc0\xc0\xc0"),
    ):
        with pytest.raises(ProofRefusedError) as refused:
            light_client_from_bytes_untrusted(wrong)
        assert refused.value.code == "ledger.light.damaged"


def sealed(body: bytes) -> bytes:
    return body + sha256(body)


@given(data=st.data())
def test_a_flipped_byte_is_found_with_and_without_the_checksum(data: st.DataObject, honest: Chain) -> None:
    kept = bytearray(following(honest, 5).to_bytes())
    place = data.draw(st.integers(0, len(kept) - 1))
    kept[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RejectedError):
        light_client_from_bytes_untrusted(bytes(kept))
    # Somebody who writes the checksum anew leaves a client with a head that its start leads to, or none.
    with suppress(ProofRefusedError):
        again = light_client_from_bytes_untrusted(sealed(bytes(kept[:-32])))
        assert (again.height, light_client_from_bytes_untrusted(again.to_bytes())) == (5, again)


@given(data=st.data())
def test_a_flipped_byte_in_what_a_node_sends_leads_nowhere_else(data: st.DataObject, honest: Chain) -> None:
    client, newest = following(honest, 3), at(honest)
    text = bytearray(newest.to_text())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RejectedError):
        client.advance(checkpoint_from_text_untrusted(bytes(text)), grew(honest, client, newest))
