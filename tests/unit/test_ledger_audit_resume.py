"""A replay that stops between two blocks and goes on later, from bytes, comes to what an undisturbed one comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import bodies
from ledger.actions import SetPolicy
from ledger.audit import AuditLevel, Auditor, AuditSummary
from ledger.audit_state import FINDINGS_MAX, AuditState, Finding, decode_audit_state_untrusted
from ledger.errors import AuditStateError, BlockRefusedError
from ledger.keyspace import MemoryStore
from tests.testkit.ledger import Chain
from wire.codec import decode_untrusted, encode
from wire.hashing import Digest
from wire.limits import MEBIBYTE

Fed = list[tuple[bytes, bytes | None]]


@pytest.fixture(scope="module")
def chain() -> Chain:
    """A change of the validators from proposal to settlement, a policy, deployments and a second term."""
    chain = Chain()
    chain.register("web1@acme", "host")
    chain.add_learner(5)
    chain.elect(1)
    chain.adopt(SetPolicy("", ()))
    for index in range(4):
        body = bodies.HostReport("drift", f"t{index}", b"")
        chain.commit(*(chain.sign(body, "web1@acme") for _ in range(3)))
    return chain


def fed(chain: Chain) -> Fed:
    return [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


def whole(chain: Chain, blocks: Fed, level: AuditLevel) -> AuditSummary:
    auditor = Auditor(chain.genesis, level=level)
    for each in blocks:
        auditor.feed(*each)
    return auditor.finish()


def stopped(chain: Chain, blocks: Fed, level: AuditLevel, height: int) -> AuditSummary:
    """Replay with a stop behind `height`, over nothing but the tables and the encoded state."""
    store = MemoryStore()
    auditor = Auditor(chain.genesis, level=level, store=store)
    for each in blocks[:height]:
        auditor.feed(*each)
    raw = auditor.suspend().encode()
    later = MemoryStore()
    later.apply(store.dump())
    state = decode_audit_state_untrusted(raw)
    assert state.encode() == raw
    resumed = Auditor.resume(chain.genesis, state, later, level=level)
    assert resumed.height == height
    for each in blocks[height:]:
        resumed.feed(*each)
    return resumed.finish()


def planted(chain: Chain) -> dict[str, Fed]:
    """Return chains with something wrong: early, late, unreadable, unsigned."""
    good = fed(chain)
    early = chain.forge(chain.blocks[2], signer=chain.node_keys[0], state_root=Digest(bytes(32)))
    unsigned = list(chain.blocks[-1].transactions)
    values = decode_untrusted(unsigned[1], bytes_max=MEBIBYTE)
    assert isinstance(values, tuple)
    unsigned[1] = encode((*values[:8], bytes(64)))
    last = chain.forge(chain.blocks[-1], transactions=tuple(unsigned))
    return {
        "sound": good,
        "early": [good[0], (early.raw, good[1][1]), *good[2:]],
        "unreadable": [*good[:4], (b"garbage", None), *good[5:]],
        "missing": [*good[:5], *good[6:]],
        "unsigned": [*good[:-1], (last.raw, None)],
    }


@pytest.mark.parametrize("level", list(AuditLevel))
@pytest.mark.parametrize("fault", ["sound", "early", "unreadable", "missing", "unsigned"])
def test_a_replay_that_was_interrupted_anywhere_comes_to_the_same(chain: Chain, fault: str, level: AuditLevel) -> None:
    blocks = planted(chain)[fault]
    expected = whole(chain, blocks, level)
    assert bool(expected.findings) == (fault != "sound")
    for height in range(len(blocks) + 1):
        assert stopped(chain, blocks, level, height) == expected


def test_a_state_is_read_in_its_one_form_only(chain: Chain) -> None:
    auditor = Auditor(chain.genesis, level=AuditLevel.SIGNATURES)
    for each in fed(chain):
        auditor.feed(*each)
    state = auditor.suspend()
    assert state.actions, "the learner was proposed"
    values = decode_untrusted(state.encode(), bytes_max=MEBIBYTE)
    assert isinstance(values, tuple)
    policy = SetPolicy("", ()).to_value()
    for position, wrong in (
        (0, 1),
        (1, -1),
        (4, b"no tip"),
        (5, None),
        (6, b""),
        (7, (b"\xff",)),
        (8, b""),
        (9, ((bytes(32), policy),)),
        (9, ((bytes(31), ()),)),
        (10, ((), ())),
        (10, (((1, 2, "", "", "", None),), (), (), (), ())),
        (10, ((), (), (), ((1, "a", "b"),), ())),
        (11, "many"),
        (12, ((1, 2),)),
    ):
        with pytest.raises(AuditStateError) as caught:
            decode_audit_state_untrusted(encode((*values[:position], wrong, *values[position + 1 :])))
        assert caught.value.code == "ledger.audit.state"
    with pytest.raises(AuditStateError):
        decode_audit_state_untrusted(b"")


def test_findings_beyond_the_limit_are_counted_and_not_kept(chain: Chain) -> None:
    auditor = Auditor(chain.genesis)
    for index in range(FINDINGS_MAX + 7):
        auditor.feed_unreadable(BlockRefusedError("ledger.block.malformed", f"number {index}"))
    summary = auditor.finish()
    assert len(summary.findings) == FINDINGS_MAX + 1, "and that nothing is certified"
    assert summary.omitted == 7
    assert summary.findings[0].message == "number 0"


def test_what_the_caller_finds_stands_at_its_height(chain: Chain) -> None:
    auditor = Auditor(chain.genesis)
    for each in fed(chain):
        auditor.feed(*each)
    assert (
        auditor.feed_unreadable(BlockRefusedError("ledger.block.malformed", "torn"))[0].what == "ledger.block.malformed"
    )
    auditor.note(Finding(2, "ledger.archive.digest", "changed", "", ""))
    assert [each.height for each in auditor.finish().findings] == [2, chain.height + 1, chain.height + 1]


def test_a_state_is_a_plain_record(chain: Chain) -> None:
    state = Auditor(chain.genesis).suspend()
    assert isinstance(state, AuditState)
    assert replace(state) == state
    assert (state.height, state.claimed) == (0, state.derived)
