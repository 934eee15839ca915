"""Limits that the core and the gateway process share."""

from __future__ import annotations

from typing import Final

SUBMIT_TRANSACTIONS_MAX: Final = 1000
"""Transactions in one submission."""
PAGE_MAX: Final = 500
"""Items in one listing."""
PAGE_DEFAULT: Final = 50
"""Items in one listing unless the request says otherwise."""
WAIT_TIMEOUT_MS_MAX: Final = 120_000
"""The longest that a submission may wait for its blocks."""
