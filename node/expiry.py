"""Says long before a certificate on the ledger expires, so that its successor is decided in time.

Nothing that a network needs to go on expires: keys are given up by governance, at a height. Certificates do expire, those of certificate
authorities and those with which identities were registered. Then nobody registers with a chain that leads to them, and agents refuse
patches that are published under them, until governance has added other authorities (`governance propose add-ca`) and people have
rotated their keys (`identity rotate-key --certificate`). Who is registered stays so, votes, and signs what needs no certificate.

Source: docs/spec/governance.md 7.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from ledger.records import REVOKED
from ledger.state import StateView
from node.telemetry import Metrics
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.x509 import anchor_untrusted, certificate_chain_untrusted

WARN_DAYS: Final = 90
"""Days before the end from which on each check warns."""
CHECK_S: Final = 24 * 3600.0
"""Between two checks; the first one is at the start."""
LOOK_S: Final = 10.0
"""An answer to whoever asks may be so old: a look reads every key of the ledger, and asking is free."""
NEVER_DAYS: Final = 36_500
"""What the metric says when no certificate is on the ledger."""
NAMED_MAX: Final = 10
"""Identities that one warning names; `governance certificates` lists all."""
_DAY_MS: Final = 24 * 3600 * 1000

AUTHORITY: Final = "authority"
IDENTITY: Final = "identity"

_log = structlog.get_logger("node.expiry")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate on the ledger that matters still, and when it ends."""

    kind: str
    """``authority``: a CA certificate of an organisation; ``identity``: the chain of a key that counts."""
    organisation: str
    """Whose it is."""
    identity: str | None
    """The identity that the key belongs to; None for an authority."""
    key_id: bytes | None
    """That key, 32 bytes; None for an authority."""
    subject: str
    """As RFC 4514 writes it; of a chain the leaf's."""
    sha256: bytes
    """SHA-256 of its DER form, of a chain of the leaf's, 32 bytes."""
    not_after_ms: int
    """Its end, milliseconds since epoch, UTC; of a chain the end of the first that ends."""

    def days_left(self, now_ms: int) -> int:
        """Return the whole days until it ends, less than 0 afterwards."""
        return (self.not_after_ms - now_ms) // _DAY_MS

    def document(self, now_ms: int) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "kind": self.kind,
            "organisation": self.organisation,
            "identity": self.identity,
            "key_id": None if self.key_id is None else self.key_id.hex(),
            "subject": self.subject,
            "sha256": self.sha256.hex(),
            "not_after_ms": self.not_after_ms,
            "days_left": self.days_left(now_ms),
        }


def find_certificates(view: StateView) -> Iterator[Certificate]:
    """Yield every CA certificate of the organisations, and the chain of every key that counts in the next block.

    Args:
        view: The ledger's state, at one height; it lists.
    """
    for organisation in view.organisations():
        for der in organisation.ca_certificates:
            try:
                anchor = anchor_untrusted(der)
            except RejectedError as error:
                _unreadable(error, organisation.name)
                continue
            yield Certificate(
                AUTHORITY, organisation.name, None, None, anchor.subject, sha256(der), anchor.not_after * 1000
            )
    for key in view.keys():  # noqa: SIM118 - a method of the view, which is no dictionary
        if not key.certificate_chain or not key.is_valid_at(view.height + 1):
            continue
        identity = view.identity(key.identity_id)
        if identity is None or identity.status == REVOKED:
            continue
        try:
            # Each issuer is read like a leaf: what is asked of it here is its end.
            chain = [certificate_chain_untrusted((der,)) for der in key.certificate_chain]
        except RejectedError as error:
            _unreadable(error, identity.organisation)
            continue
        end = min(each.not_after for each in chain)
        digest = sha256(key.certificate_chain[0])
        yield Certificate(
            IDENTITY, identity.organisation, identity.identity_id, key.key_id, chain[0].subject, digest, end * 1000
        )


def check_expiry(certificates: Sequence[Certificate], now_ms: int) -> int:
    """Warn about what ends soon or has ended; return the days until the first authority's certificate ends, less than 0 after it.

    Args:
        certificates: What `find_certificates` has found.
        now_ms: The wall clock.
    """
    least = NEVER_DAYS
    late: list[str] = []
    for each in certificates:
        days = each.days_left(now_ms)
        if each.kind == AUTHORITY:
            least = min(least, days)
        if days < WARN_DAYS:
            if each.identity is not None:
                late.append(f"{each.identity} ({days} days)")
                continue
            _log.warning(
                "a certificate authority's certificate has expired" if days < 0 else "a certificate expires soon",
                organisation=each.organisation,
                days_left=days,
                hint="decide about its successor: patchwarden governance propose add-ca",
            )
    if late:
        _log.warning(
            "certificates of identities expire soon or have expired",
            count=len(late),
            identities=late[:NAMED_MAX],
            hint="patchwarden governance certificates lists them; patchwarden identity rotate-key --certificate replaces one",
        )
    return least


class ExpiryWatch:
    """Looks at every certificate at once and then every `CHECK_S`.

    Args:
        find: Returns what is on the ledger now.
        now_ms: The wall clock.
        metrics: Where `certificate_days_left` and `certificates_expiring` are set.
        sleep: Returns after so many seconds.
    """

    def __init__(
        self,
        *,
        find: Callable[[], Awaitable[tuple[Certificate, ...]]],
        now_ms: Callable[[], int],
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._find = find
        self._now_ms = now_ms
        self._metrics = metrics
        self._sleep = sleep
        self._found: tuple[Certificate, ...] = ()
        self._looked_at = -math.inf
        self._looking = trio.Lock()

    async def look(self) -> tuple[Certificate, ...]:
        """Return the certificates that are on the ledger, or were at most `LOOK_S` ago, the one that ends first at the front."""
        async with self._looking:
            if trio.current_time() - self._looked_at >= LOOK_S:
                self._found = tuple(sorted(await self._find(), key=lambda each: (each.not_after_ms, each.sha256)))
                self._looked_at = trio.current_time()
        return self._found

    def document(self) -> dict[str, Any]:
        """Return for the status document how many ended by the last look or end soon, and in how many days the first does."""
        now_ms = self._now_ms()
        soon = [each for each in self._found if each.days_left(now_ms) < WARN_DAYS]
        return {"expiring": len(soon), "days_left": self._found[0].days_left(now_ms) if self._found else None}

    async def run(self) -> None:
        """Look and warn until cancelled.

        Source: docs/operations/node.md "Watching it".
        """
        while True:
            found = await self.look()
            now_ms = self._now_ms()
            self._metrics.certificate_days_left.set(check_expiry(found, now_ms))
            for kind in (AUTHORITY, IDENTITY):
                late = sum(each.kind == kind and each.days_left(now_ms) < WARN_DAYS for each in found)
                self._metrics.certificates_expiring.labels(kind).set(late)
            await self._sleep(CHECK_S)


def _unreadable(error: RejectedError, organisation: str) -> None:
    # It was read when it came; a library that reads less by now must not keep a node from running.
    _log.warning("a certificate on the ledger cannot be read", code=error.code, organisation=organisation)
