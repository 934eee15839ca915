"""The seeds that every run of the tests plays: a small fixed set, and every seed that ever failed."""

from __future__ import annotations

from typing import Final

FAILED: Final[dict[int, str]] = {}
"""Seeds that failed once, with what they found."""

FIXED: Final = (*range(1, 21), *FAILED)
