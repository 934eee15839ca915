"""The auditor: a valid chain has no findings, and every tampering is found where it was done, with both values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from ledger import bodies
from ledger.actions import SetPolicy
from ledger.archive import ArchivedBlock, ArchiveDecoder, ArchiveEncoder
from ledger.audit import PENDING_BLOCKS_MAX, AuditLevel, Auditor, AuditSummary
from ledger.block import Block, build_raw_block, hash_election
from ledger.transaction import SignatureJob, decode_transaction_untrusted
from tests.testkit import patches
from tests.testkit.ledger import Chain, key_of, make_certificate, make_election, make_genesis, node_key
from wire.certificate import encode_commit_certificate, proposal_message
from wire.codec import decode_untrusted, encode
from wire.hashing import Digest
from wire.limits import TX_BYTES_MAX

Fed = list[tuple[bytes, bytes | None]]
FULL, SIGNATURES, HEADERS = AuditLevel.FULL, AuditLevel.SIGNATURES, AuditLevel.HEADERS


@pytest.fixture(scope="module")
def chain() -> Chain:
    """People, a patch with its attestation, a deployment, a policy vote, two terms, and blocks without certificate."""
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.attest(data, "bob@beta")
    chain.elect(1)
    opened = chain.submit(bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}"), "web1@acme").tx_id
    proposal = chain.submit(bodies.ProposalCreate(SetPolicy("", ()), "none"), "ada@acme").tx_id
    for voter in ("ada@acme", "ben@beta"):
        chain.submit(bodies.ProposalVote(proposal, True), voter)
    body = bodies.DeploymentOutcome(2, opened, "site", patch_id, opened, "SUCCESS", bytes(32), b"\x01" * 32, b"{}")
    chain.apply(chain.build(chain.sign(body, "web1@acme")).block, certify=False)
    reports = [chain.sign(bodies.HostReport("drift", f"t{index}", b""), "web1@acme") for index in range(5)]
    chain.commit(*reports)
    return chain


def fed(chain: Chain) -> Fed:
    return [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


def audit(chain: Chain, blocks: Fed, level: AuditLevel = FULL) -> AuditSummary:
    auditor = Auditor(chain.genesis, level=level)
    for block, certificate in blocks:
        auditor.feed(block, certificate)
    return auditor.finish()


@pytest.mark.parametrize("level", list(AuditLevel))
def test_a_valid_chain_has_no_findings(chain: Chain, level: AuditLevel) -> None:
    summary = audit(chain, fed(chain), level)
    assert summary.findings == ()
    assert (summary.blocks, summary.height, summary.certified_height) == (13, 13, 13)
    assert summary.transactions == 17
    assert summary.tip == chain.blocks[-1].header
    assert summary.state_root == summary.tip.state_root


def test_the_auditor_comes_to_the_state_of_the_node(chain: Chain) -> None:
    auditor = Auditor(chain.genesis)
    for block, certificate in fed(chain):
        assert auditor.feed(block, certificate) == ()
    assert (auditor.height, auditor.transactions, auditor.findings) == (13, 17, ())
    assert auditor.view.target("web1@acme", "site") == chain.view.target("web1@acme", "site")
    assert auditor.view.policy() == chain.view.policy()


def test_a_chain_of_another_founding_document_is_no_chain(chain: Chain) -> None:
    auditor = Auditor(make_genesis(validators=3))
    first = auditor.feed(*fed(chain)[0])
    assert {each.what for each in first} >= {"ledger.block.wrong_previous", "ledger.block.validators_hash"}


def with_block(chain: Chain, height: int, block: Block) -> Fed:
    blocks = fed(chain)
    certificate = encode_commit_certificate(make_certificate(chain.genesis.chain_id, chain.voters, block))
    blocks[height - 1] = (block.raw, certificate)
    return blocks


def forge(chain: Chain, at: int, **changes: object) -> Block:
    """Return the block at a height with other parts, honestly signed by its own proposer."""
    block = chain.blocks[at]
    proposer = next(key for key in chain.node_keys if key.public_key.key_id == block.header.proposer)
    return chain.forge(block, signer=proposer, **changes)


@pytest.mark.parametrize(
    ("field", "level"),
    [
        ("state_root", FULL),
        ("policy_hash", FULL),
        ("validators_hash", HEADERS),
        ("transactions_root", HEADERS),
        ("log_root", HEADERS),
    ],
)
def test_a_wrong_field_is_found_with_both_values(chain: Chain, field: str, level: AuditLevel) -> None:
    """Validators that collude certify a header that its transactions do not lead to."""
    wrong = Digest(b"\x07" * 32)
    block = forge(chain, 5, **{field: wrong})
    findings = audit(chain, with_block(chain, 5, block), level).findings
    found = next(each for each in findings if each.what == f"ledger.block.{field}")
    assert (found.height, found.actual) == (5, wrong.hex())
    assert found.expected == getattr(chain.blocks[5].header, field).hex()
    # And the next block does not extend what block 5 has become; nothing after that is called wrong.
    others = {each.what for each in findings if each.height > 5}
    assert others == {"ledger.block.wrong_previous"}


def test_times_heights_and_chains_are_followed(chain: Chain) -> None:
    for changes, code in (
        ({"time_ms": 1}, "time_backwards"),
        ({"height": 9}, "wrong_height"),
        ({"chain_id": "other-net"}, "wrong_chain"),
        ({"previous_hash": Digest(bytes(32))}, "wrong_previous"),
    ):
        block = forge(chain, 5, **changes)
        findings = audit(chain, with_block(chain, 5, block), HEADERS).findings
        assert (5, f"ledger.block.{code}") in {(each.height, each.what) for each in findings}


def test_validators_signatures_are_checked_from_the_second_level_on(chain: Chain) -> None:
    block = chain.blocks[5]
    stranger = build_raw_block(
        block.header, block.transactions, node_key(3).sign(proposal_message(block.block_hash)), block.election
    )
    blocks = fed(chain)
    blocks[4] = (stranger.raw, blocks[4][1])
    assert audit(chain, blocks, HEADERS).findings == ()
    for level in (SIGNATURES, FULL):
        (finding,) = audit(chain, blocks, level).findings
        assert (finding.height, finding.what) == (5, "ledger.block.bad_proposer_signature")


def test_elections_are_checked(chain: Chain) -> None:
    first = next(block for block in chain.blocks if block.header.term == 2)
    height = first.header.height
    few = make_election(chain.genesis.chain_id, chain.node_keys[:2], 2, node_key(2), chain.blocks[height - 1])
    block = forge(chain, height, election=few, election_hash=hash_election(few))
    findings = audit(chain, with_block(chain, height, block), SIGNATURES).findings
    assert (findings[0].height, findings[0].what) == (height, "ledger.block.bad_election")


def test_certificates_are_checked(chain: Chain) -> None:
    blocks = fed(chain)
    other = blocks[3][1]
    blocks[4] = (blocks[4][0], other)
    for level in AuditLevel:
        (finding,) = audit(chain, blocks, level).findings
        assert (finding.height, finding.what) == (5, "ledger.proof.certificate")
    blocks[4] = (blocks[4][0], b"garbage")
    (finding,) = audit(chain, blocks, HEADERS).findings
    assert (finding.height, finding.what) == (5, "wire.codec.malformed")
    certificate = make_certificate(chain.genesis.chain_id, chain.node_keys[:2], chain.blocks[5])
    blocks[4] = (blocks[4][0], encode_commit_certificate(certificate))
    assert audit(chain, blocks, HEADERS).findings == ()
    (finding,) = audit(chain, blocks, SIGNATURES).findings
    assert (finding.height, finding.what) == (5, "wire.certificate.too_few")


def test_blocks_that_no_certificate_covers_are_a_finding(chain: Chain) -> None:
    blocks = fed(chain)
    blocks[-1] = (blocks[-1][0], None)
    summary = audit(chain, blocks)
    (finding,) = summary.findings
    assert (finding.height, finding.what) == (13, "ledger.audit.not_certified")
    assert summary.certified_height == 11
    assert audit(chain, []).findings == ()


def test_a_transaction_with_a_bad_signature_is_found_by_index(chain: Chain) -> None:
    raws = list(chain.blocks[13].transactions)
    values = decode_untrusted(raws[2], bytes_max=TX_BYTES_MAX)
    assert isinstance(values, tuple)
    raws[2] = encode((*values[:8], bytes(64)))
    block = forge(chain, 13, transactions=tuple(raws))
    findings = audit(chain, with_block(chain, 13, block)).findings
    found = next(each for each in findings if each.what == "ledger.tx.bad_signature")
    assert (found.height, found.index) == (13, 2)
    assert "ledger.tx.bad_signature" not in {
        each.what for each in audit(chain, with_block(chain, 13, block), SIGNATURES).findings
    }


def test_transactions_that_may_not_be_there_are_found_by_index(chain: Chain) -> None:
    raws = chain.blocks[13].transactions
    stranger = chain.sign(bodies.HostReport("drift", "t", b""), "web1@acme", key=key_of("a stranger"))
    twice = (*raws, raws[0], b"garbage", stranger.raw)
    block = forge(chain, 13, transactions=twice)
    findings = audit(chain, with_block(chain, 13, block)).findings
    refused = [(each.index, each.message) for each in findings if each.what == "ledger.block.transaction"]
    assert [index for index, _ in refused] == [5, 6, 7]
    assert "executed already" in refused[0][1]


def test_a_left_out_transaction_shows_in_the_roots_and_in_what_follows(chain: Chain) -> None:
    """Without the publication of the patch nothing that builds on it can be executed; the replay still goes on to the end."""
    block = forge(chain, 6, transactions=())
    summary = audit(chain, with_block(chain, 6, block))
    codes = [(each.height, each.what) for each in summary.findings]
    assert (6, "ledger.block.transactions_root") in codes
    assert (6, "ledger.block.state_root") in codes
    assert (7, "ledger.block.transaction") in codes
    assert summary.height == 13
    roots = [height for height, what in codes if what == "ledger.block.state_root"]
    assert roots == [6], "one divergence of the state is told once"


def test_an_unreadable_block_does_not_end_the_replay(chain: Chain) -> None:
    blocks = fed(chain)
    blocks[11] = (b"garbage", blocks[11][1])
    summary = audit(chain, blocks)
    assert (summary.findings[0].height, summary.findings[0].what) == (12, "ledger.block.malformed")
    assert summary.height == 13
    assert {each.what for each in summary.findings[1:]} <= {"ledger.block.transaction"}


def test_a_block_larger_than_its_network_allows_is_found() -> None:
    genesis = make_genesis(limits={"block_transactions_max": 2})
    chain = Chain(genesis)
    chain.register("web1@acme", "host")
    reports = [chain.sign(bodies.HostReport("inventory", "t", b""), "web1@acme") for _ in range(3)]
    block = chain.forge(chain.build(*reports).block, transactions=tuple(each.raw for each in reports))
    blocks = [*fed(chain), (block.raw, None)]
    findings = audit(chain, blocks).findings
    assert (2, "ledger.block.too_many_transactions") in {(each.height, each.what) for each in findings}


def test_signatures_are_verified_elsewhere_and_later(chain: Chain) -> None:
    """A verifier that answers only when it is asked; at most so many blocks are on their way, and every answer counts."""
    asked: list[int] = []
    answered: list[int] = []

    def verifier(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        number = len(asked)
        asked.append(len(jobs))

        def answer() -> Sequence[bool]:
            answered.append(number)
            return [number != 4] * len(jobs)

        return answer

    auditor = Auditor(chain.genesis, verifier=verifier, pending_blocks_max=3)
    found = []
    for block, certificate in fed(chain):
        found += auditor.feed(block, certificate)
        assert len(asked) - len(answered) <= 3
    assert [each.height for each in found] == [5]
    summary = auditor.finish()
    assert answered == sorted(answered) == list(range(13))
    assert [(each.height, each.what, each.index) for each in summary.findings] == [(5, "ledger.tx.bad_signature", 0)]
    assert PENDING_BLOCKS_MAX >= 3


def test_keys_registered_in_a_block_are_known_to_the_verifier_in_the_same_block() -> None:
    chain = Chain(make_genesis(validators=1, organisations=["acme"]))
    new = bodies.IdentityRegister("web9@acme", "W", ("host",), key_of("web9@acme").public_key.spki)
    chain.commit(chain.sign(new, "ada@acme"), chain.sign(bodies.HostReport("inventory", "t", b""), "web9@acme"))
    asked: list[int] = []

    def verifier(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        asked.append(len(jobs))
        return lambda: [True] * len(jobs)

    auditor = Auditor(chain.genesis, verifier=verifier)
    auditor.feed(*fed(chain)[0])
    assert auditor.finish().findings == ()
    assert asked == [5], "one proposer, one vote, one acknowledgement, two transactions"


@pytest.mark.parametrize("level", [SIGNATURES, FULL])
def test_a_verifier_that_doubts_the_validators_is_not_believed_but_made_sure_of(
    chain: Chain, level: AuditLevel
) -> None:
    def verifier(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
        return lambda: [len(job.leaf_hash.strip(b"\x00")) > 0 for job in jobs]

    auditor = Auditor(chain.genesis, level=level, verifier=verifier)
    for each in fed(chain):
        auditor.feed(*each)
    summary = auditor.finish()
    assert (summary.findings, summary.certified_height) == ((), 13)


def test_findings_at_one_height_are_told_from_link_to_signature(chain: Chain) -> None:
    raws = list(chain.blocks[13].transactions)
    values = decode_untrusted(raws[2], bytes_max=TX_BYTES_MAX)
    assert isinstance(values, tuple)
    raws[2] = encode((*values[:8], bytes(64)))
    wrong = chain.forge(chain.blocks[13], transactions=tuple(raws), time_ms=1, signer=node_key(1))
    blocks = [*fed(chain)[:-1], (wrong.raw, fed(chain)[-1][1])]
    codes = [each.what for each in audit(chain, blocks).findings]
    assert codes == [
        "ledger.block.time_backwards",
        "ledger.block.bad_proposer_signature",
        "ledger.block.transactions_root",
        "ledger.block.log_root",
        "ledger.proof.certificate",
        "ledger.audit.not_certified",
        "ledger.tx.bad_signature",
    ]


def test_an_archive_replays(chain: Chain) -> None:
    encoder, decoder = ArchiveEncoder(), ArchiveDecoder()
    data = encoder.begin(chain.genesis.document)
    data += b"".join(encoder.block(block, certificate) for block, certificate in fed(chain)) + encoder.end()
    items = decoder.feed_untrusted(data)
    decoder.finish()
    blocks = [(item.block, item.certificate) for item in items if isinstance(item, ArchivedBlock)]
    assert audit(chain, blocks).findings == ()


def test_findings_are_plain_records(chain: Chain) -> None:
    block = forge(chain, 5, state_root=Digest(bytes(32)))
    finding = audit(chain, with_block(chain, 5, block)).findings[0]
    assert replace(finding) == finding
    assert finding.message.startswith("block 5 claims another state_root than its transactions lead to")
    assert decode_transaction_untrusted(chain.blocks[5].transactions[0]).kind == "identity.register"
