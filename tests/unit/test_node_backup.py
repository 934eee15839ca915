"""Backups: whole or not there, every byte covered, everything verified before a home appears, and no validator votes from one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from ledger.archive import ArchiveEncoder
from ledger.genesis import genesis_block
from ledger.keyspace import Table, height_key
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node.backup import BackupMaker, BackupServices, backup_stopped
from node.config import Home, load_config
from node.errors import BackupRefusedError, BackupUnavailableError
from node.keystore import load_key, save_key
from node.replica import LedgerReplica
from node.storage import backup_files
from node.storage.backup_files import BackupWriter, WorkDirectory
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from tests.testkit import damage
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis, node_key
from tests.testkit.node import open_replica
from tests.testkit.patches import make_released_patch
from wire import canonical_json
from wire.certificate import encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.keys import PrivateKey
from wire.limits import TX_BYTES_MAX

PASSPHRASE = b"correct horse battery staple"


def make_home(path: Path, chain: Chain, *, key: PrivateKey | None = None, role: str = "validator") -> Home:
    """Make the home of a stopped node that has committed the chain, whose tip is certified."""
    home = Home(path)
    home.path.mkdir()
    home.genesis.write_bytes(chain.genesis.document)
    key = key or node_key(1)
    save_key(home.node_key, key)
    home.config.write_text(f'name = "v1"\nrole = "{role}"\nlisten = "/ip4/127.0.0.1/tcp/7001"\n')
    replay = Chain(genesis=chain.genesis)
    founding, writes = genesis_block(chain.genesis)
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=key.public_key.key_id)
    try:
        blocks = BlockStore.bootstrap(store, founding.block_hash, writes)
        for block in chain.blocks[1:]:
            blocks.commit([replay.apply(block)], chain.certificate(block))
    finally:
        store.close()
    return home


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    chain.publish(make_released_patch())
    for name in ("dora@acme", "bert@beta"):
        chain.register(name, "developer")
    return chain


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Home:
    home = make_home(tmp_path_factory.mktemp("nodes") / "v1", chain)
    home.patches.mkdir()
    (home.patches / sha256(make_released_patch()).hex()).write_bytes(make_released_patch())
    (home.patches / f"{'0' * 64}").write_bytes(b"not named by the ledger")
    return home


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, home: Home) -> Path:
    """A backup with the node's key, which no test changes."""
    place = tmp_path_factory.mktemp("backups") / "v1"
    secret = place.with_name("passphrase")
    secret.write_bytes(PASSPHRASE + b"\n")
    secret.chmod(0o600)
    document = run_json(
        "node", "backup", "--home", home.path, "--out", place, "--with-key", "--passphrase-file", secret
    )
    assert document["with_key"]
    return place


