"""What policies read of others' predicate types: findings of a vulnerability scan, properties that a verifier vouches for.

==========================================  ==============================================================================
predicate type                              what is read
==========================================  ==============================================================================
in-toto ``vulns/v0.2``                      `scanner.result`: each finding's id and its worst severity
in-toto ``svr/v0.1``                        `properties`
SLSA ``verification_summary/v1``            `verifiedLevels`, when `verificationResult` is PASSED
==========================================  ==============================================================================

A statement of one of these types whose read members do not have their form is refused where it is made, appended or recorded, so that no
policy ever meets one. Other members are the verifier's own affair.

Source: docs/spec/patch-file.md 6; in-toto predicates vulns v0.2 and svr v0.1; SLSA verification summary v1; CVSS v3.1 section 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provenance.limits import FINDING_ID_BYTES_MAX, FINDINGS_MAX, PREDICATE_TYPE_BYTES_MAX, PROPERTIES_MAX
from provenance.members import read_line, read_list, refuse_field

PREDICATE_VULNS: Final = "https://in-toto.io/attestation/vulns/v0.2"
PREDICATE_SVR: Final = "https://in-toto.io/attestation/svr/v0.1"
PREDICATE_VSA: Final = "https://slsa.dev/verification_summary/v1"

SEVERITIES: Final = ("unknown", "none", "low", "medium", "high", "critical")
"""Of a finding, the mildest first; `unknown` is where no score can be read, and counts as no judgement at all."""

_WORDS: Final[Mapping[str, str]] = {
    "critical": "critical",
    "high": "high",
    "important": "high",
    "medium": "medium",
    "moderate": "medium",
    "low": "low",
    "minor": "low",
    "negligible": "low",
    "none": "none",
}
_SCORE: Final = re.compile(r"(?P<whole>[0-9]|10)(?:\.(?P<tenth>[0-9]))?", re.ASCII)
_BANDS: Final = ((90, "critical"), (70, "high"), (40, "medium"), (1, "low"), (0, "none"))
"""Lowest score, in tenths, of each severity: the qualitative scale of CVSS v3.1."""
_SCORE_TENTHS_MAX: Final = 100
_SCORES_MAX: Final = 16
"""Scores of one finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One vulnerability that a scanner reports."""

    finding_id: str
    """Such as ``CVE-2026-0001``."""
    severity: str
    """One of `SEVERITIES`: the worst of the scores given."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What policies may see of one predicate."""

    findings: tuple[Finding, ...] = ()
    """Of a scan, in order of id, each id once with its worst severity."""
    properties: tuple[str, ...] = ()
    """Of a verification, in order, without repeats."""


def read_predicate_untrusted(predicate_type: str, predicate: Mapping[str, object]) -> Reading:
    """Return what policies may see of a predicate; nothing of types that this module does not know.

    Raises:
        InvalidMetadataError: ``provenance.field.*``.
    """
    if predicate_type == PREDICATE_VULNS:
        return Reading(findings=_read_scan(predicate))
    if predicate_type == PREDICATE_SVR:
        verifier = _object(predicate.get("verifier"), "predicate.verifier")
        read_line(verifier.get("id"), "predicate.verifier.id", PREDICATE_TYPE_BYTES_MAX)
        return Reading(properties=_read_properties(predicate.get("properties"), "predicate.properties"))
    if predicate_type == PREDICATE_VSA:
        levels = _read_properties(predicate.get("verifiedLevels", []), "predicate.verifiedLevels")
        return Reading(properties=levels if predicate.get("verificationResult") == "PASSED" else ())
    return Reading()


def severity_of(score: str) -> str:
    """Return the severity that a score names: a word, or a CVSS score from 0.0 to 10.0; ``unknown`` for anything else."""
    text = score.strip().lower()
    if text in _WORDS:
        return _WORDS[text]
    match = _SCORE.fullmatch(text)
    if match is None:
        return "unknown"
    tenths = int(match["whole"]) * 10 + int(match["tenth"] or "0")
    if tenths > _SCORE_TENTHS_MAX:
        return "unknown"
    return next(name for least, name in _BANDS if tenths >= least)


def _read_scan(predicate: Mapping[str, object]) -> tuple[Finding, ...]:
    scanner = _object(predicate.get("scanner"), "predicate.scanner")
    read_line(scanner.get("uri"), "predicate.scanner.uri", PREDICATE_TYPE_BYTES_MAX)
    worst: dict[str, str] = {}
    for index, item in enumerate(read_list(scanner.get("result"), "predicate.scanner.result", FINDINGS_MAX)):
        name = f"predicate.scanner.result[{index}]"
        members = _object(item, name)
        finding_id = read_line(members.get("id"), f"{name}.id", FINDING_ID_BYTES_MAX)
        severity = worst.get(finding_id, SEVERITIES[0])
        for score in read_list(members.get("severity"), f"{name}.severity", _SCORES_MAX):
            text = _object(score, f"{name}.severity").get("score")
            if not isinstance(text, str):
                raise refuse_field("text", f"{name}.severity.score", "is not a text", "a text", type(text).__name__)
            severity = max(severity, severity_of(text), key=SEVERITIES.index)
        worst[finding_id] = severity
    return tuple(Finding(each, worst[each]) for each in sorted(worst))


def _read_properties(value: object, name: str) -> tuple[str, ...]:
    texts = [read_line(each, name, PREDICATE_TYPE_BYTES_MAX) for each in read_list(value, name, PROPERTIES_MAX)]
    return tuple(sorted(set(texts)))


def _object(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise refuse_field("object", name, "is not an object", "an object", type(value).__name__)
    return value
