"""The limits that several packages share. A limit that only one package needs lives in that package.

Sizes are bytes and counts are items unless the name says otherwise. Raising a limit that decides whether a block is valid
(`TX_BYTES_MAX`, `BLOCK_BYTES_MAX`, `BLOCK_TRANSACTIONS_MAX`, the `CODEC_` limits) is a change of the protocol: nodes that disagree about
it disagree about blocks.
"""

from __future__ import annotations

from typing import Final

KIBIBYTE: Final = 1024
MEBIBYTE: Final = 1024 * 1024

# Ledger
TX_BYTES_MAX: Final = 1 * MEBIBYTE
"""One encoded transaction. Holds one author's envelope of a large patch's metadata; diffs stay out of the ledger."""
BLOCK_BYTES_MAX: Final = 4 * MEBIBYTE
"""One encoded block, header and all transactions."""
BLOCK_TRANSACTIONS_MAX: Final = 1000
"""Transactions in one block: beyond this a block's execution outlasts a heartbeat."""
VALIDATORS_MAX: Final = 64
"""Validators of one network; bounds certificates. Networks of 3 to 9 are the ones in mind."""

# Canonical encoding (wire/codec.py)
CODEC_DEPTH_MAX: Final = 16
"""Nested tuples in one encoded value."""
CODEC_ITEMS_MAX: Final = 200_000
"""Values, at every level together, in one encoded value."""

# Streams (wire/framing.py)
FRAME_BYTES_MAX: Final = 8 * MEBIBYTE
"""One frame's payload: a block of `BLOCK_BYTES_MAX` with its certificates and room to spare."""

# Patch files (provenance/)
PATCH_FILE_BYTES_MAX: Final = 128 * MEBIBYTE
"""A whole patch file, diff and trailer: a diff of 100 MB with the list of its files and a trailer at its limit."""
TRAILER_LINE_BYTES_MAX: Final = 1 * MEBIBYTE
"""One trailer line, that is one envelope."""
TRAILER_LINES_MAX: Final = 256
"""Envelopes in one patch file."""

# JSON (wire/canonical_json.py)
JSON_BYTES_MAX: Final = 1 * MEBIBYTE
"""One JSON document."""
JSON_DEPTH_MAX: Final = 32
"""Nested objects and arrays in one JSON document."""
JSON_ITEMS_MAX: Final = 100_000
"""Values and member names, at every level together, in one JSON document."""
JSON_INTEGER_MAX: Final = 2**53 - 1
"""The largest magnitude of an integer that every JSON reader keeps exactly (RFC 8785 3.2.2.3; RFC 7493 2.2)."""

# Texts
NAME_BYTES_MAX: Final = 128
"""A name for people, in UTF-8."""
IDENTIFIER_BYTES_MAX: Final = 63
"""An identifier such as `acme`: it also fits a DNS label."""
CHAIN_ID_BYTES_MAX: Final = 63
"""A chain id is an identifier."""

# Signatures and certificates
SIGNATURE_BYTES_MAX: Final = 72
"""The longest signature: ECDSA P-256 in DER. Ed25519 takes 64."""
SPKI_BYTES_MAX: Final = 91
"""The longest accepted SubjectPublicKeyInfo: P-256 with an uncompressed point. Ed25519 takes 44."""
ENVELOPE_SIGNATURES_MAX: Final = 16
"""Signatures in one envelope of somebody else's making; ours hold exactly one."""
CERTIFICATE_BYTES_MAX: Final = 16 * KIBIBYTE
"""An encoded commit or election certificate; `VALIDATORS_MAX` signatures take about 7 KiB."""
X509_CERTIFICATE_BYTES_MAX: Final = 16 * KIBIBYTE
"""One DER certificate."""
X509_CHAIN_LENGTH_MAX: Final = 8
"""Certificates in one chain, the leaf included."""
X509_CRL_BYTES_MAX: Final = 256 * KIBIBYTE
"""One revocation list in DER; it travels in a transaction."""
X509_CRL_ENTRIES_MAX: Final = 4096
"""Certificates in one revocation list."""
PEM_BYTES_MAX: Final = 16 * KIBIBYTE
"""A private key file."""
