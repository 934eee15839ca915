"""Restoring a backup: everything in it is verified before anything of it appears in the home.

::

    checksums ─► founding document, the one that is trusted ─► every block executed, every certificate verified
              ─► the hash, the state root and the checkpoint that the backup names ─► the state's chunks, byte for byte
              ─► patch files that the ledger names ─► settings, key ─► the home appears, in one rename

A backup is not believed: whoever made it may have changed everything in it. What is believed is the founding document that the operator
names, or a checkpoint that the operator trusts. A restored validator is a *new* node under a new key: nobody knows what the old one signed
after the backup was made, so it must not vote as if it remembered (docs/spec/consensus.md 6.3).

Everything here blocks. Source: docs/spec/storage.md 9.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.archive import ArchivedBlock, ArchiveDecoder, ArchivedGenesis
from ledger.audit import Verifier
from ledger.block import decode_block_untrusted
from ledger.certificate import verify_block_certificate
from ledger.checkpoint import checkpoint_from_text_untrusted, verify_checkpoint
from ledger.genesis import Genesis, decode_genesis_untrusted, genesis_block
from ledger.keyspace import Table, height_key
from ledger.limits import CHECKPOINT_BYTES_MAX, GENESIS_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_MANIFEST_BYTES_MAX
from ledger.snapshot import SnapshotBuilder, SnapshotManifest, decode_manifest_untrusted
from ledger.snapshot_install import SnapshotInstaller
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import execute_block, signature_jobs
from ledger.trust import TrustedHead
from node.config import CONFIG_BYTES_MAX, Home, NodeConfig, build_config
from node.errors import BackupRefusedError, BackupUnavailableError
from node.keystore import save_key
from node.net.address import with_peer_id_untrusted
from node.snapshots import snapshot_log_rows
from node.storage.backup_files import (
    ARCHIVE,
    CHECKPOINT,
    CONFIG,
    DESCRIPTION,
    GENESIS,
    NODE_KEY,
    PATCHES,
    PIECE_BYTES,
    SNAPSHOT,
    SNAPSHOT_MANIFEST,
    BackupDescription,
    BackupReader,
    WorkDirectory,
)
from node.storage.block_store import encode_log_term, encode_log_tip
from node.storage.database import Database
from node.storage.filling import Filling
from node.storage.leveldb import Store, sync_directory
from node.storage.snapshot_files import chunk_name, write_file
from node.storage.tables import ONLY_KEY, TABLE_LOG_TERM, TABLE_LOG_TIP
from wire.certificate import decode_commit_certificate_untrusted
from wire.keys import PrivateKey, private_key_from_pem_untrusted
from wire.limits import PATCH_FILE_BYTES_MAX, PEM_BYTES_MAX

HOME_MODE: Final = 0o700
DESCRIPTION_BYTES_MAX: Final = 4096
PENDING_BLOCKS_MAX: Final = 64
"""Blocks whose transactions' signatures may be on their way to the verifier."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how far it is, and how far it goes."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What the operator believes; at least one of the two."""

    genesis: Genesis | None
    """The founding document."""
    checkpoint: TrustedHead | None
    """A certified header that came on a trusted way; the backup must contain its block."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What stands in the home now."""

    home: Path
    description: BackupDescription
    """What the backup said of itself; verified."""
    key: PrivateKey
    """The node's key."""
    is_key_new: bool
    """Whether the key was made now: always, for whoever votes."""
    transactions: int
    """Transactions since the founding."""
    patches: int
    """Patch files."""
    peers: tuple[str, ...]
    """Whom the node asks for later blocks."""


