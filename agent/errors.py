"""Why the agent refuses or cannot act, by who must do something about it.

==========================  ===========================  ==============================================================
class                       result code                  codes
==========================  ===========================  ==============================================================
``ReplicaStaleError``       ``ERROR_STALE_REPLICA``      ``agent.replica.*``
``DeveloperRefusedError``   ``ERROR_INVALID_DEVELOPER``  ``agent.developer.*``
``MetadataRefusedError``    ``ERROR_INVALID_METADATA``   ``agent.metadata.*``
``PolicyRefusedError``      none: the text is refused    ``agent.policy.*``
``TargetRefusedError``      ``ERROR_APPLY_FAILED``       ``agent.target.*``: what the target is, or how it is described
``ApplyRefusedError``       ``ERROR_APPLY_FAILED``       ``agent.apply.*``: the patch does not fit the target
``ApplyFailedError``        ``ERROR_APPLY_FAILED``       ``agent.apply.*``: the host could not do it (disk full, …)
``SplitViewRefusedError``   none: the order is refused   ``agent.split_view.*``
``OutboxError``             ``ERROR_LEDGER_UNAVAILABLE``  ``agent.outbox.*``, ``agent.ledger.*``
``InboxError``              none: the file waits         ``agent.inbox.*``
``StateWriteError``         ``ERROR_APPLY_FAILED``       ``agent.state.write``: the agent's own files cannot be written
``StateCorruptError``       none: the agent stops        ``agent.state.*``
==========================  ===========================  ==============================================================
"""

from __future__ import annotations

from wire.errors import CorruptionError, RejectedError, UnavailableError


class ReplicaStaleError(UnavailableError):
    """The local replica is too old, or older than what this host has already acted on: decide nothing on it."""


class DeveloperRefusedError(RejectedError):
    """The author is not somebody whose patches this network accepts now."""


class MetadataRefusedError(RejectedError):
    """The signed metadata disagrees with the ledger or with the state of the target."""


class PolicyRefusedError(RejectedError):
    """A policy set is not one that can be evaluated safely."""


class TargetRefusedError(RejectedError):
    """The target is not described, or is not a tree that can be switched without losing something."""


class SplitViewRefusedError(RejectedError):
    """What an operator says about a split view cannot be kept."""


class ApplyRefusedError(RejectedError):
    """The patch cannot be applied to this tree without changing something that it does not name; nothing was changed."""


class ApplyFailedError(UnavailableError):
    """The host could not carry the application out; the target is as it was."""


class OutboxError(UnavailableError):
    """A record could not be put on the ledger yet."""


class InboxError(UnavailableError):
    """The inbox, or a file in it, cannot be used; nothing was done with it."""


class StateWriteError(UnavailableError):
    """The agent's own files could not be written; whatever is open stays open until it can be recovered."""


class StateCorruptError(CorruptionError):
    """A file of the agent's own state is not what the agent wrote."""
