"""What the node tells its agent.

Source: docs/spec/agent.md 2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.limits import (
    DRIFT_FULL_INTERVAL_SECONDS,
    DRIFT_INTERVAL_SECONDS,
    INTENT_WAIT_SECONDS_MAX,
    OUTCOME_WAIT_SECONDS_MAX,
    REPLICA_AGE_MS_MAX,
    TURNS_INTERVAL_SECONDS,
)
from ledger.limits import NOT_AFTER_WINDOW_MAX
from wire.keys import PrivateKey

AGENT_DIRECTORY: Final = "agent"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The settings of one agent."""

    home: Path
    """The node's home; the agent keeps everything in ``agent/`` below it."""
    identity_id: str
    """The host's identity on the ledger, such as `web1@acme`; it holds the role `host`."""
    key: PrivateKey
    """The key of that identity: signs intents, outcomes and reports."""
    host_group: str = ""
    """Group of hosts that policy may ask for, such as `canary`; "" for none."""
    replica_age_ms_max: int = REPLICA_AGE_MS_MAX
    """Oldest replica to decide on, milliseconds."""
    intent_wait_s: float = INTENT_WAIT_SECONDS_MAX
    """How long an application waits for its intent to be committed, seconds."""
    outcome_wait_s: float = OUTCOME_WAIT_SECONDS_MAX
    """How long a caller waits for the outcome to be committed before it goes on waiting in the outbox, seconds."""
    drift_interval_s: float = DRIFT_INTERVAL_SECONDS
    """How often every target is compared with its record, seconds."""
    drift_full_interval_s: float = DRIFT_FULL_INTERVAL_SECONDS
    """How often every file is read for that, whatever its status says, seconds."""
    turns_interval_s: float | None = TURNS_INTERVAL_SECONDS
    """How often the host looks whether a rollout has come to it, seconds; None when it takes no part in rollouts."""
    unacknowledged_intents_max: int = 0
    """How many changes this host may carry out before the ledger has their intents, where policy allows it too; 0 waits for each."""
    not_after_window: int = NOT_AFTER_WINDOW_MAX // 2
    """Heights for which a record stays executable before it has to be signed again."""

    @property
    def directory(self) -> str:
        """Absolute path of the agent's directory."""
        return os.path.join(os.path.abspath(self.home), AGENT_DIRECTORY)
