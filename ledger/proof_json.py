"""How proofs are written as JSON: digests in lower hexadecimal digits, longer bytes in base64, each value in its one form.

Receipts and state proofs share the members that lead to the validators: ``chain_id``, ``header``, ``certificate``, and where the validators
are not the founding ones any more ``configuration``.

Source: docs/spec/proofs.md 1.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from typing import Final

from ledger.block import Header, decode_header_untrusted
from ledger.configuration_history import ConfigurationProof
from ledger.errors import ProofRefusedError
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES, Digest
from wire.limits import TX_BYTES_MAX

CONFIGURATION_MEMBER: Final = "configuration"
"""A member that is there when the header's configuration is not the founding one."""
TEXT_MAX: Final = 4 * TX_BYTES_MAX
"""The longest base64 text in a proof: a policy set's record, or the proof of many changes of the validators."""


class ProofReader:
    """Reads the members of one kind of proof.

    Args:
        refuse: Makes the refusal of a proof out of form from the reason.
    """

    __slots__ = ("_refuse",)

    def __init__(self, refuse: Callable[[str], ProofRefusedError]) -> None:
        self._refuse = refuse

    def members(
        self, value: object, names: frozenset[str], optional: frozenset[str] = frozenset({CONFIGURATION_MEMBER})
    ) -> dict[str, object]:
        """Return the proof's members: each of `names`, and besides them nothing but `optional`."""
        if not isinstance(value, dict) or value.keys() - optional != names:
            also = f", and maybe {', '.join(sorted(optional))}" if optional else ""
            raise self._refuse(f"it has exactly the members {', '.join(sorted(names))}{also}")
        return value

    def number(self, members: Mapping[str, object], name: str) -> int:
        """Return an integer from 0."""
        value = members[name]
        if type(value) is not int or value < 0:
            raise self._refuse(f"{name} is not a number from 0")
        return value

    def base64(self, members: Mapping[str, object], name: str) -> bytes:
        """Return the bytes of a base64 text in its one form."""
        text = members[name]
        if not isinstance(text, str) or len(text) > TEXT_MAX:
            raise self._refuse(f"{name} is not a base64 text of at most {TEXT_MAX} characters")
        try:
            data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
        except (binascii.Error, UnicodeEncodeError):
            raise self._refuse(f"{name} is not base64") from None
        if to_base64(data) != text:
            raise self._refuse(f"{name} is not in the one canonical form of base64")
        return data

    def digests(self, members: Mapping[str, object], name: str, count_max: int) -> tuple[Digest, ...]:
        """Return a list of digests."""
        value = members[name]
        if not isinstance(value, list) or len(value) > count_max:
            raise self._refuse(f"{name} is not a list of at most {count_max} digests")
        return tuple(self._digest(item, name) for item in value)

    def certified(self, members: Mapping[str, object]) -> tuple[Header, CommitCertificate, ConfigurationProof | None]:
        """Return header, certificate and configuration proof; nothing is verified but that ``chain_id`` is the header's."""
        try:
            header = decode_header_untrusted(self.base64(members, "header"))
            certificate = decode_commit_certificate_untrusted(self.base64(members, "certificate"))
            configuration = None
            if CONFIGURATION_MEMBER in members:
                raw = self.base64(members, CONFIGURATION_MEMBER)
                configuration = ConfigurationProof.from_value_untrusted(decode_untrusted(raw, bytes_max=TEXT_MAX))
        except RejectedError as error:
            if isinstance(error, ProofRefusedError):
                raise
            raise self._refuse(error.message) from error
        if members["chain_id"] != header.chain_id:
            raise self._refuse("chain_id is not the header's")
        return header, certificate, configuration

    def _digest(self, value: object, name: str) -> Digest:
        try:
            digest = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            digest = b""
        if len(digest) != DIGEST_BYTES or digest.hex() != value:
            raise self._refuse(f"{name} holds something that is not a digest in lower hexadecimal digits")
        return Digest(digest)


def certified_members(
    header: Header, certificate: CommitCertificate, configuration: ConfigurationProof | None
) -> dict[str, object]:
    """Return the members that lead from a header to the validators."""
    members: dict[str, object] = {
        "chain_id": header.chain_id,
        "header": to_base64(header.encode()),
        "certificate": to_base64(encode_commit_certificate(certificate)),
    }
    if configuration is not None:
        members[CONFIGURATION_MEMBER] = to_base64(encode(configuration.to_value()))
    return members


def to_base64(data: bytes) -> str:
    """Return the one base64 text of `data`."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")
