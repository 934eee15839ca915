"""Transactions, blocks, proofs of every kind, archives, snapshots; and the messages of consensus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from consensus.messages import (
    Acknowledgement,
    Append,
    AppendReply,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    decode_message_untrusted,
    encode_message,
)
from ledger import actions, bodies, rollout_bodies
from ledger.actions import action_from_value_untrusted
from ledger.archive import ArchivedBlock, ArchiveDecoder
from ledger.audit import Auditor
from ledger.audit_state import AuditStateError, decode_audit_state_untrusted
from ledger.blame import find_guilty
from ledger.blame_proof import Blame, verify_blame
from ledger.block import decode_block_untrusted, decode_header_untrusted
from ledger.bodies import BODY_READERS
from ledger.bundle import BundleDecoder, BundleEncoder
from ledger.checkpoint import (
    SplitView,
    build_checkpoint,
    checkpoint_from_text_untrusted,
    find_split_view,
    trust_checkpoint,
    verify_split_view,
)
from ledger.configuration import decode_configuration_untrusted
from ledger.configuration_history import build_configuration_proof
from ledger.consistency import ConsistencyProof, build_consistency, verify_extends
from ledger.cose_receipt import (
    build_cose_receipts,
    decode_cose_receipts_untrusted,
    sign_log_root,
    verify_cose_receipts,
)
from ledger.executed import decode_executed_link_untrusted
from ledger.genesis import decode_genesis_untrusted
from ledger.keyspace import MemoryStore, Table, height_key
from ledger.light import STATE_MAGIC, LightClient, light_client_from_bytes_untrusted
from ledger.organisation_actions import (
    AddAdministrator,
    AddCaCertificate,
    AddOrganisation,
    Administrator,
    RemoveCaCertificate,
    RemoveOrganisation,
    RenameOrganisation,
    ResumeOrganisation,
    SuspendOrganisation,
)
from ledger.proofs import Receipt, build_receipt, verify_receipt
from ledger.recovery import Recovery
from ledger.rollout_waves import Wave
from ledger.snapshot import SnapshotBuilder, decode_manifest_untrusted
from ledger.snapshot_install import SnapshotInstaller
from ledger.state_proof import CertifiedStateProof, build_certified_state_proof, verify_certified_state_proof
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import execute_block
from ledger.trust import TrustedHead
from ledger.validator_actions import AddLearner, PromoteLearner, RemoveValidator
from tests.fuzz.target import Target
from tests.testkit import patches
from tests.testkit.certificates import make_chain as make_chain_of_certificates
from tests.testkit.forks import Branch
from tests.testkit.ledger import Chain, administrator_of, key_of, validator
from tests.testkit.raft_sim import make_chain
from tests.testkit.recovery import SIGNERS, make_recovery
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import sha256

LONG = 64 * 1024
"""For forms whose good inputs have some kilobytes."""


@cache
def chain() -> Chain:
    """Return a short chain with something of everything."""
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    chain.publish(data)
    chain.attest(data, "bob@beta")
    chain.add_learner(5)
    chain.adopt(actions.ReplaceValidator("v2", "v5"))
    chain.settle()
    chain.submit(bodies.HostReport("drift", "site", b"body"), "web1@acme")
    return chain


@cache
def fork() -> tuple[Chain, Branch, Branch]:
    """Return a common beginning and two certified branches of it."""
    common = Chain()
    common.commit()
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    ours.add([1, 2, 3], term=3, leader=1, voters=[1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    return common, ours, theirs


def _raws() -> list[bytes]:
    return [raw for block in chain().blocks for raw in block.transactions]


def _json(data: bytes) -> object:
    """Return what a reader of JSON hands to our readers of values."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RejectedError("fuzz.not_json", "the input is not JSON") from error


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# Transactions and blocks


def take_transaction(data: bytes) -> bool:
    transaction = decode_transaction_untrusted(data)
    assert transaction.raw == data
    built = chain().build(transaction)
    return not built.refused


def transaction_seeds() -> list[bytes]:
    return [*_raws(), chain().sign(bodies.HostReport("drift", "site", b"next"), "web1@acme").raw]


def take_body(data: bytes) -> bool:
    """Any body, honestly signed by an administrator or a host, as far as execution."""
    kind, value, by = _body(data)
    reader = BODY_READERS.get(kind)
    if reader is None:
        raise RejectedError("fuzz.no_kind", "there is no body of this kind")
    body = reader(value)
    assert body.to_value() == value, "two forms of one body"
    if kind != bodies.ValidatorSettle.KIND:
        chain().build(chain().sign(body, by))
    return True