@pytest.fixture
def copy(tmp_path: Path, made: Path) -> Path:
    """A backup that a test may hurt."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def trusted(tmp_path: Path, chain: Chain) -> Path:
    path = tmp_path / "trusted.json"
    path.write_bytes(chain.genesis.document)
    return path


def seal(backup: Path) -> None:
    """Write SHA256SUMS anew: what somebody does who changes a backup on purpose."""
    names = sorted(
        p.relative_to(backup).as_posix() for p in backup.rglob("*") if p.is_file() and p.name != "SHA256SUMS"
    )
    lines = [f"{hashlib.sha256((backup / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (backup / "SHA256SUMS").write_text("".join(lines))


def restore_refused(backup: Path, place: Path, trusted: Path, *more: object) -> str:
    """Return the code of the refusal; nothing may have appeared."""
    code = refused("node", "restore", backup, "--home", place, "--genesis", trusted, "--jobs", 1, *more)
    assert not place.exists()
    assert not [entry for entry in place.parent.iterdir() if entry.name.endswith(".restoring")]
    return code


def rows_of(home: Home, chain: Chain, key: PrivateKey) -> dict[tuple[int, bytes], bytes]:
    """Return all rows of the ledger and the log in a home."""
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=key.public_key.key_id)
    try:
        found = {}
        for row in store.scan():
            assert row.error is None
            value = store.get(row.table, row.key)
            assert value is not None
            if row.table != 64:
                found[row.table, row.key] = value
        return found
    finally:
        store.close()


def test_a_restored_home_has_the_very_rows_and_another_key(
    tmp_path: Path, chain: Chain, home: Home, made: Path, trusted: Path
) -> None:
    place = tmp_path / "v5"
    document = run_json("node", "restore", made, "--home", place, "--genesis", trusted, "--jobs", 1)
    header = chain.blocks[-1].header
    assert (document["height"], document["state_root"]) == (header.height, header.state_root.hex())
    assert document["history"] == "full"
    assert document["patch_files"] == 1
    restored = Home(place)
    key = load_key(restored.node_key)
    assert document["is_key_new"]
    assert document["key_id"] == key.public_key.key_id_hex != node_key(1).public_key.key_id_hex
    assert rows_of(restored, chain, key) == rows_of(home, chain, node_key(1))
    assert (restored.patches / sha256(make_released_patch()).hex()).read_bytes() == make_released_patch()
    config = load_config(restored)
    assert (config.name, config.role, config.listen) == ("v1", "validator", "/ip4/127.0.0.1/tcp/7001")
    assert len(config.peers) == len(chain.genesis.validators.validators)
    assert (place.stat().st_mode & 0o777, restored.node_key.stat().st_mode & 0o777) == (0o700, 0o600)
    # The new incarnation is remembered, and the store holds no vote.
    assert restored.incarnation.exists()
    assert run_json("node", "verify-store", "--home", place)["findings"] == []


def test_a_backup_says_what_it_is_and_sha256sum_reads_it(chain: Chain, made: Path) -> None:
    names = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert {"SHA256SUMS", "backup.json", "genesis.json", "config.toml", "checkpoint.txt", "chain.archive"} < names
    assert "node.key" in names
    assert b"ENCRYPTED" in (made / "node.key").read_bytes()
    assert node_key(1).to_pem(None) not in b"".join((made / name).read_bytes() for name in names)
    listed = dict(line.split("  ")[::-1] for line in (made / "SHA256SUMS").read_text().splitlines())
    for name in names - {"SHA256SUMS"}:
        assert listed[name] == hashlib.sha256((made / name).read_bytes()).hexdigest()
    assert made.stat().st_mode & 0o777 == 0o700


def test_without_being_asked_no_key_is_written(tmp_path: Path, home: Home) -> None:
    place = tmp_path / "plain"
    assert run_json("node", "backup", "--home", home.path, "--out", place)["with_key"] is False
    secrets = [p for p in place.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    assert secrets == []


def test_an_unencrypted_key_is_never_taken(tmp_path: Path, chain: Chain, home: Home) -> None:
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        plain = node_key(1).to_pem(None)
        with store.snapshot() as reader, pytest.raises(BackupRefusedError) as refusal:
            list(backup_stopped(reader, home, load_config(home), tmp_path / "b", software="0", key_pem=plain))
    finally:
        store.close()
    assert refusal.value.code == "node.backup.key"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["SHA256SUMS", "backup.json", "checkpoint.txt", "chain.archive", "snapshot/00000.chunk"]
)
def test_a_flipped_byte_anywhere_is_found(tmp_path: Path, copy: Path, trusted: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1
        (copy / name).write_bytes(changed)
        assert restore_refused(copy, tmp_path / "v5", trusted) in {
            "node.backup.checksum",
            "node.backup.malformed",
            "node.backup.name",
            "node.backup.missing",
            "node.backup.unlisted",
        }


def _cut(backup: Path) -> None:
    archive = backup / "chain.archive"
    archive.write_bytes(archive.read_bytes()[:-100])


def _cut_and_seal(backup: Path) -> None:
    _cut(backup)
    seal(backup)


def _remove_file(backup: Path) -> None:
    (backup / "snapshot" / "00000.chunk").unlink()


def _remove_chunk_and_seal(backup: Path) -> None:
    _remove_file(backup)
    seal(backup)


def _remove_description(backup: Path) -> None:
    (backup / "backup.json").unlink()
    seal(backup)


def _traverse(backup: Path) -> None:
    (backup.parent / "outside").write_bytes(b"x")
    sums = backup / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(b'x').hexdigest()}  ../outside\n" + sums.read_text())


def _absolute(backup: Path) -> None:
    sums = backup / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  /etc/passwd\n" + sums.read_text())


def _link(backup: Path) -> None:
    config = backup / "config.toml"
    config.rename(backup.parent / "config")
    config.symlink_to(backup.parent / "config")


def _add_file(backup: Path) -> None:
    (backup / "patches" / "run.sh").write_bytes(b"#!/bin/sh\n")


def _unknown_patch(backup: Path) -> None:
    (backup / "patches" / hashlib.sha256(b"evil").hexdigest()).write_bytes(b"evil")
    description = json.loads((backup / "backup.json").read_bytes())
    (backup / "backup.json").write_bytes(canonical_json.encode({**description, "files": description["files"] + 1}))
    seal(backup)


def _other_patch(backup: Path) -> None:
    (patch,) = (backup / "patches").iterdir()
    patch.write_bytes(b"evil")
    seal(backup)


def _forge_height(backup: Path) -> None:
    file = backup / "backup.json"
    file.write_bytes(file.read_bytes().replace(b'"height":', b'"height":1'))
    seal(backup)


def _bad_settings(backup: Path) -> None:
    (backup / "config.toml").write_text('name = "v1"\nunknown = 1\n')
    seal(backup)


def _unreadable_description(backup: Path) -> None:
    (backup / "backup.json").write_bytes(b"{}")
    seal(backup)


@pytest.mark.parametrize(
    ("hurt", "code"),
    [
        (_cut, "node.backup.checksum"),
        (_cut_and_seal, "ledger.archive.truncated"),
        (_remove_file, "node.backup.missing"),
        (_remove_chunk_and_seal, "node.restore.state"),
        (_remove_description, "node.backup.missing"),
        (_traverse, "node.backup.name"),
        (_absolute, "node.backup.name"),
        (_link, "node.backup.not_a_file"),
        (_add_file, "node.backup.unlisted"),
        (_unknown_patch, "node.restore.unknown_patch"),
        (_other_patch, "node.restore.patch"),
        (_forge_height, "node.restore.description"),
        (_bad_settings, "node.config.refused"),
        (_unreadable_description, "node.backup.malformed"),
    ],
)
def test_what_was_changed_is_refused(
    tmp_path: Path, copy: Path, trusted: Path, hurt: Callable[[Path], None], code: str
) -> None:
    hurt(copy)
    assert restore_refused(copy, tmp_path / "v5", trusted) == code


def write_archive(backup: Path, chain: Chain, certificates: dict[int, bytes | None], *, end: int | None = None) -> None:
    """Put another archive into the backup, with other certificates for some heights."""
    encoder = ArchiveEncoder()
    parts = [encoder.begin(chain.genesis.document)]
    for block in chain.blocks[1:end]:
        own = encode_commit_certificate(chain.certificate(block))
        parts.append(encoder.block(block.raw, certificates.get(block.header.height, own)))
    (backup / "chain.archive").write_bytes(b"".join([*parts, encoder.end()]))
    seal(backup)


def test_an_older_certificate_does_not_stand_for_a_block(
    tmp_path: Path, chain: Chain, copy: Path, trusted: Path
) -> None:
    older = encode_commit_certificate(chain.certificate(chain.blocks[-2]))
    write_archive(copy, chain, {chain.height: older})
    assert restore_refused(copy, tmp_path / "v5", trusted) == "ledger.proof.certificate"


def test_a_last_block_without_a_certificate_is_refused(tmp_path: Path, chain: Chain, copy: Path, trusted: Path) -> None:
    write_archive(copy, chain, {chain.height: None})
    assert restore_refused(copy, tmp_path / "v5", trusted) == "node.restore.not_certified"


def test_blocks_that_lead_to_another_state_than_the_one_beside_them_are_refused(
    tmp_path: Path, chain: Chain, copy: Path, trusted: Path
) -> None:
    write_archive(copy, chain, {}, end=-1)
    assert restore_refused(copy, tmp_path / "v5", trusted) == "node.restore.state"


def test_a_foreign_chain_is_refused(tmp_path: Path, copy: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(make_genesis(chain_id="other-net").document)
    assert restore_refused(copy, tmp_path / "v5", other) == "node.restore.wrong_chain"


def test_a_forged_signature_is_found(tmp_path: Path, copy: Path, trusted: Path) -> None:
    """All validators lie: they certify a block with a transaction that nobody signed."""
    liars = Chain()
    body = bodies.IdentityRegister("eve@acme", "eve", ("developer",), node_key(9).public_key.spki)
    values = decode_untrusted(liars.sign(body, "ada@acme").raw, bytes_max=TX_BYTES_MAX)
    assert isinstance(values, tuple)
    forged = decode_transaction_untrusted(encode((*values[:-1], bytes(64))))
    built = liars.build(forged, verified={forged.leaf_hash})
    assert built.block.transactions == (forged.raw,)
    liars.store.apply(built.executed.writes)
    liars.blocks.append(built.block)
    write_archive(copy, liars, {})
    assert restore_refused(copy, tmp_path / "v5", trusted) == "node.restore.signature"


@pytest.fixture
def stopped(tmp_path: Path, chain: Chain) -> Home:
    return make_home(tmp_path / "fresh", chain)


def test_a_damaged_store_gives_no_backup(tmp_path: Path, stopped: Home) -> None:
    damage.remove_row(stopped.data, Table.BLOCK, height_key(2))
    place = tmp_path / "b"
    assert refused("node", "backup", "--home", stopped.path, "--out", place, code=4) == "node.storage.missing_row"
    assert not place.exists()
    assert not list(tmp_path.glob(".b*"))


def test_a_tip_without_a_certificate_gives_no_backup(tmp_path: Path, stopped: Home, chain: Chain) -> None:
    damage.remove_row(stopped.data, Table.CERTIFICATE, height_key(chain.height))
    code = refused("node", "backup", "--home", stopped.path, "--out", tmp_path / "b", code=3)
    assert code == "node.backup.not_certified"


def test_a_damaged_patch_file_is_left_out_and_named(tmp_path: Path, stopped: Home) -> None:
    name = sha256(make_released_patch()).hex()
    stopped.patches.mkdir()
    (stopped.patches / name).write_bytes(make_released_patch()[:-1])
    document = run_json("node", "backup", "--home", stopped.path, "--out", tmp_path / "b")
    assert document["patches_damaged"] == [name]
    assert name in run("node", "backup", "--home", stopped.path, "--out", tmp_path / "c").out


def test_nothing_is_overwritten(tmp_path: Path, home: Home, made: Path, trusted: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert refused("node", "backup", "--home", home.path, "--out", taken) == "node.backup.exists"
    nowhere = tmp_path / "no" / "b"
    assert refused("node", "backup", "--home", home.path, "--out", nowhere) == "node.backup.no_directory"
    arguments = ("node", "restore", made, "--genesis", trusted, "--home")
    assert refused(*arguments, nowhere) == "node.restore.no_directory"
    assert refused(*arguments, home.path) == "node.restore.home_not_empty"
    (taken / "run.json").write_text("{}")
    assert refused(*arguments, taken) == "node.restore.home_in_use"
    (taken / "run.json").unlink()
    assert run_json(*arguments, taken, "--jobs", 1)["home"] == str(taken)


def test_a_validator_never_comes_back_under_its_old_key(tmp_path: Path, made: Path, trusted: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    more = ("--with-key", "--passphrase-file", secret)
    assert restore_refused(made, tmp_path / "v5", trusted, *more) == "node.restore.validator_key"
    # Called a host, it is still the key that has voted.
    assert (
        restore_refused(made, tmp_path / "v5", trusted, *more, "--set", "role", "host") == "node.restore.validator_key"
    )
    secret.write_bytes(b"wrong")
    assert restore_refused(made, tmp_path / "v5", trusted, *more) == "wire.key.passphrase"


def test_a_host_takes_its_key_with_it(tmp_path: Path, chain: Chain, trusted: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    host = make_home(tmp_path / "web1", chain, key=node_key(9), role="host")
    more = ("--with-key", "--passphrase-file", secret)
    run_json("node", "backup", "--home", host.path, "--out", tmp_path / "b", *more)
    arguments = ("node", "restore", tmp_path / "b", "--genesis", trusted, "--jobs", 1)
    document = run_json(*arguments, "--home", tmp_path / "web2", *more)
    assert not document["is_key_new"]
    assert load_key(tmp_path / "web2" / "node.key").public_key == node_key(9).public_key
    assert not Home(tmp_path / "web2").incarnation.exists()
    # Without the passphrase it gets a new one, and with one there must be a key.
    assert run_json(*arguments, "--home", tmp_path / "web3")["is_key_new"]
    (tmp_path / "b" / "node.key").unlink()
    seal(tmp_path / "b")
    assert refused(*arguments, "--home", tmp_path / "web4", *more) == "node.restore.no_key"


def test_a_checkpoint_may_be_what_is_trusted(tmp_path: Path, chain: Chain, made: Path) -> None:
    point = made / "checkpoint.txt"
    arguments = ("node", "restore", made, "--jobs", 1, "--home", tmp_path / "v5")
    assert run_json(*arguments, "--checkpoint", point)["height"] == chain.height
    assert run("node", "restore", made, "--home", tmp_path / "v6").code == 2


def test_a_backup_below_the_trusted_checkpoint_is_refused(tmp_path: Path, home: Home, chain: Chain) -> None:
    shorter = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:3]:
        shorter.apply(block)
    old = make_home(tmp_path / "old", shorter)
    run_json("node", "backup", "--home", old.path, "--out", tmp_path / "b")
    run_json("node", "backup", "--home", home.path, "--out", tmp_path / "new")
    point = tmp_path / "new" / "checkpoint.txt"
    code = refused("node", "restore", tmp_path / "b", "--home", tmp_path / "v5", "--checkpoint", point)
    assert code == "node.restore.older"


def test_another_history_than_the_trusted_one_is_a_fork(tmp_path: Path, chain: Chain, made: Path) -> None:
    other = Chain(genesis=chain.genesis)
    other.register("mallory@acme", "developer")
    twin = make_home(tmp_path / "twin", other)
    run_json("node", "backup", "--home", twin.path, "--out", tmp_path / "b")
    point = tmp_path / "b" / "checkpoint.txt"
    code = refused("node", "restore", made, "--home", tmp_path / "v5", "--checkpoint", point, "--jobs", 1)
    assert code == "node.restore.fork"


def test_a_full_disk_ends_the_backup_before_the_node(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_files, "SPACE_RESERVE_BYTES", 2**62)
    code = refused("node", "backup", "--home", home.path, "--out", tmp_path / "b", code=3)
    assert code == "node.backup.no_space"
    assert list(tmp_path.iterdir()) == []


# Interrupted


def test_what_a_killed_backup_left_is_not_a_backup_and_goes_with_the_next(
    tmp_path: Path, home: Home, made: Path
) -> None:
    part = tmp_path / ".b.part"
    shutil.copytree(made, part)
    assert not (tmp_path / "b").exists()
    run_json("node", "backup", "--home", home.path, "--out", tmp_path / "b")
    assert not part.exists()


def test_every_prefix_of_a_backup_leaves_nothing_under_its_name(tmp_path: Path, chain: Chain, home: Home) -> None:
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        with store.snapshot() as reader:
            writer = BackupWriter(tmp_path / "b")
            maker = BackupMaker(reader, home, writer, config=load_config(home), software="0")
            steps = maker.steps()
            for _ in steps:
                if not (tmp_path / "b").exists():
                    assert not (tmp_path / ".b.part" / "SHA256SUMS").exists()
            assert (tmp_path / "b" / "SHA256SUMS").exists()
            writer.abandon()
            assert (tmp_path / "b" / "SHA256SUMS").exists()
    finally:
        store.close()


def test_two_at_once_do_not_write_the_same_place(tmp_path: Path) -> None:
    first = BackupWriter(tmp_path / "b")
    with pytest.raises(BackupUnavailableError) as refusal:
        BackupWriter(tmp_path / "b")
    assert refusal.value.code == "node.backup.busy"
    first.put("config.toml", b"")
    first.finish()
    assert (tmp_path / "b" / "config.toml").exists()


def test_what_a_killed_restore_left_goes_with_the_next(tmp_path: Path, made: Path, trusted: Path) -> None:
    left = tmp_path / ".v5.restoring"
    left.mkdir()
    (left / "half").write_bytes(b"")
    run_json("node", "restore", made, "--home", tmp_path / "v5", "--genesis", trusted, "--jobs", 1)
    assert not left.exists()
    assert not (tmp_path / "v5" / "half").exists()


def test_a_restore_under_way_is_left_alone(tmp_path: Path, made: Path, trusted: Path) -> None:
    work = WorkDirectory(tmp_path / ".v5.restoring")
    code = refused("node", "restore", made, "--home", tmp_path / "v5", "--genesis", trusted, code=3)
    assert code == "node.backup.busy"
    work.remove()


# A node that forgets history


@pytest.fixture
def pruned(tmp_path: Path, chain: Chain) -> Path:
    home = make_home(tmp_path / "pruned", chain)
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        blocks = BlockStore(store)
        blocks.raise_first_height(chain.height - 1)
        while blocks.prune_step(64):
            pass
    finally:
        store.close()
    run_json("node", "backup", "--home", home.path, "--out", tmp_path / "b")
    return tmp_path / "b"


def test_a_pruned_node_comes_back_with_its_state(tmp_path: Path, chain: Chain, pruned: Path, trusted: Path) -> None:
    assert not (pruned / "chain.archive").exists()
    document = run_json("node", "restore", pruned, "--home", tmp_path / "v5", "--genesis", trusted, "--jobs", 1)
    assert (document["history"], document["height"]) == ("snapshot", chain.height)
    key = load_key(tmp_path / "v5" / "node.key")
    store = Store.open(tmp_path / "v5" / "data", chain_id=chain.genesis.chain_id, node_key_id=key.public_key.key_id)
    try:
        blocks = BlockStore(store)
        assert (blocks.committed_height, blocks.first_height) == (chain.height, chain.height + 1)
        assert StateView(blocks).header == chain.blocks[-1].header
    finally:
        store.close()


@pytest.mark.parametrize("name", ["snapshot/manifest", "snapshot/00000.chunk"])
def test_a_forged_state_is_refused(tmp_path: Path, pruned: Path, trusted: Path, name: str) -> None:
    file = pruned / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    seal(pruned)
    code = restore_refused(pruned, tmp_path / "v5", trusted)
    assert code.startswith(("ledger.snapshot.", "wire.", "ledger.proof."))


# A node that runs


class Running:
    """As much of a node as its backups ask for."""

    def __init__(self, replica: LedgerReplica, home: Home) -> None:
        self.replica = replica
        self.home = home
        self.config = load_config(home)

    @staticmethod
    def status_document() -> dict[str, str]:
        return {"version": "0"}


@pytest.fixture
def running(tmp_path: Path, chain: Chain) -> Iterator[Running]:
    home = make_home(tmp_path / "running", chain)
    with open_replica(home.data, chain.genesis) as replica:
        yield Running(replica, home)


async def ask(service: BackupServices, **params: object) -> list[dict[str, Any]]:
    return [event async for event in service.backup(params)]


async def test_a_node_writes_its_backup_step_by_step(tmp_path: Path, running: Running, chain: Chain) -> None:
    service = BackupServices(running)  # type: ignore[arg-type]
    assert list(service.methods()) == ["node.backup"]
    *progress, last = await ask(service, path=str(tmp_path / "b"))
    assert progress
    assert last["done"]["height"] == chain.height
    assert (tmp_path / "b" / "SHA256SUMS").exists()
    for params, code in (
        ({"path": "relative"}, "node.param.path"),
        ({}, "node.param.path"),
        ({"path": str(tmp_path / "b")}, "node.backup.exists"),
        ({"path": str(tmp_path / "c"), "encrypted_key": "plain"}, "node.backup.key"),
    ):
        with pytest.raises(RejectedError) as refusal:
            await ask(service, **params)
        assert refusal.value.code == code


async def test_who_stops_listening_ends_it_and_the_next_may_begin(tmp_path: Path, running: Running) -> None:
    service = BackupServices(running)  # type: ignore[arg-type]
    events = service.backup({"path": str(tmp_path / "b")})
    await anext(events)
    with pytest.raises(BackupUnavailableError) as refusal:
        await ask(service, path=str(tmp_path / "c"))
    assert refusal.value.code == "node.backup.busy"
    assert isinstance(events, AsyncGenerator)
    await events.aclose()
    assert os.listdir(tmp_path) == ["running"]
    assert (await ask(service, path=str(tmp_path / "b")))[-1]["done"]


def test_a_killed_node_is_backed_up_from_its_store(tmp_path: Path, stopped: Home) -> None:
    """Its socket is still there, and nobody answers."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stopped.socket))
    assert run_json("node", "backup", "--home", stopped.path, "--out", tmp_path / "b")["files"] >= 6
