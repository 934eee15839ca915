"""Secrets in files: whole or not there, for the owner only, never overwritten by accident."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.errors import KeyFileError
from node.keystore import load_key, read_secret, save_key, write_secret
from wire.errors import RejectedError
from wire.keys import Algorithm, private_key_from_seed

KEY = private_key_from_seed(Algorithm.ED25519, bytes(range(32)))


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_saved_key_is_the_same_key(tmp_path: Path, algorithm: Algorithm, passphrase: bytes | None) -> None:
    key = private_key_from_seed(algorithm, bytes(range(1, 33)))
    path = tmp_path / "node.key"
    save_key(path, key, passphrase)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert load_key(path, passphrase).public_key == key.public_key
    assert (b"ENCRYPTED" in path.read_bytes()) is (passphrase is not None)
    assert os.listdir(tmp_path) == ["node.key"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    save_key(path, KEY)
    before = path.read_bytes()
    with pytest.raises(KeyFileError) as caught:
        save_key(path, private_key_from_seed(Algorithm.ED25519, bytes(32)))
    assert caught.value.code == "node.key.exists"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["node.key"]


def test_a_secret_is_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "rpc.token"
    write_secret(path, b"old")
    write_secret(path, b"new", replace=True)
    assert read_secret(path, 100) == b"new"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(tmp_path) == ["rpc.token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o602])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    save_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="others may read") as caught:
        load_key(path)
    assert caught.value.code == "node.key.mode"
    path.chmod(0o400)
    assert load_key(path).public_key == KEY.public_key


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        load_key(tmp_path / "none")
    assert caught.value.code == "node.key.missing"
    (tmp_path / "directory").mkdir()
    with pytest.raises(KeyFileError) as caught:
        load_key(tmp_path / "directory")
    assert caught.value.code == "node.key.unreadable"
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError) as caught:
        load_key(tmp_path / "pipe")
    assert caught.value.code == "node.key.unreadable"


def test_a_key_in_a_directory_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        save_key(tmp_path / "none" / "node.key", KEY)
    assert caught.value.code == "node.key.unwritable"


def test_a_long_file_is_refused(tmp_path: Path) -> None:
    write_secret(tmp_path / "big", bytes(101))
    assert len(read_secret(tmp_path / "big", 101)) == 101
    with pytest.raises(KeyFileError) as caught:
        read_secret(tmp_path / "big", 100)
    assert caught.value.code == "node.key.too_large"


def test_content_that_is_no_key_is_refused_with_the_files_name(tmp_path: Path) -> None:
    write_secret(tmp_path / "node.key", b"not a key")
    with pytest.raises(RejectedError, match=r"node\.key") as caught:
        load_key(tmp_path / "node.key")
    assert caught.value.code.startswith("wire.key.")