def _body(data: bytes) -> tuple[str, object, str]:
    value = decode_untrusted(data, bytes_max=LONG)
    match value:
        case (str(kind), inner, int(index)) if 0 <= index < len(_signers()):
            return kind, inner, _signers()[index]
    raise RejectedError("fuzz.form", "not a kind, a body and a signer")


def _signers() -> tuple[str, ...]:
    return ("alice@acme", "bob@beta", "web1@acme", administrator_of("acme"))


def body_seeds() -> list[bytes]:
    seeds = []
    for raw in _raws():
        transaction = decode_transaction_untrusted(raw)
        seeds += [encode((transaction.kind, transaction.body.to_value(), index)) for index in (0, 2, 3)]
    blame = find_guilty(fork()[1].history(), fork()[2].history(), fork()[0].genesis).blames[0]
    key = key_of("new").public_key
    digest = b"\x07" * 32
    more: list[bodies.Body] = [
        bodies.DeploymentIntent(1, bytes(32), "site", digest, digest, b"{}"),
        bodies.DeploymentOutcome(1, digest, "site", digest, digest, "SUCCESS", digest, digest, b""),
        bodies.IdentityUpdateRoles("web1@acme", ("host",)),
        bodies.IdentitySetRoleTerm("web1@acme", "host", 1, 2),
        bodies.IdentityRotateKey("web1@acme", key_of("web1@acme").public_key.key_id, key.spki),
        bodies.IdentitySuspend("web1@acme", "lost"),
        bodies.IdentityResume("web1@acme"),
        bodies.IdentityRevoke("web1@acme", None, 3, "compromise"),
        bodies.IdentityPublishCrl("acme", b"list", (digest,)),
        bodies.AdministrationSetThreshold("acme", 1),
        bodies.AdministrationPropose(bodies.IdentitySuspend("web1@acme", "lost")),
        bodies.AdministrationApprove(digest),
        bodies.AdministrationWithdraw(digest),
        bodies.PatchWithdraw(digest, "defect"),
        bodies.ProposalWithdraw(digest),
        rollout_bodies.GroupAssign("web@acme", ("web1@acme", "web2@acme")),
        rollout_bodies.RolloutCreate(
            "spring@acme",
            digest,
            ("web@acme",),
            (Wave("canary", "web@acme", 5, None, 10_000, 3, 1000), Wave("all", None, None, 10_000, 0, 0, 0)),
            2,
            "",
        ),
        rollout_bodies.RolloutDecide("spring@acme", "halt", "defect"),
        bodies.EvidenceSubmit(_dump(blame.to_json())),
        bodies.EvidenceSubmit(json.dumps(blame.to_json(), sort_keys=True, separators=(",", ":")).encode()),
    ]
    return [*seeds, *(encode((body.KIND, body.to_value(), 3)) for body in more)]


def take_action(data: bytes) -> bool:
    value = decode_untrusted(data, bytes_max=LONG)
    action = action_from_value_untrusted(value)
    assert action.to_value() == value, "two forms of one action"
    return True


def action_seeds() -> list[bytes]:
    """Return one of each kind."""
    key = key_of("new@delta").public_key
    administrator = Administrator("new@delta", "New Administrator", key.spki)
    certificate = make_chain_of_certificates(patches.ALICE)[1]
    return [
        encode(action.to_value())
        for action in (
            actions.SetPolicy(
                "entity User;",
                (("one", "permit (principal, action, resource);"), ("two", "forbid (principal, action, resource);")),
            ),
            actions.SetPolicyCases('[{"expect":"deny"}]'),
            actions.SetThreshold("majority"),
            actions.SetLimits(65536, 1 << 20, 100),
            actions.RevokeKey(key.key_id, 3, "compromise"),
            actions.WithdrawPatch(b"\x01" * 32, "defect"),
            actions.DecideRollout("spring@acme", "resume", "fixed"),
            AddLearner(validator(7)),
            PromoteLearner("v7"),
            RemoveValidator("v1"),
            actions.ReplaceValidator("v1", "v7"),
            AddOrganisation("delta", "Delta", (administrator,), (certificate,)),
            AddAdministrator("acme", administrator),
            AddCaCertificate("acme", certificate),
            RemoveCaCertificate("acme", sha256(certificate)),
            RenameOrganisation("acme", "Another Name"),
            SuspendOrganisation("acme", "compromise"),
            RemoveOrganisation("acme", "ended"),
            ResumeOrganisation("acme"),
        )
    ]


