"""Block 0: what follows from the founding document.

The document itself, its form and its rules stand in `ledger.genesis_document`; its names are re-exported here.

Source: docs/spec/ledger.md 9.
"""

from __future__ import annotations

from ledger import keyspace
from ledger.actions import Administrator
from ledger.block import ZERO_DIGEST, Block, Header, build_raw_block
from ledger.configuration_history import ConfigurationRow
from ledger.genesis_document import Genesis, GenesisOrganisation, build_genesis, decode_genesis_untrusted
from ledger.keyspace import MemoryStore, Table, WriteSet
from ledger.records import (
    ACTIVE,
    Configuration,
    Governance,
    IdentityRecord,
    KeyRecord,
    Network,
    Organisation,
    PolicySet,
    PolicyVersion,
    Record,
    hash_policy,
)
from ledger.roles import ADMINISTRATOR
from ledger.state import Tip
from ledger.state_tree import update
from wire.keys import KeyId, public_key_from_spki_untrusted
from wire.merkle import EMPTY_ROOT, Frontier

__all__ = [
    "Genesis",
    "GenesisOrganisation",
    "build_genesis",
    "decode_genesis_untrusted",
    "genesis_block",
    "genesis_records",
    "organisation_records",
]


def genesis_block(genesis: Genesis) -> tuple[Block, WriteSet]:
    """Return the block of height 0 and everything that a new node writes before it executes the first block."""
    state = {key: record.encode() for key, record in genesis_records(genesis).items()}
    configuration = Configuration(genesis.validators)
    state[keyspace.VALIDATORS_KEY] = configuration.encode()
    state_root, nodes = update(MemoryStore(), state)
    header = Header(
        chain_id=genesis.chain_id,
        height=0,
        term=0,
        previous_hash=genesis.genesis_hash,
        time_ms=genesis.time_ms,
        proposer=KeyId(ZERO_DIGEST),
        transactions_root=EMPTY_ROOT,
        log_size=0,
        log_root=EMPTY_ROOT,
        state_root=state_root,
        validators_hash=configuration.hash,
        policy_hash=hash_policy(genesis.policy_schema, genesis.policies),
        election_hash=ZERO_DIGEST,
    )
    block = build_raw_block(header, (), b"", None)
    writes: WriteSet = dict(nodes)
    writes.update(ConfigurationRow(None, configuration, None).writes(0))
    for key, value in state.items():
        writes[Table.STATE, key] = value
        if key[:1] == keyspace.IDENTITY:
            writes[Table.IDENTITY_VERSION, keyspace.identity_version_key(key[1:].decode(), 0)] = value
    writes[Table.META, keyspace.GENESIS_KEY] = genesis.document
    writes[Table.META, keyspace.TIP_KEY] = Tip(header, block.block_hash, Frontier()).encode()
    writes[Table.HEADER, keyspace.height_key(0)] = header.encode()
    writes[Table.BLOCK, keyspace.height_key(0)] = block.raw
    writes[Table.BLOCK_HASH, block.block_hash] = keyspace.height_key(0)
    return block, writes


def genesis_records(genesis: Genesis) -> dict[bytes, Record]:
    """Return every record of the state at height 0 but the validator set, by state key."""
    policy_hash = hash_policy(genesis.policy_schema, genesis.policies)
    names = tuple(sorted(each.name for each in genesis.organisations))
    records: dict[bytes, Record] = {
        keyspace.NETWORK_KEY: Network(genesis.chain_id, genesis.genesis_hash, *genesis.limits),
        keyspace.GOVERNANCE_KEY: Governance(genesis.threshold, names, 0),
        keyspace.POLICY_VERSION_KEY: PolicyVersion(0, policy_hash),
        keyspace.policy_key(0): PolicySet(0, genesis.policy_schema, genesis.policies, policy_hash, 0),
    }
    for each in genesis.organisations:
        records |= organisation_records(
            each.name, each.display_name, each.administrators, each.ca_certificates, height=0
        )
    return records


def organisation_records(
    name: str,
    display_name: str,
    administrators: tuple[Administrator, ...],
    ca_certificates: tuple[bytes, ...],
    *,
    height: int,
) -> dict[bytes, Record]:
    """Return the records that admit an organisation with its administrators at `height`, by state key."""
    ids = tuple(sorted(each.identity_id for each in administrators))
    records: dict[bytes, Record] = {
        keyspace.organisation_key(name): Organisation(name, display_name, height, ca_certificates, ids)
    }
    for each in administrators:
        key_id = public_key_from_spki_untrusted(each.spki).key_id
        records[keyspace.identity_key(each.identity_id)] = IdentityRecord(
            each.identity_id, name, each.display_name, (ADMINISTRATOR,), ACTIVE, (key_id,), height, height
        )
        records[keyspace.key_key(key_id)] = KeyRecord(key_id, each.spki, each.identity_id, height, None, None, "", ())
    return records
