"""DSSE envelopes: a payload, its type, and signatures over both.

What is signed is the pre-authentication encoding (`pae`), so no JSON form matters to a signature. An envelope has one JSON form all the
same, a single RFC 8785 line, and no other is accepted: the usual libraries verify one signature under several forms of one envelope.

Whoever refers to an envelope uses `Envelope.payload_digest`, never a digest of the JSON.

Source: docs/spec/wire.md 7; DSSE 1.0.2, protocol.md and envelope.md.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import Final

from wire import canonical_json
from wire.errors import InvalidSignatureError, MalformedError
from wire.hashing import Digest, sha256
from wire.keys import PublicKey, Signer
from wire.limits import ENVELOPE_SIGNATURES_MAX, SIGNATURE_BYTES_MAX, TRAILER_LINE_BYTES_MAX

PAYLOAD_TYPE_INTOTO: Final = "application/vnd.in-toto+json"
PAYLOAD_TYPE_BYTES_MAX: Final = 127

# A media type or a URI, as DSSE says; which of them mean something is decided where payloads are read. Printable ASCII without
# space, and without the two characters that JSON would escape.
_PAYLOAD_TYPE: Final = re.compile(rf"[!#-\[\]-~]{{1,{PAYLOAD_TYPE_BYTES_MAX}}}", re.ASCII)
_KEYID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope."""

    keyid: str
    "SHA-256 of the signer's SubjectPublicKeyInfo, 64 lower-case hexadecimal digits; which key to look up, not what to believe."
    sig: bytes
    "The signature over `pae`: 1 to `SIGNATURE_BYTES_MAX` bytes."


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its type and signatures; well-formed, and not verified."""

    payload_type: str
    "Media type of the payload, such as `PAYLOAD_TYPE_INTOTO`."
    payload: bytes
    "The signed bytes, not base64."
    signatures: tuple[Signature, ...]
    "At least one; exactly one in what this project makes."

    @property
    def payload_digest(self) -> Digest:
        """SHA-256 of the payload bytes: how statements and the ledger refer to this envelope."""
        return sha256(self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of type and payload: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, key: Signer, payload_type: str = PAYLOAD_TYPE_INTOTO) -> Envelope:
    """Return an envelope of `payload` with the one signature of `key`.

    Raises:
        MalformedError: ``wire.envelope.payload_type``.
    """
    _check_payload_type(payload_type)
    signature = Signature(key.public_key.key_id_hex, key.sign(pae(payload_type, payload)))
    return Envelope(payload_type, payload, (signature,))


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the envelope as its one RFC 8785 line, without a line feed; ASCII 0x20 to 0x7E only.

    Raises:
        MalformedError: ``wire.envelope.payload_type``, ``wire.envelope.signatures``, ``wire.envelope.keyid``, ``wire.envelope.sig``.
    """
    _check_payload_type(envelope.payload_type)
    _check_signatures(envelope.signatures, ENVELOPE_SIGNATURES_MAX)
    # Every part is of an alphabet that JSON does not escape, and the members stand in their order: this is the RFC 8785 form.
    signatures = ",".join(f'{{"keyid":"{one.keyid}","sig":"{_base64(one.sig)}"}}' for one in envelope.signatures)
    payload = _base64(envelope.payload)
    return f'{{"payload":"{payload}","payloadType":"{envelope.payload_type}","signatures":[{signatures}]}}'.encode(
        "ascii"
    )