def take_block(data: bytes) -> bool:
    """A block that can be read is executed on the state before it: it is refused and changes nothing, or it is the next one."""
    block = decode_block_untrusted(data)
    assert block.raw == data
    execute_block(chain().store, block, now_ms=None)
    return True


@cache
def block_seeds() -> list[bytes]:
    following = chain().build(chain().sign(bodies.HostReport("drift", "site", b"next"), "web1@acme")).block.raw
    return [following, *(block.raw for block in chain().blocks)]


def take_header(data: bytes) -> bool:
    """A header, a configuration, a row of executed transactions."""
    taken = False
    readers: tuple[Callable[[bytes], object], ...] = (
        lambda raw: decode_header_untrusted(raw).encode(),
        lambda raw: decode_configuration_untrusted(raw).encode(),
        lambda raw: decode_executed_link_untrusted(3, raw).encode(),
    )
    for reader in readers:
        try:
            assert reader(data) == data, "two encodings of one value"
            taken = True
        except RejectedError:
            continue
    return taken


@cache
def header_seeds() -> list[bytes]:
    executed = [value for (table, _), value in chain().store.dump().items() if table == Table.EXECUTED]
    return [
        *(block.header.encode() for block in chain().blocks),
        *(build_configuration_proof(chain().store, height).configuration.encode() for height in range(chain().height)),
        *executed[:3],
    ]


def take_genesis(data: bytes) -> bool:
    """JSON in any layout; its canonical form, which the chain begins with, says the same."""
    genesis = decode_genesis_untrusted(data)
    assert decode_genesis_untrusted(genesis.document) == genesis
    return True


# Proofs


def take_receipt(data: bytes) -> bool:
    receipt = Receipt.from_json_untrusted(_json(data))
    verify_receipt(receipt, chain().genesis)
    return True


@cache
def receipt_seeds() -> list[bytes]:
    return [
        _dump(build_receipt(chain().store, decode_transaction_untrusted(raw).tx_id, 3).to_json())
        for raw in _raws()[::4]
    ]


def take_cose(data: bytes) -> bool:
    receipts = decode_cose_receipts_untrusted(data)
    assert receipts.encode() == data, "two encodings of one set of receipts"
    verify_cose_receipts(receipts, chain().genesis)
    return True


@cache
def cose_seeds() -> list[bytes]:
    receipt = build_receipt(chain().store, decode_transaction_untrusted(_raws()[1]).tx_id, 3)
    configuration = build_configuration_proof(chain().store, receipt.header.height).configuration
    signatures = {
        key.public_key.key_id: sign_log_root(key, chain().genesis.chain_id, receipt.header.log_root)
        for key in chain().node_keys
        if key.public_key.key_id in configuration.members
    }
    return [build_cose_receipts(receipt, configuration, signatures).encode()]


def take_checkpoint(data: bytes) -> bool:
    checkpoint = checkpoint_from_text_untrusted(data)
    assert checkpoint.to_text() == data, "two texts of one checkpoint"
    trust_checkpoint(checkpoint)
    return True


