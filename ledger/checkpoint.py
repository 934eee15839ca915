"""Checkpoints: a certified header as a small text that people carry by hand, compare by eye, and trust instead of a founding document.

The form is that of C2SP's signed notes and tlog checkpoints, so that witnesses and log tools can read it; the signatures are the
acknowledgements of the header's commit certificate, nothing is signed anew::

    patchwarden/demo                                origin: the network
    1042                                            transactions in the log
    Bx0k…=                                          the log's root
    height 311
    term 2
    block 3d9a…                                     the block's hash
    state 77e1…                                     the state's root
    header ng+tcGF0…                                the encoded header, which says all of the above
    configuration kpCR…                             the validators after it, and how they came to be

    — patchwarden/demo/v1 q83k…                     one line for each acknowledgement

Two checkpoints of one chain that contradict each other are a `SplitView`: the validators have shown two histories.

Source: docs/spec/proofs.md 5 and 6.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.block import HEADER_BYTES_MAX, Header, decode_header_untrusted
from ledger.certificate import verify_block_certificate
from ledger.configuration_history import ConfigurationProof, build_configuration_proof
from ledger.errors import LedgerCorruptionError, NotYetAvailableError, ProofRefusedError
from ledger.keyspace import Reader
from ledger.limits import CHECKPOINT_BYTES_MAX, SPLIT_VIEW_HEADERS_MAX
from ledger.proof_json import ProofReader, to_base64
from ledger.state import StateView
from ledger.trust import TrustedHead, verify_certified_header
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES, DOMAIN_ACK, sha256
from wire.keys import KEY_ID_BYTES, KeyId
from wire.limits import SIGNATURE_BYTES_MAX, VALIDATORS_MAX

ORIGIN: Final = "patchwarden/"
"""Begins the first line and every signer's name; the network's name follows."""
SIGNATURE_TYPE: Final = b"\xff" + DOMAIN_ACK
"""The signed note's type of these signatures: 0xff for one that is not registered, and its name."""
KEY_HASH_BYTES: Final = 4
SPLIT_VIEW_VERSION: Final = 1
NAME_BYTES_MAX: Final = 256

_DASH: Final = "\N{EM DASH} "
_LINES_BEFORE_SIGNATURES: Final = 10
_SPLIT_MEMBERS: Final = frozenset({"version", "kind", "chain_id", "first", "second", "headers"})
_SPLIT_KIND: Final = "split-view"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A certified header with everything that leads from the founding validators to it."""

    header: Header
    """The certified header."""
    certificate: CommitCertificate
    """Its commit certificate."""
    configuration: ConfigurationProof
    """What leads from the founding validators to those after the header."""

    @property
    def height(self) -> int:
        """The header's height."""
        return self.header.height

    def to_text(self) -> bytes:
        """Return the one text of this checkpoint, UTF-8.

        Raises:
            ProofRefusedError: ``ledger.checkpoint.signer``: a signer is no member of the configuration.
        """
        header = self.header
        origin = ORIGIN + header.chain_id
        lines = [
            origin,
            str(header.log_size),
            to_base64(header.log_root),
            f"height {header.height}",
            f"term {header.term}",
            f"block {header.hash().hex()}",
            f"state {header.state_root.hex()}",
            f"header {to_base64(header.encode())}",
            f"configuration {to_base64(encode(self.configuration.to_value()))}",
            "",
        ]
        members = self.configuration.configuration.nodes
        for key_id, signature in self.certificate.signatures:
            validator = members.find(key_id)
            if validator is None:
                raise ProofRefusedError(
                    "ledger.checkpoint.signer", "a signer is not among the validators of the checkpoint", actual=key_id
                )
            name = f"{origin}/{validator.name}"
            blob = note_key_hash(name, validator.public_key.raw) + key_id + signature
            lines.append(f"{_DASH}{name} {to_base64(blob)}")
        return "\n".join([*lines, ""]).encode()


def note_key_hash(name: str, public_key: bytes) -> bytes:
    """Return the four bytes by which a signed note names a key: of SHA-256 over name, LF, signature type and key."""
    return sha256(name.encode() + b"\n" + SIGNATURE_TYPE + public_key)[:KEY_HASH_BYTES]


