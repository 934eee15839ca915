"""What happens when: rounds of one or two faults, drawn from a seed before anything runs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.kinds import KINDS

TWO_SHARE: Final = 0.25
"""How often two faults happen at once."""
HOLD_S: Final = (1.5, 7.0)
"""How long a round's faults last, from and to."""
REST_S: Final = (0.5, 3.0)
"""The pause after a round has healed, from and to."""


@dataclass(frozen=True, slots=True)
class Round:
    """Faults that begin together, last, and end in the opposite order."""

    number: int
    kinds: tuple[str, ...]
    hold_s: float
    rest_s: float
    seed: str
    """Seed of what the faults themselves draw."""

    def chance(self, index: int) -> random.Random:
        """Return the chance that the fault at `index` draws from."""
        return random.Random(f"{self.seed} {index}")


def draw_rounds(seed: int, kinds: Sequence[str]) -> Iterator[Round]:
    """Yield rounds without end; every kind comes before any comes twice, then they come by weight."""
    chance = random.Random(f"rounds {seed}")
    names = sorted(kinds)
    weights = [KINDS[name].weight for name in names]
    first = [*names]
    chance.shuffle(first)
    number = 0
    while True:
        number += 1
        chosen = [first.pop() if first else chance.choices(names, weights)[0]]
        if chance.random() < TWO_SHARE:
            second = chance.choices(names, weights)[0]
            if second != chosen[0]:
                chosen.append(second)
        yield Round(
            number,
            tuple(chosen),
            chance.uniform(*HOLD_S),
            chance.uniform(*REST_S),
            f"{seed} {number}",
        )
