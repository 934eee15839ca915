"""Damage by a seed: the same seed makes the same inputs on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tests.fuzz.target import Target

INTERESTING = (0x00, 0x01, 0x0A, 0x20, 0x22, 0x2D, 0x7F, 0x80, 0x90, 0xC0, 0xC4, 0xDC, 0xFF)
"""Bytes that mean something to one of the formats."""


def mutated(chance: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes], longest: int) -> bytes:
    """Return the input after one to eight changes: bits, bytes, pieces moved, repeated, dropped, or taken from another input."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        begin = chance.randrange(len(changed) + 1)
        end = min(len(changed), begin + chance.choice((0, 1, 2, 4, 16, 64, 256)))
        match chance.randrange(9):
            case 0 if begin < len(changed):
                changed[begin] ^= 1 << chance.randrange(8)
            case 1 if begin < len(changed):
                changed[begin] = chance.choice(INTERESTING)
            case 2:
                del changed[begin:end]
            case 3:
                changed[begin:end] = changed[begin:end] * chance.choice((2, 3, 50, 2000))
            case 4:
                changed[begin:end] = chance.randbytes(chance.randrange(9))
            case 5 if others:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                changed[begin:end] = other[start : start + chance.choice((1, 8, 64, 512))]
            case 6 if words:
                changed[begin:end] = chance.choice(words)
            case 7:
                piece = bytes(changed[begin:end])
                del changed[begin:end]
                place = chance.randrange(len(changed) + 1)
                changed[place:place] = piece
            case _:
                del changed[begin:]
        del changed[longest:]
    return bytes(changed)


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Give the target's seeds, its kept inputs, and `short_inputs` damaged ones."""
    good = [*target.seeds(), *target.committed()]
    yield from good
    chance = random.Random(f"{target.name} {seed}")
    for _ in range(target.short_inputs):
        yield mutated(chance, chance.choice(good or [b""]), good, target.words, target.input_bytes_max)
