"""A backup as a directory: which files it may have, how they are written, and how they are checked before anybody believes them.

::

    SHA256SUMS          one line "<64 hexadecimal digits>  <name>" for every other file, in order of name; `sha256sum -c` reads it
    backup.json         what it is a backup of, RFC 8785
    genesis.json        the founding document
    config.toml         the node's settings
    checkpoint.txt      the certified header at which it stands
    chain.archive       every block with its certificate (docs/spec/ledger.md 12); missing where the node had forgotten the oldest
    snapshot/manifest, snapshot/00000.chunk, …      the state at that height (docs/spec/ledger.md 15)
    patches/<SHA-256>   patch files
    node.key            the node's key, encrypted; only when asked for

It is written under another name and renamed when every byte is durable: a directory under the name that was asked for is whole.

Source: docs/spec/storage.md 9.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, Self

from node.errors import BackupRefusedError, BackupUnavailableError
from node.storage.leveldb import SPACE_RESERVE_BYTES, sync_directory
from wire import canonical_json
from wire.errors import RejectedError

SUMS: Final = "SHA256SUMS"
DESCRIPTION: Final = "backup.json"
GENESIS: Final = "genesis.json"
CONFIG: Final = "config.toml"
CHECKPOINT: Final = "checkpoint.txt"
ARCHIVE: Final = "chain.archive"
SNAPSHOT: Final = "snapshot"
SNAPSHOT_MANIFEST: Final = "snapshot/manifest"
PATCHES: Final = "patches"
NODE_KEY: Final = "node.key"
NAME: Final = re.compile(
    r"backup\.json|genesis\.json|config\.toml|checkpoint\.txt|chain\.archive|node\.key"
    r"|snapshot/manifest|snapshot/[0-9]{5}\.chunk|patches/[0-9a-f]{64}"
)
"""Every name that a file of a backup may have. None of them can leave the directory."""
ALWAYS: Final = frozenset({DESCRIPTION, GENESIS, CONFIG, CHECKPOINT, SNAPSHOT_MANIFEST})
"""Files that every backup has."""
FILES_MAX: Final = 1_000_000
"""Files in one backup."""
VERSION: Final = 1
PIECE_BYTES: Final = 1024 * 1024
"""Read and written at once."""

_LINE: Final = re.compile(r"([0-9a-f]{64})  ([ -~]{1,128})\n")
_LINE_BYTES_MAX: Final = 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MEMBERS: Final = frozenset(
    {
        "version", "chain_id", "genesis_hash", "height", "block_hash", "state_root", "time_ms", "history", "name", "role",
        "software", "files",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackupDescription:
    """What a backup says of itself; nothing of it is believed before the chain in it has shown it."""

    chain_id: str
    """The network."""
    genesis_hash: str
    """Hash of the founding document, 64 hexadecimal digits."""
    height: int
    """The certified height at which it stands."""
    block_hash: str
    """Hash of the block at that height, 64 hexadecimal digits."""
    state_root: str
    """The state root after that block, 64 hexadecimal digits."""
    time_ms: int
    """That block's time, milliseconds since epoch, UTC."""
    history: str
    """``full``: all blocks are in it; ``snapshot``: the state alone, because the node had forgotten the oldest blocks."""
    name: str
    """The node's name."""
    role: str
    """The node's role."""
    software: str
    """The release that wrote it."""
    files: int
    """How many files it has besides this one and ``SHA256SUMS``."""

    def encode(self) -> bytes:
        """Return the one form of ``backup.json``."""
        members = {name: getattr(self, name) for name in self.__slots__}
        return canonical_json.encode({"version": VERSION, **members})

    @classmethod
    def decode_untrusted(cls, data: bytes) -> BackupDescription:
        """Return what ``backup.json`` says.

        Raises:
            BackupRefusedError: ``node.backup.malformed``.
        """
        try:
            value = canonical_json.decode_untrusted(data)
        except RejectedError as error:
            raise refuse("malformed", f"{DESCRIPTION} cannot be read: {error.message}") from error
        if not isinstance(value, dict) or set(value) != _MEMBERS or value["version"] != VERSION:
            raise refuse("malformed", f"{DESCRIPTION} is not that of a backup of version {VERSION}")
        for name in ("height", "time_ms", "files"):
            number = value[name]
            if type(number) is not int or number < 0:
                raise refuse("malformed", f"{DESCRIPTION}: {name} is no count", actual=number)
        for name in ("chain_id", "name", "role", "software"):
            if not isinstance(value[name], str):
                raise refuse("malformed", f"{DESCRIPTION}: {name} is no text")
        for name in ("genesis_hash", "block_hash", "state_root"):
            digest = value[name]
            if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
                raise refuse("malformed", f"{DESCRIPTION}: {name} is no digest")
        if value["history"] not in ("full", "snapshot"):
            raise refuse("malformed", f"{DESCRIPTION}: history is neither full nor snapshot")
        return cls(**{name: value[name] for name in cls.__slots__})  # type: ignore[arg-type]


