"""`patchwarden key`: files, modes, passphrases."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from node.keystore import load_key
from tests.testkit.cli import refused, run, run_json
from wire.keys import Algorithm, private_key_from_seed


def write_passphrase(path: Path, text: str = "correct horse\n") -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("option", "algorithm"), [("ed25519", Algorithm.ED25519), ("p256", Algorithm.P256)])
def test_generated_key_is_0600_and_its_public_part_stands_beside_it(
    tmp_path: Path, option: str, algorithm: Algorithm
) -> None:
    path = tmp_path / "alice.key"
    document = run_json("key", "generate", "--out", path, "--algorithm", option, "--no-passphrase")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_key(path)
    assert key.algorithm is algorithm
    assert document["key_id"] == key.public_key.key_id_hex
    assert document["did"] == key.public_key.did
    assert (tmp_path / "alice.key.pub").read_bytes() == key.public_key.pem
    assert "PRIVATE" not in (tmp_path / "alice.key.pub").read_text()


def test_two_generated_keys_differ(tmp_path: Path) -> None:
    ids = {run_json("key", "generate", "--out", tmp_path / name, "--no-passphrase")["key_id"] for name in ("a", "b")}
    assert len(ids) == 2


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    run_json("key", "generate", "--out", path, "--no-passphrase")
    before = path.read_bytes(), (tmp_path / "alice.key.pub").read_bytes()
    assert refused("key", "generate", "--out", path, "--no-passphrase") == "node.key.exists"
    assert (path.read_bytes(), (tmp_path / "alice.key.pub").read_bytes()) == before


def test_key_is_encrypted_with_the_passphrase_of_a_file(tmp_path: Path) -> None:
    path, secret = tmp_path / "alice.key", write_passphrase(tmp_path / "secret")
    document = run_json("key", "generate", "--out", path, "--passphrase-file", secret)
    assert document["encrypted"] is True
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_key(path, b"correct horse").public_key.key_id_hex == document["key_id"]
    assert run_json("key", "show", path, "--passphrase-file", secret)["key_id"] == document["key_id"]


def test_passphrase_from_a_file_descriptor(tmp_path: Path) -> None:
    path, secret = tmp_path / "alice.key", write_passphrase(tmp_path / "secret")
    with secret.open("rb") as stream:
        run_json("key", "generate", "--out", path, "--passphrase-fd", stream.fileno())
    assert load_key(path, b"correct horse")


def test_passphrase_is_asked_for_twice_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.cli.passphrase._need_terminal", lambda options: None)
    path = tmp_path / "alice.key"
    answer = run("key", "generate", "--out", path, stdin="swordfish\nswordfish\n")
    assert answer.code == 0, answer.err
    assert "swordfish" not in answer.out + answer.err
    assert load_key(path, b"swordfish")


def test_without_a_terminal_a_passphrase_must_be_given(tmp_path: Path) -> None:
    assert refused("key", "generate", "--out", tmp_path / "a.key") == "cli.passphrase.no_terminal"
    assert list(tmp_path.iterdir()) == []


def test_wrong_missing_and_unused_passphrases(tmp_path: Path) -> None:
    path, secret = tmp_path / "alice.key", write_passphrase(tmp_path / "secret")
    run_json("key", "generate", "--out", path, "--passphrase-file", secret)
    wrong = write_passphrase(tmp_path / "wrong", "tr0ub4dor\n")
    assert refused("key", "show", path, "--passphrase-file", wrong) == "wire.key.passphrase"
    assert refused("key", "show", path) == "cli.passphrase.no_terminal"
    plain = tmp_path / "plain.key"
    run_json("key", "generate", "--out", plain, "--no-passphrase")
    assert refused("key", "show", plain, "--passphrase-file", secret) == "wire.key.passphrase_unused"


def test_passphrase_files_are_guarded(tmp_path: Path) -> None:
    open_to_all = tmp_path / "secret"
    open_to_all.write_text("x\n")
    open_to_all.chmod(0o644)
    assert refused("key", "generate", "--out", tmp_path / "k", "--passphrase-file", open_to_all) == "node.key.mode"
    empty = write_passphrase(tmp_path / "empty", "\n")
    assert refused("key", "generate", "--out", tmp_path / "k", "--passphrase-file", empty) == "cli.passphrase.empty"
    long = write_passphrase(tmp_path / "long", "x" * 1025)
    assert refused("key", "generate", "--out", tmp_path / "k", "--passphrase-file", long) == "cli.passphrase.too_long"
    assert refused("key", "generate", "--out", tmp_path / "k", "--passphrase-fd", 987) == "cli.passphrase.unreadable"
    assert not (tmp_path / "k").exists()


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    secret = write_passphrase(tmp_path / "secret")
    both = ("--passphrase-file", secret, "--passphrase-fd", "0")
    assert refused("key", "generate", "--out", tmp_path / "k", *both, code=2) == "cli.usage"
    assert refused("key", "generate", "--out", tmp_path / "k", "--no-passphrase", *both[:2], code=2) == "cli.usage"


def test_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    run_json("key", "generate", "--out", path, "--no-passphrase")
    path.chmod(0o640)
    assert refused("key", "show", path) == "node.key.mode"


def test_show_takes_public_keys_dids_and_private_keys(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    document = run_json("key", "generate", "--out", path, "--no-passphrase")
    for name in (path, f"{path}.pub", document["did"]):
        assert run_json("key", "show", name)["key_id"] == document["key_id"]
    text = run("key", "show", path).out
    assert document["key_id"] in text
    assert "PRIVATE" not in text


def test_show_refuses_what_is_no_key(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("nothing")
    assert refused("key", "show", other) == "cli.key.unknown_form"
    assert refused("key", "show", tmp_path / "missing") == "cli.file.unreadable"
    assert refused("key", "show", "did:key:zabc") == "wire.key.did"
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN PUBLIC KEY-----\nabcde\n-----END PUBLIC KEY-----\n")
    assert refused("key", "show", damaged) == "cli.key.pem"


def test_import_takes_over_a_key_and_encrypts_it(tmp_path: Path) -> None:
    key = private_key_from_seed(Algorithm.P256, bytes(range(32)))
    source, secret = tmp_path / "old.pem", write_passphrase(tmp_path / "secret")
    source.write_bytes(key.to_pem(None))
    source.chmod(0o600)
    out = tmp_path / "new.key"
    document = run_json("key", "import", source, "--out", out, "--passphrase-file", secret)
    assert document["key_id"] == key.public_key.key_id_hex
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert load_key(out, b"correct horse").public_key == key.public_key


def test_import_from_standard_input_and_from_an_encrypted_file(tmp_path: Path) -> None:
    key = private_key_from_seed(Algorithm.ED25519, bytes(range(32)))
    run_json("key", "import", "-", "--out", tmp_path / "a.key", "--no-passphrase", stdin=key.to_pem(None))
    encrypted, secret = tmp_path / "old.pem", write_passphrase(tmp_path / "secret", "old\n")
    encrypted.write_bytes(key.to_pem(b"old"))
    run_json(
        "key", "import", encrypted, "--source-passphrase-file", secret, "--out", tmp_path / "b.key", "--no-passphrase"
    )  # fmt: skip
    assert load_key(tmp_path / "a.key").public_key == load_key(tmp_path / "b.key").public_key == key.public_key


def test_nothing_is_left_in_the_directory_but_the_files(tmp_path: Path) -> None:
    run_json("key", "generate", "--out", tmp_path / "alice.key", "--no-passphrase")
    assert sorted(os.listdir(tmp_path)) == ["alice.key", "alice.key.pub"]
