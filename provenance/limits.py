"""The limits of a patch file's text, metadata and attestations; those shared with other packages are in `wire.limits`.

Sizes are bytes in UTF-8 and counts are items. All are checked before the thing they bound is parsed, and all are part of format version 1:
a file beyond one of them is refused by every verifier.
"""

from __future__ import annotations

from typing import Final

from wire.limits import KIBIBYTE, TRAILER_LINE_BYTES_MAX

ENVELOPE_LINE_BYTES_MAX: Final = TRAILER_LINE_BYTES_MAX - 64 * KIBIBYTE
"""One trailer line: below a transaction's limit, so that the ledger can always record the envelope with its own fields around it."""
TRAILER_BYTES_MAX: Final = 4096 * KIBIBYTE
"""All trailer lines together. An attestation has 1 to 3 KiB, a long scanner report some hundred; anybody can append lines, and 4 MiB of
hostile ones (short JSON values) cost a verifier about one second; 64 MiB would cost 20."""
PREAMBLE_BYTES_MAX: Final = 1024 * KIBIBYTE
"""Everything before the diff; the envelope's limit already keeps an honest preamble below this."""

TITLE_BYTES_MAX: Final = 200
"""The subject line without its `[PATCH] `."""
DESCRIPTION_BYTES_MAX: Final = 32 * KIBIBYTE
"""The reason in full."""
REFERENCES_MAX: Final = 64
REFERENCE_BYTES_MAX: Final = 512
"""A CVE id or a URL."""
PERSON_NAME_BYTES_MAX: Final = 128
EMAIL_BYTES_MAX: Final = 254
"""RFC 5321 4.5.3.1.3 less the angle brackets."""
DID_BYTES_MAX: Final = 128
"""A did:key of P-256 has 58 characters."""

COMPONENTS_MAX: Final = 2048
"""Affected components that a statement lists, one for each path; with digests and short names they fill about half an envelope line."""
COMPONENTS_SUMMARISED_MIN: Final = 257
"""Fewest components that a statement names by digest only: what is small is always listed, and so stands on the ledger."""
COMPONENTS_SUMMARISED_MAX: Final = 20_000
"""Components of one patch, listed or not: as many as a diff has sections."""
COMPONENT_NAMES_MAX: Final = 2048
"""Different component names of a patch whose components are not listed."""
LISTING_BYTES_MAX: Final = 16 * 1024 * KIBIBYTE
"""The list of components in a preamble: 20,000 of them at ordinary 400 bytes, twice."""
LISTING_LINE_BYTES_MAX: Final = 8 * KIBIBYTE
"""One component in it: two paths and a name at their limits take half of it, escaped characters more."""
COMPONENT_NAME_BYTES_MAX: Final = 256
PATH_BYTES_MAX: Final = 4096
"""A path of a hashed test suite, as Linux's PATH_MAX bounds it. Paths of a diff have their own, tighter rule."""
PATCH_IDS_MAX: Final = 64
"""Patch ids in `supersedes`, and in `prerequisites`."""

BUILD_DOCUMENT_BYTES_MAX: Final = 256 * KIBIBYTE
"""The canonical build environment document; one of a Debian build host with 1000 packages takes about 70 KiB."""
BUILD_ITEMS_MAX: Final = 8192
"""Tools, or dependencies, of one build environment."""
TEST_FILES_MAX: Final = 1_000_000
"""Files of one hashed test suite."""
METHOD_BYTES_MAX: Final = 64
"""The name of a hashing method."""
TREE_DEPTH_MAX: Final = 128
"""Nested directories of a digested tree: far beyond real ones, far below the interpreter's recursion limit."""

COMMENT_BYTES_MAX: Final = 4 * KIBIBYTE
"""What an attestor says besides the verdict."""
PREDICATE_TYPE_BYTES_MAX: Final = 256
"""A predicate type's URI."""
TEST_NAMES_MAX: Final = 4096
"""Test names in one list of a test result."""
TEST_NAME_BYTES_MAX: Final = 256
FINDINGS_MAX: Final = 2048
"""Findings of one vulnerability scan; a longer report has no place beside a patch."""
FINDING_ID_BYTES_MAX: Final = 128
"""A finding's id, such as ``CVE-2026-0001``."""
PROPERTIES_MAX: Final = 256
"""Properties of one verification result."""