def checkpoint_from_text_untrusted(text: bytes) -> Checkpoint:
    """Return the checkpoint of good form whose one text is `text`. No signature is verified.

    Raises:
        ProofRefusedError: ``ledger.checkpoint.malformed``, ``ledger.checkpoint.signer``.
    """
    if len(text) > CHECKPOINT_BYTES_MAX:
        raise _malformed(f"it is longer than {CHECKPOINT_BYTES_MAX} bytes")
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    signatures = lines[_LINES_BEFORE_SIGNATURES:-1]
    if not 1 <= len(signatures) <= VALIDATORS_MAX:
        raise _malformed(f"it does not have nine lines, an empty one, and 1 to {VALIDATORS_MAX} signatures")
    try:
        header = decode_header_untrusted(_base64_after("header ", lines[7], 2 * HEADER_BYTES_MAX))
        raw = _base64_after("configuration ", lines[8], CHECKPOINT_BYTES_MAX)
        configuration = ConfigurationProof.from_value_untrusted(decode_untrusted(raw, bytes_max=CHECKPOINT_BYTES_MAX))
        signed = tuple(_signature(line) for line in signatures)
        certificate = CommitCertificate(header.term, header.height, header.hash(), signed)
    except ProofRefusedError:
        raise
    except RejectedError as error:
        raise _malformed(error.message) from error
    checkpoint = Checkpoint(header, certificate, configuration)
    # One text for each checkpoint: every line that repeats what the header says is compared at once.
    written = checkpoint.to_text()
    if written != text:
        differing = next(
            (index for index, (ours, theirs) in enumerate(zip(written.split(b"\n"), text.split(b"\n"), strict=False))
             if ours != theirs),
            len(lines),
        )  # fmt: skip
        raise _malformed(f"line {differing + 1} is not what its header and its validators say")
    return checkpoint


def build_checkpoint(reader: Reader, height_max: int | None = None) -> Checkpoint:
    """Return the newest certified header, or the newest one up to `height_max`.

    Args:
        reader: A store at one height, with the certificates.
        height_max: At most this height; None: the tip's.

    Raises:
        NotYetAvailableError: ``ledger.checkpoint.none``: no header up to there is certified here (yet).
        LedgerCorruptionError: ``ledger.corruption.missing``.
    """
    view = StateView(reader)
    top = view.height if height_max is None else min(height_max, view.height)
    # A snapshot's own header, right below the kept history, is certified too.
    for height in range(top, max(0, view.history_start - 2), -1):
        raw = view.certificate(height)
        if raw is not None:
            return _checkpoint_at(reader, view, height, raw)
    raise NotYetAvailableError(
        "ledger.checkpoint.none", f"no header up to height {top} is certified here", hint="ask again in a moment"
    )


def verify_checkpoint(checkpoint: Checkpoint, trusted: TrustedHead) -> TrustedHead:
    """Return the checkpoint as a head, verified from another one.

    Raises:
        RejectedError: ``ledger.proof.*``, ``wire.certificate.*``.
    """
    return verify_certified_header(trusted, checkpoint.header, checkpoint.certificate, checkpoint.configuration)


def trust_checkpoint(checkpoint: Checkpoint) -> TrustedHead:
    """Return the checkpoint as a head because the caller got it on a way that the caller trusts; it must agree with itself.

    Raises:
        RejectedError: ``ledger.proof.*``, ``wire.certificate.*``.
    """
    header, configuration = checkpoint.header, checkpoint.configuration.configuration
    verify_block_certificate(checkpoint.certificate, header, configuration)
    return TrustedHead(header.chain_id, configuration, header)


