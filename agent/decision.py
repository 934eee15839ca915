"""A decision as a value: what policy said, why, on which facts, at which height, under which policy set; and how to judge it again.

Source: docs/spec/agent.md 4.3; docs/spec/policy.md 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Final

from agent.errors import PolicyRefusedError
from agent.facts import Facts, facts_from_json_untrusted
from agent.policy import PolicyEngine, Verdict
from wire import canonical_json
from wire.hashing import DIGEST_BYTES

DECISION_VERSION: Final = 2
ENGINE: Final = f"cedarpy {version('cedarpy')}"
"""The policy engine of this process. The lock pins it, so all nodes of one release have the same."""
_ENGINE_BYTES_MAX: Final = 64


class Answer(StrEnum):
    """What policy says."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy said about one patch on one target, with everything needed to judge it again."""

    verdict: Answer
    allowed_by: tuple[str, ...]
    """Names of the rules that permitted; empty when denied."""
    forbidden_by: tuple[tuple[str, str], ...]
    """(rule, reason) of everything that forbade; empty when allowed."""
    missing: tuple[str, ...]
    """What would have to be added, one sentence each."""
    set_aside: tuple[str, ...]
    """Attestations that do not count, each with its reason."""
    facts: Facts
    """What the rules saw."""
    height: int
    """Ledger height of identities, attestations and policy."""
    policy_version: int
    policy_hash: bytes
    """Hash of the policy set in force at that height, 32 bytes."""
    engine: str = ENGINE
    """Name and version of the policy engine that evaluated it."""

    @property
    def is_allowed(self) -> bool:
        """Whether the patch may be applied."""
        return self.verdict is Answer.ALLOW

    def sentence(self) -> str:
        """Return the decision in one sentence for people."""
        if self.is_allowed:
            return f"allowed by {', '.join(self.allowed_by)}"
        reasons = "; ".join(f"{rule}: {reason}" for rule, reason in self.forbidden_by)
        missing = f" ({'; '.join(self.missing)})" if self.missing else ""
        return f"forbidden by {reasons}{missing}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: what stands in an intent as canonical JSON."""
        return {
            "version": DECISION_VERSION,
            "verdict": self.verdict.value,
            "allowed_by": list(self.allowed_by),
            "forbidden_by": [[rule, reason] for rule, reason in self.forbidden_by],
            "missing": list(self.missing),
            "set_aside": list(self.set_aside),
            "facts": self.facts.to_json(),
            "height": self.height,
            "policy_version": self.policy_version,
            "policy_hash": self.policy_hash.hex(),
            "engine": self.engine,
        }


def make_decision(
    verdict: Verdict, facts: Facts, set_aside: tuple[str, ...], policy_version: int, policy_hash: bytes
) -> Decision:
    """Return the decision that `verdict` on `facts` is."""
    return Decision(
        verdict=Answer.ALLOW if verdict.allowed else Answer.DENY,
        allowed_by=verdict.allowed_by,
        forbidden_by=verdict.forbidden_by,
        missing=verdict.missing,
        set_aside=set_aside,
        facts=facts,
        height=facts.height,
        policy_version=policy_version,
        policy_hash=policy_hash,
    )


def decision_from_json_untrusted(document: object) -> Decision:
    """Return the decision that `document` holds, read from the ledger or a file.

    Raises:
        PolicyRefusedError: ``agent.policy.decision``, ``agent.policy.facts``.
    """
    try:
        if not isinstance(document, dict) or document["version"] != DECISION_VERSION:
            raise ValueError("not a decision of this version")
        policy_hash = bytes.fromhex(document["policy_hash"])
        if len(policy_hash) != DIGEST_BYTES:
            raise ValueError("policy_hash is not 32 bytes")
        facts = facts_from_json_untrusted(document["facts"])
        height, policy_version = document["height"], document["policy_version"]
        if height != facts.height or type(policy_version) is not int:
            raise ValueError("height or policy_version is not one")
        engine = document["engine"]
        if not isinstance(engine, str) or not 1 <= len(engine) <= _ENGINE_BYTES_MAX:
            raise ValueError("engine is not a name with a version")
        return Decision(
            verdict=Answer(document["verdict"]),
            allowed_by=_texts(document["allowed_by"]),
            forbidden_by=tuple((rule, reason) for rule, reason in map(_texts, document["forbidden_by"])),
            missing=_texts(document["missing"]),
            set_aside=_texts(document["set_aside"]),
            facts=facts,
            height=height,
            policy_version=policy_version,
            policy_hash=policy_hash,
            engine=engine,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyRefusedError("agent.policy.decision", f"the decision does not have its form: {error}") from error


def facts_alone(facts: Facts, count: int) -> Facts:
    """Return the facts as they are when a host goes on without the ledger's acknowledgement, for the `count`-th time in a row."""
    return replace(facts, system=replace(facts.system, unacknowledged_intents=count))


def latest_moment(facts: Facts, block_ms: int) -> int:
    """Return the latest time of the network's blocks, milliseconds, at which a decision can have been taken.

    Args:
        facts: Its facts.
        block_ms: The time of the block of its height.
    """
    return max(facts.now_ms, block_ms + facts.system.replica_age_ms)


def replay_decision_untrusted(raw: bytes, engine: PolicyEngine) -> tuple[Decision, Verdict]:
    """Return a recorded decision, and what the policy set of its height says about its facts today; they should agree.

    Args:
        raw: Canonical JSON, as an intent carries it.
        engine: The policy set whose hash the decision names.

    Raises:
        PolicyRefusedError: ``agent.policy.decision``, ``agent.policy.facts``.
        MalformedError: ``wire.json.*``.
    """
    decision = decision_from_json_untrusted(canonical_json.decode_untrusted(raw))
    return decision, engine.evaluate(decision.facts)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("a list of texts is not one")
    return tuple(value)
