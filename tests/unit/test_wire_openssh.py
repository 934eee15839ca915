"""OpenSSH's notations: one key, one line, and private keys that open with their passphrase at a bounded cost."""

from __future__ import annotations

import os
import pty
import shutil
import stat
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from node.keystore import load_key
from provenance.verify import verify_patch_untrusted
from tests.testkit.cli import refused, run, run_json
from tests.testkit.patches import make_patch
from wire.errors import MalformedError
from wire.keys import Algorithm, PrivateKey, private_key_from_seed
from wire.limits import PEM_BYTES_MAX
from wire.openssh import (
    OPENSSH_LINE_BYTES_MAX,
    OPENSSH_ROUNDS,
    OPENSSH_ROUNDS_MAX,
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


def block(body: bytes) -> bytes:
    return b"\n".join(
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", b64encode(body), b"-----END OPENSSH PRIVATE KEY-----", b"")
    )


def body_of(text: bytes) -> bytes:
    return b64decode(b"".join(text.split(b"-----")[2].split()))


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
    to = ("--out", tmp_path / "x")
    assert refused(*export, "--format", "openssh", *to) == "cli.passphrase.no_terminal"
    assert refused(*export, "--format", "openssh", "--no-passphrase", "--out", "-", code=2) == "cli.usage"
    assert refused(*export, "--format", "openssh-public", "--no-passphrase", *to, code=2) == "cli.usage"
    both = ("--no-passphrase", "--new-passphrase-file", path)
    assert refused(*export, "--format", "openssh", *both, *to, code=2) == "cli.usage"
    assert refused(*export, "--format", "openssh", "--no-passphrase", "--out", path) == "node.key.exists"
    assert refused(*export, "--format", "pem-public", "--out", path) == "cli.file.exists"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.key", "a.key.pub"]


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("kind", "options", "algorithm"),
    [
        ("ed25519", ("-a", "1"), Algorithm.ED25519),
        ("ecdsa", ("-a", "2", "-Z", "aes256-cbc"), Algorithm.P256),
        ("ed25519", ("-a", "1", "-Z", "aes256-gcm@openssh.com"), Algorithm.ED25519),
    ],
    ids=["by itself", "cbc", "gcm"],
)
def test_encrypted_files_of_ssh_keygen_open_with_their_passphrase_only(
    tmp_path: Path, kind: str, options: tuple[str, ...], algorithm: Algorithm
) -> None:
    ssh_keygen("-q", "-t", kind, "-N", "correct horse", *options, "-f", tmp_path / "locked")
    locked = (tmp_path / "locked").read_bytes()
    key = private_key_from_openssh_untrusted(locked, b"correct horse")
    assert key.algorithm is algorithm
    assert key.public_key == public_key_from_openssh_untrusted((tmp_path / "locked.pub").read_bytes())
    assert code_of_file(locked) == "wire.key.passphrase_missing"
    assert code_of_file(locked, b"") == "wire.key.passphrase_missing"
    assert code_of_file(locked, b"swordfish") == "wire.key.passphrase"
    body = body_of(locked)
    assert code_of_file(block(body[:-1] + bytes((body[-1] ^ 1,))), b"correct horse") == "wire.key.passphrase"
    assert code_of_file(block(body[:-1]), b"correct horse") == "wire.key.passphrase"


