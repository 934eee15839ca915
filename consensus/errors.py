"""What consensus refuses, by who must act. Codes begin with ``consensus.``."""

from __future__ import annotations

from wire.errors import CorruptionError, MalformedError, UnavailableError


class MalformedMessageError(MalformedError):
    """A message breaks a rule of its form (``consensus.message.*``): its sender must act."""


class ProposalRefusedError(UnavailableError):
    """A block cannot be proposed here and now; nothing was changed.

    Codes: ``consensus.not_leader``, ``consensus.stale_proposal``, ``consensus.window_full``, ``consensus.transferring``,
    ``consensus.configuration_busy``, ``consensus.configuration_unready``, ``consensus.leaving``.
    """


class TransferRefusedError(UnavailableError):
    """Leadership cannot be handed over here and now; nothing was changed.

    Codes: ``consensus.not_leader``, ``consensus.transfer.target``, ``consensus.transfer.nobody``.
    """


class StoredStateError(CorruptionError):
    """What was read from disk at the start contradicts itself (``consensus.stored.*``): this node must not vote."""
