"""Policy sets of the ledger, checked and parsed once each.

Source: docs/spec/policy.md 4.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from agent.errors import PolicyRefusedError
from agent.limits import POLICY_SETS_CACHED_MAX
from agent.policy import PolicyEngine
from agent.policy_text import check_policy_set
from ledger.records import PolicySet


class PolicyCache:
    """The engines of the policy sets used last, by their hash. Safe to use from several threads."""

    def __init__(self) -> None:
        self._engines: OrderedDict[bytes, PolicyEngine | PolicyRefusedError] = OrderedDict()
        self._lock = Lock()

    def get(self, policy: PolicySet) -> PolicyEngine:
        """Return the engine of a policy set. The first time it blocks for the life of a child process, about 0.1 s.

        Raises:
            PolicyRefusedError: As `check_policy_set`: the network adopted a set that cannot be evaluated, so everything is denied.
        """
        with self._lock:
            found = self._engines.get(policy.policy_hash)
            if found is None:
                found = self._load(policy)
                self._engines[policy.policy_hash] = found
                if len(self._engines) > POLICY_SETS_CACHED_MAX:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(policy.policy_hash)
        if isinstance(found, PolicyRefusedError):
            raise PolicyRefusedError(found.code, found.message, hint=found.hint, details=found.details)
        return found

    def _load(self, policy: PolicySet) -> PolicyEngine | PolicyRefusedError:
        try:
            return PolicyEngine(check_policy_set(policy.schema, policy.policies))
        except PolicyRefusedError as error:
            return error