def decode_envelope_untrusted(
    line: bytes, *, bytes_max: int = TRAILER_LINE_BYTES_MAX, allow_many: bool = False
) -> Envelope:
    """Return the envelope whose one form is `line`. Nothing is verified.

    Args:
        line: The JSON text without a line feed.
        bytes_max: The longest accepted line.
        allow_many: Whether up to `ENVELOPE_SIGNATURES_MAX` signatures by different keys may stand in it, as in envelopes of others.

    Raises:
        MalformedError: ``wire.envelope.members`` (missing, unknown, or of the wrong type), ``wire.envelope.base64``,
            ``wire.envelope.payload_type``, ``wire.envelope.signatures``, ``wire.envelope.keyid``, ``wire.envelope.sig``,
            ``wire.envelope.not_canonical``, and the ``wire.json.*`` codes of `canonical_json.decode_untrusted`.
    """
    document = canonical_json.decode_untrusted(line, bytes_max=bytes_max, canonical=False)
    match document:
        case {"payload": str(payload), "payloadType": str(payload_type), "signatures": list(signatures), **others} if (
            not others
        ):
            pass
        case _:
            raise _wrong_members("the envelope", "payload, payloadType and signatures")
    envelope = Envelope(payload_type, _from_base64(payload, "payload"), tuple(_signature(one) for one in signatures))
    _check_signatures(envelope.signatures, ENVELOPE_SIGNATURES_MAX if allow_many else 1)
    if encode_envelope(envelope) != line:
        raise MalformedError(
            "wire.envelope.not_canonical",
            "the envelope is not in its RFC 8785 form",
            hint="write it on one line, canonically",
        )
    return envelope


def verify_envelope(envelope: Envelope, key: PublicKey) -> None:
    """Return only when `key` signed the envelope's type and payload.

    The caller still has to decide whether that key may speak: role, status and revocation are the ledger's.

    Raises:
        InvalidSignatureError: ``wire.envelope.other_key`` (no signature names this key), ``wire.signature.invalid``.
    """
    for signature in envelope.signatures:
        if signature.keyid == key.key_id_hex:
            key.verify(pae(envelope.payload_type, envelope.payload), signature.sig)
            return
    raise InvalidSignatureError(
        "wire.envelope.other_key",
        "no signature of the envelope names this key",
        expected=key.key_id_hex,
        actual=", ".join(signature.keyid for signature in envelope.signatures),
    )


def _signature(value: object) -> Signature:
    match value:
        case {"keyid": str(keyid), "sig": str(sig), **others} if not others:
            return Signature(keyid, _from_base64(sig, "sig"))
        case _:
            raise _wrong_members("a signature", "keyid and sig")


def _check_payload_type(payload_type: str) -> None:
    if _PAYLOAD_TYPE.fullmatch(payload_type) is None:
        raise MalformedError(
            "wire.envelope.payload_type",
            "the payload type is neither a media type nor a URI",
            expected=f"such as {PAYLOAD_TYPE_INTOTO}",
            actual=payload_type,
        )


def _check_signatures(signatures: tuple[Signature, ...], count_max: int) -> None:
    if not 1 <= len(signatures) <= count_max:
        expected = "exactly 1" if count_max == 1 else f"1 to {count_max}"
        raise MalformedError(
            "wire.envelope.signatures", "the number of signatures is wrong", expected=expected, actual=len(signatures)
        )
    for signature in signatures:
        if _KEYID.fullmatch(signature.keyid) is None:
            raise MalformedError(
                "wire.envelope.keyid",
                "a key id is not a SHA-256",
                expected="64 lower-case hexadecimal digits",
                actual=signature.keyid,
            )
        if not 1 <= len(signature.sig) <= SIGNATURE_BYTES_MAX:
            raise MalformedError(
                "wire.envelope.sig",
                "a signature has no possible length",
                expected=f"1 to {SIGNATURE_BYTES_MAX} bytes",
                actual=len(signature.sig),
            )
    if len({signature.keyid for signature in signatures}) != len(signatures):
        raise MalformedError("wire.envelope.signatures", "two signatures name one key", expected="one signature a key")


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _from_base64(text: str, member: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError):  # ValueError: a text that is not ASCII
        raise _wrong_base64(member) from None
    # The decoder ignores the unused bits of the last character: four texts would stand for one byte string.
    if _base64(data) != text:
        raise _wrong_base64(member)
    return data


def _wrong_base64(member: str) -> MalformedError:
    return MalformedError(
        "wire.envelope.base64",
        f"{member} is not canonical base64",
        expected="the standard alphabet with padding",
        details={"member": member},
    )


def _wrong_members(what: str, expected: str) -> MalformedError:
    return MalformedError("wire.envelope.members", f"{what} has other members or types", expected=f"exactly {expected}")
