"""Errors of the node's own rooms: storage, network, keys. Each belongs to one of the families of `wire.errors`.

A storage error is always of the corruption family: the node ends with exit code 4 and says which file or row is wrong. Network errors are
`UnavailableError` when a peer is away or slow, `RejectedError` when a peer's bytes break a rule.
"""

from __future__ import annotations

from wire.errors import CorruptionError, RejectedError, UnavailableError


class StorageError(CorruptionError):
    """The data directory holds something else than this node wrote (``node.storage.checksum``, ``node.storage.damaged``, …)."""


class StorageFailedError(CorruptionError):
    """A write or its sync failed (``node.storage.write_failed``): nothing after it may be trusted to be durable; the node stops."""


class StorageRefusedError(RejectedError):
    """This data directory is not ours to open (``node.storage.in_use``, ``node.storage.foreign_directory``, ``node.storage.wiped``)."""


class SnapshotUnavailableError(UnavailableError):
    """A snapshot cannot be made, fetched or kept at the moment (``node.snapshot.*``); the store is as it was."""


class BackupRefusedError(RejectedError):
    """A backup is not what a node wrote, does not hold, or may not go where it was asked to go (``node.backup.*``, ``node.restore.*``)."""


class BackupUnavailableError(UnavailableError):
    """A backup cannot be made, or restored, at the moment (``node.backup.*``, ``node.restore.*``); nothing has changed."""


class NotFoundError(RejectedError):
    """The thing asked for is not on this replica; the code is `node.<thing>.not_found`."""


class RecoveryRefusedError(RejectedError):
    """A recovery cannot be made, signed or applied here (``node.recovery.*``); nothing has changed."""


class KeyFileError(RejectedError):
    """A key file is missing, readable by others, or not a key (``node.key.*``)."""


class SignerError(RejectedError):
    """The program that should sign was not found, refused, or wrote something else than the signature (``node.signer.*``)."""


class SignerUnavailableError(UnavailableError):
    """The program that should sign did not answer in time (``node.signer.timeout``); nothing was signed."""


class AddressError(RejectedError):
    """A network address or PeerId is not one that we can use (``node.net.address``, ``node.net.peer_id``)."""


class PeerProtocolError(RejectedError):
    """A peer's bytes break the rules of docs/spec/network.md; its connection is cut (``node.net.protocol``)."""


class PeerUnavailableError(UnavailableError):
    """A peer cannot be reached, does not answer in time, or is busy (``node.net.unreachable``, ``node.net.timeout``, ``node.net.busy``)."""


class ListenError(UnavailableError):
    """We cannot listen on the configured address (``node.net.listen``)."""


class PeerRefusedError(RejectedError):
    """A peer proved a key that the ledger does not list as a node of this network (``node.net.not_a_member``)."""


def not_found(what: str, name: str, height: int) -> NotFoundError:
    """Return the error for a `what` of that name which a replica does not have at `height`."""
    return NotFoundError(
        f"node.{what}.not_found",
        f"there is no such {what} at height {height}: {name[:80]}",
        hint="this replica may be behind; compare its height with another node's",
    )


def find_leaves(error: BaseException) -> list[BaseException]:
    """Return every error of a group and of the groups in it; an error that is no group is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in find_leaves(inner)]
    return [error]
