"""What the validators signed in one block, judged in two steps, so that the signatures can be checked elsewhere meanwhile.

First everything is judged as if every signature held, by the same functions that judge for real, with keys that write down what they are
asked and say yes. When the answers come and all are yes, that judgement stands. When one is no, the same functions judge again with the
keys themselves, and say what exactly does not hold.

Source: docs/spec/ledger.md 7.2, 7.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from ledger.block import ZERO_DIGEST, Block
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration
from ledger.state import Tip
from ledger.transaction import SignatureJob
from ledger.transition import validator_refusals
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Judgement:
    """What does not hold of what the validators signed."""

    refusals: tuple[RejectedError, ...]
    """Of proposer and election."""
    certificate: RejectedError | None
    """Of the certificate."""
    is_certified: bool
    """Whether there is a certificate that holds."""


@dataclass(frozen=True, slots=True)
class SignedBlock:
    """A block with what it takes to judge who signed it."""

    tip: Tip | None
    """The block before, as the chain says it; None where it could not be read, and proposer and election cannot be judged."""
    before: Configuration
    """Who may propose the block and be elected."""
    after: Configuration
    """Who certifies it."""
    block: Block
    """The block."""
    certificate: bytes | None
    """Its encoded commit certificate."""

    def judge(self) -> Judgement:
        """Return what does not hold; signatures are checked here and now."""
        return self._judge(self.before, self.after)

    def judge_later(self, recorder: SignatureRecorder) -> tuple[Judgement, list[SignatureJob]]:
        """Return what does not hold if all of the signature checks beside it hold."""
        judgement = self._judge(recorder.watch(self.before), recorder.watch(self.after))
        return judgement, recorder.take()

    def _judge(self, before: Configuration, after: Configuration) -> Judgement:
        refusals = () if self.tip is None else tuple(validator_refusals(self.tip, before, self.block))
        if self.certificate is None:
            return Judgement(refusals, None, is_certified=False)
        try:
            certificate = decode_commit_certificate_untrusted(self.certificate)
            verify_block_certificate(certificate, self.block.header, after)
        except RejectedError as error:
            return Judgement(refusals, error, is_certified=False)
        return Judgement(refusals, None, is_certified=True)


class SignatureRecorder:
    """Gives configurations whose keys write down the checks that they are asked for."""

    __slots__ = ("_jobs", "_watched")

    def __init__(self) -> None:
        self._jobs: list[SignatureJob] = []
        self._watched: dict[Digest, Configuration] = {}

    def watch(self, configuration: Configuration) -> Configuration:
        """Return the same configuration with such keys."""
        watched = self._watched.get(configuration.hash)
        if watched is None:
            watched = replace(configuration)
            keys = {key_id: _RecordedKey(key, self._jobs) for key_id, key in configuration.proposers.items()}
            # What a configuration derives once and keeps: here is what it finds kept.
            vars(watched).update(
                hash=configuration.hash,
                proposers=MappingProxyType(keys),
                quorums=tuple(
                    MappingProxyType({key_id: keys[key_id] for key_id in group}) for group in configuration.quorums
                ),
            )
            self._watched = {configuration.hash: watched, **dict(list(self._watched.items())[:1])}
        return watched

    def take(self) -> list[SignatureJob]:
        """Return what was written down since the last call."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs


class _RecordedKey(PublicKey):
    """A public key that says yes and writes down to what."""

    __slots__ = ("_jobs",)

    def __init__(self, key: PublicKey, jobs: list[SignatureJob]) -> None:
        super().__init__(key.algorithm, key.raw, key.spki, key.key_id)
        object.__setattr__(self, "_jobs", jobs)

    def is_valid(self, message: bytes, signature: bytes) -> bool:
        """Return True."""
        jobs: list[SignatureJob] = object.__getattribute__(self, "_jobs")
        jobs.append(SignatureJob(ZERO_DIGEST, self.spki, message, signature))
        return True
