"""An encrypted PKCS#8 file opens at a bounded cost: what it asks for is read before anything is derived."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from node.keystore import load_key
from tests.testkit.der import INTEGER, SEQUENCE, encode
from wire import keys
from wire.errors import MalformedError, RejectedError
from wire.keys import Algorithm, private_key_from_pem_untrusted, private_key_from_seed
from wire.pkcs8 import PKCS8_BEGIN, PKCS8_END, PKCS8_MEMORY_MAX, PKCS8_WORK_MAX, check_cost_untrusted

KEY = private_key_from_seed(Algorithm.ED25519, b"author".ljust(32, b"\0"))
ENCRYPTED = KEY.to_pem(b"right")
OBJECT, OCTET_STRING = 0x06, 0x04
PBES2 = bytes.fromhex("2a864886f70d01050d")
PBKDF2 = bytes.fromhex("2a864886f70d01050c")
SCRYPT = bytes.fromhex("2b06010401da47040b")
AES_256_CBC = bytes.fromhex("60864801650304012a")
DES_3_SHA = bytes.fromhex("2a864886f70d010c0103")


def block(der: bytes) -> bytes:
    return PKCS8_BEGIN + b"\n" + base64.encodebytes(der) + PKCS8_END + b"\n"


def der_of(pem: bytes) -> bytes:
    return base64.b64decode(pem.removeprefix(PKCS8_BEGIN).partition(PKCS8_END)[0])


def number(value: int) -> bytes:
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def sequence(*parts: bytes) -> bytes:
    return encode(SEQUENCE, b"".join(parts))


def salted(*numbers: bytes, salt: bytes = b"salt" * 4) -> bytes:
    return sequence(encode(OCTET_STRING, salt), *numbers)


def derived_by(identifier: bytes, *numbers: bytes, content: bytes = b"\0" * 16, vector: bytes = b"\0" * 16) -> bytes:
    """Return a file whose key is derived in this way."""
    derivation = sequence(encode(OBJECT, identifier), salted(*numbers))
    cipher = sequence(encode(OBJECT, AES_256_CBC), encode(OCTET_STRING, vector))
    scheme = sequence(encode(OBJECT, PBES2), sequence(derivation, cipher))
    return sequence(scheme, encode(OCTET_STRING, content))


def scrypt_file(cost: int, size: int, lanes: int) -> bytes:
    """Return a real file under scrypt."""
    secret = Scrypt(b"salt" * 4, 32, cost, size, lanes).derive(b"right")
    plain = serialization.load_pem_private_key(KEY.to_pem(None), None).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(algorithms.AES(secret), modes.CBC(b"\0" * 16)).encryptor()
    content = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    return derived_by(SCRYPT, number(cost), number(size), number(lanes), content=content)


def code_of(der: bytes, passphrase: bytes | None = b"right", **limits: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        private_key_from_pem_untrusted(block(der), passphrase, **limits)
    return caught.value.code


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the library was asked to open."""
    found: list[bytes] = []

    def load(der: bytes, passphrase: bytes | None) -> object:
        found.append(der)
        raise ValueError

    monkeypatch.setattr(keys.serialization, "load_der_private_key", load)
    monkeypatch.setattr(keys.serialization, "load_pem_private_key", load)
    return found


def test_ordinary_files_open() -> None:
    assert private_key_from_pem_untrusted(ENCRYPTED, b"right").public_key == KEY.public_key
    assert private_key_from_pem_untrusted(block(scrypt_file(1024, 8, 1)), b"right").public_key == KEY.public_key
    assert private_key_from_pem_untrusted(ENCRYPTED + b"anything behind it\n", b"right").public_key == KEY.public_key