class BackupWriter:
    """A backup that is being written; it appears when `finish` returns.

    Args:
        target: Where it appears. Nothing may be there yet.

    Raises:
        BackupRefusedError: ``node.backup.exists``, ``node.backup.no_directory``.
        BackupUnavailableError: ``node.backup.write_failed``.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._part = target.with_name(f".{target.name}.part")
        self._sums: dict[str, str] = {}
        self.bytes_written = 0
        """Bytes of all files so far."""
        if target.exists() or target.is_symlink():
            raise refuse("exists", f"{target} exists and is not overwritten", hint="choose another name for the backup")
        if not target.parent.is_dir():
            raise refuse("no_directory", f"there is no directory {target.parent}", hint="make it first")
        try:
            self._directory = WorkDirectory(self._part)
            for each in (SNAPSHOT, PATCHES):
                (self._part / each).mkdir(mode=0o700)
        except OSError as error:
            raise self._failed(error) from error

    @property
    def files(self) -> int:
        """How many files are written."""
        return len(self._sums)

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file durably.

        Raises:
            BackupUnavailableError: ``node.backup.write_failed``, ``node.backup.no_space``.
        """
        with self.open(name) as file:
            file.write(data)

    def open(self, name: str) -> BackupFile:
        """Return a new file, to be written in pieces; it belongs to the backup when it is closed."""
        assert NAME.fullmatch(name), name
        return BackupFile(self, name, self._part / name)

    def check_space(self) -> None:
        """Return only while the disk has more than the reserve: a backup must not stop the node beside it.

        Raises:
            BackupUnavailableError: ``node.backup.no_space``.
        """
        status = os.statvfs(self._part)
        free = status.f_bavail * status.f_frsize
        if free <= SPACE_RESERVE_BYTES:
            raise BackupUnavailableError(
                "node.backup.no_space",
                f"the disk of {self.target.parent} has no room left for a backup",
                hint="write it to another disk",
                expected=f"more than {SPACE_RESERVE_BYTES} bytes free",
                actual=free,
            )

    def finish(self) -> None:
        """Make the backup appear, whole and durable.

        Raises:
            BackupRefusedError: ``node.backup.exists``: something has come to be there meanwhile.
            BackupUnavailableError: ``node.backup.write_failed``.
        """
        try:
            with (self._part / SUMS).open("wb") as stream:
                for name in sorted(self._sums):
                    stream.write(f"{self._sums[name]}  {name}\n".encode())
                stream.flush()
                os.fsync(stream.fileno())
            for each in (SNAPSHOT, PATCHES):
                sync_directory(self._part / each)
            if self.target.exists():
                raise refuse("exists", f"{self.target} has come to be there meanwhile")
            self._directory.rename(self.target)
        except OSError as error:
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Remove what was written; does nothing after `finish`."""
        self._directory.remove()

    def _note(self, name: str, digest: str) -> None:
        self._sums[name] = digest

    def _failed(self, error: OSError) -> BackupUnavailableError:
        return BackupUnavailableError(
            "node.backup.write_failed",
            f"writing the backup {self.target} failed: {error.strerror or error}",
            hint="check the disk and its free space, then begin again",
        )


class BackupFile:
    """One file of a backup, while it is written. Use it in a ``with``."""

    def __init__(self, writer: BackupWriter, name: str, path: Path) -> None:
        self._writer = writer
        self._name = name
        self._path = path
        self._hash = sha256()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Make the file."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._writer._failed(error) from error
        self._stream = open(descriptor, "wb")
        return self

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        assert self._stream is not None, "the file is open"
        self._writer.check_space()
        try:
            self._stream.write(data)
        except OSError as error:
            raise self._writer._failed(error) from error
        self._hash.update(data)
        self._writer.bytes_written += len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Make the file durable, unless an error left it half written."""
        assert self._stream is not None, "the file is open"
        try:
            with self._stream as stream:
                if kind is None:
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError as failure:
            raise self._writer._failed(failure) from failure
        if kind is None:
            self._writer._note(self._name, self._hash.hexdigest())


