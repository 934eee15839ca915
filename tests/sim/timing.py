"""How long things of `node.app` take, which the simulator puts together itself."""

from __future__ import annotations

LINEARIZABLE_TIMEOUT_S = 3.0
"""As `node.app.LINEARIZABLE_TIMEOUT_S`, without libp2p behind it."""
DRAIN_TIMEOUT_S = 2.0
"""As `node.app.DRAIN_TIMEOUT_S`."""
