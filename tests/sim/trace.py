"""What happened in a run: every event goes into the hash, the telling ones into the story.

Two runs of one seed have the same hash, or something in them was chance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256

DETAILS_MAX = 200
"""Events of every kind that a failure shows before its end."""


class Trace:
    """The events of one run.

    Args:
        now: The simulated time, seconds.
        is_verbose: Whether the story holds every event.
        echo: Called with each line of the story.
    """

    def __init__(
        self, now: Callable[[], float], *, is_verbose: bool = False, echo: Callable[[str], None] | None = None
    ):
        self._now = now
        self._is_verbose = is_verbose
        self._echo = echo
        self._hash = sha256()
        self.events = 0
        self.story: list[str] = []
        self.details: deque[str] = deque(maxlen=DETAILS_MAX)

    def tell(self, who: str, what: str) -> None:
        """Take down something that a reader of the story wants to know."""
        self._add(who, what, is_story=True)

    def note(self, who: str, what: str) -> None:
        """Take down one of the many small events."""
        self._add(who, what, is_story=self._is_verbose)

    @property
    def digest(self) -> str:
        """The hash of everything so far, hexadecimal."""
        return self._hash.hexdigest()

    def _add(self, who: str, what: str, *, is_story: bool) -> None:
        line = f"{self._now():10.4f}  {who:<8} {what}"
        self.events += 1
        self._hash.update(line.encode() + b"\n")
        self.details.append(line)
        if is_story:
            self.story.append(line)
            if self._echo is not None:
                self._echo(line)