@dataclass(frozen=True, slots=True)
class SplitView:
    """Two certified histories of one chain that cannot both be: what nobody can have who asks honest validators only."""

    first: Checkpoint
    """The lower one, or either of the same height."""
    second: Checkpoint
    """The other."""
    headers: tuple[Header, ...] = ()
    """The headers of the second's history from right above the first's height up to right below the second's."""

    @property
    def height(self) -> int:
        """The height at which the histories differ."""
        return self.first.height

    def to_json(self) -> dict[str, object]:
        """Return the JSON form: both checkpoints as texts, headers in base64."""
        return {
            "version": SPLIT_VIEW_VERSION,
            "kind": _SPLIT_KIND,
            "chain_id": self.first.header.chain_id,
            "first": self.first.to_text().decode(),
            "second": self.second.to_text().decode(),
            "headers": [to_base64(header.encode()) for header in self.headers],
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> SplitView:
        """Return the evidence of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.checkpoint.malformed``, ``ledger.checkpoint.signer``.
        """
        reader = ProofReader(_malformed)
        members = reader.members(value, _SPLIT_MEMBERS, optional=frozenset())
        if members["version"] != SPLIT_VIEW_VERSION or members["kind"] != _SPLIT_KIND:
            raise _malformed("the version or kind is not known")
        first, second, headers = members["first"], members["second"], members["headers"]
        if not isinstance(first, str) or not isinstance(second, str):
            raise _malformed("a checkpoint is a text")
        if not isinstance(headers, list) or len(headers) > SPLIT_VIEW_HEADERS_MAX:
            raise _malformed(f"headers is not a list of at most {SPLIT_VIEW_HEADERS_MAX}")
        try:
            decoded = tuple(decode_header_untrusted(reader.base64({"header": each}, "header")) for each in headers)
        except ProofRefusedError:
            raise
        except RejectedError as error:
            raise _malformed(error.message) from error
        evidence = cls(
            checkpoint_from_text_untrusted(first.encode("utf-8", "replace")),
            checkpoint_from_text_untrusted(second.encode("utf-8", "replace")),
            decoded,
        )
        if members["chain_id"] != evidence.first.header.chain_id:
            raise _malformed("chain_id is not the checkpoints'")
        return evidence


def verify_split_view(evidence: SplitView, trusted: TrustedHead) -> int:
    """Return the height at which validators that the caller trusts, or their successors, certified two histories.

    Args:
        evidence: From anybody.
        trusted: The founding document, or an older head.

    Raises:
        RejectedError: ``ledger.checkpoint.no_split`` (the two do not contradict each other), ``ledger.proof.*``, ``wire.certificate.*``.
    """
    verify_checkpoint(evidence.first, trusted)
    verify_checkpoint(evidence.second, trusted)
    chain = (*evidence.headers, evidence.second.header)
    first = evidence.first.header
    if evidence.second.height == first.height:
        if evidence.headers or evidence.second.header.hash() == first.hash():
            raise _no_split("both are about the same block")
        return first.height
    if chain[0].height != first.height + 1:
        raise _no_split("the headers do not begin right above the first checkpoint")
    for before, after in pairwise(chain):
        if after.height != before.height + 1 or after.previous_hash != before.hash():
            raise _no_split(f"header {after.height} does not follow the one before")
    if chain[0].previous_hash == first.hash():
        raise _no_split("the second checkpoint extends the first")
    return first.height


def find_split_view(reader: Reader, other: Checkpoint) -> SplitView | None:
    """Return the evidence that `other`, which holds, contradicts the chain that `reader` has; None when it does not.

    None too when this chain does not reach up to it, keeps no header of its height any more, or has no certificate near enough above it.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.*``.
    """
    view = StateView(reader)
    own = view.header_at(other.height)
    if own is None or own.hash() == other.header.hash():
        return None
    headers: list[Header] = []
    for height in range(other.height, min(view.height, other.height + SPLIT_VIEW_HEADERS_MAX) + 1):
        header = view.header_at(height)
        if header is None:
            raise LedgerCorruptionError("ledger.corruption.missing", f"header {height} is missing")
        raw = view.certificate(height)
        if raw is not None:
            return SplitView(other, _checkpoint_at(reader, view, height, raw), tuple(headers))
        if height > other.height:
            headers.append(header)
    return None


def _checkpoint_at(reader: Reader, view: StateView, height: int, certificate: bytes) -> Checkpoint:
    header = view.header_at(height)
    if header is None:
        raise LedgerCorruptionError("ledger.corruption.missing", f"header {height} is missing")
    return Checkpoint(
        header, decode_commit_certificate_untrusted(certificate), build_configuration_proof(reader, height)
    )


def _base64_after(prefix: str, line: str, characters_max: int) -> bytes:
    if not line.startswith(prefix) or len(line) > characters_max:
        raise _malformed(f"a line does not begin with {prefix!r}, or is too long")
    return _base64(line.removeprefix(prefix))


def _signature(line: str) -> tuple[KeyId, bytes]:
    if not line.startswith(_DASH):
        raise _malformed("a signature's line does not begin with a dash")
    name, _, text = line.removeprefix(_DASH).partition(" ")
    blob = _base64(text)
    signature = blob[KEY_HASH_BYTES + KEY_ID_BYTES :]
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX or not 0 < len(signature) <= SIGNATURE_BYTES_MAX:
        raise _malformed("a signature is a name, and in base64 a key hash, a key id and the signature")
    return KeyId(blob[KEY_HASH_BYTES : KEY_HASH_BYTES + DIGEST_BYTES]), signature


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _malformed("a value is not base64") from None


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.checkpoint.malformed", f"the checkpoint does not have its form: {why}")


def _no_split(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.checkpoint.no_split", f"these checkpoints do not contradict each other: {why}")
