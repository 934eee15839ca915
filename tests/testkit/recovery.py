"""Recoveries of the in-memory chains of `tests.testkit.ledger`: a majority of the validators is lost for good."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.configuration import ValidatorSet, make_validator_set
from ledger.keyspace import GOVERNANCE_KEY
from ledger.recovery import TERMS_AHEAD, Recovery, RecoveryStatement, approve, build_candidates
from ledger.state_tree import prove
from ledger.transition import Executed, build_recovery_block
from tests.testkit.ledger import Chain
from wire.certificate import decode_commit_certificate_untrusted

SIGNERS = ("ada@acme", "ben@beta")


def survivors_of(chain: Chain, names: Sequence[str]) -> ValidatorSet:
    """Return these validators of the chain."""
    found = (chain.view.configuration().nodes.find_name(name) for name in names)
    return make_validator_set(tuple(each for each in found if each is not None))


def make_recovery(
    chain: Chain,
    survivors: Sequence[str] | ValidatorSet = ("v1",),
    signers: Sequence[str] = SIGNERS,
    **changes: object,
) -> Recovery:
    """Return the recovery at the chain's tip, signed; `changes` replaces fields of the statement."""
    view = chain.view
    header = view.header
    voters = survivors if isinstance(survivors, ValidatorSet) else survivors_of(chain, survivors)
    fields: dict[str, object] = {
        "header": header,
        "term": header.term + TERMS_AHEAD,
        "time_ms": header.time_ms + 1000,
        "voters": voters,
        "log_height": header.height,
        "reason": "the data centre burnt down",
    }
    statement = RecoveryStatement(**{**fields, **changes})  # type: ignore[arg-type]
    raw = view.certificate(header.height)
    assert raw is not None
    recovery = Recovery(
        statement,
        view.configuration(),
        decode_commit_certificate_untrusted(raw),
        prove(chain.store, GOVERNANCE_KEY),
        (),
    )
    for name in signers:
        recovery = sign(chain, recovery, name)
    return recovery


def sign(chain: Chain, recovery: Recovery, name: str) -> Recovery:
    """Return the recovery with the signature of an identity of the chain, whatever it may do."""
    identity, key = chain.view.identity(name), chain.key(name)
    assert identity is not None
    record = chain.view.key(key.public_key.key_id)
    assert record is not None
    (candidate,) = build_candidates(chain.store, [(identity, [record])])
    return approve(recovery, candidate, key)


def recover(chain: Chain, recovery: Recovery) -> Executed:
    """Put the recovery's block on top of the chain and let the survivors go on in the next term."""
    executed = build_recovery_block(chain.store, recovery)
    chain.store.apply(executed.writes)
    chain.blocks.append(executed.block)
    left = recovery.after.public_keys
    chain.node_keys = [key for key in chain.node_keys if key.public_key.key_id in left]
    chain.leader = 0
    chain.term = recovery.statement.term + 1
    return executed
