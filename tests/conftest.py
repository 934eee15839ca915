"""What holds for every test: how hypothesis runs, and where a test may write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.testkit")

# No deadline: machines that share their cores switch between full and half speed, and a slow example is not a wrong one.
# A failing example prints the decorator that replays it.
settings.register_profile("patchwarden", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("patchwarden"), max_examples=2_000)
settings.load_profile("patchwarden")


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """Return the checkout's root folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the developer's own node home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHWARDEN_HOME", str(tmp_path_factory.mktemp("patchwarden-home")))
        yield


@pytest.fixture(autouse=True)
def _own_logging() -> None:
    """Let no test inherit what another one has told structlog: a level left behind hides the warnings that a test looks for."""
    structlog.reset_defaults()