def restore(
    reader: BackupReader,
    place: Path,
    trust: Trust,
    *,
    new_key: PrivateKey,
    passphrase: bytes | None,
    settings: Mapping[str, Any],
    verifier: Verifier,
    report: Report,
) -> Restored:
    """Verify the backup, and make the home `place` from it in one step; when this raises, nothing has appeared there.

    Args:
        reader: The backup.
        place: The home; nothing or an empty directory may be there.
        trust: What is believed beforehand.
        new_key: The key of the restored node.
        passphrase: Opens the key in the backup, which a host takes over instead; None leaves it.
        settings: Settings that replace those of the backup.
        verifier: Who checks the transactions' signatures.
        report: Told how far it is.

    Raises:
        BackupRefusedError: ``node.backup.*``, ``node.restore.*``.
        BackupUnavailableError: ``node.backup.busy``, ``node.restore.write_failed``.
        RejectedError: ``ledger.*``, ``wire.*``, ``node.config.*``: what is wrong with the chain, a certificate, the settings.
        StorageFailedError: ``node.storage.write_failed``.
    """
    check_place(place)
    total = reader.bytes_total
    for done in reader.check_sums():
        report("checksums, bytes", done, total)
    description = BackupDescription.decode_untrusted(reader.read(DESCRIPTION, DESCRIPTION_BYTES_MAX))
    genesis = _genesis(reader, trust, description)
    config = _config(reader, settings)
    key, is_new = _key(reader, config, new_key, passphrase)
    try:
        work = WorkDirectory(place.with_name(f".{place.name}.restoring"))
    except OSError as error:
        raise _write_failed(place, error) from error
    try:
        home = Home(work.path)
        transactions, peers = _restore_chain(reader, home, genesis, trust, description, key, config, verifier, report)
        config_text = _config_text(reader, settings, peers)
        write_file(home.genesis, genesis.document)
        write_file(home.config, config_text)
        save_key(home.node_key, key)
        _sync_tree(work.path)
        check_place(place)
        work.rename(place)
    except OSError as error:
        raise _write_failed(place, error) from error
    finally:
        work.remove()
    return Restored(place, description, key, is_new, transactions, len(reader.patches), peers)


def check_place(place: Path) -> None:
    """Return only when a home may appear at `place`.

    Raises:
        BackupRefusedError: ``node.restore.home_in_use``, ``node.restore.home_not_empty``, ``node.restore.no_directory``.
    """
    if not place.parent.is_dir():
        raise _refuse("no_directory", f"there is no directory {place.parent}", hint="make it first")
    if not place.exists() and not place.is_symlink():
        return
    home = Home(place)
    if home.run.exists() or home.socket.exists():
        raise _refuse("home_in_use", f"a node runs at {place}", hint="name another --home")
    if place.is_symlink() or not place.is_dir() or any(place.iterdir()):
        raise _refuse(
            "home_not_empty", f"{place} is not empty, and nothing in it is overwritten", hint="name another --home"
        )


def _genesis(reader: BackupReader, trust: Trust, description: BackupDescription) -> Genesis:
    genesis = decode_genesis_untrusted(reader.read(GENESIS, GENESIS_BYTES_MAX))
    ours = genesis.genesis_hash.hex()
    if trust.genesis is not None and trust.genesis.genesis_hash != genesis.genesis_hash:
        raise _refuse(
            "wrong_chain",
            "the backup is of another network than the founding document",
            expected=trust.genesis.genesis_hash.hex(),
            actual=ours,
        )
    if trust.checkpoint is not None and trust.checkpoint.chain_id != genesis.chain_id:
        raise _refuse(
            "wrong_chain",
            "the backup is of another network than the checkpoint",
            expected=trust.checkpoint.chain_id,
            actual=genesis.chain_id,
        )
    if trust.checkpoint is not None and trust.checkpoint.height > description.height:
        raise _refuse(
            "older",
            "the backup ends below the checkpoint, which therefore proves nothing of it",
            hint="name the founding document, or an older checkpoint",
            expected=f"height {trust.checkpoint.height} or above",
            actual=description.height,
        )
    if (description.chain_id, description.genesis_hash) != (genesis.chain_id, ours):
        raise _refuse("description", f"{DESCRIPTION} names another network than {GENESIS}")
    return genesis


def _config(reader: BackupReader, settings: Mapping[str, Any]) -> NodeConfig:
    return build_config({**_config_values(reader), **settings})