class BackupReader:
    """A backup from anybody whose form is right and whose every byte is the one that ``SHA256SUMS`` names.

    What the files *say* is not checked here: that is `node.restore`.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sums = _read_sums(path)
        self._check_names()

    @property
    def names(self) -> Iterator[str]:
        """The names of the files, in order."""
        return iter(self._sums)

    @property
    def patches(self) -> list[str]:
        """The SHA-256 of each patch file, 64 hexadecimal digits."""
        return [name.removeprefix(f"{PATCHES}/") for name in self._sums if name.startswith(f"{PATCHES}/")]

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return name in self._sums

    def digest(self, name: str) -> str:
        """Return the SHA-256 that a file has, 64 hexadecimal digits."""
        return self._sums[name]

    def check_sums(self) -> Iterator[int]:
        """Read every file and compare its checksum, yielding how many bytes were read so far after each piece.

        Raises:
            BackupRefusedError: ``node.backup.checksum``, ``node.backup.missing``, ``node.backup.not_a_file``.
        """
        done = 0
        for name, expected in self._sums.items():
            digest = sha256()
            with self.open(name) as stream:
                while piece := stream.read(PIECE_BYTES):
                    digest.update(piece)
                    done += len(piece)
                    yield done
            if digest.hexdigest() != expected:
                raise refuse(
                    "checksum",
                    f"{name} is not the file that was written",
                    hint="copy the backup again, or take another one",
                    expected=expected,
                    actual=digest.hexdigest(),
                )

    def open(self, name: str) -> BinaryIO:
        """Return a file, open for reading; symbolic links are not followed.

        Raises:
            BackupRefusedError: ``node.backup.missing``, ``node.backup.not_a_file``.
        """
        assert NAME.fullmatch(name), name
        return _open(self.path, name)

    def read(self, name: str, bytes_max: int) -> bytes:
        """Return the whole content of a small file, compared with its checksum again: it may have changed since.

        Raises:
            BackupRefusedError: ``node.backup.missing``, ``node.backup.too_large``, ``node.backup.checksum``.
        """
        with self.open(name) as stream:
            data = stream.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise refuse("too_large", f"{name} is too long", expected=f"at most {bytes_max} bytes")
        if sha256(data).hexdigest() != self._sums[name]:
            raise refuse("checksum", f"{name} is not the file that was written", expected=self._sums[name])
        return data

    @property
    def bytes_total(self) -> int:
        """Bytes of all files."""
        return sum((self.path / name).lstat().st_size for name in self._sums if (self.path / name).exists())

    def _check_names(self) -> None:
        missing = sorted(ALWAYS - self._sums.keys())
        if missing:
            raise refuse("missing", f"{missing[0]} is missing in the backup", hint="copy the whole directory")
        for entry in sorted(self.path.rglob("*")):
            name = entry.relative_to(self.path).as_posix()
            if entry.is_dir() and not entry.is_symlink() and name in (SNAPSHOT, PATCHES):
                continue
            if name != SUMS and name not in self._sums:
                raise refuse("unlisted", f"{name} is not a file of the backup", actual=name)


def _read_sums(path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    last = ""
    with _open(path, SUMS) as stream:
        while raw := stream.readline(_LINE_BYTES_MAX):
            line = _LINE.fullmatch(raw.decode("ascii", "replace"))
            if line is None:
                raise refuse("malformed", f"line {len(sums) + 1} of {SUMS} is not a checksum and a name")
            digest, name = line[1], line[2]
            if NAME.fullmatch(name) is None:
                raise refuse("name", "the backup names a file that no backup has", actual=name)
            if name <= last or len(sums) == FILES_MAX:
                raise refuse("malformed", f"the names in {SUMS} do not ascend, or there are too many", actual=name)
            sums[name], last = digest, name
    return sums


def _open(path: Path, name: str) -> BinaryIO:
    try:
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise refuse("missing", f"{name} is missing in the backup", hint="copy the whole directory") from None
    except OSError as error:
        raise refuse("not_a_file", f"{name} in the backup cannot be read: {error.strerror}") from error
    stream = open(descriptor, "rb")  # noqa: SIM115 - the caller's
    if not _is_regular(descriptor):
        stream.close()
        raise refuse("not_a_file", f"{name} in the backup is not a regular file")
    return stream


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


class WorkDirectory:
    """A directory beside the one that it becomes, locked for as long as somebody fills it; what a killed process left is removed.

    Args:
        path: Where; its parent exists.

    Raises:
        BackupUnavailableError: ``node.backup.busy``: another process fills it.
        OSError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_symlink():
            path.unlink()
        if path.exists():
            descriptor = self._lock()
            shutil.rmtree(path)
            os.close(descriptor)
        path.mkdir(mode=0o700)
        self._descriptor = self._lock()

    def rename(self, target: Path) -> None:
        """Let the directory be at `target` from now on, durably; nothing or an empty directory may be there. Raises `OSError`."""
        sync_directory(self.path)
        self.path.rename(target)
        sync_directory(target.parent)
        self.close()

    def remove(self) -> None:
        """Remove the directory, unless it was renamed."""
        if self._descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            self.close()

    def close(self) -> None:
        """Give up the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise BackupUnavailableError(
                "node.backup.busy", f"another process writes {self.path}", hint="wait until it is done"
            ) from error
        return descriptor


def refuse(
    rule: str, sentence: str, *, hint: str = "", expected: object = None, actual: object = None
) -> BackupRefusedError:
    """Return the refusal ``node.backup.<rule>``."""
    return BackupRefusedError(f"node.backup.{rule}", sentence, hint=hint, expected=expected, actual=actual)