@cache
def checkpoint_seeds() -> list[bytes]:
    return [build_checkpoint(chain().store, height).to_text() for height in (1, chain().height // 2, chain().height)]


def take_state_proof(data: bytes) -> bool:
    proof = CertifiedStateProof.from_json_untrusted(_json(data))
    verify_certified_state_proof(proof, chain().genesis)
    return True


@cache
def state_proof_seeds() -> list[bytes]:
    return [
        _dump(build_certified_state_proof(chain().store, subject, name).to_json())
        for subject, name in (("identity", "web1@acme"), ("identity", "nobody@acme"), ("organisation", "acme"))
    ]


def take_consistency(data: bytes) -> bool:
    proof = ConsistencyProof.from_json_untrusted(_json(data))
    headers = [block.header for block in chain().blocks]
    verify_extends(proof, headers[2], headers[-1])
    return True


@cache
def consistency_seeds() -> list[bytes]:
    before, after = chain().blocks[2].header.log_size, chain().blocks[-1].header.log_size
    return [
        _dump(build_consistency(chain().store, before, after).to_json()),
        _dump(build_consistency(chain().store, 1, 3).to_json()),
    ]


def take_split_view(data: bytes) -> bool:
    evidence = SplitView.from_json_untrusted(_json(data))
    verify_split_view(evidence, TrustedHead.founding(fork()[0].genesis))
    return True


@cache
def split_view_seeds() -> list[bytes]:
    _, ours, theirs = fork()
    lower, higher = build_checkpoint(theirs.store), build_checkpoint(ours.store)
    found = find_split_view(ours.store, lower)
    assert found is not None
    good = build_checkpoint(chain().store)
    return [_dump(each.to_json()) for each in (found, SplitView(lower, higher), SplitView(good, good))]


def take_blame(data: bytes) -> bool:
    blame = Blame.from_json_untrusted(_json(data))
    assert Blame.from_json_untrusted(json.loads(json.dumps(blame.to_json()))) == blame
    verify_blame(blame, fork()[0].genesis)
    return True


@cache
def blame_seeds() -> list[bytes]:
    common, ours, theirs = fork()
    return [_dump(blame.to_json()) for blame in find_guilty(ours.history(), theirs.history(), common.genesis).blames]


def take_light_client(data: bytes) -> bool:
    """A client's file; its checksum is made to fit, or nothing behind it would be reached."""
    body = STATE_MAGIC + data
    client = light_client_from_bytes_untrusted(body + sha256(body))
    assert light_client_from_bytes_untrusted(client.to_bytes()) == client
    return True


@cache
def light_client_seeds() -> list[bytes]:
    clients = [
        LightClient.from_genesis(chain().genesis),
        LightClient.from_checkpoint(build_checkpoint(chain().store)),
    ]
    return [client.to_bytes()[len(STATE_MAGIC) : -32] for client in clients]


def take_recovery(data: bytes) -> bool:
    value = decode_untrusted(data, bytes_max=LONG)
    recovery = Recovery.from_value_untrusted(value)
    assert recovery.to_value() == value, "two forms of one recovery"
    recovery.verify()
    return True


@cache
def recovery_seeds() -> list[bytes]:
    return [encode(make_recovery(chain(), signers=signers).to_value()) for signers in (SIGNERS, ())]


# Archives, snapshots, audits


def take_archive(data: bytes) -> bool:
    """An archive in pieces whose size its first byte says; whatever can be read is audited."""
    size = 16 * (data[0] + 1) if data else 1
    whole = data[1:]
    decoder, auditor = ArchiveDecoder(), Auditor(chain().genesis)
    tolerant = ArchiveDecoder(is_tolerant=True)
    try:
        tolerant.feed_untrusted(whole)
        tolerant.finish()
    except RejectedError:
        pass
    for start in range(0, len(whole), size):
        for item in decoder.feed_untrusted(whole[start : start + size]):
            if isinstance(item, ArchivedBlock):
                auditor.feed(item.block, item.certificate)
    decoder.finish()
    auditor.finish()
    return True


@cache
def archive_seeds() -> list[bytes]:
    common, ours, _ = fork()
    return [b"\x00" + ours.archive(), b"\xff" + Branch.of(common).archive()]


def take_bundle(data: bytes) -> bool:
    """What is carried by hand, in pieces whose size its first byte says."""
    size = 16 * (data[0] + 1) if data else 1
    decoder = BundleDecoder()
    for start in range(1, len(data), size):
        decoder.feed_untrusted(data[start : start + size])
    decoder.finish()
    return True


@cache
def bundle_seeds() -> list[bytes]:
    chain_id, blocks = chain().genesis.chain_id, chain().blocks
    encoder = BundleEncoder()
    parts = [encoder.begin(chain_id, blocks[0].block_hash, 1)]
    for block in blocks[1:4]:
        raw = chain().store.get(Table.CERTIFICATE, height_key(block.header.height))
        parts.append(encoder.block(block.raw, raw))
        parts += [encoder.transaction(transaction) for transaction in block.transactions]
    parts += [encoder.patch(sha256(b"a file"), 6), encoder.data(b"a file"), encoder.end()]
    whole = b"".join(parts)
    empty = BundleEncoder()
    return [b"\x00" + whole, b"\xff" + whole, b"\x04" + empty.begin(chain_id, blocks[0].block_hash, 0) + empty.end()]


def take_audit_state(data: bytes) -> bool:
    assert decode_audit_state_untrusted(data).encode() == data, "two encodings of one state"
    return True


@cache
def audit_state_seeds() -> list[bytes]:
    seeds = []
    for certify in (True, False):
        auditor = Auditor(chain().genesis)
        for index, block in enumerate(chain().blocks[1:], 1):
            auditor.feed(block.raw, chain().view.certificate(index) if certify else None)
        seeds.append(auditor.suspend().encode())
    return seeds


def take_manifest(data: bytes) -> bool:
    manifest = decode_manifest_untrusted(data)
    assert manifest.encode() == data, "two encodings of one manifest"
    SnapshotInstaller(manifest, chain().genesis, MemoryStore())
    return True


@cache
def _snapshot() -> tuple[bytes, tuple[bytes, ...]]:
    builder = SnapshotBuilder(chain().store)
    chunks = tuple(builder.chunks())
    return builder.manifest().encode(), chunks


def take_chunk(data: bytes) -> bool:
    """A chunk, named by a manifest that was made to fit it."""
    manifest = decode_manifest_untrusted(_snapshot()[0])
    fitting = replace(manifest, bytes_total=len(data), chunk_digests=(sha256(data),))
    store = MemoryStore()
    installer = SnapshotInstaller(fitting, chain().genesis, store)
    store.apply(installer.feed_untrusted(data))
    store.apply(installer.finish())
    return True


# Consensus


def take_message(data: bytes) -> bool:
    assert encode_message(decode_message_untrusted(data)) == data, "two encodings of one message"
    return True


def message_seeds() -> list[bytes]:
    node, digest, signature = NodeId(sha256(b"node")), sha256(b"block"), bytes(range(64))
    messages: list[Message] = [
        PreVote(3, node, 2, 7, digest),
        PreVoteReply(3, True, node),
        RequestVote(3, node, 2, 7, digest, transfer=True),
        Vote(3, True, node, signature),
        Vote(3, False, node, None),
        Append(3, node, 0, 0, digest, (), 0, None, 0),
        Append(3, node, 1, 2, digest, tuple(make_chain([1, 2, 3], digest, 3)), 2, b"certificate", 9),
        AppendReply(3, node, True, 4, 5, 0, 0, 0, 2, 9, (Acknowledgement(4, digest, signature),), 400),
        AppendReply(3, node, False, 0, 0, 8, 2, 6, 2, 9, ()),
        SnapshotOffer(3, node, 5, 9, 7),
        TimeoutNow(3, node),
        ReadIndexRequest(3, node, 8),
        ReadIndexReply(3, node, 8, 6),
    ]
    return [encode_message(message) for message in messages]


def targets() -> list[Target]:
    return [
        Target("transaction", take_transaction, transaction_seeds),
        Target("body", take_body, body_seeds, share=2, short_inputs=200),
        Target("action", take_action, action_seeds),
        Target("block", take_block, block_seeds, input_bytes_max=LONG, share=2),
        Target("header", take_header, header_seeds),
        Target("genesis", take_genesis, lambda: [chain().genesis.document], input_bytes_max=LONG),
        Target("receipt", take_receipt, receipt_seeds),
        Target("cose-receipt", take_cose, cose_seeds),
        Target("checkpoint", take_checkpoint, checkpoint_seeds),
        Target("state-proof", take_state_proof, state_proof_seeds),
        Target("consistency", take_consistency, consistency_seeds),
        Target("split-view", take_split_view, split_view_seeds),
        Target("blame", take_blame, blame_seeds),
        Target("recovery", take_recovery, recovery_seeds, input_bytes_max=LONG),
        Target("light-client", take_light_client, light_client_seeds),
        Target("archive", take_archive, archive_seeds, input_bytes_max=LONG, short_inputs=100),
        Target("bundle", take_bundle, bundle_seeds, input_bytes_max=LONG, short_inputs=100),
        Target("audit-state", take_audit_state, audit_state_seeds, refusals=(RejectedError, AuditStateError)),
        Target("snapshot-manifest", take_manifest, lambda: [_snapshot()[0]]),
        Target("snapshot-chunk", take_chunk, lambda: list(_snapshot()[1]), input_bytes_max=LONG),
        Target("consensus-message", take_message, message_seeds, share=2, short_inputs=300),
    ]
