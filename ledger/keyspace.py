"""Where every record of the ledger is kept: tables, keys, and the two directions in which bytes move.

Bytes come in through a `Reader` and leave as a `WriteSet`; nothing here knows what lies behind. An `Overlay` puts a write set over a reader
and is a reader itself, so blocks that are not committed yet can be executed on top of each other::

    store  <-  Overlay(block 41)  <-  Overlay(block 42)  <-  execute block 43

=================  ===============================  ==============================================  =============
table              key                              value                                           under the root
=================  ===============================  ==============================================  =============
META               name                             the tip, the genesis document                   no
STATE              kind byte, id (`*_key` below)    encoded record (`ledger.records`)               yes
STATE_NODE         depth, path (`ledger.state_tree`) page of the state tree                         it is the root
TX_INDEX           tx_id                            height, index, log index (20 bytes)             no
LOG_NODE           level, index                     hash of a full subtree of the log               no
HEADER             height                           encoded header                                  no
BLOCK              height                           encoded block                                   no
CERTIFICATE        height                           encoded commit certificate (written by node)    no
HISTORY            subject, 0, height, index        tx_id                                           no
IDENTITY_VERSION   identity id, 0, height           encoded identity record from that height on     no
BLOCK_HASH         block hash                       height                                          no
CONFIGURATION      height                           configuration from that height on, its proof    no
EXECUTED           height                           ids of the block's transactions, chained        through a record
=================  ===============================  ==============================================  =============

Integers in keys are big endian, so that byte order is number order. Source: docs/spec/ledger.md 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from struct import Struct
from typing import Final, Protocol, TypeAlias


class Table(IntEnum):
    """The tables of the ledger; the number is the first byte of every stored key. Numbers from 64 on belong to node/storage."""

    META = 1
    STATE = 2
    STATE_NODE = 3
    TX_INDEX = 4
    LOG_NODE = 5
    HEADER = 6
    BLOCK = 7
    CERTIFICATE = 8
    HISTORY = 9
    IDENTITY_VERSION = 10
    BLOCK_HASH = 11
    CONFIGURATION = 12
    EXECUTED = 13


class Reader(Protocol):
    """One consistent state of the tables."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        ...


