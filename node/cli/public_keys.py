"""Public keys as people give them on a command line: a did:key, a PEM file, an OpenSSH line, a certificate, or the private key itself."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

from node.cli.errors import CommandError
from node.cli.files import read_file
from wire.keys import PublicKey, public_key_from_did_untrusted, public_key_from_spki_untrusted
from wire.limits import X509_CERTIFICATE_BYTES_MAX, X509_CHAIN_LENGTH_MAX
from wire.openssh import OPENSSH_TYPES, public_key_from_openssh_untrusted
from wire.x509 import certificate_chain_untrusted

PEM_FILE_BYTES_MAX: Final = 2 * X509_CHAIN_LENGTH_MAX * X509_CERTIFICATE_BYTES_MAX
"""A PEM file with a whole certificate chain."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s+([A-Za-z0-9+/=\s]*)-----END \1-----")


def read_public_key(text: str, passphrase_fd: int | None = None, passphrase_file: Path | None = None) -> PublicKey:
    """Return the public key that `text` names: a ``did:key:…``, or a file with a public key, a certificate or a private key.

    Raises:
        CommandError: ``cli.key.unknown_form``, ``cli.file.*``.
        RejectedError: ``wire.key.*``, ``wire.x509.*``, ``node.key.*``.
    """
    path, data = Path(text), b""
    if not text.startswith("did:"):
        data = read_file(path, PEM_FILE_BYTES_MAX)
        if _holds_private_key(path, data):
            from node.cli.passphrase import load_private_key

            return load_private_key(path, passphrase_fd, passphrase_file).public_key
    return _public_key(text, path, data)


def read_public_key_only(text: str) -> PublicKey:
    """Return the public key that `text` names, as `read_public_key`, but never open a private key for it.

    Raises:
        CommandError: ``cli.key.private``, ``cli.key.unknown_form``, ``cli.file.*``.
        RejectedError: ``wire.key.*``, ``wire.x509.*``.
    """
    path, data = Path(text), b""
    if not text.startswith("did:"):
        data = read_file(path, PEM_FILE_BYTES_MAX)
        if _holds_private_key(path, data):
            raise CommandError(
                "cli.key.private",
                f"{path} holds a private key, and another program was named to sign",
                hint="give the public key: FILE.pub, a certificate or a did:key",
            )
    return _public_key(text, path, data)


def _public_key(text: str, path: Path, data: bytes) -> PublicKey:
    if text.startswith("did:"):
        return public_key_from_did_untrusted(text)
    if data.split(b" ", 1)[0] in OPENSSH_TYPES.values():
        return public_key_from_openssh_untrusted(data)
    blocks = pem_blocks(path, data)
    kinds = [kind for kind, _ in blocks]
    if b"PUBLIC KEY" in kinds:
        return public_key_from_spki_untrusted(blocks[kinds.index(b"PUBLIC KEY")][1])
    if b"CERTIFICATE" in kinds:
        return certificate_chain_untrusted([der for kind, der in blocks if kind == b"CERTIFICATE"]).public_key
    raise CommandError(
        "cli.key.unknown_form",
        f"{path} holds no key",
        expected="a file with a public key (PEM or OpenSSH), a certificate or a private key, or a did:key",
    )


def _holds_private_key(path: Path, data: bytes) -> bool:
    kinds = [kind for kind, _ in pem_blocks(path, data)]
    return bool(kinds) and not {b"PUBLIC KEY", b"CERTIFICATE"} & set(kinds) and kinds[0].endswith(b"PRIVATE KEY")


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """Return the DER certificates in a PEM file, in its order.

    Raises:
        CommandError: ``cli.key.no_certificate``, ``cli.key.pem``, ``cli.file.*``.
    """
    ders = tuple(der for kind, der in read_pem(path) if kind == b"CERTIFICATE")
    if not ders:
        raise CommandError("cli.key.no_certificate", f"{path} holds no certificate", expected="PEM, leaf first")
    return ders


def read_pem(path: Path) -> list[tuple[bytes, bytes]]:
    """Return kind and bytes of each PEM block in a file.

    Raises:
        CommandError: ``cli.key.pem``, ``cli.file.*``.
    """
    return pem_blocks(path, read_file(path, PEM_FILE_BYTES_MAX))


def pem_blocks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and bytes of each PEM block in what was read from a file; none when it is not PEM.

    Raises:
        CommandError: ``cli.key.pem``.
    """
    blocks = []
    for match in _BLOCK.finditer(data):
        try:
            blocks.append((match[1], base64.b64decode(b"".join(match[2].split()), validate=True)))
        except binascii.Error as error:
            raise CommandError("cli.key.pem", f"{path} holds a damaged PEM block") from error
    return blocks