@needs_ssh_keygen
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.algorithm)
def test_what_we_encrypt_ssh_keygen_opens(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "locked"
    path.write_bytes(openssh_private_text(key, b"correct horse"))
    path.chmod(0o600)
    line = ssh_keygen("-y", "-P", "correct horse", "-f", path)
    assert line.split()[:2] == openssh_line(key.public_key).split()
    with pytest.raises(subprocess.CalledProcessError):
        ssh_keygen("-y", "-P", "swordfish", "-f", path)
    assert private_key_from_file_untrusted(path.read_bytes(), b"correct horse").public_key == key.public_key


def test_what_opening_costs_is_bounded_before_anything_is_derived() -> None:
    body = body_of(openssh_private_text(ED25519, b"p"))
    place = body.index(b"\x00\x00\x00\x18\x00\x00\x00\x10") + 8 + 16
    assert int.from_bytes(body[place : place + 4], "big") == OPENSSH_ROUNDS
    for rounds in (0, OPENSSH_ROUNDS_MAX + 1, 2**32 - 1):
        changed = block(body[:place] + rounds.to_bytes(4, "big") + body[place + 4 :])
        assert code_of_file(changed, b"p") == "wire.key.openssh_rounds"
        assert code_of_file(changed) == "wire.key.openssh_rounds"
    with pytest.raises(MalformedError) as caught:
        private_key_from_file_untrusted(block(body), b"p", rounds_max=OPENSSH_ROUNDS - 1)
    assert caught.value.code == "wire.key.openssh_rounds"


def test_files_that_are_encrypted_otherwise_or_hold_several_keys_are_refused() -> None:
    body = body_of(openssh_private_text(ED25519, b"p"))
    count = body.index(b"\x00\x00\x00\x18\x00\x00\x00\x10") + 8 + 16 + 4
    for changed in (
        body.replace(b"aes256-ctr", b"aes128-ctr"),
        body.replace(b"bcrypt", b"scrypt"),
        body[:count] + b"\x00\x00\x00\x02" + body[count + 4 :],
        body.replace(b"\x00\x00\x00\x18\x00\x00\x00\x10", b"\x00\x00\x00\x18\x00\x00\x00\x0f"),
        body[:40],
    ):
        assert changed != body
        assert code_of_file(block(changed), b"p") == "wire.key.openssh_encrypted"


@needs_ssh_keygen
def test_the_command_line_opens_encrypted_files_and_writes_them(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "correct horse", "-a", "1", "-f", tmp_path / "id")
    line = (tmp_path / "id.pub").read_bytes().split()[:2]
    opens, other, wrong = (tmp_path / name for name in ("opens", "other", "wrong"))
    for path, text in ((opens, "correct horse\n"), (other, "another horse\n"), (wrong, "swordfish\n")):
        path.write_text(text)
        path.chmod(0o600)
    shown = run_json("key", "show", tmp_path / "id", "--passphrase-file", opens)
    assert shown["key_id"] == run_json("key", "show", tmp_path / "id.pub")["key_id"]
    assert refused("key", "show", tmp_path / "id", "--passphrase-file", wrong) == "wire.key.passphrase"
    assert refused("key", "show", tmp_path / "id") == "cli.passphrase.no_terminal"
    out = ("--out", tmp_path / "a.key", "--passphrase-file", other)
    assert refused("key", "import", tmp_path / "id", *out) == "cli.passphrase.no_terminal"
    assert refused("key", "import", tmp_path / "id", "--source-passphrase-file", wrong, *out) == "wire.key.passphrase"
    assert not (tmp_path / "a.key").exists()
    taken = run_json("key", "import", tmp_path / "id", "--source-passphrase-file", opens, *out)
    assert (taken["key_id"], taken["encrypted"]) == (shown["key_id"], True)
    back = tmp_path / "back"
    export = ("key", "export", tmp_path / "a.key", "--format", "openssh", "--out", back)
    assert refused(*export, "--passphrase-file", other) == "cli.passphrase.no_terminal"
    assert refused(*export, "--passphrase-file", opens, "--new-passphrase-file", opens) == "wire.key.passphrase"
    assert not back.exists()
    run_json(*export, "--passphrase-file", other, "--new-passphrase-file", opens)
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    assert ssh_keygen("-y", "-P", "correct horse", "-f", back).split()[:2] == line


@needs_ssh_keygen
def test_the_passphrase_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "correct horse", "-a", "1", "-f", tmp_path / "id")
    ours, theirs = pty.openpty()
    command = ["key", "import", str(tmp_path / "id"), "--out", str(tmp_path / "a.key"), "--no-passphrase"]
    with open(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            # The terminal becomes the one that controls the session: passphrases are read from that.
            ["setsid", "--ctty", "--wait", sys.executable, "-m", "node.cli", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        printed = b""
        while b"Passphrase for" not in printed:
            printed += terminal.read(4096)
        terminal.write(b"correct horse\n")
        try:
            while more := terminal.read(4096):
                printed += more
        except OSError:  # How Linux says that nobody has the other end any more.
            pass
        assert process.wait() == 0, printed
    assert b"correct horse" not in printed
    assert load_key(tmp_path / "a.key").public_key == public_key_from_openssh_untrusted(
        (tmp_path / "id.pub").read_bytes()
    )


@needs_ssh_keygen
def test_an_encrypted_file_signs(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "correct horse", "-a", "1", "-f", tmp_path / "id")
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    patch = tmp_path / "fix.patch"
    patch.write_bytes(make_patch())
    attest = ("patch", "attest", patch, "--role", "qa", "--verdict", "approve", "--identity", "ci@gamma")
    before = patch.read_bytes()
    assert refused(*attest, "--key", tmp_path / "id") == "cli.passphrase.no_terminal"
    assert patch.read_bytes() == before
    run_json(*attest, "--key", tmp_path / "id", "--passphrase-file", secret)
    (attestation,) = verify_patch_untrusted(patch.read_bytes()).attestations
    assert attestation.identity == "ci@gamma"


@needs_ssh_keygen
def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", tmp_path / "p384")
    assert code_of_file((tmp_path / "p384").read_bytes()) == "wire.key.algorithm"
    assert code_of_file((tmp_path / "p384").read_bytes(), b"swordfish") == "wire.key.passphrase_unused"
    assert code_of_line((tmp_path / "p384.pub").read_bytes()) == "wire.key.openssh"
    ssh_keygen("-q", "-t", "ecdsa", "-b", "384", "-N", "swordfish", "-a", "1", "-f", tmp_path / "locked")
    assert code_of_file((tmp_path / "locked").read_bytes(), b"swordfish") == "wire.key.algorithm"


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