class RangeReader(Reader, Protocol):
    """A reader that can also list; for queries, never for execution."""

    def iterate(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values with ``start <= key < stop`` in byte order."""
        ...


WriteSet: TypeAlias = dict[tuple[Table, bytes], bytes | None]
"""What changes: (table, key) to the new value, or to None when the row goes."""


class Overlay:
    """A reader that sees `writes` over `reader`. Overlays stack; neither part is copied or changed."""

    __slots__ = ("_reader", "_writes")

    def __init__(self, reader: Reader, writes: Mapping[tuple[Table, bytes], bytes | None]) -> None:
        self._reader = reader
        self._writes = writes

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under `key` as it is after the writes, or None."""
        try:
            return self._writes[table, key]
        except KeyError:
            return self._reader.get(table, key)


class MemoryStore:
    """Tables in memory: the store of the auditor, and of tests. It lists by sorting, so it is for chains that fit into memory."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        return self._tables[table].get(key)

    def iterate(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values with ``start <= key < stop`` in byte order, as they are when the call is made."""
        rows = self._tables[table]
        return iter([(key, rows[key]) for key in sorted(rows) if start <= key < stop])

    def dump(self) -> WriteSet:
        """Return a copy of every row, which `apply` puts into another store."""
        return {(table, key): value for table, rows in self._tables.items() for key, value in rows.items()}

    def apply(self, writes: Mapping[tuple[Table, bytes], bytes | None]) -> None:
        """Make every change of `writes` visible."""
        for (table, key), value in writes.items():
            if value is None:
                self._tables[table].pop(key, None)
            else:
                self._tables[table][key] = value


TIP_KEY: Final = b"tip"
"""META: the header of the last executed block and the frontier of the log after it."""
GENESIS_KEY: Final = b"genesis"
"""META: the founding document in canonical JSON."""
CONFIGURATION_KEY: Final = b"configuration"
"""META: height of the last block that changed the configuration (8 bytes)."""
HISTORY_KEY: Final = b"history"
"""META: the lowest height whose block and history are kept (8 bytes); missing while everything is."""

_U64: Final = Struct(">Q")
_LEVEL_INDEX: Final = Struct(">BQ")
_POSITION: Final = Struct(">QI")
_LOCATION: Final = Struct(">QIQ")


def height_key(height: int) -> bytes:
    """Return the key of HEADER, BLOCK and CERTIFICATE rows: 8 bytes."""
    return _U64.pack(height)


def read_height(data: bytes) -> int:
    """Return the height that `height_key` made `data` from."""
    (height,) = _U64.unpack(data)
    return int(height)


def log_node_key(level: int, index: int) -> bytes:
    """Return the LOG_NODE key of the `index`-th full subtree of 2**level leaves: 9 bytes."""
    return _LEVEL_INDEX.pack(level, index)


def pack_location(height: int, index: int, log_index: int) -> bytes:
    """Return the TX_INDEX value: where a transaction stands in its block and in the log, 20 bytes."""
    return _LOCATION.pack(height, index, log_index)


def unpack_location(data: bytes) -> tuple[int, int, int]:
    """Return height, index in the block and index in the log."""
    height, index, log_index = _LOCATION.unpack(data)
    return height, index, log_index


# Kinds of STATE keys. They are part of the state root's meaning and never change.
ORGANISATION: Final = b"o"
IDENTITY: Final = b"i"
KEY: Final = b"k"
PATCH: Final = b"p"
ATTESTATION: Final = b"a"
ATTESTATION_LIST: Final = b"l"
HOST: Final = b"h"
TARGET: Final = b"t"
COMPONENT: Final = b"c"
POLICY: Final = b"y"
PROPOSAL: Final = b"r"
DEPLOYMENT: Final = b"d"
RETIRED: Final = b"q"
EVIDENCE: Final = b"e"
STANDING: Final = b"s"
ADMINISTRATION: Final = b"m"
PENDING_ACT: Final = b"b"
REVOCATIONS: Final = b"u"
GROUP: Final = b"f"
GROUP_MEMBER: Final = b"j"
GROUP_SLOT: Final = b"J"
ROLLOUT: Final = b"w"
ROLLOUT_LINK: Final = b"W"
ROLLOUT_HOST: Final = b"z"

NETWORK_KEY: Final = b"n"
VALIDATORS_KEY: Final = b"v"
GOVERNANCE_KEY: Final = b"g"
POLICY_VERSION_KEY: Final = b"Y"
POLICY_PENDING_KEY: Final = b"Z"
POLICY_CASES_KEY: Final = b"C"
TRANSACTION_CHAIN_KEY: Final = b"x"


def organisation_key(name: str) -> bytes:
    """Return the STATE key of an organisation."""
    return ORGANISATION + name.encode()


def standing_key(name: str) -> bytes:
    """Return the STATE key of what was decided about an organisation's membership."""
    return STANDING + name.encode()


def identity_key(identity_id: str) -> bytes:
    """Return the STATE key of an identity."""
    return IDENTITY + identity_id.encode()


def key_key(key_id: bytes) -> bytes:
    """Return the STATE key of a public key."""
    return KEY + key_id


def patch_key(patch_id: bytes) -> bytes:
    """Return the STATE key of a patch."""
    return PATCH + patch_id


def attestation_key(payload_digest: bytes) -> bytes:
    """Return the STATE key of one attestation."""
    return ATTESTATION + payload_digest


def attestation_list_key(patch_id: bytes) -> bytes:
    """Return the STATE key of the list of a patch's attestations."""
    return ATTESTATION_LIST + patch_id


def host_key(identity_id: str) -> bytes:
    """Return the STATE key of a host."""
    return HOST + identity_id.encode()


def target_key(identity_id: str, target: str) -> bytes:
    """Return the STATE key of a target on a host."""
    return b"%b%b\x00%b" % (TARGET, identity_id.encode(), target.encode())


def component_key(name: str) -> bytes:
    """Return the STATE key of a component's release counter."""
    return COMPONENT + name.encode()


def policy_key(version: int) -> bytes:
    """Return the STATE key of one version of the policy set."""
    return POLICY + _U64.pack(version)


def proposal_key(proposal_id: bytes) -> bytes:
    """Return the STATE key of a proposal."""
    return PROPOSAL + proposal_id


def deployment_key(deployment_id: bytes) -> bytes:
    """Return the STATE key of a deployment."""
    return DEPLOYMENT + deployment_id


def administration_key(organisation: str) -> bytes:
    """Return the STATE key of how many administrators of an organisation must agree."""
    return ADMINISTRATION + organisation.encode()


def revocations_key(organisation: str, issuer: bytes) -> bytes:
    """Return the STATE key of what a CA of an organisation has taken back; `issuer` is a digest of the CA's encoded name."""
    return b"%b%b\x00%b" % (REVOCATIONS, organisation.encode(), issuer)


def pending_act_key(act_id: bytes) -> bytes:
    """Return the STATE key of an act of administration that was proposed."""
    return PENDING_ACT + act_id


def group_key(group_id: str) -> bytes:
    """Return the STATE key of a group of hosts."""
    return GROUP + group_id.encode()


def group_member_key(host: str) -> bytes:
    """Return the STATE key of the group that a host is in."""
    return GROUP_MEMBER + host.encode()


def group_slot_key(group_id: str, slot: int) -> bytes:
    """Return the STATE key of the host that has a place in a group."""
    return b"%b%b\x00%b" % (GROUP_SLOT, group_id.encode(), _U64.pack(slot))


def rollout_key(rollout_id: str) -> bytes:
    """Return the STATE key of a rollout."""
    return ROLLOUT + rollout_id.encode()


def rollout_link_key(patch_id: bytes, group_id: str) -> bytes:
    """Return the STATE key of which rollout brings a patch to the hosts of a group."""
    return b"%b%b\x00%b" % (ROLLOUT_LINK, patch_id, group_id.encode())


def rollout_host_key(patch_id: bytes, host: str) -> bytes:
    """Return the STATE key of how far a patch under a rollout has come on a host."""
    return b"%b%b\x00%b" % (ROLLOUT_HOST, patch_id, host.encode())


def retired_key(key_id: bytes) -> bytes:
    """Return the STATE key of a node key that was a validator's or a learner's once."""
    return RETIRED + key_id


def evidence_key(subject: bytes) -> bytes:
    """Return the STATE key of what is proven against a validator (its key id), or about a height (`height_key`)."""
    return EVIDENCE + subject


# Subjects of HISTORY: a kind byte of the list above, then the id.
def history_key(subject: bytes, height: int, index: int) -> bytes:
    """Return the HISTORY key of the `index`-th transaction of block `height`, which concerns `subject` (a STATE key)."""
    return b"%b\x00%b" % (subject, _POSITION.pack(height, index))


def history_range(subject: bytes, height_from: int = 0) -> tuple[bytes, bytes]:
    """Return start and stop of the HISTORY rows of `subject` from `height_from` on."""
    return history_key(subject, height_from, 0), b"%b\x00%b" % (subject, b"\xff" * 13)


def read_history_position(key: bytes) -> tuple[int, int]:
    """Return height and index in the block from a HISTORY key."""
    height, index = _POSITION.unpack(key[-_POSITION.size :])
    return height, index


def identity_version_key(identity_id: str, height: int) -> bytes:
    """Return the IDENTITY_VERSION key of the record that holds from `height` on."""
    return b"%b\x00%b" % (identity_id.encode(), _U64.pack(height))


def prefix_stop(prefix: bytes) -> bytes:
    """Return the first key after every key that begins with `prefix` (which does not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
