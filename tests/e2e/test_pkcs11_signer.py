"""Keys on a PKCS#11 token, SoftHSM's, sign a patch and its review through `--signer`; the token is the only place where they are."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from node.cli.public_keys import read_public_key_only
from node.signer import CommandSigner, signer_command
from provenance.verify import verify_patch_untrusted
from tests.testkit.cli import refused, run_json
from tests.unit.test_node_signer import make_patch
from wire.keys import Algorithm

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
MODULE = next((each for each in MODULES if Path(each).exists()), "")
LACKING = [each for each in ("softhsm2-util", "pkcs11-tool", "openssl") if shutil.which(each) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(LACKING) or not MODULE, reason="not installed: Debian packages softhsm2, opensc and openssl have it"
    ),
]

IDS = {"carol": "01", "dave": "02", "erin": "03"}
KINDS = ("EC:prime256v1", "EC:prime256v1", "EC:edwards25519")
HASH_FIRST = """#!/bin/sh
# SoftHSM signs a digest with ECDSA and hashes nothing itself.
openssl dgst -sha256 -binary | exec "$@"
"""


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make a token with two P-256 keys, "carol" and "dave", and an Ed25519 key, "erin"; return how to speak with it."""
    (tmp_path / "tokens").mkdir()
    settings = tmp_path / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(settings))
    monkeypatch.setenv("TOKEN_PIN", "5678")
    run("softhsm2-util", "--init-token", "--free", "--label", "acme", "--so-pin", "1234", "--pin", "5678")
    tool = ["pkcs11-tool", "--module", MODULE, "--token-label", "acme", "--login", "--pin", "env:TOKEN_PIN"]
    for kind, label, number in zip(KINDS, IDS, IDS.values(), strict=True):
        run(*tool, "--keypairgen", "--key-type", kind, "--label", label, "--id", number)
    return tool


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def public_key(tool: list[str], label: str, path: Path) -> Path:
    """Write the public key of that label as PEM."""
    raw = path.with_suffix(".raw")
    run(*tool, "--read-object", "--type", "pubkey", "--id", IDS[label], "--output-file", str(raw))
    form = [] if raw.read_bytes().startswith(b"-----BEGIN") else ["-inform", "DER"]
    run("openssl", "pkey", "-pubin", *form, "-in", str(raw), "-out", str(path))
    return path


def signer(tool: list[str], label: str, mechanism: str, tmp_path: Path) -> str:
    line = [*tool, "--sign", "--id", IDS[label], "--mechanism", mechanism, "--input-file", "/dev/stdin"]
    if mechanism == "ECDSA":
        script = tmp_path / "hash-first"
        script.write_text(HASH_FIRST)
        script.chmod(0o755)
        line = [str(script), *line, "--signature-format", "openssl"]
    return shlex.join(line)


def test_keys_on_a_token_sign_a_patch_and_its_review(token: list[str], tmp_path: Path) -> None:
    carol, dave = (public_key(token, label, tmp_path / f"{label}.pub") for label in ("carol", "dave"))
    patch = make_patch(tmp_path, "--key", carol, "--signer", signer(token, "carol", "ECDSA", tmp_path))
    review = ("patch", "attest", patch, "--role", "security-review", "--verdict", "approve", "--identity", "dave@beta")
    run_json(*review, "--key", dave, "--signer", signer(token, "dave", "ECDSA", tmp_path))
    verified = verify_patch_untrusted(patch.read_bytes())
    assert verified.author_key.algorithm is Algorithm.P256
    (attestation,) = verified.attestations
    assert attestation.identity == "dave@beta"


def test_ed25519_key_on_a_token_signs_what_a_transaction_signs(token: list[str], tmp_path: Path) -> None:
    # pkcs11-tool signs longer messages in parts, which SoftHSM's Ed25519 does not take; a tx_id has 32 bytes.
    erin = read_public_key_only(str(public_key(token, "erin", tmp_path / "erin.pub")))
    assert erin.algorithm is Algorithm.ED25519
    command = signer_command(signer(token, "erin", "EDDSA", tmp_path))
    message = bytes(range(32))
    assert erin.is_valid(message, CommandSigner(command, erin).sign(message))


def test_token_that_does_not_open_signs_nothing(
    token: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dave = public_key(token, "dave", tmp_path / "dave.pub")
    line = signer(token, "dave", "ECDSA", tmp_path)
    patch = make_patch(tmp_path, "--key", dave, "--signer", line)
    before = patch.read_bytes()
    monkeypatch.setenv("TOKEN_PIN", "wrong")
    seal = ("patch", "seal", patch, "--identity", "dave@beta", "--key", dave)
    assert refused(*seal, "--signer", line) == "node.signer.failed"
    monkeypatch.setenv("TOKEN_PIN", "5678")
    # Another key of the same token is not the one that was named.
    other = signer(token, "carol", "ECDSA", tmp_path)
    assert refused(*seal, "--signer", other) == "node.signer.bad_signature"
    assert patch.read_bytes() == before
    assert os.listdir(tmp_path / "tokens")
