"""The limits of the HTTP interface. Every one can be reached by a stranger, so every one has a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wire.limits import PATCH_FILE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What one gateway takes upon itself; sizes in bytes, times in seconds."""

    body_bytes_max: int = 16 * 1024 * 1024
    """One request's body: a full batch of transactions in base64 inside JSON."""
    patch_body_bytes_max: int = PATCH_FILE_BYTES_MAX
    """The body of a patch file's PUT, which is the file itself. It goes to the disk piece by piece and is held nowhere."""
    uploads_max: int = 8
    """Patch files that may be arriving at once and are not here yet; the next one gets 503 with Retry-After."""
    bodies_bytes_max: int = 128 * 1024 * 1024
    """The bodies of all requests that are being answered together, patch files excepted; what goes beyond gets 503 with Retry-After."""
    requests_in_flight_max: int = 256
    """Requests that are being answered; the next one gets 503 with Retry-After."""
    streams_max: int = 64
    """Open event streams; the next one gets 503."""
    request_timeout_s: float = 130.0
    """From a request's first byte to its answer's last, event streams excepted; above the longest wait for a commit."""
    body_timeout_s: float = 30.0
    """How long the body of one request may take to arrive."""
    keep_alive_s: int = 15
    """How long a connection is kept idle after an answer."""
    header_timeout_s: float = 20.0
    """From a connection's opening, or its last answer, to the next request's whole header; above `keep_alive_s`."""
    header_bytes_max: int = 16 * 1024
    """The request line and all headers."""
    connections_max: int = 1024
    """Open connections; what one more asks is answered with 503 and Retry-After, and the connection closed."""


DEFAULT_LIMITS: Final = GatewayLimits()
RETRY_AFTER_S: Final = 1
"""What an overloaded gateway asks its clients to wait."""
EVENT_KEEP_ALIVE_S: Final = 15.0
"""A quiet event stream sends a comment this often, so that both ends notice when the other has gone."""