def _config_values(reader: BackupReader) -> dict[str, Any]:
    try:
        return tomllib.loads(reader.read(CONFIG, CONFIG_BYTES_MAX).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refuse("config", f"{CONFIG} in the backup is not TOML: {error}") from error


def _config_text(reader: BackupReader, settings: Mapping[str, Any], peers: Sequence[str]) -> bytes:
    """Return the settings with the validators as peers: a node under a new key finds nobody by itself."""
    values = {**_config_values(reader), **settings}
    if not values.get("peers") and peers:
        values["peers"] = list(peers)
    build_config(dict(values))
    # JSON's texts, numbers, booleans and arrays are TOML's too.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["# Restored from a backup. Every setting: docs/operations/node.md", *lines, ""]).encode()


def _key(
    reader: BackupReader, config: NodeConfig, new_key: PrivateKey, passphrase: bytes | None
) -> tuple[PrivateKey, bool]:
    """Return the key of the restored node: a host's own if it is there and can be opened; a validator's never."""
    if passphrase is None:
        return new_key, True
    if not reader.has(NODE_KEY):
        raise _refuse("no_key", "the backup holds no key", hint="leave the passphrase out: a new key is made")
    key = private_key_from_pem_untrusted(reader.read(NODE_KEY, PEM_BYTES_MAX), passphrase)
    if config.role == "validator":
        # Also one that the ledger does not name yet: it may have been named, and have voted, since.
        raise _validator_key()
    return key, False


def _check_key(view: StateView, key: PrivateKey) -> None:
    """Refuse a key that votes, or has voted, whatever the settings say: they can be changed afterwards."""
    configuration, key_id = view.configuration(), key.public_key.key_id
    is_known = (
        configuration.nodes.find(key_id) is not None
        or configuration.leaving.find(key_id) is not None
        or view.retired_validator(key_id) is not None
    )
    if is_known:
        raise _validator_key()


def _validator_key() -> BackupRefusedError:
    return _refuse(
        "validator_key",
        "a validator does not come back under its old key: nobody knows what it signed after the backup",
        hint="restore without the passphrase; the new key takes its place by `governance propose replace-validator`",
    )


def _restore_chain(  # noqa: PLR0917 - the parts of one restore
    reader: BackupReader,
    home: Home,
    genesis: Genesis,
    trust: Trust,
    description: BackupDescription,
    key: PrivateKey,
    config: NodeConfig,
    verifier: Verifier,
    report: Report,
) -> tuple[int, tuple[str, ...]]:
    """Make the data directory and the patch store; return how many transactions there are, and who may be asked for more."""
    store = Store.open(
        home.data,
        chain_id=genesis.chain_id,
        node_key_id=key.public_key.key_id,
        incarnation_file=home.incarnation if config.role == "validator" else None,
    )
    try:
        database = store.new_database()
        try:
            manifest = decode_manifest_untrusted(reader.read(SNAPSHOT_MANIFEST, SNAPSHOT_MANIFEST_BYTES_MAX))
            if reader.has(ARCHIVE):
                _replay(reader, database, genesis, verifier, report)
                _compare_state(database, manifest, report)
                _check_chunks(reader, manifest)
            else:
                _install(reader, database, genesis, manifest, report)
            _check_claims(reader, database, genesis, trust, description)
            _copy_patches(reader, home, database, report)
            view = StateView(database)
            _check_key(view, key)
            peers = tuple(
                with_peer_id_untrusted(each.address, each.public_key.raw)
                for each in view.validators().validators
                if each.address != config.listen and each.key_id != key.public_key.key_id
            )
            transactions = view.header.log_size
            store.switch(database)
        except BaseException:
            database.close()
            raise
    finally:
        store.close()
    return transactions, peers


def _replay(reader: BackupReader, database: Database, genesis: Genesis, verifier: Verifier, report: Report) -> None:
    """Execute every block of the archive into the database, and verify every signature and certificate in it.

    Raises:
        RejectedError: ``ledger.archive.*``, ``ledger.block.*``, ``ledger.proof.*``, ``wire.certificate.*``; ``node.restore.signature``.
    """
    filling = Filling(database)
    first, writes = genesis_block(genesis)
    filling.put(writes)
    filling.rows[TABLE_LOG_TERM, height_key(0)] = encode_log_term(0, first.block_hash)
    pending: deque[tuple[int, Callable[[], Sequence[bool]]]] = deque()
    height, block_hash, is_certified = 0, first.block_hash, False
    for item in _archived(reader):
        if isinstance(item, bytes):
            if decode_genesis_untrusted(item).genesis_hash != genesis.genesis_hash:
                raise _refuse("wrong_chain", f"{ARCHIVE} is of another network than {GENESIS}")
            continue
        block = decode_block_untrusted(item.block)
        decoded = [decode_transaction_untrusted(each) for each in block.transactions]
        jobs = signature_jobs(filling, decoded)
        pending.append((height + 1, verifier(jobs)))
        # Taken as signed for now: nothing of this appears before the verifier has answered.
        awaited = {job.leaf_hash for job in jobs}
        executed = execute_block(filling, block, now_ms=None, verified=awaited, decoded=decoded)
        filling.put(executed.writes)
        height, block_hash = executed.height, executed.block_hash
        filling.rows[TABLE_LOG_TERM, height_key(height)] = encode_log_term(block.header.term, block_hash)
        is_certified = item.certificate is not None
        if item.certificate is not None:
            certificate = decode_commit_certificate_untrusted(item.certificate)
            verify_block_certificate(certificate, block.header, StateView(filling).configuration())
            filling.rows[Table.CERTIFICATE, height_key(height)] = item.certificate
        while len(pending) > PENDING_BLOCKS_MAX:
            _settle(pending)
        filling.flush_if_large()
        report("blocks", height, 0)
    while pending:
        _settle(pending)
    if not is_certified:
        raise _refuse("not_certified", f"the last block of the backup, {height}, has no certificate")
    filling.rows[TABLE_LOG_TIP, ONLY_KEY] = encode_log_tip(height, block_hash, height, block_hash)
    filling.flush()


def _settle(pending: deque[tuple[int, Callable[[], Sequence[bool]]]]) -> None:
    height, wait = pending.popleft()
    results = wait()
    if not all(results):
        index = list(results).index(False)
        raise _refuse("signature", f"the signature of a transaction of block {height} does not hold", actual=index)


def _archived(reader: BackupReader) -> Iterator[bytes | ArchivedBlock]:
    """Yield the founding document, then every block of the archive."""
    decoder = ArchiveDecoder()
    with reader.open(ARCHIVE) as stream:
        while piece := stream.read(PIECE_BYTES):
            for item in decoder.feed_untrusted(piece):
                if isinstance(item, ArchivedGenesis):
                    yield item.document
                elif isinstance(item, ArchivedBlock):
                    yield item
    decoder.finish()


def _install(
    reader: BackupReader, database: Database, genesis: Genesis, manifest: SnapshotManifest, report: Report
) -> None:
    """Fill the database with the state of a backup without history."""
    filling = Filling(database)
    installer = SnapshotInstaller(manifest, genesis, filling)
    for number in range(len(manifest.chunk_digests)):
        filling.put(installer.feed_untrusted(_chunk(reader, number)))
        filling.flush_if_large()
        report("chunks of the state", number + 1, len(manifest.chunk_digests))
    filling.put(installer.finish())
    filling.rows.update(snapshot_log_rows(genesis, manifest))
    filling.flush()


def _check_chunks(reader: BackupReader, manifest: SnapshotManifest) -> None:
    """Refuse a backup that lacks a chunk of its state, or has another in its place."""
    for number, digest in enumerate(manifest.chunk_digests):
        if reader.digest(_chunk_name(reader, number)) != digest.hex():
            raise _refuse("state", f"chunk {number} of the state is not the one that the manifest names")


def _chunk(reader: BackupReader, number: int) -> bytes:
    return reader.read(_chunk_name(reader, number), SNAPSHOT_CHUNK_BYTES_MAX)


def _chunk_name(reader: BackupReader, number: int) -> str:
    name = f"{SNAPSHOT}/{chunk_name(number)}"
    if not reader.has(name):
        raise _refuse("state", f"{name} is missing in the backup")
    return name


def _compare_state(database: Database, manifest: SnapshotManifest, report: Report) -> None:
    """Refuse a backup whose blocks lead to another state than the one that it carries."""
    builder = SnapshotBuilder(database)
    for number, _ in enumerate(builder.chunks()):
        report("chunks of the state", number + 1, len(manifest.chunk_digests))
    if builder.manifest() != manifest:
        raise _refuse(
            "state", f"the state in the backup is not the one to which its blocks lead at height {builder.height}"
        )


def _check_claims(
    reader: BackupReader, database: Database, genesis: Genesis, trust: Trust, description: BackupDescription
) -> None:
    """Refuse a backup that says something else of itself than the chain in it does, or lacks the block that the operator trusts."""
    view = StateView(database)
    tip = view.tip
    stands = (tip.header.height, tip.block_hash.hex(), tip.header.state_root.hex(), tip.header.time_ms)
    says = (description.height, description.block_hash, description.state_root, description.time_ms)
    is_full = reader.has(ARCHIVE)
    is_counted = description.files == len(list(reader.names)) - 1
    if stands != says or (description.history == "full") is not is_full or not is_counted:
        raise _refuse(
            "description",
            f"{DESCRIPTION} says something else than the chain in the backup",
            expected=f"height {stands[0]}, block {stands[1]}",
            actual=f"height {says[0]}, block {says[1]}",
        )
    if view.genesis_hash != genesis.genesis_hash:
        raise _refuse("wrong_chain", "the state was founded on another document")
    checkpoint = checkpoint_from_text_untrusted(reader.read(CHECKPOINT, CHECKPOINT_BYTES_MAX))
    verify_checkpoint(checkpoint, TrustedHead.founding(genesis))
    if checkpoint.header != tip.header:
        raise _refuse(
            "checkpoint",
            f"{CHECKPOINT} is not that of the backup's last block",
            expected=f"height {tip.header.height}",
            actual=f"height {checkpoint.height}",
        )
    head = trust.checkpoint
    if head is not None and head.header is not None:
        verify_checkpoint(checkpoint, head)
        found = view.header_at(head.height)
        if found is not None and found.hash() != head.header.hash():
            raise _refuse(
                "fork",
                f"the backup has another block at height {head.height} than the checkpoint that is trusted",
                hint="keep both: `patchwarden audit blame` names who is guilty",
                expected=head.header.hash(),
                actual=found.hash(),
            )


def _copy_patches(reader: BackupReader, home: Home, database: Database, report: Report) -> None:
    """Copy the patch files, each of which the ledger names."""
    names = reader.patches
    home.patches.mkdir(mode=HOME_MODE)
    if not names:
        return
    unknown = set(names) - {each.file_digest.hex() for each in StateView(database).patches()}
    if unknown:
        raise _refuse(
            "unknown_patch", "the backup holds a patch file that the ledger does not name", actual=min(unknown)
        )
    for number, name in enumerate(names, 1):
        data = reader.read(f"{PATCHES}/{name}", PATCH_FILE_BYTES_MAX)
        if reader.digest(f"{PATCHES}/{name}") != name:
            raise _refuse("patch", f"patch file {name} is not what its name says")
        write_file(home.patches / name, data)
        report("patch files", number, len(names))


def _sync_tree(path: Path) -> None:
    """Make every name beneath `path` durable."""
    for directory, _, _ in os.walk(path):
        sync_directory(Path(directory))


def _refuse(
    rule: str, sentence: str, *, hint: str = "", expected: object = None, actual: object = None
) -> BackupRefusedError:
    return BackupRefusedError(f"node.restore.{rule}", sentence, hint=hint, expected=expected, actual=actual)


def _write_failed(place: Path, error: OSError) -> BackupUnavailableError:
    return BackupUnavailableError(
        "node.restore.write_failed",
        f"the home {place} cannot be written: {error.strerror or error}",
        hint="check the disk and its free space, then begin again",
    )
