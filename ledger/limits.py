"""The limits of the ledger alone. Those that other packages share stand in `wire.limits`.

All of them decide whether a transaction or a block is valid, so raising one is a change of the protocol.
"""

from __future__ import annotations

from typing import Final

from provenance.limits import ENVELOPE_LINE_BYTES_MAX
from wire.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, KIBIBYTE, MEBIBYTE, TX_BYTES_MAX

NONCE_BYTES: Final = 16
"""Chance that keeps two otherwise equal transactions of one signer apart."""
NOT_AFTER_WINDOW_MAX: Final = 100_000
"""How many heights ahead a transaction may stay executable: a lost one is certainly dead after that."""
TIME_AHEAD_MS_MAX: Final = 60_000
"""How far a block's time may run ahead of a follower's clock."""

NETWORK_LIMITS: Final = {
    "transaction_bytes_max": (4 * KIBIBYTE, TX_BYTES_MAX),
    "block_bytes_max": (64 * KIBIBYTE, BLOCK_BYTES_MAX),
    "block_transactions_max": (1, BLOCK_TRANSACTIONS_MAX),
}
"""Each limit that a network sets for itself to its smallest and largest value; the largest holds where none is set."""
BLOCK_ROOM_BYTES: Final = 32 * KIBIBYTE
"""How much longer a block must be than a transaction: for the header and an election certificate beside it."""

ROLES_MAX: Final = 32
"""Roles of one identity."""
TERM_MS_MAX: Final = 253_402_300_799_999
"""The last moment to which a role can be bound: the end of the year 9999, milliseconds since epoch, UTC."""
KEYS_PER_IDENTITY_MAX: Final = 64
"""Keys of one identity, retired ones included; they are never forgotten, because old signatures are judged by them."""
ADMINISTRATORS_MAX: Final = 64
"""Administrators of one organisation; the rule about the last one looks at each."""
CA_CERTIFICATES_MAX: Final = 16
"""CA certificates of one organisation."""
CRL_KEYS_MAX: Final = 256
"""Keys that one publication of a revocation list ends."""
REVOKED_SERIALS_MAX: Final = 16_384
"""Revoked certificates that are remembered of one CA."""
ORGANISATIONS_MAX: Final = 256
"""Organisations of one network: each has one vote, and every vote looks at all."""
REASON_BYTES_MAX: Final = 1 * KIBIBYTE
"""A reason for people, in UTF-8."""

DESCRIPTION_BYTES_MAX: Final = 8 * KIBIBYTE
"""A proposal's description for people, in UTF-8."""
PROPOSAL_LIFETIME: Final = 100_000
"""Heights after which an open proposal can no longer be voted on."""
POLICIES_MAX: Final = 64
"""Policies of one set."""
POLICY_BYTES_MAX: Final = 64 * KIBIBYTE
"""One policy's text, in UTF-8."""
POLICY_SCHEMA_BYTES_MAX: Final = 64 * KIBIBYTE
"""The policy schema's text, in UTF-8."""
POLICY_SET_BYTES_MAX: Final = 512 * KIBIBYTE
"""Schema and policies together: a set must fit a transaction with room to spare."""
POLICY_CASES_BYTES_MAX: Final = 256 * KIBIBYTE
"""The network's own cases for policy sets, as JSON in UTF-8."""
POLICY_ACTIVATION_AHEAD_MAX: Final = PROPOSAL_LIFETIME
"""Heights ahead at which an adopted policy set may come into force at the latest."""

ENVELOPE_BYTES_MAX: Final = ENVELOPE_LINE_BYTES_MAX
"""One author's or attestor's envelope inside a transaction: whatever a patch file may carry, the ledger can record."""
ATTESTATION_DIGESTS_MAX: Final = 256
"""Attestations that a published patch file may carry (`wire.limits.TRAILER_LINES_MAX` counts the author's line too)."""
ATTESTATIONS_PER_PATCH_MAX: Final = 256
"""Attestations recorded for one patch."""

TARGET_BYTES_MAX: Final = 63
"""A target's name is an identifier."""
DECISION_BYTES_MAX: Final = 256 * KIBIBYTE
"""The canonical JSON of one decision, inside an intent."""
DETAIL_BYTES_MAX: Final = 64 * KIBIBYTE
"""The canonical JSON of one outcome's details."""
REPORT_BYTES_MAX: Final = 4 * KIBIBYTE
"""The body of one host report."""
RESULT_BYTES_MAX: Final = 64
"""An outcome's result code, such as SUCCESS."""
EVIDENCE_BYTES_MAX: Final = ENVELOPE_BYTES_MAX
"""The canonical JSON of one proof against a validator, or of one split view."""
INSTALLED_MAX: Final = 1024
"""Installed patches that a target's record lists, newest last; older ones stay in the transactions and in the history."""

GROUP_CHANGES_MAX: Final = 256
"""Hosts that one transaction puts into a group, or takes out of one."""
GROUP_HOSTS_MAX: Final = 1 << 20
"""Hosts of one group."""
GROUP_LEAVES_MAX: Final = 1024
"""Hosts that leave their groups in one transaction, each times the rollouts there that are not complete: some 0.1 s of work."""
GROUP_ROLLOUTS_MAX: Final = 32
"""Rollouts that the hosts of one group look at."""
ROLLOUT_GROUPS_MAX: Final = 16
"""Groups of one rollout."""
ROLLOUT_WAVES_MAX: Final = 16
"""Waves of one rollout: each decision about a turn looks at all."""
ROLLOUT_SHARE_WHOLE: Final = 10_000
"""Shares are whole numbers of ten-thousandths; this many are everything."""
ROLLOUT_SOAK_HEIGHTS_MAX: Final = 10_000_000
"""Blocks that a wave may soak."""
ROLLOUT_SOAK_MS_MAX: Final = 90 * 24 * 3600 * 1000
"""Time of the ledger that a wave may soak, milliseconds."""
ROLLOUT_TARGETS_MAX: Final = 64
"""Targets of one host that one rollout counts: as many as an agent guards."""

GENESIS_BYTES_MAX: Final = 1024 * KIBIBYTE
"""The founding document."""
ADDRESS_BYTES_MAX: Final = 256
"""A validator's network address."""
LEARNERS_MAX: Final = 16
"""Nodes that receive blocks without a vote; each costs the leader as much as a follower."""
CONFIGURATION_CHANGES_MAX: Final = 4096
"""Finished changes of the validators that one proof can show."""

SNAPSHOT_CHUNK_BYTES: Final = 1 * MEBIBYTE
"""What a chunk of a snapshot is filled up to; a single longer row makes a longer one."""
SNAPSHOT_CHUNK_BYTES_MAX: Final = 2 * TX_BYTES_MAX + 2 * KIBIBYTE
"""The longest chunk: one longest record, its key and its frame."""
SNAPSHOT_CHUNK_ROWS_MAX: Final = 20_000
"""Rows in one chunk: together they stay within `CODEC_ITEMS_MAX`."""
SNAPSHOT_CHUNKS_MAX: Final = 65_536
"""Chunks in one snapshot: 64 GiB of state."""
SNAPSHOT_MANIFEST_BYTES_MAX: Final = 7 * MEBIBYTE
"""A manifest, the digests of its chunks and the proof of its validators included; it fits a frame."""

CHECKPOINT_BYTES_MAX: Final = 4 * MEBIBYTE
"""A checkpoint's text: a few kilobytes, and one and a half for each change of the validators since the founding."""
SPLIT_VIEW_HEADERS_MAX: Final = 4096
"""Headers between two contradicting checkpoints in one piece of evidence."""