@pytest.mark.parametrize(
    "options",
    [
        ("-v2", "aes-256-cbc", "-iter", "100000"),
        ("-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"),
        ("-scrypt",),
        ("-v1", "PBE-SHA1-3DES"),
    ],
    ids=" ".join,
)
def test_what_openssl_writes_opens(options: tuple[str, ...], tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there")
    source, copy = tmp_path / "plain.pem", tmp_path / "locked.pem"
    source.write_bytes(KEY.to_pem(None))
    command = [openssl, "pkcs8", "-topk8", *options, "-in", str(source), "-out", str(copy), "-passout", "pass:right"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this openssl cannot: {done.stderr[:200]!r}")
    copy.chmod(0o600)
    assert load_key(copy, b"right").public_key == KEY.public_key
    with pytest.raises(RejectedError) as caught:
        load_key(copy, b"wrong")
    assert caught.value.code == "wire.key.passphrase"


ITERATIONS_BEYOND = (0, -1, PKCS8_WORK_MAX + 1, 2**31 - 1, 2**63 - 1, 2**64, 2**4000)
SCRYPT_BEYOND = (
    (PKCS8_WORK_MAX + 1, 1, 1),
    (2**10, 8, 2**20),  # work alone
    (2**20, 8, 1),  # 1 GiB of memory, and work that would be allowed
    (PKCS8_MEMORY_MAX // 128 + 1, 1, 1),
    (2, 2**30, 1),
    (0, 8, 1),
    (1024, 0, 1),
    (1024, 8, -1),
    (2**100, 8, 1),
)


@pytest.mark.parametrize("count", ITERATIONS_BEYOND, ids=lambda count: str(count)[:12])
@pytest.mark.parametrize("passphrase", [b"right", None])
def test_too_many_iterations_are_refused_before_anything_is_derived(
    count: int, passphrase: bytes | None, opened: list[bytes]
) -> None:
    assert code_of(derived_by(PBKDF2, number(count)), passphrase) == "wire.key.pkcs8_cost"
    first = sequence(sequence(encode(OBJECT, DES_3_SHA), salted(number(count))), encode(OCTET_STRING, b"\0" * 16))
    assert code_of(first, passphrase) == "wire.key.pkcs8_cost"
    assert opened == []


@pytest.mark.parametrize("numbers", SCRYPT_BEYOND, ids=str)
def test_too_much_work_or_memory_of_scrypt_is_refused_before_anything_is_derived(
    numbers: tuple[int, int, int], opened: list[bytes]
) -> None:
    assert code_of(derived_by(SCRYPT, *map(number, numbers))) == "wire.key.pkcs8_cost"
    assert opened == []


@pytest.mark.parametrize(
    "der",
    [
        derived_by(PBKDF2, number(PKCS8_WORK_MAX)),
        derived_by(SCRYPT, number(2**18), number(8), number(1)),  # 256 MiB
        derived_by(SCRYPT, number(1024), number(1), number(PKCS8_WORK_MAX // 1024)),
        sequence(sequence(encode(OBJECT, DES_3_SHA), salted(number(PKCS8_WORK_MAX))), encode(OCTET_STRING, b"\0")),
    ],
    ids=["pbkdf2", "memory", "lanes", "pbes1"],
)
def test_the_limits_themselves_are_allowed(der: bytes, opened: list[bytes]) -> None:
    assert code_of(der) == "wire.key.passphrase", "the library was asked, and said no"
    assert opened == [der], "the very bytes that were read here"


def test_a_caller_may_allow_less() -> None:
    check_cost_untrusted(der_of(block(scrypt_file(1024, 8, 1))), work_max=8192, memory_max=2**20)
    for limits in ({"work_max": 8191}, {"memory_max": 2**20 - 1}):
        with pytest.raises(MalformedError) as caught:
            check_cost_untrusted(scrypt_file(1024, 8, 1), **limits)
        assert caught.value.code == "wire.key.pkcs8_cost"
    assert code_of(der_of(ENCRYPTED), work_max=1) == "wire.key.pkcs8_cost"


@pytest.mark.parametrize(
    "der",
    [
        derived_by(bytes.fromhex("2a0304"), number(1)),
        sequence(sequence(encode(OBJECT, bytes.fromhex("2a0304")), salted(number(1))), encode(OCTET_STRING, b"")),
        derived_by(PBKDF2),
        derived_by(PBKDF2, encode(OCTET_STRING, b"1")),
        derived_by(SCRYPT, number(1024), number(8)),
        sequence(
            sequence(encode(OBJECT, PBES2), sequence(sequence(encode(OBJECT, PBKDF2), sequence(number(1), number(1))))),
            encode(OCTET_STRING, b""),
        ),
        sequence(sequence(encode(OBJECT, PBES2), sequence(sequence(encode(OBJECT, PBKDF2), sequence())))),
    ],
)
def test_other_ways_of_encryption_are_refused_by_name(der: bytes, opened: list[bytes]) -> None:
    assert code_of(der) == "wire.key.pkcs8_encrypted"
    assert opened == []


CHANGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda der: b"",
    lambda der: der[:-1],
    lambda der: der + b"\0",
    lambda der: der + der,
    lambda der: encode(0x31, der[3:]),
    lambda der: b"\x30\x80" + der[3:] + b"\0\0",  # a length of BER
    lambda der: b"\x30\x82\x00" + der[2:],  # longer than it must be
    lambda der: b"\x3f\x81\x00" + der[2:],
    lambda der: sequence(),
    lambda der: sequence(number(1)),
    lambda der: sequence(sequence()),
    lambda der: sequence(sequence(number(1))),
    lambda der: sequence(sequence(encode(OBJECT, PBES2))),
    lambda der: sequence(sequence(encode(OBJECT, PBES2), number(1))),
    lambda der: sequence(sequence(encode(OBJECT, PBES2), sequence(), number(1))),
    lambda der: sequence(sequence(encode(OBJECT, PBES2), sequence(sequence(encode(OBJECT, PBKDF2))))),
)


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_a_damaged_file_is_told_as_a_wrong_passphrase_is(change: Callable[[bytes], bytes], opened: list[bytes]) -> None:
    assert code_of(change(der_of(ENCRYPTED))) == "wire.key.passphrase"
    assert opened == []


@pytest.mark.parametrize(
    "pem",
    [
        ENCRYPTED.replace(PKCS8_END, b""),
        ENCRYPTED.replace(b"MI", b"!!", 1),
        ENCRYPTED.replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
    ],
)
def test_a_block_that_is_no_base64_is_damaged(pem: bytes, opened: list[bytes]) -> None:
    with pytest.raises(MalformedError) as caught:
        private_key_from_pem_untrusted(pem, b"right")
    assert caught.value.code == "wire.key.passphrase"
    assert opened == []


def test_the_refusal_of_a_key_file_names_it_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    path.write_bytes(block(derived_by(PBKDF2, number(2**31 - 1))))
    path.chmod(0o600)
    with pytest.raises(MalformedError) as caught:
        load_key(path, b"right")
    assert caught.value.code == "wire.key.pkcs8_cost"
    assert caught.value.message.startswith(f"{path}: the private key asks for too much")
    assert "-iter 600000" in caught.value.hint
