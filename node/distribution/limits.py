"""Limits of patch files on a node that its settings may change; light to import."""

from __future__ import annotations

from typing import Final

VALIDATOR_PLACES: Final = 2
"""Peers to whom a validator gives one file in an hour, as long as it can name one of them to the next."""
HOST_PLACES: Final = 6
"""Peers that may take one file from a host at a time."""
STORE_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
"""All patch files of one node together."""
