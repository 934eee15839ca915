"""OpenSSH's notations: one key, one line, and no private key that needs a passphrase."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from tests.testkit.cli import refused, run, run_json
from wire.errors import MalformedError
from wire.keys import Algorithm, private_key_from_seed
from wire.limits import PEM_BYTES_MAX
from wire.openssh import (
    OPENSSH_LINE_BYTES_MAX,
    openssh_line,
    openssh_private_text,
    private_key_from_file_untrusted,
    private_key_from_openssh_untrusted,
    public_key_from_openssh_untrusted,
)

KEYS = [private_key_from_seed(algorithm, bytes(range(32))) for algorithm in Algorithm]
ED25519, P256 = KEYS
needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def code_of_line(line: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        public_key_from_openssh_untrusted(line)
    return caught.value.code


def code_of_file(data: bytes, passphrase: bytes | None = None) -> str:
    with pytest.raises(MalformedError) as caught:
        private_key_from_file_untrusted(data, passphrase)
    return caught.value.code


def ssh_keygen(*arguments: object) -> bytes:
    return subprocess.run(["ssh-keygen", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_line_and_file_read_back(key: object) -> None:
    assert hasattr(key, "public_key")
    public = key.public_key
    assert public_key_from_openssh_untrusted(openssh_line(public)) == public
    assert public_key_from_openssh_untrusted(openssh_line(public, "alice at acme")) == public
    assert public_key_from_openssh_untrusted(openssh_line(public).strip()) == public


@needs_ssh_keygen
@pytest.mark.parametrize(("kind", "algorithm"), [("ed25519", Algorithm.ED25519), ("ecdsa", Algorithm.P256)])
def test_what_ssh_keygen_makes_is_read_and_what_we_write_it_reads(
    tmp_path: Path, kind: str, algorithm: Algorithm
) -> None:
    ssh_keygen("-q", "-t", kind, "-N", "", "-C", "alice", "-f", tmp_path / "id")
    key = private_key_from_openssh_untrusted((tmp_path / "id").read_bytes())
    assert key.algorithm is algorithm
    line = (tmp_path / "id.pub").read_bytes()
    assert public_key_from_openssh_untrusted(line) == key.public_key
    assert openssh_line(key.public_key, "alice") == line
    again = tmp_path / "again"
    again.write_bytes(openssh_private_text(key))
    again.chmod(0o600)
    assert ssh_keygen("-y", "-f", again).split()[:2] == line.split()[:2]


@needs_ssh_keygen
def test_keys_go_from_openssh_to_ours_and_back_on_the_command_line(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", "alice@acme", "-f", tmp_path / "id")
    document = run_json("key", "import", tmp_path / "id", "--out", tmp_path / "a.key", "--no-passphrase")
    for name in ("id", "id.pub", "a.key", "a.key.pub"):
        assert run_json("key", "show", tmp_path / name)["key_id"] == document["key_id"]
    export = ("key", "export", tmp_path / "a.key")
    run_json(*export, "--format", "openssh", "--no-passphrase", "--out", tmp_path / "back")
    assert ssh_keygen("-y", "-f", tmp_path / "back").split()[:2] == (tmp_path / "id.pub").read_bytes().split()[:2]
    shown = run(*export, "--format", "openssh-public", "--comment", "alice@acme", "--out", "-")
    assert shown.out == (tmp_path / "id.pub").read_text()
    run_json(*export, "--format", "pem-public", "--out", tmp_path / "a.pem")
    assert (tmp_path / "a.pem").read_bytes() == (tmp_path / "a.key.pub").read_bytes()


def test_export_writes_no_unencrypted_key_unasked_and_over_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    run_json("key", "generate", "--out", path, "--no-passphrase")
    export = ("key", "export", path)
    assert refused(*export, "--format", "openssh", "--out", tmp_path / "x", code=2) == "cli.usage"
    assert refused(*export, "--format", "openssh", "--no-passphrase", "--out", "-", code=2) == "cli.usage"
    assert refused(*export, "--format", "openssh", "--no-passphrase", "--out", path) == "node.key.exists"
    assert refused(*export, "--format", "pem-public", "--out", path) == "cli.file.exists"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.key", "a.key.pub"]


@needs_ssh_keygen
def test_keys_of_other_kinds_and_encrypted_ones_are_refused(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "swordfish", "-f", tmp_path / "locked")
    assert code_of_file((tmp_path / "locked").read_bytes()) == "wire.key.openssh_encrypted"
    assert code_of_file((tmp_path / "locked").read_bytes(), b"swordfish") == "wire.key.passphrase_unused"
    ssh_keygen("-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", tmp_path / "p384")
    assert code_of_file((tmp_path / "p384").read_bytes()) == "wire.key.algorithm"
    assert code_of_line((tmp_path / "p384.pub").read_bytes()) == "wire.key.openssh"


def test_damaged_files_are_refused() -> None:
    good = openssh_private_text(ED25519)
    lines = good.splitlines(keepends=True)
    assert code_of_file(b"".join((lines[0], *lines[2:]))) == "wire.key.openssh"
    assert code_of_file(good.replace(b"b3Blbn", b"!3Blbn")) == "wire.key.openssh"
    assert code_of_file(good + b" " * PEM_BYTES_MAX) == "wire.key.openssh"
    assert code_of_file(lines[0]) == "wire.key.openssh"
    with pytest.raises(MalformedError, match="not an OpenSSH private key"):
        private_key_from_openssh_untrusted(P256.to_pem(None))
    assert code_of_file(b"nothing") == "wire.key.pem"


def test_a_file_with_a_point_in_another_form_is_refused() -> None:
    """Found by the fuzzer: the library raises `NotImplementedError` for it."""
    lines = openssh_private_text(P256).splitlines()
    body = b64decode(b"".join(lines[1:-1]))
    point = b"\x00\x00\x00\x41\x04"
    assert body.count(point) == 2
    changed = body.replace(point, b"\x00\x00\x00\x41\x02")
    assert code_of_file(b"\n".join([lines[0], b64encode(changed), lines[-1]])) == "wire.key.openssh"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_only_the_one_form_of_a_line_is_read(key: object) -> None:
    assert hasattr(key, "public_key")
    name, text = openssh_line(key.public_key).split()
    blob = b64decode(text)

    def line(data: bytes) -> bytes:
        return name + b" " + b64encode(data)

    assert code_of_line(line(blob + b"\x00")) == "wire.key.openssh"
    assert code_of_line(line(blob[:-1])) == "wire.key.openssh"
    assert code_of_line(line(blob[:4] + b"X" + blob[5:])) == "wire.key.openssh"
    assert code_of_line(b"ssh-dss " + text) == "wire.key.openssh"
    assert code_of_line(b'command="id" ' + name + b" " + text) == "wire.key.openssh"
    assert code_of_line(name + b"  " + text) == "wire.key.openssh"
    assert code_of_line(name + b" " + text + b"\nsecond line") == "wire.key.openssh"
    assert code_of_line(name + b" " + text + b"=") == "wire.key.openssh"
    assert code_of_line(name + b" " + text + b" " + b"x" * OPENSSH_LINE_BYTES_MAX) == "wire.key.openssh"
    assert code_of_line(line(blob[:-1] + bytes((blob[-1] ^ 1,)))) in {"wire.key.point", "wire.key.openssh"}


def test_unused_bits_of_base64_are_refused() -> None:
    name, text = openssh_line(P256.public_key).split()
    assert text.endswith(b"=")
    other = text[:-2] + bytes((text[-2] + 1,)) + b"="
    assert b64decode(other) == b64decode(text)
    assert code_of_line(name + b" " + other) == "wire.key.openssh"


def test_small_order_point_is_refused() -> None:
    blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + b"\x01" + bytes(31)
    assert code_of_line(b"ssh-ed25519 " + b64encode(blob)) == "wire.key.small_order"


@pytest.mark.parametrize("comment", ["two\nlines", "é", "x" * OPENSSH_LINE_BYTES_MAX], ids=["lines", "latin", "long"])
def test_comment_is_one_short_line(comment: str) -> None:
    with pytest.raises(MalformedError) as caught:
        openssh_line(ED25519.public_key, comment)
    assert caught.value.code == "wire.key.openssh_comment"
