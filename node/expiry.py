"""Says long before a certificate of an organisation expires, so that its successor is decided in time.

Nothing that a network needs to go on expires: keys are given up by governance, at a height. Certificates of certificate authorities do
expire, and then nobody registers with a chain that leads to them until governance has added others (`governance propose
add-ca`). Who is registered stays so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ledger.state import StateView
from node.telemetry import Metrics
from wire.errors import RejectedError
from wire.x509 import anchor_untrusted

WARN_DAYS: Final = 90
"""Days before the end from which on each check warns."""
CHECK_S: Final = 24 * 3600.0
"""Between two checks; the first one is at the start."""
NEVER_DAYS: Final = 36_500
"""What the metric says when no certificate is on the ledger."""
_DAY_MS: Final = 24 * 3600 * 1000

_log = structlog.get_logger("node.expiry")


def check_expiry(view: StateView, now_ms: int) -> int:
    """Warn about each certificate that ends soon or has ended; return the days until the first one ends, less than 0 after it.

    Args:
        view: The ledger's state.
        now_ms: The wall clock.
    """
    least = NEVER_DAYS
    for organisation in view.organisations():
        for certificate in organisation.ca_certificates:
            try:
                end_ms = anchor_untrusted(certificate).not_after * 1000
            except RejectedError as error:
                # It was read when it came; a library that reads less by now must not keep a node from running.
                _log.warning(
                    "a certificate of an organisation cannot be read", code=error.code, organisation=organisation.name
                )
                continue
            days = (end_ms - now_ms) // _DAY_MS
            least = min(least, days)
            if days < WARN_DAYS:
                _log.warning(
                    "a certificate authority's certificate has expired" if days < 0 else "a certificate expires soon",
                    organisation=organisation.name,
                    days_left=days,
                    hint="decide about its successor: patchwarden governance propose add-ca",
                )
    return least


async def watch_expiry(
    *,
    view: Callable[[], StateView],
    now_ms: Callable[[], int],
    metrics: Metrics,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Check at once and then every `CHECK_S`, until cancelled.

    Args:
        view: Returns the ledger's latest state.
        now_ms: The wall clock.
        metrics: Where `certificate_days_left` is set.
        sleep: Returns after so many seconds.

    Source: docs/operations/node.md "Watching it".
    """
    while True:
        metrics.certificate_days_left.set(check_expiry(view(), now_ms()))
        await sleep(CHECK_S)
