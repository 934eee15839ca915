"""The simulator finds bugs: each of these is planted, and found within a few seeds. The table stands in docs/testing.md."""

from __future__ import annotations

import pytest

from tests.sim.errors import ViolationError
from tests.sim.mutants import MUTANTS, Mutant


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    found = mutant.hunt(mutant.first_seed)
    assert found is not None, mutant.what
    seed, error = found
    code = error.code if isinstance(error, ViolationError) else type(error).__name__
    assert code.startswith(mutant.codes), f"seed {seed}: {error}"
