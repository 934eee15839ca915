"""Facts of an ordinary patch on an ordinary target: what every policy set must evaluate without an error before it is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agent.facts import (
    AttestorFacts,
    AuthorFacts,
    ComponentFacts,
    EmergencyFacts,
    Facts,
    FindingFacts,
    PatchFacts,
    Requester,
    RolloutFacts,
    StatementFacts,
    SystemFacts,
)
from provenance.predicates import PREDICATE_SVR, PREDICATE_VULNS

SAMPLE_FACTS: Final = Facts(
    now_ms=1_795_330_200_000,
    height=1234,
    author=AuthorFacts("alice@acme", "acme", ("developer",)),
    patch=PatchFacts(
        id="1f" * 32,
        created_ms=1_795_244_000_000,
        category="security-update",
        references=("CVE-2026-0001",),
        release_counter=7,
        supersedes=(),
        prerequisites=(),
        files=1,
        lines_added=3,
        lines_removed=1,
        environment_digest="2e" * 32,
        tests_digest="3d" * 32,
        tests_count=12,
        sealed=True,
        attestations_damaged=0,
        hidden_text=(),
    ),
    components=(ComponentFacts("pkg:deb/debian/foo@1.2", ("src/frame.c",), ("modify",), True, 6),),
    approvals=(
        AttestorFacts("bob@beta", "beta", "security-review", 1200),
        AttestorFacts("carol@gamma", "gamma", "qa", 1201),
    ),
    rejections=(),
    statements=(),
    rollout=RolloutFacts((), (), -1),
    requester=Requester("root", ("operator",), "socket"),
    system=SystemFacts(
        host="web1@acme",
        host_organisation="acme",
        host_group="fleet",
        target="app",
        tree_digest="4c" * 32,
        drifted=False,
        frozen=False,
        in_maintenance_window=True,
        installed=("5b" * 32,),
        emergencies=(),
        replica_age_ms=1000,
        replica_age_ms_max=60_000,
        records_waiting=0,
    ),
)
"""A security update with two independent approvals; the default policy set allows it."""

FULL_FACTS: Final = replace(
    SAMPLE_FACTS,
    rejections=(AttestorFacts("erin@beta", "beta", "compliance", 1202),),
    statements=(
        StatementFacts(
            identity="scan@beta",
            organisation="beta",
            role="vulnerability-scan",
            predicate_type=PREDICATE_VULNS,
            recorded_height=1203,
            readable=True,
            findings=(FindingFacts("CVE-2026-0002", "high"), FindingFacts("CVE-2026-0003", "unknown")),
            properties=(),
        ),
        StatementFacts(
            identity="verifier@gamma",
            organisation="gamma",
            role="verification",
            predicate_type=PREDICATE_SVR,
            recorded_height=1204,
            readable=True,
            findings=(),
            properties=("SLSA_BUILD_LEVEL_3",),
        ),
    ),
    rollout=RolloutFacts(("canary1@acme",), ("canary2@acme",), 1_795_320_000_000),
    system=replace(SAMPLE_FACTS.system, emergencies=(EmergencyFacts("5b" * 32, 1_795_000_000_000),)),
)
"""Facts in which every list has a member, so that every part of a policy is tried out before the set is used."""
