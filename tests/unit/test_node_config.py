"""Settings, parameters and the patch store: what is refused, by which code, and that nothing else happens."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.config import ConfigError, Home, build_config, default_home, load_config
from node.errors import StorageFailedError
from node.params import (
    as_count,
    as_flag,
    as_hex_digest,
    as_integer,
    as_list,
    as_name,
    as_optional_integer,
    as_optional_name,
    as_optional_text,
)
from node.patch_store import UPLOAD_IDLE_S_MAX, UPLOADS_MAX, PatchStore, upload_name
from node.supervisor import bind_http, rpc_url
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest, sha256
from wire.limits import PATCH_FILE_BYTES_MAX


def test_flags_beat_environment_beats_file_beats_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    file: dict[str, object] = {"name": "v1", "tick_ms": 60, "heartbeat_ticks": 3, "election_ticks": 20}
    monkeypatch.setenv("PATCHWARDEN_HEARTBEAT_TICKS", "4")
    monkeypatch.setenv("PATCHWARDEN_ELECTION_TICKS", "25")
    config = build_config(file, {"election_ticks": 30, "log_level": None})
    assert (config.tick_ms, config.heartbeat_ticks, config.election_ticks) == (60, 4, 30)
    assert config.log_level == "info"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "v1", "tick_mss": 50},
        {"name": "v1", "tick_ms": 0},
        {"name": "V 1"},
        {},
        {"name": "v1", "role": "king"},
        {"name": "v1", "peers": "not a list"},
    ],
)
def test_wrong_setting_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(values)
    assert caught.value.code == "node.config.refused"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "node.config.unreadable"),
        (b"name = ", "node.config.not_toml"),
        (b"\xff", "node.config.not_toml"),
        (b"#" * 70_000, "node.config.too_large"),
    ],
)
def test_settings_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    home = Home(tmp_path)
    if content is not None:
        home.config.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(home)
    assert caught.value.code == code


def test_settings_file_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text('name = "web1"\nrole = "host"\nidentity = "web1@acme"\npeers = ["/ip4/127.0.0.1/tcp/1"]\n')
    config = load_config(home)
    assert (config.role, config.peers) == ("host", ("/ip4/127.0.0.1/tcp/1",))


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATCHWARDEN_HOME", str(tmp_path))
    assert default_home() == tmp_path


@pytest.mark.parametrize(
    ("read", "params", "code"),
    [
        (lambda p: as_integer(p, "x"), {}, "integer"),
        (lambda p: as_integer(p, "x"), {"x": True}, "integer"),
        (lambda p: as_integer(p, "x"), {"x": -1}, "integer"),
        (lambda p: as_integer(p, "x"), {"x": 2**53}, "integer"),
        (lambda p: as_integer(p, "x"), {"x": 1.0}, "integer"),
        (lambda p: as_count(p, "x", 1, 10), {"x": 0}, "integer"),
        (lambda p: as_count(p, "x", 1, 10), {"x": 11}, "integer"),
        (lambda p: as_name(p, "x"), {"x": ""}, "text"),
        (lambda p: as_name(p, "x"), {"x": "a" * 257}, "text"),
        (lambda p: as_name(p, "x"), {"x": 1}, "text"),
        (lambda p: as_optional_text(p, "x"), {"x": "a" * 5000}, "text"),
        (lambda p: as_flag(p, "x"), {"x": 1}, "boolean"),
        (lambda p: as_list(p, "x", 2), {"x": []}, "list"),
        (lambda p: as_list(p, "x", 2), {"x": [1, 2, 3]}, "list"),
        (lambda p: as_list(p, "x", 2), {"x": "ab"}, "list"),
        (lambda p: as_hex_digest(p, "x"), {"x": "AB" * 32}, "digest"),
        (lambda p: as_hex_digest(p, "x"), {"x": "ab" * 31}, "digest"),
    ],
)
def test_wrong_parameter_is_refused_by_name(read: Any, params: dict[str, Any], code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        read(params)
    assert caught.value.code == f"node.param.{code}"
    assert caught.value.message.startswith("x ")


def test_absent_optional_parameters_are_none() -> None:
    assert as_optional_integer({"x": None}, "x") is None
    assert as_optional_name({}, "x") is None
    assert as_optional_text({}, "x") is None
    assert as_count({"x": None}, "x", 7, 10) == 7


@pytest.fixture
def patch_store(tmp_path: Path) -> PatchStore:
    suffixes: Iterator[str] = iter(str(number) for number in range(100))
    return PatchStore(tmp_path / "patches", random_suffix=lambda: next(suffixes))


def test_patch_file_is_kept_whole_and_read_in_parts(patch_store: PatchStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    digest = sha256(data)
    assert not patch_store.has(digest)
    assert patch_store.size(digest) is None
    assert patch_store.read(digest) is None
    patch_store.put(data, digest)
    patch_store.put(data, digest)
    assert patch_store.has(digest)
    assert patch_store.size(digest) == len(data)
    assert patch_store.read(digest) == data
    assert patch_store.read(digest, 255, 3) == b"\xff\x00\x01"
    (file,) = (tmp_path / "patches").iterdir()
    assert file.name == digest.hex()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_other_bytes_than_the_published_are_refused(patch_store: PatchStore, tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as caught:
        patch_store.put(b"other", sha256(b"published"))
    assert caught.value.code == "node.patch.wrong_digest"
    assert list((tmp_path / "patches").iterdir()) == []


def test_oversized_patch_file_is_refused(patch_store: PatchStore) -> None:
    data = bytes(PATCH_FILE_BYTES_MAX + 1)
    with pytest.raises(RejectedError) as caught:
        patch_store.put(data, sha256(data))
    assert caught.value.code == "node.patch.too_large"


def test_half_written_file_of_a_crash_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "patches"
    directory.mkdir()
    (directory / "abc.1.part").write_bytes(b"half")
    (directory / upload_name("ab" * 32, "0" * 16)).write_bytes(b"half")
    PatchStore(directory, random_suffix=lambda: "x")
    assert list(directory.iterdir()) == []


def test_an_upload_is_taken_when_it_is_the_published_file(patch_store: PatchStore, tmp_path: Path) -> None:
    data, directory = b"published" * 1000, tmp_path / "patches"
    digest = sha256(data)
    name = upload_name(digest.hex(), "0" * 16)
    for upload in (name, "../patches/" + name, digest.hex(), "x.upload"):
        with pytest.raises(RejectedError) as caught:
            patch_store.take(upload, digest)
        assert caught.value.code == "node.patch.no_upload"
    (directory / name).write_bytes(b"other")
    with pytest.raises(RejectedError) as caught:
        patch_store.take(name, digest)
    assert caught.value.code == "node.patch.wrong_digest"
    assert not patch_store.has(digest)
    (directory / name).unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RejectedError) as caught:
        patch_store.take(name, digest)
    assert caught.value.code == "node.patch.no_upload"
    (directory / name).unlink()
    (directory / name).write_bytes(data)
    patch_store.take(name, digest)
    assert patch_store.read(digest) == data
    assert [path.name for path in directory.iterdir()] == [digest.hex()]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"])
def test_http_binds_to_loopback_only(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_http(address)
    assert caught.value.code == "node.config.rpc_not_loopback"


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1", "127.0.0.1:http", ":80"])
def test_http_address_must_be_one(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_http(address)
    assert caught.value.code == "node.config.rpc_listen"


def test_taken_http_port_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError) as caught:
            bind_http(f"127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.code == "node.rpc.listen"


def test_http_url_names_the_real_port() -> None:
    with bind_http("127.0.0.1:0") as listener:
        assert rpc_url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


# Files that arrive in parts


def test_a_file_that_arrives_in_parts_is_the_published_one(patch_store: PatchStore) -> None:
    data = b"0123456789" * 10
    digest = sha256(data)
    name = upload_name(digest.hex(), "0" * 16)
    for offset in range(0, 100, 30):
        assert patch_store.append(name, offset, data[offset : offset + 30], 100) == min(offset + 30, 100)
    patch_store.take(name, digest)
    assert patch_store.read(digest) == data


def test_parts_that_are_not_the_next_one_are_refused(patch_store: PatchStore) -> None:
    name = upload_name("ab" * 32, "0" * 16)

    def refused(name: str, offset: int, part: bytes) -> str:
        with pytest.raises(RejectedError) as caught:
            patch_store.append(name, offset, part, 10)
        return caught.value.code

    assert refused(name, 1, b"x") == "node.patch.no_upload"
    assert refused("../x", 0, b"x") == "node.patch.no_upload"
    assert refused(name, 0, b"") == "node.patch.wrong_part"
    assert refused(name, 0, bytes(11)) == "node.patch.wrong_part"
    patch_store.append(name, 0, b"01234", 10)
    assert refused(name, 4, b"x") == "node.patch.wrong_part"
    assert refused(name, 6, b"x") == "node.patch.wrong_part"
    with pytest.raises(StorageFailedError):
        patch_store.append(name, 0, b"01234", 10)
    assert patch_store.append(name, 5, b"56789", 10) == 10
    with pytest.raises(RejectedError) as caught:
        patch_store.take(name, Digest(b"\xab" * 32))
    assert caught.value.code == "node.patch.wrong_digest"


def test_files_whose_parts_stop_coming_give_way(tmp_path: Path) -> None:
    now = time.time()
    store = PatchStore(tmp_path / "patches", random_suffix=lambda: "x", now_s=lambda: now)
    names = [upload_name("ab" * 32, f"{index:016x}") for index in range(UPLOADS_MAX + 1)]
    for name in names[:-1]:
        store.append(name, 0, b"x", 10)
    with pytest.raises(UnavailableError) as caught:
        store.append(names[-1], 0, b"x", 10)
    assert caught.value.code == "node.patch.too_many_uploads"
    now += UPLOAD_IDLE_S_MAX + 60
    assert store.append(names[-1], 0, b"x", 10) == 1
